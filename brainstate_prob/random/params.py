"""What the parameters of a random law may be: their units, their domain, their broadcasting against ``size``."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.units import u

__all__ = ['Par', 'check_domain', 'draw_shape', 'split_units', 'to_size']

NO_DEFAULT: Any = object()

# The role of a parameter says how its unit follows from the unit of the draws.
VALUE, INVERSE, SQUARE, NONE = 'value', 'inverse', 'square', 'none'
_UNIT_OF = {VALUE: lambda unit: unit, INVERSE: lambda unit: unit.reverse(), SQUARE: lambda unit: unit**2}
_UNIT_FROM = {VALUE: lambda unit: unit, INVERSE: lambda unit: unit.reverse(), SQUARE: lambda unit: unit**0.5}

_DOMAINS = {
    'real': (lambda x: ~np.isnan(x), 'a number'),
    'positive': (lambda x: x > 0, '> 0'),
    'nonnegative': (lambda x: x >= 0, '>= 0'),
    'probability': (lambda x: (x >= 0) & (x <= 1), 'in [0, 1]'),
    'success': (lambda x: (x > 0) & (x <= 1), 'in (0, 1]'),
}


class Par(NamedTuple):
    """One parameter of a law: its name, default, unit role, domain and number of event axes."""

    name: str
    default: Any = NO_DEFAULT
    role: str = NONE
    domain: str = 'real'
    event_rank: int = 0


def to_size(size: Any) -> tuple[int, ...] | None:
    """``size`` as a tuple; None stays None."""
    if size is None:
        return None
    try:
        shape = (operator.index(size),) if np.ndim(size) == 0 else tuple(operator.index(n) for n in size)
    except TypeError:
        raise TypeError(f'size must be an int, a sequence of ints or None; got {size!r}.') from None
    if any(n < 0 for n in shape):
        raise ValueError(f'size must not be negative; got {size!r}.')
    return shape


def check_domain(law: str, par: Par, value: Any) -> None:
    """Raise ValueError where a concrete ``value`` lies outside the domain of ``par``; traced ones pass."""
    if isinstance(value, jax.core.Tracer):
        return
    inside, allowed = _DOMAINS[par.domain]
    array = np.asarray(value)
    if not np.all(ok := inside(array)):
        bad = array if array.ndim == 0 else array[~ok].ravel()[:3]
        raise ValueError(f'{law}: {par.name} must be {allowed}; got {bad}.')


def split_units(law: str, pars: tuple[Par, ...], values: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Plain numbers for all parameters, in one unit, and that unit (None: no quantity among them).

    The unit is that of the first quantity. Where there is one, the other parameters in its unit must be
    quantities too; 0 and infinity are the same in every unit and may stand plain.

    Raises
    ------
    brainunit.UnitMismatchError
        For parameters of different dimensions, a plain number beside a quantity, a unit where none belongs.
    """
    unit = None
    for par in pars:
        value = values[par.name]
        if isinstance(value, u.Quantity) and par.role != NONE and not value.unit.is_unitless:
            unit = _UNIT_FROM[par.role](value.unit)
            break
    plain = {}
    for par in pars:
        value = values[par.name]
        wanted = u.UNITLESS if unit is None or par.role == NONE else _UNIT_OF[par.role](unit)
        if isinstance(value, u.Quantity):
            if not value.unit.has_same_dim(wanted):
                fix = 'a plain number' if wanted.is_unitless else f'a quantity in {wanted}'
                raise u.UnitMismatchError(f'{law}: {par.name} must be {fix}; got {value!r}.')
            value = value.to_decimal(wanted)
        elif not wanted.is_unitless and not (isinstance(value, int | float) and value in (0, np.inf, -np.inf)):
            raise u.UnitMismatchError(
                f'{law}: {par.name} must be a quantity in {wanted}, as another parameter is; got {value!r}.'
            )
        plain[par.name] = np.asarray(value) if isinstance(value, list | tuple) else value
    return plain, unit


def draw_shape(law: str, pars: tuple[Par, ...], values: dict[str, Any], size: Any) -> tuple[int, ...]:
    """The batch shape of a draw: ``size``, or where it is None what the parameters broadcast to."""
    shapes = {}
    for par in pars:
        shape = jnp.shape(values[par.name])
        if len(shape) < par.event_rank:
            raise ValueError(f'{law}: {par.name} must have at least {par.event_rank} axes; got shape {shape}.')
        shapes[par.name] = shape[: len(shape) - par.event_rank]
    told = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
    try:
        batch = np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ValueError(f'{law}: the shapes of the parameters do not broadcast: {told}.') from None
    size = to_size(size)
    if size is None:
        return batch
    try:
        fits = np.broadcast_shapes(batch, size) == size
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f'{law}: parameters of shapes {told} cannot be broadcast to size {size}.')
    return size
