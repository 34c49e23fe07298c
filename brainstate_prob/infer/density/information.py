"""The expected curvature of a likelihood in what the model predicts: Fisher information, through divergences.

The Hessian of a divergence D(p, q) in q at q = p is the Fisher information of the distribution's parameters. It is
never negative, and J' F J does not depend on how the distribution is written: that is the generalized Gauss-Newton
matrix. Kullback-Leibler divergences are NumPyro's; where it has none, a quadratic with the known information serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import polygamma

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.observed import checked_batch_shape, checked_log_prob

__all__ = ['outputs_of', 'predicted', 'total_divergence']


def _diagonal(**information: Callable) -> Callable:
    """A quadratic divergence for parameters that are orthogonal: by name, their information."""

    def divergence(p: Any, q: Any) -> jax.Array:
        return sum(f(p) * jnp.square(getattr(q, name) - getattr(p, name)) / 2 for name, f in information.items())

    return divergence


def _logit_variance(p: Any) -> jax.Array:
    return jax.nn.sigmoid(p.logits) * jax.nn.sigmoid(-p.logits)


def _categorical(p: Any, q: Any) -> jax.Array:
    log_p, log_q = jax.nn.log_softmax(p.logits), jax.nn.log_softmax(q.logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _student(p: Any, q: Any) -> jax.Array:
    """Lange, Little and Taylor (1989), for the scale in place of the variance."""
    df, scale = p.df, p.scale
    to_df, to_loc, to_scale = q.df - df, (q.loc - p.loc) / scale, (q.scale - scale) / scale
    trigammas = polygamma(1, df / 2) - polygamma(1, (df + 1) / 2)
    of_df = trigammas / 4 - (df + 5) / (2 * df * (df + 1) * (df + 3))
    return (
        (df + 1) / (df + 3) * to_loc**2
        + 2 * df / (df + 3) * to_scale**2
        - 4 / ((df + 1) * (df + 3)) * to_df * to_scale
        + of_df * to_df**2
    ) / 2


_DIVERGENCES: dict[type, Callable] = {
    dist.BernoulliLogits: _diagonal(logits=_logit_variance),
    dist.BernoulliProbs: _diagonal(probs=lambda p: 1 / (p.probs * (1 - p.probs))),
    dist.BinomialLogits: _diagonal(logits=lambda p: p.total_count * _logit_variance(p)),
    dist.BinomialProbs: _diagonal(probs=lambda p: p.total_count / (p.probs * (1 - p.probs))),
    dist.CategoricalLogits: _categorical,
    dist.Cauchy: _diagonal(loc=lambda p: 0.5 / p.scale**2, scale=lambda p: 0.5 / p.scale**2),
    dist.Exponential: _diagonal(rate=lambda p: 1 / p.rate**2),
    dist.HalfNormal: _diagonal(scale=lambda p: 2 / p.scale**2),
    dist.Laplace: _diagonal(loc=lambda p: 1 / p.scale**2, scale=lambda p: 1 / p.scale**2),
    dist.Logistic: _diagonal(loc=lambda p: 1 / (3 * p.scale**2), scale=lambda p: (3 + jnp.pi**2) / (9 * p.scale**2)),
    dist.MultinomialLogits: lambda p, q: p.total_count * _categorical(p, q),
    dist.Poisson: _diagonal(rate=lambda p: 1 / p.rate),
    dist.StudentT: _student,
}


def _divergence(p: dist.Distribution, q: dist.Distribution) -> jax.Array:
    """D(p, q) of each element of the batch.

    Raises
    ------
    NotImplementedError
        For a distribution of unknown information.
    """
    if type(p) in _DIVERGENCES:
        return jnp.broadcast_to(_DIVERGENCES[type(p)](p, q), p.batch_shape)
    if isinstance(p, dist.ExpandedDistribution):
        return jnp.broadcast_to(_divergence(p.base_dist, q.base_dist), p.batch_shape)
    if isinstance(p, dist.Independent):
        inner = jnp.broadcast_to(_divergence(p.base_dist, q.base_dist), p.base_dist.batch_shape)
        return jnp.sum(inner, axis=tuple(range(inner.ndim - p.reinterpreted_batch_ndims, inner.ndim)))
    if isinstance(p, dist.MaskedDistribution):
        return jnp.where(p._mask, _divergence(p.base_dist, q.base_dist), 0.0)
    if isinstance(p, dist.TransformedDistribution) and not jax.tree.leaves(p.transforms):
        inner = _divergence(p.base_dist, q.base_dist)  # one bijection of both changes nothing
        return jnp.sum(inner, axis=tuple(range(len(p.batch_shape), inner.ndim)))
    return dist.kl_divergence(p, q)


def total_divergence(p: dist.Distribution, q: dist.Distribution, data: Data) -> tuple[jax.Array, bool]:
    """D(p, q) summed over the targets with the weight of the likelihood, and whether it is one.

    Where the information is unknown: minus the log-likelihood of q, whose curvature is the observed one.
    """
    try:
        each = _divergence(p, q)
    except NotImplementedError:
        return -data.scale * jnp.sum(checked_log_prob(q, data.targets)), False
    return data.scale * jnp.sum(jnp.broadcast_to(each, checked_batch_shape(p, data.targets))), True


def outputs_of(distribution: dist.Distribution) -> tuple[list[jax.Array], list[Any], Callable]:
    """The floating numbers that a distribution is made of, what else it holds, and how to rebuild it from these."""
    leaves, tree = jax.tree.flatten(distribution)
    floating = [bool(jnp.issubdtype(jnp.result_type(x), jnp.floating)) for x in leaves]

    def rebuild(outputs: list[jax.Array], others: list[Any]) -> dist.Distribution:
        first, second = iter(outputs), iter(others)
        return jax.tree.unflatten(tree, [next(first) if is_floating else next(second) for is_floating in floating])

    outputs = [jnp.asarray(x) for x, is_floating in zip(leaves, floating, strict=True) if is_floating]
    return outputs, [x for x, is_floating in zip(leaves, floating, strict=True) if not is_floating], rebuild


def predicted(density: Density, theta: jax.Array, data: Data) -> dist.Distribution:
    """What the model says about the targets at ``theta``."""
    with density.open(theta, data) as model:
        return model.distribution(data)
