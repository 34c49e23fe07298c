"""Probes: the log density, its parts and gradients at several points, in one compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob import environ
from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.predict import over_draws, precision_of, rows_at_once
from brainstate_prob.infer.sharding import whole

__all__ = ['Probe', 'prior_terms', 'probe', 'unread_inputs']


class Probe(NamedTuple):
    """At each of several points: values of shape (points,), and gradients (points, size)."""

    log_density: np.ndarray
    gradient: np.ndarray
    likelihood_gradient: np.ndarray
    num_outside: np.ndarray


def probe(density: Density, thetas: Any, data: Data, jacobian: bool) -> Probe:
    """Evaluate at ``thetas``, of shape (points, size)."""

    def one(theta: jax.Array, data: Data) -> tuple:
        def parts(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
            terms = density.terms(theta, data, jacobian)
            likelihood = jnp.sum(terms['likelihood']).astype(density.dtype)
            others = [x for kind in ('prior', 'log_det') for x in terms[kind].values()]
            return likelihood, likelihood + sum(others)

        (likelihood, total), pull = jax.vjp(parts, theta)
        one, zero = jnp.ones_like(likelihood), jnp.zeros_like(likelihood)
        return total, pull((zero, one))[0], pull((one, zero))[0], density.num_outside(theta, data)

    with precision_of(density):
        run = density.jit(
            'probe',
            (jacobian, environ.static_key()),
            lambda: lambda thetas, data: lax.map(lambda t: one(t, data), thetas),
        )
        return Probe(*jax.device_get(run(thetas, data)))


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
