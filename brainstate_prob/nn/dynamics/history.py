"""Histories: arrays of past values along the first axis, as ring buffers or in order of time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.quantities import is_quantity
from brainstate_prob.core.units import u
from brainstate_prob.nn.dynamics.interpolation import resolve

__all__ = ['Target', 'filled', 'flat', 'read', 'steps_of', 'targets']

# The relative rounding error of a time in steps.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Target:
    """Shape and type of the values of a history; ``unit`` is None for plain numbers."""

    shape: tuple[int, ...]
    dtype: Any
    unit: Any = None


def flat(tree: Any) -> tuple[list, Any]:
    """The arrays and quantities of a pytree, and its structure."""
    return jax.tree.flatten(tree, is_leaf=is_quantity)


def targets(tree: Any) -> Any:
    """The `Target` of every array, Quantity, number or ``jax.ShapeDtypeStruct`` in a pytree."""

    def describe(x: Any) -> Target:
        if isinstance(x, Target):
            return x
        unit = None
        if isinstance(x, u.Quantity):
            x, unit = x.mantissa, None if x.unit.is_unitless else x.unit
        x = x if hasattr(x, 'dtype') else jnp.asarray(x)
        return Target(tuple(x.shape), jnp.dtype(x.dtype), unit)

    return jax.tree.map(describe, tree, is_leaf=is_quantity)


def steps_of(time: Any, dt: Any) -> Any:
    """``time / dt`` with rounding errors removed; NumPy if concrete.

    Raises
    ------
    brainunit.UnitMismatchError
        If one is a time and the other is not.

    Examples
    --------
    >>> import brainunit as u
    >>> float(steps_of(0.3 * u.ms, 0.1 * u.ms)), float(steps_of(1.0 * u.second, 0.3 * u.ms)) // 1
    (3.0, 3333.0)
    """
    a, b = u.get_unit(time), u.get_unit(dt)
    if not a.has_same_dim(b):
        raise u.UnitMismatchError(f'A time of {time} cannot be counted in steps of dt={dt}.')
    number, step = u.get_mantissa(time), u.get_mantissa(dt)
    if isinstance(number, jax.core.Tracer) or isinstance(step, jax.core.Tracer):
        return number * (a.magnitude / b.magnitude) / step
    # Take the shortest decimal of a float32: 0.1, not 0.10000000149.
    number, step = (_widened(x) for x in (number, step))
    steps = np.asarray(number * (a.magnitude / b.magnitude) / step)
    whole = np.round(steps)
    return np.where(np.abs(steps - whole) <= _ROUNDING * np.maximum(1.0, np.abs(steps)), whole, steps)


def _widened(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(str).astype(np.float64) if x.dtype == np.float32 else x.astype(np.float64)


def filled(target: Target, init: Any, length: int, batch: tuple[int, ...], ring: bool) -> Any:
    """The history before the first value, from a number, an array (entry k is k steps ago), a callable or None."""
    shape = (length, *batch, *target.shape)
    value = jnp.zeros(shape, target.dtype) if init is None else init(shape) if callable(init) else init
    unit = target.unit
    if isinstance(value, u.Quantity) and not value.unit.is_unitless:
        unit = value.unit if unit is None else unit
        value = value.to_decimal(unit)
    value = jnp.asarray(u.get_mantissa(value), target.dtype)
    if value.ndim == len(shape) and ring:
        value = value[::-1]  # before the first write, the last place of the ring is the newest
    value = jnp.broadcast_to(value, shape)
    return value if unit is None else u.Quantity(value, unit=unit)


def read(
    buffer: jax.Array, newest: Any, steps: Any, indices: tuple, method: str | Callable, valid: Any = None
) -> jax.Array:
    """The value ``steps`` ago.

    Parameters
    ----------
    buffer
        The history, time along axis 0.
    newest
        The position of the newest value in a ring buffer; None if entry k is k steps ago.
    steps
        From 0 to below the length, integer or not, of any shape.
    indices
        Index the axes after the first.
    method
        A name of `interpolation.METHODS` or a callable ``f(history, indices, step, length)``.
    valid
        Floating values are NaN where this is false.
    """
    length, floating = buffer.shape[0], jnp.issubdtype(buffer.dtype, jnp.inexact)
    lead = max([np.ndim(steps), *(np.ndim(index) for index in indices if not isinstance(index, slice))])

    def entry(k: Any) -> jax.Array:
        return buffer[(k if newest is None else (newest - k) % length, *indices)]

    def spread(x: jax.Array, like: jax.Array) -> jax.Array:
        return jnp.reshape(x, jnp.shape(x) + (1,) * (like.ndim - lead))

    if callable(method):
        ordered = buffer if newest is None else jnp.roll(buffer[::-1], newest + 1, axis=0)
        value = method(ordered, indices, jnp.asarray(steps), length)
    elif isinstance(steps, np.ndarray) and np.all(steps == np.round(steps)):
        value = entry(steps.astype(np.int32))
    else:
        dtype = jnp.promote_types(buffer.dtype, jnp.float32) if floating else jnp.float32
        pairs = resolve(method if floating else 'nearest')(jnp.asarray(steps, dtype), length)
        terms = [(entry(k), weight) for k, weight in pairs]
        if len(terms) == 1:
            value = terms[0][0]
        else:
            value = sum(x * spread(weight, x).astype(x.dtype) for x, weight in terms)
    if valid is None or not floating:
        return value
    return jnp.where(spread(valid, value), value, jnp.nan)
