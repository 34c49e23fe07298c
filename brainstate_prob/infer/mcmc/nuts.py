"""NUTS: draws from the posterior by the No-U-Turn sampler of NumPyro, BlackJAX or nutpie on the flat log density."""

from __future__ import annotations

from typing import Any

from brainstate_prob.core.calls import named
from brainstate_prob.infer.mcmc.adaptation import WARMUPS, schedule
from brainstate_prob.infer.mcmc.backends import BACKENDS, check_installed
from brainstate_prob.infer.mcmc.kernel import STATS, Settings, nuts_starts, nuts_step
from brainstate_prob.infer.mcmc.metric import MASS_MATRICES
from brainstate_prob.infer.mcmc.nutpie import sample_by_nutpie
from brainstate_prob.infer.mcmc.nuts_phases import nuts_phases
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import choice, count
from brainstate_prob.infer.run.algorithm import Algorithm
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.run.sampling import sample
from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['nuts']


@named
def nuts(
    posterior: Posterior,
    *,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    init: Any = 'model',
    noncentered: Any = 'auto',
    mass_matrix: str = 'diagonal',
    warmup: str | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    thinning: int = 1,
    backend: str = 'numpyro',
    seed: Any = 0,
    devices: Any = None,
    chain_method: str | None = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample the posterior with NUTS.

    Each chain takes ``num_warmup`` steps to adapt its step size and mass matrix and then ``num_samples`` steps. A
    second call for a model of the same structure, whatever its data (of the same shape), seed and numbers of steps,
    compiles nothing.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        Steps of the warm-up and after it, of each chain.
    init
        ``'model'``: the model's present theta plus Uniform(-1, 1), redrawn nearer where the density is not finite;
        ``'map'``: the mode of theta's density, plus Uniform(-0.1, 0.1); ``'pathfinder'``: a draw of BlackJAX's
        Pathfinder for each chain, from a start as of ``'model'``; ``'prior'``: draws from the priors; a `Fit`: draws
        of it, with its running statistics; values by path, ``{'a': 1.0}``, the rest from the model; an array of theta,
        shape (size,) or (num_chains, size); a function that builds the model anew.
    noncentered
        Which hierarchical parameters are moved in standardized form: ``'auto'`` (those, or those of their numbers,
        about which the data say less than the prior does, by a short descent before the run), True (all), False (none),
        a dotted path, a list of these or a filter; see `Posterior.sampling_target`. ``info['noncentered']`` has
        what was chosen, by path.
    mass_matrix
        ``'diagonal'``; ``'full'``, for a few correlated parameters; ``'low_rank'``: diagonal and the directions in
        which that is most wrong, for many. Where the chains' step sizes show that a low-rank matrix harms, they are
        warmed up again with a diagonal one, and ``info['mass_matrix']`` and a warning say so.
    warmup
        ``'stan'``: windows of growing length, variances of the draws. ``'gradient'`` (as nutpie does it): variances of
        draws and gradients, from the first steps on; it needs fewer gradients. Default: ``'stan'``, but ``'gradient'``
        for a low-rank matrix and for nutpie, which have no other.
    target_accept
        The acceptance rate that the step size is adapted to. Higher: smaller steps, fewer divergences.
    max_tree_depth
        A trajectory has at most ``2 ** max_tree_depth - 1`` steps.
    thinning
        Keep every ``thinning``-th draw, ``num_samples // thinning`` of each chain. Of the steps between, ``n_steps`` is
        the sum and ``diverging`` tells whether any did.
    backend
        Whose transition: ``'numpyro'``, ``'blackjax'``, or ``'nutpie'``. The last one is no JAX program and calls the
        density from Python at each gradient, 40 to 180 microseconds: fit for costly densities only.
    seed
        An int or a key. The same seed gives the same draws: bit for bit in threads, one after another and, on a CPU,
        over devices (docs/scaling.md has the exception); up to rounding, which grows along a chain, if vectorized. They
        do not depend on how many chains there are.
    devices
        Spread the chains over these devices, the first so many, or those of a Mesh.
    chain_method
        ``'parallel'`` (on a CPU one thread a chain; else spread over the devices), ``'vectorized'`` (one program),
        ``'sequential'``. None: parallel on a CPU with several cores, vectorized on an accelerator.
    checkpoint, checkpoint_every
        Save to this file every so many steps of each chain, warm-up included, and go on from it if it exists: the draws
        are those of an uninterrupted run, bit for bit. With more ``num_samples`` a finished run goes on.
    progress
        Show progress bars.

    Returns
    -------
    Fit
        With ``stats`` lp, energy, acceptance_rate, step_size, n_steps, tree_depth and diverging. Problems of the run
        are issued as `ConvergenceWarning` and kept in ``fit.info['warnings']``.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, starts without finite density, options that are not there or do not go
        together, the checkpoint of another run.
    ImportError
        Where the backend is not installed.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> fit = infer.nuts(posterior, num_warmup=300, num_samples=500, progress=False)
    >>> fit.draws['mu'].shape, bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.1)
    ((4, 500), True)
    """
    options = RunOptions.of(
        nuts,
        locals(),
        backend=choice(*BACKENDS),
        mass_matrix=choice(*MASS_MATRICES),
        warmup=choice(*WARMUPS, none=True),
        num_warmup=count(),
    )
    settings = _settings_of(backend, mass_matrix, warmup, int(max_tree_depth))
    check_installed(backend)
    target = options.target(posterior)
    algorithm = Algorithm(
        name='nuts',
        init=nuts_starts(settings),
        step=lambda density: nuts_step(density, settings),
        stats=STATS,
        settings=settings._asdict(),
        numbers={'target_accept': float(target_accept)},
        schedule=lambda num_warmup: schedule(num_warmup, settings.warmup),
        phases=nuts_phases,
        report=lambda stats: {'divergences': int(stats['diverging'].sum())},
    )
    return (sample_by_nutpie if backend == 'nutpie' else sample)(target, algorithm, options)


def _settings_of(backend: str, mass_matrix: str, warmup: str | None, max_tree_depth: int) -> Settings:
    by_gradients = mass_matrix == 'low_rank' or backend == 'nutpie'
    if by_gradients and warmup == 'stan':
        what = "mass_matrix='low_rank'" if mass_matrix == 'low_rank' else "backend='nutpie'"
        raise ValueError(f"{what} is adapted by gradients only: use warmup='gradient' or leave it out.")
    if mass_matrix == 'full' and (by_gradients or warmup == 'gradient'):
        what = "backend='nutpie'" if backend == 'nutpie' else "warmup='gradient'"
        raise ValueError(f"{what} adapts no dense mass matrix. Use mass_matrix='low_rank', or warmup='stan'.")
    return Settings(backend, mass_matrix, warmup or ('gradient' if by_gradients else 'stan'), max_tree_depth)
