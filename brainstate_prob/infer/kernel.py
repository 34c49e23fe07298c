"""One NUTS chain as pure functions: a start, and a compiled stretch of transitions of any length.

The transition, its tree and the adaptation are NumPyro's; the draws are those of ``numpyro.infer.NUTS``. NumPyro
fixes the number of warm-up steps and the data when it compiles. Here both are arguments: what each step of the
warm-up adapts is an array of codes, so one program serves warm-up and sampling of every length, data and seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.hmc_util import build_adaptation_schedule, dual_averaging, welford_covariance
from numpyro.infer.util import ParamInfo

from brainstate_prob.infer.density import Data, Density

__all__ = ['Settings', 'advance_function', 'buffer_length', 'schedule', 'start_function']

# What a step adapts: nothing, the step size, it and the mass matrix, the same at the end of a window, or it for good.
_SAMPLE, _FAST, _SLOW, _SLOW_END, _LAST = range(5)
_TRIES = 100


class Settings(NamedTuple):
    """What the compiled code depends on beside the model's structure."""

    dense_mass: bool
    max_tree_depth: int


def buffer_length(density: Density) -> int:
    """The most transitions of one compiled call; fewer for large models, whose draws fill memory."""
    return int(np.clip(2_000_000 // density.size, 1, 500))


def schedule(num_warmup: int) -> np.ndarray:
    """The codes of Stan's warm-up schedule: a fast window, slow windows of growing length, a fast window."""
    codes = np.full(num_warmup, _FAST, np.int32)
    for window in build_adaptation_schedule(num_warmup)[1:-1]:
        codes[window.start : window.end + 1] = _SLOW
        codes[window.end] = _SLOW_END
    codes[-1:] = _LAST
    return codes


def _potential(density: Density, data: Data) -> Callable:
    return lambda theta: -density.log_density(theta.astype(density.dtype), data).astype(theta.dtype)


def _kernel(
    density: Density, data: Data, settings: Settings, at: ParamInfo, key: jax.Array | None = None
) -> tuple[HMCState, Callable]:
    """A first state and NumPyro's transition, not adapting; made anew in each trace, as it closes over the data."""
    init, transition = hmc(_potential(density, data), algo='NUTS')
    state = init(
        at,
        num_warmup=0,
        adapt_step_size=False,
        adapt_mass_matrix=False,
        dense_mass=settings.dense_mass,
        max_tree_depth=settings.max_tree_depth,
        trajectory_length=None,
        rng_key=key,
    )
    return state, transition


def start_function(density: Density, settings: Settings) -> Callable:
    """``start(start_key, key, centre, radius, data) -> (state, theta, found)``: a chain before its first transition.

    It stands at a point around ``centre``, uniform within the radius, where the density and its gradient are
    finite; each miss brings it a tenth nearer.
    """

    def start(start_key: jax.Array, key: jax.Array, centre: jax.Array, radius: jax.Array, data: Data) -> tuple:
        value_and_grad = jax.value_and_grad(_potential(density, data))

        centre = centre.astype(jnp.result_type(float))
        jitter = jax.random.uniform(start_key, centre.shape, centre.dtype, -1.0, 1.0)

        def propose(i: Any) -> tuple[ParamInfo, jax.Array]:
            theta = centre + radius * 0.9**i * jitter
            value, grad = value_and_grad(theta)
            return ParamInfo(theta, value, grad), jnp.isfinite(value) & jnp.isfinite(grad).all()

        nowhere = ParamInfo(centre, jnp.zeros((), centre.dtype), jnp.zeros_like(centre))
        _, at, found = lax.while_loop(
            lambda loop: (loop[0] < _TRIES) & ~loop[2],
            lambda loop: (loop[0] + 1, *propose(loop[0])),
            (0, nowhere, jnp.zeros((), bool)),
        )
        state = _kernel(density, data, settings, at, key)[0]
        state = state._replace(energy=at.potential_energy)  # of a momentum that is never used: not compiled without it
        # Without weak types: else the state that comes back would be a new signature, compiled once more.
        return jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), state), at.z, found

    return start


