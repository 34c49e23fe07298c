"""Dropout: random masks in training, the identity otherwise. The setting ``fit`` of `environ` says which."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ, random
from brainstate_prob.core import ShortTermState
from brainstate_prob.core.quantities import is_concrete, magnitude_and_unit, short, with_unit
from brainstate_prob.core.units import u
from brainstate_prob.nn.layers.shapes import SizedModule, SpatialModule, as_array, check_input, label
from brainstate_prob.nn.module import ElementWiseBlock

__all__ = [
    'AlphaDropout',
    'Dropout',
    'Dropout1d',
    'Dropout2d',
    'Dropout3d',
    'DropoutFixed',
    'FeatureAlphaDropout',
]

ALPHA = -1.7580993408473766  # the limit of SELU at minus infinity: -scale * alpha


class _Dropout(ElementWiseBlock):
    """Keep entries with probability ``prob`` = 1 - ``rate`` in training; subclasses define what shares a draw."""

    def __init__(self, prob: float | None = None, name: str | None = None, *, rate: float | None = None):
        super().__init__(name)
        self.prob = _kept(self, prob, rate)

    def update(self, x):
        x = as_array(x)
        if not environ.get('fit', desc='whether dropout draws a mask') or self.prob == 1:
            return x
        return self._drop(x, jax.random.bernoulli(random.split_key(), self.prob, self._mask_shape(x)))

    def _mask_shape(self, x: Any) -> tuple[int, ...]:
        return x.shape

    def _drop(self, x: Any, keep: jax.Array) -> Any:
        """The kept entries, divided by their probability to preserve the mean."""
        x, unit = magnitude_and_unit(x)
        return with_unit(jnp.where(keep, x / (self.prob or 1), 0), unit)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob:.6g}, keeps {self.prob:.6g} and drops {1 - self.prob:.6g})'


def _kept(layer: Any, prob: Any, rate: Any) -> float:
    """The probability of keeping a unit, from ``prob`` or ``rate``; 0.5 by default."""
    if prob is not None and rate is not None:
        raise ValueError(
            f'{label(layer)}: got both prob={prob!r} (the share that is kept) and rate={rate!r} (the share that is '
            'dropped). Give one of them.'
        )
    name, share, means = ('prob', prob, 'keeping') if rate is None else ('rate', rate, 'dropping')
    if share is None:
        return 0.5
    if isinstance(share, jax.Array | np.ndarray) and share.ndim == 0 and is_concrete(share):
        share = float(share)
    if isinstance(share, bool) or not isinstance(share, numbers.Real):
        raise TypeError(f'{label(layer)}: {name} is the probability of {means} a unit, a number; got {short(share)}.')
    probability = float(share)
    if not 0 <= probability <= 1:
        raise ValueError(f'{label(layer)}: {name} is the probability of {means} a unit, in [0, 1]; got {share!r}.')
    return probability if rate is None else 1 - probability


class Dropout(_Dropout):
    """Keep each entry with probability ``prob`` in training and divide it by ``prob``; drop the others to 0.

    ``prob`` is the probability of *keeping*. The identity if the setting ``fit`` is False; masks are drawn from
    `brainstate_prob.random`.

    Parameters
    ----------
    prob
        The probability of keeping an entry; 0.5 by default.
    broadcast_dims
        Axes along which the mask is shared.
    rate
        The probability of dropping an entry, in place of ``prob``.

    Raises
    ------
    MissingSettingError
        If the setting ``fit`` has no value.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> layer = nn.Dropout(0.8)
    >>> with environ.context(fit=False):
    ...     layer(jnp.ones(3))
    Array([1., 1., 1.], dtype=float32)
    >>> with environ.context(fit=True):
    ...     y = layer(jnp.ones(1000))
    >>> sorted(set(y.tolist()))
    [0.0, 1.25]
    """

    def __init__(
        self,
        prob: float | None = None,
        broadcast_dims: int | Sequence[int] = (),
        name: str | None = None,
        *,
        rate: float | None = None,
    ):
        super().__init__(prob, name, rate=rate)
        self.broadcast_dims = (broadcast_dims,) if isinstance(broadcast_dims, int) else tuple(broadcast_dims)

    def _mask_shape(self, x):
        if any(not -x.ndim <= axis < x.ndim for axis in self.broadcast_dims):
            raise ValueError(f'{label(self)}: broadcast_dims={self.broadcast_dims}, the input has shape {x.shape}.')
        shared = {axis % x.ndim for axis in self.broadcast_dims}
        return tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))


class _DropoutNd(SpatialModule, _Dropout):
    """Drop whole channels: one draw for each channel of each sample.

    Parameters
    ----------
    prob
        The probability of *keeping* a channel; 0.5 by default.
    channel_axis
        The axis of the channels; of the others the last ``spatial`` ones are spatial, the rest batch axes.
    rate
        The probability of dropping a channel, in place of ``prob``.

    Raises
    ------
    MissingSettingError
        If the setting ``fit`` has no value.
    ValueError
        For an input with too few axes.
    """

    def __init__(
        self, prob: float | None = None, channel_axis: int = -1, name: str | None = None, *, rate: float | None = None
    ):
        super().__init__(prob, name, rate=rate)
        self.channel_axis = channel_axis

    def update(self, x):
        check_input(self, x, (None,) * (self.spatial + 1))
        return super().update(x)

    def _mask_shape(self, x):
        return _per_channel(self, x, self.channel_axis, self.spatial)


def _per_channel(layer: Any, x: Any, channel_axis: int, spatial: int) -> tuple[int, ...]:
    """The shape of a mask that is shared along the spatial axes."""
    axes = list(range(x.ndim))
    if not -x.ndim <= channel_axis < x.ndim:
        raise ValueError(f'{label(layer)}: channel_axis={channel_axis} is not an axis of an input of shape {x.shape}.')
    axes.pop(channel_axis)
    return tuple(1 if axis in axes[len(axes) - spatial :] else n for axis, n in enumerate(x.shape))


class Dropout1d(_DropoutNd):
    """Drop whole channels of a signal over one spatial axis, shape (..., width, channels).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> with environ.context(fit=True):
    ...     y = nn.Dropout1d(0.5)(jnp.ones((5, 100)))
    >>> bool((y[0] == y).all())
    True
    """

    spatial = 1


class Dropout2d(_DropoutNd):
    """Drop whole channels of an image, shape (..., height, width, channels).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> with environ.context(fit=True):
    ...     y = nn.Dropout2d(0.5)(jnp.ones((5, 6, 100)))
    >>> bool((y[0, 0] == y).all())
    True
    """

    spatial = 2


class Dropout3d(_DropoutNd):
    """Drop whole channels of a volume, shape (..., depth, height, width, channels).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> with environ.context(fit=True):
    ...     y = nn.Dropout3d(0.5)(jnp.ones((5, 6, 7, 100)))
    >>> bool((y[0, 0, 0] == y).all())
    True
    """

    spatial = 3


class AlphaDropout(_Dropout):
    """Dropout that keeps mean 0 and variance 1, for networks of SELU units.

    In training an entry is kept with probability p = ``prob`` and set to alpha' = -1.7581 otherwise; then all are
    mapped by a x + b with a = (p (1 + (1 - p) alpha'^2))^(-1/2), b = -a (1 - p) alpha'. The identity if the setting
    ``fit`` is False.

    Parameters
    ----------
    prob
        The probability of *keeping* an entry; 0.5 by default.
    rate
        The probability of dropping an entry, in place of ``prob``.

    Raises
    ------
    MissingSettingError
        If the setting ``fit`` has no value.
    brainunit.UnitMismatchError
        For an input with a unit, since the layer assumes a standard normal scale.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn, random
    >>> with environ.context(fit=True):
    ...     y = nn.AlphaDropout(0.9)(random.normal(size=10_000))
    >>> bool(abs(y.mean()) < 0.05), bool(abs(y.std() - 1) < 0.05)
    (True, True)
    """

    def _drop(self, x, keep):
        if isinstance(x, u.Quantity):
            raise u.UnitMismatchError(f'{label(self)} takes inputs of mean 0 and variance 1, got one in {x.unit}.')
        p = self.prob
        if p == 0:
            return jnp.zeros_like(x)
        a = (p * (1 + (1 - p) * ALPHA**2)) ** -0.5
        return jnp.where(keep, a * x, a * ALPHA) - a * (1 - p) * ALPHA


class FeatureAlphaDropout(AlphaDropout):
    """`AlphaDropout` of whole channels: one draw for each channel of each sample.

    Parameters
    ----------
    prob
        The probability of *keeping* a channel; 0.5 by default.
    channel_axis
        The axis of the channels. The first other axis is the batch, if there are more than two axes; the mask is
        shared along the rest.
    rate
        The probability of dropping a channel, in place of ``prob``.

    Raises
    ------
    MissingSettingError
        If the setting ``fit`` has no value.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> with environ.context(fit=True):
    ...     y = nn.FeatureAlphaDropout(0.5)(jnp.ones((2, 5, 100)))
    >>> bool((y[:, :1] == y).all())
    True
    """

    def __init__(
        self, prob: float | None = None, channel_axis: int = -1, name: str | None = None, *, rate: float | None = None
    ):
        super().__init__(prob, name, rate=rate)
        self.channel_axis = channel_axis

    def _mask_shape(self, x):
        return _per_channel(self, x, self.channel_axis, max(x.ndim - 2, 0))


class DropoutFixed(_Dropout, SizedModule):
    """Dropout with one mask for a whole sequence, drawn by ``init_state``.

    Parameters
    ----------
    in_size
        The shape of one sample.
    prob
        The probability of *keeping* an entry; 0.5 by default.
    rate
        The probability of dropping an entry, in place of ``prob``.

    Raises
    ------
    MissingSettingError
        If the setting ``fit`` has no value.
    ValueError
        For an input of another shape, or before ``init_state``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> layer = nn.DropoutFixed(4, prob=0.5)
    >>> layer.init_state(batch_size=10)
    >>> with environ.context(fit=True):
    ...     bool((layer(jnp.ones((10, 4))) == layer(jnp.ones((10, 4)))).all())
    True
    """

    def __init__(self, in_size: Any, prob: float | None = None, name: str | None = None, *, rate: float | None = None):
        super().__init__(prob, name, rate=rate)
        self.in_size = self.out_size = in_size

    def init_state(self, batch_size: int | None = None, **kwargs) -> None:
        """Draw the mask; ``batch_size`` adds a leading batch axis."""
        self.mask = ShortTermState(self._draw(batch_size))

    def reset_state(self, batch_size: int | None = None, **kwargs) -> None:
        """Draw a new mask."""
        self.mask.value = self._draw(batch_size)

    def _draw(self, batch_size: int | None) -> jax.Array:
        shape = self.in_size if batch_size is None else (batch_size, *self.in_size)
        return jax.random.bernoulli(random.split_key(), self.prob, shape)

    def update(self, x):
        check_input(self, x)
        x = as_array(x)
        if not environ.get('fit', desc='whether dropout uses its mask'):
            return x
        if not hasattr(self, 'mask'):
            raise ValueError(f'{label(self)}: there is no mask yet: call init_state(batch_size=...) first.')
        keep = self.mask.value
        if x.shape[max(x.ndim - keep.ndim, 0) :] != keep.shape:
            raise ValueError(
                f'{label(self)}: init_state made a mask of shape {keep.shape}, the input has shape {x.shape}.'
            )
        return self._drop(x, keep)
