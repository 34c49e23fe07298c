"""Parameters of the distributions, and the shapes to which they broadcast."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.quantities import NONE
from brainstate_prob.core.shapes import to_shape

__all__ = ['Par', 'draw_shape', 'to_size']

NO_DEFAULT: Any = object()


class Par(NamedTuple):
    """One parameter of a distribution: its name, default, unit role, domain and number of event axes."""

    name: str
    default: Any = NO_DEFAULT
    role: str = NONE
    domain: str = 'real'
    event_rank: int = 0


def to_size(size: Any) -> tuple[int, ...] | None:
    """``size`` as a tuple; None stays None."""
    return None if size is None else to_shape(size, 'size')


def draw_shape(distribution: str, pars: tuple[Par, ...], values: dict[str, Any], size: Any) -> tuple[int, ...]:
    """The batch shape of a draw: ``size``, or if it is None the shape to which the parameters broadcast."""
    shapes = {}
    for par in pars:
        shape = jnp.shape(values[par.name])
        if len(shape) < par.event_rank:
            raise ValueError(f'{distribution}: {par.name} must have at least {par.event_rank} axes; got shape {shape}.')
        shapes[par.name] = shape[: len(shape) - par.event_rank]
    shown = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
    try:
        batch = np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ValueError(f'{distribution}: the shapes of the parameters do not broadcast: {shown}.') from None
    size = to_size(size)
    if size is None:
        return batch
    try:
        fits = np.broadcast_shapes(batch, size) == size
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f'{distribution}: parameters of shapes {shown} cannot be broadcast to size {size}.')
    return size
