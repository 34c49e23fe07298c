"""BlackJAX's NUTS transition."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from brainstate_prob.infer.mcmc.backends.protocol import Info, Point
from brainstate_prob.infer.run.optional import import_blackjax

__all__ = ['transition']


def transition(
    potential: Callable, at: Point, key: jax.Array, step_size: jax.Array, max_tree_depth: int
) -> tuple[Point, jax.Array, Info]:
    """One transition with unit mass."""
    nuts = import_blackjax().nuts
    next_key, key = jax.random.split(key)
    state, info = nuts.build_kernel()(
        key,
        nuts.init(at.w, lambda w: -potential(w))._replace(logdensity=-at.potential, logdensity_grad=-at.grad),
        lambda w: -potential(w),
        step_size,
        jnp.ones_like(at.w),
        max_tree_depth,
    )
    return (
        Point(state.position, -state.logdensity, -state.logdensity_grad),
        next_key,
        Info(
            info.energy,
            jnp.minimum(info.acceptance_rate, 1.0),  # rounding can exceed 1
            info.num_integration_steps,
            info.num_trajectory_expansions,
            info.is_divergent,
        ),
    )
