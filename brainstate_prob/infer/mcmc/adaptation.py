"""Warm-up: adaptation of the step size by dual averaging and of the mass matrix from draws or gradients.

Each step has an integer action, so that the warm-up schedule is data and not part of the compiled program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.infer.hmc_util import build_adaptation_schedule, dual_averaging, welford_covariance

from brainstate_prob.infer.mcmc.metric import Dense, Diagonal, LowRank, Metric, unit_metric

__all__ = ['SAMPLE', 'WARMUPS', 'Adaptation', 'adapted', 'first_adaptation', 'schedule']

WARMUPS = ('stan', 'gradient')

# Actions, i.e. what a step adapts. All but SAMPLE adapt the step size.
SAMPLE = 0  # nothing
FAST = 1
SLOW = 2  # the mass matrix as well
SLOW_END = 3  # the same, at the end of a window
LAST = 4  # fix the final step size
EARLY = 5  # the mass matrix at once, by gradients
EARLY_END = 6
RESTART = 7  # restart the step size; the mass matrix is final

_BUFFER = 200  # draws from which a low-rank matrix is estimated
_RANK = 20
_CUTOFF = 2.0  # directions with a smaller ratio of variances are not corrected


class Adaptation(NamedTuple):
    """The adaptation state of a chain: step size, metric, and their estimators."""

    step_size: jax.Array
    metric: Metric
    averaging: Any
    estimator: Any


class Streams(NamedTuple):
    """Running variances of draws and gradients, of this window and of the last two."""

    now: tuple
    before: tuple


class Buffer(NamedTuple):
    """The last draws and gradients, in addition to running variances."""

    streams: Streams
    draws: jax.Array
    grads: jax.Array
    seen: jax.Array


def schedule(num_warmup: int, warmup: str = 'stan', settle: float = 0.0) -> np.ndarray:
    """The actions of a warm-up, one for each step.

    ``'stan'``: a fast window, slow windows of growing length, a fast window, and ``settle`` of all steps for the step
    size alone. ``'gradient'`` (as nutpie does it): after 2 % for the step size alone, windows of 10 up to three tenths,
    then of 80, and 15 % for the step size.
    """
    actions = np.full(num_warmup, FAST, np.int32)
    if warmup == 'stan':
        for window in build_adaptation_schedule(int((1 - settle) * num_warmup))[1:-1]:
            actions[window.start : window.end + 1] = SLOW
            actions[window.end] = SLOW_END
    else:
        early, end = int(0.3 * num_warmup), int(0.85 * num_warmup)
        actions[:early] = EARLY
        actions[: num_warmup // 50] = FAST
        actions[num_warmup // 50 + 9 : early : 10] = EARLY_END
        actions[early:end] = SLOW
        if end > early:
            ends = np.arange(early + 79, end, 80)
            ends = ends[end - ends > 60]  # the remainder joins the last window
            actions[ends] = SLOW_END
            actions[end - 1] = SLOW_END
            actions[end : end + 1] = RESTART
    actions[-1:] = LAST
    return actions


def first_adaptation(mass_matrix: str, warmup: str, grad: jax.Array) -> Adaptation:
    """The initial adaptation: step size 1 and unit mass, or a mass from the initial gradient."""
    size, dtype = grad.shape[0], grad.dtype
    metric: Any = unit_metric(mass_matrix, size, min(_RANK, size), dtype)
    if warmup == 'gradient':
        metric = metric._replace(scale=jnp.sqrt(1 / jnp.clip(jnp.abs(grad), 1e-3, 1e3)))
    step = jnp.ones((), dtype)
    averaging = dual_averaging()[0](jnp.log(10.0) + jnp.log(step))
    return Adaptation(step, metric, averaging, _start(mass_matrix, warmup, size, dtype))


def adapted(
    action: jax.Array,
    a: Adaptation,
    theta: jax.Array,
    grad: jax.Array,
    fell: jax.Array,
    accept: jax.Array,
    target: jax.Array,
    kind: tuple[str, str],
) -> tuple[Adaptation, jax.Array]:
    """The adaptation after a transition to ``theta``, and the gradient there in the new metric's coordinates.

    Parameters
    ----------
    grad
        The gradient in the present metric's coordinates.
    fell
        By how much the potential energy fell.
    kind
        Mass matrix and warm-up.
    """

    def adapt(a: Adaptation) -> tuple[Adaptation, jax.Array]:
        start_step_size, update_step_size = dual_averaging()
        averaging = update_step_size(target - accept, a.averaging)
        finite = jnp.finfo(averaging[0].dtype)
        log_step = jnp.where(action == LAST, averaging[1], averaging[0])
        step = jnp.clip(jnp.exp(log_step), finite.tiny, finite.max)
        a = a._replace(step_size=step, averaging=averaging)
        mass, warmup = kind
        if warmup == 'stan':
            a = _draws_only(action, a, theta, mass)
            anew = action == SLOW_END
        else:
            a = _with_gradients(action, a, theta, a.metric.push(grad), fell, mass)
            anew = action == RESTART
        first = start_step_size(jnp.log(10.0) + jnp.log(a.step_size))
        return a._replace(averaging=jax.tree.map(lambda x, y: jnp.where(anew, x, y), first, a.averaging)), grad

    old = a.metric
    a, grad = lax.cond(action == SAMPLE, lambda a: (a, grad), adapt, a)
    changes = action == SLOW_END
    if kind[1] == 'gradient':
        changes = changes | (action == EARLY) | (action == EARLY_END) | (action == SLOW)
    return a, lax.cond(changes, lambda: a.metric.pull(old.push(grad)), lambda: grad)


def _start(mass_matrix: str, warmup: str, size: int, dtype: Any) -> Any:
    if warmup == 'stan':
        return welford_covariance(diagonal=mass_matrix == 'diagonal')[0](size)
    empty = welford_covariance()[0](size)
    streams = Streams((empty, empty), (empty, empty))
    if mass_matrix == 'diagonal':
        return streams
    none = jnp.zeros((_BUFFER, size), dtype)
    return Buffer(streams, none, none, jnp.zeros((), int))


# From draws, as in Stan


def _draws_only(action: jax.Array, a: Adaptation, theta: jax.Array, mass: str) -> Adaptation:
    start, update, final = welford_covariance(diagonal=mass == 'diagonal')

    def close(a: Adaptation) -> Adaptation:
        _, inverse, root = final(a.estimator, regularize=True)
        metric = Diagonal(root) if mass == 'diagonal' else Dense(root.T, inverse.T)
        return a._replace(metric=metric, estimator=start(theta.shape[0]))

    slow = (action == SLOW) | (action == SLOW_END)
    a = a._replace(estimator=lax.cond(slow, lambda e: update(theta, e), lambda e: e, a.estimator))
    return lax.cond(action == SLOW_END, close, lambda a: a, a)


# From draws and gradients: the variance that minimizes the Fisher divergence, as in nutpie


def _with_gradients(
    action: jax.Array, a: Adaptation, theta: jax.Array, grad: jax.Array, fell: jax.Array, mass: str
) -> Adaptation:
    _, update, _ = welford_covariance()
    # Points on the way from a far start are not typical, and a mass matrix from them would slow the chain down.
    falling = jnp.abs(fell) > 10 + 2 * theta.shape[0]
    collects = (action != FAST) & (action != LAST) & (action != RESTART) & jnp.isfinite(grad).all() & ~falling
    early = (action == EARLY) | (action == EARLY_END)
    ends = (action == SLOW_END) | (action == EARLY_END)

    def add(pair: tuple) -> tuple:
        return update(theta, pair[0]), update(grad, pair[1])

    def collect(e: Any) -> Any:
        streams = e if mass == 'diagonal' else e.streams
        streams = Streams(add(streams.now), add(streams.before))
        if mass == 'diagonal':
            return streams
        at = e.seen % _BUFFER
        return Buffer(streams, e.draws.at[at].set(theta), e.grads.at[at].set(grad), e.seen + 1)

    def close(e: Any) -> Any:
        streams = e if mass == 'diagonal' else e.streams
        empty = jax.tree.map(jnp.zeros_like, streams.now)
        streams = Streams(empty, streams.now)
        return streams if mass == 'diagonal' else e._replace(streams=streams)

    def refresh(metric: Any) -> Any:
        scale, known = _scale_of(estimator if mass == 'diagonal' else estimator.streams)
        return metric._replace(scale=jnp.where(known, scale, metric.scale))

    estimator = lax.cond(collects, collect, lambda e: e, a.estimator)
    if mass == 'diagonal':
        metric = lax.cond(collects, refresh, lambda m: m, a.metric)
    else:
        metric = lax.cond(collects & early, refresh, lambda m: m, a.metric)
        metric = lax.cond(action == SLOW_END, lambda m: low_rank_of(estimator, m), lambda m: m, metric)
    return a._replace(metric=metric, estimator=lax.cond(ends, close, lambda e: e, estimator))


def _scale_of(streams: Streams) -> tuple[jax.Array, jax.Array]:
    (_, draws, n), (_, grads, _) = streams.before
    ratio = jnp.sqrt(draws / grads)  # a ratio of sums of squares equals that of variances
    known = (n >= 3) & jnp.isfinite(ratio) & (ratio > 0)
    return jnp.sqrt(jnp.clip(jnp.where(known, ratio, 1.0), 1e-20, 1e20)), known


def low_rank_of(e: Buffer, metric: Any) -> LowRank:
    """The low-rank matrix of the window: a diagonal, and directions whose ratio of variances exceeds the cutoff.

    In the span of the scaled draws and gradients it is the geometric mean of the draws' covariance and the inverse of
    the gradients' (the minimum of the Fisher divergence; nutpie's).
    """
    scale, known = _scale_of(e.streams)
    scale = jnp.where(known, scale, metric.scale)
    filled = (jnp.arange(_BUFFER) < e.seen)[:, None]
    n = jnp.minimum(e.seen, _BUFFER)

    def centred(x: jax.Array) -> jax.Array:
        return jnp.where(filled, x - jnp.sum(jnp.where(filled, x, 0.0), axis=0) / n, 0.0)

    draws, grads = centred(e.draws) / scale, centred(e.grads) * scale
    size = scale.shape[0]
    if size > 2 * _BUFFER:
        span = jnp.linalg.qr(jnp.concatenate([draws, grads]).T)[0]
        draws, grads = draws @ span, grads @ span
    # Shrinkage towards the identity, which is stronger with fewer draws per dimension.
    dim = draws.shape[1]
    weight = dim * jnp.minimum(1.0, dim / n)
    shrunk = lambda x: (x.T @ x + weight * jnp.eye(dim, dtype=x.dtype)) / (n + weight)
    variances, vectors = jnp.linalg.eigh(_spd_mean(shrunk(draws), shrunk(grads)))
    rank = metric.factors.shape[0]
    order = jnp.argsort(-jnp.abs(jnp.log(jnp.maximum(variances, 1e-20))))[:rank]
    variances, vectors = variances[order], vectors[:, order]
    off = (variances > _CUTOFF) | (variances < 1 / _CUTOFF)
    factors = jnp.where(off, jnp.sqrt(jnp.maximum(variances, 1e-20)), 1.0)
    vectors = span @ vectors if size > 2 * _BUFFER else vectors
    good = jnp.isfinite(vectors).all() & jnp.isfinite(factors).all() & (n >= 10)
    return LowRank(
        scale, jnp.where(good, vectors, metric.vectors), jnp.where(good, factors, jnp.ones_like(metric.factors))
    )


def _spd_mean(draws: jax.Array, grads: jax.Array) -> jax.Array:
    """The geometric mean of a covariance and the inverse of another: M with M grads M = draws."""
    values, vectors = jnp.linalg.eigh(grads)
    values = jnp.maximum(values, 1e-20)
    root = (vectors * jnp.sqrt(values)) @ vectors.T
    inverse = (vectors / jnp.sqrt(values)) @ vectors.T
    values, vectors = jnp.linalg.eigh(root @ draws @ root)
    return inverse @ (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T @ inverse
