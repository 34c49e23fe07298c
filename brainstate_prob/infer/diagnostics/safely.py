"""Diagnostics after sampling: their failures are reported and do not lose the draws."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ['never_raises']


def never_raises(what: str) -> Callable[[Callable[..., list[str]]], Callable[..., list[str]]]:
    """Decorate a diagnostic: report an exception in it, also Ctrl-C, as one of its problems.

    Examples
    --------
    >>> @never_raises('R-hat')
    ... def check(x):
    ...     return [f'one over it is {1 / x}']
    >>> check(2), check(0)
    (['one over it is 0.5'], ['R-hat could not be computed (ZeroDivisionError: division by zero); the fit is kept.'])
    """

    def decorate(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
        @functools.wraps(function)
        def safe(*args: Any, **kwargs: Any) -> list[str]:
            try:
                return function(*args, **kwargs)
            except (Exception, KeyboardInterrupt) as error:
                text = ' '.join(str(error).split())[:300]
                reason = f'{type(error).__name__}: {text}' if text else type(error).__name__
                return [f'{what} could not be computed ({reason}); the fit is kept.']

        return safe

    return decorate
