"""Structural keys: objects built alike have equal keys, so that a second fit of one structure compiles nothing.

JAX caches compiled code by the identity of the function. ``optax.adam(1e-2)`` written twice, or the same model class
built twice, are new objects each time; here they get equal keys, under which compiled programs are kept. A key has
what a function can read when it is traced: its code, closure, defaults and the globals that it names.
"""

from __future__ import annotations

import collections
import dis
import functools
import hashlib
import pathlib
import sys
import sysconfig
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from brainstate_prob.core.contents import Identity, attributes_of, pieces_of

__all__ = [
    'LIBRARIES',
    'Cache',
    'Identity',
    'array_digest',
    'attributes_of_class',
    'code_and_contents',
    'globals_of',
    'is_users',
    'structural_key',
]

# Functions of these libraries are fixed: their globals do not change between two fits.
LIBRARIES = tuple(
    {
        *(sysconfig.get_path(name) for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')),
        str(pathlib.Path(__file__).resolve().parents[1]),
        '<frozen',
    }
)

# Globals of these types always count by content.
_OF_CODE = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    property,
    functools.partial,
    types.FunctionType,
    types.MethodType,
    types.ModuleType,
    types.BuiltinFunctionType,
)


def array_digest(x: Any) -> Hashable:
    """Shape, dtype and a hash of the bytes of an array (random keys included)."""
    dtype = str(x.dtype)
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    array = np.asarray(x)
    return array.shape, dtype, hashlib.blake2b(array.tobytes(), digest_size=16).digest()


