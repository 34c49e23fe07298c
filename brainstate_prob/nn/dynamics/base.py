"""Dynamics: modules that advance one time step per call, with hooks before and after."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from brainstate_prob.nn.dynamics.prefetch import OutputDelayAt, Prefetch, PrefetchDelayAt
from brainstate_prob.nn.kinds import DynamicsNode
from brainstate_prob.nn.layers.shapes import label
from brainstate_prob.nn.module import Module

__all__ = ['Dynamics', 'DynamicsGroup']


class DynamicsGroup(Module):
    """A container of several dynamics; a subclass defines how a step runs through them.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> net = nn.DynamicsGroup()
    >>> net.first, net.second = nn.Dynamics(3), nn.Dynamics(3)
    >>> list(net.nodes(nn.Dynamics))
    [('first',), ('second',)]
    """


class Dynamics(DynamicsNode, Module):
    """A module that advances by one time step per call.

    A call runs the before-hooks (without arguments), ``update``, then the after-hooks with what ``update`` returned.

    Parameters
    ----------
    in_size
        The shape of one copy's variables without batch axes, an int or a tuple; ``out_size`` is the same.

    Raises
    ------
    TypeError, ValueError
        If ``in_size`` is not a shape.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import HiddenState, nn
    >>> class Leak(nn.Dynamics):
    ...     def init_state(self):
    ...         self.v = HiddenState(jnp.ones(self.varshape))
    ...
    ...     def update(self, x):
    ...         self.v.value = 0.5 * self.v.value + x
    ...         return self.v.value
    >>> cell = nn.init_all_states(Leak(2))
    >>> cell.add_after_update('print', print)
    >>> _ = cell(1.0)
    [1.5 1.5]
    """

    def __init__(self, in_size: Any, name: str | None = None):
        super().__init__(name)
        sizes = in_size if isinstance(in_size, list | tuple) else (in_size,)
        if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in sizes):
            raise TypeError(f'{label(self)}: in_size must be an int or a tuple of ints, got {in_size!r}.')
        if not sizes or min(sizes) < 1:
            raise ValueError(f'{label(self)}: in_size must hold positive sizes, got {in_size!r}.')
        self.in_size = self.out_size = tuple(sizes)
        self.before_updates: dict[Hashable, Callable] = {}
        self.after_updates: dict[Hashable, Callable] = {}

    @property
    def varshape(self) -> tuple[int, ...]:
        """The shape of one copy's variables, without batch axes."""
        return self.in_size or ()

    def __call__(self, *args, **kwargs):
        for hook in self.before_updates.values():
            hook()
        out = self.update(*args, **kwargs)
        for hook in self.after_updates.values():
            hook(out)
        return out

    # Hooks

    def add_before_update(self, key: Hashable, fun: Callable) -> None:
        """Call ``fun()`` before every step."""
        self.before_updates = self._with(self.before_updates, key, fun)

    def add_after_update(self, key: Hashable, fun: Callable) -> None:
        """Call ``fun(output)`` after every step."""
        self.after_updates = self._with(self.after_updates, key, fun)

    def get_before_update(self, key: Hashable) -> Callable:
        """The hook with this key."""
        return self._find(self.before_updates, key)

    def get_after_update(self, key: Hashable) -> Callable:
        """The hook with this key."""
        return self._find(self.after_updates, key)

    def has_before_update(self, key: Hashable) -> bool:
        """Whether there is a hook with this key."""
        return key in self.before_updates

    def has_after_update(self, key: Hashable) -> bool:
        """Whether there is a hook with this key."""
        return key in self.after_updates

    def _with(self, hooks: dict[Hashable, Callable], key: Hashable, fun: Callable) -> dict[Hashable, Callable]:
        if key in hooks:
            raise KeyError(f'{label(self)} has a hook {key!r} already; use another key.')
        if not callable(fun):
            raise TypeError(f'{label(self)}: the hook {key!r} must be callable, got {type(fun).__name__}.')
        return {**hooks, key: fun}

    def _find(self, hooks: dict[Hashable, Callable], key: Hashable) -> Callable:
        if key not in hooks:
            raise KeyError(f'{label(self)} has no hook {key!r}; it has {list(hooks)}.')
        return hooks[key]

    # References to attributes that are created later

    def prefetch(self, item: str):
        """A `Prefetch` of an attribute that may be created later."""
        return Prefetch(self, item)

    def prefetch_delay(
        self, state: str, *time_and_index, init: Any = None, interpolation: str | Callable | None = None, **kwargs
    ):
        """A `PrefetchDelayAt`: a past value of a State."""
        return PrefetchDelayAt(self, state, *time_and_index, delay_init=init, interpolation=interpolation, **kwargs)

    def output_delay(self, *time_and_index, init: Any = None, interpolation: str | Callable | None = None, **kwargs):
        """An `OutputDelayAt`: a past output of ``update``."""
        return OutputDelayAt(self, *time_and_index, delay_init=init, interpolation=interpolation, **kwargs)
