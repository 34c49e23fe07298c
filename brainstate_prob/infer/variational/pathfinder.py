"""Pathfinder: Gaussian approximations along several quasi-Newton paths, with importance-weighted draws.

Zhang et al. (2022), by BlackJAX. A fast approximation of a posterior, and a start for `nuts`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jax.scipy.stats import multivariate_normal

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noncentered import described
from brainstate_prob.infer.density.potential import potential_of
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.mcmc import rounding_problems, warn_of
from brainstate_prob.infer.diagnostics.psis import k_hat_limit, pareto_k, smoothed_weights
from brainstate_prob.infer.mcmc.kernel import Settings, nuts_starts
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.chains import keys_of_chains
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.optional import import_blackjax
from brainstate_prob.infer.run.starts import starts_named
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.running_statistics import settled
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.target.target import Target

__all__ = ['pathfinder', 'pathfinder_starts']

_MOST_MIXED = 1000
_TOLERANCE = 1e-9  # of the log density, relative: BlackJAX's 1e-5 ends paths of large log densities far from their top
_FEWEST_DRAWS = 25  # fewer draws have no tail to smooth
_DRAWS = 128  # of each path in a compiled call


@named
def pathfinder(
    posterior: Posterior,
    *,
    num_paths: int = 8,
    num_draws: int = 1000,
    num_steps: int = 100,
    num_elbo_draws: int = 25,
    init: Any = 'model',
    noncentered: Any = 'auto',
    seed: Any = 0,
    progress: bool = True,
) -> Fit:
    """Approximate the posterior by multi-path Pathfinder with Pareto-smoothed importance weights.

    Each path descends by L-BFGS, and where the Gaussian that L-BFGS sees is nearest to the posterior (by its ELBO), it
    is drawn from. The draws of all paths are weighted by posterior over the mixture of these Gaussians (over their
    own one, beyond 1000 numbers), so a path with a poor one has little influence. Another seed, more draws or other
    data of the same shape compile nothing.

    Parameters
    ----------
    num_paths
        How many paths, each from a start of its own.
    num_draws
        How many draws in all, in equal parts of the paths (rounded up).
    num_steps
        Of L-BFGS.
    num_elbo_draws
        Draws that estimate the ELBO of each Gaussian on a path.
    init, noncentered
        As for `nuts`.
    seed
        An int or a key.
    progress
        There is no bar: it is one program of seconds.

    Returns
    -------
    Fit
        Weighted draws, with ``stats`` lp and log_q. ``info`` has k_hat, the shape of the weights' tail, and ess, how
        many draws the weights are worth. Above 0.7 the first is warned of: then
        ``infer.nuts(posterior, init=fit)`` goes on from here.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, starts without finite density, paths of which none has a finite Gaussian.
    ImportError
        Without BlackJAX: ``pip install 'brainstate-prob[samplers]'``.

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
    >>> fit = infer.pathfinder(posterior)
    >>> bool(abs(fit.summary()['mean'][0] - 4 / 3) < 0.1)
    True
    """
    check_options(pathfinder, locals())
    del progress  # as every way to fit has it
    if num_draws < _FEWEST_DRAWS:
        raise ValueError(f'num_draws must be at least {_FEWEST_DRAWS}, so that weights have a tail, got {num_draws}.')
    import_blackjax()
    posterior = started_from(posterior, init)
    target = posterior.sampling_target(noncentered)
    density = target.density
    began = time.perf_counter()
    start_keys, keys = keys_of_chains(density, to_key(seed), num_paths)
    thetas = nuts_starts(Settings()).at(target, init, (start_keys, keys)).theta
    gaussians, keys, steps = _best_gaussians(density, thetas, keys, posterior.data, num_steps, num_elbo_draws)
    draws, lp, log_q = _drawn(density, gaussians, keys, posterior.data, -(-num_draws // num_paths))
    elbo = np.asarray(gaussians.elbo)
    good = np.isfinite(lp) & np.isfinite(log_q) & np.isfinite(elbo)[:, None]
    if not good.any():
        raise ValueError(
            f'None of the {num_paths} paths found a Gaussian at whose draws the log density is finite. '
            + advice('start', 'pathfinder', {'init': init})
        )
    draws, lp, log_q = draws[good].astype(density.dtype)[None], lp[good][None], log_q[good][None]
    weights = smoothed_weights((lp - log_q)[0])[None].astype(lp.dtype)
    kept = weights[0] > 0
    stats = {'lp': lp[:, kept], 'log_q': log_q[:, kept]}
    draws, weights = draws[:, kept], weights[:, kept]
    k_hat = pareto_k((stats['lp'] - stats['log_q'])[0])
    ess = float(1 / np.sum(weights.astype(np.float64) ** 2))
    problems = rounding_problems(density, draws, stats)
    limit = k_hat_limit(num_draws)
    if not k_hat < limit:
        problems.append(
            f'k-hat of the importance weights is {k_hat:.2f} (above {limit:.2f}): the paths do not cover the '
            f'posterior, and {draws.shape[1]} draws are worth {ess:.0f}. {advice("paths", "pathfinder", {})}'
        )
    info = {
        'num_paths': num_paths,
        'num_steps': num_steps,
        'steps': [int(n) for n in steps],
        'elbo': [float(x) for x in elbo],
        'k_hat': k_hat,
        'ess': ess,
        'noncentered': described(density),
        'warnings': problems,
        'seconds': time.perf_counter() - began,
    }
    fit = settled(Fit(target, draws, method='pathfinder', stats=stats, info=info, weights=weights))
    warn_of(problems)
    return fit


@starts_named('pathfinder')
def pathfinder_starts(target: Target, keys: jax.Array) -> jax.Array:
    """A draw of a path for each key, (num, size), for ``init='pathfinder'``."""
    density, data, centre = target.density, target.data, target.start
    around = jax.vmap(lambda key: jax.random.uniform(key, centre.shape, centre.dtype, -1.0, 1.0))
    gaussians, keys, _ = _best_gaussians(density, centre + around(keys), keys, data, 100, 25)
    draws, lp, _ = _draw_program(density)(gaussians, keys, np.int32(0), data)
    good = jnp.isfinite(lp[:, :1]) & jnp.isfinite(gaussians.elbo)[:, None]
    return jnp.where(good, draws[:, 0], centre).astype(centre.dtype)


def _best_gaussians(
    density: Density, thetas: jax.Array, keys: jax.Array, data: Data, num_steps: int, num_elbo_draws: int
) -> tuple[Any, jax.Array, jax.Array]:
    """The Gaussian of highest ELBO on the path from each theta, keys for its draws, and the number of steps."""
    settings = (num_steps, num_elbo_draws)
    return density.jit(_paths, settings, lambda: _paths(density, *settings))(thetas, keys, data)


def _paths(density: Density, num_steps: int, num_elbo_draws: int) -> Callable:
    vi = import_blackjax().vi.pathfinder

    def run(thetas: jax.Array, keys: jax.Array, data: Data) -> tuple:
        potential = potential_of(density, data)

        def one(path: tuple) -> tuple:
            theta, key = path
            path_key, elbo_key, draw_key = jax.random.split(key, 3)
            # BlackJAX's own choice is not used, see `_uphill`, so one draw is enough.
            _, info = vi.approximate(
                path_key, lambda x: -potential(x), theta, num_samples=1, maxiter=num_steps, ftol=_TOLERANCE
            )
            steps = info.path._replace(grad_position=info.path.grad_position * _uphill(vi, info.path))

            def elbo_of(step: Any, key: jax.Array) -> jax.Array:
                draws, log_q = vi.sample(key, step, num_elbo_draws)
                return jnp.mean(-jax.vmap(potential)(draws) - log_q)

            elbo = jax.vmap(elbo_of)(steps, jax.random.split(elbo_key, num_steps + 1))
            there = jnp.isfinite(info.path.elbo)
            elbo = jnp.where(there & jnp.isfinite(elbo), elbo, -jnp.inf)
            gaussians = jax.tree.map(lambda x: x[jnp.argmax(elbo)], steps._replace(elbo=elbo))
            return gaussians, draw_key, jnp.sum(there)

        return lax.map(one, (thetas, keys))

    return run


def _drawn(density: Density, gaussians: Any, keys: jax.Array, data: Data, num: int) -> tuple[np.ndarray, ...]:
    """``num`` draws of each Gaussian, their log density, and that of the mixture, of shape (paths, num, ...).

    In blocks of one length, so that another number of draws compiles nothing.
    """
    vi, blocks = import_blackjax().vi.pathfinder, []
    mixture = density.jit(_mixture, None, lambda: functools.partial(_mixture, vi))
    for i in range(-(-num // _DRAWS)):
        draws, lp, log_q = _draw_program(density)(gaussians, keys, np.int32(i), data)
        blocks.append(jax.device_get((draws, lp, mixture(gaussians, draws) if density.size <= _MOST_MIXED else log_q)))
    return tuple(np.concatenate(parts, axis=1)[:, :num] for parts in zip(*blocks, strict=True))


def _draw_program(density: Density) -> Callable:
    vi = import_blackjax().vi.pathfinder

    def run(gaussians: Any, keys: jax.Array, block: jax.Array, data: Data) -> tuple:
        def one(path: tuple) -> tuple:
            draws, log_q = vi.sample(jax.random.fold_in(path[1], block), path[0], _DRAWS)
            return draws, -jax.vmap(potential_of(density, data))(draws), log_q

        return lax.map(one, (gaussians, keys))

    return density.jit(_draw_program, None, lambda: run)


def _uphill(vi: Any, steps: Any) -> jax.Array:
    """The sign that turns a step's gradient into the one that BlackJAX's sampling expects.

    The Gaussian's mean is a Newton step uphill from the path. BlackJAX 1.7 steps along the stored gradient,
    which is downhill. A test draw shows the sign in use: flat curvature, and a gradient that dominates the noise.
    """
    flat = jax.tree.map(lambda x: jnp.zeros_like(x[0]), steps)
    flat = flat._replace(alpha=jnp.ones_like(flat.alpha), grad_position=jnp.full_like(flat.grad_position, 1e4))
    return jnp.where(jnp.mean(vi.sample(jax.random.key(0), flat, 1)[0]) > 0, -1.0, 1.0).astype(flat.alpha.dtype)


def _mixture(vi: Any, gaussians: Any, draws: jax.Array) -> jax.Array:
    """The log density of the mixture of the paths' Gaussians at draws (paths, draws, size)."""
    along = -_uphill(vi, gaussians)

    def one(path: Any) -> jax.Array:
        covariance = jnp.diag(path.alpha) + path.beta @ path.gamma @ path.beta.T
        mean = path.position + along * (covariance @ path.grad_position)
        log_q = multivariate_normal.logpdf(draws, mean, covariance)
        return jnp.where(jnp.isfinite(path.elbo) & jnp.isfinite(log_q), log_q, -jnp.inf)

    each = lax.map(one, gaussians)
    return logsumexp(each, axis=0) - jnp.log(jnp.sum(jnp.isfinite(gaussians.elbo)))
