"""Diagnostics that run when the draws are there already: what fails in them is told, and costs no draw."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ['never_raises']


def never_raises(what: str) -> Callable[[Callable[..., list[str]]], Callable[..., list[str]]]:
    """Of a function that gives problems in words: an exception in it, Ctrl-C too, is one of them.

    Examples
    --------
    >>> @never_raises('R-hat')
    ... def check(x):
    ...     return [f'one over it is {1 / x}']
    >>> check(2), check(0)
    (['one over it is 0.5'], ['R-hat could not be computed (ZeroDivisionError: division by zero); the fit is whole.'])
    """

    def decorate(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
        @functools.wraps(function)
        def safe(*args: Any, **kwargs: Any) -> list[str]:
            try:
                return function(*args, **kwargs)
            except (Exception, KeyboardInterrupt) as error:
                said = ' '.join(str(error).split())[:300]
                found = f'{type(error).__name__}: {said}' if said else type(error).__name__
                return [f'{what} could not be computed ({found}); the fit is whole.']

        return safe

    return decorate
