"""The index ranges of gathers and slices in a traced program, also within loops and branches.

A program is traversed twice: once for its dependencies, and once, inside a compiled function, for the values of the
indices. A loop is run with the numbers that do not depend on parameters, which gives the indices of all its steps. A
condition gives the indices of the branch that is taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.core.interpreter import Interpreter, split_inputs

__all__ = ['PARAMETERS', 'Lookup', 'Lookups', 'Traced']

PARAMETERS = frozenset({-1})  # among the numbers of the given values


class Lookup(NamedTuple):
    """An axis of ``length`` entries, looked up at indices that depend on the numbers ``leaves``."""

    leaves: frozenset[int]
    length: int
    last: int  # the largest integer of the index type
    range: Callable[[], tuple[jax.Array, jax.Array]]  # the smallest and the largest index used


class Traced:
    """A value in a program: the input leaves on which it depends (``leaves``), and its value if known.

    Values that depend on `PARAMETERS` are unknown.
    """

    def __init__(self, leaves: frozenset[int], compute: Callable[[], Any] = lambda: None):
        self.leaves, self.fitted, self._compute = leaves, bool(leaves & PARAMETERS), compute
        self._value: Any = None

    @classmethod
    def known(cls, x: Any, *leaves: int) -> Traced:
        return cls(frozenset(leaves), lambda: x)

    def value(self) -> Any:
        if self._value is None:
            self._value = self._compute()
        return self._value


class Lookups(Interpreter[Traced]):
    """The look-ups whose indices depend on ``labels``, or on ``constants`` alone; those in data are left out.

    Gathers in mode 'fill' are left out, since their NaN is visible. Mode 'clip' is what `jax.vmap` makes of single
    look-ups.
    """

    def __init__(self, labels: frozenset[int], others: frozenset[int], constants: frozenset[int]):
        self.labels, self.others, self.constants = labels, others, constants
        self.all: list[Lookup] = []

    def constant(self, variable: Any, value: Any) -> Traced:
        return Traced.known(value if isinstance(value, jax.Array) else np.asarray(value, variable.aval.dtype))

    def operation(self, operation: Any, inputs: list[Traced]) -> list[Traced]:
        name, params = operation.primitive.name, operation.params
        if name == 'dynamic_slice' or (name == 'gather' and params['mode'].name != 'FILL_OR_DROP'):
            self.all += self._look_ups(operation, *inputs)
        elif name in ('scan', 'while', 'cond'):
            self.all += getattr(self, f'_in_{name}')(operation, inputs)
        leaves = _union(inputs)

        def compute() -> list:
            out = operation.primitive.bind(*(x.value() for x in inputs), **params)
            return list(out) if operation.primitive.multiple_results else [out]

        results = Traced(leaves, compute)
        return [Traced(leaves, functools.partial(_entry, results, i)) for i in range(len(operation.outvars))]

    def _within(self, program: Any, inputs: Sequence[Traced]) -> tuple[list[Traced], list[Lookup]]:
        """The results and look-ups of the body of a loop or branch."""
        body = Lookups(self.labels, self.others, self.constants)
        return body.run(program, inputs), body.all

    def _look_ups(self, operation: Any, array: Traced, *indices: Traced) -> Iterator[Lookup]:
        leaves = _union(indices)
        if leaves & (PARAMETERS | self.others):
            return
        if not array.fitted and (array.leaves & (self.others | self.labels) or not leaves & self.labels):
            return  # rows of other data, such as a lag
        labels = leaves & self.labels or leaves & self.constants
        if not labels:
            return
        shape, sizes = operation.invars[0].aval.shape, operation.params['slice_sizes']
        if operation.primitive.name == 'dynamic_slice':
            for axis, index in enumerate(indices):
                if index.leaves & labels:
                    yield Lookup(labels, shape[axis], shape[axis] - sizes[axis], functools.partial(_range, index, ...))
        elif math.prod(operation.invars[1].aval.shape):
            for column, axis in enumerate(operation.params['dimension_numbers'].start_index_map):
                at = functools.partial(_range, indices[0], (..., column))
                yield Lookup(labels, shape[axis], shape[axis] - sizes[axis], at)

    def _in_scan(self, operation: Any, inputs: list[Traced]) -> list[Lookup]:
        params, (constants, carry, rows) = operation.params, split_inputs(operation, inputs)
        if not params['length']:
            return []

        def step(carry: Sequence[Traced], rows: Sequence[Traced]) -> tuple[list[Traced], list[Lookup]]:
            return self._within(params['jaxpr'], (*constants, *carry, *rows))

        flows, lookups = _fixed_point(lambda carry: step(carry, rows), carry)
        of_rows = [x.leaves for x in rows]

        def ranges() -> list:
            def body(values: list, entries: list) -> tuple[list, list]:
                results, lookups = step(_with(flows, values), _with(of_rows, entries))
                return _values(results, flows), [x.range() for x in lookups]

            start, entries = _values(carry, flows), _values(rows, of_rows)
            lows_and_highs = lax.scan(body, start, entries, params['length'], params['reverse'])[1]
            return [(low.min(), high.max()) for low, high in lows_and_highs]

        return _each(lookups, ranges, inputs)

    def _in_while(self, operation: Any, inputs: list[Traced]) -> list[Lookup]:
        params, (of_test, of_body, carry) = operation.params, split_inputs(operation, inputs)

        def test(carry: Sequence[Traced]) -> Traced:
            return self._within(params['cond_jaxpr'], (*of_test, *carry))[0][0]

        def step(carry: Sequence[Traced]) -> tuple[list[Traced], list[Lookup]]:
            return self._within(params['body_jaxpr'], (*of_body, *carry))

        flows, lookups = _fixed_point(step, carry)
        # Under `jax.vmap` loops of different lengths run as long as the longest one, which drops the extra steps of the
        # others.
        together = bool(params['cond_jaxpr'].jaxpr.outvars[0].aval.shape)
        if test(_with(flows)).fitted or together:  # the active steps are unknown; use what all of them share
            return step([Traced(leaves | PARAMETERS) for leaves in flows])[1]

        def ranges() -> list:
            def body(state: tuple[list, list]) -> tuple[list, list]:
                results, lookups = step(_with(flows, state[0]))
                both = zip(state[1], (x.range() for x in lookups), strict=True)
                return _values(results, flows), [(jnp.minimum(a, c), jnp.maximum(b, d)) for (a, b), (c, d) in both]

            start = _values(carry, flows), [_no_range()] * len(lookups)
            return lax.while_loop(lambda state: test(_with(flows, state[0])).value(), body, start)[1]

        return _each(lookups, ranges, inputs)

    def _in_cond(self, operation: Any, inputs: list[Traced]) -> list[Lookup]:
        which = inputs[0]
        branches = [self._within(branch, inputs[1:])[1] for branch in operation.params['branches']]
        lookups = [x for branch in branches for x in branch]
        if which.fitted:  # any branch may be taken, unless the labels choose it
            return [] if which.leaves & (self.labels | self.others) else lookups

        def ranges() -> list:
            def ranges_of_branch(number: int) -> list:
                return [x.range() if i == number else _no_range() for i, b in enumerate(branches) for x in b]

            return lax.switch(which.value(), [functools.partial(ranges_of_branch, i) for i in range(len(branches))])

        return _each(lookups, ranges, inputs)


def _fixed_point(step: Callable, carry: Sequence[Traced]) -> tuple[list[frozenset[int]], list[Lookup]]:
    """The dependencies of a loop's carry after any number of steps (a fixed point), and the look-ups of a step."""
    flows = [x.leaves for x in carry]
    while True:
        results, lookups = step(_with(flows))
        joined = [leaves | x.leaves for leaves, x in zip(flows, results, strict=False)]
        if joined == flows:
            return flows, lookups
        flows = joined


