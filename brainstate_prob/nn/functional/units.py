"""Apply functions of arrays to quantities: carry the unit, or refuse it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar, cast

from brainstate_prob.core.quantities import NONE, VALUE, split_units
from brainstate_prob.core.units import u

__all__ = ['carries_unit', 'takes_numbers']

_F = TypeVar('_F', bound=Callable)


def carries_unit(*names: str) -> Callable[[_F], _F]:
    """Decorate a function of plain numbers: the arguments ``names`` may be quantities of one dimension.

    The result is a quantity in the unit of the first. 0 and infinity may be plain numbers beside quantities.

    Examples
    --------
    >>> import brainunit as u
    >>> @carries_unit('x', 'top')
    ... def cut(x, top):
    ...     return min(x, top)
    >>> bool(cut(3.0 * u.mV, 0.002 * u.volt) == 2.0 * u.mV)
    True
    """

    def decorate(fn: _F) -> _F:
        signature = inspect.signature(fn)
        first = next(iter(signature.parameters))

        @functools.wraps(fn)
        def call(*args, **kwargs):
            if not any(isinstance(x, u.Quantity) for x in (*args, *kwargs.values())):
                return fn(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            roles = {name: VALUE if name in names else NONE for name in {first: 0, **dict.fromkeys(names)}}
            plain, unit = split_units(fn.__name__, roles, bound.arguments)
            bound.arguments.update(plain)
            out = fn(*bound.args, **bound.kwargs)
            return out if unit is None else u.Quantity(out, unit=unit)

        return cast(_F, call)

    return decorate


def takes_numbers(fn: _F) -> _F:
    """Decorate a function of plain numbers: dimensionless quantities are converted, others raise."""
    return carries_unit()(fn)
