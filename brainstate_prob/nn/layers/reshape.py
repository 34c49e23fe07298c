"""Flatten and Unflatten: merge and split axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from brainstate_prob.nn.layers.shapes import as_array, check_input, label
from brainstate_prob.nn.module import Module

__all__ = ['Flatten', 'Unflatten']


class _Reshape(Module):
    """Base of reshaping layers; axes are those of ``in_size`` if it is given, else of the input."""

    def update(self, x):
        batch = 0 if self.in_size is None else check_input(self, x)
        x = as_array(x)
        return x.reshape((*x.shape[:batch], *self._reshaped(x.shape[batch:])))

    def _reshaped(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        raise NotImplementedError

    def _axis(self, axis: int, shape: tuple[int, ...], what: str) -> int:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f'{label(self)}: {what}={axis} is not an axis of an input of shape {shape}.')
        return axis % len(shape)


class Flatten(_Reshape):
    """Merge the axes from ``start_axis`` to ``end_axis``, both included, into one.

    Parameters
    ----------
    start_axis, end_axis
        Axes of one sample if ``in_size`` is given: leading batch axes are kept. Otherwise axes of the whole input,
        batch axes included.
    in_size
        The shape of one sample; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        If the input does not have the axes, or does not end in ``in_size``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.Flatten(in_size=(4, 4, 3))
    >>> layer.out_size, layer(jnp.zeros((10, 4, 4, 3))).shape
    ((48,), (10, 48))
    >>> nn.Flatten(start_axis=1)(jnp.zeros((10, 4, 4, 3))).shape
    (10, 48)
    """

    def __init__(self, start_axis: int = 0, end_axis: int = -1, in_size: Any = None, name: str | None = None):
        super().__init__(name)
        self.start_axis, self.end_axis = start_axis, end_axis
        if in_size is not None:
            self.in_size = in_size
            self.out_size = self._reshaped(self.in_size)

    def _reshaped(self, shape):
        if not shape:
            return (1,)
        start, end = self._axis(self.start_axis, shape, 'start_axis'), self._axis(self.end_axis, shape, 'end_axis')
        if start > end:
            raise ValueError(
                f'{label(self)}: start_axis={self.start_axis} comes after end_axis={self.end_axis} in an input of '
                f'shape {shape}.'
            )
        return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


class Unflatten(_Reshape):
    """Split one axis into several.

    Parameters
    ----------
    axis
        The axis: of one sample if ``in_size`` is given, otherwise of the whole input.
    sizes
        The new sizes; one entry may be -1, which is inferred.
    in_size
        The shape of one sample; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        If the product of ``sizes`` is not the size of the axis.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.Unflatten(-1, (4, -1, 3))(jnp.zeros((10, 48))).shape
    (10, 4, 4, 3)
    """

    def __init__(self, axis: int, sizes: int | Sequence[int], name: str | None = None, in_size: Any = None):
        super().__init__(name)
        self.axis = axis
        self.sizes = tuple(int(n) for n in (sizes if isinstance(sizes, Iterable) else (sizes,)))
        if sum(n == -1 for n in self.sizes) > 1 or any(n < -1 or n == 0 for n in self.sizes) or not self.sizes:
            raise ValueError(f'{label(self)}: sizes must be positive, with at most one -1; got {sizes!r}.')
        if in_size is not None:
            self.in_size = in_size
            self.out_size = self._reshaped(self.in_size)

    def _reshaped(self, shape):
        axis = self._axis(self.axis, shape, 'axis')
        known = math.prod(n for n in self.sizes if n != -1)
        if shape[axis] % known or (-1 not in self.sizes and shape[axis] != known):
            raise ValueError(
                f'{label(self)}: axis {self.axis} of an input of shape {shape} has size {shape[axis]}, which does not '
                f'split into {self.sizes}.'
            )
        sizes = (shape[axis] // known if n == -1 else n for n in self.sizes)
        return (*shape[:axis], *sizes, *shape[axis + 1 :])
