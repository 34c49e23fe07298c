"""Sequential Monte Carlo: many particles move from the prior to the posterior through tempered likelihoods.

Del Moral, Doucet & Jasra (2006), with temperatures chosen so that the effective sample size falls by a given share
(Jasra et al. 2011). It finds modes that chains do not find from each other, and the evidence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.blocks import HorseshoeBlock
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noncentered import described
from brainstate_prob.infer.density.potential import block_slices
from brainstate_prob.infer.density.prior_draws import prior_thetas, refuse_without_prior
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.mcmc import rounding_problems
from brainstate_prob.infer.diagnostics.prior_conflict import issue_warnings
from brainstate_prob.infer.diagnostics.safely import never_raises
from brainstate_prob.infer.mcmc.backends import Point, transition_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import count
from brainstate_prob.infer.run.checkpoint import Checkpoint, nothing_yet
from brainstate_prob.infer.run.driver import Driver, Phase
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.target.target import Target

__all__ = ['smc']

_MOST_STAGES = 1000
_TARGET_ACCEPT = 0.8
_BISECTIONS = 60
_LEAST_ACCEPT = 0.3
_HISTORY = ('temperature', 'ess', 'acceptance_rate', 'log_evidence')
_MOST_DENSE = 200  # dimension of theta up to which the moves use a full covariance


class _Particles(NamedTuple):
    """The state of the particles; a pytree."""

    theta: jax.Array
    likelihood: jax.Array
    lp: jax.Array
    temperature: jax.Array
    log_evidence: jax.Array
    step_size: jax.Array
    key: jax.Array


@named
def smc(
    posterior: Posterior,
    *,
    num_particles: int = 1000,
    num_moves: int = 5,
    target_ess: float = 0.5,
    max_tree_depth: int = 4,
    noncentered: Any = 'auto',
    seed: Any = 0,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample the posterior by adaptive tempered sequential Monte Carlo.

    Particles begin as draws of the prior. In stages the likelihood counts more and more (temperatures from 0 to 1, each
    as large as ``target_ess`` allows); after each stage particles are drawn again by their weights and moved by NUTS
    with the particles' covariance. For posteriors with several modes, which are found if the particles are many enough
    to have some in each at every temperature, and for the evidence. Other data or another seed compile nothing.

    Parameters
    ----------
    num_particles
        How many; so many draws come back.
    num_moves
        NUTS transitions of each particle at each temperature.
    target_ess
        The share of effective particles that a stage may leave, between 0 and 1. Higher: more stages.
    max_tree_depth
        A transition has at most ``2 ** max_tree_depth - 1`` gradients; all particles wait for the longest.
    noncentered
        As for `nuts`.
    seed
        An int or a key.
    checkpoint, checkpoint_every
        Save to this file every so many stages (default: after stages, every 30 seconds), and go on from it if it
        exists: the particles are those of an uninterrupted run, bit for bit.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        ``num_particles`` equally weighted draws as one chain. ``info['log_evidence']``, log of the mean likelihood over
        the prior (in the transforms' codomains), unbiased before the logarithm; ``info['log_evidence_error']``, its
        standard error if the moves forget where particles came from; ``history``: temperature, ess, acceptance_rate
        and log_evidence by stage.

    Raises
    ------
    ValueError
        For a parameter that cannot be sampled or has no proper prior; where the likelihood is nowhere positive; for the
        checkpoint of another run.
    KeyboardInterrupt
        Before temperature 1; the message says where the stages so far are saved.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Distance(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.x = nn.Param(1.0, reg=dist.Normal(0.0, 2.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(jnp.abs(self.x.value()), 0.1)
    >>> posterior = infer.Posterior(Distance(), targets=jnp.array([1.0, 1.1]))
    >>> fit = infer.smc(posterior, num_particles=500, num_moves=2, progress=False)
    >>> bool(0.3 < (fit.draws['x'] > 0).mean() < 0.7)  # two modes, at 1 and at -1
    True
    """
    check_options(smc, locals(), num_particles=count(2))
    target = posterior.sampling_target(noncentered)
    density = target.density
    for e in density.entries:
        refuse_without_prior(e)
    began = time.perf_counter()
    key = to_key(seed)
    saving = Checkpoint(
        checkpoint,
        checkpoint_every,
        lambda: fingerprint_of(
            target,
            'smc',
            num_particles=num_particles,
            num_moves=num_moves,
            target_ess=target_ess,
            max_tree_depth=max_tree_depth,
            noncentered=str(list(density.noncentered)),
            seed=key,
        ),
    )
    prior_key, run_key = density.jit(jax.random.split, None, lambda: jax.random.split)(key)
    thetas = _prior_particles(target, num_particles, prior_key)
    start = density.jit(_start_function, None, lambda: _start_function(density))
    particles = start(thetas, run_key, posterior.data)
    lost = float(np.mean(np.isneginf(np.asarray(particles.likelihood))))
    if lost == 1:
        raise ValueError(
            f'The likelihood is zero or not finite at all of {num_particles} draws of the prior. Check the model with '
            'posterior.check(), give the prior more of its mass where the data can be, or raise num_particles.'
        )
    settings = (max_tree_depth, density.size <= min(_MOST_DENSE, num_particles // 10))
    stage = density.jit(_stage_function, settings, lambda: _stage_function(density, *settings))
    stages = _Stages(particles, lambda now: stage(now, posterior.data, num_moves, target_ess))
    with Driver(stages, num_draws=0, most=1, saving=saving, progress=progress) as driver:
        driver.go(Phase('stages', 'Tempering', _MOST_STAGES, stages.step, _HISTORY))
        particles, reached = stages.particles, float(stages.particles.temperature)
        if reached < 1 and driver.interrupted:
            where = f'at temperature {reached:.2g}' if driver.done('stages') else 'in the first stage'
            raise nothing_yet(f'{where}, where the particles are not yet those of the posterior', saving)
        if reached < 1:
            raise ValueError(
                f'The temperature is only {reached:.2g} after {_MOST_STAGES} stages. Prior and data are too far apart '
                f'for this many particles. {advice("temperature", "smc", {})}'
            )
        history = {name: driver.kept('stages', name)[0].astype(float) for name in _HISTORY}
    draws = np.asarray(particles.theta)[None].astype(density.dtype)
    stats = {'lp': np.asarray(particles.lp)[None]}
    info = {
        'num_particles': num_particles,
        'num_moves': num_moves,
        'num_stages': len(history['ess']),
        'target_ess': target_ess,
        'log_evidence': float(particles.log_evidence),
        'log_evidence_error': _error(history['ess'], num_particles),
        'noncentered': described(density),
        'seconds': time.perf_counter() - began,
    }
    info['warnings'] = _problems(density, draws, stats, history, info)
    return issue_warnings(Fit(target, draws, method='smc', stats=stats, history=history, info=info))


class _Stages:
    """The stages of the particles as chains of a `Driver`; ``stage(particles) -> (particles, stats)``."""

    def __init__(self, particles: _Particles, stage: Callable):
        self.particles, self._stage = particles, stage

    def state(self) -> _Particles:
        return self.particles

    def take(self, particles: _Particles) -> None:
        self.particles = particles

    def step(self, done: int, length: int) -> tuple:
        """Run one stage, or nothing if temperature 1 is reached."""
        if self.particles.temperature == 1:
            return np.zeros((1, 0)), {}
        self.particles, stats = self._stage(self.particles)
        return np.zeros((1, 1)), {name: np.asarray(x)[None, None] for name, x in stats.items()}


def _prior_particles(target: Target, num: int, key: jax.Array) -> np.ndarray:
    """Draws of the prior in the coordinates of ``density``; expanded horseshoes have their own."""
    density = target.density
    thetas = prior_thetas(density, num, key, target.start, target.data.states).copy()
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    for block, where in zip(density.blocks, block_slices(density), strict=True):
        if isinstance(block, HorseshoeBlock):
            normal, angle = rng.normal(size=(2, num, block.entry.size)), rng.uniform(size=(num, block.entry.size))
            thetas[:, where] = np.concatenate([normal[0], np.log(np.tan(np.pi / 2 * angle))], axis=1)
    return thetas


def _start_function(density: Density) -> Callable:
    def run(thetas: jax.Array, key: jax.Array, data: Data) -> _Particles:
        thetas = thetas.astype(jnp.result_type(float))
        likelihood, lp = jax.vmap(lambda theta: density.log_likelihood_and_density(theta, data))(thetas)
        zero, one = jnp.zeros((), thetas.dtype), jnp.ones((), thetas.dtype)
        likelihood = jnp.where(jnp.isfinite(likelihood) & jnp.isfinite(lp), likelihood, -jnp.inf)
        return _Particles(thetas, likelihood, lp, zero, zero, 0.5 * one, key)

    return run


def _stage_function(density: Density, max_tree_depth: int, dense: bool) -> Callable:
    step = transition_of('numpyro')

    def stage(p: _Particles, data: Data, num_moves: jax.Array, target_ess: jax.Array) -> tuple:
        num, dtype = p.theta.shape[0], p.theta.dtype
        key, choice_key, move_key = jax.random.split(p.key, 3)
        rise = _rise(p.likelihood, 1 - p.temperature, target_ess * num)
        weights = rise * p.likelihood
        total = logsumexp(weights)
        log_evidence = p.log_evidence + total - jnp.log(num)
        weights = jnp.exp(weights - total)
        temperature = jnp.where(rise >= 1 - p.temperature, 1.0, p.temperature + rise).astype(dtype)
        root = _root(p.theta, weights, dense)
        chosen = _systematic(choice_key, weights)
        theta = p.theta[chosen]

        def potential(theta: jax.Array) -> jax.Array:
            likelihood, lp = density.log_likelihood_and_density(theta, data)
            return (1 - temperature) * likelihood - lp

        def move(i: jax.Array, loop: tuple) -> tuple:
            theta, value, grad, step_size, _ = loop

            def one(theta: jax.Array, value: jax.Array, grad: jax.Array, key: jax.Array) -> tuple:
                shift = (lambda w: root @ w) if dense else (lambda w: root * w)
                pull = grad @ root if dense else grad * root
                at = Point(jnp.zeros_like(theta), value, pull)
                at, _, info = step(lambda w: potential(theta + shift(w)), at, key, step_size, max_tree_depth)
                return theta + shift(at.w), at.potential, info.acceptance

            keys = jax.random.split(jax.random.fold_in(move_key, i), num)
            theta, value, accepted = jax.vmap(one)(theta, value, grad, keys)
            grad = jax.vmap(jax.grad(potential))(theta)
            accepted = jnp.mean(accepted)
            return theta, value, grad, step_size * jnp.exp(accepted - _TARGET_ACCEPT), accepted

        value, grad = jax.vmap(jax.value_and_grad(potential))(theta)
        loop = (theta, value, grad, p.step_size, jnp.zeros((), dtype))
        theta, _, _, step_size, accepted = lax.fori_loop(0, num_moves, move, loop)
        likelihood, lp = jax.vmap(lambda theta: density.log_likelihood_and_density(theta, data))(theta)
        new = _Particles(theta, likelihood, lp, temperature, log_evidence, step_size, key)
        stats = {
            'temperature': temperature,
            'ess': 1 / jnp.sum(weights**2),
            'acceptance_rate': accepted,
            'log_evidence': log_evidence,
        }
        return new, stats

    return stage


def _rise(likelihood: jax.Array, most: jax.Array, target: jax.Array) -> jax.Array:
    """The rise of the temperature that keeps ``target`` effective particles; at most ``most``."""

    def effective(rise: jax.Array) -> jax.Array:
        weights = rise * likelihood
        return jnp.exp(2 * logsumexp(weights) - logsumexp(2 * weights))

    def halve(_: Any, bounds: tuple) -> tuple:
        low, high = bounds
        middle = (low + high) / 2
        good = effective(middle) >= target
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    # If zero likelihoods alone miss the target, the first stage only drops these particles.
    least = jnp.asarray(jnp.finfo(likelihood.dtype).tiny, likelihood.dtype)
    low, _ = lax.fori_loop(0, _BISECTIONS, halve, (least, most))
    return jnp.where(effective(most) >= target, most, low)


def _root(theta: jax.Array, weights: jax.Array, dense: bool) -> jax.Array:
    """A root of the weighted particles' covariance, or their standard deviations."""
    centred = theta - weights @ theta
    variances = weights @ centred**2
    variances = jnp.maximum(variances, 1e-8 * jnp.max(variances) + jnp.finfo(theta.dtype).tiny)
    if not dense:
        return jnp.sqrt(variances)
    sd = jnp.sqrt(variances)
    scaled = centred / sd
    correlation = (scaled.T * weights) @ scaled
    size = theta.shape[1]
    correlation = 0.99 * correlation + 0.01 * jnp.eye(size, dtype=theta.dtype)  # correction for few particles
    root = sd[:, None] * jnp.linalg.cholesky(correlation)
    return jnp.where(jnp.isfinite(root).all(), root, jnp.diag(sd))


def _systematic(key: jax.Array, weights: jax.Array) -> jax.Array:
    """Systematic resampling: indices of particles in proportion to their weights."""
    num = weights.shape[0]
    points = (jnp.arange(num) + jax.random.uniform(key, (), weights.dtype)) / num
    heights = jnp.cumsum(weights)
    indices = jnp.searchsorted(heights / heights[-1], points, side='right')
    return jnp.minimum(indices, jnp.max(jnp.where(weights > 0, jnp.arange(num), 0)))  # against rounding: never weight 0


def _error(ess: np.ndarray, num: int) -> float:
    """The standard error of the log evidence: relative variances of the stages' mean weights, added up."""
    return float(np.sqrt(sum(max(1 / one - 1 / num, 0.0) for one in ess)))


@never_raises('The diagnostics of the particles')
def _problems(
    density: Density, draws: np.ndarray, stats: dict, history: dict[str, np.ndarray], used: dict
) -> list[str]:
    texts = rounding_problems(density, draws, stats)
    worst = int(np.argmin(history['acceptance_rate']))
    temperature, rate = history['temperature'][worst], history['acceptance_rate'][worst]
    if rate < _LEAST_ACCEPT:
        texts.append(
            f'At temperature {temperature:.2g} the moves were accepted at a rate of only {rate:.2g}: the particles are '
            f'copies of a few. {advice("copies", "smc", used)}'
        )
    return texts
