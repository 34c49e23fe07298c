"""What a NUTS transition takes and gives, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

__all__ = ['Info', 'Point', 'Transition']


class Point(NamedTuple):
    """Where a chain stands, in its own coordinates: w, the potential energy and its gradient."""

    w: jax.Array
    potential: jax.Array
    grad: jax.Array


class Info(NamedTuple):
    """What a transition was like."""

    energy: jax.Array
    acceptance: jax.Array
    num_steps: jax.Array
    tree_depth: jax.Array
    diverging: jax.Array


# (potential, point, key, step size, deepest tree) -> (point, next key, info), for unit mass
Transition = Callable[[Callable, Point, jax.Array, jax.Array, int], tuple[Point, jax.Array, Info]]
