"""Predictions of a model that is linear in theta around the mode: the generalized linear model of a Laplace fit.

The model is linearized in the natural coordinates of the predicted distribution: each of its parameters through the
link of its constraint (the log of a rate, the logit of a probability, the identity for a mean).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to, constraints

from brainstate_prob.core import StateTrace
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.information import outputs_of, predicted
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.opened import ModelAt
from brainstate_prob.infer.laplace.curvature import chunks_of

__all__ = ['LinearizedDensity', 'linearized_density', 'output_moments', 'predictive_of']


def linearized_density(density: Density) -> LinearizedDensity:
    """The `LinearizedDensity` cached with a density."""
    return density.programs.get(LinearizedDensity, lambda: LinearizedDensity(density))


class LinearizedDensity(Density):
    """A density whose predictions are linear in theta around a mode, for predictions from draws.

    It takes pairs (theta, mode) as one vector, so that the mode is data and another one compiles nothing.
    """

    def __init__(self, density: Density):
        super().__init__(density.model, density.likelihood, None, density.expand, density.noncentered, source=density)
        self.size = 2 * density.size
        self._base = density

    def __reduce__(self) -> tuple:
        return linearized_density, (self._base,)

    @contextlib.contextmanager
    def open(self, theta: jax.Array, data: Data) -> Iterator[ModelAt]:
        """The model that is linear around the second half of ``theta``, at the first half."""
        part, mode = jnp.split(theta, 2)
        with StateTrace() as trace:
            yield _LinearizedModel(
                self.model, self.likelihood, None, self.dtype, trace, density=self._base, theta=part, mode=mode
            )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _LinearizedModel(ModelAt):
    """The model at ``theta``, linear around ``mode``."""

    density: Density
    theta: jax.Array
    mode: jax.Array

    def distribution(self, data: Data) -> dist.Distribution:
        """The distribution of the targets, with its parameters moved along their tangents at the mode."""
        made: list[Callable] = []

        def natural(theta: jax.Array) -> tuple[list[jax.Array], list[Any]]:
            distribution = predicted(self.density, theta, data)
            outputs, others, rebuild = outputs_of(distribution)
            links = [biject_to(c) for c in output_constraints(distribution)]
            made.append(lambda moved, others: rebuild([f(x) for f, x in zip(links, moved, strict=True)], others))
            return [f.inv(x) for f, x in zip(links, outputs, strict=True)], others

        at_mode, push, others = jax.linearize(natural, self.mode, has_aux=True)
        moved = [x + dx for x, dx in zip(at_mode, push(self.theta - self.mode), strict=True)]
        return made[-1](moved, others)


def output_constraints(distribution: dist.Distribution) -> list[constraints.Constraint]:
    """The constraint of each floating output of `outputs_of`; real if unknown."""
    result: list[constraints.Constraint] = []

    def visit(node: Any, constraint: constraints.Constraint) -> None:
        if isinstance(node, dist.Distribution):
            for name in type(node).gather_pytree_data_fields():  # in the order of the leaves
                visit(node.__dict__.get(name), _constraint_of(type(node), name))
            return
        for leaf in jax.tree.leaves(node, is_leaf=lambda x: isinstance(x, dist.Distribution)):
            if isinstance(leaf, dist.Distribution):
                visit(leaf, constraints.real)
            elif jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                result.append(constraint)

    visit(distribution, constraints.real)
    return result


def _constraint_of(family: type, name: str) -> constraints.Constraint:
    """The constraint of a parameter, also if only a base class of the family declares it."""
    for base in family.__mro__:
        by_name = vars(base).get('arg_constraints')
        if isinstance(by_name, dict) and name in by_name:
            constraint = by_name[name]
            if constraint is constraints.nonnegative:  # NumPyro has no bijection onto it
                return constraints.positive
            try:
                biject_to(constraint)
            except NotImplementedError:
                return constraints.real
            return constraint
    return constraints.real


def output_moments(density: Density, mode: Any, roots: np.ndarray, data: Data) -> tuple[Any, Any]:
    """The outputs at the mode, and the variance of each of them in the same structure.

    Parameters
    ----------
    roots
        Rows whose outer products sum to the covariance of theta.
    """
    return density.compiled(_output_moments)(mode, chunks_of(roots), data)


def _output_moments(
    density: Density, mode: jax.Array, roots: jax.Array, data: Data
) -> tuple[dist.Distribution, dist.Distribution]:
    made: list[Callable] = []

    def outputs(theta: jax.Array) -> tuple[list[jax.Array], list[Any]]:
        values, others, rebuild = outputs_of(predicted(density, theta, data))
        made.append(rebuild)
        return values, others

    values, push, others = jax.linearize(outputs, mode, has_aux=True)

    def add(total: list[jax.Array], rows: jax.Array) -> tuple[list[jax.Array], None]:
        return [t + jnp.sum(x**2, axis=0) for t, x in zip(total, jax.vmap(push)(rows), strict=True)], None

    variances = jax.lax.scan(add, [jnp.zeros_like(x) for x in values], roots)[0]
    return made[-1](values, others), made[-1](variances, others)


def predictive_of(mode: dist.Distribution, variance: dist.Distribution) -> dist.Distribution:
    """The predictive distribution in closed form, from `output_moments`.

    Exact for a normal whose scale is not fitted; for logits the probit approximation of MacKay (1992).

    Raises
    ------
    NotImplementedError
        For any other family.
    """
    if isinstance(mode, dist.Independent):
        inner = predictive_of(mode.base_dist, variance.base_dist)
        return inner.to_event(mode.reinterpreted_batch_ndims)
    if isinstance(mode, dist.ExpandedDistribution):
        return predictive_of(mode.base_dist, variance.base_dist).expand(mode.batch_shape)
    if type(mode) is dist.Normal:
        return dist.Normal(mode.loc, jnp.sqrt(mode.scale**2 + variance.loc))
    if type(mode) in (dist.BernoulliLogits, dist.CategoricalLogits):
        return type(mode)(logits=mode.logits / jnp.sqrt(1 + jnp.pi / 8 * variance.logits))
    raise NotImplementedError(
        f'There is no closed form for {type(mode).__name__}; use fit.predict(inputs, linearized=True), which draws.'
    )
