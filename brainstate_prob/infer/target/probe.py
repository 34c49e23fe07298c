"""Probes: the log density, its parts and gradients at several points, in one compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import on_host, whole
from brainstate_prob.infer.data.support import outside_of
from brainstate_prob.infer.density.batching import over_draws, rows_at_once
from brainstate_prob.infer.density.classes import num_classes, precision_of
from brainstate_prob.infer.density.log_density import Density

__all__ = ['Probe', 'Reach', 'prior_terms', 'probe', 'unread_inputs']


class Probe(NamedTuple):
    """At each of several points: values of shape (points,), and gradients (points, size)."""

    log_density: np.ndarray
    gradient: np.ndarray
    likelihood_gradient: np.ndarray
    num_outside: np.ndarray
    prior: dict[str, np.ndarray]  # log prior by parameter
    level: np.ndarray  # the mean prediction; NaN if there is none


class Reach(NamedTuple):
    """The range of predictions for each target over the chosen points: mean -+ three standard deviations."""

    lower: np.ndarray
    upper: np.ndarray


def probe(density: Density, thetas: Any, counted: np.ndarray, data: Data, jacobian: bool) -> tuple[Probe, Reach]:
    """Evaluate at ``thetas``, of shape (points, size), in one program.

    Parameters
    ----------
    counted
        At which points the predictions count for the `Reach`, which has no bounds where no moments are known.
    """

    def one(theta: jax.Array, data: Data) -> tuple:
        def parts(theta: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
            terms = density.terms(theta, data, jacobian)
            others = sum([*terms['prior'].values(), *terms['log_det'].values()])
            return terms['likelihood'].astype(density.dtype), jnp.asarray(others, density.dtype), terms['prior']

        # One pullback for each term: the likelihood's derivative, the larger part, is compiled once.
        (likelihood, others, prior), pull = jax.vjp(parts, theta)
        no_priors = jax.tree.map(jnp.zeros_like, prior)
        one, zero = jnp.ones_like(likelihood), jnp.zeros_like(likelihood)
        of_likelihood, of_others = pull((one, zero, no_priors))[0], pull((zero, one, no_priors))[0]
        outside, moments = _predictions(density, theta, data)
        return (likelihood + others, of_likelihood + of_others, of_likelihood, outside, prior), moments

    with precision_of(density):
        # Called from the host for each point with few XLA optimizations: it compiles in half the time of a loop.
        run = density.jit(probe, jacobian, lambda: one, compiler_options={'xla_backend_optimization_level': 0})
        evaluated = []
        shape = np.shape(data.targets)
        lower, upper = np.full(shape, np.inf, density.dtype), np.full(shape, -np.inf, density.dtype)
        for theta, counts in zip(thetas, counted, strict=True):
            values, (mean, sd) = on_host(run(theta, data))
            evaluated.append((*values, np.mean(mean)))
            if counts:
                known = np.isfinite(mean) & np.isfinite(sd)  # a prediction may fail at other points
                with np.errstate(invalid='ignore'):  # inf - inf
                    lower = np.minimum(lower, np.where(known, mean - 3 * sd, -np.inf))
                    upper = np.maximum(upper, np.where(known, mean + 3 * sd, np.inf))
    return Probe(*jax.tree.map(lambda *x: np.stack(x), *evaluated)), Reach(lower, upper)


def _predictions(density: Density, theta: jax.Array, data: Data) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The number of targets outside the support, and the predicted mean and standard deviation, NaN if undefined."""
    shape = np.shape(data.targets)
    nothing = jnp.full(shape, jnp.nan, density.dtype)
    if density.own_log_likelihood is not None or data.targets is None:
        return jnp.zeros((), int), (nothing, nothing)
    with density.open(theta, data) as model:
        distribution = model.distribution(data)
        outside = jnp.sum(outside_of(distribution, data.targets))
        if num_classes(distribution) is not None:
            return outside, (nothing, nothing)
        try:
            mean, sd = distribution.mean, jnp.sqrt(distribution.variance)
            mean, sd = (jnp.broadcast_to(jnp.asarray(x, density.dtype), shape) for x in (mean, sd))
        except (NotImplementedError, TypeError, ValueError, AttributeError):  # no moments, or of another shape
            return outside, (nothing, nothing)
        return outside, (mean, sd)


def unread_inputs(density: Density, theta: Any, data: Data) -> list[str]:
    """The names of the inputs that the likelihood does not use."""
    data = whole(data)
    leaves, treedef = jax.tree_util.tree_flatten_with_path((data.args, data.kwargs))

    def likelihood(inputs: list) -> jax.Array:
        args, kwargs = jax.tree.unflatten(treedef, inputs)
        return density.pointwise(theta, data._replace(args=args, kwargs=kwargs))

    with precision_of(density):
        program = jax.make_jaxpr(likelihood)([x for _, x in leaves]).jaxpr
    taken = {id(v) for operation in program.eqns for v in operation.invars} | {id(v) for v in program.outvars}
    return [
        'inputs' + jax.tree_util.keystr(where[1:]).removesuffix('.mantissa')
        for (where, _), variable in zip(leaves, program.invars, strict=True)
        if id(variable) not in taken
    ]


def prior_terms(density: Density, rows: np.ndarray, states: tuple) -> dict[str, np.ndarray]:
    """The log prior of each parameter by name, at each row of flat vectors."""
    with precision_of(density):
        run = density.compiled(Density.log_priors, in_axes=(0, None))
        return over_draws(lambda t: run(t, states), (rows,), rows_at_once(density))
