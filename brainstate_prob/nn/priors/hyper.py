"""Hyper-parameters: what they may be, how their units follow from the value's, and how they become trainable."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State
from brainstate_prob.core.quantities import short
from brainstate_prob.core.units import u
from brainstate_prob.nn.bijections import IdentityT, PositiveT, SigmoidT
from brainstate_prob.nn.kinds import ParamNode

__all__ = ['Hyper', 'checked', 'in_unit', 'is_param', 'makes_hyper_parameters', 'trainable', 'value_unit']

_PARAM: list[type] = []  # `Param`, once it is defined: it stands above the priors

# role -> power of the value's unit that the hyper-parameter carries
_POWERS = {'value': 1, 'rate': -1, 'rate2': -2, 'none': 0}

_DOMAINS = {
    'real': (lambda x: x == x, 'a number'),
    'positive': (lambda x: x > 0, '> 0'),
    'nonnegative': (lambda x: x >= 0, '>= 0'),
    'probability': (lambda x: (x > 0) & (x < 1), 'in (0, 1)'),
    'share': (lambda x: (x >= 0) & (x <= 1), 'in [0, 1]'),
}


class Hyper(NamedTuple):
    """One hyper-parameter of a class of priors.

    ``arg`` is its name in the density; ``role`` says how its unit follows from the value's: 'value', 'rate'
    (inverse), 'rate2' (inverse square), 'none'.
    """

    arg: str
    role: str = 'none'
    domain: str = 'real'


def is_param(x: Any) -> bool:
    """Whether ``x`` is a `Param` or `Const`."""
    return isinstance(x, ParamNode)


def checked(label: str, name: str, hyper: Hyper, value: Any) -> Any:
    """``value`` as it is kept: a float, a NumPy array, a traced array, a Quantity of these, or a Param.

    Raises
    ------
    TypeError
        For what is no real number.
    ValueError
        For concrete values outside the domain.
    """
    if is_param(value):
        _check_domain(label, name, hyper, value.constrained())
        return value
    if isinstance(value, State):
        raise TypeError(
            f'{label}: {name} must be a number, an array, a quantity or an nn.Param; got {value!r}. '
            'Use nn.Param for a hyper-parameter that is trained.'
        )
    unit = None
    if isinstance(value, u.Quantity):
        value, unit = value.mantissa, (None if value.unit.is_unitless else value.unit)
    kept: Any
    if isinstance(value, jax.core.Tracer):
        kept = value
    elif isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
        kept = float(value)
    else:
        kept = _array(label, name, value)
    kept = kept if unit is None else u.Quantity(kept, unit=unit)
    _check_domain(label, name, hyper, kept)
    return kept


def _array(label: str, name: str, value: Any) -> Any:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        law = callable(getattr(value, 'log_prob', None))
        hint = ' A hyper-parameter with a prior of its own is a Param: nn.Param(value, t=None, reg=...).' if law else ''
        shown = f'the class {value.__name__}' if isinstance(value, type) else short(value)
        raise TypeError(f'{label}: {name} must be a number, an array, a quantity or an nn.Param; got {shown}.{hint}')
    if array.ndim == 0:
        return float(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _check_domain(label: str, name: str, hyper: Hyper, value: Any) -> None:
    magnitude = value.mantissa if isinstance(value, u.Quantity) else value
    if isinstance(magnitude, jax.core.Tracer):
        return
    inside, allowed = _DOMAINS[hyper.domain]
    array = np.asarray(magnitude, dtype=float)
    ok = inside(array)
    if not np.all(ok):
        shown = array if array.ndim == 0 else array[~ok].ravel()[:3]
        raise ValueError(f'{label}: {name} must be {allowed}; got {shown}.')


def value_unit(label: str, hypers: dict[str, Hyper], values: dict[str, Any]) -> u.Unit | None:
    """The unit of the values that a prior with these hyper-parameters scores; None if they are plain numbers.

    Raises
    ------
    brainunit.UnitMismatchError
        For units that do not fit together, a unit where none belongs, a plain number beside a quantity (0 and
        infinity are the same in every unit and may stand).
    """
    unit, first = None, ''
    for name, hyper in hypers.items():
        own = _unit(values[name])
        if own is None:
            continue
        power = _POWERS[hyper.role]
        if power == 0:
            raise u.UnitMismatchError(f'{label}: {name} must be a plain number; got {_shown(values[name])}.')
        if unit is None:
            unit, first = {1: own, -1: own.reverse(), -2: (own**-0.5)}[power], name
        elif not own.has_same_dim(unit**power):
            raise u.UnitMismatchError(
                f'{label}: {name} must be in {unit**power}, since {first} is {_shown(values[first])}; '
                f'got {_shown(values[name])}.'
            )
    if unit is None:
        return None
    for name, hyper in hypers.items():
        if _POWERS[hyper.role] and _unit(values[name]) is None and not _is_unitless_point(values[name]):
            raise u.UnitMismatchError(
                f'{label}: {name} must be in {unit ** _POWERS[hyper.role]}, since {first} is {_shown(values[first])}; '
                f'got the plain number {_shown(values[name])}.'
            )
    return unit


def _unit(value: Any) -> u.Unit | None:
    unit = value.unit if is_param(value) or isinstance(value, u.Quantity) else None
    return None if unit is None or unit.is_unitless else unit


def _is_unitless_point(value: Any) -> bool:
    return isinstance(value, float) and value in (0.0, float('inf'), float('-inf'))


def _shown(value: Any) -> str:
    return repr(value.constrained()) if is_param(value) else repr(value)


def in_unit(hyper: Hyper, value: Any, unit: u.Unit | None) -> Any:
    """The plain numbers of a hyper-parameter where the scored value is in ``unit``."""
    if is_param(value):
        value = value.value()
    if not isinstance(value, u.Quantity):
        return value
    if unit is None or hyper.role == 'none':
        return value.to_decimal(u.UNITLESS)
    return value.to_decimal(unit ** _POWERS[hyper.role])


def makes_hyper_parameters(cls: type) -> type:
    """Decorate `Param`: the class of a trainable hyper-parameter."""
    _PARAM.append(cls)
    return cls


def trainable(hyper: Hyper, value: Any) -> Any:
    """A Param for the hyper-parameter, in the transform of its domain; a Param stays as it is."""
    if is_param(value):
        return value
    if hyper.domain in ('positive', 'nonnegative'):
        t: Any = PositiveT()
    elif hyper.domain in ('probability', 'share'):
        t = SigmoidT()
    else:
        t = IdentityT()
    return _PARAM[-1](value, t=t)
