"""What all transforms share: a transformed function that keeps its name, works on methods, and as a decorator."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax

__all__ = ['Transformed', 'check_callable', 'decorator', 'jit_is_disabled']


def check_callable(fun: Any, transform: str) -> None:
    """Raise TypeError for what is no function."""
    if not callable(fun):
        raise TypeError(f'{transform} needs a function as its first argument; got {type(fun).__name__} {fun!r}.')


def decorator(make: Callable[[Callable], Any], fun: Callable | None) -> Any:
    """``make(fun)``; where the function is still to come (``@grad(argnums=0)``), ``make`` itself."""
    return make if fun is None else make(fun)


def jit_is_disabled() -> bool:
    """Whether ``jax.disable_jit`` asks for plain Python, with concrete values throughout."""
    return getattr(jax.config, 'jax_disable_jit', False)


class Transformed:
    """A transformed function. Read from an instance of a class that it is defined in, it is a bound method."""

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
