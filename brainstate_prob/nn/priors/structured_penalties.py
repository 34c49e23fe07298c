"""Structured penalties: on groups, differences, norms and spectra."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp, xlogy
from numpyro.distributions import constraints

from brainstate_prob.core.shapes import to_shape
from brainstate_prob.nn.priors.base import broadcasts_to
from brainstate_prob.nn.priors.densities import safe_norm
from brainstate_prob.nn.priors.hyper import Hyper
from brainstate_prob.nn.priors.penalties import Penalty, _abs

__all__ = ['EntropyReg', 'GroupLassoReg', 'MaxNormReg', 'OrthogonalReg', 'SpectralNormReg', 'TotalVariationReg']


def _log_sphere(d: Any) -> Any:
    """Log of the surface of the unit sphere in d dimensions."""
    return math.log(2.0) + 0.5 * d * math.log(math.pi) - gammaln(0.5 * d)


def _directions(key: jax.Array, shape: tuple[int, ...], axis: Any) -> jax.Array:
    z = jax.random.normal(key, shape)
    return z / safe_norm(z, axis, keepdims=True)


def _positive_int(label: str, name: str, value: Any, none_means: str = '') -> Any:
    if none_means and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f'{label}: {name} must be an int >= 1{none_means}; got {value!r}.')
    return int(value)


class GroupLassoReg(Penalty):
    """weight * sum over groups of the group's Euclidean norm. Reset: 0.

    Under the density a group is a Gamma(size, weight) radius times a uniform direction.

    Parameters
    ----------
    weight
        In the inverse unit of the value.
    group_size
        The number of consecutive entries in a group; the last may be shorter. None: all along ``axis``.
    axis
        The axis of groups; None flattens the value first, so that groups may cross rows.
    """

    hypers: ClassVar = {'weight': Hyper('strength', 'rate', 'nonnegative')}

    def __init__(
        self,
        *,
        weight: Any = 1.0,
        group_size: int | None = 1,
        fit_hyper: bool = False,
        axis: int | None = None,
        normalized: bool = False,
    ):
        super().__init__(fit_hyper)
        if group_size is None and axis is None:
            raise ValueError('GroupLassoReg: group_size=None means all entries along an axis: give axis=...')
        none = ', or None for all along the axis' if axis is not None else ''
        self.group_size = _positive_int('GroupLassoReg', 'group_size', group_size, none)
        self.axis = axis
        self._set_penalty(fit_hyper, normalized, {'weight': weight})

    def _grouped(self, x):
        """(..., groups, members), padded with zeros, and the number of members of each group."""
        x = x.reshape(-1) if self.axis is None else jnp.moveaxis(x, self.axis, -1)
        length, size = x.shape[-1], self.group_size or max(x.shape[-1], 1)
        count = -(-length // size)
        pad = count * size - length
        members = np.full(count, size, float)
        members[-1:] -= pad
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, pad)])
        return x.reshape(*x.shape[:-1], count, size), members

    def _ungrouped(self, groups, shape):
        if self.axis is None:
            return groups.reshape(-1)[: math.prod(shape)].reshape(shape)
        length = shape[self.axis]
        return jnp.moveaxis(groups.reshape(*groups.shape[:-2], -1)[..., :length], -1, self.axis)

    def _penalty(self, x, params):
        return params['strength'] * safe_norm(self._grouped(x)[0], -1)

    def _log_constant(self, x, params):
        members = self._grouped(x)[1]
        return _log_sphere(members) + gammaln(members) - members * jnp.log(params['strength'])

    def _check_shapes(self, shape, params):
        if self.axis is not None and not -len(shape) <= self.axis < len(shape):
            raise ValueError(f'{self._label()}: a value of shape {shape} has no axis {self.axis}.')
        if jnp.ndim(params['strength']):
            value = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
            groups = jax.eval_shape(lambda x: self._grouped(x)[0], value).shape[:-1]
            if not broadcasts_to(jnp.shape(params['strength']), groups):
                raise ValueError(f'{self._label()}: weight must be one number, or one for each of the {groups} groups.')

    def _sample(self, key, shape, params):
        key_z, key_r = jax.random.split(key)
        z, members = self._grouped(jax.random.normal(key_z, shape))
        radius = jax.random.gamma(key_r, jnp.broadcast_to(members, z.shape[:-1])) / params['strength']
        return self._ungrouped(z / safe_norm(z, -1, keepdims=True) * radius[..., None], shape)

    def _shown(self):
        return super()._shown() | {'group_size': self.group_size} | ({} if self.axis is None else {'axis': self.axis})


class TotalVariationReg(Penalty):
    """weight * sum(abs(differences of ``order`` 1 or 2)). Reset: 0.

    No density (``proper`` is False): shifts (and slopes, for order 2) are free. ``normalized`` adds the constant of
    the differences, Laplace(0, 1/weight) each. `sample_init` cumulates such steps from 0.

    Parameters
    ----------
    weight
        In the inverse unit of the value.
    order
        1 or 2.
    axis
        The axis of differences; None flattens the value first.
    """

    proper = False
    hypers: ClassVar = {'weight': Hyper('strength', 'rate', 'nonnegative')}

    def __init__(
        self,
        *,
        weight: Any = 1.0,
        order: int = 1,
        fit_hyper: bool = False,
        axis: int | None = None,
        normalized: bool = False,
    ):
        super().__init__(fit_hyper)
        if order not in (1, 2):
            raise ValueError(f'TotalVariationReg: order must be 1 or 2; got {order!r}.')
        self.order = int(order)
        self.axis = axis
        self._set_penalty(fit_hyper, normalized, {'weight': weight})

    def _check_shapes(self, shape, params):
        if self.axis is not None and not -len(shape) <= self.axis < len(shape):
            raise ValueError(f'{self._label()}: a value of shape {shape} has no axis {self.axis}.')
        length = math.prod(shape) if self.axis is None else shape[self.axis]
        if length <= self.order:
            raise ValueError(
                f'{self._label()}: differences of order {self.order} need more than {self.order} entries '
                f'in a row; a value of shape {shape} has {length}.'
            )
        if jnp.ndim(params['strength']):
            raise ValueError(f'{self._label()}: weight must be one number.')

    def _penalty(self, x, params):
        flat = x.reshape(-1) if self.axis is None else x
        return params['strength'] * _abs(jnp.diff(flat, self.order, axis=-1 if self.axis is None else self.axis))

    def _log_constant(self, x, params):
        return math.log(2.0) - jnp.log(params['strength'])

    def _sample(self, key, shape, params):
        steps = jax.random.laplace(key, shape) / params['strength']
        axis = -1 if self.axis is None else self.axis
        steps = steps.reshape(-1) if self.axis is None else steps
        for _ in range(self.order):
            steps = jnp.cumsum(steps - jnp.take(steps, jnp.array([0]), axis) * _first(steps, axis), axis)
        return steps.reshape(shape)

    def _shown(self):
        options = {'order': self.order} if self.order != 1 else {}
        return super()._shown() | options | ({} if self.axis is None else {'axis': self.axis})


def _first(x: jax.Array, axis: int) -> jax.Array:
    """1 at the first entry along ``axis``, 0 elsewhere."""
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return jnp.zeros(x.shape[axis]).at[0].set(1.0).reshape(shape)


class MaxNormReg(Penalty):
    """weight * max(0, norm - max_value)^2, a soft ball. Reset: 0.

    The density is flat inside the ball; its constant and its draws (radius times direction) are exact.

    Parameters
    ----------
    weight
        In the inverse square of the value's unit.
    max_value
        The radius.
    axis
        One norm for each line along this axis (or axes), e.g. per unit; None is one norm for the whole value.
    """

    hypers: ClassVar = {
        'weight': Hyper('strength', 'rate2', 'nonnegative'),
        'max_value': Hyper('max_value', 'value', 'positive'),
    }

    def __init__(
        self,
        *,
        weight: Any = 1.0,
        max_value: Any = 1.0,
        fit_hyper: bool = False,
        axis: int | tuple[int, ...] | None = None,
        normalized: bool = False,
    ):
        super().__init__(fit_hyper)
        self.axis = axis
        self._set_penalty(fit_hyper, normalized, {'weight': weight, 'max_value': max_value})

    def _check_shapes(self, shape, params):
        axes = () if self.axis is None else np.atleast_1d(self.axis)
        if any(not -len(shape) <= a < len(shape) for a in axes):
            raise ValueError(f'{self._label()}: a value of shape {shape} has no axis {self.axis}.')
        norms = self._norm_shape(shape)
        for name, value in params.items():
            if not broadcasts_to(jnp.shape(value), norms):
                raise ValueError(f'{self._label()}: {name} must be one number, or one for each of the {norms} norms.')

    def _norm_shape(self, shape, keepdims=False):
        return (
            np.empty(shape, bool)
            .sum(self.axis if self.axis is None else tuple(np.atleast_1d(self.axis).tolist()), keepdims=keepdims)
            .shape
        )

    def _penalty(self, x, params):
        excess = jnp.maximum(safe_norm(x, self.axis) - params['max_value'], 0.0)
        return params['strength'] * excess**2

    def _log_masses(self, d: int, params):
        """The log integrals of r^(d-1) exp(-penalty): inside the ball, and the binomial terms outside."""
        m, w = jnp.asarray(params['max_value'])[..., None], jnp.asarray(params['strength'])[..., None]
        k = np.arange(d)
        choose = gammaln(d + 0.0) - gammaln(k + 1.0) - gammaln(d - k + 0.0)
        outside = (
            choose + (d - 1 - k) * jnp.log(m) + gammaln(0.5 * (k + 1)) - math.log(2.0) - 0.5 * (k + 1) * jnp.log(w)
        )
        return jnp.concatenate([jnp.broadcast_to(d * jnp.log(m) - math.log(d), (*outside.shape[:-1], 1)), outside], -1)

    def _dimension(self, shape):
        return math.prod(shape) // max(math.prod(self._norm_shape(shape)), 1)

    def _log_constant(self, x, params):
        d = self._dimension(x.shape)
        return _log_sphere(d) + logsumexp(self._log_masses(d, params), -1)

    def _sample(self, key, shape, params):
        d = self._dimension(shape)
        key_part, key_in, key_out, key_dir = jax.random.split(key, 4)
        kept = self._norm_shape(shape, keepdims=True)
        norms = self._norm_shape(shape)
        masses = self._log_masses(d, params)
        part = jax.random.categorical(key_part, masses, axis=-1, shape=norms)
        inside = jnp.exp(jnp.log(jax.random.uniform(key_in, norms)) / d) * params['max_value']
        excess = jnp.sqrt(jax.random.gamma(key_out, 0.5 * jnp.maximum(part, 1)) / params['strength'])
        radius = jnp.where(part == 0, inside, params['max_value'] + excess)
        return _directions(key_dir, shape, self.axis) * radius.reshape(kept)

    def _shown(self):
        return super()._shown() | ({} if self.axis is None else {'axis': self.axis})


class _Unnormalized(Penalty):
    """Base of penalties without a density; ``sample_init`` draws sensible starting values."""

    proper = False
    normalizable = False

    def _check_proper(self, params):
        """No check, since draws are not from a density."""

    def _check_shapes(self, shape, params):
        for name, value in params.items():
            if jnp.ndim(value):
                raise ValueError(f'{self._label()}: {name} must be one number; got shape {jnp.shape(value)}.')


class EntropyReg(_Unnormalized):
    """-weight * entropy of a probability vector (``maximize``), or +weight * entropy. Reset: the uniform vector.

    `sample_init` draws flat Dirichlet vectors (standard normal logits).

    Parameters
    ----------
    weight
        A plain number.
    maximize
        Whether a high entropy is rewarded (else penalized).
    logits
        The value is logits; softmax(value) is scored.
    axis
        The axis along which the probabilities lie.
    """

    hypers: ClassVar = {'weight': Hyper('strength', 'none', 'nonnegative')}

    def __init__(
        self, *, weight: Any = 1.0, maximize: bool = True, fit_hyper: bool = False, logits: bool = False, axis: int = -1
    ):
        super().__init__(fit_hyper)
        self.maximize = bool(maximize)
        self.logits = bool(logits)
        self.axis = int(axis)
        self.event_dim = 1 if self.axis == -1 else 0
        self._set_penalty(fit_hyper, False, {'weight': weight})

    def _check_shapes(self, shape, params):
        super()._check_shapes(shape, params)
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(
                f'{self._label()}: probabilities lie along axis {self.axis}, which a value of shape '
                f'{shape} does not have.'
            )

    def _penalty(self, x, params):
        sign = -1.0 if self.maximize else 1.0
        if self.logits:
            log_p = jax.nn.log_softmax(x, self.axis)
            return sign * params['strength'] * -jnp.sum(jnp.exp(log_p) * log_p, self.axis)
        inside = x > 0
        safe = jnp.where(inside, x, 1.0)
        entropy = -jnp.sum(jnp.where(inside, xlogy(safe, safe), 0.0), self.axis)
        valid = (x >= 0).all(self.axis) & (jnp.abs(x.sum(self.axis) - 1) < jnp.sqrt(jnp.finfo(x.dtype).eps))
        return jnp.where(valid | jnp.isnan(entropy), sign * params['strength'] * entropy, jnp.inf)

    def _sample(self, key, shape, params):
        if self.logits:
            return jax.random.normal(key, shape)
        moved = tuple(np.moveaxis(np.empty(shape, bool), self.axis, -1).shape)
        return jnp.moveaxis(jax.random.dirichlet(key, jnp.ones(moved)), -1, self.axis)

    def reset_value(self, shape=None):
        """The uniform vector (zeros for logits) of ``shape``."""
        if shape is None:
            raise ValueError(f'{self._label()}: reset_value needs the shape of the probability vector.')
        shape = to_shape(shape)
        self._check_shapes(shape, {})
        return jnp.zeros(shape) if self.logits else jnp.full(shape, 1 / shape[self.axis])

    @property
    def support(self):
        return constraints.simplex if not self.logits and self.axis == -1 else constraints.real

    def _shown(self):
        options = {'maximize': False} if not self.maximize else {}
        options |= {'logits': True} if self.logits else {}
        return super()._shown() | options | ({'axis': self.axis} if self.axis != -1 else {})


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The value as a matrix with the first axis as rows; a vector is one column."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def _as_matrix(x: jax.Array) -> jax.Array:
    return x.reshape(_matrix_shape(x.shape))


class OrthogonalReg(_Unnormalized):
    """weight * norm(Gram - identity)^2, with the Gram matrix of the shorter side. Reset: an identity-like matrix.

    All axes but the first are flattened. Tall matrices are pulled towards orthonormal columns, wide ones towards
    orthonormal rows. `sample_init` draws orthonormal matrices uniformly.
    """

    hypers: ClassVar = {'weight': Hyper('strength', 'none', 'nonnegative')}

    def __init__(self, *, weight: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set_penalty(fit_hyper, False, {'weight': weight})

    def _penalty(self, x, params):
        w = _as_matrix(x)
        w = w if w.shape[0] >= w.shape[1] else w.T
        return params['strength'] * jnp.sum((w.T @ w - jnp.eye(w.shape[1], dtype=x.dtype)) ** 2)

    def _sample(self, key, shape, params):
        rows, columns = _matrix_shape(shape)
        q, r = jnp.linalg.qr(jax.random.normal(key, (max(rows, columns), min(rows, columns))))
        q = q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)  # uniform over the group
        return (q if rows >= columns else q.T).reshape(shape)

    def reset_value(self, shape=None):
        """The identity-like matrix of ``shape``."""
        if shape is None:
            raise ValueError(f'{self._label()}: reset_value needs the shape of the matrix.')
        shape = to_shape(shape)
        return jnp.eye(*_matrix_shape(shape)).reshape(shape)


class SpectralNormReg(_Unnormalized):
    """weight * max(0, largest singular value - max_value)^2. Reset: 0.

    All axes but the first are flattened. `sample_init` draws normal matrices, scaled to the norm ``max_value``.

    Parameters
    ----------
    weight
        In the inverse square of the value's unit.
    max_value
        The bound on the norm.
    n_power_iterations
        The number of steps of the power method (cheaper for large matrices, never above the exact norm); None:
        the exact norm.
    """

    hypers: ClassVar = {
        'weight': Hyper('strength', 'rate2', 'nonnegative'),
        'max_value': Hyper('max_value', 'value', 'positive'),
    }

    def __init__(
        self, *, weight: Any = 1.0, max_value: Any = 1.0, n_power_iterations: int | None = None, fit_hyper: bool = False
    ):
        super().__init__(fit_hyper)
        self.n_power_iterations = _positive_int(
            'SpectralNormReg', 'n_power_iterations', n_power_iterations, ', or None for the exact norm'
        )
        self._set_penalty(fit_hyper, False, {'weight': weight, 'max_value': max_value})

    def _penalty(self, x, params):
        excess = jnp.maximum(self._norm(_as_matrix(x)) - params['max_value'], 0.0)
        return params['strength'] * excess**2

    def _norm(self, w):
        if self.n_power_iterations is None:
            return spectral_norm(w)
        v = jax.random.normal(jax.random.PRNGKey(0), (w.shape[1],), w.dtype)
        fixed = jax.lax.stop_gradient(w)
        for _ in range(self.n_power_iterations):
            u_ = _unit_vector(fixed @ v)
            v = _unit_vector(fixed.T @ u_)
        return u_ @ w @ v

    def _sample(self, key, shape, params):
        w = jax.random.normal(key, shape)
        return w * (params['max_value'] / spectral_norm(_as_matrix(w)))

    def _shown(self):
        options = {} if self.n_power_iterations is None else {'n_power_iterations': self.n_power_iterations}
        return super()._shown() | options


def _unit_vector(v: jax.Array) -> jax.Array:
    norm = safe_norm(v)
    return v / jnp.where(norm == 0, 1.0, norm)


@jax.custom_jvp
def spectral_norm(w: jax.Array) -> jax.Array:
    """The largest singular value, with a finite gradient also at zero and at equal singular values."""
    return jnp.linalg.svd(w, compute_uv=False)[0]


@spectral_norm.defjvp
def _spectral_norm_jvp(primals, tangents):
    u_, s, vt = jnp.linalg.svd(primals[0], full_matrices=False)
    return s[0], u_[:, 0] @ tangents[0] @ vt[0]
