"""Numbers with units taken apart: the one place where what a user passes becomes a plain floating array."""
from __future__ import annotations

from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State

__all__ = ['split_unit']


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
            raise u.UnitMismatchError(f'{label} has the unit {_name(unit)}; a value in {_name(own)} cannot be converted to it.')
        magnitude = value.to_decimal(unit) if unit is not None and own != unit else value.mantissa
    else:
        own = u.UNITLESS
        if unit is not None and not unit.is_unitless:
            raise u.UnitMismatchError(
                f'{label} has the unit {_name(unit)}; got plain numbers. Multiply them by the unit, e.g. value * {_name(unit)}.')
        magnitude = value
    if isinstance(magnitude, State) or callable(getattr(magnitude, 'value', None)):
        raise TypeError(f'{label} got a {type(magnitude).__name__}; pass its value instead.')
    try:
        array = jnp.asarray(magnitude)
    except (TypeError, ValueError):
        raise TypeError(f'{label} takes real floating numbers, got {value!r}.') from None
    if jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(jnp.result_type(float))
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f'{label} takes real floating numbers, got dtype {array.dtype}. Convert it to float.')
    array = jax.lax.convert_element_type(array, array.dtype)  # a Python number would leave a weak type and recompile later
    if not isinstance(array, jax.core.Tracer):
        bad = ~np.isfinite(np.asarray(array, dtype=np.float64))
        if bad.any():
            where = [tuple(int(i) for i in index) for index in np.argwhere(bad)[:3]]
            raise ValueError(f'{label} got {int(bad.sum())} NaN or infinite entries, the first at {where}. Clean the value first.')
    return array, (own if unit is None else unit)


def _name(unit: u.Unit) -> str:
    return 'none' if unit.is_unitless else str(unit)
