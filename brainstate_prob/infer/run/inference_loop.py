"""The inference loop: any number of sampler steps in one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import buffer_length

__all__ = ['chunk_length', 'inference_loop']


def inference_loop(
    density: Density, step: Callable, stats: Mapping[str, Any], chains: tuple[int, ...] = ()
) -> Callable:
    """``advance(state, data, actions, length, thinning, *args) -> (state, draws, stats)`` of a sampler's step.

    The first ``length`` entries are filled; ``length`` and ``thinning`` are dynamic. Over the steps between kept draws
    ``n_steps`` is summed, and ``diverging`` is true if any step diverged.

    Parameters
    ----------
    step
        ``step(state, data, action, *args) -> (state, theta, stats)``.
    stats
        Their types by name.
    chains
        The leading shape of theta and statistics, where one state is that of all chains.
    """
    size = chunk_length(density, *chains)

    def advance(state: Any, data: Any, actions: Any, length: Any, thinning: Any, *args: Any) -> tuple:
        no_theta = jnp.zeros((*chains, density.size), density.dtype)
        no_stats = {name: jnp.zeros(chains, kind) for name, kind in stats.items()}

        def kept(i: Any, loop: tuple) -> tuple:
            def thin(_: Any, inner: tuple) -> tuple:
                state, _, before = inner
                state, theta, now = step(state, data, actions[i], *args)
                now = {name: jnp.asarray(now[name], none.dtype) for name, none in no_stats.items()}
                if 'n_steps' in now:
                    now['n_steps'] = now['n_steps'] + before['n_steps']
                if 'diverging' in now:
                    now['diverging'] = now['diverging'] | before['diverging']
                return state, theta.astype(density.dtype), now

            state, draws, all_stats = loop
            state, theta, now = lax.fori_loop(0, thinning, thin, (state, no_theta, no_stats))
            return state, draws.at[i].set(theta), {name: x.at[i].set(now[name]) for name, x in all_stats.items()}

        draws = jnp.zeros((size, *no_theta.shape), density.dtype)
        all_stats = {name: jnp.zeros((size, *chains), kind) for name, kind in stats.items()}
        return lax.fori_loop(0, length, kept, (state, draws, all_stats))

    return advance


def chunk_length(density: Density, num_chains: int = 1) -> int:
    """The maximum number of draws of a compiled call, smaller for large models and many chains to save memory."""
    return min(buffer_length(density), max(1, 8_000_000 // (num_chains * density.size)))
