"""Initializers that preserve the scale of a signal: variance scaling and orthogonal."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args

import numpy as np
from jax.nn import initializers

from brainstate_prob.nn.init.base import Initializer

__all__ = [
    'DeltaOrthogonal',
    'KaimingNormal',
    'KaimingUniform',
    'LecunNormal',
    'LecunUniform',
    'Orthogonal',
    'VarianceScaling',
    'XavierNormal',
    'XavierUniform',
    'calculate_init_gain',
]

Mode = Literal['fan_in', 'fan_out', 'fan_avg', 'fan_geo_avg']
Distribution = Literal['truncated_normal', 'normal', 'uniform']

_LINEAR = {'linear', 'sigmoid', 'identity', *(f'conv{t}{n}d' for t in ('', '_transpose') for n in (1, 2, 3))}


def calculate_init_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain: the factor on the standard deviation of weights that compensates for ``nonlinearity``.

    Parameters
    ----------
    nonlinearity
        'linear', 'identity', 'conv1d' to 'conv3d', 'conv_transpose1d' to 'conv_transpose3d', 'sigmoid' (1),
        'tanh' (5/3), 'relu' (√2), 'leaky_relu' (√(2 / (1 + slope²))), 'selu' (3/4).
    param
        The slope of 'leaky_relu', 0.01 by default; the others take none.

    Raises
    ------
    ValueError
        For an unknown name, or a ``param`` that the nonlinearity does not take.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> round(init.calculate_init_gain('leaky_relu', 0.2), 4)
    1.3868
    """
    gains = {**dict.fromkeys(_LINEAR, 1.0), 'tanh': 5 / 3, 'relu': math.sqrt(2), 'selu': 3 / 4}
    if nonlinearity == 'leaky_relu':
        if isinstance(param, bool) or not isinstance(param, int | float | np.number | None):
            raise ValueError(f'The slope of leaky_relu must be a number, got {param!r}.')
        return math.sqrt(2 / (1 + (0.01 if param is None else float(param)) ** 2))
    if nonlinearity not in gains:
        raise ValueError(f'No gain is known for {nonlinearity!r}; known are {", ".join(sorted(gains))}, leaky_relu.')
    if param is not None:
        raise ValueError(f'The gain of {nonlinearity!r} takes no parameter, got {param!r}.')
    return gains[nonlinearity]


@dataclasses.dataclass(frozen=True, eq=False)
class VarianceScaling(Initializer):
    """Draws of mean 0 and variance ``scale / fan``, which preserve the scale of a signal.

    Parameters
    ----------
    scale
        The factor on the variance, positive.
    mode
        Which fan: 'fan_in', 'fan_out', 'fan_avg' (their mean) or 'fan_geo_avg'. The fan is the size of the axis
        times that of all axes that are neither ``in_axis`` nor ``out_axis`` (the taps of a kernel).
    distribution
        'truncated_normal' (at two standard deviations, rescaled to the variance), 'normal' or
        'uniform'.
    in_axis, out_axis
        An axis or several.
    seed
        See the module. None draws from the default stream.
    unit
        Of the draws.

    Raises
    ------
    ValueError
        For an unknown mode or distribution, a scale that is not positive, or a shape of fewer than two axes.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> w = init.VarianceScaling(1.0, 'fan_in', 'uniform')((100, 50), key=0)
    >>> bool(abs(w).max() <= (3 / 100) ** 0.5)
    True
    """

    scale: float
    mode: Mode
    distribution: Distribution
    in_axis: Any = -2
    out_axis: Any = -1
    seed: Any = None
    unit: Any = None

    def __post_init__(self):
        for name, allowed in (
            ('mode', get_args(Mode)),
            ('distribution', get_args(Distribution)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f'{self!r}: {name} must be one of {", ".join(allowed)}.')
        if not self.scale > 0:
            raise ValueError(f'{self!r}: scale must be positive.')

    def _fill(self, shape, dtype, key):
        if len(shape) < 2:
            raise ValueError(
                f'{self!r} needs a shape of two axes or more to know its fans, got {shape}. Use init.Normal or '
                'init.Uniform for vectors.'
            )
        draw = initializers.variance_scaling(self.scale, self.mode, self.distribution, self.in_axis, self.out_axis)
        return draw(key, shape, dtype)


def _preset(name: str, scale: float, mode: str, distribution: str, paper: str) -> type:
    """A `VarianceScaling` with defaults."""
    preset = dataclasses.make_dataclass(
        name,
        [('scale', float, scale), ('mode', str, mode), ('distribution', str, distribution)],
        bases=(VarianceScaling,),
        frozen=True,
        eq=False,
        namespace={'__module__': __name__},
    )
    preset.__doc__ = f'`VarianceScaling` by {scale:g} / {mode}, {distribution} ({paper}); in ``nn.init``.'
    return preset


_HE, _GLOROT, _LECUN = 'He et al. 2015', 'Glorot and Bengio 2010', 'LeCun et al. 1998'
KaimingUniform = _preset('KaimingUniform', 2.0, 'fan_in', 'uniform', _HE)
KaimingNormal = _preset('KaimingNormal', 2.0, 'fan_in', 'truncated_normal', _HE)
XavierUniform = _preset('XavierUniform', 1.0, 'fan_avg', 'uniform', _GLOROT)
XavierNormal = _preset('XavierNormal', 1.0, 'fan_avg', 'truncated_normal', _GLOROT)
LecunUniform = _preset('LecunUniform', 1.0, 'fan_in', 'uniform', _LECUN)
LecunNormal = _preset('LecunNormal', 1.0, 'fan_in', 'truncated_normal', _LECUN)


@dataclasses.dataclass(frozen=True, eq=False)
class Orthogonal(Initializer):
    """``scale`` times a matrix with orthonormal rows or columns (whichever are fewer), uniform over all of them.

    ``axis`` is one side of the matrix, all other axes are the other.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> w = init.Orthogonal()((4, 3), key=0)
    >>> bool(abs(w.T @ w - init.Identity()(3)).max() < 1e-6)
    True
    """

    scale: float = 1.0
    axis: int = -1
    seed: Any = None
    unit: Any = None

    def _fill(self, shape, dtype, key):
        if len(shape) < 2:
            raise ValueError(f'{self!r} needs a shape of two axes or more, got {shape}.')
        return initializers.orthogonal(self.scale, self.axis)(key, shape, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class DeltaOrthogonal(Initializer):
    """The kernel of a convolution that is an orthogonal matrix at the centre tap and zero elsewhere (Xiao et al. 2018).

    The shape is one to three spatial axes, fan_in and fan_out, with fan_in <= fan_out.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> w = init.DeltaOrthogonal()((3, 2, 2), key=0)
    >>> bool((w[0] == 0).all()), bool((w[1] == 0).all())
    (True, False)
    """

    scale: float = 1.0
    axis: int = -1
    seed: Any = None
    unit: Any = None

    def _fill(self, shape, dtype, key):
        if not 3 <= len(shape) <= 5 or shape[-2] > shape[-1]:
            raise ValueError(
                f'{self!r} needs a shape of one to three spatial axes, fan_in and fan_out >= fan_in, got {shape}.'
            )
        return initializers.delta_orthogonal(self.scale, self.axis)(key, shape, dtype)
