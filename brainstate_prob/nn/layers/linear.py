"""Linear layers: dense, standardised, signed, low-rank, all-to-all and one-to-one connections."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import ParamState, State
from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.nn import init
from brainstate_prob.nn.functional import weight_standardization
from brainstate_prob.nn.layers.shapes import SizedModule, add_bias, as_array, check_input, label
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.weights import ParamSpec, Weights, weights

__all__ = ['AllToAll', 'LoRA', 'Linear', 'OneToOne', 'ScaledWSLinear', 'SignedWLinear']


class _Dense(SizedModule):
    """Base of matrices over the last axis; the other axes are the same in ``in_size`` and ``out_size``."""

    weight: State | Weights

    def __init__(self, in_size: Any, out_size: Any, name: str | None):
        super().__init__(name)
        self.in_size, self.out_size = in_size, out_size
        if self.in_size[:-1] != self.out_size[:-1] or not self.in_size:
            raise ValueError(
                f'{label(self)}: only the last axis is mixed, the axes before it must agree: got '
                f'in_size={self.in_size}, out_size={self.out_size}; needed is '
                f'out_size={(*self.in_size[:-1], *self.out_size[-1:])}.'
            )

    @property
    def _shape(self) -> tuple[int, int]:
        return self.in_size[-1], self.out_size[-1]

    def _affine(self, x: Any, weight: Any) -> Any:
        check_input(self, x)
        return add_bias(self, as_array(x) @ weight, self.weight.value.get('bias'))


def fixed(layer: Module, values: Any, shape: tuple[int, ...], what: str) -> np.ndarray | None:
    """A mask or signs: None, an array that broadcasts to ``shape``, or a callable of it."""
    if values is None:
        return None
    values = np.asarray(values(shape) if callable(values) else values)
    try:
        fits = np.broadcast_shapes(values.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f'{label(layer)}: {what} must broadcast to {shape}, got shape {values.shape}.')
    return values


def masked(weight: Any, values: np.ndarray | None) -> Any:
    """The weight times a mask or signs, in the weight's dtype."""
    return weight if values is None else weight * jnp.asarray(values, weight.dtype)


