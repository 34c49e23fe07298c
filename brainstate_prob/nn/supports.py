"""Comparing supports: is a prior's support narrower than a transform's codomain?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpyro.distributions import constraints

__all__ = ['bounds', 'is_narrower']

_VECTOR_SETS = {
    type(constraints.simplex): (0.0, 1.0),
    type(constraints.ordered_vector): (-np.inf, np.inf),
    type(constraints.positive_ordered_vector): (0.0, np.inf),
    type(constraints.sphere): (-1.0, 1.0),
}


def _elementwise(constraint: Any) -> Any:
    """The constraint of one entry: ``independent`` only says how many axes make an event."""
    while hasattr(constraint, 'base_constraint'):
        constraint = constraint.base_constraint
    return constraint


def bounds(constraint: Any) -> tuple[Any, Any]:
    """The lowest and highest value of an entry under ``constraint``; infinite where there is none."""
    constraint = _elementwise(constraint)
    if type(constraint) in _VECTOR_SETS:
        return _VECTOR_SETS[type(constraint)]
    low = getattr(constraint, 'lower_bound', -np.inf)
    high = getattr(constraint, 'upper_bound', np.inf)
    return low, high


def is_narrower(support: Any, codomain: Any) -> bool:
    """Whether some value of ``codomain`` lies outside ``support`` (edges do not count).

    Examples
    --------
    >>> is_narrower(constraints.positive, constraints.real), is_narrower(constraints.real, constraints.positive)
    (True, False)
    """
    inner, outer = _elementwise(support), _elementwise(codomain)
    if type(inner) in _VECTOR_SETS and type(inner) is not type(outer):
        return True
    (low, high), (outer_low, outer_high) = bounds(inner), bounds(outer)
    try:
        return bool(
            np.any(np.asarray(low) > np.asarray(outer_low)) or np.any(np.asarray(high) < np.asarray(outer_high))
        )
    except Exception:  # traced bounds cannot be compared
        return False
