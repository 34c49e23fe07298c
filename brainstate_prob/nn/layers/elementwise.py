"""Activation layers: the functions of `brainstate_prob.nn.functional` with their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from brainstate_prob import environ
from brainstate_prob.core import ParamState
from brainstate_prob.core.units import u
from brainstate_prob.nn import functional as F
from brainstate_prob.nn.functional.units import carries_unit
from brainstate_prob.nn.layers.shapes import label
from brainstate_prob.nn.module import ElementWiseBlock, Module
from brainstate_prob.nn.weights import weights

__all__ = [
    'CELU',
    'ELU',
    'GELU',
    'GLU',
    'Hardshrink',
    'Hardsigmoid',
    'Hardswish',
    'Hardtanh',
    'Identity',
    'LeakyReLU',
    'LogSigmoid',
    'LogSoftmax',
    'Mish',
    'PReLU',
    'RReLU',
    'ReLU',
    'ReLU6',
    'SELU',
    'SiLU',
    'Sigmoid',
    'Softmax',
    'Softmax2d',
    'Softmin',
    'Softplus',
    'Softshrink',
    'Softsign',
    'SpikeBitwise',
    'Tanh',
    'Tanhshrink',
    'Threshold',
]


class _Activation(ElementWiseBlock):
    """Base of activation layers: the options are attributes, and the repr rebuilds the layer."""

    _function: ClassVar[Callable[..., Any]]
    _options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **kwargs: Any):
        kind = type(self)
        try:
            options = inspect.signature(kind).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f'{kind.__name__}{inspect.signature(kind)}: {error}.') from None
        options.apply_defaults()
        super().__init__(options.arguments.pop('name'))
        for option, value in options.arguments.items():
            setattr(self, option, value)

    def update(self, x: Any) -> Any:
        return type(self)._function(x, *(getattr(self, option) for option in self._options))

    def __repr__(self) -> str:
        options = {
            o.name: (getattr(self, o.name), o.default) for o in inspect.signature(type(self)).parameters.values()
        }
        options_shown = [
            f'{name}={value!r}' for name, (value, default) in options.items() if repr(value) != repr(default)
        ]
        return f'{type(self).__name__}({", ".join(options_shown)})'


_REQUIRED = inspect.Parameter.empty


def _layer(name: str, function: Callable, what: str, **options: Any) -> type[_Activation]:
    """Make the layer class ``name(*options, name=None)`` whose call is ``function(x, *options)``."""
    defaults = {**options, 'name': None}
    parameters = [
        inspect.Parameter(option, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for option, default in defaults.items()
    ]
    given = ', '.join('0.5' for default in options.values() if default is _REQUIRED)
    example = (
        '>>> import jax.numpy as jnp\n>>> from brainstate_prob import nn\n'
        f'>>> layer = nn.{name}({given})\n>>> layer(jnp.array([-1.0, 2.0])).shape\n(2,)'
    )
    return type(
        name,
        (_Activation,),
        {
            '_function': staticmethod(function),
            '_options': tuple(options),
            '__signature__': inspect.Signature(parameters),
            '__doc__': f'{what}.\n\nExamples\n--------\n{example}\n',
            '__module__': __name__,
            '__qualname__': name,
        },
    )


@carries_unit('x', 'threshold', 'value')
def _threshold(x, threshold, value):
    x = jnp.asarray(x)
    return jnp.where(x > threshold, x, jnp.asarray(value, x.dtype))


def _rrelu(x, lower, upper):
    return F.rrelu(x, lower, upper) if environ.get('fit', True) else F.leaky_relu(x, (lower + upper) / 2)


def _along(function: Callable) -> Callable:
    return lambda x, dim: function(x, -1 if dim is None else dim)


# name, function, description, options with their defaults

ReLU = _layer('ReLU', F.relu, 'max(x, 0)')
ReLU6 = _layer('ReLU6', F.relu6, 'x clipped to [0, 6]')
LeakyReLU = _layer('LeakyReLU', F.leaky_relu, 'x where x >= 0, else negative_slope·x', negative_slope=0.01)
RReLU = _layer(
    'RReLU',
    _rrelu,
    """x where x >= 0, else a·x with a ~ U(lower, upper) drawn for every element (`brainstate_prob.nn.rrelu`).

