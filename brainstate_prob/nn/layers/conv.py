"""Convolutions: one N-d layer over ``lax.conv_general_dilated``, weight-standardized and transposed convolutions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from brainstate_prob.core import ParamState, State
from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.nn import init
from brainstate_prob.nn.functional import weight_standardization
from brainstate_prob.nn.layers.linear import fixed, masked
from brainstate_prob.nn.layers.shapes import (
    SizedModule,
    SpatialModule,
    add_bias,
    check_input,
    label,
    ntuple,
    paddings,
)
from brainstate_prob.nn.weights import weights

__all__ = [
    'Conv1d',
    'Conv2d',
    'Conv3d',
    'ConvTranspose1d',
    'ConvTranspose2d',
    'ConvTranspose3d',
    'ScaledWSConv1d',
    'ScaledWSConv2d',
    'ScaledWSConv3d',
]


class _Conv(SpatialModule, SizedModule):
    """Cross-correlation with a kernel that moves over the spatial axes, plus a bias.

    Parameters
    ----------
    in_size
        The shape of one sample: the spatial axes, then the channels; the channels first with ``channel_first``.
    out_channels
        The number of output channels.
    kernel_size, stride
        An int, or one per axis.
    padding
        ``'SAME'`` (ceil(n / stride) outputs per axis), ``'VALID'`` (no padding), an int, an int per axis, or a pair
        (low, high) per axis.
    lhs_dilation, rhs_dilation
        The step between the entries of the input, of the kernel: an int, or one per axis.
    groups
        The number of groups of input and output channels; groups are independent.
    w_init, b_init
        The kernel, shape kernel_size + (in_channels / groups, out_channels), and the bias (out_channels,): an
        initializer, a number, an array, a Quantity, a `Param` or a `ParamSpec`. ``b_init=None``: no bias.
    w_mask
        An array that broadcasts to the kernel, or a callable of its shape; multiplies it at every call.
    channel_first
        Whether inputs, outputs and sizes have the channels before the spatial axes.
    param_type
        The State that holds the dict of kernel (``'weight'``) and bias, at path ``('weight',)``.

    Raises
    ------
    ValueError
        If ``in_size`` has another number of axes, groups do not divide the channels, or the kernel or the input does
        not fit.
    """

    ws_gain = False

    def __init__(
        self,
        in_size: Any,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 'SAME',
        lhs_dilation: Any = 1,
        rhs_dilation: Any = 1,
        groups: int = 1,
        w_init: Any = init.XavierNormal(),  # noqa: B008  (an initializer is a value without state)
        b_init: Any = None,
        w_mask: Any = None,
        channel_first: bool = False,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(name)
        self.in_size = in_size
        self.channel_first = bool(channel_first)
        if len(self.in_size) != self.spatial + 1:
            names = self._names()
            names = (names[-1], *names[:-1]) if self.channel_first else names
            raise ValueError(f'{label(self)}: in_size must be ({", ".join(names)}), got {self.in_size}.')
        self.in_channels = self.in_size[0 if self.channel_first else -1]
        self.out_channels = out_channels
        self.kernel_size = ntuple(kernel_size, self.spatial, 'kernel_size')
        self.stride = ntuple(stride, self.spatial, 'stride')
        self.padding = paddings(padding, self.spatial)
        self.lhs_dilation = ntuple(lhs_dilation, self.spatial, 'lhs_dilation')
        self.rhs_dilation = ntuple(rhs_dilation, self.spatial, 'rhs_dilation')
        self.groups = groups
        if groups < 1 or self.in_channels % groups or out_channels % groups:
            raise ValueError(
                f'{label(self)}: groups={groups} must divide the {self.in_channels} input and {out_channels} output '
                'channels.'
            )
        kernel = (*self.kernel_size, self.in_channels // groups, out_channels)
        self.w_mask = fixed(self, w_mask, kernel, 'w_mask')
        self.weight = weights(
            self,
            param_type,
            weight=(w_init, kernel),
            bias=(b_init, (out_channels,)),
            gain=(1.0 if self.ws_gain else None, (*(1,) * (self.spatial + 1), out_channels)),
        )
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *self.in_size), kernel))
        out_size = jax.eval_shape(self._convolve, *shapes).shape[1:]
        if 0 in out_size:
            raise ValueError(
                f'{label(self)}: a kernel of {self.kernel_size} with padding {self.padding!r} does not fit into an '
                f'input of shape {self.in_size}.'
            )
        self.out_size = out_size

    def update(self, x):
        batch = check_input(self, x)
        (x, x_unit), (w, w_unit) = magnitude_and_unit(x), magnitude_and_unit(self._kernel())
        dtype = jnp.promote_types(x.dtype, w.dtype)
        y = self._convolve(x.reshape((-1, *self.in_size)).astype(dtype), w.astype(dtype))
        y = y.reshape((*x.shape[:batch], *self.out_size))
        y = with_unit(y, x_unit) if w_unit is None else with_unit(y, x_unit) * w_unit
        bias = self.weight.value.get('bias')
        if bias is not None and self.channel_first:
            bias = bias.reshape((-1,) + (1,) * self.spatial)
        return add_bias(self, y, bias)

    def _kernel(self) -> Any:
        return masked(self.weight.value['weight'], self.w_mask)

    def _convolve(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return self._general(x, w, self.stride, self.padding, self.lhs_dilation)

    def _general(self, x: jax.Array, w: jax.Array, stride: Any, padding: Any, lhs_dilation: Any) -> jax.Array:
        """The convolution of JAX, in the layout of this layer."""
        axes = 'DHW'[-self.spatial :]
        image = f'NC{axes}' if self.channel_first else f'N{axes}C'
        return lax.conv_general_dilated(
            x,
            w,
            stride,
            padding,
            lhs_dilation,
            self.rhs_dilation,
            dimension_numbers=(image, f'{axes}IO', image),
            feature_group_count=self.groups,
        )


class _ScaledWSConv(_Conv):
    """Cross-correlation with a standardised kernel: mean 0 and norm 1 for each output channel, times a gain.

    Parameters
    ----------
    in_size, out_channels, kernel_size, stride, padding, lhs_dilation, rhs_dilation, groups
        As of `Conv1d`.
    ws_gain
        Whether each output channel has a trainable gain, 1 at first, shape (1, ..., out_channels).
    eps
        The floor of a channel's squared norm; see `weight_standardization`.
    w_init, b_init, w_mask, channel_first, param_type
        As of `Conv1d`; the mask multiplies the standardised kernel.

    Raises
    ------
    ValueError
        As `Conv1d`.
    """

    def __init__(
        self,
        in_size: Any,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 'SAME',
        lhs_dilation: Any = 1,
        rhs_dilation: Any = 1,
        groups: int = 1,
        ws_gain: bool = True,
        eps: float = 1e-4,
        w_init: Any = init.XavierNormal(),  # noqa: B008
        b_init: Any = None,
        w_mask: Any = None,
        channel_first: bool = False,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        self.ws_gain, self.eps = bool(ws_gain), eps
        super().__init__(
            in_size, out_channels, kernel_size, stride, padding, lhs_dilation, rhs_dilation, groups, w_init, b_init,
            w_mask, channel_first, name, param_type,
        )  # fmt: skip

    def _kernel(self):
        made = self.weight.value
        return masked(weight_standardization(made['weight'], self.eps, made.get('gain')), self.w_mask)


class _ConvTranspose(_Conv):
    """The adjoint of a strided cross-correlation, plus a bias: every input entry adds a scaled kernel to the output.

    Entry n of the input adds kernel entry t to output n * stride + t * rhs_dilation - low. With the kernel's channels
    exchanged this is the transpose of the linear map of a convolution, and what other libraries call so.

    Parameters
    ----------
    in_size
        The shape of one sample: the spatial axes, then the channels; the channels first with ``channel_first``.
    out_channels
        The number of output channels.
    kernel_size, stride
        An int, or one per axis.
    padding
        That of the convolution: ``'SAME'`` gives n * stride outputs per axis, ``'VALID'``
        (n - 1) * stride + max(k, stride) with k = (kernel_size - 1) * rhs_dilation + 1, numbers (low, high)
        (n - 1) * stride + k - low - high.
    rhs_dilation
        The step between the entries of the kernel: an int, or one per axis.
    groups
        The number of groups of input and output channels; groups are independent.
    w_init, b_init, w_mask, channel_first, param_type
        As of `Conv1d`; the kernel has shape kernel_size + (in_channels / groups, out_channels).

    Raises
    ------
    ValueError
        As `Conv1d`.
    """

    def __init__(
        self,
        in_size: Any,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 'SAME',
        rhs_dilation: Any = 1,
        groups: int = 1,
        w_init: Any = init.XavierNormal(),  # noqa: B008
        b_init: Any = None,
        w_mask: Any = None,
        channel_first: bool = False,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(
            in_size, out_channels, kernel_size, stride, padding, 1, rhs_dilation, groups, w_init, b_init, w_mask,
            channel_first, name, param_type,
        )  # fmt: skip

    def _convolve(self, x, w):
        pads = [self._around(axis) for axis in range(self.spatial)]
        return self._general(x, jnp.flip(w, range(self.spatial)), (1,) * self.spatial, pads, self.stride)

    def _around(self, axis: int) -> tuple[int, int]:
        """The padding of the dilated input."""
        stride, reach = self.stride[axis], (self.kernel_size[axis] - 1) * self.rhs_dilation[axis]
        if self.padding == 'VALID':
            return reach, max(reach, stride - 1)
        if isinstance(self.padding, str):  # 'SAME'
            low = max(reach + 1 - stride, 0) // 2
            return reach - low, stride - 1 + low
        low, high = self.padding[axis]
        return reach - low, reach - high


class Conv1d(_Conv):
    """Convolution (cross-correlation) over one spatial axis.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.Conv1d((10, 3), 8, 5)
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((10, 8), (5, 3, 8))
    """

    spatial = 1


class Conv2d(_Conv):
    """Convolution (cross-correlation) over two spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.Conv2d((28, 28, 3), 8, 3, stride=2)
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((14, 14, 8), (3, 3, 3, 8))
    """

    spatial = 2


class Conv3d(_Conv):
    """Convolution (cross-correlation) over three spatial axes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.Conv3d((8, 8, 8, 2), 4, 3, padding='VALID')
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((6, 6, 6, 4), (3, 3, 3, 2, 4))
    """

    spatial = 3


class ScaledWSConv1d(_ScaledWSConv):
    """Convolution over one spatial axis with a standardised kernel.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.ScaledWSConv1d((10, 3), 8, 5)
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((10, 8), (5, 3, 8))
    """

    spatial = 1


class ScaledWSConv2d(_ScaledWSConv):
    """Convolution over two spatial axes with a standardised kernel.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.ScaledWSConv2d((28, 28, 3), 8, 3, stride=2)
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((14, 14, 8), (3, 3, 3, 8))
    """

    spatial = 2


class ScaledWSConv3d(_ScaledWSConv):
    """Convolution over three spatial axes with a standardised kernel.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.ScaledWSConv3d((8, 8, 8, 2), 4, 3, padding='VALID')
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((6, 6, 6, 4), (3, 3, 3, 2, 4))
    """

    spatial = 3


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution over one spatial axis: the adjoint of a strided convolution, for upsampling.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.ConvTranspose1d((10, 3), 8, 5, stride=2)
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((20, 8), (5, 3, 8))
    """

    spatial = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution over two spatial axes: the adjoint of a strided convolution, for upsampling.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.ConvTranspose2d((14, 14, 3), 8, 4, stride=2, padding=1)
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((28, 28, 8), (4, 4, 3, 8))
    """

    spatial = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution over three spatial axes: the adjoint of a strided convolution, for upsampling.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.ConvTranspose3d((4, 4, 4, 2), 4, 3, padding='VALID')
    >>> layer.out_size, layer.weight.value['weight'].shape
    ((6, 6, 6, 4), (3, 3, 3, 2, 4))
    """

    spatial = 3
