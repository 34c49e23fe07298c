"""Stretches of a sampler's steps as one compiled program, whatever their length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import buffer_length

__all__ = ['chunk_length', 'stretch_function']


def stretch_function(
    density: Density, step: Callable, stats: Mapping[str, Any], chains: tuple[int, ...] = ()
) -> Callable:
    """``advance(state, data, codes, length, thinning, *args) -> (state, draws, stats)`` of a sampler's step.

    The first ``length`` entries are filled; ``length`` and ``thinning`` are dynamic. Of the steps between kept draws
    ``n_steps`` is the sum, and ``diverging`` whether any did.

    Parameters
    ----------
    step
        ``step(state, data, code, *args) -> (state, theta, stats)``.
    stats
        Their types by name.
    chains
        The leading shape of theta and statistics, where one state is that of all chains.
    """
    size = chunk_length(density, *chains)

    def advance(state: Any, data: Any, codes: Any, length: Any, thinning: Any, *args: Any) -> tuple:
        nothing = jnp.zeros((*chains, density.size), density.dtype)
        none = {name: jnp.zeros(chains, kind) for name, kind in stats.items()}

        def kept(i: Any, loop: tuple) -> tuple:
            def thin(_: Any, inner: tuple) -> tuple:
                state, _, before = inner
                state, theta, now = step(state, data, codes[i], *args)
                found = {name: jnp.asarray(now[name], none[name].dtype) for name in none}
                if 'n_steps' in found:
                    found['n_steps'] = found['n_steps'] + before['n_steps']
                if 'diverging' in found:
                    found['diverging'] = found['diverging'] | before['diverging']
                return state, theta.astype(density.dtype), found

            state, draws, held = loop
            state, theta, found = lax.fori_loop(0, thinning, thin, (state, nothing, none))
            return state, draws.at[i].set(theta), {name: held[name].at[i].set(found[name]) for name in held}

        draws = jnp.zeros((size, *nothing.shape), density.dtype)
        held = {name: jnp.zeros((size, *chains), kind) for name, kind in stats.items()}
        return lax.fori_loop(0, length, kept, (state, draws, held))

    return advance


def chunk_length(density: Density, num_chains: int = 1) -> int:
    """The most draws of one compiled call: fewer for large models and many chains, whose draws fill memory."""
    return min(buffer_length(density), max(1, 8_000_000 // (num_chains * density.size)))
