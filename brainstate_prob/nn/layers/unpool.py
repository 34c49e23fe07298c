"""Max-unpooling of 1, 2 or 3 spatial axes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.nn.layers.pool import SpatialPool, flat, unflat
from brainstate_prob.nn.layers.shapes import label, ntuple, paddings

__all__ = [
    'MaxUnpool1d',
    'MaxUnpool2d',
    'MaxUnpool3d',
]


class _MaxUnpool(SpatialPool):
    """Put maxima back to their positions, with zeros elsewhere.

    The call is ``layer(x, indices, output_size=None)``: the maxima and indices of a ``MaxPool`` with
    ``return_indices=True``, and the spatial size of the pooled input, an int or one per axis (or its whole shape).
    The default size (n - 1) * stride - low - high + kernel is smaller if the windows did not cover the input.

    Parameters
    ----------
    kernel_size, stride, padding, channel_axis
        As for the ``MaxPool``, with numbers as padding.
    in_size
        The shape of one pooled sample; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        For indices of another shape than ``x``, or beyond the output.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        channel_axis: int | None = -1,
        name: str | None = None,
        in_size: Any = None,
    ):
        super().__init__(channel_axis, name, in_size)
        self.kernel_size = ntuple(kernel_size, self.spatial, 'kernel_size')
        self.stride = self.kernel_size if stride is None else ntuple(stride, self.spatial, 'stride')
        pairs = paddings(0 if padding == 'VALID' else padding, self.spatial)
        if isinstance(pairs, str):
            raise ValueError(f"{label(self)}: padding must be given as numbers, 'SAME' does not say how many.")
        self.padding = pairs
        if in_size is not None:
            size = tuple(np.atleast_1d(in_size).tolist())
            axes = self._axes(np.empty(size, bool))
            self.in_size, self.out_size = size, self._shape(size, axes, None)

    def update(self, x, indices, output_size=None):
        axes = self._axes(x)
        x, unit = magnitude_and_unit(x)
        indices = jnp.asarray(indices)
        if indices.shape != x.shape:
            raise ValueError(f'{label(self)}: x has shape {x.shape}, the indices have {indices.shape}.')
        shape = self._shape(x.shape, axes, output_size)
        places = math.prod(shape[a] for a in axes)
        # NumPy, since JAX would trace the maximum of concrete indices.
        last = -1 if isinstance(indices, jax.core.Tracer) else np.max(np.asarray(indices), initial=-1)
        if last >= places:
            raise ValueError(
                f'{label(self)}: index {last} lies beyond an output of shape {shape}; give output_size, the size of '
                'what was pooled.'
            )
        y, at = flat(x, axes), flat(indices, axes)
        blank = jnp.zeros((*y.shape[:-1], places), x.dtype)
        return with_unit(unflat(jnp.put_along_axis(blank, at, y, -1, inplace=False), shape, axes), unit)

    def _shape(self, shape: tuple[int, ...], axes: list[int], output_size: Any) -> tuple[int, ...]:
        full = list(shape)
        if output_size is None:
            rows = zip([shape[a] for a in axes], self.kernel_size, self.stride, self.padding, strict=True)
            sizes = tuple((n - 1) * s - sum(p) + k for n, k, s, p in rows)
        elif np.ndim(output_size) and len(output_size) == len(shape):
            sizes = tuple(output_size[a] for a in axes)
        else:
            sizes = ntuple(output_size, self.spatial, 'output_size')
        for axis, size in zip(axes, sizes, strict=True):
            full[axis] = size
        return tuple(full)


class MaxUnpool1d(_MaxUnpool):
    """The partial inverse of `MaxPool1d`: maxima at their positions, zeros elsewhere.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.MaxUnpool1d(2, in_size=(8, 3)).out_size
    (16, 3)
    """

    spatial = 1


class MaxUnpool2d(_MaxUnpool):
    """The partial inverse of `MaxPool2d`: maxima at their positions, zeros elsewhere.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.MaxUnpool2d(2, in_size=(8, 6, 3)).out_size
    (16, 12, 3)
    """

    spatial = 2


class MaxUnpool3d(_MaxUnpool):
    """The partial inverse of `MaxPool3d`: maxima at their positions, zeros elsewhere.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.MaxUnpool3d(2, in_size=(8, 6, 4, 3)).out_size
    (16, 12, 8, 3)
    """

    spatial = 3
