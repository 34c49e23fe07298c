"""Filters of States, as accepted by `states(*filters)`, converted to predicates of (path, state).

A filter is a type (``ParamState``), a tag (``'encoder'``), a path prefix (``('layers', 0)``), a predicate
``f(path, state) -> bool``, True or ``...`` (everything), False or None (nothing), or a combination by
`any_of`, `all_of` and `not_`; a list of filters means any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ['all_of', 'any_of', 'not_', 'to_predicate']

Predicate = Callable[[tuple, Any], bool]


def to_predicate(spec: Any) -> Predicate:
    """Convert a filter to a predicate of ``(path, value)``.

    Raises
    ------
    TypeError
        If ``spec`` is not a filter.

    Examples
    --------
    >>> from brainstate_prob import ParamState
    >>> is_param = to_predicate(ParamState)
    >>> is_param(('w',), ParamState(1.0))
    True
    """
    if spec is ... or spec is True:
        return lambda path, value: True
    if spec is None or spec is False:
        return lambda path, value: False
    if isinstance(spec, type):
        return lambda path, value: isinstance(value, spec)
    if isinstance(spec, str):
        return lambda path, value: getattr(value, 'tag', None) == spec
    if isinstance(spec, tuple) and all(isinstance(part, str | int) for part in spec):
        return lambda path, value: path[: len(spec)] == spec
    if isinstance(spec, list | tuple | set | frozenset):
        return any_of(*spec)
    if callable(spec):
        return spec
    raise TypeError(
        f'{spec!r} is not a filter. Allowed: a type (ParamState), a tag (str), a path prefix (tuple of names and '
        'indices), a predicate f(path, state), True or ..., False or None, a list of filters (any of them).'
    )


def any_of(*specs: Any) -> Predicate:
    """A filter that matches if any of ``specs`` matches."""
    predicates = [to_predicate(spec) for spec in specs]
    return lambda path, value: any(p(path, value) for p in predicates)


def all_of(*specs: Any) -> Predicate:
    """A filter that matches if all of ``specs`` match."""
    predicates = [to_predicate(spec) for spec in specs]
    return lambda path, value: all(p(path, value) for p in predicates)


def not_(spec: Any) -> Predicate:
    """A filter that matches if ``spec`` does not."""
    predicate = to_predicate(spec)
    return lambda path, value: not predicate(path, value)