def structural_key(x: Any, known: Mapping[int, Hashable] | None = None, *, objects: bool = True) -> Hashable:
    """A hashable key that is equal for objects built alike.

    Functions are compared by code, closure, defaults and the globals that their code names; classes by identity and
    the functions and values in them; tuples, dicts, partials and arrays by content; other objects by their own
    ``==`` if they define it and are hashable, else by identity, class and content.

    Parameters
    ----------
    known
        By ``id``, the keys of objects that are not traversed (the nodes of an object graph, say).
    objects
        Whether objects, lists and dicts in globals and classes count by content; else by class.

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
    return _Walk(known or {}, objects).key(x)


def code_and_contents(
    x: Any,
    attributes: Mapping[Hashable, Any],
    known: Mapping[int, Hashable],
    without: Callable[[Hashable], Collection[tuple]],
) -> tuple[Hashable, dict[tuple, Hashable]]:
    """The key of the code of ``x``, and the contents of the objects that it can reach, by path.

    Code is functions, classes, and the numbers, texts and arrays among their globals, closures and attributes; config
    objects, dicts and lists among these, and ``attributes``, are contents.
    ``without(code)`` gives the paths to leave out.
    """
    walk = _Walk(known, objects=False)
    walk.contents = {}
    code = walk._value_key(x)
    walk.waiting += [((name,), value) for name, value in attributes.items()]
    return code, walk.read(without(code))


class _Walk:
    """One computation of a key. An object visited before is written as its number."""

    def __init__(self, known: Mapping[int, Hashable], objects: bool):
        self._known, self._objects = known, objects
        self.contents: dict[tuple, Hashable] | None = None  # of objects, if their contents are collected
        self.waiting: list[tuple[tuple, Any]] = []
        self._outside = False  # inside a global or a class
        self._places: dict[int, int] = {}
        self._alive: list[Any] = []  # ids stay those of these objects while they are compared

    def key(self, x: Any) -> Hashable:
        if x is None or isinstance(x, bool | int | float | complex | str | bytes):
            return (type(x), x if x == x else 'nan')
        if id(x) in self._known:
            return ('known', self._known[id(x)])
        if isinstance(x, type):
            self._alive.append(x)
            return self._class(x)
        if id(x) in self._places:
            return ('again', self._places[id(x)])
        self._places[id(x)] = len(self._places)
        self._alive.append(x)
        return self._content(x)

    def _below(self, items: Any) -> tuple:
        return tuple(self.key(item) for item in items)

    def _named(self, items: Any) -> tuple:
        return tuple((name, self.key(value)) for name, value in items)

    def _outer(self, items: Any, owner: Any) -> tuple:
        """The keys of globals or class attributes by name."""
        before, self._outside = self._outside, True
        keys = tuple((name, self._value_key(x, Identity(owner), name)) for name, x in items)
        self._outside = before
        return keys

    def _value_key(self, x: Any, *place: Hashable) -> Hashable:
        """The key of a value that code reads, at ``place``, or of this object."""
        if self._objects or _counts(x) or id(x) in self._known:
            return self.key(x)
        if self.contents is None:
            return self._class(type(x)) if self._outside else self.key(x)
        if isinstance(x, tuple):
            return (type(x), *(self._value_key(item, *place, i) for i, item in enumerate(x)))
        self._alive.append(x)
        self.waiting.append((place or (Identity(x),), x))
        return (self._class(type(x)), place or Identity(x))

    def _is_whole(self, x: Any) -> bool:
        return id(x) in self._known or _is_code(x)

    def read(self, without: Collection[tuple]) -> dict[tuple, Hashable]:
        """The contents of all visited objects, and of those that their code reaches."""
        contents: dict[tuple, Hashable] = {}
        places: dict[int, tuple] = {}
        self._outside = True
        while self.waiting:
            path, x = self.waiting.pop()
            contents.update(pieces_of(path, x, self.key, self._is_whole, places, without))
        return contents

    def _class(self, x: type) -> Hashable:
        if not is_users(x.__module__):
            return x
        if id(x) in self._places:
            return ('again', self._places[id(x)])
        self._places[id(x)] = len(self._places)
        return ('class', x, self._outer(attributes_of_class(x), x), tuple(map(self._class, x.__bases__)))

    def _content(self, x: Any) -> Hashable:
        if isinstance(x, types.FunctionType):
            return (
                'function',
                x.__code__,
                tuple(self._value_key(_cell_contents(c)) for c in x.__closure__ or ()),
                tuple(map(self._value_key, x.__defaults__ or ())),
                tuple((name, self._value_key(value)) for name, value in (x.__kwdefaults__ or {}).items()),
                tuple((name, self._value_key(value)) for name, value in vars(x).items()),
                self._outer(globals_of(x), x.__globals__),
            )
        if isinstance(x, types.MethodType):
            return ('method', self.key(x.__func__), self._value_key(x.__self__))
        if isinstance(x, functools.partial):
            keywords = tuple((name, self._value_key(value)) for name, value in x.keywords.items())
            return ('partial', self.key(x.func), self._value_key(x.args), keywords)
        if isinstance(x, list | tuple):
            return (type(x), *self._below(x))
        if isinstance(x, dict):
            return (type(x), *((self.key(k), self.key(v)) for k, v in x.items()))
        if isinstance(x, np.ndarray | jax.Array) and not isinstance(x, jax.core.Tracer):
            if x.dtype == object:
                return ('objects', x.shape, *self._below(x.ravel()))
            return ('array', array_digest(x))
        if isinstance(x, property):
            return ('property', self.key(x.fget))
        if isinstance(getattr(x, '__wrapped__', None), types.FunctionType):  # under a decorator
            return ('wrapped', Identity(x), self.key(x.__wrapped__))
        return self._object(x)

    def _object(self, x: Any) -> Hashable:
        if isinstance(x, types.ModuleType | types.BuiltinFunctionType | jax.core.Tracer):
            return Identity(x)

        def own() -> tuple:
            return self._class(type(x)), self._named(attributes_of(x))

        if type(x).__eq__ is not object.__eq__:
            try:
                hash(x)
            except TypeError:
                pass
            else:  # mutable objects of the user count by content as well
                return (type(x), x, own() if is_users(type(x).__module__) else None)
        return (Identity(x), *own())


def _is_code(x: Any) -> bool:
    """Whether ``x`` is a number, a text or code (functions decorated by `jax.jit` included)."""
    return isinstance(x, _OF_CODE) or isinstance(getattr(x, '__wrapped__', None), types.FunctionType)


def _counts(x: Any) -> bool:
    """Whether a global always counts by content: numbers, texts, arrays, code, and tuples of these."""
    if x is None or _is_code(x):
        return True
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        return x.dtype != object
    return isinstance(x, tuple) and all(map(_counts, x))


def _cell_contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the name is bound later
        return Identity(cell)


def is_users(module: str | None) -> bool:
    """Whether a module is the user's own, not part of an installed library."""
    file = getattr(sys.modules.get(module or ''), '__file__', None)
    return file is None or not file.startswith(LIBRARIES)


