"""Models of other libraries as Modules: whoever can make one of them into a Module enters a function here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from brainstate_prob.nn.module import Module

__all__ = ['adopted', 'adopts']

WayT = TypeVar('WayT', bound=Callable[[Any], Module | None])

_WAYS: list[Callable[[Any], Module | None]] = []


def adopts(function: WayT) -> WayT:
    """Enter a function that makes a model of another library into a Module; it returns None for anything else."""
    _WAYS.append(function)
    return function


def adopted(model: Any) -> Any:
    """The Module that stands for a model of another library; anything else, Modules included, as it is."""
    if isinstance(model, Module):
        return model
    return next((module for way in _WAYS if (module := way(model)) is not None), model)
