"""Keys by structure: what is built alike compares equal, so that a second fit of one structure compiles nothing.

JAX caches compiled code by the identity of the function. ``optax.adam(1e-2)`` written twice, or the same model class
built twice, are new objects each time; here they get equal keys, under which compiled programs are kept.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

__all__ = ['Cache', 'structural_key']


class _ById:
    """An object that only equals itself; the reference keeps its id from being given to another."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _ById) and self.value is other.value

    def __hash__(self):
        return id(self.value)


def structural_key(x: Any) -> Hashable:
    """A hashable key that is equal for things that are built alike.

    Functions are compared by code, closure and defaults; tuples, dicts, partials and arrays by content; other objects
    by their own ``==`` if they are hashable, else by identity.

    Examples
    --------
    >>> def scale(a):
    ...     return lambda x: a * x
    >>> (
    ...     structural_key(scale(2.0)) == structural_key(scale(2.0)),
    ...     structural_key(scale(2.0)) == structural_key(scale(3.0)),
    ... )
    (True, False)
    """
    return _key(x, ())


def _key(x: Any, above: tuple[int, ...]) -> Hashable:
    if id(x) in above:
        return ('cycle', above.index(id(x)))
    above = (*above, id(x))

    def below(items):
        return tuple(_key(item, above) for item in items)

    if isinstance(x, types.FunctionType):
        return (
            'function',
            x.__code__,
            below(_contents(c) for c in x.__closure__ or ()),
            below(x.__defaults__ or ()),
            below((x.__kwdefaults__ or {}).items()),
        )
    if isinstance(x, types.MethodType):
        return ('method', *below((x.__func__, x.__self__)))
    if isinstance(x, functools.partial):
        return ('partial', *below((x.func, x.args, x.keywords)))
    if isinstance(x, list | tuple):
        return (type(x), *below(x))
    if isinstance(x, dict):
        return (type(x), *below(x.items()))
    if isinstance(x, np.ndarray | jax.Array) and not isinstance(x, jax.core.Tracer):
        array = np.asarray(x)
        return ('array', array.shape, str(array.dtype), array.tobytes())
    try:
        hash(x)
    except TypeError:
        return _ById(x)
    return (type(x), x)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: a name that is bound later
        return _ById(cell)


class Cache:
    """Keeps the most recently used results of building something from a key."""

    def __init__(self, size: int = 64):
        self._size = size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What was built for an equal key before, else ``build()``."""
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = build()
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return self._kept[key]

    def clear(self) -> None:
        self._kept.clear()
