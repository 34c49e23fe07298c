"""Transforms onto an interval: sigmoid, tanh, softsign, and clipping."""

import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.quantities import is_concrete
from brainstate_prob.nn.bijections.arguments import Number, require_order, show, tfp_bijectors
from brainstate_prob.nn.bijections.base import NoDensityError, Transform
from brainstate_prob.nn.bijections.positive import projected

__all__ = ['ClipT', 'ScaledSigmoidT', 'SigmoidT', 'SoftsignT', 'TanhT']


class _Interval(Transform):
    """Base of transforms with two ordered bounds."""

    _args: tuple[str, ...] = ('lower', 'upper')
    _numbers: tuple[str, ...] = ('lower', 'upper')
    lower: Number
    upper: Number

    def __init__(self, lower=0.0, upper=1.0):
        self._keep(lower=lower, upper=upper)
        require_order(type(self).__name__, 'lower', self.lower, 'upper', self.upper)

    def _bounds(self, lower, upper, **_):
        return lower, upper


class ScaledSigmoidT(_Interval):
    """Values between two bounds by a logistic function of slope `beta`.

    `y = lower + (upper - lower) * sigmoid(beta * x)`; the log-determinant is
    `log(upper - lower) + log(beta) + log(sigmoid(beta * x)) + log(sigmoid(-beta * x))`.

    Parameters
    ----------
    lower, upper : number, array or Quantity, default 0 and 1
        Bounds, excluded.
    beta : number or array, default 1
        Slope, positive.

    Examples
    --------
    >>> float(ScaledSigmoidT(0.0, 10.0, beta=2.0)(0.0))
    5.0
    """

    _args: tuple[str, ...] = ('lower', 'upper', 'beta')
    _numbers = ('lower', 'upper', 'beta')
    _unitless = ('beta',)
    beta: Number

    def __init__(self, lower=0.0, upper=1.0, beta=1.0):
        self._keep(lower=lower, upper=upper, beta=beta)
        require_order(type(self).__name__, 'lower', self.lower, 'upper', self.upper)
        if is_concrete(self.beta) and not np.all(np.asarray(self.beta) > 0):
            raise ValueError(f'{type(self).__name__}: beta must be positive; got beta={show(self.beta)}.')

    def _make_bijector(self, lower, upper, beta):
        return tfp_bijectors().Chain([_sigmoid(lower, upper), tfp_bijectors().Scale(beta)])

    # Explicit slope: a TFP chain is three times as slow to call and to trace.
    def _forward(self, x, lower, upper, beta):
        return _sigmoid(lower, upper).forward(beta * x)

    def _inverse(self, y, lower, upper, beta):
        return _sigmoid(lower, upper).inverse(y) / beta

    def _log_det(self, x, lower, upper, beta):
        return _sigmoid(lower, upper).forward_log_det_jacobian(beta * x) + jnp.log(beta)


def _sigmoid(lower, upper):
    # With explicit bounds TFP is accurate in both tails; without, its derivative is zero in the upper one.
    return tfp_bijectors().Sigmoid(low=lower, high=upper)


class SigmoidT(ScaledSigmoidT):
    """Values between two bounds: `y = lower + (upper - lower) * sigmoid(x)`.

    Parameters
    ----------
    lower, upper : number, array or Quantity, default 0 and 1
        Bounds, excluded.

    Examples
    --------
    >>> SigmoidT(-1.0, 1.0)([-100.0, 0.0, 100.0])
    Array([-1.,  0.,  1.], dtype=float32)
    """

    _args = ('lower', 'upper')
    _family = ScaledSigmoidT
    beta = 1.0

    def __init__(self, lower=0.0, upper=1.0):
        _Interval.__init__(self, lower, upper)


class TanhT(SigmoidT):
    """Values between two bounds: `y = lower + (upper - lower) * (tanh(x) + 1) / 2`, the sigmoid of `2 x`.

    Parameters
    ----------
    lower, upper : number, array or Quantity, default 0 and 1
        Bounds, excluded.

    Examples
    --------
    >>> float(TanhT(-1.0, 1.0)(1.0)).__round__(4)
    0.7616
    """

    beta = 2.0


class SoftsignT(_Interval):
    """Values between two bounds with polynomial tails: `y = lower + (upper - lower) * (x / (1 + |x|) + 1) / 2`.

    The log-determinant is `log((upper - lower) / 2) - 2 * log(1 + |x|)`.

    Parameters
    ----------
    lower, upper : number, array or Quantity, default 0 and 1
        Bounds, excluded.

    Examples
    --------
    >>> float(SoftsignT(-1.0, 1.0)(1.0))
    0.5
    """

    # TFP's Softsign has only the bounds -1 and 1, and x/(1+|x|) loses the distance to a bound (1e-5 of it at 200).
    def _forward(self, x, lower, upper):
        size = jnp.where(x < 0, -x, x)  # not abs, whose derivative at 0 is 0
        half = (upper - lower) / 2
        tail = half / (1 + size)
        near = (lower + half) + half * (jnp.clip(x, -1, 1) / (1 + jnp.minimum(size, 1)))
        return jnp.where(size < 1, near, jnp.where(x < 0, lower + tail, upper - tail))

    def _inverse(self, y, lower, upper):
        return (2 * y - (lower + upper)) / (2 * jnp.minimum(y - lower, upper - y))

    def _log_det(self, x, lower, upper):
        return jnp.log((upper - lower) / 2) - 2 * jnp.log1p(jnp.abs(x))


class ClipT(_Interval):
    """Projection onto a closed interval: `y = min(max(x, lower), upper)`. Not a bijection.

    Outside the interval the gradient is zero and a parameter is stuck, unless `straight_through` lets the gradient
    pass. It works for point estimates; samplers refuse it. Prefer `SigmoidT`.

    Parameters
    ----------
    lower, upper : number, array or Quantity, default 0 and 1
        Bounds, included.
    straight_through : bool, default False
        Differentiate as if it were the identity.

    Examples
    --------
    >>> ClipT(0.0, 1.0)([-1.0, 0.5, 2.0])
    Array([0. , 0.5, 1. ], dtype=float32)
    """

    _flags = ('straight_through',)
    bijective = has_density = False
    _closed = True

    def __init__(self, lower=0.0, upper=1.0, *, straight_through=False):
        super().__init__(lower, upper)
        self.straight_through = bool(straight_through)

    def _forward(self, x, lower, upper):
        return projected(x, jnp.clip(x, lower, upper), self.straight_through)

    def _inverse(self, y, lower, upper):
        return y

    def _log_det(self, x, lower, upper):
        raise NoDensityError(f'{self!r} is not a bijection, so it has no density; use SigmoidT(lower, upper) instead.')
