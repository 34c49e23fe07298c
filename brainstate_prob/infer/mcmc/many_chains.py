"""Samplers for many chains in one vectorized program, for accelerators: ChEES, MEADS and MCLMC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.mcmc.kernel import Settings, nuts_starts
from brainstate_prob.infer.mcmc.many_chain_kernels import KERNELS
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.algorithm import Algorithm
from brainstate_prob.infer.run.driver import Phase
from brainstate_prob.infer.run.members import plain_types
from brainstate_prob.infer.run.optional import import_blackjax
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.run.sampling import Run, sample
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.target import Target

__all__ = ['chees', 'mclmc', 'meads']

_FOLDS = 4  # of MEADS


@named
def chees(
    posterior: Posterior,
    *,
    num_warmup: int = 500,
    num_samples: int = 500,
    num_chains: int = 64,
    init: Any = 'model',
    noncentered: Any = 'auto',
    target_accept: float = 0.651,
    thinning: int = 1,
    seed: Any = 0,
    devices: Any = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample with ChEES-HMC (Hoffman, Radul & Sountsov 2021): HMC whose trajectories are tuned over many chains.

    All chains take equally many gradients, so on an accelerator hundreds cost hardly more than one; NUTS' chains would
    wait for the longest tree. A second call for a model of the same structure with other data of the same shape,
    another seed or more samples compiles nothing; another ``num_warmup`` or ``num_chains`` does.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        Steps of the warm-up and after it, of each of the chains, at least two, better dozens.
    init, noncentered
        As for `nuts`.
    target_accept
        The acceptance rate (a harmonic mean over chains) that the step size is adapted to.
    thinning
        Keep every ``thinning``-th draw, ``num_samples // thinning`` of each chain.
    seed
        An int or a key.
    devices
        Devices to spread the chains over, their number, or a Mesh; they divide the number of chains. Default: one.
    checkpoint, checkpoint_every
        As for `nuts`, but from the end of the warm-up on, which is one program: what is killed in it begins anew.
    progress
        Show progress bars.

    Returns
    -------
    Fit
        With ``stats`` lp, energy, acceptance_rate, n_steps and diverging; problems of the run are issued as
        `ConvergenceWarning` and kept in ``info['warnings']``.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, starts without finite density, bad numbers; for the checkpoint of another
        run.
    ImportError
        Without BlackJAX: ``pip install 'brainstate-prob[samplers]'``.

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
    >>> fit = infer.chees(posterior, num_warmup=200, num_samples=100, num_chains=16, progress=False)
    >>> fit.draws['mu'].shape, bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.15)
    ((16, 100), True)
    """
    options = RunOptions.of(chees, locals())
    return _sample(posterior, 'chees', options, {'target_accept': target_accept})