def _with(flows: Sequence[frozenset[int]], values: Sequence[Any] = ()) -> list[Traced]:
    """Values that depend on these numbers; ``values`` are those that do not depend on parameters, in order."""
    rest = iter(values)
    return [Traced(x) if x & PARAMETERS else Traced.known(next(rest, None), *x) for x in flows]


def _values(numbers: Sequence[Traced], flows: Sequence[frozenset[int]]) -> list[Any]:
    return [jnp.asarray(x.value()) for x, leaves in zip(numbers, flows, strict=False) if not leaves & PARAMETERS]


def _union(values: Iterable[Traced]) -> frozenset[int]:
    return frozenset().union(*(x.leaves for x in values))


def _each(lookups: list[Lookup], ranges: Callable[[], list], inputs: Sequence[Traced]) -> list[Lookup]:
    def compute() -> list:
        for x in inputs:  # loop constants are computed once, outside of it
            if not x.fitted:
                x.value()
        return ranges()

    together = Traced(frozenset(), compute)
    return [x._replace(range=functools.partial(_entry, together, i)) for i, x in enumerate(lookups)]


def _range(index: Traced, at: Any) -> tuple[jax.Array, jax.Array]:
    x = jnp.asarray(index.value())[at].astype(jnp.result_type(int))
    return x.min(), x.max()


def _no_range() -> tuple[jax.Array, jax.Array]:
    """The empty range."""
    kind = np.iinfo(jnp.result_type(int))
    return jnp.asarray(kind.max), jnp.asarray(kind.min)


def _entry(traced: Traced, at: Any) -> Any:
    return traced.value()[at]
