"""The common interface of NUTS transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

__all__ = ['Info', 'Point', 'Transition']


class Point(NamedTuple):
    """The position of a chain in its coordinates w, the potential energy and its gradient."""

    w: jax.Array
    potential: jax.Array
    grad: jax.Array


class Info(NamedTuple):
    """Statistics of a transition."""

    energy: jax.Array
    acceptance: jax.Array
    num_steps: jax.Array
    tree_depth: jax.Array
    diverging: jax.Array


# (potential, point, key, step size, maximum tree depth) -> (point, next key, info), for unit mass
Transition = Callable[[Callable, Point, jax.Array, jax.Array, int], tuple[Point, jax.Array, Info]]
