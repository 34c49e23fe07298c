"""Transforms of whole vectors along the last axis: ordered, probability and unit vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints

from brainstate_prob.nn.bijections.base import Transform
from brainstate_prob.nn.bijections.positive import softplus_inverse
from brainstate_prob.nn.bijections.saturated import part_ties

__all__ = ['OrderedT', 'SimplexT', 'UnitVectorT']


class OrderedT(Transform):
    """Increasing vectors: `y[0] = x[0]`, `y[k] = y[k-1] + log(1 + exp(x[k]))`.

    The log-determinant is the sum of `log(sigmoid(x[k]))` over `k >= 1`. Gaps below the resolution of the dtype
    near `y[0]` are rounded away.

    Examples
    --------
    >>> [round(y, 2) for y in OrderedT()([1.0, 0.0, 0.0]).tolist()]
    [1.0, 1.69, 2.39]
    """

    event_rank = 1

    # TFP's Ascending has exponential gaps, not softplus gaps.
    def _forward(self, x):
        return jnp.cumsum(jnp.concatenate([x[..., :1], jax.nn.softplus(x[..., 1:])], axis=-1), axis=-1)

    def _inverse(self, y):
        return jnp.concatenate([y[..., :1], softplus_inverse(jnp.diff(y, axis=-1))], axis=-1)

    def _log_det(self, x):
        return jnp.sum(jax.nn.log_sigmoid(x[..., 1:]), axis=-1)

    def _contains(self, y):
        return jnp.all(jnp.isfinite(y), axis=-1) & jnp.all(y[..., 1:] > y[..., :-1], axis=-1)

    def _saturated(self, y):
        return jnp.all(jnp.isfinite(y), axis=-1) & jnp.all(y[..., 1:] >= y[..., :-1], axis=-1)

    def _inward(self, y, where):
        return jnp.where(where, part_ties(y), y)

    def _nearest(self, y, eps):
        y = np.sort(y, axis=-1)
        size = np.max(np.abs(y), axis=-1, keepdims=True, initial=0)
        spread = np.where(size > 0, size, 1) * np.sqrt(eps)
        # Adding one more gap at every step keeps the order and separates ties.
        gap = np.diff(y, axis=-1, prepend=y[..., :1])
        gap[..., 1:] = np.maximum(gap[..., 1:], spread)
        return y[..., :1] + np.cumsum(gap, axis=-1)

    @property
    def codomain(self):
        """Increasing vectors."""
        return constraints.ordered_vector

    def _codomain_text(self, index, shape):
        return 'be a strictly increasing vector'

    def _checked_shape(self, shape, what):
        shape = super()._checked_shape(shape, what)
        if shape[-1] == 0:
            raise ValueError(f'{self!r}: {what} has shape {shape}, but the last axis needs at least one entry.')
        return shape


class SimplexT(Transform):
    """Probability vectors by stick breaking: n numbers give n + 1 positive entries that sum to one.

    `z[k] = sigmoid(x[k])`, `y[k] = z[k] * prod(1 - z[j] for j < k)`, and the last entry is what remains. It is not
    centred: zeros give (1/2, 1/4, 1/8, 1/8). The log-determinant is that of the first n entries.

    Examples
    --------
    >>> SimplexT()([0.0, 0.0, 0.0])
    Array([0.5  , 0.25 , 0.125, 0.125], dtype=float32)
    """

    event_rank = 1

    # The map of TFP's IteratedSigmoidCentered after Shift(log([n, ..., 1])), in logarithms throughout. TFP computes
    # 1 - z, so that its log-determinant is nan and its inverse inf if an entry rounds to one.
    def _forward(self, x):
        left = jnp.cumsum(jax.nn.log_sigmoid(-x), axis=-1)  # log of what remains after each break
        before = jnp.concatenate([jnp.zeros_like(x[..., :1]), left[..., :-1]], axis=-1)
        return jnp.exp(jnp.concatenate([jax.nn.log_sigmoid(x) + before, left[..., -1:]], axis=-1))

    def _inverse(self, y):
        # The remainder is summed from the end: no 1 - z, and y need not sum to one in the last digit.
        remainder = lax.cumsum(y, axis=y.ndim - 1, reverse=True)[..., 1:]
        return jnp.log(y[..., :-1]) - jnp.log(remainder)

    def _log_det(self, x):
        later = jnp.arange(x.shape[-1], 0, -1, dtype=x.dtype)
        return jnp.sum(jax.nn.log_sigmoid(x) + later * jax.nn.log_sigmoid(-x), axis=-1)

    def _bounds(self):
        return 0.0, 1.0

    def _contains(self, y):
        return jnp.all(y > 0, axis=-1) & self._saturated(y)

    def _saturated(self, y):
        off = jnp.abs(jnp.sum(y, axis=-1) - 1)
        return jnp.all(y >= 0, axis=-1) & (off <= max(16, 2 * y.shape[-1]) * jnp.finfo(y.dtype).eps)

    def _inward(self, y, where):
        return jnp.where(where, jnp.maximum(y, jnp.finfo(y.dtype).tiny), y)

    def _nearest(self, y, eps):
        n = y.shape[-1]
        y = np.maximum(y, 0)
        total = y.sum(axis=-1, keepdims=True)
        y = np.where(total > 0, y / np.where(total > 0, total, 1), 1 / n)
        floor = np.sqrt(eps) / n
        y = np.maximum(y, floor)
        return y / y.sum(axis=-1, keepdims=True)

    @property
    def codomain(self):
        """Vectors of non-negative entries that sum to one."""
        return constraints.simplex

    def _codomain_text(self, index, shape):
        return 'be a vector of positive entries that sum to one'

    def forward_shape(self, shape):
        """One entry more along the last axis."""
        shape = super().forward_shape(shape)
        if shape[-1] < 1:
            raise ValueError(f'{self!r}: theta has shape {shape}, but its last axis needs at least one entry.')
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape):
        """One entry less along the last axis."""
        shape = super().inverse_shape(shape)
        if shape[-1] < 2:
            raise ValueError(
                f'{self!r}: the value has shape {shape}, but a probability vector needs at least two entries along '
                'the last axis.'
            )
        return (*shape[:-1], shape[-1] - 1)


class UnitVectorT(Transform):
    """Vectors of length one: `y = x / |x|` along the last axis.

    Many theta share a value, so it is not a bijection; `inverse` returns the unit vector itself. For sampling the
    convention is Stan's: theta has a standard normal measure, so the log-determinant is `-|x|**2 / 2` and the
    direction is uniform under a flat prior. A zero theta has no direction: `forward` raises for
    a concrete one and gives nan under tracing.

    Examples
    --------
    >>> UnitVectorT()([3.0, 4.0])
    Array([0.6, 0.8], dtype=float32)
    """

    event_rank = 1
    bijective = False

    def _forward(self, x):
        # Scaled before squaring, so that neither 1e-30 nor 1e30 is lost; the result does not depend on the scale.
        x = x / lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
        return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))

    def _inverse(self, y):
        return y

    def _log_det(self, x):
        return -jnp.sum(x * x, axis=-1) / 2

    def _bounds(self):
        return -1.0, 1.0

    def _saturated(self, y):
        return jnp.zeros(y.shape[:-1], bool)

    def _contains(self, y):
        off = jnp.abs(jnp.sqrt(jnp.sum(y * y, axis=-1)) - 1)
        return off <= max(16, 2 * y.shape[-1]) * jnp.finfo(y.dtype).eps

    def _nearest(self, y, eps):
        norm = np.linalg.norm(y, axis=-1, keepdims=True)
        first = np.arange(y.shape[-1]) == 0
        return np.where(norm > 0, y / np.where(norm > 0, norm, 1), first)

    def _domain_problem(self, x):
        if not np.all(np.any(np.asarray(x) != 0, axis=-1)):
            return 'a zero vector has no direction; start from any other one.'
        return None

    @property
    def codomain(self):
        """The unit sphere."""
        return constraints.sphere

    def _codomain_text(self, index, shape):
        return 'be a vector of length one'

    def _checked_shape(self, shape, what):
        shape = super()._checked_shape(shape, what)
        if shape[-1] == 0:
            raise ValueError(f'{self!r}: {what} has shape {shape}, but the last axis needs at least one entry.')
        return shape