class Linear(_Dense):
    """A dense layer: y = x (W * mask) + b over the last axis.

    Parameters
    ----------
    in_size, out_size
        Sizes without batch axes, an int or a tuple; the axes before the last must agree.
    w_init, b_init
        The weight (in, out) and the bias (out,): an initializer, a number, an array, a Quantity, a `Param` or a
        `ParamSpec`. ``b_init=None``: no bias.
    w_mask
        An array that broadcasts to the weight, or a callable of its shape; multiplies the weight at every call.
    param_type
        The State that holds the dict of both, at path ``('weight',)``.

    Raises
    ------
    ValueError
        If sizes do not agree, or the input does not end in ``in_size``.

    Notes
    -----
    Weight and input may have units; y has their product, and the bias must have the same unit or be None.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.Linear(3, 4)
    >>> layer(jnp.ones((10, 3))).shape, layer.out_size
    ((10, 4), (4,))
    """

    def __init__(
        self,
        in_size: Any,
        out_size: Any,
        w_init: Any = init.KaimingNormal(),  # noqa: B008  (an initializer is a value without state)
        b_init: Any = init.ZeroInit(),  # noqa: B008
        w_mask: Any = None,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(in_size, out_size, name)
        self.w_mask = fixed(self, w_mask, self._shape, 'w_mask')
        self.weight = weights(self, param_type, weight=(w_init, self._shape), bias=(b_init, self.out_size[-1:]))

    def update(self, x):
        return self._affine(x, masked(self.weight.value['weight'], self.w_mask))


class ScaledWSLinear(_Dense):
    """A dense layer whose weight is standardised: each column has mean 0 and norm 1, times a gain.

    See `weight_standardization`; the mask multiplies the standardised weight.

    Parameters
    ----------
    in_size, out_size, w_init, b_init, w_mask, param_type
        As of `Linear`.
    ws_gain
        Whether each output has a trainable gain, 1 at first, shape (1, out).
    eps
        The floor of a column's squared norm.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.ScaledWSLinear(3, 4)
    >>> sorted(layer.weight.value), layer(jnp.ones((10, 3))).shape
    (['bias', 'gain', 'weight'], (10, 4))
    """

    def __init__(
        self,
        in_size: Any,
        out_size: Any,
        w_init: Any = init.KaimingNormal(),  # noqa: B008
        b_init: Any = init.ZeroInit(),  # noqa: B008
        w_mask: Any = None,
        ws_gain: bool = True,
        eps: float = 1e-4,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(in_size, out_size, name)
        self.w_mask = fixed(self, w_mask, self._shape, 'w_mask')
        self.eps = eps
        self.weight = weights(
            self,
            param_type,
            weight=(w_init, self._shape),
            bias=(b_init, self.out_size[-1:]),
            gain=(1.0 if ws_gain else None, (1, self.out_size[-1])),
        )

    def update(self, x):
        made = self.weight.value
        return self._affine(x, masked(weight_standardization(made['weight'], self.eps, made.get('gain')), self.w_mask))


class SignedWLinear(SizedModule):
    """A dense layer with fixed signs: y = x (abs(W) * sign), without bias (Dale's law: a row has one sign).

    Parameters
    ----------
    in_size, out_size
        Sizes without batch axes; all axes of the input are mixed.
    w_init
        The weight, shape in_size + out_size; see `Linear`.
    w_sign
        An array that broadcasts to the weight, or a callable of its shape; None: all positive.
    param_type
        The State at path ``('weight',)``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.SignedWLinear(2, 3, w_sign=jnp.array([[1.0], [-1.0]]))  # one excitatory, one inhibitory unit
    >>> bool((layer(jnp.array([0.0, 1.0])) <= 0).all())
    True
    """

    def __init__(
        self,
        in_size: Any,
        out_size: Any,
        w_init: Any = init.KaimingNormal(),  # noqa: B008
        w_sign: Any = None,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(name)
        self.in_size, self.out_size = in_size, out_size
        shape = (*self.in_size, *self.out_size)
        self.w_sign = fixed(self, w_sign, shape, 'w_sign')
        self.weight = weights(self, param_type, weight=(w_init, shape))

    def update(self, x):
        batch = check_input(self, x)
        x = as_array(x)
        weight = masked(abs(self.weight.value['weight']), self.w_sign)
        y = x.reshape((*x.shape[:batch], -1)) @ weight.reshape((math.prod(self.in_size), -1))
        return y.reshape((*x.shape[:batch], *self.out_size))


class LoRA(SizedModule):
    """Low-rank adaptation: y = base_module(x) + x A B.

    Parameters
    ----------
    in_features, lora_rank, out_features
        A has shape (in_features, lora_rank), B (lora_rank, out_features).
    base_module
        The adapted module, or None. Its own parameters stay trainable; exclude them from the optimizer, or give them a
        State that is not a `ParamState`, to train A and B alone.
    kernel_init
        A, see `Linear`. The same for B without a base module or with a prior; otherwise B is zero, so that
        training starts at the base module.
    param_type
        The State at path ``('weight',)``, with the entries ``lora_a`` and ``lora_b``.
    in_size
        The size of one sample, ending in ``in_features``, which is also its default.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> base = nn.Linear(10, 5)
    >>> layer = nn.LoRA(10, 2, 5, base_module=base)
    >>> x = jnp.ones((3, 10))
    >>> bool((layer(x) == base(x)).all())
    True
    """

    def __init__(
        self,
        in_features: int,
        lora_rank: int,
        out_features: int,
        *,
        base_module: Any = None,
        kernel_init: Any = init.LecunNormal(),  # noqa: B008
        param_type: type[State] = ParamState,
        in_size: Any = None,
    ):
        super().__init__()
        if base_module is not None and not callable(base_module):
            raise TypeError(f'LoRA: base_module must be callable, got {type(base_module).__name__}.')
        self.in_features, self.lora_rank, self.out_features = in_features, lora_rank, out_features
        if in_size is None:
            in_size = in_features
        self.in_size = in_size
        self.out_size = (*self.in_size[:-1], out_features)
        if self.in_size[-1] != in_features:
            raise ValueError(f'{label(self)}: in_size must end in in_features={in_features}, got {self.in_size}.')
        self.base_module = base_module
        start = kernel_init if base_module is None or isinstance(kernel_init, ParamSpec) else init.ZeroInit()
        self.weight = weights(
            self,
            param_type,
            lora_a=(kernel_init, (in_features, lora_rank)),
            lora_b=(start, (lora_rank, out_features)),
        )

    def update(self, x):
        check_input(self, x)
        x, made = as_array(x), self.weight.value
        y = x @ made['lora_a'] @ made['lora_b']
        return y if self.base_module is None else y + self.base_module(x)


class AllToAll(_Dense):
    """All-to-all connection: y = x W + b, or one weight for all pairs.

    Parameters
    ----------
    in_size, out_size, b_init, param_type
        As of `Linear`; no bias by default.
    w_init
        The weight (in, out), see `Linear`; a scalar is one weight w for all pairs, y = w sum(x), without
        a matrix.
    include_self
        Whether unit i feeds unit i.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.AllToAll(3, 3, 2.0, include_self=False)(jnp.array([1.0, 10.0, 100.0]))
    Array([220., 202.,  22.], dtype=float32)
    """

    def __init__(
        self,
        in_size: Any,
        out_size: Any,
        w_init: Any = init.KaimingNormal(),  # noqa: B008
        b_init: Any = None,
        include_self: bool = True,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(in_size, out_size, name)
        self.include_self = bool(include_self)
        made = weights(
            self, param_type, keep_scalars=True, weight=(w_init, self._shape), bias=(b_init, (self._shape[1],))
        )
        self.weight = made

    def update(self, x):
        weight = self.weight.value['weight']
        if weight.ndim:
            return self._affine(
                x, weight if self.include_self else weight * (1 - jnp.eye(*self._shape, dtype=weight.dtype))
            )
        check_input(self, x)
        values, unit = magnitude_and_unit(x)
        n_in, n_out = self._shape
        total = jnp.broadcast_to(values.sum(-1, keepdims=True), (*values.shape[:-1], n_out))
        if not self.include_self:
            shared = min(n_in, n_out)
            total = total.at[..., :shared].add(-values[..., :shared])
        return add_bias(self, with_unit(total, unit) * weight, self.weight.value.get('bias'))


class OneToOne(SizedModule):
    """One-to-one connection: y = w * x + b, elementwise.

    Parameters
    ----------
    in_size
        The size without batch axes; also that of the output.
    w_init, b_init
        Weight and bias of shape ``in_size``, see `Linear`; no bias by default.
    param_type
        The State at path ``('weight',)``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.OneToOne(3, w_init=2.0)(jnp.arange(3.0))
    Array([0., 2., 4.], dtype=float32)
    """

    def __init__(
        self,
        in_size: Any,
        w_init: Any = init.Normal(),  # noqa: B008
        b_init: Any = None,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(name)
        self.in_size = self.out_size = in_size
        self.weight = weights(self, param_type, weight=(w_init, self.in_size), bias=(b_init, self.in_size))

    def update(self, x):
        check_input(self, x)
        made = self.weight.value
        return add_bias(self, as_array(x) * made['weight'], made.get('bias'))
