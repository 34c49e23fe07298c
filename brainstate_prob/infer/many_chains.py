"""Samplers for many chains in one vectorized program, as an accelerator likes them: ChEES, MEADS and MCLMC."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from brainstate_prob.infer.backends.blackjax import import_blackjax
from brainstate_prob.infer.chain_loop import (
    check_counts,
    chunk_length,
    collect,
    keys_of_chains,
    problems_of,
    stretch_function,
)
from brainstate_prob.infer.chain_starts import started_chains
from brainstate_prob.infer.diagnostics import warn_of
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.kernel import Settings
from brainstate_prob.infer.many_chain_kernels import ALGORITHMS
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.start import to_key

__all__ = ['chees', 'mclmc', 'meads']

_FOLDS = 4  # of MEADS


def chees(
    posterior: Posterior,
    *,
    num_warmup: int = 500,
    num_samples: int = 500,
    num_chains: int = 64,
    seed: Any = 0,
    init: Any = 'model',
    noncentered: Any = True,
    target_accept: float = 0.651,
    thinning: int = 1,
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
    seed
        An int or a key.
    init, noncentered
        As for `nuts`.
    target_accept
        The acceptance rate (a harmonic mean over chains) that the step size is adapted to.
    thinning
        Keep every so-manieth draw.
    progress
        Show a progress bar of the sampling.

    Returns
    -------
    Fit
        With ``stats`` lp, energy, acceptance_rate, n_steps and diverging; problems of the run are issued as
        `ConvergenceWarning` and kept in ``info['warnings']``.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, starts without finite density, bad numbers.
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
    if not 0 < target_accept < 1:
        raise ValueError(f'target_accept is an acceptance rate between 0 and 1, got {target_accept}.')
    counts = {'num_warmup': num_warmup, 'num_samples': num_samples, 'num_chains': num_chains, 'thinning': thinning}
    return _sample(posterior, 'chees', counts, seed, init, noncentered, target_accept, progress)


def meads(
    posterior: Posterior,
    *,
    num_warmup: int = 2000,
    num_samples: int = 2000,
    num_chains: int = 64,
    seed: Any = 0,
    init: Any = 'model',
    noncentered: Any = True,
    thinning: int = 4,
    progress: bool = True,
) -> Fit:
    """Sample with MEADS (Hoffman & Sountsov 2022): generalized HMC, one gradient a step, tuned over folds of chains.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        As for `chees`; ``num_chains`` is a multiple of 4. A step is one gradient, so it takes more of them.
    seed, init, noncentered, thinning, progress
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
    check_counts(num_chains=num_chains)
    if num_chains % _FOLDS or num_chains < 2 * _FOLDS:
        raise ValueError(
            f'num_chains of MEADS, which tunes each of {_FOLDS} folds of chains by the others, must be a multiple of '
            f'{_FOLDS} and at least {2 * _FOLDS}, got {num_chains}.'
        )
    counts = {'num_warmup': num_warmup, 'num_samples': num_samples, 'num_chains': num_chains, 'thinning': thinning}
    return _sample(posterior, 'meads', counts, seed, init, noncentered, 0.0, progress)


def mclmc(
    posterior: Posterior,
    *,
    num_warmup: int = 2000,
    num_samples: int = 2000,
    num_chains: int = 16,
    seed: Any = 0,
    init: Any = 'model',
    noncentered: Any = True,
    energy_variance: float = 5e-4,
    thinning: int = 4,
    progress: bool = True,
) -> Fit:
    """Sample with microcanonical Langevin Monte Carlo (Robnik et al. 2023), for many parameters.

    No step is ever rejected, so the draws have a bias that falls with ``energy_variance``; compare with `nuts` where it
    matters. Step size, trajectory length and variances are tuned in each chain, and their medians serve all chains.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        As for `chees`; at least 100 of the first. A step is two gradients.
    seed, init, noncentered, thinning, progress
        As for `chees`.
    energy_variance
        The variance of the energy error, a parameter, that the step size is tuned to.

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
    if not energy_variance > 0:
        raise ValueError(f'energy_variance must be positive, got {energy_variance}.')
    check_counts(num_warmup=num_warmup)
    if num_warmup < 100:
        raise ValueError(f'num_warmup of MCLMC, which estimates autocorrelations, must be at least 100: {num_warmup}.')
    if posterior.sampling_density_for(noncentered).size < 2:
        raise ValueError(
            'MCLMC moves in a direction on the sphere, which takes at least two numbers; this posterior has one. Use '
            'infer.nuts.'
        )
    counts = {'num_warmup': num_warmup, 'num_samples': num_samples, 'num_chains': num_chains, 'thinning': thinning}
    return _sample(posterior, 'mclmc', counts, seed, init, noncentered, float(energy_variance), progress)


def _sample(
    posterior: Posterior,
    method: str,
    counts: dict[str, int],
    seed: Any,
    init: Any,
    noncentered: Any,
    target: float,
    progress: bool,
) -> Fit:
    check_counts(**counts)
    if counts['num_warmup'] < 1 or counts['num_chains'] < 2:
        raise ValueError(
            f'{method} adapts over chains in its warm-up: num_warmup must be at least 1 and num_chains at least 2, got '
            f'num_warmup={counts["num_warmup"]}, num_chains={counts["num_chains"]}.'
        )
    import_blackjax()
    algorithm, num_chains, thinning = ALGORITHMS[method], counts['num_chains'], counts['thinning']
    density, data = posterior.sampling_density_for(noncentered), posterior.data
    began = time.perf_counter()
    start_keys, keys = keys_of_chains(density, to_key(seed), num_chains)
    thetas = started_chains(posterior, density, Settings(), init, (start_keys, keys)).theta
    settings = (method, counts['num_warmup'], target)
    warm_up = density.jit('warm_up', settings, lambda: algorithm.warm_up(density, counts['num_warmup'], target))
    states, parameters, told = jax.block_until_ready(warm_up(keys[0], thetas, data))
    state = (states, keys[1])
    stretch = stretch_function(density, algorithm.step(density), algorithm.stats, (num_chains,))
    advance = density.jit('many_chains', (method, num_chains), lambda: stretch)

    def run(length: int) -> tuple:
        nonlocal state
        state, draws, stats = advance(state, data, length, thinning, parameters)
        return np.swapaxes(draws, 0, 1), {name: np.swapaxes(x, 0, 1) for name, x in stats.items()}

    kept = counts['num_samples'] // thinning
    draws, stats = collect(run, kept, chunk_length(density, num_chains), 'Sampling', progress)
    problems = problems_of(density, draws, stats, target_accept=target)
    info = {
        **counts,
        **{name: float(x) for name, x in told.items()},
        'chain_method': 'vectorized',
        'noncentered': list(density.noncentered),
        'warnings': problems,
        'seconds': time.perf_counter() - began,
    }
    fit = Fit(posterior, density, draws, method=method, stats=stats, info=info)
    warn_of(problems, stacklevel=4)
    return fit
