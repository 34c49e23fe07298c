"""Whole numbers among the inputs that a model takes as indices: are they within the axis that they count?

JAX takes the last entry for an index that is too large, and passes no error. Where the traced likelihood looks
something up at places that follow from whole numbers among the inputs alone, these are computed for the data at hand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core.program import inner_program
from brainstate_prob.core.units import u
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import on_host, whole
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density

__all__ = ['refuse_out_of_range']


class _Use(NamedTuple):
    """An axis of ``length`` entries, looked up at places that follow from the ``leaves`` of the data, by number."""

    leaves: frozenset[int]
    length: int
    last: int  # the largest place that there is
    places: Callable[[], Any]


class _Traced:
    """A number in a program: from which leaves of the data it follows, and whether from parameters."""

    def __init__(self, leaves: frozenset[int], fitted: bool, compute: Callable[[], Any]):
        self.leaves, self.fitted, self._compute = leaves, fitted, compute
        self._value: Any = None

    def value(self) -> Any:
        if self._value is None:
            self._value = self._compute()
        return self._value


def refuse_out_of_range(density: Density, theta: Any, data: Data) -> None:
    """Refuse inputs that are used as indices and lie outside the axis that they count.

    Raises
    ------
    ValueError
        With the input, its range and the length of the axis.
    """
    data = whole(data)
    found, treedef = jax.tree_util.tree_flatten_with_path(data)
    leaves = [x for _, x in found]
    sides = ('args', 'kwargs') if density.own_log_likelihood is None else ('args', 'kwargs', 'targets')
    labels = frozenset(
        i for i, (where, x) in enumerate(found) if where[0].name in sides and jnp.issubdtype(x.dtype, jnp.integer)
    )
    if not labels:
        return
    others = frozenset(i for i, (where, _) in enumerate(found) if where[0].name in ('args', 'kwargs', 'targets'))
    numbers = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)

    def build() -> tuple[list[tuple[frozenset[int], int, int]], Callable]:
        program = jax.make_jaxpr(_likelihood(density))(theta, data)
        uses = _uses(program, leaves, labels, others - labels)

        def ranges(leaves: list) -> list[tuple[jax.Array, jax.Array]]:
            places = [use.places() for use in _uses(program, leaves, labels, others - labels)]
            return [(jnp.min(x), jnp.max(x)) for x in places]

        return [use[:3] for use in uses], jax.jit(ranges)

    with precision_of(density):
        uses, ranges = density.compiled.get(('indices', treedef, numbers, environ.static_key()), build)
        if not uses:
            return
        for (which, length, last), (low, high) in zip(uses, on_host(ranges(leaves)), strict=True):
            if low < 0 or high > last:
                raise ValueError(_said([found[i] for i in sorted(which)], length))


def _said(labels: list[tuple], length: int) -> str:
    def described(where: tuple, x: Any) -> str:
        name = 'inputs' if where[0].name in ('args', 'kwargs') else where[0].name
        values = np.asarray(on_host(x))
        return f'{name}{jax.tree_util.keystr(where[1:])}, with values from {values.min()} to {values.max()},'

    indices = ' and '.join(described(*label) for label in labels)
    return (
        f'{indices} is used as an index along an axis of {length} entries (0 to {length - 1}), and leaves it: JAX '
        f'would take the nearest entry in silence (where that is meant, write jnp.clip(i, 0, {length - 1})). Labels '
        'count from 0: subtract 1 from those that count from 1 (np.unique(labels, return_inverse=True)[1] numbers any '
        'labels), and make the Param as long as there are labels; of a group that was not fitted nothing can be '
        'predicted by its label.'
    )


def _likelihood(density: Density) -> Callable:
    """What is traced: the likelihood, or what is predicted where there are no targets."""

    def likelihood(theta: jax.Array, data: Data) -> list[jax.Array]:
        if data.targets is not None or density.own_log_likelihood is not None:
            return [density.pointwise(theta, data)]
        with density.open(theta, data):
            found = jax.tree.leaves(density.distribution(data))
        return [jnp.asarray(u.get_magnitude(x)) for x in found]

    return likelihood


def _uses(program: Any, leaves: list, labels: frozenset[int], others: frozenset[int]) -> list[_Use]:
    """The look-ups at places that follow from ``labels`` and no ``others``, in what is no other data."""
    nothing: frozenset[int] = frozenset()
    theta = _Traced(nothing, True, lambda: None)
    given = [theta, *(_known(x, i) for i, x in enumerate(leaves))]
    found: list[_Use] = []
    for operation, taken in _walk(program.jaxpr, [_known(x) for x in program.consts], given):
        looked_up, *places = taken
        from_labels = frozenset().union(*(p.leaves for p in places))
        if any(p.fitted for p in places) or from_labels & others or not from_labels & labels:
            continue
        if not looked_up.fitted and looked_up.leaves & (others | labels):
            continue  # rows of other data: a lag, say
        found.extend(_looked_up(operation, places, from_labels & labels))
    return found


def _looked_up(operation: Any, places: list[_Traced], labels: frozenset[int]) -> Iterator[_Use]:
    shape, sizes = operation.invars[0].aval.shape, operation.params['slice_sizes']
    if operation.primitive.name == 'dynamic_slice':
        for axis, place in enumerate(places):
            if place.leaves & labels:
                yield _Use(labels, shape[axis], shape[axis] - sizes[axis], place.value)
        return
    (place,) = places
    if not math.prod(operation.invars[1].aval.shape):
        return
    for column, axis in enumerate(operation.params['dimension_numbers'].start_index_map):
        yield _Use(labels, shape[axis], shape[axis] - sizes[axis], functools.partial(_entry, place, (..., column)))


def _walk(jaxpr: Any, constants: list[_Traced], given: list[_Traced]) -> list[tuple]:
    """The look-ups of a program, with what they take.

    Those that fill are left out: NaN does not stay unseen. Those that clip are what `jax.vmap` makes of single ones.
    """
    found: list[tuple] = []
    _run(jaxpr, constants, given, found)
    return found


def _run(jaxpr: Any, constants: list[_Traced], given: list[_Traced], found: list[tuple]) -> list[_Traced]:
    known = dict(zip(map(id, (*jaxpr.constvars, *jaxpr.invars)), (*constants, *given), strict=True))

    def look(variable: Any) -> _Traced:
        return _known(variable.val) if hasattr(variable, 'val') else known[id(variable)]

    for operation in jaxpr.eqns:
        taken = [look(v) for v in operation.invars]
        name = operation.primitive.name
        inner = inner_program(operation)
        if inner is not None and not inner.constvars:
            results = _run(inner, [], taken, found)
        else:
            results = _results(operation, taken)
        if name == 'dynamic_slice' or (name == 'gather' and operation.params['mode'].name != 'FILL_OR_DROP'):
            found.append((operation, taken))
        known.update(zip(map(id, operation.outvars), results, strict=True))
    return [look(v) for v in jaxpr.outvars]


def _results(operation: Any, taken: list[_Traced]) -> list[_Traced]:
    leaves = frozenset().union(*(t.leaves for t in taken))
    fitted = any(t.fitted for t in taken)

    def compute() -> list:
        out = operation.primitive.bind(*(t.value() for t in taken), **operation.params)
        return list(out) if operation.primitive.multiple_results else [out]

    whole_of = _Traced(leaves, fitted, compute)
    return [_Traced(leaves, fitted, functools.partial(_entry, whole_of, i)) for i in range(len(operation.outvars))]


def _entry(traced: _Traced, at: Any) -> Any:
    return traced.value()[at]


def _known(x: Any, *leaf: int) -> _Traced:
    return _Traced(frozenset(leaf), False, lambda: x)
