"""Where a traced program looks something up, and at which places: within its loops and branches too.

A program is read twice: once for what follows from what, and once, inside a compiled function, for the values of the
places. In a loop these are the values of all its steps: the loop is run with the numbers that do not depend on
parameters. Of a branch they are those of the branch that is taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.core.program import inner_program, scan_counts

__all__ = ['Traced', 'Use', 'Uses']

_NOTHING: frozenset[int] = frozenset()


class Use(NamedTuple):
    """An axis of ``length`` entries, looked up at places that follow from the numbers ``leaves``."""

    leaves: frozenset[int]
    length: int
    last: int  # the largest place that there is
    range: Callable[[], tuple[jax.Array, jax.Array]]  # the smallest and the largest place that is looked up


class Traced:
    """A number in a program: from which numbers given to it it follows, whether from parameters, and its value."""

    def __init__(self, leaves: frozenset[int], fitted: bool, compute: Callable[[], Any]):
        self.leaves, self.fitted, self._compute = leaves, fitted, compute
        self._value: Any = None

    @classmethod
    def known(cls, x: Any, *leaf: int) -> Traced:
        return cls(frozenset(leaf), False, lambda: x)

    @classmethod
    def fit(cls, leaves: frozenset[int] = _NOTHING) -> Traced:
        """What depends on parameters; its value is not asked for."""
        return cls(leaves, True, lambda: None)

    @property
    def flow(self) -> tuple[frozenset[int], bool]:
        return self.leaves, self.fitted

    def value(self) -> Any:
        if self._value is None:
            self._value = self._compute()
        return self._value


class Uses:
    """The look-ups at places that follow from ``labels``, or from ``constants`` alone, in what is no other data.

    Those that fill are left out: NaN does not stay unseen. Those that clip are what `jax.vmap` makes of single ones.
    """

    def __init__(self, labels: frozenset[int], others: frozenset[int], constants: frozenset[int]):
        self.labels, self.others, self.constants = labels, others, constants

    def of(self, jaxpr: Any, constants: list[Traced], given: list[Traced]) -> list[Use]:
        return self._run(jaxpr, constants, given)[1]

    def _run(self, jaxpr: Any, constants: Sequence[Traced], given: Sequence[Traced]) -> tuple[list[Traced], list[Use]]:
        known = dict(zip(map(id, (*jaxpr.constvars, *jaxpr.invars)), (*constants, *given), strict=True))
        found: list[Use] = []

        def look(variable: Any) -> Traced:
            if hasattr(variable, 'val'):
                return Traced.known(np.asarray(variable.val, variable.aval.dtype))
            return known[id(variable)]

        for operation in jaxpr.eqns:
            taken = [look(v) for v in operation.invars]
            name = operation.primitive.name
            inner = inner_program(operation)
            if inner is not None and not inner.constvars:
                results, uses = self._run(inner, (), taken)
                found.extend(uses)
            else:
                results = _results(operation, taken)
            if name == 'dynamic_slice' or (name == 'gather' and operation.params['mode'].name != 'FILL_OR_DROP'):
                found.extend(self._looked_up(operation, *taken))
            elif name in ('scan', 'while', 'cond'):
                found.extend(getattr(self, f'_in_{name}')(operation.params, taken))
            known.update(zip(map(id, operation.outvars), results, strict=True))
        return [look(v) for v in jaxpr.outvars], found

    def _looked_up(self, operation: Any, looked_up: Traced, *places: Traced) -> Iterator[Use]:
        leaves = _NOTHING.union(*(p.leaves for p in places))
        if any(p.fitted for p in places) or leaves & self.others:
            return
        if not looked_up.fitted and (looked_up.leaves & (self.others | self.labels) or not leaves & self.labels):
            return  # rows of other data: a lag, say
        labels = leaves & self.labels or leaves & self.constants
        if not labels:
            return
        shape, sizes = operation.invars[0].aval.shape, operation.params['slice_sizes']
        if operation.primitive.name == 'dynamic_slice':
            for axis, place in enumerate(places):
                if place.leaves & labels:
                    yield Use(labels, shape[axis], shape[axis] - sizes[axis], functools.partial(_range, place, ...))
        elif math.prod(operation.invars[1].aval.shape):
            for column, axis in enumerate(operation.params['dimension_numbers'].start_index_map):
                at = functools.partial(_range, places[0], (..., column))
                yield Use(labels, shape[axis], shape[axis] - sizes[axis], at)

    def _in_scan(self, params: dict[str, Any], taken: list[Traced]) -> list[Use]:
        program, length = params['jaxpr'], params['length']
        constants, carry, rows = _split(taken, *scan_counts(params))
        if not length:
            return []

        def step(carry: Sequence[Traced], rows: Sequence[Traced]) -> tuple[list[Traced], list[Use]]:
            return self._run(program.jaxpr, _known(program.consts), (*constants, *carry, *rows))

        flows, uses = _settled(lambda carry: step(carry, rows), carry)

        def ranges() -> list:
            def body(values: list, entries: list) -> tuple[list, list]:
                results, uses = step(_with(flows, values), _with([r.flow for r in rows], entries))
                return _values(results, flows), [use.range() for use in uses]

            start, entries = _values(carry, flows), _values(rows, [r.flow for r in rows])
            lows_and_highs = lax.scan(body, start, entries, length, params['reverse'])[1]
            return [(low.min(), high.max()) for low, high in lows_and_highs]

        return _each(uses, ranges, taken)

    def _in_while(self, params: dict[str, Any], taken: list[Traced]) -> list[Use]:
        test, program = params['cond_jaxpr'], params['body_jaxpr']
        of_test, constants, carry = _split(taken, params['cond_nconsts'], params['body_nconsts'])

        def tested(carry: Sequence[Traced]) -> Traced:
            return self._run(test.jaxpr, _known(test.consts), (*of_test, *carry))[0][0]

        def step(carry: Sequence[Traced]) -> tuple[list[Traced], list[Use]]:
            return self._run(program.jaxpr, _known(program.consts), (*constants, *carry))

        flows, _ = _settled(step, carry)
        goes_on = tested(_with(flows))
        # What `jax.vmap` makes of loops of different lengths goes on while any of them does, and drops the steps of the
        # others.
        together = bool(test.jaxpr.outvars[0].aval.shape)
        if goes_on.fitted or together:  # which steps count is unknown, and what all of them share is known
            return step([Traced.fit(leaves) for leaves, _ in flows])[1]
        uses = step(_with(flows))[1]

        def ranges() -> list:
            def body(state: tuple[list, list]) -> tuple[list, list]:
                results, uses = step(_with(flows, state[0]))
                both = zip(state[1], (use.range() for use in uses), strict=True)
                return _values(results, flows), [(jnp.minimum(a, c), jnp.maximum(b, d)) for (a, b), (c, d) in both]

            start = _values(carry, flows), [_no_range()] * len(uses)
            return lax.while_loop(lambda state: tested(_with(flows, state[0])).value(), body, start)[1]

        return _each(uses, ranges, taken)

    def _in_cond(self, params: dict[str, Any], taken: list[Traced]) -> list[Use]:
        which, *given = taken
        branches = [self._run(b.jaxpr, _known(b.consts), given)[1] for b in params['branches']]
        uses = [use for branch in branches for use in branch]
        if which.fitted:  # any of them may be taken, unless the labels themselves choose
            return [] if which.leaves & (self.labels | self.others) else uses

        def ranges() -> list:
            def taken_branch(number: int) -> list:
                return [use.range() if i == number else _no_range() for i, b in enumerate(branches) for use in b]

            return lax.switch(which.value(), [functools.partial(taken_branch, i) for i in range(len(branches))])

        return _each(uses, ranges, taken)


def _settled(step: Callable, carry: Sequence[Traced]) -> tuple[list, list[Use]]:
    """What the carried numbers of a loop follow from, after any number of steps, and the look-ups of a step."""
    flows = [c.flow for c in carry]
    while True:
        results, uses = step(_with(flows))
        joined = [(a | r.leaves, b or r.fitted) for (a, b), r in zip(flows, results, strict=False)]
        if joined == flows:
            return flows, uses
        flows = joined


def _with(flows: Sequence[tuple[frozenset[int], bool]], values: Sequence[Any] = ()) -> list[Traced]:
    """Numbers of these flows, with the values of those that do not depend on parameters, in order."""
    rest = iter(values)
    return [
        Traced.fit(leaves) if fitted else Traced(leaves, False, functools.partial(lambda x: x, next(rest, None)))
        for leaves, fitted in flows
    ]


def _values(numbers: Sequence[Traced], flows: Sequence[tuple[frozenset[int], bool]]) -> list[Any]:
    return [jnp.asarray(x.value()) for x, (_, fitted) in zip(numbers, flows, strict=False) if not fitted]


def _split(taken: list[Traced], first: int, second: int) -> tuple[list[Traced], list[Traced], list[Traced]]:
    return taken[:first], taken[first : first + second], taken[first + second :]


def _known(values: Sequence[Any]) -> list[Traced]:
    return [Traced.known(x) for x in values]


def _each(uses: list[Use], ranges: Callable[[], list], taken: Sequence[Traced]) -> list[Use]:
    def compute() -> list:
        for x in taken:  # computed outside the loop, once: no value from within it is kept outside
            if not x.fitted:
                x.value()
        return ranges()

    together = Traced(_NOTHING, False, compute)
    return [use._replace(range=functools.partial(_entry, together, i)) for i, use in enumerate(uses)]


def _range(place: Traced, at: Any) -> tuple[jax.Array, jax.Array]:
    x = jnp.asarray(place.value())[at].astype(jnp.result_type(int))
    return x.min(), x.max()


def _no_range() -> tuple[jax.Array, jax.Array]:
    """The range of no number."""
    kind = np.iinfo(jnp.result_type(int))
    return jnp.asarray(kind.max), jnp.asarray(kind.min)


def _results(operation: Any, taken: list[Traced]) -> list[Traced]:
    leaves = _NOTHING.union(*(t.leaves for t in taken))
    fitted = any(t.fitted for t in taken)

    def compute() -> list:
        out = operation.primitive.bind(*(t.value() for t in taken), **operation.params)
        return list(out) if operation.primitive.multiple_results else [out]

    whole_of = Traced(leaves, fitted, compute)
    return [Traced(leaves, fitted, functools.partial(_entry, whole_of, i)) for i in range(len(operation.outvars))]


def _entry(traced: Traced, at: Any) -> Any:
    return traced.value()[at]
