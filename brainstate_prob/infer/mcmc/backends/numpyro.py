"""NumPyro's NUTS transition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from brainstate_prob.infer.mcmc.backends.protocol import Info, Point

__all__ = ['transition']


def transition(
    potential: Callable, at: Point, key: jax.Array, step_size: jax.Array, max_tree_depth: int
) -> tuple[Point, jax.Array, Info]:
    """One transition with unit mass; the draws are those of ``numpyro.infer.NUTS``."""
    init, sample = hmc(potential, algo='NUTS')
    state: Any = init(
        ParamInfo(at.w, at.potential, at.grad),
        num_warmup=0,
        adapt_step_size=False,
        adapt_mass_matrix=False,
        max_tree_depth=max_tree_depth,
        trajectory_length=None,
    )
    state = state._replace(rng_key=key, adapt_state=state.adapt_state._replace(step_size=step_size))
    state = sample(state)
    depth = jnp.asarray(32 - lax.clz(state.num_steps.astype(jnp.int32)))
    info = Info(state.energy, state.accept_prob, state.num_steps, depth, state.diverging)
    return Point(state.z, state.potential_energy, state.z_grad), state.rng_key, info
