"""Batch normalization, over 0 to 3 spatial axes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from brainstate_prob import environ
from brainstate_prob.core import BatchState, State
from brainstate_prob.nn import init
from brainstate_prob.nn.layers.norm import Axes, Norm, NormalizationParamState
from brainstate_prob.nn.layers.shapes import SpatialModule, label

__all__ = ['BatchNorm0d', 'BatchNorm1d', 'BatchNorm2d', 'BatchNorm3d']


class _BatchNorm(SpatialModule, Norm):
    """Normalise each feature over the batch and the spatial axes.

    Parameters
    ----------
    in_size
        The shape of one sample, spatial axes and features.
    feature_axis
        The axis of the features in ``in_size``, or several.
    track_running_stats
        Whether predictions use running statistics; otherwise batch statistics are always used, and the setting
        ``fit`` is not read.
    epsilon
        Added to the variance.
    momentum
        running <- momentum * running + (1 - momentum) * batch, at each call with ``fit=True``.
    affine
        Whether there is a trainable scale and bias.
    bias_initializer, scale_initializer
        An initializer, a number, an array, a `Param` or a `ParamSpec`.
    axis_name, axis_index_groups
        A mapped axis (of ``vmap``, ``pmap``, ``shard_map``) whose batches count as one, and groups along it.
    use_fast_variance
        Whether the variance takes one pass over the data or two.
    dtype
        Of the result; by default that of input and parameters together. Statistics are in single precision at least.
    param_type, mean_type
        The States of scale and bias, at ``('weight',)``, and of the running statistics, at ``('running_mean',)``
        and ``('running_var',)``.

    Raises
    ------
    MissingSettingError
        If the setting ``fit`` has no value: True uses and tracks the statistics of the batch, False uses the
        running ones.
    ValueError
        For an input that does not end in ``in_size``.

    Notes
    -----
    The call takes ``mask``, which broadcasts to the input: entries where it is False do not count. Both variances
    divide by n, not n - 1.
    """

    def __init__(
        self,
        in_size: Any,
        feature_axis: Axes = -1,
        *,
        track_running_stats: bool = True,
        epsilon: float = 1e-5,
        momentum: float = 0.99,
        affine: bool = True,
        bias_initializer: Any = init.Constant(0.0),  # noqa: B008  (an initializer is a value without state)
        scale_initializer: Any = init.Constant(1.0),  # noqa: B008
        axis_name: Any = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        name: str | None = None,
        dtype: Any = None,
        param_type: type[State] = NormalizationParamState,
        mean_type: type[State] = BatchState,
    ):
        super().__init__(
            in_size,
            feature_axis,
            name,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            use_fast_variance=use_fast_variance,
        )
        if len(self.in_size) != self.spatial + 1:
            fitting = {1: f'BatchNorm0d({self.in_size[0]}), for tables of shape (N, features)'}.get(
                len(self.in_size), f'BatchNorm{len(self.in_size) - 1}d({self.in_size})'
            )
            use = f' Use {fitting}.' if 0 < len(self.in_size) < 5 else ''
            raise ValueError(
                f'{label(self)}: in_size must be ({", ".join(self._names())}), {self.spatial + 1} sizes; got '
                f'{self.in_size}.{use}'
            )
        self.momentum = momentum
        self.track_running_stats = bool(track_running_stats)
        if self.track_running_stats:
            kind = jnp.promote_types(environ.dftype(), jnp.float32)
            self.running_mean = mean_type(jnp.zeros(self._feature_shape, kind))
            self.running_var = mean_type(jnp.ones(self._feature_shape, kind))
        self._affine(param_type, bias_initializer if affine else None, scale_initializer if affine else None)

    def update(self, x, mask=None):
        x = self._input(x)
        batch = True
        if self.track_running_stats:
            training = environ.get('fit', desc='whether batch statistics are used and tracked')
            # MC dropout predicts with dropout on and running statistics: see `infer.mc_dropout`.
            batch = training and not environ.get('keep_statistics', False)
        if not batch:
            return self._normalize(x, self.running_mean.value, self.running_var.value)
        axes = [axis for axis in range(-x.ndim, 0) if axis not in self.feature_axes]
        mu, var = self._stats(x, axes, mask)
        if self.track_running_stats:
            for running, now in ((self.running_mean, mu), (self.running_var, var)):
                old = running.value
                new = self.momentum * old + (1 - self.momentum) * now.reshape(old.shape)
                running.value = lax.stop_gradient(new).astype(old.dtype)
        return self._normalize(x, mu, var)


class BatchNorm0d(_BatchNorm):
    """Normalise each feature over the batch; inputs (..., features).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> layer = nn.BatchNorm0d(2)
    >>> with environ.context(fit=True):
    ...     layer(jnp.array([[1.0, 2.0], [3.0, 6.0]])).round(3)
    Array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> layer.running_mean.value.round(3)
    Array([0.02, 0.04], dtype=float32)
    """

    spatial = 0


class BatchNorm1d(_BatchNorm):
    """Normalise each feature over the batch and one spatial axis; inputs (..., width, features).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> sorted(nn.BatchNorm1d((8, 3)).states())
    [('running_mean',), ('running_var',), ('weight',)]
    """

    spatial = 1


class BatchNorm2d(_BatchNorm):
    """Normalise each feature over the batch and two spatial axes; inputs (..., height, width, features).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.BatchNorm2d((3, 8, 8), feature_axis=0).weight.value['scale'].shape
    (3, 1, 1)
    """

    spatial = 2


class BatchNorm3d(_BatchNorm):
    """Normalise each feature over the batch and three spatial axes; inputs (..., depth, height, width, features).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.BatchNorm3d((8, 8, 8, 3)).out_size
    (8, 8, 8, 3)
    """

    spatial = 3
