"""Probes: the log density, its parts and gradients at several points, in one compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob import environ
from brainstate_prob.infer.classes import num_classes
from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.predict import over_draws, precision_of, rows_at_once
from brainstate_prob.infer.sharding import whole

__all__ = ['Probe', 'Reach', 'prior_terms', 'probe', 'unread_inputs']


class Probe(NamedTuple):
    """At each of several points: values of shape (points,), and gradients (points, size)."""

    log_density: np.ndarray
    gradient: np.ndarray
    likelihood_gradient: np.ndarray
    num_outside: np.ndarray
    prior: dict[str, np.ndarray]  # log prior by parameter
    level: np.ndarray  # the mean prediction, NaN where there is none


class Reach(NamedTuple):
    """By target, the lowest and the highest that the chosen points predict, up to three standard deviations."""

    lower: np.ndarray
    upper: np.ndarray


def probe(density: Density, thetas: Any, counted: np.ndarray, data: Data, jacobian: bool) -> tuple[Probe, Reach | None]:
    """Evaluate at ``thetas``, of shape (points, size), in one program.

    Parameters
    ----------
    counted
        At which points the predictions count for the `Reach`; it is None where the model predicts no numbers.
    """

    def one(theta: jax.Array, data: Data) -> tuple:
        def parts(theta: jax.Array) -> tuple[jax.Array, jax.Array, dict]:
            terms = density.terms(theta, data, jacobian)
            likelihood = jnp.sum(terms['likelihood']).astype(density.dtype)
            others = sum(x for kind in ('prior', 'log_det') for x in terms[kind].values())
            return likelihood, jnp.asarray(others, density.dtype), terms['prior']

        # Each part pulled back by itself: the likelihood's derivative, the larger part, is compiled once.
        (likelihood, others, prior), pull = jax.vjp(parts, theta)
        no_priors = jax.tree.map(jnp.zeros_like, prior)
        one, zero = jnp.ones_like(likelihood), jnp.zeros_like(likelihood)
        of_likelihood, of_others = pull((one, zero, no_priors))[0], pull((zero, one, no_priors))[0]
        outside = density.num_outside(theta, data)
        return (
            (likelihood + others, of_likelihood + of_others, of_likelihood, outside, prior),
            _moments(density, theta, data),
        )

    def run(thetas: jax.Array, counted: jax.Array, data: Data) -> tuple:
        _, moments = jax.eval_shape(one, thetas[0], data)
        nothing = None if moments is None else jnp.zeros(moments[0].shape, moments[0].dtype)

        def step(reach: Any, point: tuple) -> tuple:
            theta, counts = point
            found, moments = one(theta, data)
            if moments is None:
                return reach, (*found, jnp.nan)
            mean, sd = moments
            known = counts & jnp.isfinite(mean) & ~jnp.isnan(sd)
            lower = jnp.where(known, jnp.minimum(reach[0], mean - 3 * sd), reach[0])
            upper = jnp.where(known, jnp.maximum(reach[1], mean + 3 * sd), reach[1])
            seen = reach[2] | (counts & ~known)
            return (lower, upper, seen), (*found, jnp.mean(mean))

        start = None if nothing is None else (nothing + jnp.inf, nothing - jnp.inf, jnp.zeros(nothing.shape, bool))
        return lax.scan(step, start, (thetas, counted))

    with precision_of(density):
        compiled = density.jit('probe', (jacobian, environ.static_key()), lambda: run)
        reach, found = jax.device_get(compiled(thetas, counted, data))
    if reach is None:
        return Probe(*found), None
    lower, upper, unknown = reach  # where a mean or variance is infinite, anything may come
    return Probe(*found), Reach(np.where(unknown, -np.inf, lower), np.where(unknown, np.inf, upper))


def _moments(density: Density, theta: jax.Array, data: Data) -> tuple[jax.Array, jax.Array] | None:
    """Mean and standard deviation of each target; None where the model predicts no numbers."""
    if density.own_log_likelihood is not None or data.targets is None:
        return None
    with density.open(theta, data):
        distribution = density.distribution(data)
        if num_classes(distribution) is not None:
            return None
        try:
            mean, variance = distribution.mean, distribution.variance
        except (NotImplementedError, TypeError, AttributeError):
            return None
        shape = jnp.shape(data.targets)
        if mean is NotImplemented or variance is NotImplemented:
            return None
        mean, variance = (jnp.asarray(x, density.dtype) for x in (mean, variance))
        try:
            return jnp.broadcast_to(mean, shape), jnp.broadcast_to(jnp.sqrt(variance), shape)
        except ValueError:  # moments of another form than the targets
            return None


def unread_inputs(density: Density, theta: Any, data: Data) -> list[str]:
    """The inputs that no operation of the likelihood takes, by name."""
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

    def one(theta: jax.Array, states: tuple) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        with density.open(theta, Data((), {}, None, states)) as (computed, _):
            for block, stretch, value in computed:
                terms = block.split_terms(block.log_prior(stretch, value))
                found.update(zip((e.name for e in block.entries), terms, strict=True))
        return found

    with precision_of(density):
        run = density.jit('prior_rows', None, lambda: jax.vmap(one, in_axes=(0, None)))
        return over_draws(lambda t: run(t, states), (rows,), rows_at_once(density))