def advance_function(density: Density, settings: Settings) -> Callable:
    """``advance(state, data, codes, length, thinning, target_accept) -> (state, draws, stats)``.

    The first ``length`` entries of the draws and statistics are filled; ``length`` and ``thinning`` are dynamic.
    """
    size = buffer_length(density)

    def advance(
        state: HMCState, data: Data, codes: jax.Array, length: jax.Array, thinning: jax.Array, target: jax.Array
    ) -> tuple:
        sample = _kernel(density, data, settings, ParamInfo(state.z, state.potential_energy, state.z_grad))[1]

        def transition(code: jax.Array, state: HMCState) -> HMCState:
            state = sample(state)
            return state._replace(adapt_state=_adapt(code, state, target, settings))

        def kept(i: jax.Array, loop: tuple) -> tuple:
            state, draws, stats = loop

            def thin(_: Any, inner: tuple) -> tuple:
                state, steps, diverging = inner
                state = transition(codes[i], state)
                return state, steps + state.num_steps, diverging | state.diverging

            state, steps, diverging = lax.fori_loop(
                0, thinning, thin, (state, jnp.zeros_like(state.num_steps), jnp.zeros((), bool))
            )
            found = {
                'lp': -state.potential_energy,
                'energy': state.energy,
                'acceptance_rate': state.accept_prob,
                'step_size': state.adapt_state.step_size,
                'n_steps': steps,
                'last_n_steps': state.num_steps,
                'diverging': diverging,
            }
            stats = {name: values.at[i].set(found[name]) for name, values in stats.items()}
            return state, draws.at[i].set(state.z.astype(density.dtype)), stats

        return lax.fori_loop(
            0, length, kept, (state, jnp.zeros((size, density.size), density.dtype), _empty_stats(size))
        )

    return advance


def _empty_stats(size: int) -> dict[str, jax.Array]:
    floats = {name: jnp.zeros(size) for name in ('lp', 'energy', 'acceptance_rate', 'step_size')}
    return {
        **floats,
        'n_steps': jnp.zeros(size, int),
        'last_n_steps': jnp.zeros(size, int),
        'diverging': jnp.zeros(size, bool),
    }


def _adapt(code: jax.Array, state: HMCState, target: jax.Array, settings: Settings) -> Any:
    """The adaptation after one transition, as NumPyro's warm-up does it; ``code`` tells where in the warm-up it is."""
    start_step_size, update_step_size = dual_averaging()
    start_mass, update_mass, final_mass = welford_covariance(diagonal=not settings.dense_mass)

    def adapt(a: Any) -> Any:
        found = update_step_size(target - state.accept_prob, a.ss_state)
        log_step, log_average = found[:2]
        finite = jnp.finfo(log_step.dtype)
        step = jnp.clip(jnp.exp(jnp.where(code == _LAST, log_average, log_step)), finite.tiny, finite.max)
        slow = (code == _SLOW) | (code == _SLOW_END)
        mass = lax.cond(slow, lambda m: update_mass(state.z, m), lambda m: m, a.mm_state)
        a = a._replace(step_size=step, ss_state=found, mm_state=mass)
        return lax.cond(code == _SLOW_END, close_window, lambda a: a, a)

    def close_window(a: Any) -> Any:
        inverse, root, inverse_root = final_mass(a.mm_state, regularize=True)
        return a._replace(
            inverse_mass_matrix=inverse,
            mass_matrix_sqrt=root,
            mass_matrix_sqrt_inv=inverse_root,
            mm_state=start_mass(inverse.shape[-1]),
            ss_state=start_step_size(jnp.log(10.0) + jnp.log(a.step_size)),
        )

    return lax.cond(code == _SAMPLE, lambda a: a, adapt, state.adapt_state)
