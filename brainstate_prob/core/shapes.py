"""Shapes given as an int or a sequence of ints."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

__all__ = ['to_shape']


def to_shape(sizes: Any, name: str = 'A shape') -> tuple[int, ...]:
    """An int or a sequence of ints as a shape; ``name`` is used in messages.

    Examples
    --------
    >>> to_shape(3), to_shape([2, 3])
    ((3,), (2, 3))
    """
    try:
        shape = (operator.index(sizes),) if np.ndim(sizes) == 0 else tuple(operator.index(n) for n in sizes)
    except TypeError:
        raise TypeError(f'{name} must be an int or a sequence of ints; got {sizes!r}.') from None
    if any(n < 0 for n in shape):
        raise ValueError(f'{name} must not be negative; got {sizes!r}.')
    return shape
