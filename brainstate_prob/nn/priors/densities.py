"""Log densities by NumPyro class: exact inside the support, -inf outside, and no NaN in a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from numpyro.distributions import constraints

from brainstate_prob.nn.priors.special import log1p_square

__all__ = ['log_density', 'masked_log_prob']


def _cauchy(x, loc, scale):
    return -jnp.log(jnp.pi * scale) - log1p_square((x - loc) / scale)


def _student_t(x, df, loc, scale):
    constant = gammaln(0.5 * (df + 1)) - gammaln(0.5 * df) - 0.5 * jnp.log(df * jnp.pi) - jnp.log(scale)
    return constant - 0.5 * (df + 1) * log1p_square((x - loc) / scale / jnp.sqrt(df))


def _log_normal(x, loc, scale):
    log_x = jnp.log(x)
    return dist.Normal(loc, scale, validate_args=False).log_prob(log_x) - log_x


def _inverse_gamma(x, concentration, rate):
    # NumPyro goes through 1/x, which loses the tails
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


# Where NumPyro's expression overflows, loses digits or fails at an edge, ours is used for its class.
_OWN: dict[type[dist.Distribution], Callable] = {
    dist.Cauchy: _cauchy,
    dist.StudentT: _student_t,
    dist.LogNormal: _log_normal,
    dist.InverseGamma: _inverse_gamma,
    dist.LogUniform: _log_uniform,
    dist.Dirichlet: _dirichlet,
}


def log_density(kind: type[dist.Distribution], params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The log density of NumPyro's class ``kind`` at ``x``, one number an event; ``params`` broadcast against ``x``."""
    own = _OWN.get(kind)
    if own is None:
        return masked_log_prob(kind(**params, validate_args=False), x)
    if kind is dist.Dirichlet:
        params = {'concentration': jnp.broadcast_to(params['concentration'], x.shape)}
    support = constraints.interval(params['low'], params['high']) if kind is dist.LogUniform else kind.support
    return _masked(support, lambda safe: own(safe, **params), x)


def masked_log_prob(distribution: dist.Distribution, x: jax.Array) -> jax.Array:
    """``distribution.log_prob(x)``, -inf outside the support with gradient zero there; NaN stays NaN."""
    # NumPyro leaves the edge 0 out, where the density of these two is finite.
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
    """Nonnegative entries whose sum is 1 up to what rounding does to long vectors."""
    return (x >= 0).all(-1) & (jnp.abs(x.sum(-1) - 1) < jnp.sqrt(jnp.finfo(x.dtype).eps))
