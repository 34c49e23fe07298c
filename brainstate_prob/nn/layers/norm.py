"""Layer, group and root-mean-square normalization, and the base class of all norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from brainstate_prob import environ
from brainstate_prob.core import ParamState, State
from brainstate_prob.core.units import u
from brainstate_prob.nn import init
from brainstate_prob.nn.layers.shapes import SizedModule, check_input, label
from brainstate_prob.nn.weights import weights

__all__ = [
    'GroupNorm',
    'LayerNorm',
    'NormalizationParamState',
    'RMSNorm',
]

Axes = int | Sequence[int]


class NormalizationParamState(ParamState):
    """The scale and bias of a normalization layer: trainable, with a type of their own for filters."""


class Norm(SizedModule):
    """Base of normalization layers: statistics over some axes, and a scale and bias over the feature axes.

    Axes are kept as negative numbers, counted from the end of the input, so that batch axes do not matter.
    """

    def __init__(
        self,
        in_size: Any,
        feature_axes: Axes,
        name: str | None,
        *,
        epsilon: float,
        dtype: Any,
        axis_name: Any,
        axis_index_groups: Any,
        use_fast_variance: bool,
    ):
        super().__init__(name)
        self.in_size = self.out_size = in_size
        self.feature_axes = tuple(axis for axis in self._from_end(feature_axes, 'feature_axes'))
        if any(axis < -len(self.in_size) for axis in self.feature_axes):
            raise ValueError(f'{label(self)}: feature axes {feature_axes} are not axes of in_size={self.in_size}.')
        self.epsilon = epsilon
        self.dtype = dtype
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups
        self.use_fast_variance = use_fast_variance

    def _from_end(self, axes: Axes, what: str) -> tuple[int, ...]:
        n = len(self.in_size)
        given = (axes,) if isinstance(axes, int) else tuple(axes)
        if any(axis >= n for axis in given) or not given:
            raise ValueError(f'{label(self)}: {what}={axes} must be axes of one sample, in_size={self.in_size}.')
        return tuple(sorted({axis - n if axis >= 0 else axis for axis in given}))

    @property
    def _feature_shape(self) -> tuple[int, ...]:
        n = len(self.in_size)
        return tuple(size if axis - n in self.feature_axes else 1 for axis, size in enumerate(self.in_size))

    def _affine(self, param_type: type[State], bias: Any, scale: Any) -> None:
        shape = self._feature_shape
        given = bias is not None or scale is not None
        self.weight = weights(self, param_type, bias=(bias, shape), scale=(scale, shape)) if given else None

    def _input(self, x: Any) -> jax.Array:
        check_input(self, x)
        if isinstance(x, u.Quantity):
            raise TypeError(f'{label(self)} gives numbers without a unit; divide the input by {x.unit} first.')
        return jnp.asarray(x)

    def _stats(self, x: jax.Array, axes: Sequence[int], mask: Any, centred: bool = True) -> tuple[Any, jax.Array]:
        """Mean and variance over the axes, which stay with size 1, in single precision at least.

        The fast variance is E[(x - c)²] - E[x - c]², of one pass over the data, with the first entry as c, so that a
        large mean costs no precision. Across devices there is no such entry and c is 0.
        """
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if mask is not None:
            mask = jnp.broadcast_to(jnp.asarray(mask, bool), x.shape)
            x = jnp.where(mask, x, 0)

        def mean(*values: jax.Array) -> list[jax.Array]:
            sums = [jnp.sum(v, axes, keepdims=True, where=mask) for v in values]
            count = math.prod(x.shape[axis] for axis in axes) if mask is None else mask.sum(axes, keepdims=True)
            if self.axis_name is not None:
                sums, count = lax.psum((sums, count), self.axis_name, axis_index_groups=self.axis_index_groups)
            return [s / jnp.maximum(count, 1) for s in sums]

        if not centred:
            return 0.0, mean(x**2)[0]
        if not self.use_fast_variance:
            (mu,) = mean(x)
            return mu, mean((x - mu) ** 2)[0]
        first = tuple(slice(0, 1) if axis - x.ndim in axes else slice(None) for axis in range(x.ndim))
        c = 0.0 if self.axis_name is not None else lax.stop_gradient(x[first])
        mu, square = mean(x - c, (x - c) ** 2)
        return mu + c, jnp.maximum(square - mu**2, 0)

    def _normalize(self, x: jax.Array, mu: Any, var: Any) -> jax.Array:
        """(x - mu) / sqrt(var + epsilon) * scale + bias."""
        made = {} if self.weight is None else self.weight.value
        dtype = self.dtype or jnp.result_type(x, *made.values())
        y = (x - mu) * lax.rsqrt(var + self.epsilon)
        if 'scale' in made:
            y = y * made['scale']
        if 'bias' in made:
            y = y + made['bias']
        return y.astype(dtype if jnp.issubdtype(dtype, jnp.inexact) else environ.dftype())


class LayerNorm(Norm):
    """Normalise each sample over some of its axes: (x - mean) / sqrt(var + epsilon) * scale + bias.

    Parameters
    ----------
    in_size
        The shape of one sample.
    reduction_axes, feature_axes
        The axes of mean and variance, and those of scale and bias: axes of one sample, or negative.
    epsilon
        Added to the variance.
    use_bias, use_scale
        Whether there is a bias, a scale.
    bias_init, scale_init
        An initializer, a number, an array, a `Param` or a `ParamSpec`.
    axis_name, axis_index_groups
        A mapped axis over which statistics are shared, and groups along it.
    use_fast_variance
        Whether the variance takes one pass over the data or two.
    dtype
        Of the result; by default that of input and parameters together.
    param_type
        The State at path ``('weight',)``.

    Raises
    ------
    ValueError
        If ``in_size`` does not have the axes, or the input does not end in ``in_size``.

    Notes
    -----
    The call takes ``mask=``, which broadcasts to the input: entries where it is False do not count.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.LayerNorm(2)(jnp.array([[1.0, 2.0], [3.0, 6.0]])).round(3)
    Array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        in_size: Any,
        reduction_axes: Axes = -1,
        feature_axes: Axes = -1,
        *,
        epsilon: float = 1e-6,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Any = init.ZeroInit(),  # noqa: B008
        scale_init: Any = init.Constant(1.0),  # noqa: B008
        axis_name: Any = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        dtype: Any = None,
        param_type: type[State] = NormalizationParamState,
    ):
        super().__init__(
            in_size,
            feature_axes,
            None,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            use_fast_variance=use_fast_variance,
        )
        self.reduction_axes = self._from_end(reduction_axes, 'reduction_axes')
        self._affine(param_type, bias_init if use_bias else None, scale_init if use_scale else None)

    def update(self, x, *, mask=None):
        x = self._input(x)
        return self._normalize(x, *self._stats(x, self.reduction_axes, mask))


