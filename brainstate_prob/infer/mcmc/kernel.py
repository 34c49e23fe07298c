"""A NUTS chain as pure functions: the initial state, and a transition by one of the backends.

NumPyro and BlackJAX fix the number of warm-up steps and the data when they compile. Here both are arguments, so one
program serves warm-up and sampling of every length, data and seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import potential_of
from brainstate_prob.infer.mcmc.adaptation import Adaptation, adapted, first_adaptation
from brainstate_prob.infer.mcmc.backends import Point, transition_of
from brainstate_prob.infer.mcmc.backends.protocol import Info
from brainstate_prob.infer.run.chain_starts import ChainStarts

__all__ = ['STATS', 'Chain', 'Settings', 'nuts_starts', 'nuts_step', 'transition_stats']

STATS = {
    'lp': float,
    'energy': float,
    'acceptance_rate': float,
    'step_size': float,
    'n_steps': int,
    'tree_depth': int,
    'diverging': bool,
}


class Settings(NamedTuple):
    """Static settings of the compiled code, apart from the model's structure."""

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


def nuts_starts(settings: Settings) -> ChainStarts:
    """The initial states of chains."""

    def chain(density: Density) -> Callable:
        def start(theta: jax.Array, key: jax.Array, data: Data) -> tuple[Chain, jax.Array]:
            value, grad = jax.value_and_grad(potential_of(density, data))(theta)
            adaptation = first_adaptation(settings.mass_matrix, settings.warmup, grad)
            own = jax.random.split(key, 3)[0]  # the other keys are those of NumPyro's initialization
            chain = Chain(theta, value, adaptation.metric.pull(grad), own, adaptation)
            return chain, jnp.isfinite(value) & jnp.isfinite(grad).all()

        return start

    return ChainStarts('nuts', chain, (settings.mass_matrix, settings.warmup))


def nuts_step(density: Density, settings: Settings) -> Callable:
    """``f(chain, data, action, target_accept) -> (chain, theta, stats)``: a transition and its adaptation."""
    transition = transition_of(settings.backend)

    def step(chain: Chain, data: Data, action: jax.Array, target_accept: jax.Array) -> tuple:
        potential = potential_of(density, data)
        metric = chain.adaptation.metric
        at = Point(jnp.zeros_like(chain.theta), chain.potential, chain.grad)
        at, key, info = transition(
            lambda w: potential(chain.theta + metric.forward(w)),
            at,
            chain.key,
            chain.adaptation.step_size,
            settings.max_tree_depth,
        )
        theta = chain.theta + metric.forward(at.w)
        kind = (settings.mass_matrix, settings.warmup)
        fell = chain.potential - at.potential
        adaptation, grad = adapted(action, chain.adaptation, theta, at.grad, fell, info.acceptance, target_accept, kind)
        stats = transition_stats(at, info, adaptation.step_size)
        return Chain(theta, at.potential, grad, key, adaptation), theta, stats

    return step


def transition_stats(point: Point, info: Info, step_size: jax.Array) -> dict[str, jax.Array]:
    """The statistics `STATS` of a transition that ended at ``point``."""
    return {
        'lp': -point.potential,
        'energy': info.energy,
        'acceptance_rate': info.acceptance,
        'step_size': step_size,
        'n_steps': info.num_steps,
        'tree_depth': info.tree_depth,
        'diverging': info.diverging,
    }