@named
def meads(
    posterior: Posterior,
    *,
    num_warmup: int = 2000,
    num_samples: int = 2000,
    num_chains: int = 64,
    init: Any = 'model',
    noncentered: Any = 'auto',
    thinning: int = 4,
    seed: Any = 0,
    devices: Any = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample with MEADS (Hoffman & Sountsov 2022): generalized HMC, one gradient a step, tuned over folds of chains.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        As for `chees`; ``num_chains`` is a multiple of 4. A step is one gradient, so it takes more of them.
    seed, init, noncentered, thinning, devices, checkpoint, checkpoint_every, progress
        As for `chees`.

    Returns
    -------
    Fit
        With ``stats`` lp, energy, n_steps and diverging.

    Raises
    ------
    ValueError, ImportError
        As `chees`.
    """
    options = RunOptions.of(meads, locals())
    if num_chains % _FOLDS or num_chains < 2 * _FOLDS:
        raise ValueError(
            f'num_chains of MEADS, which tunes each of {_FOLDS} folds of chains by the others, must be a multiple of '
            f'{_FOLDS} and at least {2 * _FOLDS}, got {num_chains}.'
        )
    return _sample(posterior, 'meads', options, {})


@named
def mclmc(
    posterior: Posterior,
    *,
    num_warmup: int = 2000,
    num_samples: int = 2000,
    num_chains: int = 16,
    init: Any = 'model',
    noncentered: Any = 'auto',
    energy_variance: float = 5e-4,
    thinning: int = 4,
    seed: Any = 0,
    devices: Any = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample with microcanonical Langevin Monte Carlo (Robnik et al. 2023), for many parameters.

    No step is ever rejected, so the draws have a bias that falls with ``energy_variance``; compare with `nuts` where it
    matters. Step size, trajectory length and variances are tuned in each chain, and their medians serve all chains.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        As for `chees`; at least 100 of the first. A step is two gradients.
    energy_variance
        The variance of the energy error, a parameter, that the step size is tuned to.
    seed, init, noncentered, thinning, devices, checkpoint, checkpoint_every, progress
        As for `chees`.

    Returns
    -------
    Fit
        With ``stats`` lp, n_steps (gradients) and diverging (a step that ended nowhere and was undone).

    Raises
    ------
    ValueError
        As `chees`; for a single parameter, since it moves on a sphere of directions.
    ImportError
        Without BlackJAX.
    """
    options = RunOptions.of(mclmc, locals())
    if num_warmup < 100:
        raise ValueError(f'num_warmup of MCLMC, which estimates autocorrelations, must be at least 100: {num_warmup}.')
    if posterior.sampling_target(False).size < 2:
        raise ValueError(
            'MCLMC moves in a direction on the sphere, which takes at least two numbers; this posterior has one. Use '
            'infer.nuts.'
        )
    return _sample(posterior, 'mclmc', options, {'energy_variance': float(energy_variance)})


class _Chains(NamedTuple):
    """All chains, their tuned parameters, and the report of the warm-up."""

    state: Any
    parameters: Any
    report: dict[str, jax.Array]


def _sample(posterior: Posterior, name: str, options: RunOptions, tuned: dict[str, float]) -> Fit:
    if options.num_warmup < 1 or options.num_chains < 2:
        raise ValueError(
            f'{name} adapts over chains in its warm-up: num_warmup must be at least 1 and num_chains at least 2, got '
            f'num_warmup={options.num_warmup}, num_chains={options.num_chains}.'
        )
    import_blackjax()
    kernel = KERNELS[name]

    def step(density: Density) -> Callable:
        move = kernel.step(density)

        def run(chains: _Chains, data: Data, action: jax.Array) -> tuple:
            state, theta, stats = move(chains.state, data, chains.parameters)
            return chains._replace(state=state), theta, stats

        return run

    def warm_up(target: Target) -> Callable:
        density, settings = target.density, (name, options.num_warmup, *tuned.values())
        return density.jit(
            _warm_up_function, settings, lambda: _warm_up_function(kernel.warm_up(density, *settings[1:]))
        )

    def blank(target: Target, options: RunOptions) -> _Chains:
        """Placeholders with the shapes after the warm-up."""
        theta = jax.ShapeDtypeStruct((options.num_chains, target.size), jnp.result_type(float))
        shapes = jax.eval_shape(warm_up(target), options.keys(target)[1], theta, target.data)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def phases(run: Run) -> None:
        target, chains = run.target, run.runner

        def all_steps(done: int, length: int) -> tuple:
            keys = options.keys(target)
            thetas = chains.spread(nuts_starts(Settings()).at(target, options.init, keys).theta)
            chains.take(warm_up(target)(keys[1], thetas, target.data))
            return np.zeros((options.num_chains, length, 0)), {}

        run.driver.go(Phase('warm-up', 'Warm-up', options.num_warmup, all_steps, at_once=True))
        run.info |= {name: float(x) for name, x in chains.state().report.items()}
        run.draw()

    algorithm = Algorithm(
        name=name,
        init=blank,
        step=step,
        stats=kernel.stats,
        settings={'blackjax': import_blackjax().__version__},
        numbers=tuned,
        arguments=(),
        phases=phases,
        together=True,
    )
    return sample(options.target(posterior), algorithm, options)


def _warm_up_function(run: Callable) -> Callable:
    def warm_up(keys: jax.Array, thetas: jax.Array, data: Data) -> _Chains:
        states, parameters, report = run(keys[0], thetas, data)
        return plain_types(_Chains((states, keys[1]), parameters, report))

    return warm_up
