"""Functionalize: convert a function that uses States to a pure function of their values.

Every transform passes a `Pure` function to JAX and writes its results to the States (`Pure.commit`).
Transforms that need the States of a function in advance use a `Discovery`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax

from brainstate_prob.core.state import State
from brainstate_prob.core.trace import StateTrace, current_trace

__all__ = ['Discovery', 'Pure', 'discovering', 'run_once']


class Pure:
    """``fn`` as a pure function ``(values, *args, **kwargs) -> (out, written, created)``.

    Parameters
    ----------
    fn
        A function that may read, write and create States.
    inputs
        The States whose values are the first argument, in this order.
    lift, discover
        See `StateTrace`.

    Notes
    -----
    Only pytrees of arrays can cross a JAX transform, so the results refer to States by number:
    ``written`` is ``{number: value}`` (``states[number]`` is the State; the inputs come first) and ``created`` is
    ``{number: (first value, last value)}`` of the States that outlive the run.

    Examples
    --------
    >>> from brainstate_prob.core import State
    >>> count = State(1)
    >>> def step(by):
    ...     count.value = count.value + by
    >>> pure = Pure(step, [count])
    >>> pure([5], 2)
    (None, {0: 7}, {})
    >>> count.value
    1
    """

    def __init__(
        self, fn: Callable, inputs: Sequence[State] = (), *, lift: Callable | None = None, discover: bool | None = None
    ):
        self.fn = fn
        self.inputs = tuple(inputs)
        self.discover = discover
        self.states: list[State] = list(self.inputs)
        self.made: list[weakref.ref[State]] = []
        self.tainted: set[int] = set()
        self.outside: dict[State, None] = {}
        self.reads: dict[State, None] = {}
        self.unstaged = False
        self.runs = 0
        self._lift = lift
        self._numbers = {state: number for number, state in enumerate(self.states)}
        self._lock = threading.Lock()

    def __call__(self, values: Sequence[Any], /, *args, **kwargs) -> tuple[Any, dict[int, Any], dict[int, Any]]:
        self.runs += 1
        trace = StateTrace(lift=self._lift, discover=self.discover)
        with trace:
            for state, value in zip(self.inputs, values, strict=True):
                trace.bind(state, value)
            out = self.fn(*args, **kwargs)
        self.outside.update(trace.outside)
        self.reads.update(trace.reads)
        self.unstaged |= trace.unstaged
        written = {self._number(s): trace.value_of(s) for s in trace.writes if s not in trace.created}
        return out, written, self._outliving(trace)

    def _number(self, state: State) -> int:
        with self._lock:
            if state not in self._numbers:
                self._numbers[state] = len(self.states)
                self.states.append(state)
            return self._numbers[state]

    def _outliving(self, trace: StateTrace) -> dict[int, tuple[Any, Any]]:
        """The created States that are still referenced outside the trace."""
        if not trace.created:
            return {}
        made = [(weakref.ref(s), s in trace.tainted, first, trace.value_of(s)) for s, first in trace.created.items()]
        for state in list(trace.created):
            self.reads.pop(state, None)
        del state  # or it would count as a reference
        trace.forget()
        created = {}
        for ref, tainted, first, last in made:
            if ref() is None:
                continue
            with self._lock:
                number = len(self.made)
                self.made.append(ref)
            if tainted:
                self.tainted.add(number)
            created[number] = (first, last)
        return created

    def commit(self, written: dict[int, Any], created: dict[int, tuple[Any, Any]]) -> None:
        """Write the results of a run to the States, or to the open trace."""
        for number, value in written.items():
            self.states[number].value = value
        for number, (first, last) in created.items():
            state = self.made[number]()
            if state is None:
                continue
            if not state._has_value():
                state._adopt(first)
                trace = current_trace()
                if trace is not None and number not in self.tainted:
                    trace.tainted.discard(state)
            if last is not first:
                state.value = last


class Discovery:
    """The States that ``fn(*args, **kwargs)`` uses, found by one trace; nothing is written.

    Attributes
    ----------
    pure
        Its ``outside`` are the States whose value is needed, its ``states`` those that are written.
    out, written, created
        As `Pure` returns them, with ``jax.ShapeDtypeStruct`` in place of arrays.
    """

    def __init__(self, fn: Callable, *args, **kwargs):
        self.pure = Pure(fn, discover=True)
        self.compiled = jax.jit(self.pure)
        self._arguments = args, kwargs
        self.out, self.written, self.created = self.compiled.eval_shape([], *args, **kwargs)

    @property
    def states(self) -> list[State]:
        """The States that ``fn`` writes, without those that it creates."""
        return [self.pure.states[number] for number in self.written]

    def _created_values(self, numbers: Sequence[int]) -> list[tuple[Any, Any]]:
        """The values of created States, computed from the existing trace; ``fn`` does not run again."""

        def values(args, kwargs):
            created = self.compiled([], *args, **kwargs)[2]
            return [created[number] for number in numbers]

        return jax.jit(values)(*self._arguments)

    def init_created(self) -> list[State]:
        """Give the States that ``fn`` created their first value, and return those that got one.

        ``fn`` creates States lazily (``if not hasattr(self, 'h')``), and its tracing created them.
        """
        numbers = [n for n in self.created if n not in self.pure.tainted]
        missing = {n: s for n in numbers if (s := self.pure.made[n]()) is not None and not s._has_value()}
        if missing:
            for state, (first, _) in zip(missing.values(), self._created_values(list(missing)), strict=True):
                state._adopt(first)
        return list(missing.values())

    def created_last(self) -> list[Any]:
        """The last values of the created States that have no value yet."""
        numbers = [n for n in self.created if (s := self.pure.made[n]()) is None or not s._has_value()]
        return [last for _, last in self._created_values(numbers)] if numbers else []


def discovering() -> bool:
    """Whether the running code is only traced to find the States that it uses."""
    trace = current_trace()
    return trace is not None and trace.discovering


def run_once(fn: Callable, *args, **kwargs) -> Any:
    """Run the body of a loop or branch once in a discovery, with its writes to States."""
    pure = Pure(fn)
    out, written, created = pure((), *args, **kwargs)
    trace = current_trace()
    if trace is not None:
        trace.mark_unstaged()
    for number in written:
        _ = pure.states[number].value  # a staged body needs the State's previous value
    pure.commit(written, created)
    return out
