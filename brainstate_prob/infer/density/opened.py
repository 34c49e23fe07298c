"""A model with the values of one theta in its parameters, and what it says about the targets there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from brainstate_prob.core import StateTrace
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.quantities import magnitudes_explained, quantities_explained
from brainstate_prob.infer.density.observed import (
    checked_distribution,
    checked_log_likelihood,
    checked_log_prob,
    expanded_to,
)
from brainstate_prob.infer.density.statements import refused_statements
from brainstate_prob.nn.module import Module

__all__ = ['ModelAt']


@dataclasses.dataclass(frozen=True, eq=False)
class ModelAt:
    """A model whose States hold the values of one theta, as `Density.open` yields it.

    Parameters
    ----------
    model, likelihood, own_log_likelihood
        As for `Density`.
    dtype
        That of theta.
    trace
        The States that are read and written.
    computed
        By block (block, theta, value).
    """

    model: Module
    likelihood: Callable | None
    own_log_likelihood: Callable | None
    dtype: Any
    trace: StateTrace
    computed: Sequence[tuple] = ()

    def declared(self, data: Data) -> Any:
        """What the model, or ``likelihood``, returns."""
        with quantities_explained():
            if self.likelihood is None:
                return self.model(*data.args, **data.kwargs)
            with self.model.opened() as model:
                return self.likelihood(model, *data.args, **data.kwargs)

    def distribution(self, data: Data) -> dist.Distribution:
        """What the model says about the targets."""
        return checked_distribution(self.declared(data), data.targets, data.unit)

    def distribution_of_each(self, data: Data) -> dist.Distribution:
        """`distribution`, one for each target where ``data`` has them: a scalar prediction serves all."""
        distribution = self.distribution(data)
        return distribution if data.targets is None else expanded_to(distribution, data.targets)

    def log_probs(self, data: Data) -> jax.Array:
        """The log-likelihood of each observation."""
        if self.own_log_likelihood is not None:
            args = data.args if data.targets is None else (*data.args, data.targets)
            with quantities_explained(), magnitudes_explained(data.unit), self.model.opened() as model:
                out = self.own_log_likelihood(model, *args, **data.kwargs)
            return checked_log_likelihood(out, data.targets)
        if data.targets is None:
            return jnp.zeros((), self.dtype)
        return checked_log_prob(self.distribution(data), data.targets)

    def log_likelihood(self, data: Data) -> jax.Array:
        """The log-likelihood of all observations, times ``data.scale``."""
        with refused_statements():
            return data.scale * jnp.sum(self.log_probs(data))
