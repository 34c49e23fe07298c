"""Initial points of chains: around the model's parameters, a mode or a fit, or at given values or prior draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.run.members import plain_types
from brainstate_prob.infer.run.starts import start_points
from brainstate_prob.infer.target.start import checked_start
from brainstate_prob.infer.target.target import Target

if TYPE_CHECKING:
    from brainstate_prob.infer.run.options import RunOptions

__all__ = ['ChainStarts']

_TRIES = 100  # each with 0.9 times the radius of the last

# In theta. Around the model's parameters the bulk of a standard normal, so that R-hat can detect chains that do not
# mix; around a mode, which is typical already, narrow.
_RADIUS = {'model': 1.0, 'map': 0.1, 'pathfinder': 0.0, 'prior': 0.0, 'draws': 0.0, 'array': 0.0}


@dataclasses.dataclass(frozen=True)
class ChainStarts:
    """Chains at points where the log density and its gradient are finite: `Algorithm.init` of most samplers.

    Attributes
    ----------
    name
        The way to fit, for its advice.
    chain
        ``chain(density) -> f(theta, key, data) -> (state, is_finite)``.
    key
        What ``chain`` depends on beside the density.
    """

    name: str
    chain: Callable[[Density], Callable]
    key: Hashable = None

    def __call__(self, target: Target, options: RunOptions) -> Any:
        """The initial states of the chains, stacked."""
        return self.at(target, options.init, options.keys(target))

    def at(self, target: Target, init: Any, keys: tuple[jax.Array, jax.Array]) -> Any:
        """The initial states for ``init`` and pairs of keys, for the start and the run of each chain.

        Raises
        ------
        ValueError
            For an unknown ``init``, an array of another shape, or a start without finite density.
        """
        kind, thetas = start_points(target, init, keys[0])
        start, radii = self._program(target.density), np.full(len(keys[0]), _RADIUS[kind])
        for _ in range(_TRIES):
            states, is_finite = start(*keys, thetas, radii, target.data)
            missed = np.flatnonzero(~np.asarray(is_finite))
            if not missed.size:
                return states
            if not radii[missed].any():
                break
            radii[missed] *= 0.9
        checked_start(target, thetas[missed[0]])  # raises with the reason
        raise ValueError(
            f'The log density or its gradient is not finite around the start of {missed.size} of {len(keys[0])} '
            f'chains, with init={kind!r}. {advice("start", self.name, {"init": kind})}'
        )

    def shapes(self, target: Target, options: RunOptions) -> Any:
        """The shapes of the states."""
        thetas = jax.ShapeDtypeStruct((options.num_chains, target.size), target.dtype)
        radii = np.zeros(options.num_chains)
        return jax.eval_shape(self._program(target.density), *options.keys(target), thetas, radii, target.data)[0]

    def _program(self, density: Density) -> Callable:
        return density.jit(_all_chains, (self.name, self.key), lambda: _all_chains(self.chain(density)))


def _all_chains(chain: Callable) -> Callable:
    def run(start_keys: jax.Array, keys: jax.Array, points: jax.Array, radii: jax.Array, data: Any) -> tuple:
        def one(given: tuple) -> tuple:
            start_key, key, centre, radius = given
            centre = centre.astype(jnp.result_type(float))
            theta = centre + radius * jax.random.uniform(start_key, centre.shape, centre.dtype, -1.0, 1.0)
            state, is_finite = chain(theta, key, data)
            return plain_types(state), is_finite

        # Mapped, not vectorized: it runs once, and compiles in two thirds of the time.
        return lax.map(one, (start_keys, keys, points, radii.astype(jnp.result_type(float))))

    return run