class RMSNorm(Norm):
    """Divide each sample by its root mean square: x / sqrt(mean(x²) + epsilon) * scale.

    Parameters
    ----------
    in_size, epsilon, dtype, use_scale, scale_init, reduction_axes, feature_axes, axis_name, axis_index_groups
        As of `LayerNorm`, as is ``param_type``; there is no bias.
    use_fast_variance
        Ignored; for compatibility with the other norms.

    Notes
    -----
    The call takes ``mask=``, which broadcasts to the input: entries where it is False do not count.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.RMSNorm(2)(jnp.array([3.0, -3.0])).round(3)
    Array([ 1., -1.], dtype=float32)
    """

    def __init__(
        self,
        in_size: Any,
        *,
        epsilon: float = 1e-6,
        dtype: Any = None,
        use_scale: bool = True,
        scale_init: Any = init.Constant(1.0),  # noqa: B008
        reduction_axes: Axes = -1,
        feature_axes: Axes = -1,
        axis_name: Any = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        param_type: type[State] = NormalizationParamState,
    ):
        super().__init__(
            in_size,
            feature_axes,
            None,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            use_fast_variance=use_fast_variance,
        )
        self.reduction_axes = self._from_end(reduction_axes, 'reduction_axes')
        self._affine(param_type, None, scale_init if use_scale else None)

    def update(self, x, *, mask=None):
        x = self._input(x)
        return self._normalize(x, *self._stats(x, self.reduction_axes, mask, centred=False))


