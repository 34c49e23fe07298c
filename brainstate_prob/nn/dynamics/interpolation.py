"""Interpolation between the entries of a history, as indices and weights.

The history is known at 0, 1, ..., length - 1 steps ago. Each method returns pairs (entry, weight) for a time ``s`` in
steps; the interpolated value is the weighted sum of entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['METHODS', 'Stencil', 'resolve']

Stencil = Callable[[jax.Array, int], list[tuple[jax.Array, jax.Array]]]


def _base(s: jax.Array, first: Any, points: int, length: int) -> tuple[jax.Array, jax.Array]:
    """The first of ``points`` neighbouring entries inside the history, and the distance of ``s`` from it."""
    first = jnp.clip(first, 0, length - points)
    return first.astype(jnp.int32), s - first


def _nearest(s: jax.Array, length: int) -> list:
    return [(jnp.clip(jnp.floor(s + 0.5), 0, length - 1).astype(jnp.int32), jnp.ones_like(s))]


def _lagrange(points: int, offset: Callable) -> Stencil:
    """The polynomial through ``points`` neighbours, also at the ends."""

    def stencil(s: jax.Array, length: int) -> list:
        n = min(points, length)
        first, x = _base(s, offset(s), n, length)
        pairs = []
        for i in range(n):
            weight = jnp.ones_like(x)
            for j in range(n):
                if j != i:
                    weight = weight * (x - j) / (i - j)
            pairs.append((first + i, weight))
        return pairs

    return stencil


def _hermite(slope_at_end: tuple[float, ...]) -> Stencil:
    """The cubic with central differences as slopes, and one-sided differences with these weights at the ends."""

    def stencil(s: jax.Array, length: int) -> list:
        if length < 4:
            return _cubic_polynomial(s, length)
        left, t = _base(s, jnp.floor(s), 2, length)
        first = jnp.clip(left - 1, 0, length - 4)
        value = [2 * t**3 - 3 * t**2 + 1, -2 * t**3 + 3 * t**2]
        slope = [t**3 - 2 * t**2 + t, t**3 - t**2]
        weights = [jnp.zeros_like(t) for _ in range(4)]
        for end in (0, 1):  # the entries on both sides of s: their value, and their slope from the neighbours
            place = left + end - first
            for i in range(4):
                inside = 0.5 * ((i == place + 1) * 1.0 - (i == place - 1))
                low = slope_at_end[i] if i < len(slope_at_end) else 0.0
                high = -slope_at_end[3 - i] if 3 - i < len(slope_at_end) else 0.0
                at_low, at_high = left + end == 0, left + end == length - 1
                difference = jnp.where(at_low, low, jnp.where(at_high, high, inside))
                weights[i] = weights[i] + value[end] * (i == place) + slope[end] * difference
        return [(first + i, weight) for i, weight in enumerate(weights)]

    return stencil


_cubic_polynomial = _lagrange(4, lambda s: jnp.floor(s) - 1)

METHODS: dict[str, Stencil] = {
    'nearest': _nearest,
    'round': _nearest,
    'linear': _lagrange(2, jnp.floor),
    'linear_interp': _lagrange(2, jnp.floor),
    'cubic': _hermite((-1.5, 2.0, -0.5)),
    'hermite': _hermite((-1.0, 1.0)),
    'polynomial2': _lagrange(3, lambda s: jnp.floor(s + 0.5) - 1),
    'polynomial3': _cubic_polynomial,
}


def resolve(method: str | Callable) -> Stencil | Callable:
    """The stencil of a name; a callable is returned unchanged.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or anything else.
    """
    if callable(method):
        return method
    if not isinstance(method, str):
        raise TypeError(f'interpolation is a name or a callable, got {type(method).__name__}.')
    if method not in METHODS:
        raise ValueError(f'Unknown interpolation {method!r}; there are {", ".join(map(repr, METHODS))}, or a callable.')
    return METHODS[method]
