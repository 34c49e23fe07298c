"""StateTrace: record every read, write and creation of a State.

While a trace is open, writes go to the trace and not to the State, so nothing has to be undone when a
transform ends or fails, and no tracer remains in a State. Each thread has its own stack of traces.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainstate_prob.core.state import State

__all__ = ['StateTrace', 'TraceError', 'current_trace']


class TraceError(RuntimeError):
    """A State was used in a way that would lose a value or leak a tracer."""


class _Open(threading.local):
    trace: StateTrace | None = None


_open = _Open()


def current_trace() -> StateTrace | None:
    """The innermost open trace of this thread, or None."""
    return _open.trace


class StateTrace:
    """Record the States that a block of code uses, and store what it writes.

    Parameters
    ----------
    lift
        Called as ``lift(state, value)`` at every read of a State that the block has not written; the block sees
        the result. Transforms use it where a State must look different inside (one random key per lane).
        The result is not cached: the same read may come from a deeper JAX trace, whose tracers must not leak.
    discover
        Whether the block is only run to find the States that it uses. Nested loops and branches then run
        their body once instead of staging it, so that discovery stays linear in the depth of nesting.
        None: as in the enclosing trace.

    Attributes
    ----------
    uses, reads, writes
        Dicts with the States as keys, in order of first use.
    outside
        The States whose value was fetched from outside the trace.
    created
        The States made in the block, with their first value.
    unstaged
        Whether a loop or branch was run once instead of staged: later values are right in shape and
        type only. `tainted` are the States created since then.

    Examples
    --------
    >>> from brainstate_prob.core import State, StateTrace
    >>> count = State(1)
    >>> with StateTrace() as trace:
    ...     count.value = count.value + 1
    >>> count.value, trace.value_of(count), list(trace.writes) == [count]
    (1, 2, True)
    """

    def __init__(self, *, lift: Callable[[State, Any], Any] | None = None, discover: bool | None = None):
        self.uses: dict[State, None] = {}
        self.reads: dict[State, None] = {}
        self.writes: dict[State, None] = {}
        self.outside: dict[State, None] = {}
        self.created: dict[State, Any] = {}
        self.tainted: set[State] = set()
        self.unstaged = False
        self.discovering = bool(discover)
        self._inherits = discover is None
        self._lift = lift
        self._values: dict[State, Any] = {}
        self._fetched: dict[State, Any] = {}
        self._parent: StateTrace | None = None

    def __enter__(self) -> StateTrace:
        self._parent = _open.trace
        if self._inherits and self._parent is not None:
            self.discovering = self._parent.discovering
        _open.trace = self
        return self

    def __exit__(self, *exc_info) -> None:
        _open.trace = self._parent

    def bind(self, state: State, value: Any) -> None:
        """Set the value of ``state`` inside the trace without recording a use."""
        self._values[state] = value

    def read(self, state: State) -> Any:
        """The value of ``state`` inside the trace, recorded as a read."""
        self.uses[state] = None
        self.reads[state] = None
        if state in self._values:
            return self._values[state]
        if self._parent is not None:
            value = self._parent.read(state)
        else:
            if state not in self._fetched:
                self._fetched[state] = state._stored()
            value = self._fetched[state]  # later writes of other threads are not seen
        self.outside[state] = None
        return value if self._lift is None else self._lift(state, value)

    def write(self, state: State, value: Any) -> None:
        """Set the value of ``state`` inside the trace, recorded as a write."""
        self.uses[state] = None
        self.writes[state] = None
        self._values[state] = value

    def create(self, state: State, value: Any) -> None:
        """Register a State created inside the trace."""
        self.created[state] = value
        self._values[state] = value
        if self.unstaged:
            self.tainted.add(state)

    def value_of(self, state: State) -> Any:
        """The value of ``state`` inside the trace, without recording a use."""
        return self._values[state]

    def peek(self, state: State, default: Any) -> Any:
        """The value of ``state`` here or in an enclosing trace, without recording a use."""
        if state in self._values:
            return self._values[state]
        return default if self._parent is None else self._parent.peek(state, default)

    def mark_unstaged(self) -> None:
        """Note that a loop or branch was run once instead of staged, here and in enclosing discoveries."""
        trace: StateTrace | None = self
        while trace is not None and trace.discovering:
            trace.unstaged = True
            trace = trace._parent

    def forget(self) -> None:
        """Release all States and values."""
        for record in (
            self.uses,
            self.reads,
            self.writes,
            self.outside,
            self.created,
            self.tainted,
            self._values,
            self._fetched,
        ):
            record.clear()
