"""Hyper-parameters of priors: checks, units, and trainable ones."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State
from brainstate_prob.core.domains import check_domain
from brainstate_prob.core.quantities import common_unit, in_role, short
from brainstate_prob.core.units import u
from brainstate_prob.nn.bijections import IdentityT, PositiveT, SigmoidT
from brainstate_prob.nn.kinds import ParamNode

__all__ = ['Hyper', 'checked', 'in_unit', 'is_param', 'makes_hyper_parameters', 'trainable', 'value_unit']

_PARAM: list[type] = []  # `Param`, once it is defined, since it imports the priors


class Hyper(NamedTuple):
    """One hyper-parameter of a class of priors.

    ``arg`` is its name in the density; ``role`` is the relation of its unit to the value's: 'value', 'rate'
    (inverse), 'rate2' (inverse square), 'none'; ``domain`` is 'real', 'positive', 'nonnegative' or 'probability'.
    """

    arg: str
    role: str = 'none'
    domain: str = 'real'


def is_param(x: Any) -> bool:
    """Whether ``x`` is a `Param` or `Const`."""
    return isinstance(x, ParamNode)


def checked(label: str, name: str, hyper: Hyper, value: Any) -> Any:
    """``value`` as a float, a NumPy array, a traced array, a Quantity of these, or a Param.

    Raises
    ------
    TypeError
        For anything but real numbers.
    ValueError
        For concrete values outside the domain.
    """
    if is_param(value):
        check_domain(label, name, hyper.domain, value.constrained())
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
    check_domain(label, name, hyper.domain, kept)
    return kept


def _array(label: str, name: str, value: Any) -> Any:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        is_distribution = callable(getattr(value, 'log_prob', None))
        hint = (
            ' A hyper-parameter with a prior of its own is a Param: nn.Param(value, t=None, reg=...).'
            if is_distribution
            else ''
        )
        shown = f'the class {value.__name__}' if isinstance(value, type) else short(value)
        raise TypeError(f'{label}: {name} must be a number, an array, a quantity or an nn.Param; got {shown}.{hint}')
    if array.ndim == 0:
        return float(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def value_unit(label: str, hypers: dict[str, Hyper], values: dict[str, Any]) -> u.Unit | None:
    """The unit of the values that a prior with these hyper-parameters scores; None if they are plain numbers.

    Raises
    ------
    brainunit.UnitMismatchError
        See `brainstate_prob.core.quantities.common_unit`.
    """
    quantities = {name: x.constrained() if is_param(x) else x for name, x in values.items()}
    return common_unit(label, {name: hyper.role for name, hyper in hypers.items()}, quantities)


def in_unit(hyper: Hyper, value: Any, unit: u.Unit | None) -> Any:
    """The plain numbers of a hyper-parameter for a scored value in ``unit``."""
    return in_role(value.value() if is_param(value) else value, hyper.role, unit)


def makes_hyper_parameters(cls: type) -> type:
    """Register `Param` as the class of trainable hyper-parameters."""
    _PARAM.append(cls)
    return cls


def trainable(hyper: Hyper, value: Any) -> Any:
    """A Param for the hyper-parameter with the transform of its domain; a Param is unchanged."""
    if is_param(value):
        return value
    if hyper.domain in ('positive', 'nonnegative'):
        t: Any = PositiveT()
    elif hyper.domain == 'probability':
        t = SigmoidT()
    else:
        t = IdentityT()
    return _PARAM[-1](value, t=t)
