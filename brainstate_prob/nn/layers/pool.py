"""Pooling over windows of 1, 2 or 3 spatial axes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob import environ
from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.nn.layers.shapes import (
    SpatialModule,
    check_input,
    label,
    ntuple,
    paddings,
    shape_of,
)

__all__ = [
    'AvgPool1d',
    'AvgPool2d',
    'AvgPool3d',
    'LPPool1d',
    'LPPool2d',
    'LPPool3d',
    'MaxPool1d',
    'MaxPool2d',
    'MaxPool3d',
]


class SpatialPool(SpatialModule):
    """Base of pooling layers: the spatial axes are the last ones besides the channel axis."""

    def __init__(self, channel_axis: int | None, name: str | None, in_size: Any):
        super().__init__(name)
        self.channel_axis = channel_axis
        if in_size is not None and channel_axis is not None and channel_axis >= 0:
            raise ValueError(
                f'{label(self)}: channel_axis={channel_axis} counts batch axes, in_size has none. Count from the end: '
                'channel_axis=-1 for channels last.'
            )

    def _axes(self, x: Any) -> list[int]:
        """The spatial axes of ``x``, after a check of its shape."""
        channel = self.channel_axis
        names = list(self._names(channel=False))
        if channel is not None:
            names.insert(len(names) + 1 + channel if -len(names) - 1 <= channel < 0 else len(names), 'channels')
        check_input(self, x, self.in_size or names)
        axes = list(range(len(shape_of(x))))
        if channel is not None:
            if not -len(axes) <= channel < len(axes):
                raise ValueError(
                    f'{label(self)}: channel_axis={channel} is not an axis of an input of shape {shape_of(x)}.'
                )
            axes.pop(channel)
        return axes[-self.spatial :]


class _Pool(SpatialPool):
    """Windows that move over the spatial axes.

    Parameters
    ----------
    kernel_size
        The size of the window: an int, or one per axis.
    stride
        The step of the window; None takes ``kernel_size``.
    padding
        ``'VALID'``, ``'SAME'``, an int, an int per axis, or a pair (low, high) per axis, smaller than the kernel.
    channel_axis
        The axis of the input that is not spatial; None if there is none. Of the others the last ``spatial`` ones
        are pooled, the rest are batch axes.
    in_size
        The shape of one sample; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        For an input with too few axes, or one that the window does not fit into.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 'VALID',
        channel_axis: int | None = -1,
        name: str | None = None,
        in_size: Any = None,
    ):
        super().__init__(channel_axis, name, in_size)
        self.kernel_size = ntuple(kernel_size, self.spatial, 'kernel_size')
        self.stride = self.kernel_size if stride is None else ntuple(stride, self.spatial, 'stride')
        self.padding = paddings(padding, self.spatial)
        if not isinstance(self.padding, str) and any(
            max(sides) >= k for sides, k in zip(self.padding, self.kernel_size, strict=True)
        ):
            raise ValueError(
                f'{label(self)}: the padding {self.padding} must be smaller than the kernel '
                f'{self.kernel_size}, or windows lie outside the input.'
            )
        self._take_in_size(in_size)

    def update(self, x):
        axes = self._axes(x)
        x, unit = magnitude_and_unit(x)
        return with_unit(self._pool(x if jnp.issubdtype(x.dtype, jnp.inexact) else self._number(x), axes), unit)

    def _pool(self, x: jax.Array, axes: list[int]) -> Any:
        raise NotImplementedError

    def _number(self, x: jax.Array) -> jax.Array:
        return x.astype(environ.dftype())

    def _reduce(self, x: Any, axes: list[int], start: Any, operation: Any) -> Any:
        """Apply ``lax.reduce_window`` over these axes."""
        first = jax.tree.leaves(x)[0]

        def full(values: Any, other: Any) -> list:
            row = [other] * first.ndim
            for axis, value in zip(axes, values, strict=True):
                row[axis] = value
            return row

        padding = self.padding if isinstance(self.padding, str) else full(self.padding, (0, 0))
        window, stride = full(self.kernel_size, 1), full(self.stride, 1)
        y = lax.reduce_window(x, start, operation, window, stride, padding)
        if 0 in jax.tree.leaves(y)[0].shape and 0 not in first.shape:
            raise ValueError(
                f'{label(self)}: a window of {self.kernel_size} does not fit into an input of shape {first.shape} with '
                f'padding {self.padding!r}.'
            )
        return y


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 'VALID',
        channel_axis: int | None = -1,
        name: str | None = None,
        in_size: Any = None,
    ):
        super().__init__(kernel_size, stride, padding, channel_axis, name, in_size)

    def _pool(self, x, axes):
        total = self._reduce(x, axes, 0.0, lax.add)
        if self.padding == 'VALID':
            return total / math.prod(self.kernel_size)
        return total / self._reduce(jnp.ones_like(x), axes, 0.0, lax.add)


class _LPPool(_Pool):
    """Windows that move over the spatial axes.

    Parameters
    ----------
    norm_type
        The power p, at least 1; ``inf`` gives the largest absolute value. abs(x)^p must not overflow in the
        input's precision: for a large p take ``inf``.
    kernel_size
        The size of the window: an int, or one per axis.
    stride
        The step of the window; None takes ``kernel_size``.
    padding
        ``'VALID'``, ``'SAME'``, an int, an int per axis, or a pair (low, high) per axis, smaller than the kernel.
    channel_axis
        The axis of the input that is not spatial; None if there is none.
    in_size
        The shape of one sample; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        For p below 1, an input with too few axes, or one that the window does not fit into.
    """

    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 'VALID',
        channel_axis: int | None = -1,
        name: str | None = None,
        in_size: Any = None,
    ):
        if not norm_type >= 1:
            raise ValueError(f'{type(self).__name__}: norm_type must be at least 1, got {norm_type!r}.')
        self.norm_type = norm_type
        super().__init__(kernel_size, stride, padding, channel_axis, name, in_size)

    def _pool(self, x, axes):
        if self.norm_type == math.inf:
            return self._reduce(jnp.abs(x), axes, -jnp.inf, lax.max)
        total = self._reduce(jnp.abs(x) ** self.norm_type, axes, 0.0, lax.add)
        positive = total > 0  # the root is not differentiable at 0
        return jnp.where(positive, jnp.where(positive, total, 1) ** (1 / self.norm_type), 0)


