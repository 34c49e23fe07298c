"""Functions that refer to nodes of a graph, rebuilt in a copy of the graph to refer to the copied nodes."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

__all__ = ['bound_again', 'is_function', 'outline_of']


@dataclasses.dataclass(frozen=True)
class _At:
    """A node or State of the graph, by its number."""

    number: int


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A method, partial, closure or container that refers to nodes, and its parts."""

    whole: Any
    parts: tuple[Any, ...]


class _RefersToItself(Exception):
    """A closure in one of its own cells (a recursive function): it is left unchanged."""


def is_function(value: Any) -> bool:
    """Whether ``value`` is a bound method, a partial or a Python function."""
    return isinstance(value, types.MethodType | types.FunctionType | functools.partial)


def outline_of(function: Any, numbers: Mapping[int, int]) -> Any:
    """``function`` with references to nodes replaced by their numbers; None if it refers to no node.

    Parameters
    ----------
    numbers
        By ``id``, the nodes and States of the graph.
    """
    try:
        outline = _outline(function, numbers, ())
    except _RefersToItself:
        return None
    return outline if isinstance(outline, _Parts) else None


def _parts(x: Any) -> tuple[Any, ...]:
    """The parts of a function or plain container that may refer to nodes."""
    if isinstance(x, types.MethodType):
        return (x.__func__, x.__self__)
    if isinstance(x, functools.partial):
        return (x.func, x.args, x.keywords)
    if isinstance(x, types.FunctionType):
        return (*map(_contents, x.__closure__ or ()), x.__defaults__, x.__kwdefaults__)
    if type(x) in (list, tuple):
        return tuple(x)
    return tuple(x.values()) if type(x) is dict else ()


def _outline(x: Any, numbers: Mapping[int, int], above: tuple[int, ...]) -> Any:
    if id(x) in numbers:
        return _At(numbers[id(x)])
    if id(x) in above:
        raise _RefersToItself
    parts = _parts(x)
    outlines = tuple(_outline(part, numbers, (*above, id(x))) for part in parts)
    return _Parts(x, outlines) if any(isinstance(o, _At | _Parts) for o in outlines) else x


def bound_again(outline: Any, made: Mapping[int, Any]) -> Any:
    """Rebuild a function from its outline, with nodes by number."""
    if isinstance(outline, _At):
        return made[outline.number]
    if not isinstance(outline, _Parts):
        return outline
    x, parts = outline.whole, [bound_again(part, made) for part in outline.parts]
    if isinstance(x, types.MethodType):
        return types.MethodType(*parts)
    if isinstance(x, functools.partial):
        return functools.partial(parts[0], *parts[1], **parts[2])
    if isinstance(x, types.FunctionType):
        *cells, defaults, keyword_defaults = parts
        new = types.FunctionType(x.__code__, x.__globals__, x.__name__, defaults, tuple(map(_cell, cells)))
        new.__kwdefaults__, new.__qualname__, new.__module__ = keyword_defaults, x.__qualname__, x.__module__
        new.__dict__.update(vars(x))
        return new
    return dict(zip(x, parts, strict=True)) if isinstance(x, dict) else type(x)(parts)


class _Empty:
    """The content of an empty cell."""


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _Empty


def _cell(content: Any) -> types.CellType:
    return types.CellType() if content is _Empty else types.CellType(content)
