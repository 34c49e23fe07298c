"""Pathfinder: Gaussian approximations along several quasi-Newton paths, their draws weighted by importance.

Zhang et al. (2022), by BlackJAX. A quick look at a posterior, and a start for `nuts`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jax.scipy.stats import multivariate_normal

from brainstate_prob.infer.backends.blackjax import import_blackjax
from brainstate_prob.infer.chain_loop import check_counts, keys_of_chains
from brainstate_prob.infer.chain_starts import started_chains
from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.diagnostics import rounding_problems, warn_of
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.kernel import Settings, potential_of
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.psis import k_hat_limit, pareto_k
from brainstate_prob.infer.start import to_key

__all__ = ['pathfinder', 'pathfinder_starts']

_MOST_MIXED = 1000
_TOLERANCE = 1e-9  # of the log density, relative: BlackJAX's 1e-5 ends paths of large log densities far from their top
_FEWEST_DRAWS = 25  # below, there is no tail to smooth


def pathfinder(
    posterior: Posterior,
    *,
    num_paths: int = 8,
    num_draws: int = 1000,
    max_steps: int = 100,
    num_elbo_draws: int = 25,
    seed: Any = 0,
    init: Any = 'model',
    noncentered: Any = True,
    progress: bool = True,
) -> Fit:
    """Approximate the posterior by multi-path Pathfinder with Pareto-smoothed importance weights.

    Each path descends by L-BFGS, and where the Gaussian that L-BFGS sees is nearest to the posterior (by its ELBO), it
    is drawn from. The draws of all paths are weighted by posterior over the mixture of these Gaussians (over their
    own one, beyond 1000 numbers), so that a path with a poor one does little harm. Another seed or other data of the
    same shape compile nothing.

    Parameters
    ----------
    num_paths
        How many paths, each from a start of its own.
    num_draws
        How many draws in all, in equal parts of the paths (rounded up).
    max_steps
        Of L-BFGS.
    num_elbo_draws
        Draws that estimate the ELBO of each Gaussian on a path.
    seed
        An int or a key.
    init, noncentered
        As for `nuts`.
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
    del progress  # as every way to fit has it
    check_counts(num_paths=num_paths, num_draws=num_draws, max_steps=max_steps, num_elbo_draws=num_elbo_draws)
    if num_draws < _FEWEST_DRAWS:
        raise ValueError(f'num_draws must be at least {_FEWEST_DRAWS}, so that weights have a tail, got {num_draws}.')
    import_blackjax()
    density = posterior.sampling_density_for(noncentered)
    began = time.perf_counter()
    start_keys, keys = keys_of_chains(density, to_key(seed), num_paths)
    thetas = started_chains(posterior, density, Settings(), init, (start_keys, keys)).theta
    settings = (-(-num_draws // num_paths), max_steps, num_elbo_draws)
    run = density.jit('pathfinder_paths', settings, lambda: _paths(density, *settings))
    draws, lp, log_q, weights, elbo, steps = jax.device_get(run(thetas, keys, posterior.data))
    good = np.isfinite(elbo)
    if not good.any() or not np.isfinite(weights).all():
        raise ValueError(
            f'None of the {num_paths} paths found a Gaussian at whose draws the log density is finite. Start elsewhere '
            "(init='prior', 'map', or set the model's parameters), or use infer.nuts."
        )
    draws = draws.reshape(1, -1, density.size).astype(density.dtype)
    lp, log_q = lp.reshape(1, -1), log_q.reshape(1, -1)
    weights = weights.reshape(1, -1)
    kept = weights[0] > 0  # what is not finite has no weight
    stats = {'lp': lp[:, kept], 'log_q': log_q[:, kept]}
    draws, weights = draws[:, kept], weights[:, kept]
    k_hat = pareto_k((stats['lp'] - stats['log_q'])[0])
    ess = float(1 / np.sum(weights.astype(np.float64) ** 2))
    problems = rounding_problems(density, draws, stats)
    limit = k_hat_limit(num_draws)
    if not k_hat < limit:
        problems.append(
            f'k-hat of the importance weights is {k_hat:.2f} (above {limit:.2f}): the paths do not see the posterior '
            f'as it is, and {draws.shape[1]} draws are worth {ess:.0f}. Use them as starts: '
            'infer.nuts(posterior, init=fit).'
        )
    info = {
        'num_paths': num_paths,
        'max_steps': max_steps,
        'num_steps': [int(n) for n in steps],
        'elbo': [float(x) for x in elbo],
        'k_hat': k_hat,
        'ess': ess,
        'noncentered': list(density.noncentered),
        'warnings': problems,
        'seconds': time.perf_counter() - began,
    }
    fit = Fit(posterior, density, draws, method='pathfinder', stats=stats, info=info, weights=weights)
    warn_of(problems, stacklevel=3)
    return fit


def pathfinder_starts(posterior: Posterior, density: Density, keys: jax.Array) -> jax.Array:
    """A draw of a path for each key, (num, size): where chains start with ``init='pathfinder'``."""
    centre = posterior.start(density)
    around = jax.vmap(lambda key: jax.random.uniform(key, centre.shape, centre.dtype, -1.0, 1.0))
    settings = (_FEWEST_DRAWS, 100, _FEWEST_DRAWS)
    run = density.jit('pathfinder_paths', settings, lambda: _paths(density, *settings))
    draws, lp = run(centre + around(keys), keys, posterior.data)[:2]
    return jnp.where(jnp.isfinite(lp[:, :1]), draws[:, 0], centre).astype(centre.dtype)


def _paths(density: Density, num_draws: int, max_steps: int, num_elbo_draws: int) -> Callable:
    vi = import_blackjax().vi.pathfinder
    from blackjax.diagnostics import psis_weights

    def run(thetas: jax.Array, keys: jax.Array, data: Data) -> tuple:
        potential = potential_of(density, data)

        def one(path: tuple) -> tuple:
            theta, key = path
            path_key, elbo_key, draw_key = jax.random.split(key, 3)
            # Its own choice is not used, see `_uphill`: one draw is enough to tell which steps there are.
            _, told = vi.approximate(
                path_key, lambda x: -potential(x), theta, num_samples=1, maxiter=max_steps, ftol=_TOLERANCE
            )
            steps = told.path._replace(grad_position=told.path.grad_position * _uphill(vi, told.path))

            def elbo_of(step: Any, key: jax.Array) -> jax.Array:
                draws, log_q = vi.sample(key, step, num_elbo_draws)
                return jnp.mean(-jax.vmap(potential)(draws) - log_q)

            elbo = jax.vmap(elbo_of)(steps, jax.random.split(elbo_key, max_steps + 1))
            there = jnp.isfinite(told.path.elbo)
            elbo = jnp.where(there & jnp.isfinite(elbo), elbo, -jnp.inf)
            found = jax.tree.map(lambda x: x[jnp.argmax(elbo)], steps._replace(elbo=elbo))
            draws, log_q = vi.sample(draw_key, found, num_draws)
            lp = -jax.vmap(potential)(draws)
            good = jnp.isfinite(lp) & jnp.isfinite(log_q) & jnp.isfinite(found.elbo)
            return draws, lp, log_q, good, found, jnp.sum(there)

        draws, lp, log_q, good, found, steps = lax.map(one, (thetas, keys))
        if density.size <= _MOST_MIXED:
            log_q = _mixture(vi, found, draws)
        # Far below the others rather than -inf, of which differences would be NaN.
        ratios = jnp.where(good, lp - log_q, -jnp.inf)
        ratios = jnp.where(good, ratios, jnp.max(ratios) - 1e4)
        log_weights, _ = psis_weights(ratios.ravel())
        weights = jnp.where(good.ravel(), jnp.exp(log_weights), 0.0)
        return draws, lp, log_q, weights / jnp.sum(weights), found.elbo, steps

    return run


def _uphill(vi: Any, steps: Any) -> jax.Array:
    """What turns a step's gradient, that of minus the log density, into the one that BlackJAX's draws go along.

    The Gaussian's mean is a Newton step uphill from the path. BlackJAX 1.7 steps along the gradient as it keeps it,
    which is downhill. So one is drawn to see: flat, with a gradient so large that the draw shows the side.
    """
    flat = jax.tree.map(lambda x: jnp.zeros_like(x[0]), steps)
    flat = flat._replace(alpha=jnp.ones_like(flat.alpha), grad_position=jnp.full_like(flat.grad_position, 1e4))
    return jnp.where(jnp.mean(vi.sample(jax.random.key(0), flat, 1)[0]) > 0, -1.0, 1.0).astype(flat.alpha.dtype)


def _mixture(vi: Any, found: Any, draws: jax.Array) -> jax.Array:
    """The log density of the mixture of the paths' Gaussians at draws (paths, draws, size)."""
    along = -_uphill(vi, found)

    def one(path: Any) -> jax.Array:
        covariance = jnp.diag(path.alpha) + path.beta @ path.gamma @ path.beta.T
        mean = path.position + along * (covariance @ path.grad_position)
        log_q = multivariate_normal.logpdf(draws, mean, covariance)
        return jnp.where(jnp.isfinite(path.elbo) & jnp.isfinite(log_q), log_q, -jnp.inf)

    each = lax.map(one, found)
    return logsumexp(each, axis=0) - jnp.log(jnp.sum(jnp.isfinite(found.elbo)))
