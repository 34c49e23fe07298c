"""State and its subclasses: mutable values whose reads and writes open traces record."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from brainstate_prob.core.filters import to_predicate
from brainstate_prob.core.trace import TraceError, current_trace

__all__ = [
    'BatchState',
    'DelayState',
    'HiddenState',
    'LongTermState',
    'ParamState',
    'ShortTermState',
    'State',
    'catch_new_states',
    'maybe_state',
]

_S = TypeVar('_S', bound='State')


class _Unset:
    def __repr__(self):
        return '<no value>'

    def __reduce__(self):
        return '_UNSET'


_UNSET = _Unset()


def holds_tracer(value: Any) -> bool:
    """Whether any leaf of ``value`` is a JAX tracer."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


class State:
    """A mutable reference to one pytree.

    Parameters
    ----------
    value
        Any pytree; a State stands for its value.
    name
        A label for messages.
    tag
        A label for filters (``model.states('tag')``).
    **metadata
        Kept in ``state.metadata``.

    Raises
    ------
    TraceError
        If a traced value is assigned outside the transforms of this package (under ``jax.jit``, say),
        since the value would be lost when the trace ends.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import State, transform
    >>> count = State(jnp.array(0))
    >>> @transform.jit
    ... def step():
    ...     count.value = count.value + 1
    >>> step()
    >>> int(count.value)
    1
    """

    def __init__(self, value: Any, name: str | None = None, *, tag: str | None = None, **metadata):
        if isinstance(value, State):
            value = value.value
        self.name = name
        self.tag = tag
        self.metadata = metadata
        self._value: Any = _UNSET
        self._adopt(value)
        for catcher in _catchers.open:
            catcher.catch(self)

    @property
    def value(self) -> Any:
        """The value; inside a transform, the traced value."""
        trace = current_trace()
        return self._stored() if trace is None else trace.read(self)

    @value.setter
    def value(self, value: Any) -> None:
        if isinstance(value, State):
            value = value.value
        trace = current_trace()
        if trace is not None:
            trace.write(self, value)
            return
        if holds_tracer(value) and not holds_tracer(self._value):
            raise TraceError(
                f'{self._label()} was assigned a traced value outside the transforms of brainstate_prob. The value '
                'would be lost when the trace ends. Use brainstate_prob.transform.jit, grad, vmap, ... in place of the '
                'ones of jax.'
            )
        self._value = value

    def _stored(self) -> Any:
        """The value stored in the State itself, whatever traces are open."""
        if self._value is _UNSET:
            raise TraceError(
                f'{self._label()} has no value: it was created inside a transform that failed or was only traced. '
                'Create it again outside, or run the transform to its end.'
            )
        return self._value

    def _adopt(self, value: Any) -> None:
        """Set the first value of a new State, in the open trace if there is one."""
        trace = current_trace()
        if trace is None:
            self._value = value
        else:
            trace.create(self, value)

    def _has_value(self) -> bool:
        """Whether the State has a value; false if its creation was only traced."""
        return self._peek() is not _UNSET

    def _peek(self) -> Any:
        trace = current_trace()
        return self._value if trace is None else trace.peek(self, self._value)

    def split_lanes(self, value: Any) -> tuple[Any, Callable[[Any], Any]] | None:
        """How a State shared by all lanes behaves under a mapped axis; None: every lane sees ``value``.

        A State that must differ between lanes (a random stream) returns its value outside after
        the mapped call, and a function from the lane's index to the lane's value.
        """
        return None

    def restore_value(self, value: Any) -> None:
        """Assign to ``value``."""
        self.value = value

    def copy(self: _S) -> _S:
        """A new State of the same kind with the same value, name and metadata."""
        return self.replace(self.value)

    def replace(self: _S, value: Any) -> _S:
        """A new State of the same kind with another value."""
        return type(self)(value, name=self.name, tag=self.tag, **self.metadata)

    def _label(self) -> str:
        return f'{type(self).__name__} {self.name!r}' if self.name else type(self).__name__

    def __repr__(self) -> str:
        name = '' if self.name is None else f', name={self.name!r}'
        return f'{type(self).__name__}({self._peek()!r}{name})'


class ShortTermState(State):
    """A State that is reset in each episode (delays, fixed masks)."""


class LongTermState(State):
    """A State that is kept across episodes (metrics, statistics)."""


class ParamState(LongTermState):
    """A trainable State, updated by optimizers and samplers."""


class HiddenState(ShortTermState):
    """A recurrent activation or another dynamical variable."""

    @property
    def varshape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(self.value.shape)

    @property
    def num_state(self) -> int:
        """The number of variables along the last axis: 1 for a plain hidden state."""
        return 1


class BatchState(LongTermState):
    """Running statistics of a batch (normalization layers)."""


class DelayState(ShortTermState):
    """A ring buffer of past values."""


def maybe_state(value: Any) -> Any:
    """The value of a State; anything else unchanged."""
    return value.value if isinstance(value, State) else value


class _Catchers(threading.local):
    open: tuple[_Catcher, ...] = ()


class _Catcher:
    def __init__(self, tag: str | None, exclude):
        self.states: list[State] = []
        self._tag = tag
        self._exclude = exclude

    def catch(self, state: State) -> None:
        if self._exclude is not None and self._exclude((), state):
            return
        if self._tag is not None:
            state.tag = self._tag
        self.states.append(state)


_catchers = _Catchers()


@contextlib.contextmanager
def catch_new_states(state_tag: str | None = None, state_to_exclude: Any = None):
    """Collect the States created in the block in a list, in order.

    Parameters
    ----------
    state_tag
        The tag that collected States get.
    state_to_exclude
        A filter (see `brainstate_prob.core.filters`): States that match are not collected.

    Examples
    --------
    >>> from brainstate_prob import State, catch_new_states
    >>> with catch_new_states('mine') as new:
    ...     s = State(1.0)
    >>> new == [s], s.tag
    (True, 'mine')
    """
    catcher = _Catcher(state_tag, None if state_to_exclude is None else to_predicate(state_to_exclude))
    before = _catchers.open
    _catchers.open = (*before, catcher)
    try:
        yield catcher.states
    finally:
        _catchers.open = before
