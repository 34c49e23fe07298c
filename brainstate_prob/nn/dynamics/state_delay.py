"""Delayed values of a State of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from brainstate_prob.core import State
from brainstate_prob.graph import Node
from brainstate_prob.nn.collective import call_order
from brainstate_prob.nn.dynamics.delay import Delay
from brainstate_prob.nn.dynamics.history import targets
from brainstate_prob.nn.layers.shapes import label

__all__ = ['StateWithDelay']


class StateWithDelay(Delay):
    """A `Delay` of a State of a module; ``update()`` stores its current value.

    Parameters
    ----------
    target
        The module.
    item
        The name of the attribute that holds the State. It may be created later, in ``init_state``.
    init, interpolation, **kwargs
        As of `Delay`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> cell = nn.ValinaRNNCell(1, 2)
    >>> past = nn.StateWithDelay(cell, 'h', time=0.3)
    >>> with environ.context(dt=0.1):
    ...     _ = nn.init_all_states(cell), nn.init_all_states(past)
    ...     cell.h.value = jnp.ones(2)
    ...     past.update()
    ...     print(past.retrieve_at_step(0), past.retrieve_at_step(1))
    [1. 1.] [0. 0.]
    """

    _references: ClassVar[frozenset[str]] = frozenset({'_target'})

    def __init__(
        self, target: Node, item: str, init: Any = None, interpolation: str | Callable | None = 'round', **kwargs
    ):
        super().__init__((), init=init, interpolation=interpolation, **kwargs)
        self._target = target
        self.item = item

    @property
    def state(self) -> State:
        """The State."""
        state = getattr(self._target, self.item, None)
        if not isinstance(state, State):
            raise TypeError(
                f'{label(self)}: {self.item!r} of {type(self._target).__name__} is not a State'
                + (' yet; call nn.init_all_states.' if state is None else f' but a {type(state).__name__}.')
            )
        return state

    @call_order(3)
    def init_state(self, *args, **kwargs) -> None:
        """Create the buffer for values like the current one, batch axes included."""
        self.target_info = targets(self.state.value)
        super().init_state()

    def reset_state(self, *args, **kwargs) -> None:
        self.target_info = targets(self.state.value)
        super().reset_state()

    def update(self, *args) -> None:
        """Store the current value of the State; arguments (the output of the module) are ignored."""
        super().update(self.state.value)
