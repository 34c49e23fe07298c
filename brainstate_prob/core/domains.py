"""The domains of the parameters of distributions."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from brainstate_prob.core.quantities import magnitude

__all__ = ['check_domain']

# By name: whether an array lies inside, and the wording for messages.
_DOMAINS = {
    'real': (lambda x: x == x, 'a number'),
    'positive': (lambda x: x > 0, '> 0'),
    'nonnegative': (lambda x: x >= 0, '>= 0'),
    'probability': (lambda x: (x >= 0) & (x <= 1), 'in [0, 1]'),
    'positive probability': (lambda x: (x > 0) & (x <= 1), 'in (0, 1]'),
}


def check_domain(label: str, name: str, domain: str, value: Any) -> None:
    """Raise ValueError if a concrete ``value`` of the parameter ``name`` lies outside its domain, or is NaN.

    Traced values pass.
    """
    number = magnitude(value)
    if isinstance(number, jax.core.Tracer):
        return
    inside, allowed = _DOMAINS[domain]
    array = np.asarray(number)
    if not np.all(ok := inside(array)):
        bad = array if array.ndim == 0 else array[~ok].ravel()[:3]
        raise ValueError(f'{label}: {name} must be {allowed}; got {bad}.')