class _Names(NamedTuple):
    """The names in a function's code, inner functions included."""

    globals: tuple[str, ...]
    imports: tuple[str, ...]  # modules that it imports itself
    all: tuple[str, ...]  # attributes, too
    written: frozenset[str]  # assigned globals and attributes: counters, which results do not depend on


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> _Names:
    by_opcode = collections.defaultdict(set)
    for i in dis.get_instructions(code):
        by_opcode[i.opname].add(i.argval)
    written = frozenset(by_opcode['STORE_GLOBAL'] | by_opcode['STORE_ATTR'])
    read, imports = by_opcode['LOAD_GLOBAL'] | by_opcode['LOAD_NAME'], by_opcode['IMPORT_NAME']
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _names(constant)
            read |= set(inner.globals)
            imports |= set(inner.imports)
            names |= set(inner.all)
    return _Names(tuple(sorted(read - written)), tuple(sorted(imports)), tuple(sorted(names - written)), written)


def globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a user's function reads, and the attributes of modules that it reads."""
    code = function.__code__
    if code.co_filename.startswith(LIBRARIES):
        return
    names = _names(code)
    yield from _named_in(names.globals, names.all, function.__globals__, '', ())
    for module in (sys.modules.get(name) for name in names.imports):
        if module is not None and is_users(module.__name__):
            yield from _named_in(names.all, names.all, vars(module), f'{module.__name__}.', (module,))


def _named_in(
    names: Iterable[str], attributes: tuple[str, ...], scope: Mapping[str, Any], path: str, above: tuple
) -> Iterator[tuple[str, Any]]:
    for name in names:
        if name not in scope:
            continue
        value = scope[name]
        yield f'{path}{name}', value
        if isinstance(value, types.ModuleType) and is_users(value.__name__) and value not in above:
            yield from _named_in(attributes, attributes, vars(value), f'{path}{name}.', (*above, value))


def attributes_of_class(x: type) -> Iterator[tuple[str, Any]]:
    """The attributes of a class by name, without those that its methods assign (counters)."""
    functions = [value for value in vars(x).values() if isinstance(value, types.FunctionType)]
    assigned = set().union(*(_names(function.__code__).written for function in functions))
    for name, value in sorted(vars(x).items()):
        if name not in assigned and (not name.startswith('__') or isinstance(value, types.FunctionType)):
            yield name, value.__func__ if isinstance(value, staticmethod | classmethod) else value


class _Hashed:
    """A key whose hash is computed once."""

    def __init__(self, key: Hashable):
        self._key, self._hash = key, hash(key)

    def __eq__(self, other):
        return self._hash == other._hash and self._key == other._key

    def __hash__(self):
        return self._hash


class Cache:
    """A cache of the most recently used results by key."""

    def __init__(self, size: int = 64):
        self._size = size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The cached result for an equal key, else ``build()``."""
        key = _Hashed(key)
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = build()
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return self._kept[key]

    def __contains__(self, key: Hashable) -> bool:
        return _Hashed(key) in self._kept

    def drop(self, value: Any) -> None:
        """Remove ``value``."""
        for key in [key for key, kept in self._kept.items() if kept is value]:
            del self._kept[key]

    def clear(self) -> None:
        self._kept.clear()
