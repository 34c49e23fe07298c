"""Encode trees of plain data and arrays as JSON and arrays, and decode them."""

from __future__ import annotations

import base64
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.units import u

__all__ = ['Arrays', 'decoded', 'encoded']

_KIND = '~'
_PLAIN = (bool, int, float, str)


class Arrays:
    """The arrays of a record by name, in dtypes for files."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, x: np.ndarray) -> str:
        """Store an array, and return its name."""
        name = f'a{len(self.arrays)}'
        if x.dtype.kind in 'VmMc' or x.dtype.name == 'float16':
            x = np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape, x.dtype.itemsize)
        self.arrays[name] = x
        return name


def encoded(x: Any, arrays: Arrays) -> Any:
    """Encode ``x`` for JSON, with its arrays stored in ``arrays``; other objects by their repr."""
    if x is None or type(x) in _PLAIN:
        return x
    if isinstance(x, list):
        return [encoded(v, arrays) for v in x]
    if isinstance(x, dict):
        if type(x) is dict and all(type(k) is str for k in x) and _KIND not in x:
            return {k: encoded(v, arrays) for k, v in x.items()}
        return _as('dict', [[encoded(k, arrays), encoded(v, arrays)] for k, v in x.items()])
    if isinstance(x, tuple):
        return _as('tuple', [encoded(v, arrays) for v in x])
    if isinstance(x, set | frozenset):
        return _as(type(x).__name__, [encoded(v, arrays) for v in sorted(x, key=repr)])
    if isinstance(x, bytes):
        return _as('bytes', base64.b64encode(x).decode())
    if isinstance(x, complex):
        return _as('complex', [x.real, x.imag])
    if isinstance(x, u.Quantity):
        return _as('quantity', encoded(np.asarray(x.mantissa), arrays), unit=str(x.unit))
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return _as('key', encoded(np.asarray(jax.random.key_data(x)), arrays), impl=str(jax.random.key_impl(x)))
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        array = np.asarray(x)
        if array.dtype.kind == 'O':
            return encoded(array.tolist(), arrays)
        scalar = isinstance(x, np.generic)
        if array.dtype.kind in 'US':
            return _as('text array', array.tolist(), scalar=scalar)
        return _as('array', arrays.add(array), dtype=_name(array.dtype), scalar=scalar)
    if isinstance(x, str):  # a member of an enum, say
        return str.__str__(x)
    if isinstance(x, int | float):
        return int(x) if isinstance(x, int) else float(x)
    return _as('repr', repr(x))


def decoded(x: Any, arrays: dict[str, Any]) -> Any:
    """The inverse of `encoded`, up to objects stored by their repr."""
    if isinstance(x, list):
        return [decoded(v, arrays) for v in x]
    if not isinstance(x, dict):
        return x
    if _KIND not in x:
        return {k: decoded(v, arrays) for k, v in x.items()}
    kind, of = x[_KIND], x['of']
    if kind == 'array':
        array, dtype = np.asarray(arrays[of]), jnp.dtype(x['dtype']) if x['dtype'][0] != '<' else np.dtype(x['dtype'])
        if array.dtype != dtype:
            array = array.view(dtype).reshape(array.shape[:-1]) if array.dtype == np.uint8 else array.astype(dtype)
        return array[()] if x['scalar'] else array
    inner = decoded(of, arrays)
    if kind == 'dict':
        return {_hashable(k): v for k, v in inner}
    if kind == 'text array':
        return np.asarray(inner)[()] if x['scalar'] else np.asarray(inner)
    if kind == 'quantity':
        return u.Quantity(inner, unit=u.parse_unit(x['unit']))
    if kind == 'key':
        return jax.random.wrap_key_data(jnp.asarray(inner), impl=x['impl'])
    if kind == 'bytes':
        return base64.b64decode(inner)
    if kind == 'complex':
        return complex(*inner)
    return {'tuple': tuple, 'set': set, 'frozenset': frozenset}[kind](inner) if kind != 'repr' else inner


def _as(kind: str, of: Any, **more: Any) -> dict[str, Any]:
    return {_KIND: kind, 'of': of, **more}


def _name(dtype: np.dtype) -> str:
    return dtype.str if dtype.kind in 'mM' else dtype.name  # with the unit of time


def _hashable(x: Any) -> Any:
    return tuple(x) if isinstance(x, list) else x
