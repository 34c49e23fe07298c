"""Errors for wrong calls (misspelt and positional arguments), and the caller's line for warnings."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, ParamSpec, TypeVar

__all__ = ['caller_of_named', 'named', 'nearest', 'synonyms', 'too_many_arguments', 'unknown_argument', 'users_line']

P = ParamSpec('P')
R = TypeVar('R')

# Names used by other libraries and by earlier versions of this one.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    'bijector': ('t',),
    'draws': ('num_samples', 'num_draws'),
    'epochs': ('num_steps',),
    'every': ('checkpoint_every',),
    'fit': ('init',),
    'hyper': ('params',),
    'max_steps': ('num_steps',),
    'mode': ('init',),
    'observed': ('targets',),
    'prior': ('reg',),
    'priors': ('reg',),
    'reference': ('init',),
    'start': ('init',),
    'transform': ('t',),
    'tune': ('num_warmup',),
    'x': ('inputs',),
    'y': ('targets',),
}


def nearest(word: Any, words: Iterable[str]) -> str:
    """``Did you mean 'x'?`` if one of the words is close to ``word``, else an empty string."""
    by_lower = {w.lower(): w for w in words}
    close = difflib.get_close_matches(str(word).lower(), by_lower, 1, 0.5)
    return f'Did you mean {by_lower[close[0]]!r}?' if close else ''


def unknown_argument(function: str, given: str, names: list[str]) -> TypeError:
    """The error for an unknown argument, with the probable one and all that exist.

    Examples
    --------
    >>> print(unknown_argument('nuts', 'num_sample', ['posterior', 'num_samples']))
    nuts has no argument 'num_sample'. Did you mean 'num_samples'? Its arguments are: posterior, num_samples.
    """
    meant = [name for name in _ELSEWHERE.get(given.lower(), ()) if name in names]
    hint = f' Did you mean {meant[0]!r}?' if meant else ''
    near = f' {nearest(given, names)}'.rstrip()
    return TypeError(
        f'{function} has no argument {given!r}.{hint or near} Its arguments are: {", ".join(names) or "none"}.'
    )


def too_many_arguments(function: str, args: tuple, parameters: Mapping[str, inspect.Parameter]) -> TypeError:
    """The error for too many positional arguments, with those to pass by name."""
    known = {name: p for name, p in parameters.items() if name != 'self'}
    by_place = [name for name, p in known.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    by_name = [name for name in known if name not in by_place]
    kinds = ', '.join(type(x).__name__ for x in args)
    posterior = (
        ' Put the model and its data into a Posterior first: infer.Posterior(model, inputs, targets).'
        if by_place == ['posterior']
        else ''
    )
    rest = f' Pass by name: {", ".join(by_name)}.' if by_name else ''
    return TypeError(
        f'{function} takes {len(by_place)} argument{"" if len(by_place) == 1 else "s"} by position '
        f'({", ".join(by_place) or "none"}), got {len(args)}: {kinds}.{posterior}{rest}'
    )


def named(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function (or ``__init__``): a misspelt argument raises an error with the probable name.

    Its signature stays what it is, for `inspect.signature`, editors and type checkers.

    Examples
    --------
    >>> @named
    ... def draw(num_samples=100):
    ...     return num_samples
    >>> draw(num_sample=3)
    Traceback (most recent call last):
    ...
    TypeError: draw has no argument 'num_sample'. Did you mean 'num_samples'? Its arguments are: num_samples.
    """
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return function
    names = [
        name for name, p in parameters.items() if name != 'self' and p.kind is not inspect.Parameter.VAR_POSITIONAL
    ]
    title = function.__qualname__.removesuffix('.__init__')
    kinds = [p.kind for p in parameters.values()]
    many = inspect.Parameter.VAR_POSITIONAL in kinds
    most = None if many else sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds)
    given = 1 if 'self' in parameters else 0  # where the user's own arguments begin

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise unknown_argument(title, name, names)
        if most is not None and len(args) > most:
            raise too_many_arguments(title, args[given:], parameters)
        return function(*args, **kwargs)

    return call


def synonyms(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that accepts arguments by other names as well: ``synonyms(prior='reg')``.

    Raises
    ------
    TypeError
        If a call gives both.

    Examples
    --------
    >>> @synonyms(prior='reg')
    ... def parameter(reg=None):
    ...     return reg
    >>> parameter(prior=1.0)
    1.0
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        title = function.__qualname__.removesuffix('.__init__')

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for other in names.keys() & kwargs.keys():
                name = names[other]
                if name in kwargs:
                    raise TypeError(f'{title}: {name}= and {other}= are the same argument. Give one of them.')
                kwargs[name] = kwargs.pop(other)
            return function(*args, **kwargs)

        return call

    return decorate


def caller_of_named() -> str:
    """The module that has called the innermost function under `named` which is running; empty where there is none."""
    frame: FrameType | None = sys._getframe(1)
    for is_wrapper in (False, True):  # up to the wrapper, and past it
        while frame is not None and (frame.f_globals.get('__name__') == __name__) is is_wrapper:
            frame = frame.f_back
    return '' if frame is None else str(frame.f_globals.get('__name__', ''))


def users_line() -> int:
    """The ``stacklevel`` with which `warnings.warn`, called from here, reports the user's line."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and str(frame.f_globals.get('__name__', '')).split('.')[0] == 'brainstate_prob':
        frame, level = frame.f_back, level + 1
    return level
