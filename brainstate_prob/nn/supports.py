"""Compare the support of a prior with the codomain of a transform."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpyro.distributions import constraints

from brainstate_prob.nn.bijections import ParamSupport

__all__ = ['bounds', 'is_known', 'is_narrower']

# Sets of vectors that are codomains of transforms, with the lowest and highest value of an entry.
_VECTOR_SETS = {
    type(constraints.simplex): (0.0, 1.0),
    type(constraints.ordered_vector): (-np.inf, np.inf),
    type(constraints.positive_ordered_vector): (0.0, np.inf),
    type(constraints.sphere): (-1.0, 1.0),
}
# Elementwise constraints that are described by their bounds.
_INTERVALS = frozenset(
    constraint if isinstance(constraint, type) else type(constraint)
    for constraint in (
        constraints.real,
        constraints.positive,
        constraints.nonnegative,
        constraints.softplus_positive,
        constraints.greater_than,
        constraints.greater_than_eq,
        constraints.less_than,
        constraints.less_than_eq,
        constraints.unit_interval,
        constraints.interval,
        constraints.open_interval,
        constraints.circular,
    )
)


def _elementwise(constraint: Any) -> Any:
    """The constraint of one entry, without ``independent``."""
    while True:
        if hasattr(constraint, 'base_constraint'):
            constraint = constraint.base_constraint
        elif isinstance(constraint, ParamSupport) and not isinstance(constraint.transform.codomain, ParamSupport):
            constraint = constraint.transform.codomain
        else:
            return constraint


def is_known(constraint: Any) -> bool:
    """Whether bounds or a transform describe the set (not so for matrices and sums, for example)."""
    constraint = _elementwise(constraint)
    return type(constraint) in _INTERVALS or type(constraint) in _VECTOR_SETS or isinstance(constraint, ParamSupport)


def bounds(constraint: Any) -> tuple[Any, Any]:
    """The lowest and highest value of an entry under a known ``constraint``; infinite if unbounded."""
    constraint = _elementwise(constraint)
    if type(constraint) in _VECTOR_SETS:
        return _VECTOR_SETS[type(constraint)]
    if isinstance(constraint, ParamSupport):
        return constraint.transform.bounds
    low = getattr(constraint, 'lower_bound', -np.inf)
    high = getattr(constraint, 'upper_bound', np.inf)
    return low, high


def is_narrower(support: Any, codomain: Any) -> bool:
    """Whether some value of ``codomain`` may lie outside ``support`` (edges do not count).

    An unknown support counts as narrower than every codomain but itself.

    Examples
    --------
    >>> is_narrower(constraints.positive, constraints.real), is_narrower(constraints.real, constraints.positive)
    (True, False)
    >>> is_narrower(constraints.corr_cholesky, constraints.real)
    True
    """
    inner, outer = _elementwise(support), _elementwise(codomain)
    if inner is constraints.real:
        return False
    if not is_known(inner) or not is_known(outer) or isinstance(inner, ParamSupport):
        return not _is_same(inner, outer)
    if type(inner) in _VECTOR_SETS:
        positive_ordered = type(outer) is type(constraints.positive_ordered_vector)
        return type(inner) is not type(outer) and not (positive_ordered and inner is constraints.ordered_vector)
    ends = [*bounds(inner), *bounds(outer)]
    if any(isinstance(end, jax.core.Tracer) for end in ends):
        return False  # traced bounds cannot be compared
    low, high, outer_low, outer_high = (np.asarray(end) for end in ends)
    return bool(np.any(low > outer_low) or np.any(high < outer_high))


def _is_same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
