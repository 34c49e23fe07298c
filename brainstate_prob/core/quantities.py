"""Quantities: split into magnitude and unit, check, and join."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.state import State, holds_tracer
from brainstate_prob.core.units import u

__all__ = [
    'NONE',
    'POWERS',
    'RATE',
    'SQUARE',
    'VALUE',
    'common_unit',
    'in_role',
    'is_concrete',
    'is_quantity',
    'magnitude',
    'magnitude_and_unit',
    'magnitude_in',
    'short',
    'split_unit',
    'split_units',
    'unit_name',
    'unit_of',
    'with_unit',
    'written_unit',
]

# The power of the distribution's (or function's) unit that a parameter carries, by the parameter's role.
VALUE, RATE, SQUARE, NONE = 'value', 'rate', 'square', 'none'
POWERS = {VALUE: 1, RATE: -1, 'rate2': -2, SQUARE: 2, NONE: 0}


def is_quantity(x: Any) -> bool:
    """Whether ``x`` is a Quantity: for ``is_leaf`` of `jax.tree.map`."""
    return isinstance(x, u.Quantity)


def is_concrete(value: Any) -> bool:
    """Whether ``value`` is concrete, not traced."""
    return not isinstance(magnitude(value), jax.core.Tracer)


def unit_of(value: Any) -> u.Unit | None:
    """The unit of a quantity that has one; None for plain numbers and for dimensionless quantities."""
    if isinstance(value, u.Quantity) and not value.unit.is_unitless:
        return value.unit
    return None


def magnitude(value: Any) -> Any:
    """The number or array of ``value`` in its own unit."""
    return value.mantissa if isinstance(value, u.Quantity) else value


def magnitude_in(value: Any, unit: u.Unit | None, what: str) -> Any:
    """The numbers of ``value`` in ``unit``; of plain numbers only zero has every unit."""
    own = unit_of(value)
    if own is None:
        number = magnitude(value)
        if unit is None or (is_concrete(number) and not np.any(np.asarray(number))):
            return number
        raise u.UnitMismatchError(
            f'{what} is a plain number, but a quantity in {unit} is needed; write it as number * {written_unit(unit)}.'
        )
    if unit is None:
        raise u.UnitMismatchError(f'{what} carries the unit {own}, but a plain number is needed here.')
    if not own.has_same_dim(unit):
        raise u.UnitMismatchError(f'{what} carries the unit {own}, which does not convert to {unit}.')
    return value.mantissa if own == unit else value.to_decimal(unit)


def magnitude_and_unit(value: Any) -> tuple[Any, u.Unit | None]:
    """The array of ``value`` and its unit, None for plain numbers; `with_unit` is the reverse."""
    return (value.mantissa, value.unit) if isinstance(value, u.Quantity) else (jnp.asarray(value), None)


def split_unit(value: Any, label: str, unit: u.Unit | None = None) -> tuple[jax.Array, u.Unit]:
    """The floating magnitude and unit of ``value``.

    Parameters
    ----------
    value
        Numbers, lists of numbers, an array or a Quantity. Floating dtypes are kept; integers become the default
        float.
    label
        The caller, for messages.
    unit
        Convert to this unit. Plain numbers are then refused, unless it is dimensionless.

    Raises
    ------
    TypeError
        For bool, complex, strings, None, States and modules.
    ValueError
        For NaN or infinite entries.
    brainunit.UnitMismatchError
        If the value's dimension is not that of ``unit``.
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
    """Convert integers to the default float in NumPy, since JAX wraps those beyond 32 bits."""
    if isinstance(value, jax.Array):
        integers = jnp.issubdtype(value.dtype, jnp.integer)
        return value.astype(jnp.result_type(float)) if integers else value
    try:
        host = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list with traced entries
        return _as_float(jnp.asarray(value))
    whole = host.dtype.kind in 'iu' or (host.dtype == object and all(type(x) is int for x in host.flat))
    if host.dtype.kind in 'OUSMmV' and not whole:
        raise TypeError(f'numbers, not {host.dtype}')
    return host.astype(np.float64).astype(jnp.result_type(float)) if whole else value


