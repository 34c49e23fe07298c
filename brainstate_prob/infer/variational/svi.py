"""Stochastic variational inference: the best guide of a family, by NumPyro's SVI on the flat log density."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.noncentered import described
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.prior_conflict import issue_warnings
from brainstate_prob.infer.diagnostics.psis import k_hat, k_hat_problem
from brainstate_prob.infer.diagnostics.safely import never_raises
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import optax_optimizer
from brainstate_prob.infer.run.checkpoint import Checkpoint
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.optimization import Optimization
from brainstate_prob.infer.run.starts import start_points
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.minibatch import Batching
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import checked_start, to_key
from brainstate_prob.infer.variational.elbo_programs import Carry, Programs, Settings, drawn
from brainstate_prob.infer.variational.guides import check_guide
from brainstate_prob.infer.variational.stationarity import Stationarity

__all__ = ['svi']


@named
def svi(
    posterior: Posterior,
    *,
    guide: Any = 'diagonal',
    sites: bool = False,
    num_steps: int = 5000,
    optimizer: optax.GradientTransformation | None = None,
    r_hat: float | None = None,
    num_particles: int = 1,
    batch_size: int | None = None,
    batches: Iterable | None = None,
    num_observations: int | None = None,
    num_draws: int = 1000,
    noncentered: Any = 'auto',
    init: Any = 'model',
    init_scale: float | None = None,
    seed: Any = 0,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Fit a guide to the posterior by maximizing the evidence lower bound (ELBO).

    The guide is a distribution of theta, the unconstrained parameters. It begins around the model's present parameters
    with standard deviation 0.1. Where the posterior is much narrower than that, or the likelihood at the start is far
    from its maximum, it needs many steps: begin at the mode and narrower (``init='map', init_scale=0.001``).

    Parameters
    ----------
    guide
        ``'diagonal'`` (independent normals), ``'full'`` (a multivariate normal), ``'low_rank'``,
        ``'batched_full'`` and ``'batched_low_rank'`` (a normal for each entry of the first axis, which all
        parameters must share), ``'laplace'`` (mode and curvature there), ``'delta'`` (the mode of theta's density),
        ``'iaf'`` and ``'bnaf'`` (normalizing flows), ``'dais'`` (annealed importance sampling); a NumPyro autoguide
        class; or a function of the NumPyro model ``model(data)``, whose one site is ``'theta'``, that returns an
        autoguide or a guide function; or a guide function itself, ``guide(data)``, that samples ``'theta'``.
    sites
        True for a guide of one's own over sites named by the parameters' paths, as `to_numpyro` writes them: a
        function of that NumPyro model, a class, or an autoguide that was built for ``infer.to_numpyro(model)``. A guide
        function is called as the model is: ``guide(*inputs, targets=...)``.
    num_steps
        Steps of the optimizer; the most, with ``r_hat``. They run fused, many to a compiled call.
    optimizer
        An optax optimizer; default: Adam with a learning rate that falls from 0.01 to 0 along a half cosine. One that
        stays constant leaves the guide's parameters with its noise.
    r_hat
        Stop by itself: when the guide's parameters no longer drift, so that R-hat between the two quarters of the run
        that came last is below this (1.1, say) for each of them. The result is their mean over these steps (Dhaka et
        al. 2020). The learning rate should then be constant; default: Adam with 0.01.
    num_particles
        Draws from the guide a step.
    batch_size
        See this many observations a step, in a new random order each pass; their log-likelihood counts N/B times.
    batches, num_observations
        In place of it: an iterable of pairs ``(inputs, targets)``, one a step, of any sizes, and the number N of all
        observations; see `infer.map`.
    num_draws
        Draws from the fitted guide (one for ``'delta'``).
    noncentered
        Which hierarchical parameters the guide sees in standardized form, as for `nuts`; of ``batches=`` the first is
        what ``'auto'`` chooses by.
    init
        ``'model'``: the model's present theta; ``'map'``: the mode of theta's density; ``'pathfinder'``: a draw of
        BlackJAX's Pathfinder; ``'prior'``: a draw from the priors; a `Fit`: a draw of it; values by path, the
        rest from the model; an array of theta; a function that builds the model anew.
    init_scale
        The standard deviation of theta that a guide by name begins with; default 0.1.
    seed
        An int or a key.
    checkpoint, checkpoint_every
        Save to this file every so many steps (default: every 30 seconds), and go on from it if it exists: the numbers
        are those of an uninterrupted run. ``batches`` must then give the same again. More ``num_steps`` go on from the
        end, if the learning rate does not depend on them (with ``optimizer`` or ``r_hat``).
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        One chain of independent draws. ``fit.history['elbo']`` has the estimate of each step, ``fit.info['elbo']`` the
        mean of the last ones, ``fit.guide_params`` the guide's parameters; ``fit.stats`` the log density ``lp`` of
        theta (for full data) and that of the guide, ``log_q``, of each draw. ``fit.info['k_hat']`` says how far the
        guide is from the posterior (see `k_hat`); above 0.7 it is a `ConvergenceWarning`.

    Raises
    ------
    ValueError
        For parameters that guides cannot move, an unknown guide, a start or an ELBO that is not finite, ``batches``
        without ``num_observations``, minibatches of rows that depend on each other, a checkpoint of another run.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist, optax
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> fit = infer.svi(posterior, optimizer=optax.adam(0.01), num_steps=2000, progress=False)
    >>> bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.1)
    True
    """
    check_options(svi, locals(), optimizer=optax_optimizer())
    if sites and isinstance(guide, str):
        raise ValueError(f'sites=True is for a guide of your own; guide={guide!r} is one of theta. Drop sites=True.')
    posterior = started_from(posterior, init)
    batching = Batching(posterior, batch_size, batches, num_observations)
    example = None if batching.stream is None else batching.example
    target = posterior.sampling_target(False if sites else noncentered, example)
    density = target.density
    family = check_guide(guide, init_scale, density, batching.in_parts, sites)
    settings = Settings(family, sites, optimizer, int(num_particles), batch_size, r_hat is not None)
    programs = Programs(density, settings, batching.stream is not None, batching.num_observations)
    began = time.perf_counter()
    start_key, key, draw_key = jax.random.split(to_key(seed), 3)
    falls = optimizer is None and r_hat is None
    saving = Checkpoint(
        checkpoint,
        checkpoint_every,
        lambda: fingerprint_of(
            target,
            'svi',
            guide=guide,
            sites=sites,
            optimizer=optimizer,
            r_hat=r_hat,
            num_particles=int(num_particles),
            batch_size=batch_size,
            num_observations=num_observations,
            init=init,
            init_scale=init_scale,
            seed=to_key(seed),
            **({'num_steps (by which the default learning rate falls)': int(num_steps)} if falls else {}),
        ),
    )
    theta = target.start
    if not saving.exists:
        theta = checked_start(target, start_points(target, init, start_key[None])[1][0])
        batching.check(density, theta)
    used = {'optimizer': optimizer, 'num_particles': num_particles, 'init': init}
    approximation = _Guide(programs, batching.example, theta, key, int(num_steps), used)
    rule = None if r_hat is None else Stationarity(r_hat)
    run = Optimization(approximation, batching, 1, int(num_steps), rule=rule, label='SVI', progress=progress)
    run.run(saving)
    params = approximation.params(None if rule is None else rule.mean)
    thetas, stats = drawn(programs, params, approximation.given, draw_key, num_draws)
    elbo = -run.losses[0]
    info = {
        'guide': guide if isinstance(guide, str) else getattr(guide, '__name__', type(guide).__name__),
        'num_steps': len(elbo),
        'num_particles': num_particles,
        'stopped': run.stopped or 'num_steps',
        'elbo': float(np.mean(elbo[-100:])),
        'noncentered': described(density),
        **({'batch_size': None} | batching.info()),
        **({} if rule is None else {'r_hat': rule.r_hat, 'converged': run.stopped == 'converged'}),
    }
    fit = Fit(target, thetas, method='svi', stats=stats, history={'elbo': elbo}, info=info)
    fit.guide_params = jax.tree.map(np.asarray, params)
    assessed = fit
    if num_draws < 100 and 'log_q' in stats:  # too few draws for k-hat
        more, more_stats = drawn(programs, params, approximation.given, draw_key, 200)
        assessed = Fit(target, more, method='svi', stats=more_stats, info=info)
    fit.info |= {'warnings': _diagnose(fit, assessed, run.notes, r_hat), 'seconds': time.perf_counter() - began}
    return issue_warnings(fit)


