"""Functionalize: a function that uses States, as a pure function of their values.

Every transform hands JAX a `Pure` function and gives back to the States what came out of it (`Pure.commit`).
Those that must know beforehand which States a function uses ask a `Discovery`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax

from brainstate_prob.core.state import State
from brainstate_prob.core.trace import StateTrace, current_trace

__all__ = ['Discovery', 'Pure', 'discovering', 'rehearse']


class Pure:
    """``fn`` as a pure function ``(values, *args, **kwargs) -> (out, written, created)``.

    Parameters
    ----------
    fn
        Any function; it may read, write and create States.
    inputs
        The States whose values are given as the first argument, in this order.
    lift, discover
        See `StateTrace`.

    Notes
    -----
    Only pytrees of arrays can cross a JAX transform, so States are known by numbers in what comes out:
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
        self.faked = False
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
        self.faked |= trace.faked
        written = {self._number(s): trace.value_of(s) for s in trace.writes if s not in trace.created}
        return out, written, self._outliving(trace)

    def _number(self, state: State) -> int:
        with self._lock:
            if state not in self._numbers:
                self._numbers[state] = len(self.states)
                self.states.append(state)
            return self._numbers[state]

    def _outliving(self, trace: StateTrace) -> dict[int, tuple[Any, Any]]:
        """What was created and is still referred to from elsewhere once the trace lets go of it."""
        if not trace.created:
            return {}
        made = [(weakref.ref(s), s in trace.tainted, first, trace.value_of(s)) for s, first in trace.created.items()]
        for state in list(trace.created):
            self.reads.pop(state, None)
        del state  # or it would count as a reference from elsewhere
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
        """Give the States what a run left: to the States themselves, or to the trace that is open."""
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
    """What ``fn(*args, **kwargs)`` does to States, found by tracing it once; nothing is written.

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
        """The States that ``fn`` writes, those that it creates left out."""
        return [self.pure.states[number] for number in self.written]

    def _created_values(self, numbers: Sequence[int]) -> list[tuple[Any, Any]]:
        """The values of created States, computed for real; the trace is there already, ``fn`` does not run again."""

        def values(args, kwargs):
            created = self.compiled([], *args, **kwargs)[2]
            return [created[number] for number in numbers]

        return jax.jit(values)(*self._arguments)

    def settle(self) -> list[State]:
        """Give the States that ``fn`` created, and that it will find there from now on, their first value.

        Called when a run misses a value: ``fn`` creates States lazily (``if not hasattr(self, 'h')``), and the
        tracing was what created them. Returns the States that got a value.
        """
        numbers = [n for n in self.created if n not in self.pure.tainted]
        missing = {n: s for n in numbers if (s := self.pure.made[n]()) is not None and not s._has_value()}
        if missing:
            for state, (first, _) in zip(missing.values(), self._created_values(list(missing)), strict=True):
                state._adopt(first)
        return list(missing.values())

    def created_last(self) -> list[Any]:
        """The last values of the States that ``fn`` creates and that have no value yet."""
        numbers = [n for n in self.created if (s := self.pure.made[n]()) is None or not s._has_value()]
        return [last for _, last in self._created_values(numbers)] if numbers else []


def discovering() -> bool:
    """Whether code runs only to find out which States it uses."""
    trace = current_trace()
    return trace is not None and trace.discovering


def rehearse(fn: Callable, *args, **kwargs) -> Any:
    """Run the body of a loop or branch once in a discovery, and do to the States what it does."""
    pure = Pure(fn)
    out, written, created = pure((), *args, **kwargs)
    trace = current_trace()
    if trace is not None:
        trace.fake()
    for number in written:
        _ = pure.states[number].value  # a staged body needs the value that the State has before
    pure.commit(written, created)
    return out
