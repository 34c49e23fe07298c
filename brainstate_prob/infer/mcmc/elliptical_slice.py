"""Elliptical slice sampling: draws under a Gaussian prior without gradients, step sizes or rejections.

Murray, Adams & MacKay (2010): a draw from the prior and the current point define an ellipse, and the next point is
sampled on it where the likelihood is above a random level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.mcmc.gaussian_prior import draw, gaussian_prior
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.algorithm import Algorithm
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.run.sampling import sample
from brainstate_prob.infer.run.starts import start_points
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import non_finite_term
from brainstate_prob.infer.target.target import Target

__all__ = ['elliptical_slice']

_TRIES = 100
_MOST_SHRINKS = 200  # after so many the bracket is below rounding
_STATS = {'lp': float, 'n_steps': int}


class _State(NamedTuple):
    """The state of a chain."""

    theta: jax.Array
    likelihood: jax.Array
    lp: jax.Array
    key: jax.Array


@named
def elliptical_slice(
    posterior: Posterior,
    *,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    init: Any = 'prior',
    thinning: int = 1,
    seed: Any = 0,
    devices: Sequence[Any] | None = None,
    chain_method: str | None = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample a posterior whose prior is Gaussian in theta, by elliptical slice sampling.

    It needs no gradient and nothing to tune. It is good where the prior carries the correlations (Gaussian processes)
    and the likelihood says little about each number; where the likelihood is strong, `nuts` mixes faster. A second call
    for a model of the same structure compiles nothing.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        Steps before the first draw is kept (nothing is adapted), after it, and chains.
    init
        ``'prior'``: each chain at a draw of the prior; ``'model'``: all at the model's present parameters; ``'map'``,
        a `Fit`, values by path or an array of theta as for `nuts`.
    thinning
        Keep every ``thinning``-th draw, ``num_samples // thinning`` of each chain.
    seed
        An int or a key.
    devices, chain_method, checkpoint, checkpoint_every
        As for `nuts`.
    progress
        Show progress bars.

    Returns
    -------
    Fit
        With ``stats`` lp and n_steps (evaluations of the likelihood).

    Raises
    ------
    ValueError
        For a parameter without a prior, with one that is not Gaussian in theta or has a fitted hyper-parameter; for
        starts without finite likelihood; for the checkpoint of another run.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> fit = infer.elliptical_slice(posterior, num_warmup=100, progress=False)
    >>> fit.draws['mu'].shape, bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.1)
    ((4, 1000), True)
    """
    options = RunOptions.of(elliptical_slice, locals())
    target = options.target(posterior)
    float_ = jnp.result_type(float)
    mean, scales = gaussian_prior(target.density, target.data.states)
    prior = (jnp.asarray(mean, float_), tuple(jnp.asarray(scale, float_) for scale in scales))
    algorithm = Algorithm(
        name='elliptical_slice',
        init=lambda target, options: _starts(target, options, prior),
        step=_step_function,
        stats=_STATS,
        arguments=prior,
    )
    return sample(target, algorithm, options)


def _step_function(density: Density) -> Any:
    def step(state: _State, data: Data, action: jax.Array, mean: jax.Array, scales: tuple) -> tuple:
        key, level_key, angle_key, prior_key, shrink_key = jax.random.split(state.key, 5)
        dtype = state.theta.dtype
        other = draw(prior_key, density, scales)
        level = state.likelihood - jax.random.exponential(level_key, (), dtype)
        centred = state.theta - mean

        def at(angle: jax.Array) -> tuple:
            theta = mean + centred * jnp.cos(angle) + other * jnp.sin(angle)
            return theta, *density.log_likelihood_and_density(theta, data)

        def again(loop: tuple) -> jax.Array:
            _, _, _, (_, likelihood, _), count = loop
            return ~(likelihood >= level) & (count < _MOST_SHRINKS)  # NaN counts as below the level

        def shrink(loop: tuple) -> tuple:
            low, high, angle, _, count = loop
            first = count == 0
            low = jnp.where(~first & (angle < 0), angle, low)
            high = jnp.where(~first & (angle >= 0), angle, high)
            drawn = jax.random.uniform(jax.random.fold_in(shrink_key, count), (), dtype, low, high)
            angle = jnp.where(first, angle, drawn)
            return low, high, angle, at(angle), count + 1

        angle = jax.random.uniform(angle_key, (), dtype, 0.0, 2 * np.pi)
        nowhere = (state.theta, jnp.full((), -jnp.inf, dtype), state.lp)
        loop = (angle - 2 * np.pi, angle, angle, nowhere, jnp.zeros((), int))
        *_, (theta, likelihood, lp), count = lax.while_loop(again, shrink, loop)
        moved = likelihood >= level
        new = _State(
            jnp.where(moved, theta, state.theta),
            jnp.where(moved, likelihood, state.likelihood),
            jnp.where(moved, lp, state.lp),
            key,
        )
        return new, new.theta, {'lp': new.lp, 'n_steps': count}

    return step


def _starts(target: Target, options: RunOptions, prior: tuple) -> _State:
    density, init = target.density, options.init
    from_prior = isinstance(init, str) and init == 'prior'
    start_keys, keys = options.keys(target)
    thetas = jnp.zeros((len(keys), density.size)) if from_prior else start_points(target, init, start_keys)[1]
    thetas = jnp.asarray(thetas, jnp.result_type(float))
    run = density.jit(_start_function, from_prior, lambda: _start_function(density, from_prior))
    states = run(start_keys, keys, thetas, target.data, *prior)
    bad = np.flatnonzero(~np.isfinite(np.asarray(states.likelihood)))
    if bad.size:
        theta = jnp.asarray(states.theta[bad[0]], density.dtype)
        where = 'draws of the prior' if from_prior else 'its start'
        raise ValueError(
            f'{bad.size} of {len(keys)} chains found no finite likelihood at {where}: '
            + non_finite_term(target, theta, True)
        )
    return states


def _start_function(density: Density, from_prior: bool) -> Any:
    def one(start_key: jax.Array, key: jax.Array, theta: jax.Array, data: Data, mean: jax.Array, scales: tuple) -> Any:
        def again(loop: tuple) -> jax.Array:
            count, (_, likelihood, _) = loop
            return (count < _TRIES) & ~jnp.isfinite(likelihood)

        def body(loop: tuple) -> tuple:
            count, (at, _, _) = loop
            if from_prior:
                at = mean + draw(jax.random.fold_in(start_key, count), density, scales)
            return count + (1 if from_prior else _TRIES), (at, *density.log_likelihood_and_density(at, data))

        nan = jnp.full((), jnp.nan, theta.dtype)
        _, (at, likelihood, lp) = lax.while_loop(again, body, (0, (theta, nan, nan)))
        return _State(at, likelihood, lp, key)

    def run(start_keys: jax.Array, keys: jax.Array, thetas: jax.Array, *rest: Any) -> Any:
        return lax.map(lambda chain: one(*chain, *rest), (start_keys, keys, thetas))

    return run