@never_raises('The diagnostics of the guide')
def _diagnose(fit: Fit, assessed: Fit, notes: list[str], r_hat: float | None) -> list[str]:
    """Add k-hat from the draws of ``assessed`` to ``fit.info``; return messages about problems."""
    problems = list(notes)
    if r_hat is not None and fit.info['stopped'] not in ('converged', 'interrupted'):
        problems.append(
            f"SVI stopped after {fit.info['num_steps']} steps before it converged: R-hat of the guide's parameters is "
            f'{fit.info["r_hat"]:.3g}, and {r_hat:g} was asked for. {advice("few_steps", "svi", fit.info)}'
        )
    if {'lp', 'log_q'} <= set(assessed.stats) and assessed.num_draws >= 100:
        fit.info['k_hat'] = k_hat(assessed)
        problem = k_hat_problem(fit.info['k_hat'], assessed.num_draws, fit.info)
        problems += [problem] if problem else []
    return problems


class _Guide:
    """The guide's parameters, which SVI optimizes."""

    def __init__(self, programs: Programs, data: Data, theta: jax.Array, key: jax.Array, num_steps: int, used: dict):
        self._programs, self._used = programs, used
        self.given = data, theta, float(num_steps)
        self._carry: Carry = programs.start(key, *self.given)

    def state(self) -> tuple[jax.Array, Carry]:
        return self.given[1], self._carry

    def take(self, state: tuple[jax.Array, Carry]) -> None:
        theta, self._carry = state
        self.given = self.given[0], theta, self.given[2]

    def step(self, data: Data, length: int) -> tuple[jax.Array, np.ndarray]:
        self._carry, losses = self._programs.advance(self._carry, length, data, *self.given[1:])
        return losses, np.array([length])

    def shown(self, losses: np.ndarray) -> dict[str, str]:
        return {'elbo': f'{-np.mean(losses):.6g}'}

    def failure(self, point: int, step: int, loss: Any) -> str:
        return f'The ELBO became {-loss} at step {step}. {advice("not_finite", "svi", self._used)}'

    def params(self, mean: np.ndarray | None) -> dict:
        """The guide's parameters: the last ones, or ``mean``."""
        average = None if mean is None else jnp.asarray(mean, self._carry.window.mean.dtype)  # type: ignore[union-attr]
        return self._programs.params(self._carry, average, *self.given)
