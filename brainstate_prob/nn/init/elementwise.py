"""Initializers with constant or independent, identically distributed entries."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from brainstate_prob import random
from brainstate_prob.nn.init.base import Initializer, InUnits

__all__ = ['Constant', 'Identity', 'Normal', 'TruncatedNormal', 'Uniform', 'ZeroInit']


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroInit(Initializer):
    """Zeros.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> init.ZeroInit()(2)
    Array([0., 0.], dtype=float32)
    """

    unit: Any = None
    _random: ClassVar[bool] = False

    def _fill(self, shape, dtype, key):
        return initializers.zeros(key, shape, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Constant(InUnits):
    """A constant: a number, a Quantity, or an array that broadcasts to the shape.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> init.Constant(0.5)((1, 2))
    Array([[0.5, 0.5]], dtype=float32)
    """

    value: Any = 1.0
    _random: ClassVar[bool] = False
    _names: ClassVar[tuple[str, ...]] = ('value',)

    def _fill(self, shape, dtype, key):
        return initializers.constant(self._magnitudes()[0][0])(key, shape, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Identity(InUnits):
    """``value`` times the identity matrix, over the last two axes; an int ``n`` as the shape means ``(n, n)``.

    Raises
    ------
    ValueError
        When called with a shape of one axis.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> init.Identity(2.0)((2, 3))
    Array([[2., 0., 0.],
           [0., 2., 0.]], dtype=float32)
    """

    value: Any = 1.0
    unit: Any = None
    _random: ClassVar[bool] = False
    _names: ClassVar[tuple[str, ...]] = ('value',)

    def __call__(self, shape, dtype=None, key=None):
        if np.ndim(shape) == 0:
            shape = (shape, shape)
        elif len(shape) < 2:
            raise ValueError(f'{self!r} needs a shape of two axes or more, got {tuple(shape)}.')
        return super().__call__(shape, dtype, key)

    def _fill(self, shape, dtype, key):
        eye = jnp.asarray(self._magnitudes()[0][0], dtype) * jnp.eye(shape[-2], shape[-1], dtype=dtype)
        return jnp.broadcast_to(eye, shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Normal(InUnits):
    """Normal draws: N(mean, scale²).

    Examples
    --------
    >>> import brainunit as u
    >>> from brainstate_prob.nn import init
    >>> init.Normal(-65.0 * u.mV, 5.0 * u.mV)((2, 3), key=0).shape
    (2, 3)
    """

    mean: Any = 0.0
    scale: Any = 1.0
    unit: Any = None
    seed: Any = None
    _names: ClassVar[tuple[str, ...]] = ('mean', 'scale')

    def __post_init__(self):
        self._check(lambda: np.asarray(self._magnitudes()[0][1]) >= 0, 'scale must not be negative')

    def _fill(self, shape, dtype, key):
        mean, scale = self._magnitudes()[0]
        return jnp.asarray(mean, dtype) + initializers.normal(scale)(key, shape, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class TruncatedNormal(InUnits):
    """Normal draws N(loc, scale²) cut to [lower, upper]; the bounds are values, not numbers of standard deviations.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> w = init.TruncatedNormal(scale=0.1, lower=-0.2, upper=0.2)(1000, key=0)
    >>> bool((abs(w) <= 0.2).all())
    True
    """

    loc: Any = 0.0
    scale: Any = 1.0
    unit: Any = None
    lower: Any = -2.0
    upper: Any = 2.0
    seed: Any = None
    _names: ClassVar[tuple[str, ...]] = ('loc', 'scale', 'lower', 'upper')

    def __post_init__(self):
        _, scale, lower, upper = self._magnitudes()[0]
        self._check(lambda: np.asarray(scale) > 0, 'scale must be positive')
        self._check(lambda: np.asarray(lower) < np.asarray(upper), 'lower must be less than upper')

    def _fill(self, shape, dtype, key):
        loc, scale, lower, upper = self._magnitudes()[0]
        return random.truncated_normal(lower, upper, loc, scale, size=shape, key=key, dtype=dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Uniform(InUnits):
    """Uniform draws from [min_val, max_val).

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> w = init.Uniform(-0.1, 0.1, seed=0)(1000)
    >>> bool((abs(w) <= 0.1).all())
    True
    """

    min_val: Any = 0.0
    max_val: Any = 1.0
    seed: Any = None
    unit: Any = None
    _names: ClassVar[tuple[str, ...]] = ('min_val', 'max_val')

    def __post_init__(self):
        low, high = self._magnitudes()[0]
        self._check(lambda: np.asarray(low) <= np.asarray(high), 'min_val must not be greater than max_val')

    def _fill(self, shape, dtype, key):
        low, high = (jnp.asarray(x, dtype) for x in self._magnitudes()[0])
        return low + initializers.uniform(high - low)(key, shape, dtype)
