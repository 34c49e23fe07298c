"""Check data against the precision: loss of digits, ties and overflow."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.data.sharding import on_host

__all__ = ['PrecisionWarning', 'narrowed', 'of_large_integers', 'widened']

_WIDER = 'work under jax.enable_x64(True)'


class PrecisionWarning(UserWarning):
    """Numbers of the data are equal or zero in single precision."""


def narrowed(array: np.ndarray, name: str) -> np.ndarray:
    """The array in the current precision; raise if numbers overflow."""
    wide = array.dtype
    target = jax.dtypes.canonicalize_dtype(np.float64 if wide == np.longdouble else wide)
    if target == wide or array.size == 0:
        return array.astype(target)
    if wide.kind in 'iu':
        limits, low, high = np.iinfo(target), array.min(), array.max()
        if low < limits.min or high > limits.max:
            raise ValueError(
                f'{name} has integers from {low} to {high}, which {limits.bits} bits do not hold ({limits.min} to '
                f'{limits.max}). Subtract an origin or divide by a unit first ((t - t[0]) / 1e9), or {_WIDER}.'
            )
        return array.astype(target)
    with np.errstate(over='ignore', under='ignore', invalid='ignore'):
        narrow = array.astype(target)
        lost = np.isinf(narrow) & ~np.isinf(array)
        if lost.any():
            first = tuple(int(i) for i in np.argwhere(lost)[0])
            raise ValueError(
                f'{name} has {int(lost.sum())} numbers too large for {target}, where they would be infinite (the first '
                f'at {first}: {array[first]:g}). Divide by a scale, or {_WIDER}.'
            )
    gone = (narrow == 0) & (array != 0)
    if gone.any():
        first = tuple(int(i) for i in np.argwhere(gone)[0])
        text = (
            f'{int(gone.sum())} of {array.size} numbers of {name} are too small for {target} (the first at {first}: '
            f'{array[first]:g}) and become 0. Multiply by a scale, or {_WIDER}.'
        )
        if not narrow.any():
            raise ValueError(text)
        warnings.warn(text, PrecisionWarning, stacklevel=2)
    equal = _of_equal(array, narrow, name) if wide.kind == 'f' else None
    if equal is not None:
        warnings.warn(equal, PrecisionWarning, stacklevel=2)
    return narrow


def _of_equal(array: np.ndarray, narrow: np.ndarray, name: str) -> str | None:
    """The warning about columns in which most distinct values become equal: a small range far from zero."""
    columns = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(-1, 1)
    whole = array.dtype.kind in 'iu'
    finite = columns if whole else np.where(np.isfinite(columns), columns, 0.0)
    high, low = finite.max(0), finite.min(0)
    largest = np.maximum(np.abs(high.astype(float)), np.abs(low.astype(float)))
    extent = high.astype(float) - low.astype(float) if whole else high - low
    step = largest * np.finfo(narrow.dtype).eps
    # Fewer than 256 steps in the range; floating numbers below 1e-12 are noise of double precision.
    differs = high > low if whole else extent > 1e-12 * largest
    for column in np.flatnonzero((extent < 256 * step) & differs):
        values = columns[:, column]
        distinct = len(np.unique(values))
        left = len(np.unique(narrow.reshape(columns.shape)[:, column]))
        if left < distinct / 2:
            where = f'Column {column} of {name}' if array.ndim > 1 else name
            first, last = (int(end[column]) if whole else end[column] for end in (low, high))
            wider = '' if narrow.dtype == np.float64 else f', or {_WIDER}'
            return (
                f'{where} has {distinct} different {"integers" if whole else "values"} between {first!r} and {last!r}, '
                f'of which {narrow.dtype} tells {left} apart. Subtract an origin first (t - t[0]){wider}.'
            )
    return None


# Integers


def widened(array: Any, name: str) -> Any:
    """Integers in the default integer dtype, in which sums, differences and products of small ones do not wrap.

    In inputs unsigned integers of 32 bits and more are unchanged if they do not fit or can be random keys (a last
    axis of 2 or 4).

    Raises
    ------
    ValueError
        If targets do not fit into the default dtype.
    """
    wide = jnp.result_type(int)
    if isinstance(array, jax.core.Tracer) or not jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == wide:
        return array
    if array.dtype.itemsize >= 4 and jnp.issubdtype(array.dtype, jnp.unsignedinteger):
        targets = name.startswith('targets')
        if not targets and array.shape[-1:] in ((2,), (4,)):
            return array
        limit = jnp.iinfo(wide).max
        largest = int(_on_host(array).max()) if array.size else 0
        if largest > limit and targets:
            raise ValueError(
                f'{name} has unsigned integers up to {largest}, but distributions compute with integers up to {limit}, '
                f'beyond which differences wrap. Subtract an origin, give them as floating numbers, or {_WIDER}.'
            )
        if largest > limit:
            return array
    return array.astype(wide)


def of_large_integers(array: Any, name: str) -> str | None:
    """The warning about distinct integers that become equal as floating numbers."""
    if isinstance(array, jax.core.Tracer) or not jnp.issubdtype(array.dtype, jnp.integer) or not array.size:
        return None
    real = jnp.result_type(float)
    exact = 2 ** (jnp.finfo(real).nmant + 1)  # floating numbers represent integers exactly up to here
    if jnp.iinfo(array.dtype).max <= exact:
        return None
    numbers = _on_host(array)
    if int(numbers.max()) <= exact and int(numbers.min()) >= -exact:
        return None
    return _of_equal(numbers, numbers.astype(real), name)


def _on_host(array: Any) -> np.ndarray:
    elsewhere = isinstance(array, jax.Array) and not array.is_fully_addressable
    return on_host(array) if elsewhere else np.asarray(array)
