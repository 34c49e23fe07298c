"""One NUTS chain as pure functions: a start, and a compiled stretch of transitions of any length.

The transition is a backend's. NumPyro and BlackJAX fix the number of warm-up steps and the data when they compile. Here
both are arguments, so one program serves warm-up and sampling of every length, data and seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import buffer_length, potential_of
from brainstate_prob.infer.mcmc.adaptation import Adaptation, adapted, first_adaptation
from brainstate_prob.infer.mcmc.backends import Info, Point, transition_of

__all__ = ['Chain', 'Settings', 'advance_function', 'start_function']


class Settings(NamedTuple):
    """What the compiled code depends on beside the model's structure."""

    backend: str = 'numpyro'
    mass_matrix: str = 'diagonal'
    warmup: str = 'stan'
    max_tree_depth: int = 10


class Chain(NamedTuple):
    """The state of a chain; ``grad`` is the potential's gradient in the coordinates of the metric."""

    theta: jax.Array
    potential: jax.Array
    grad: jax.Array
    key: jax.Array
    adaptation: Adaptation


def start_function(density: Density, settings: Settings) -> Callable:
    """``start(start_key, key, centre, radius, data) -> (chain, found)``: a chain before its first transition.

    It stands at a point around ``centre``, uniform within the radius; whether density and gradient are finite there is
    what ``found`` says.
    """

    def start(start_key: jax.Array, key: jax.Array, centre: jax.Array, radius: jax.Array, data: Data) -> tuple:
        centre = centre.astype(jnp.result_type(float))
        theta = centre + radius * jax.random.uniform(start_key, centre.shape, centre.dtype, -1.0, 1.0)
        value, grad = jax.value_and_grad(potential_of(density, data))(theta)
        adaptation = first_adaptation(settings.mass_matrix, settings.warmup, grad)
        own = jax.random.split(key, 3)[0]  # the others are what NumPyro's start would use
        chain = Chain(theta, value, adaptation.metric.pull(grad), own, adaptation)
        # Without weak types: else the state that comes back would be a new signature, compiled once more.
        chain = jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), chain)
        return chain, jnp.isfinite(value) & jnp.isfinite(grad).all()

    return start


def advance_function(density: Density, settings: Settings) -> Callable:
    """``advance(chain, data, codes, length, thinning, target_accept) -> (chain, draws, stats)``.

    The first ``length`` entries of the draws and statistics are filled; ``length`` and ``thinning`` are dynamic.
    """
    size = buffer_length(density)
    step = transition_of(settings.backend)

    def advance(
        chain: Chain, data: Data, codes: jax.Array, length: jax.Array, thinning: jax.Array, target: jax.Array
    ) -> tuple:
        potential = potential_of(density, data)

        def transition(code: jax.Array, chain: Chain) -> tuple[Chain, Info]:
            metric = chain.adaptation.metric
            at = Point(jnp.zeros_like(chain.theta), chain.potential, chain.grad)
            at, key, info = step(
                lambda w: potential(chain.theta + metric.forward(w)),
                at,
                chain.key,
                chain.adaptation.step_size,
                settings.max_tree_depth,
            )
            theta = chain.theta + metric.forward(at.w)
            kind = (settings.mass_matrix, settings.warmup)
            fell = chain.potential - at.potential
            adaptation, grad = adapted(code, chain.adaptation, theta, at.grad, fell, info.acceptance, target, kind)
            return Chain(theta, at.potential, grad, key, adaptation), info

        def kept(i: jax.Array, loop: tuple) -> tuple:
            chain, draws, stats = loop

            def thin(_: Any, inner: tuple) -> tuple:
                chain, steps, diverging, _ = inner
                chain, info = transition(codes[i], chain)
                info = jax.tree.map(lambda new, old: new.astype(old.dtype), info, inner[3])
                return chain, steps + info.num_steps, diverging | info.diverging, info

            none = _no_info(chain.theta.dtype)
            chain, steps, diverging, info = lax.fori_loop(
                0, thinning, thin, (chain, none.num_steps, none.diverging, none)
            )
            found = {
                'lp': -chain.potential,
                'energy': info.energy,
                'acceptance_rate': info.acceptance,
                'step_size': chain.adaptation.step_size,
                'n_steps': steps,
                'tree_depth': info.tree_depth,
                'diverging': diverging,
            }
            stats = {name: values.at[i].set(found[name]) for name, values in stats.items()}
            return chain, draws.at[i].set(chain.theta.astype(density.dtype)), stats

        empty = (jnp.zeros((size, density.size), density.dtype), _empty_stats(size))
        return lax.fori_loop(0, length, kept, (chain, *empty))

    return advance


def _no_info(dtype: Any) -> Info:
    return Info(jnp.zeros((), dtype), jnp.zeros((), dtype), jnp.zeros((), int), jnp.zeros((), int), jnp.zeros((), bool))


def _empty_stats(size: int) -> dict[str, jax.Array]:
    floats = {name: jnp.zeros(size) for name in ('lp', 'energy', 'acceptance_rate', 'step_size')}
    counts = {name: jnp.zeros(size, int) for name in ('n_steps', 'tree_depth')}
    return {**floats, **counts, 'diverging': jnp.zeros(size, bool)}
