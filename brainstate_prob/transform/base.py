"""The class of transformed functions, and checks of their arguments."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from brainstate_prob.core import ParamState, State

__all__ = ['Transformed', 'check_callable', 'decorator', 'flatten_states', 'jit_is_disabled', 'split_aux']


def check_callable(fun: Any, transform: str) -> None:
    """Raise TypeError unless ``fun`` is callable."""
    if not callable(fun):
        raise TypeError(f'{transform} needs a function as its first argument; got {type(fun).__name__} {fun!r}.')


def decorator(make: Callable[[Callable], Any], fun: Callable | None) -> Any:
    """``make(fun)``, or ``make`` itself if no function is given (``@grad(argnums=0)``)."""
    return make if fun is None else make(fun)


def flatten_states(
    container: Any,
    name: str = 'grad_states',
) -> tuple[list[tuple[tuple, State]], Callable[[list], Any]]:
    """The States of a container with their paths, and a function that rebuilds the structure from a list.

    Raises
    ------
    TypeError
        For an entry that is not a State, with its path.
    """
    entries: list[tuple[tuple, State]] = []

    def walk(path: tuple, x: Any) -> Callable[[list], Any]:
        if isinstance(x, State):
            entries.append((path, x))
            position = len(entries) - 1
            return lambda values: values[position]
        if x is None:
            return lambda values: None
        if isinstance(x, Mapping):
            cls = type(x) if isinstance(x, dict) else dict
            inner = [(k, walk((*path, *(k if isinstance(k, tuple) else (k,))), v)) for k, v in x.items()]
            return lambda values: cls([(k, f(values)) for k, f in inner])
        if isinstance(x, list | tuple):
            parts = [walk((*path, i), v) for i, v in enumerate(x)]
            make: Callable = getattr(type(x), '_make', type(x))  # a named tuple takes its fields as arguments
            return lambda values: make([f(values) for f in parts])
        if callable(getattr(x, 'states', None)):
            return walk(path, x.states(ParamState))
        where = f' at {path}' if path else ''
        raise TypeError(
            f'{name} takes a State, a list, tuple or dict of States, or a Module (its ParamStates); got '
            f'{type(x).__name__}{where}.'
        )

    rebuild = walk((), container)
    return entries, rebuild


def split_aux(out: Any) -> tuple[Any, Any]:
    """The pair that a function with ``has_aux=True`` returned."""
    if not isinstance(out, tuple | list) or len(out) != 2:
        got = f'a {type(out).__name__}' + (f' of {len(out)}' if isinstance(out, tuple | list) else '')
        raise TypeError(f'With has_aux=True the function must return (value, aux); it returned {got}.')
    return out[0], out[1]


def jit_is_disabled() -> bool:
    """Whether ``jax.disable_jit`` is active."""
    return getattr(jax.config, 'jax_disable_jit', False)


class Transformed:
    """A transformed function; as a class attribute it binds to instances like a method."""

    def __init__(self, fun: Callable):
        check_callable(fun, type(self).__name__)
        for name in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(fun, name):
                setattr(self, name, getattr(fun, name))
        self.__wrapped__ = fun
        self.fun = fun

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or not hasattr(self.fun, '__get__'):
            return self
        bound = copy.copy(self)
        bound.fun = self.fun.__get__(instance, owner)
        return bound

    def __repr__(self) -> str:
        return f'<{type(self).__name__} of {getattr(self.fun, "__qualname__", self.fun)!r}>'
