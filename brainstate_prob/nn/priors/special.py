"""Special functions in log space that neither JAX nor NumPyro has, and norms with a gradient everywhere."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc

__all__ = ['log1p_square', 'log_erfcx', 'log_scaled_exp1', 'safe_norm']


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


_EULER = 0.577215664901532860606512090082402431


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
    """The Euclidean norm; its gradient at zero is zero, and squares do not overflow."""
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    zero = top == 0
    scale = jnp.where(zero, 1.0, top)
    squares = jnp.sum((x / scale) ** 2, axis=axis, keepdims=True)
    norm = jnp.where(zero, 0.0, scale * jnp.sqrt(jnp.where(zero, 1.0, squares)))
    return norm if keepdims else jnp.squeeze(norm, axis)
