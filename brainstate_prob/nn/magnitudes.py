"""Numbers with units taken apart: the one place where what a user passes becomes a plain floating array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State
from brainstate_prob.core.state import holds_tracer
from brainstate_prob.core.units import u

__all__ = ['checked_dims', 'short', 'split_unit', 'unit_name', 'with_unit']


def split_unit(value: Any, label: str, unit: u.Unit | None = None) -> tuple[jax.Array, u.Unit]:
    """The floating magnitude and unit of ``value``.

    Parameters
    ----------
    value
        Numbers, lists of numbers, an array or a Quantity. Floating dtypes are kept; integers become the default
        float.
    label
        Who asks, for messages.
    unit
        Convert to this unit. A plain value is then taken as a number in that unit only if the unit is none.

    Raises
    ------
    TypeError
        For bool, complex, strings, None, States and modules.
    ValueError
        For NaN or infinite entries.
    brainunit.UnitMismatchError
        Where the value's dimension is not that of ``unit``.
    """
    if isinstance(value, u.Quantity):
        own = value.unit
        if unit is not None and not own.has_same_dim(unit):
            raise u.UnitMismatchError(
                f'{label} has the unit {unit_name(unit)}; a value in {unit_name(own)} cannot be converted to it.'
            )
        magnitude = value.to_decimal(unit) if unit is not None and own != unit else value.mantissa
    else:
        own = u.UNITLESS
        if unit is not None and not unit.is_unitless:
            raise u.UnitMismatchError(
                f'{label} has the unit {unit_name(unit)}; got plain numbers. Multiply them by the unit, e.g. value * '
                f'{unit_name(unit)}.'
            )
        magnitude = value
    if isinstance(magnitude, type):
        raise TypeError(f'{label} takes real floating numbers, got the class {magnitude.__name__}. Pass its value.')
    if isinstance(magnitude, State) or callable(getattr(magnitude, 'value', None)):
        raise TypeError(f'{label} got a {type(magnitude).__name__}; pass its value instead.')
    if isinstance(magnitude, np.ma.MaskedArray):
        raise TypeError(f'{label} got a masked array, whose mask would be lost. Fill it first: value.filled(...).')
    try:
        array = jnp.asarray(_as_float(magnitude))
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f'{label} takes real floating numbers, got {value!r}.{_what_instead(value)}') from None
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f'{label} takes real floating numbers, got dtype {array.dtype}. Convert it to float.')
    array = jax.lax.convert_element_type(
        array, array.dtype
    )  # a Python number would leave a weak type and recompile later
    if not isinstance(array, jax.core.Tracer):
        bad = ~np.isfinite(np.asarray(array, dtype=np.float64))
        if bad.any():
            _refuse_too_large(magnitude, array, label)
            where = [tuple(int(i) for i in index) for index in np.argwhere(bad)[:3]]
            raise ValueError(
                f'{label} got {int(bad.sum())} NaN or infinite entries, the first at {where}. Clean the value first.'
            )
    return array, (own if unit is None else unit)


def _as_float(value: Any) -> Any:
    """Integers as the default float: before JAX sees them, which would wrap those beyond 32 bits."""
    if isinstance(value, jax.Array):
        integers = jnp.issubdtype(value.dtype, jnp.integer)
        return value.astype(jnp.result_type(float)) if integers else value
    try:
        host = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list with traced entries
        host = jnp.asarray(value)
        return host.astype(jnp.result_type(float)) if jnp.issubdtype(host.dtype, jnp.integer) else host
    whole = host.dtype.kind in 'iu' or (host.dtype == object and all(type(x) is int for x in host.flat))
    if host.dtype.kind in 'OUSMmV' and not whole:
        raise TypeError(f'numbers, not {host.dtype}')
    return host.astype(np.float64).astype(jnp.result_type(float)) if whole else value


def _refuse_too_large(value: Any, array: jax.Array, label: str) -> None:
    """Raise where finite numbers became infinite in the dtype of JAX."""
    host = np.asarray(value)
    if host.dtype != array.dtype and np.isfinite(host.astype(np.float64)).all():
        raise ValueError(
            f'{label} got numbers of size {np.max(np.abs(host)):.4g}, too large for {array.dtype}. Give it another '
            'unit or scale, or switch double precision on before the model is built.'
        )


def _what_instead(value: Any) -> str:
    if value is None:
        return ' Give it an initial value, e.g. jnp.zeros(3).'
    if callable(value):
        return ' For an initializer write nn.Param.init(initializer, sizes).'
    return ''


def unit_name(unit: u.Unit) -> str:
    """A unit for messages."""
    return 'none' if unit.is_unitless else str(unit)


def with_unit(magnitude: Any, unit: u.Unit) -> Any:
    """A Quantity, or the array as it is where the unit is none."""
    return magnitude if unit.is_unitless else u.Quantity(magnitude, unit=unit)


def checked_dims(dims: Sequence[str] | str | None, ndim: int, label: str) -> tuple[str, ...] | None:
    """The names of a value's axes as a tuple, one an axis."""
    if dims is None:
        return None
    names = (dims,) if isinstance(dims, str) else tuple(dims)
    if not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise TypeError(f'{label}: dims must be different names (str), one an axis, got {dims!r}.')
    if len(names) != ndim:
        raise ValueError(f'{label}: {len(names)} dims {names} for a value with {ndim} axes. Name every axis once.')
    return names


def short(value: Any) -> str:
    """A value on one line: few digits, the middle of long arrays left out, its unit behind."""
    text = (
        np.array2string(np.asarray(u.get_magnitude(value)), precision=4, threshold=6, edgeitems=2)
        if isinstance(value, jax.Array | np.ndarray | u.Quantity) and not holds_tracer(value)
        else repr(value)
    )
    unit = f' {value.unit}' if isinstance(value, u.Quantity) else ''
    return ' '.join((text + unit).split())