Under ``environ.context(fit=False)`` nothing is drawn and a is the mean slope (lower + upper)/2; where ``fit`` is not
set it is drawn""",
    lower=1 / 8,
    upper=1 / 3,
)
Threshold = _layer(
    'Threshold',
    _threshold,
    'x where x > threshold, else value; all three may be quantities',
    threshold=_REQUIRED,
    value=_REQUIRED,
)
Hardtanh = _layer('Hardtanh', F.hard_tanh, 'x clipped to [min_val, max_val]', min_val=-1.0, max_val=1.0)
Hardsigmoid = _layer('Hardsigmoid', F.hard_sigmoid, 'relu6(x + 3)/6')
Hardswish = _layer('Hardswish', F.hard_swish, 'x·relu6(x + 3)/6')
Hardshrink = _layer('Hardshrink', F.hard_shrink, 'x where abs(x) > λ, else 0', lambd=0.5)
Softshrink = _layer('Softshrink', F.soft_shrink, 'sign(x)·max(abs(x) − λ, 0)', lambd=0.5)
Sigmoid = _layer('Sigmoid', F.sigmoid, 'σ(x) = 1/(1 + e⁻ˣ)')
LogSigmoid = _layer('LogSigmoid', F.log_sigmoid, 'log σ(x)')
Tanh = _layer('Tanh', F.tanh, 'The hyperbolic tangent')
Tanhshrink = _layer('Tanhshrink', F.tanh_shrink, 'x − tanh(x)')
SiLU = _layer('SiLU', F.silu, 'x·σ(x), also called swish')
Mish = _layer('Mish', F.mish, 'x·tanh(softplus(x))')
ELU = _layer('ELU', F.elu, 'x where x > 0, else α(eˣ − 1)', alpha=1.0)
CELU = _layer('CELU', F.celu, 'max(0, x) + min(0, α(e^(x/α) − 1))', alpha=1.0)
SELU = _layer('SELU', F.selu, '1.0507·(x where x > 0, else 1.67326(eˣ − 1))')
GELU = _layer(
    'GELU', F.gelu, 'x·Φ(x) with the normal distribution function, or its tanh approximation', approximate=False
)
Softplus = _layer('Softplus', F.softplus, 'log(1 + eˣ)')
Softsign = _layer('Softsign', F.soft_sign, 'x/(1 + abs(x))')
Softmax = _layer('Softmax', _along(F.softmax), 'eˣ / Σ eˣ along the axis ``dim`` (None: the last one)', dim=None)
Softmin = _layer('Softmin', _along(F.softmin), 'softmax(−x) along the axis ``dim`` (None: the last one)', dim=None)
LogSoftmax = _layer(
    'LogSoftmax', _along(F.log_softmax), 'x − logsumexp(x) along the axis ``dim`` (None: the last one)', dim=None
)


class PReLU(ElementWiseBlock):
    """x where x >= 0, else a·x with a trained slope a: one, or one per channel (the last axis).

    Parameters
    ----------
    num_parameters
        1, or the number of channels.
    init
        The first slope: a number, an initializer, an array, a `Param` or a `ParamSpec`.
    dtype
        Of the slope; by default `brainstate_prob.environ.dftype`.

    Raises
    ------
    ValueError
        If the last axis does not have ``num_parameters`` channels.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> layer = nn.PReLU(init=0.5)
    >>> layer(-2.0), list(layer.states())
    (Array([-1.], dtype=float32), [('weight',)])
    """

    def __init__(self, num_parameters: int = 1, init: Any = 0.25, dtype: Any = None, name: str | None = None):
        super().__init__(name)
        self.num_parameters = int(num_parameters)
        self.weight = weights(self, ParamState, weight=(_filled(init, dtype), (self.num_parameters,)))

    def update(self, x):
        channels = jnp.shape(u.get_mantissa(x))[-1:]
        if self.num_parameters != 1 and channels != (self.num_parameters,):
            raise ValueError(
                f'{label(self)}: expected an input of shape (..., {self.num_parameters}), got '
                f'{jnp.shape(u.get_mantissa(x))}.'
            )
        return F.prelu(x, self.weight.value['weight'])


def _filled(init: Any, dtype: Any) -> Any:
    """A number as a constant initializer of the layer's dtype; anything else unchanged."""
    if not isinstance(init, int | float):
        return init
    return lambda shape: jnp.full(shape, init, environ.dftype() if dtype is None else dtype)


