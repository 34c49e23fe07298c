"""Log densities by NumPyro class, and the special functions in them: -inf outside the support, no NaN in a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import erfc, gammaln
from numpyro.distributions import constraints

__all__ = ['log1p_square', 'log_density', 'log_erfcx', 'log_scaled_exp1', 'masked_log_prob', 'safe_norm']

_EULER = 0.577215664901532860606512090082402431


def _cauchy(x, loc, scale):
    return -jnp.log(jnp.pi * scale) - log1p_square((x - loc) / scale)


def _student_t(x, df, loc, scale):
    constant = gammaln(0.5 * (df + 1)) - gammaln(0.5 * df) - 0.5 * jnp.log(df * jnp.pi) - jnp.log(scale)
    return constant - 0.5 * (df + 1) * log1p_square((x - loc) / scale / jnp.sqrt(df))


def _log_normal(x, loc, scale):
    log_x = jnp.log(x)
    return dist.Normal(loc, scale, validate_args=False).log_prob(log_x) - log_x


def _inverse_gamma(x, concentration, rate):
    # NumPyro computes 1/x, which is inaccurate in the tails
    return concentration * jnp.log(rate) - gammaln(concentration) - (concentration + 1) * jnp.log(x) - rate / x


def _log_uniform(x, low, high):
    return -jnp.log(x) - jnp.log(jnp.log(high) - jnp.log(low))


def _dirichlet(x, concentration):
    # x^0 is 1, also at x = 0
    at_zero = x == 0
    log_x = jnp.where(at_zero, -jnp.inf, jnp.log(jnp.where(at_zero, 1.0, x)))
    flat = concentration == 1
    powers = jnp.where(flat, 0.0, (concentration - 1) * jnp.where(flat, 0.0, log_x))
    return jnp.sum(powers, -1) + gammaln(jnp.sum(concentration, -1)) - jnp.sum(gammaln(concentration), -1)


# Replacements for classes whose expression in NumPyro overflows, loses digits or fails at an edge.
_OWN: dict[type[dist.Distribution], Callable] = {
    dist.Cauchy: _cauchy,
    dist.StudentT: _student_t,
    dist.LogNormal: _log_normal,
    dist.InverseGamma: _inverse_gamma,
    dist.LogUniform: _log_uniform,
    dist.Dirichlet: _dirichlet,
}


def log_density(kind: type[dist.Distribution], params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Log density of NumPyro's class ``kind`` at ``x``, one number per event; ``params`` broadcast against ``x``."""
    own = _OWN.get(kind)
    if own is None:
        return masked_log_prob(kind(**params, validate_args=False), x)
    if kind is dist.Dirichlet:
        params = {'concentration': jnp.broadcast_to(params['concentration'], x.shape)}
    support = constraints.interval(params['low'], params['high']) if kind is dist.LogUniform else kind.support
    return _masked(support, lambda safe: own(safe, **params), x)


def masked_log_prob(distribution: dist.Distribution, x: jax.Array) -> jax.Array:
    """``distribution.log_prob(x)``, -inf outside the support with gradient zero there; NaN stays NaN."""
    # NumPyro excludes the edge 0, where the density of these two is finite.
    support = distribution.support
    if type(distribution) in (dist.Exponential, dist.HalfNormal, dist.HalfCauchy):
        support = constraints.nonnegative
    return _masked(support, distribution.log_prob, x)


def _masked(support: Any, log_prob: Callable, x: jax.Array) -> jax.Array:
    if support is constraints.real or support is constraints.real_vector:
        return log_prob(x)
    inside = _is_simplex(x) if support is constraints.simplex else support(x)
    event = x.ndim - inside.ndim
    per_entry = inside.reshape(inside.shape + (1,) * event)
    safe = jnp.where(per_entry, x, jnp.asarray(support.feasible_like(x), x.dtype))
    is_nan = jnp.isnan(x).any(tuple(range(inside.ndim, x.ndim)))
    return jnp.where(is_nan, jnp.nan, jnp.where(inside, log_prob(safe), -jnp.inf))


def _is_simplex(x: jax.Array) -> jax.Array:
    """Whether entries are nonnegative and sum to 1 up to rounding."""
    return (x >= 0).all(-1) & (jnp.abs(x.sum(-1) - 1) < jnp.sqrt(jnp.finfo(x.dtype).eps))


# Special functions


def log1p_square(z: jax.Array) -> jax.Array:
    """log(1 + z^2), also where z^2 overflows."""
    big = jnp.abs(z) > 1
    small_z, big_z = jnp.where(big, 0.0, z), jnp.where(big, z, 1.0)
    return jnp.where(big, 2 * jnp.log(jnp.abs(big_z)) + jnp.log1p(1 / big_z**2), jnp.log1p(small_z**2))


def log_scaled_exp1(log_x: jax.Array) -> jax.Array:
    """log(e^x E1(x)), E1 the exponential integral, from log x; exact where x over- or underflows.

    A power series up to x = 2, above it the continued fraction e^x E1(x) = 1/(x + 1 - 1/(x + 3 - 4/(x + 5 - ...))).
    """
    big = log_x > math.log(2.0)
    small_log = jnp.where(big, 0.0, log_x)
    x = jnp.exp(small_log)
    # E1(x) + log x + gamma = x - x^2/4 + x^3/18 - ...
    series = x * _horner(x, [(-1.0) ** (k + 1) / (k * math.factorial(k)) for k in range(1, 25)])
    small = x + jnp.log(series - small_log - _EULER)
    big_log = jnp.where(big, log_x, math.log(3.0))
    inverse = jnp.exp(-big_log)  # of x: 0 where x overflows
    tail = jnp.zeros_like(inverse)
    for k in range(32, 0, -1):  # everything is divided by x, so that no inf - inf arises
        tail = k * k * inverse**2 / (1 + (2 * k + 1) * inverse - tail)
    return jnp.where(big, -big_log - jnp.log1p(inverse - tail), small)


def _horner(x, coefficients):
    out = jnp.zeros_like(x)
    for c in reversed(coefficients):
        out = out * x + c
    return out


def log_erfcx(t: jax.Array) -> jax.Array:
    """log(exp(t^2) erfc(t)) for t >= 0."""
    big = t > 2
    small_t = jnp.where(big, 0.0, t)
    big_t = jnp.where(big, t, 3.0)
    s = 1 / big_t**2
    tail = jnp.zeros_like(s)
    for k in range(40, 0, -1):  # sqrt(pi) t erfcx(t) = 1/(1 + (1/2)s/(1 + s/(1 + (3/2)s/(1 + ...))))
        tail = 0.5 * k * s / (1 + tail)
    asymptotic = -jnp.log1p(tail) - jnp.log(big_t) - 0.5 * math.log(math.pi)
    return jnp.where(big, asymptotic, small_t**2 + jnp.log(erfc(small_t)))


def safe_norm(x: jax.Array, axis=None, keepdims: bool = False) -> jax.Array:
    """The Euclidean norm, with gradient zero at zero and without overflow."""
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    zero = top == 0
    scale = jnp.where(zero, 1.0, top)
    squares = jnp.sum((x / scale) ** 2, axis=axis, keepdims=True)
    norm = jnp.where(zero, 0.0, scale * jnp.sqrt(jnp.where(zero, 1.0, squares)))
    return norm if keepdims else jnp.squeeze(norm, axis)
