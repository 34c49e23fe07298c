"""Lists, tuples, dicts and other containers of nodes and States: their items, and how to rebuild them."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from brainstate_prob.core import State

__all__ = ['form_of', 'is_container', 'items_of', 'rebuilt', 'within']


def is_container(value: Any) -> bool:
    """Whether ``value`` is searched for nodes and States.

    Dicts, lists, tuples, deques, namespaces and arrays of objects; instances of dataclasses that hold nodes or States.
    Sets are not: their items have no order, so that paths would differ between processes.
    """
    cls: Any = type(value)
    return _may_hold(value) and (_kind_of(cls) != 'dataclass' or _holds(value))


def _may_hold(value: Any) -> bool:
    cls: Any = type(value)
    kind = _kind_of(cls)
    if kind == 'array':
        return value.dtype == object
    return kind == 'container' or (kind == 'dataclass' and _is_plain(value))


@functools.lru_cache(maxsize=1024)
def _kind_of(cls: type) -> str:
    """Whether instances of a class can be containers."""
    if issubclass(cls, dict | list | tuple | deque | types.SimpleNamespace):
        return 'container'
    if issubclass(cls, np.ndarray):
        return 'array'
    if dataclasses.is_dataclass(cls) and not issubclass(cls, State) and not hasattr(cls, '_not_in_graph'):
        return 'dataclass'
    return 'leaf'


def _is_in_graph(value: Any) -> bool:
    return isinstance(value, State) or hasattr(type(value), '_not_in_graph')


def _holds(value: Any, above: tuple[int, ...] = ()) -> bool:
    if _is_in_graph(value):
        return True
    if id(value) in above or not _may_hold(value):
        return False
    return any(_holds(item, (*above, id(value))) for _, item in items_of(value))


def within(container: Any, path: tuple[Any, ...], above: tuple[int, ...]) -> tuple[int, ...]:
    """The enclosing containers of an item, and the container itself, by id.

    Parameters
    ----------
    path
        Of the container, for the message.
    above
        The enclosing containers.

    Raises
    ------
    ValueError
        If a container contains itself, since the paths of its items would not end.
    """
    if id(container) in above:
        first = path[: len(path) - len(above) + above.index(id(container))]
        raise ValueError(
            f'The {type(container).__name__} at {_indexed(first)} contains itself, at {_indexed(path)}, so that what '
            'it holds has no one path. Take it out, or keep a name or an index there in its place; Modules may refer '
            'to each other.'
        )
    return (*above, id(container))


def _indexed(path: tuple[Any, ...]) -> str:
    """A path in a container as Python code."""
    return ''.join([str(path[0]), *(f'[{key!r}]' for key in path[1:])]) if path else 'the root'


def _is_plain(value: Any) -> bool:
    """Whether a dataclass has exactly its fields, so that they can rebuild it."""
    names = {f.name for f in dataclasses.fields(value)}
    return getattr(value, '__dict__', {}).keys() <= names and all(hasattr(value, name) for name in names)


def items_of(container: Any) -> list[tuple[Any, Any]]:
    """The (key, item) pairs of a container; mappings in sorted order."""
    if isinstance(container, types.SimpleNamespace):
        return sorted(vars(container).items())
    if isinstance(container, dict):
        return sorted(container.items(), key=lambda item: (type(item[0]).__name__, item[0]))
    if isinstance(container, np.ndarray):
        return list(enumerate(container.ravel()))
    if isinstance(container, list | tuple | deque):
        return list(enumerate(container))
    return [(f.name, getattr(container, f.name)) for f in dataclasses.fields(container)]


def form_of(container: Any) -> tuple[Any, ...]:
    """What a container needs beside its items to be rebuilt: the order of a dict, a length, a shape."""
    if isinstance(container, defaultdict):
        return (tuple(container), container.default_factory)
    if isinstance(container, dict):
        return (tuple(container),)
    if isinstance(container, deque):
        return (container.maxlen,)
    if isinstance(container, np.ndarray):
        return container.shape
    return ()


def rebuilt(kind: Any, form: Sequence[Any], items: Iterable[tuple[Any, Any]]) -> Any:
    """Build a container of class ``kind`` from items."""
    if issubclass(kind, types.SimpleNamespace):
        return kind(**dict(items))
    if issubclass(kind, dict):
        by_key = dict(items)
        ordered = ((key, by_key[key]) for key in form[0])
        return kind(form[1], ordered) if issubclass(kind, defaultdict) else kind(ordered)
    if dataclasses.is_dataclass(kind):
        cls: Any = kind
        made = object.__new__(cls)
        for name, value in items:
            object.__setattr__(made, name, value)  # works for frozen dataclasses
        return made
    values = [value for _, value in items]
    if issubclass(kind, deque):
        return kind(values, form[0])
    if issubclass(kind, np.ndarray):
        array = np.empty(len(values), object)
        for i, value in enumerate(values):
            array[i] = value  # one by one, since NumPy would expand sequences
        return array.reshape(tuple(form))
    return kind(*values) if hasattr(kind, '_fields') else kind(values)
