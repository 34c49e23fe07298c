"""Pooling to a given output size, over 1, 2 or 3 spatial axes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.nn.layers.pool import SpatialPool
from brainstate_prob.nn.layers.shapes import label, ntuple

__all__ = [
    'AdaptiveAvgPool1d',
    'AdaptiveAvgPool2d',
    'AdaptiveAvgPool3d',
    'AdaptiveMaxPool1d',
    'AdaptiveMaxPool2d',
    'AdaptiveMaxPool3d',
]


class _AdaptivePool(SpatialPool):
    """Bins of nearly equal size: bin i of m over an axis of n goes from floor(i n / m) to ceil((i + 1) n / m).

    Parameters
    ----------
    target_size
        The number of bins: an int, or one per axis; None leaves an axis unchanged.
    channel_axis
        The axis of the input that is not spatial; None if there is none.
    in_size
        The shape of one sample; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        For an input with too few axes.
    """

    def __init__(self, target_size: Any, channel_axis: int | None = -1, name: str | None = None, in_size: Any = None):
        super().__init__(channel_axis, name, in_size)
        items = list(target_size) if np.ndim(target_size) else [target_size] * self.spatial
        sizes = iter(ntuple([m for m in items if m is not None], sum(m is not None for m in items), 'target_size'))
        if len(items) != self.spatial:
            raise ValueError(
                f'{label(self)}: target_size must be an int or {self.spatial} of them, got {target_size!r}.'
            )
        self.target_size = tuple(None if m is None else next(sizes) for m in items)
        self._take_in_size(in_size)

    def update(self, x):
        axes = self._axes(x)
        x, unit = magnitude_and_unit(x)
        for axis, m in zip(axes, self.target_size, strict=True):
            if m is not None:
                x = self._bins(x, axis, m)
        return with_unit(x, unit)

    def _bins(self, x: jax.Array, axis: int, m: int) -> jax.Array:
        n = x.shape[axis]
        low = np.arange(m) * n // m
        high = -(-(np.arange(m) + 1) * n // m)
        within = np.arange(max(high - low))
        inside = low[:, None] + within < high[:, None]
        # A short bin repeats its last entry, so that all have one size.
        entries = jnp.take(x, np.where(inside, low[:, None] + within, high[:, None] - 1), axis=axis)
        after = (1,) * (x.ndim - axis - 1)
        return self._pool(entries, axis + 1, inside.reshape(*inside.shape, *after), (high - low).reshape(m, *after))

    def _pool(self, entries: jax.Array, axis: int, inside: np.ndarray, counts: np.ndarray) -> jax.Array:
        raise NotImplementedError


class _AdaptiveAvgPool(_AdaptivePool):
    def _pool(self, entries, axis, inside, counts):
        if not jnp.issubdtype(entries.dtype, jnp.inexact):
            entries = entries.astype(environ.dftype())
        return jnp.sum(entries, axis, where=inside) / counts.astype(entries.dtype)


class _AdaptiveMaxPool(_AdaptivePool):
    def _pool(self, entries, axis, inside, counts):
        return jnp.max(entries, axis)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The mean of each of ``target_size`` bins over one spatial axis.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AdaptiveAvgPool1d(3, in_size=(8, 3)).out_size
    (3, 3)
    """

    spatial = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The mean of each of ``target_size`` bins over two spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AdaptiveAvgPool2d(3, in_size=(8, 6, 3)).out_size
    (3, 3, 3)
    """

    spatial = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The mean of each of ``target_size`` bins over three spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AdaptiveAvgPool3d(3, in_size=(8, 6, 4, 3)).out_size
    (3, 3, 3, 3)
    """

    spatial = 3


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The largest entry of each of ``target_size`` bins over one spatial axis.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AdaptiveMaxPool1d(3, in_size=(8, 3)).out_size
    (3, 3)
    """

    spatial = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The largest entry of each of ``target_size`` bins over two spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AdaptiveMaxPool2d(3, in_size=(8, 6, 3)).out_size
    (3, 3, 3)
    """

    spatial = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The largest entry of each of ``target_size`` bins over three spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.AdaptiveMaxPool3d(3, in_size=(8, 6, 4, 3)).out_size
    (3, 3, 3, 3)
    """

    spatial = 3