def _refuse_too_large(value: Any, array: jax.Array, label: str) -> None:
    """Raise if finite numbers became infinite in the dtype of JAX."""
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


def common_unit(label: str, roles: Mapping[str, str], values: Mapping[str, Any]) -> u.Unit | None:
    """The unit from which the units of all parameters follow by their roles; None if no parameter has a unit.

    It is the unit of the first quantity; the other parameters in this unit must then be quantities too, except
    0 and infinity, which are the same in every unit.

    Parameters
    ----------
    label
        The function or distribution, for messages.
    roles
        By parameter one of `POWERS`.
    values
        By parameter.

    Raises
    ------
    brainunit.UnitMismatchError
        For parameters of different dimensions, plain numbers beside quantities, or a unit on a plain parameter.
    """
    unit, first = None, ''
    for name, role in roles.items():
        own = unit_of(values[name])
        if own is not None and POWERS[role]:
            unit, first = _power(own, 1 / POWERS[role]), name
            break
    for name, role in roles.items():
        value = values[name]
        if unit is None or not POWERS[role]:
            if isinstance(value, u.Quantity) and not value.unit.has_same_dim(u.UNITLESS):
                raise u.UnitMismatchError(f'{label}: {name} must be a plain number; got {value!r}.')
            continue
        wanted = _power(unit, POWERS[role])
        plain_point = isinstance(value, int | float) and value in (0, np.inf, -np.inf)
        if not (value.unit.has_same_dim(wanted) if isinstance(value, u.Quantity) else plain_point):
            raise u.UnitMismatchError(
                f'{label}: {name} must be a quantity in {wanted}, since {first} is {values[first]!r}; got {value!r}.'
            )
    return unit


def split_units(label: str, roles: Mapping[str, str], values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Plain numbers for all parameters, and their `common_unit`, with its arguments and errors."""
    unit = common_unit(label, roles, values)
    return {name: in_role(values[name], role, unit) for name, role in roles.items()}, unit


def in_role(value: Any, role: str, unit: u.Unit | None) -> Any:
    """The plain numbers of a parameter whose unit follows from ``unit`` by its role."""
    if not isinstance(value, u.Quantity):
        return np.asarray(value) if isinstance(value, list | tuple) else value
    return value.to_decimal(u.UNITLESS if unit is None else _power(unit, POWERS[role]))


def _power(unit: u.Unit, power: float) -> u.Unit:
    return u.UNITLESS if power == 0 else unit if power == 1 else unit.reverse() if power == -1 else unit**power


def written_unit(unit: u.Unit) -> str:
    """An expression for ``unit``, with brainunit imported as `u`."""
    name = str(unit)
    return f'u.{name}' if getattr(u, name, None) == unit else f'u.parse_unit({name!r})'


def unit_name(unit: u.Unit) -> str:
    """A unit for messages."""
    return 'none' if unit.is_unitless else str(unit)


def with_unit(magnitude: Any, unit: u.Unit | None) -> Any:
    """The array as a Quantity in ``unit``, or unchanged if the unit is None."""
    return magnitude if unit is None or unit.is_unitless else u.Quantity(magnitude, unit=unit)


def short(value: Any) -> str:
    """A value with its unit on one line, with few digits, long arrays abbreviated."""
    text = (
        np.array2string(np.asarray(u.get_magnitude(value)), precision=4, threshold=6, edgeitems=2)
        if isinstance(value, jax.Array | np.ndarray | u.Quantity) and not holds_tracer(value)
        else repr(value)
    )
    unit = f' {value.unit}' if isinstance(value, u.Quantity) else ''
    return ' '.join((text + unit).split())