class GLU(Module):
    """The first half of the input along ``dim`` times σ of the second half: the size of ``dim`` is halved.

    ``in_size`` (without batch axes) is needed only if a later item of a `Sequential` needs the ``out_size``.

    Raises
    ------
    ValueError
        For an odd size.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.GLU(in_size=6).out_size
    (3,)
    """

    def __init__(self, dim: int = -1, in_size: Any = None, name: str | None = None):
        super().__init__(name)
        self.dim = dim
        if in_size is not None:
            self.in_size = in_size
            self.out_size = jax.eval_shape(self.update, jax.ShapeDtypeStruct(self.in_size, jnp.float32)).shape

    def update(self, x):
        try:
            return F.glu(x, self.dim)
        except ValueError as error:
            raise ValueError(f'{label(self)}: {error}') from None


class Softmax2d(ElementWiseBlock):
    """Softmax over the channels of images (C, H, W) or (N, C, H, W), axis −3.

    Raises
    ------
    ValueError
        For another number of axes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> float(nn.Softmax2d()(jnp.zeros((4, 2, 2)))[0, 0, 0])
    0.25
    """

    def update(self, x):
        if jnp.ndim(x) not in (3, 4):
            raise ValueError(
                f'{label(self)}: expected an input of shape (C, H, W) or (N, C, H, W), got {jnp.shape(x)}.'
            )
        return F.softmax(x, -3)


class Identity(ElementWiseBlock):
    """Return the input; other arguments, also of the constructor, are ignored.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.Identity(54, unused=True)(3.0)
    3.0
    """

    def __init__(self, *args: Any, name: str | None = None, **kwargs: Any):
        super().__init__(name)

    def update(self, x, *args, **kwargs):
        return x


# Multilinear in x and y: exact at 0 and 1, with a gradient in between.
_BITWISE: dict[str, Callable[[Any, Any], Any]] = {
    'add': lambda x, y: x + y,
    'and': lambda x, y: x * y,
    'iand': lambda x, y: (1 - x) * y,
    'nand': lambda x, y: 1 - x * y,
    'or': lambda x, y: x + y - x * y,
    'nor': lambda x, y: 1 - (x + y - x * y),
    'xor': lambda x, y: x + y - 2 * x * y,
    'xnor': lambda x, y: 1 - (x + y - 2 * x * y),
}
_SIGNS = {'+': 'add', '&': 'and', '|': 'or', '^': 'xor'}


class SpikeBitwise(ElementWiseBlock):
    """Combine two arrays of spikes (0 or 1) by a bitwise operation with a gradient.

    Parameters
    ----------
    op
        'add' (x + y: coincident spikes count 2), 'and' (x·y), 'iand' ((1 − x)·y), 'or' (x + y − x·y),
        'xor' (x + y − 2·x·y), their negations 'nand', 'nor' and 'xnor'; or one of the signs + & | ^.

    Raises
    ------
    ValueError
        For an unknown operation.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> x, y = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([0.0, 1.0, 0.0, 1.0])
    >>> nn.SpikeBitwise('xor')(x, y)
    Array([0., 1., 1., 0.], dtype=float32)
    """

    def __init__(self, op: str = 'add', name: str | None = None):
        super().__init__(name)
        if op not in _BITWISE and op not in _SIGNS:
            raise ValueError(f'SpikeBitwise: op must be one of {", ".join((*_BITWISE, *_SIGNS))}; got {op!r}.')
        self.op = op

    def update(self, x, y):
        x, y = (jnp.asarray(s) for s in (x, y))
        x, y = (s.astype(environ.dftype()) if s.dtype == jnp.bool_ else s for s in (x, y))
        return _BITWISE[_SIGNS.get(self.op, self.op)](x, y)
