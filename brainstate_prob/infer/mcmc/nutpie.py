"""nutpie's NUTS, which is written in Rust and calls the compiled density through Python at each gradient.

A gradient costs 40 to 180 microseconds more than within a compiled loop, which is negligible if the density takes
milliseconds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from brainstate_prob.infer.data.sharding import is_sharded
from brainstate_prob.infer.density.potential import potential_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.algorithm import Algorithm
from brainstate_prob.infer.run.chains import inherited_settings, num_cores
from brainstate_prob.infer.run.optional import import_nutpie
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.run.progress import Chunks
from brainstate_prob.infer.run.sampling import fit_of
from brainstate_prob.infer.target.target import Target

__all__ = ['sample_by_nutpie']

# The names of nutpie's statistics in ArviZ's sample_stats.
_STATS = {
    'lp': 'logp',
    'energy': 'energy',
    'acceptance_rate': 'mean_tree_accept',
    'step_size': 'step_size',
    'n_steps': 'n_steps',
    'diverging': 'diverging',
}


def sample_by_nutpie(target: Target, algorithm: Algorithm, options: RunOptions) -> Fit:
    """`sample` with nutpie's own loop.

    Raises
    ------
    ValueError
        For devices, checkpoints, and data that are spread over devices.
    """
    if options.devices is not None or options.chain_method not in (None, 'parallel', 'sequential'):
        raise ValueError(
            "backend='nutpie' runs chains in threads or one after another: chain_method=None, 'parallel' or "
            f"'sequential', no devices, got chain_method={options.chain_method!r}, devices={options.devices!r}."
        )
    if is_sharded(target.data):
        raise ValueError(
            "backend='nutpie' calls the density from its own threads, in any order, but the observations are "
            "spread over devices (posterior.shard), which compute it together. Use 'numpyro' or 'blackjax'."
        )
    if options.checkpoint is not None:
        raise ValueError("backend='nutpie' does not expose its state: checkpoints need 'numpyro' or 'blackjax'.")
    density, data, num_chains = target.density, target.data, options.num_chains
    chains = algorithm.init(target, options)
    starts = np.asarray(chains.theta, np.float64)
    keys = options.keys(target)[1]
    seeds = np.asarray(jax.vmap(lambda key: jax.random.randint(key, (), 0, 2**31 - 1))(keys))
    function = density.compiled(_potential_and_gradient)
    jax.block_until_ready(function(starts[0].astype(chains.theta.dtype), data))
    prepared = time.perf_counter() - options.began
    call = inherited_settings()

    def logp(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = call(function, theta.astype(chains.theta.dtype), data)
        return -float(value), -np.asarray(grad, np.float64)

    workers = 1 if options.chain_method == 'sequential' else min(num_chains, num_cores())
    settings = {
        'draws': options.num_samples,
        'tune': options.num_warmup,
        'low_rank_modified_mass_matrix': algorithm.settings['mass_matrix'] == 'low_rank',
        'maxdepth': algorithm.settings['max_tree_depth'],
        **algorithm.numbers,
    }
    bar = Chunks(num_chains, 1, 'Chains', options.progress)
    with ThreadPoolExecutor(workers) as pool:
        runs = [
            pool.submit(_chain, logp, start, int(seed), settings) for start, seed in zip(starts, seeds, strict=True)
        ]
        results = [run.result() for run, _ in zip(runs, bar, strict=True)]
    draws = np.stack([draws for draws, _, _ in results])
    stats = {name: np.stack([chain_stats[name] for _, chain_stats, _ in results]) for name in _STATS}
    stats['energy'] = stats['energy'].astype(float)
    thinning = options.thinning
    kept = options.num_draws * thinning
    blocks = {name: x[:, :kept].reshape(num_chains, -1, thinning) for name, x in stats.items()}
    stats = {name: x[..., -1] for name, x in blocks.items()}
    # Counted as by the other backends, with a last doubling that may have been discarded.
    stats['tree_depth'] = np.floor(np.log2(stats['n_steps'])).astype(int) + 1
    stats |= {'n_steps': blocks['n_steps'].sum(-1).astype(int), 'diverging': np.asarray(blocks['diverging'].any(-1))}
    info = {
        'chain_method': 'sequential' if workers == 1 else 'parallel',
        'chains_ran': 'one after another' if workers == 1 else f'in {workers} threads',
        'preparation_seconds': prepared,
        'warmup_gradients': sum(gradients for _, _, gradients in results),
    }
    draws = draws[:, :kept][:, thinning - 1 :: thinning].astype(density.dtype)
    return fit_of(target, algorithm, options, draws, stats, info, [])


def _potential_and_gradient(density: Any, theta: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(potential_of(density, data))(theta)


def _chain(
    logp: Callable, start: np.ndarray, seed: int, settings: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """One chain: in a run of its own, since nutpie chooses the seeds of chains within a run."""
    nutpie, compiled = import_nutpie()
    size = len(start)
    model = compiled.from_pyfunc(
        size,
        lambda: logp,
        lambda seed1, seed2, chain: lambda theta: {'theta': np.array(theta)},
        [np.dtype(np.float64)],
        [(size,)],
        ['theta'],
        make_initial_point_fn=lambda seed: start.copy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # from libraries that build nutpie's result
        trace = nutpie.sample(model, chains=1, cores=1, seed=seed, progress_bar=False, **settings)
    stats = {ours: np.asarray(trace['sample_stats'][theirs])[0] for ours, theirs in _STATS.items()}
    gradients = int(np.asarray(trace['warmup_sample_stats']['n_steps']).sum())
    return np.asarray(trace['posterior']['theta'])[0], stats, gradients
