"""Bounds check of integer inputs that a model uses as indices.

JAX clips an index that is out of range, without an error. The indices that the traced likelihood computes from integer
inputs alone, or from integer arrays that the model closes over, are evaluated for the data and checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core.units import u
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import on_host, whole
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.target.lookups import PARAMETERS, Lookups, Traced

__all__ = ['refuse_out_of_range']


def refuse_out_of_range(density: Density, theta: Any, data: Data, *, new: bool = False) -> None:
    """Refuse integers that are used as indices and are out of range of their axis.

    Parameters
    ----------
    new
        Whether the data are those of a prediction: arrays that the model closes over were looked at with the others.

    Raises
    ------
    ValueError
        With the input, its range and the length of the axis.
    """
    data = whole(data)
    paths, treedef = jax.tree_util.tree_flatten_with_path(data)
    leaves = [x for _, x in paths]
    sides = ('args', 'kwargs') if density.own_log_likelihood is None else ('args', 'kwargs', 'targets')
    labels = frozenset(
        i for i, (where, x) in enumerate(paths) if where[0].name in sides and jnp.issubdtype(x.dtype, jnp.integer)
    )
    if not labels and (new or data.targets is None):
        return
    others = frozenset(i for i, (where, _) in enumerate(paths) if where[0].name in ('args', 'kwargs', 'targets'))
    numbers = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)

    def build() -> tuple[list[tuple[frozenset[int], int, int]], list, Callable]:
        program = jax.make_jaxpr(_likelihood(density))(theta, data)

        def lookups(leaves: list) -> list:
            given = [Traced(PARAMETERS), *(Traced.known(x, i) for i, x in enumerate(leaves))]
            constants = [Traced.known(x, len(leaves) + i) for i, x in enumerate(program.consts)]
            closed_over = frozenset(
                len(leaves) + i
                for i, v in enumerate(program.jaxpr.constvars)
                if jnp.issubdtype(v.aval.dtype, jnp.integer) and v.aval.size
            )
            interpreter = Lookups(labels, others - labels, closed_over)
            interpreter.run(program, given, constants)
            return interpreter.all

        def ranges(leaves: list) -> list[tuple[jax.Array, jax.Array]]:
            return [x.range() for x in lookups(leaves)]

        return [x[:3] for x in lookups(leaves)], program.consts, jax.jit(ranges)

    with precision_of(density):
        key = refuse_out_of_range, treedef, numbers, environ.static_key()
        uses, constants, ranges = density.programs.get(key, build)
        if not uses:
            return
        for (which, length, last), (low, high) in zip(uses, on_host(ranges(leaves)), strict=True):
            if low < 0 or high > last:
                named = [*paths, *(((), x) for x in constants)]
                raise ValueError(_message([named[i] for i in sorted(which)], length))


def _message(labels: list[tuple], length: int) -> str:
    def described(where: tuple, x: Any) -> str:
        if not where:
            name = 'an array of whole numbers that the model closes over'
        else:
            side = 'inputs' if where[0].name in ('args', 'kwargs') else where[0].name
            name = f'{side}{jax.tree_util.keystr(where[1:])}'
        values = np.asarray(on_host(x))
        return f'{name}, with values from {values.min()} to {values.max()},'

    indices = ' and '.join(described(*label) for label in labels)
    return (
        f'{indices} is used as an index along an axis of {length} entries (0 to {length - 1}), and is out of '
        f'range: JAX would clip it silently (if that is intended, write jnp.clip(i, 0, {length - 1})). Labels count '
        'from 0: subtract 1 from those that count from 1 (np.unique(labels, return_inverse=True)[1] numbers any '
        'labels), and make the Param as long as there are labels; of a group that was not fitted nothing can be '
        'predicted by its label.'
    )


def _likelihood(density: Density) -> Callable:
    """The traced function: the likelihood, or the predicted distribution if there are no targets."""

    def likelihood(theta: jax.Array, data: Data) -> list[jax.Array]:
        if data.targets is not None or density.own_log_likelihood is not None:
            return [density.pointwise(theta, data)]
        with density.open(theta, data) as model:
            parameters = jax.tree.leaves(model.distribution(data))
        return [jnp.asarray(u.get_magnitude(x)) for x in parameters]

    return likelihood