class _MaxPool(_Pool):
    """Windows that move over the spatial axes.

    Parameters
    ----------
    kernel_size
        The size of the window: an int, or one per axis.
    stride
        The step of the window; None takes ``kernel_size``.
    padding
        ``'VALID'``, ``'SAME'``, an int, an int per axis, or a pair (low, high) per axis, smaller than the kernel.
    channel_axis
        The axis of the input that is not spatial; None if there is none. Of the others the last ``spatial`` ones
        are pooled, the rest are batch axes.
    return_indices
        Whether to return (maxima, indices) for ``MaxUnpool``: the index of each maximum in the flattened spatial
        axes of its sample and channel, the first among equals.
    in_size
        The shape of one sample; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        For an input with too few axes, or one that the window does not fit into.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 'VALID',
        channel_axis: int | None = -1,
        return_indices: bool = False,
        name: str | None = None,
        in_size: Any = None,
    ):
        self.return_indices = bool(return_indices)
        super().__init__(kernel_size, stride, padding, channel_axis, name, in_size)

    def update(self, x):
        if not self.return_indices:
            return super().update(x)
        axes = self._axes(x)
        x, unit = magnitude_and_unit(x)
        y, indices = self._with_indices(x, axes)
        return with_unit(y, unit), indices

    def _number(self, x):
        return x

    def _pool(self, x, axes):
        return self._reduce(x, axes, _lowest(x.dtype), lax.max)

    def _with_indices(self, x, axes):
        place = np.arange(math.prod(x.shape[a] for a in axes), dtype=np.int32).reshape([x.shape[a] for a in axes])
        where = jnp.broadcast_to(np.expand_dims(place, [a for a in range(x.ndim) if a not in axes]), x.shape)

        def larger(a, b):
            take = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1])) | (jnp.isnan(b[0]) & ~jnp.isnan(a[0]))
            return jnp.where(take, b[0], a[0]), jnp.where(take, b[1], a[1])

        start = (jnp.asarray(_lowest(x.dtype), x.dtype), jnp.asarray(where.size, jnp.int32))
        _, indices = self._reduce((lax.stop_gradient(x), where), axes, start, larger)
        spatial, kept = flat(x, axes), flat(indices, axes)
        y = jnp.take_along_axis(spatial, kept, -1)  # a gather is differentiable, a window over pairs is not
        return unflat(y, indices.shape, axes), indices


def _lowest(dtype) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf
    return jnp.iinfo(dtype).min if jnp.issubdtype(dtype, jnp.integer) else False


def flat(x: jax.Array, axes: list[int]) -> jax.Array:
    """The axes moved to the end and merged."""
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return x.reshape((*x.shape[: -len(axes)], -1))


def unflat(x: jax.Array, shape: tuple[int, ...], axes: list[int]) -> jax.Array:
    """The reverse of `flat`."""
    moved = [n for a, n in enumerate(shape) if a not in axes] + [shape[a] for a in axes]
    return jnp.moveaxis(x.reshape(moved), range(-len(axes), 0), axes)


class AvgPool1d(_AvgPool):
    """The mean of every window over one spatial axis; padding is not counted.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AvgPool1d(2, 2, in_size=(8, 3)).out_size
    (4, 3)
    """

    spatial = 1


class AvgPool2d(_AvgPool):
    """The mean of every window over two spatial axes; padding is not counted.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AvgPool2d(2, 2, in_size=(8, 6, 3)).out_size
    (4, 3, 3)
    """

    spatial = 2


class AvgPool3d(_AvgPool):
    """The mean of every window over three spatial axes; padding is not counted.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AvgPool3d(2, 2, in_size=(8, 6, 4, 3)).out_size
    (4, 3, 2, 3)
    """

    spatial = 3


class MaxPool1d(_MaxPool):
    """The largest entry of every window over one spatial axis.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.MaxPool1d(2, in_size=(8, 3)).out_size
    (4, 3)
    """

    spatial = 1


class MaxPool2d(_MaxPool):
    """The largest entry of every window over two spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.MaxPool2d(2, in_size=(8, 6, 3)).out_size
    (4, 3, 3)
    """

    spatial = 2


class MaxPool3d(_MaxPool):
    """The largest entry of every window over three spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.MaxPool3d(2, in_size=(8, 6, 4, 3)).out_size
    (4, 3, 2, 3)
    """

    spatial = 3


class LPPool1d(_LPPool):
    """The p-norm (sum of abs(x)^p)^(1/p) of every window over one spatial axis.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.LPPool1d(2, 2, in_size=(8, 3)).out_size
    (4, 3)
    """

    spatial = 1


class LPPool2d(_LPPool):
    """The p-norm (sum of abs(x)^p)^(1/p) of every window over two spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.LPPool2d(2, 2, in_size=(8, 6, 3)).out_size
    (4, 3, 3)
    """

    spatial = 2


class LPPool3d(_LPPool):
    """The p-norm (sum of abs(x)^p)^(1/p) of every window over three spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.LPPool3d(2, 2, in_size=(8, 6, 4, 3)).out_size
    (4, 3, 2, 3)
    """

    spatial = 3
