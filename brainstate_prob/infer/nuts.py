"""NUTS: draws from the posterior by the No-U-Turn sampler of NumPyro, BlackJAX or nutpie on the flat log density."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from brainstate_prob.infer.adaptation import WARMUPS, schedule
from brainstate_prob.infer.backends import BACKENDS, check_installed
from brainstate_prob.infer.chain_starts import started_chains
from brainstate_prob.infer.chains import Runner, choose_method
from brainstate_prob.infer.density import Density
from brainstate_prob.infer.diagnostics import mcmc_problems, warn_of
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.kernel import Settings, advance_function, buffer_length
from brainstate_prob.infer.metric import MASS_MATRICES
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.progress import Chunks
from brainstate_prob.infer.start import to_key

__all__ = ['nuts']

_SECONDS_A_CHUNK = 1.0  # how long the progress bar may stand still


def nuts(
    posterior: Posterior,
    *,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    seed: Any = 0,
    init: Any = 'model',
    noncentered: Any = True,
    mass_matrix: str = 'diagonal',
    warmup: str | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    thinning: int = 1,
    backend: str = 'numpyro',
    chain_method: str | None = None,
    devices: Sequence[Any] | None = None,
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
    seed
        An int or a key. The same seed gives the same draws: bit for bit in threads or one after another, up to rounding
        (which grows along a chain) if vectorized or over devices. They do not depend on how many chains there are.
    init
        ``'model'``: the model's present theta plus Uniform(-1, 1), redrawn nearer where the density is not finite;
        ``'map'``: the mode of theta's density, plus Uniform(-0.1, 0.1); ``'pathfinder'``: a draw of BlackJAX's
        Pathfinder for each chain, from a start as of ``'model'``; ``'prior'``: draws from the priors; a `Fit`: draws of it; an
        array of theta, shape (size,) or (num_chains, size).
    noncentered
        Which hierarchical parameters are moved in standardized form: True (all), False, a dotted path, a list of these
        or a filter; see `Posterior.sampling_density_for`.
    mass_matrix
        ``'diagonal'``; ``'dense'``, for a few correlated parameters; ``'low_rank'``: diagonal and the directions in
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
        Keep every so-manieth of the ``num_samples`` draws. Of the steps between, ``n_steps`` is the sum and
        ``diverging`` tells whether any did.
    backend
        Whose transition: ``'numpyro'``, ``'blackjax'``, or ``'nutpie'``. The last one is no JAX program and calls the
        density from Python at each gradient, 40 to 180 microseconds: fit for costly densities only.
    chain_method
        ``'parallel'`` (on a CPU one thread a chain; else spread over the devices), ``'vectorized'`` (one program),
        ``'sequential'``. None: parallel on a CPU with several cores, vectorized on an accelerator.
    devices
        Spread the chains over these devices.
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
        together.
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
    _check_numbers(
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        max_tree_depth=max_tree_depth,
        thinning=thinning,
    )
    if not 0 < target_accept < 1:
        raise ValueError(f'target_accept is an acceptance rate between 0 and 1, got {target_accept}.')
    if thinning > num_samples:
        raise ValueError(f'thinning={thinning} keeps none of num_samples={num_samples} draws. Lower it.')
    settings = _settings_of(backend, mass_matrix, warmup, int(max_tree_depth))
    check_installed(backend)
    density = posterior.sampling_density_for(noncentered)
    began = time.perf_counter()
    plan = _Plan(posterior, density, settings, num_chains, init, to_key(seed), float(target_accept), progress)
    if backend == 'nutpie':
        if devices is not None or chain_method not in (None, 'parallel', 'sequential'):
            raise ValueError(
                "backend='nutpie' runs chains in threads or one after another: chain_method=None, 'parallel' or "
                f"'sequential', no devices, got chain_method={chain_method!r}, devices={devices!r}."
            )
        from brainstate_prob.infer.backends.nutpie import sample

        draws, stats, found = sample(plan, num_warmup, num_samples, thinning, chain_method)
    else:
        draws, stats, found = _sample(plan, num_warmup, num_samples, thinning, chain_method, devices)
    problems = found.pop('problems', []) + mcmc_problems(
        density, draws, stats, max_tree_depth=max_tree_depth, target_accept=target_accept
    )
    info = {
        'backend': backend,
        'num_warmup': num_warmup,
        'num_samples': num_samples,
        'thinning': thinning,
        'mass_matrix': mass_matrix,
        'warmup': settings.warmup,
        'noncentered': list(density.noncentered),
        'target_accept': target_accept,
        'divergences': int(stats['diverging'].sum()),
        'warnings': problems,
        **found,
        'seconds': time.perf_counter() - began,
    }
    fit = Fit(posterior, density, draws, method='nuts', stats=stats, info=info)
    warn_of(problems, stacklevel=3)
    return fit


def _settings_of(backend: str, mass_matrix: str, warmup: str | None, max_tree_depth: int) -> Settings:
    for name, value, allowed in (('backend', backend, BACKENDS), ('mass_matrix', mass_matrix, MASS_MATRICES)):
        if value not in allowed:
            raise ValueError(f'{name} must be one of {list(allowed)}, got {value!r}.')
    if warmup not in (None, *WARMUPS):
        raise ValueError(f'warmup must be one of {list(WARMUPS)} or None, got {warmup!r}.')
    by_gradients = mass_matrix == 'low_rank' or backend == 'nutpie'
    if by_gradients and warmup == 'stan':
        what = "mass_matrix='low_rank'" if mass_matrix == 'low_rank' else "backend='nutpie'"
        raise ValueError(f"{what} is adapted by gradients only: use warmup='gradient' or leave it out.")
    if mass_matrix == 'dense' and (by_gradients or warmup == 'gradient'):
        what = "backend='nutpie'" if backend == 'nutpie' else "warmup='gradient'"
        raise ValueError(f"{what} adapts no dense mass matrix. Use mass_matrix='low_rank', or warmup='stan'.")
    return Settings(backend, mass_matrix, warmup or ('gradient' if by_gradients else 'stan'), max_tree_depth)


class _Plan(NamedTuple):
    """What every backend needs."""

    posterior: Posterior
    density: Density
    settings: Settings
    num_chains: int
    init: Any
    key: jax.Array
    target_accept: float
    progress: bool

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """A key for the start and one for the run of each chain."""
        return self.density.jit('chain_keys', None, lambda: _chain_keys)(self.key, np.arange(self.num_chains))


def _sample(
    plan: _Plan, num_warmup: int, num_samples: int, thinning: int, chain_method: str | None, devices: Any
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Draws, statistics and what to report, by the compiled loop."""
    began = time.perf_counter()
    method = choose_method(chain_method, devices, plan.num_chains)
    runner = _prepared(plan, method, devices)
    found: dict[str, Any] = {'chain_method': method, 'chains_ran': runner.description}
    found['preparation_seconds'] = time.perf_counter() - began
    run = _Run(runner, plan)
    _, last = run.go('Warm-up', schedule(num_warmup, plan.settings.warmup), num_warmup, 1)
    found['warmup_gradients'] = run.gradients
    if plan.settings.mass_matrix == 'low_rank' and (harm := _harm(last)):
        found['mass_matrix'] = 'diagonal'
        found['problems'] = [
            f'The low-rank mass matrix harms here ({harm}): the chains were warmed up again with a diagonal one. Use '
            "mass_matrix='diagonal' from the start; a funnel or several scales in one direction is what it cannot fit."
        ]
        plan = plan._replace(
            settings=plan.settings._replace(mass_matrix='diagonal'),
            init=np.asarray(runner.state().theta),
            key=jax.random.fold_in(plan.key, 1),
        )
        run = _Run(_prepared(plan, method, devices), plan)
        run.go('Warm-up', schedule(num_warmup, plan.settings.warmup), num_warmup, 1)
        found['warmup_gradients'] += run.gradients
    draws, stats = run.go('Sampling', None, num_samples // thinning, thinning)
    return draws, stats, found


_MOST_APART = 5.0  # step sizes of chains that see one posterior differ by less
_MOST_DIVERGENT = 0.02


def _harm(stats: dict[str, np.ndarray]) -> str:
    """What the end of a warm-up says against its mass matrix; nothing if all is well."""
    step = stats['step_size'][:, -1]
    late = slice(-max(10, stats['diverging'].shape[1] // 10), None)
    share = stats['diverging'][:, late].mean()
    if share > _MOST_DIVERGENT:
        return f'{100 * share:.2g} % of the last transitions of the warm-up diverged'
    if step.max() > _MOST_APART * step.min():
        return f'the step sizes of the chains lie between {step.min():.2g} and {step.max():.2g}'
    return ''


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f'{name} must be an int, got {value!r}.')
        if value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}.')


def _prepared(plan: _Plan, method: str, devices: Sequence[Any] | None) -> Runner:
    """The chains at their starts, and the program compiled."""
    density, settings, data = plan.density, plan.settings, plan.posterior.data
    states = started_chains(plan.posterior, density, settings, plan.init, plan.keys())
    advance = advance_function(density, settings)
    runner = Runner(density.jit, ('nuts', settings), advance, method, devices, plan.num_chains)
    runner.prepare(states, data, np.zeros(buffer_length(density), np.int32), 0, 1, 0.5)
    return runner


def _chain_keys(key: jax.Array, chains: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A key for the start and one for the run of each chain; chain i's do not depend on the number of chains."""
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(chains)
    return keys[:, 0], keys[:, 1]


class _Run:
    """The host's loop: chunks of transitions of all chains, as long as a progress bar may stand still."""

    def __init__(self, runner: Runner, plan: _Plan):
        self._runner, self._data, self._buffer = runner, plan.posterior.data, buffer_length(plan.density)
        self._target, self._progress = plan.target_accept, plan.progress
        self._length = min(10, self._buffer)
        self.gradients = 0

    def go(self, description: str, codes: np.ndarray | None, total: int, thinning: int) -> tuple[np.ndarray, dict]:
        """Run ``total`` kept draws; of the warm-up (``codes``) the statistics alone are collected."""
        pieces: list[np.ndarray] = []
        collected: list[dict[str, np.ndarray]] = []
        done = divergences = 0
        chunks = Chunks(total, self._length, description, self._progress)
        for length in chunks:
            padded = np.zeros(self._buffer, np.int32)
            if codes is not None:
                padded[:length] = codes[done : done + length]
            began = time.perf_counter()
            draws, stats = self._runner.step(self._data, padded, length, thinning, self._target)
            self._adjust(length, time.perf_counter() - began)
            chunks.size = self._length
            collected.append({name: values[:, :length].copy() for name, values in stats.items()})
            if codes is None:
                pieces.append(draws[:, :length].copy())
            done += length
            self.gradients += int(collected[-1]['n_steps'].sum())
            divergences += int(collected[-1]['diverging'].sum())
            step = np.median(collected[-1]['step_size'][:, -1])
            chunks.note(divergences=str(divergences), step_size=f'{step:.2g}')
        stats = {name: np.concatenate([s[name] for s in collected], axis=1) for name in collected[0]}
        return np.concatenate(pieces, axis=1) if pieces else np.zeros(0), stats

    def _adjust(self, length: int, seconds: float) -> None:
        wanted = length * _SECONDS_A_CHUNK / max(seconds, 1e-6)
        self._length = int(np.clip(wanted, 1, min(10 * length, self._buffer)))
