"""Keys of the contents of objects, lists and dicts, by path.

Each number, text, array and function that code can read while it is traced has a key by its path, so that a change
is seen, and a counter that the code itself updates can be left out.
"""

from __future__ import annotations

import argparse
import collections
import configparser
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

__all__ = ['Identity', 'attributes_of', 'changed_between', 'is_of_runtime', 'pieces_of']

# The only classes of the standard library that are traversed; locks, files and loggers hold no numbers.
_HOLDERS = (
    types.SimpleNamespace,
    argparse.Namespace,
    collections.UserDict,
    collections.UserList,
    collections.ChainMap,
    configparser.RawConfigParser,
)
# Libraries whose objects are compared by identity: fits, densities, compiled functions.
_OPAQUE = ('jax.', 'jaxlib.', 'brainstate_prob.core.', 'brainstate_prob.infer.', 'brainstate_prob.transform.')
_MANY = 2000  # a list or dict with more items is compared as a whole


class Identity:
    """An object compared by identity; the reference keeps its id from being reused."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Identity) and self.value is other.value

    def __hash__(self):
        return id(self.value)


def pieces_of(
    path: tuple,
    x: Any,
    key: Callable[[Any], Hashable],
    is_whole: Callable[[Any], bool],
    places: dict[int, tuple],
    without: Collection[tuple],
) -> Iterator[tuple[tuple, Hashable]]:
    """``(path, key)`` of ``x`` and of everything in it; an object visited before has its first path.

    Parameters
    ----------
    key
        The key of numbers, texts, arrays, classes, and of what ``is_whole``, such as code.
    places
        By ``id``, the paths of visited objects.
    without
        The paths to skip.
    """
    waiting: list[tuple[tuple, Any]] = [(path, x)]
    while waiting:
        path, x = waiting.pop()
        if path in without:
            continue
        if x is None or isinstance(x, bool | int | float | complex | str | bytes) or is_whole(x):
            yield path, key(x)
        elif id(x) in places:
            yield path, ('again', places[id(x)])
        else:
            places[id(x)] = path
            items = _items(x, key)
            yield path, (key(type(x)), _alone(x, key) if items is None else None)
            waiting += [((*path, name), item) for name, item in items or ()]


def changed_between(before: Mapping[tuple, Hashable], after: Mapping[tuple, Hashable]) -> set[tuple]:
    """The paths that changed. A list or dict that gained or lost items counts as changed as a whole."""
    changed = set()
    for path in before.keys() | after.keys():
        if path not in before or path not in after:
            changed.add(path[:-1] if _is_item(path[-1]) and len(path) > 1 else path)
        elif before[path] != after[path]:
            changed.add(path)
    return changed


def _is_item(name: Hashable) -> bool:
    """Whether a part of a path is a list index or dict key, not an attribute."""
    return isinstance(name, int) or (isinstance(name, tuple) and name[:1] == ('item',))


def _items(x: Any, key: Callable[[Any], Hashable]) -> list[tuple[Hashable, Any]] | None:
    """The parts of ``x`` by name or number; None if it is compared as a whole."""
    own = list(attributes_of(x)) if _is_holder(type(x)) else []
    if isinstance(x, dict | types.MappingProxyType):
        return None if len(x) > _MANY else [*own, *((('item', key(k)), v) for k, v in x.items())]
    if isinstance(x, list | tuple | collections.deque):
        return None if len(x) > _MANY else [*own, *enumerate(x)]
    if isinstance(x, np.ndarray) and x.dtype == object:
        return list(enumerate(x.ravel().tolist()))
    return own or None


def attributes_of(x: Any) -> Iterator[tuple[Hashable, Any]]:
    """The attributes of an object, slots included, without the bookkeeping of this library's nodes."""
    bookkeeping = getattr(type(x), '_not_in_graph', ())
    yield from ((k, v) for k, v in list(getattr(x, '__dict__', {}).items()) if k not in bookkeeping)
    for cls in type(x).__mro__:
        slots = cls.__dict__.get('__slots__', ())
        for name in (slots,) if isinstance(slots, str) else slots:
            hidden = name.startswith('__') and not name.endswith('__')
            full = f'_{cls.__name__.lstrip("_")}{name}' if hidden else name
            if name not in ('__dict__', '__weakref__') and hasattr(x, full):
                yield full, getattr(x, full)


def is_of_runtime(cls: type) -> bool:
    """Whether a class is one of the standard library that holds no numbers: locks, files, loggers."""
    return cls.__module__.split('.')[0] in sys.stdlib_module_names and not issubclass(cls, _HOLDERS)


def _is_holder(cls: type) -> bool:
    return not is_of_runtime(cls) and not f'{cls.__module__}.'.startswith(_OPAQUE)


def _alone(x: Any, key: Callable[[Any], Hashable]) -> Hashable:
    """The key of an object without parts: by value if it has one, else by identity."""
    if isinstance(x, np.ndarray | jax.Array):
        return key(x)
    if isinstance(x, set | frozenset):
        return frozenset(map(key, x))
    module = f'{type(x).__module__}.'
    if isinstance(x, dict | list | tuple) or not (hasattr(x, '__dict__') or module.startswith(_OPAQUE)):
        if type(x).__hash__ not in (None, object.__hash__):
            return x  # numbers, dates, paths
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                return pickle.dumps(x)  # generators of numbers, tables of compiled libraries
            except Exception:  # locks, files
                return Identity(x)
    compares = type(x).__eq__ is not object.__eq__ and type(x).__hash__ is not None
    return x if compares and not _is_holder(type(x)) else Identity(x)
