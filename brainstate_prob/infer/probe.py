"""Probes: the log density, its parts and gradients at several points, in one compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob import environ
from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.predict import over_draws, precision_of

__all__ = ['Probe', 'prior_terms', 'probe']


class Probe(NamedTuple):
    """At each of several points: values of shape (points,), gradients (points, size), and of inputs their largest."""

    log_density: np.ndarray
    likelihood: np.ndarray
    gradient: np.ndarray
    likelihood_gradient: np.ndarray
    input_gradients: dict[str, np.ndarray]
    num_outside: np.ndarray


def probe(density: Density, thetas: Any, data: Data, jacobian: bool) -> Probe:
    """Evaluate at ``thetas``, of shape (points, size)."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path((data.args, data.kwargs))
    names = ['inputs' + jax.tree_util.keystr(where[1:]).removesuffix('.mantissa') for where, _ in leaves]
    is_float = tuple(jnp.issubdtype(jnp.result_type(x), jnp.floating) for _, x in leaves)
    floats = [x for (_, x), chosen in zip(leaves, is_float, strict=True) if chosen]

    def joined(floats: list, data: Data) -> Data:
        given, new = jax.tree.leaves((data.args, data.kwargs)), iter(floats)
        args, kwargs = jax.tree.unflatten(
            treedef, [next(new) if chosen else x for x, chosen in zip(given, is_float, strict=True)]
        )
        return data._replace(args=args, kwargs=kwargs)

    def one(theta: jax.Array, floats: list, data: Data) -> tuple:
        def parts(theta: jax.Array, floats: list) -> tuple[jax.Array, jax.Array]:
            terms = density.terms(theta, joined(floats, data), jacobian)
            likelihood = jnp.sum(terms['likelihood']).astype(density.dtype)
            others = [x for kind in ('prior', 'log_det') for x in terms[kind].values()]
            return likelihood, likelihood + sum(others)

        (likelihood, total), pull = jax.vjp(parts, theta, floats)
        one, zero = jnp.ones_like(likelihood), jnp.zeros_like(likelihood)
        by_theta, by_inputs = pull((one, zero))
        largest = [jnp.max(jnp.abs(g), initial=0.0) for g in by_inputs]
        outside = density.num_outside(theta, joined(floats, data))
        return total, likelihood, pull((zero, one))[0], by_theta, largest, outside

    with precision_of(density):
        run = density.jit(
            'probe',
            (jacobian, treedef, is_float, environ.static_key()),
            lambda: lambda thetas, floats, data: lax.map(lambda t: one(t, floats, data), thetas),
        )
        total, likelihood, gradient, by_likelihood, inputs, outside = jax.device_get(run(thetas, floats, data))
    read = [name for name, chosen in zip(names, is_float, strict=True) if chosen]
    return Probe(total, likelihood, gradient, by_likelihood, dict(zip(read, inputs, strict=True)), outside)


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
        return over_draws(lambda t: run(t, states), (rows,), 1024)
