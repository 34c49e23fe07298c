"""Target: the log density of a posterior in chosen coordinates, which the ways to fit use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density

if TYPE_CHECKING:
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['Target']


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """The log density of a posterior over one flat vector theta.

    `Posterior.target` is the one in the parameters' own coordinates, `Posterior.sampling_target` that in the
    coordinates that samplers and guides move.

    Parameters
    ----------
    posterior
        The model, its data and how the data are scored.
    density
        The log density, in the coordinates of theta.
    """

    posterior: Posterior
    density: Density

    @property
    def names(self) -> list[str]:
        """The dotted paths of the parameters."""
        return self.posterior.names

    @property
    def size(self) -> int:
        """The dimension of theta."""
        return self.density.size

    @property
    def dtype(self) -> Any:
        """The data type of theta."""
        return self.density.dtype

    @property
    def data(self) -> Data:
        """The data, and the values of the model's States that are not fitted."""
        return self.posterior.data

    @property
    def start(self) -> jax.Array:
        """The model's current parameters as theta."""
        return self.posterior.start(self.density)

    def log_density(self, theta: jax.Array, data: Data | None = None) -> jax.Array:
        """The log density of theta, for use inside `jax.jit`; ``data`` replaces the posterior's own."""
        return self.density.log_density(theta, self.data if data is None else data)

    def log_likelihood(self, theta: jax.Array, data: Data | None = None) -> jax.Array:
        """The log-likelihood of all observations."""
        return self.density.log_likelihood(theta, self.data if data is None else data)

    def log_prior(self, theta: jax.Array) -> jax.Array:
        """The log density of the parameters' values under their priors."""
        return self.density.log_prior(theta, self.data.states)

    def log_det(self, theta: jax.Array) -> jax.Array:
        """The log-determinant of the map from theta to the parameters' values."""
        return self.density.log_det(theta, self.data.states)

    def with_carried(self, values: tuple) -> Target:
        """The same target, with these running statistics of the model's layers."""
        return dataclasses.replace(self, posterior=self.posterior.with_carried(self.density, values))
