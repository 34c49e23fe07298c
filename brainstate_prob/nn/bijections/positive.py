"""Transforms onto a half-line: exponential, softplus, and ReLU."""

import jax.numpy as jnp
from jax import lax

from brainstate_prob.nn.bijections.arguments import Number, tfp_bijectors
from brainstate_prob.nn.bijections.base import INF, NoDensityError, Transform

__all__ = ['ExpT', 'LogT', 'NegSoftplusT', 'NegativeT', 'PositiveT', 'ReluT', 'SoftplusT', 'softplus_inverse']


class ExpT(Transform):
    """Values above `lower` on a log scale: `y = lower + exp(x)`.

    The log-determinant is `x`. Nothing saturates before the float overflows (theta near 88 in float32, 709 in
    float64) or underflows. A non-zero `lower` absorbs the digits of a small `exp(x)`.

    Parameters
    ----------
    lower : number, array or Quantity, default 0
        Lower bound, excluded.

    Examples
    --------
    >>> float(ExpT(lower=1.0)(0.0))
    2.0
    """

    _args: tuple[str, ...] = ('lower',)
    _numbers = ('lower',)
    lower: Number

    def __init__(self, lower=0.0):
        self._keep(lower=lower)

    def _make_bijector(self, lower):
        tfb = tfp_bijectors()
        return tfb.Chain([tfb.Shift(lower), tfb.Exp()])

    # Explicit formulas: a TFP chain is forty times as slow and loses the dtype of half precision.
    def _forward(self, x, lower):
        return lower + jnp.exp(x)

    def _inverse(self, y, lower):
        return jnp.log(y - lower)

    def _log_det(self, x, lower):
        return x

    def _bounds(self, lower):
        return lower, INF


class LogT(ExpT):
    """Values above `lower` under the log link, `x = log(y - lower)`: the same as `ExpT`.

    Examples
    --------
    >>> float(LogT().inverse(1.0))
    0.0
    """

    _family = ExpT


class PositiveT(ExpT):
    """Positive values on a log scale: `ExpT` with the bound 0.

    Examples
    --------
    >>> float(PositiveT()(0.0))
    1.0
    """

    _args = ()
    _family = ExpT
    lower = 0.0

    def __init__(self):
        pass


class SoftplusT(Transform):
    """Values above `lower`, asymptotically linear: `y = lower + log(1 + exp(x))`.

    The log-determinant is `log(sigmoid(x))`.

    Parameters
    ----------
    lower : number, array or Quantity, default 0
        Lower bound, excluded.

    Examples
    --------
    >>> import brainunit as u
    >>> SoftplusT(lower=0.0 * u.Hz).forward(0.0)
    Quantity(0.6931472, "Hz")
    """

    _args = _numbers = ('lower',)
    lower: Number

    def __init__(self, lower=0.0):
        self._keep(lower=lower)

    def _make_bijector(self, lower):
        return tfp_bijectors().Softplus(low=lower)

    # TFP's inverse fails for bfloat16, and needs three branches where one formula is exact.
    def _inverse(self, y, lower):
        return softplus_inverse(y - lower)

    def _bounds(self, lower):
        return lower, INF


class NegSoftplusT(Transform):
    """Values below `upper`, increasing and asymptotically linear: `y = upper - log(1 + exp(-x))`.

    The log-determinant is `log(sigmoid(-x))`.

    Parameters
    ----------
    upper : number, array or Quantity, default 0
        Upper bound, excluded.

    Examples
    --------
    >>> float(NegSoftplusT(upper=1.0)(0.0)).__round__(4)
    0.3069
    """

    _args: tuple[str, ...] = ('upper',)
    _numbers = ('upper',)
    upper: Number

    def __init__(self, upper=0.0):
        self._keep(upper=upper)

    def _make_bijector(self, upper):
        tfb = tfp_bijectors()
        minus = tfb.Scale(jnp.asarray(-1, upper.dtype))
        return tfb.Chain([tfb.Shift(upper), minus, tfb.Softplus(), minus])

    # Explicit reflection: a TFP chain is five times as slow to call and to trace.
    def _forward(self, x, upper):
        return upper - tfp_bijectors().Softplus().forward(-x)

    def _log_det(self, x, upper):
        return tfp_bijectors().Softplus().forward_log_det_jacobian(-x)

    def _inverse(self, y, upper):
        return -softplus_inverse(upper - y)

    def _bounds(self, upper):
        return -INF, upper


class NegativeT(NegSoftplusT):
    """Negative values: `NegSoftplusT` with the bound 0.

    Examples
    --------
    >>> float(NegativeT()(0.0)).__round__(4)
    -0.6931
    """

    _args = ()
    _family = NegSoftplusT
    upper = 0.0

    def __init__(self):
        pass


class ReluT(Transform):
    """Projection onto values from `lower_bound` up: `y = lower_bound + max(x, 0)`. Not a bijection.

    Every theta below zero gives the bound, with gradient zero: a parameter that gets there never returns, unless
    `straight_through` lets the gradient pass. It works for point estimates; samplers refuse it. Prefer `SoftplusT`.

    Parameters
    ----------
    lower_bound : number, array or Quantity, default 0
        Lowest value, included.
    straight_through : bool, default False
        Differentiate as if it were the identity.

    Examples
    --------
    >>> ReluT(lower_bound=1.0)([-2.0, 2.0])
    Array([1., 3.], dtype=float32)
    """

    _args = _numbers = ('lower_bound',)
    _flags = ('straight_through',)
    bijective = has_density = False
    _closed = True
    lower_bound: Number

    def __init__(self, lower_bound=0.0, *, straight_through=False):
        self._keep(lower_bound=lower_bound)
        self.straight_through = bool(straight_through)

    def _forward(self, x, lower_bound):
        return lower_bound + projected(x, jnp.maximum(x, 0), self.straight_through)

    def _inverse(self, y, lower_bound):
        return y - lower_bound

    def _log_det(self, x, lower_bound):
        raise NoDensityError(f'{self!r} is not a bijection, so it has no density; use SoftplusT(lower) instead.')

    def _bounds(self, lower_bound):
        return lower_bound, INF


def softplus_inverse(z):
    """Return x with `log(1 + exp(x)) = z`, for positive z of any size."""
    return z + jnp.log(-jnp.expm1(-z))


def projected(x, y, straight_through):
    """Return the projection `y` of `x`, with the gradient of `x` if it passes straight through."""
    return x + lax.stop_gradient(y - x) if straight_through else y