class GroupNorm(Norm):
    """Normalise each sample over groups of its channels, and over its spatial axes.

    Parameters
    ----------
    in_size
        The shape of one sample, such as (height, width, channels). With (channels,) an input
        of more than two axes is (batch, ..., channels).
    feature_axis
        The axis of the channels.
    num_groups, group_size
        The number of groups, or the channels per group; one of them must be None.
    reduction_axes
        The axes of mean and variance, the channels among them; None takes all axes of a sample.
    epsilon, dtype, use_bias, use_scale, bias_init, scale_init, axis_name, axis_index_groups, use_fast_variance
        As of `LayerNorm`, as is ``param_type``.

    Raises
    ------
    ValueError
        If the groups do not divide the channels, or not exactly one of ``num_groups`` and ``group_size`` is given.

    Notes
    -----
    The call takes ``mask=``, which broadcasts to the input: entries where it is False do not count.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.GroupNorm(4, num_groups=2)(jnp.array([1.0, 3.0, 10.0, 30.0])).round(3)
    Array([-1.,  1., -1.,  1.], dtype=float32)
    """

    def __init__(
        self,
        in_size: Any,
        feature_axis: int = -1,
        num_groups: int | None = 32,
        group_size: int | None = None,
        *,
        epsilon: float = 1e-6,
        dtype: Any = None,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Any = init.ZeroInit(),  # noqa: B008
        scale_init: Any = init.Constant(1.0),  # noqa: B008
        reduction_axes: Axes | None = None,
        axis_name: Any = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        param_type: type[State] = NormalizationParamState,
    ):
        super().__init__(
            in_size,
            feature_axis,
            None,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            use_fast_variance=use_fast_variance,
        )
        (axis,) = self.feature_axes
        channels = self.in_size[axis]
        if num_groups is not None and group_size is None:
            what, given = 'num_groups', num_groups
        elif group_size is not None and num_groups is None:
            what, given = 'group_size', group_size
        else:
            raise ValueError(
                f'{label(self)}: give one of num_groups and group_size; got num_groups={num_groups}, '
                f'group_size={group_size}. With group_size, pass num_groups=None.'
            )
        if given < 1 or channels % given:
            raise ValueError(f'{label(self)}: {what}={given} does not divide the {channels} channels.')
        self.num_groups = given if group_size is None else channels // given
        self.group_size = channels // self.num_groups
        self.reduction_axes = None if reduction_axes is None else self._from_end(reduction_axes, 'reduction_axes')
        if self.reduction_axes is not None and axis not in self.reduction_axes:
            raise ValueError(f'{label(self)}: reduction_axes={reduction_axes} must have the channels, axis {axis}.')
        self._affine(param_type, bias_init if use_bias else None, scale_init if use_scale else None)

    def update(self, x, *, mask=None):
        x = self._input(x)
        (axis,) = self.feature_axes
        axes: Sequence[int] | None = self.reduction_axes
        if axes is None:
            axes = range(-len(self.in_size) if len(self.in_size) > 1 else min(1 - x.ndim, -1), 0)
        # The channels become (groups, channels per group), which shifts the axes before them.
        split = (*x.shape[:axis], self.num_groups, self.group_size, *x.shape[x.ndim + axis + 1 :])
        if mask is not None:
            mask = jnp.broadcast_to(mask, x.shape).reshape(split)
        mu, var = self._stats(x.reshape(split), [a - 1 if a < axis else a for a in axes], mask)
        mu, var = (
            jnp.broadcast_to(
                s, (*s.shape[: axis - 1], self.num_groups, self.group_size, *s.shape[s.ndim + axis + 1 :])
            ).reshape((*s.shape[: axis - 1], -1, *s.shape[s.ndim + axis + 1 :]))
            for s in (mu, var)
        )
        return self._normalize(x, mu, var)
