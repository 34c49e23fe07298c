"""Transforms onto the real line and between half-lines: identity, affine, Box-Cox power."""

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from brainstate_prob.core.quantities import is_concrete, magnitude
from brainstate_prob.nn.bijections.arguments import Number, show, tfp_bijectors
from brainstate_prob.nn.bijections.base import INF, Transform

__all__ = ['AffineT', 'IdentityT', 'PowerT']


class IdentityT(Transform):
    """No constraint: the value is theta itself.

    Examples
    --------
    >>> IdentityT().log_abs_det_jacobian([1.0, 2.0])
    Array([0., 0.], dtype=float32)
    """

    def _make_bijector(self):
        return tfp_bijectors().Identity()

    # TFP's Identity ignores shape and dtype in its log-determinant.
    def _forward(self, x):
        return x

    def _inverse(self, y):
        return y

    def _log_det(self, x):
        return jnp.zeros_like(x)


class AffineT(Transform):
    """Affine map `y = scale * x + shift` of the real line onto itself.

    The log-determinant is `log|scale|`. With a unit, both arguments carry it (a zero `shift` need not).

    Parameters
    ----------
    scale : number, array or Quantity
        Not zero in any entry.
    shift : number, array or Quantity
        Value at theta zero.

    Examples
    --------
    >>> float(AffineT(scale=2.0, shift=1.0)(3.0))
    7.0
    """

    _args = _numbers = ('scale', 'shift')
    scale: Number
    shift: Number

    def __init__(self, scale, shift=0.0):
        self._keep(scale=scale, shift=shift)
        if is_concrete(self.scale) and not np.all(np.asarray(magnitude(self.scale))):
            raise ValueError(
                f'AffineT: scale must not be zero; got scale={show(self.scale)}. '
                'For a value that never changes use Const.'
            )

    def _make_bijector(self, scale, shift):
        tfb = tfp_bijectors()
        return tfb.Chain([tfb.Shift(shift), tfb.Scale(scale)])

    # Explicit formulas: a TFP chain is forty times as slow and loses the dtype of half precision.
    def _forward(self, x, scale, shift):
        return scale * x + shift

    def _inverse(self, y, scale, shift):
        return (y - shift) / scale

    def _log_det(self, x, scale, shift):
        return jnp.log(jnp.abs(scale))


class PowerT(Transform):
    """Box-Cox power: `y = (x**lmbda - 1) / lmbda`, and `log(x)` at `lmbda = 0`, for positive `x`.

    The values lie above `-1/lmbda` for a positive `lmbda`, below it for a negative one, and anywhere for zero. The
    log-determinant is `(lmbda - 1) * log(x)`.

    Its *domain* is constrained, so it is not a parametrization by itself (`unconstrained` is False): an optimizer may
    step to a negative theta, where `forward` raises (or gives nan under tracing). For a parameter compose it:
    `ChainT(PositiveT(), PowerT(lmbda))`.

    Examples
    --------
    >>> float(PowerT(lmbda=0.5)(4.0))
    2.0
    """

    _args = _numbers = _unitless = ('lmbda',)
    unconstrained = False
    lmbda: Number

    def __init__(self, lmbda=0.5):
        self._keep(lmbda=lmbda)

    @property
    def domain(self):
        """The positive half-line."""
        return constraints.positive

    # TFP's PowerTransform is the inverse map, takes no negative and no traced power, and switches at power == 0.
    def _forward(self, x, lmbda):
        log_x = jnp.log(x)
        small, z = _near_zero(lmbda * log_x)
        small = small | (lmbda == 0)
        series = log_x * (1 + z * (1 / 2 + z / 6))  # also correct in its derivative by lmbda at lmbda = 0
        w = jnp.where(small, 1, lmbda * log_x)
        # JAX differentiates expm1(w) as expm1(w) + 1, which is rounded away where w is far below zero.
        raised = jnp.where(w < -1, jnp.exp(w) - 1, jnp.expm1(jnp.maximum(w, -1)))
        return jnp.where(small, series, raised / jnp.where(small, 1, lmbda))

    def _inverse(self, y, lmbda):
        small, w = _near_zero(lmbda * y)
        series = y * (1 - w * (1 / 2 - w / 3))
        exact = jnp.log1p(jnp.where(small, 0, lmbda * y)) / jnp.where(small, 1, lmbda)
        return jnp.exp(jnp.where(small, series, exact))

    def _log_det(self, x, lmbda):
        return (lmbda - 1) * jnp.log(x)

    def _bounds(self, lmbda):
        if isinstance(lmbda, float):
            edge = -1 / lmbda if lmbda else None
            return (-INF if lmbda <= 0 else edge), (INF if lmbda >= 0 else edge)
        edges = -1 / jnp.where(lmbda == 0, 1, lmbda)
        return jnp.where(lmbda > 0, edges, -INF), jnp.where(lmbda < 0, edges, INF)

    def _domain_problem(self, x):
        if np.any(np.asarray(x) < 0):
            return f'it takes positive numbers only; got {show(x)}. For a parameter use ChainT(PositiveT(), {self!r}).'
        return None


def _near_zero(z):
    # Where a three-term series is exact to rounding; elsewhere it gets zero.
    small = jnp.abs(z) < jnp.finfo(z.dtype).eps ** (1 / 3)
    return small, jnp.where(small, z, 0)
