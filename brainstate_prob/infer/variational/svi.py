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
from brainstate_prob.infer.density.noncentered import described
from brainstate_prob.infer.descent.map import batch_info, check_first_batch
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.prior_conflict import warned
from brainstate_prob.infer.diagnostics.psis import k_hat, k_hat_problem
from brainstate_prob.infer.diagnostics.safely import never_raises
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import optax_optimizer
from brainstate_prob.infer.run.checkpoint import Checkpoint, interruption, nothing_yet
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.progress import Chunks
from brainstate_prob.infer.run.starts import centres
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.minibatch import stream_of
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import checked_start, to_key
from brainstate_prob.infer.target.stream import Stream
from brainstate_prob.infer.variational.elbo_programs import CHUNK, Carry, Programs, Settings, drawn
from brainstate_prob.infer.variational.guides import check_guide

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
        rest from the model; or an array of theta.
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
    stream = stream_of(posterior, batch_size, batches, num_observations)
    posterior = started_from(posterior, init)
    example = None if stream is None else stream.stand_in()
    target = posterior.sampling_target(False if sites else noncentered, example)
    density = target.density
    family = check_guide(guide, init_scale, density, batch_size is not None or stream is not None, sites)
    settings = Settings(family, sites, optimizer, int(num_particles), batch_size, r_hat is not None)
    programs = Programs(density, settings, stream is not None, posterior.num_observations)
    began = time.perf_counter()
    start_key, key, draw_key = jax.random.split(to_key(seed), 3)
    falls = optimizer is None and r_hat is None
    ckpt = Checkpoint(
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
    with ckpt:
        theta = target.start
        if not ckpt.exists:
            theta = checked_start(target, centres(target, init, start_key[None])[1][0])
            check_first_batch(density, theta, stream)
        data = posterior.data if stream is None else stream.stand_in()
        used = {'optimizer': optimizer, 'num_particles': num_particles, 'init': init}
        run = _Run(programs, data, theta, key, int(num_steps), r_hat, stream, used)
        run.go(ckpt, progress)
    params = run.params()
    thetas, stats = drawn(programs, params, run.given, draw_key, num_draws)
    elbo = -run.losses
    info = {
        'guide': guide if isinstance(guide, str) else getattr(guide, '__name__', type(guide).__name__),
        'num_steps': len(elbo),
        'num_particles': num_particles,
        'stopped': run.stopped or 'num_steps',
        'elbo': float(np.mean(elbo[-100:])),
        'noncentered': described(density),
        **({'batch_size': None} | batch_info(posterior, batch_size, stream)),
        **({} if r_hat is None else {'r_hat': run.r_hat_now, 'converged': run.stopped == 'converged'}),
    }
    fit = Fit(target, thetas, method='svi', stats=stats, history={'elbo': elbo}, info=info)
    fit.guide_params = jax.tree.map(np.asarray, params)
    judged = fit
    if num_draws < 100 and 'log_q' in stats:  # too few for k-hat
        more, of_more = drawn(programs, params, run.given, draw_key, 200)
        judged = Fit(target, more, method='svi', stats=of_more, info=info)
    fit.info |= {'warnings': _judge(fit, judged, run), 'seconds': time.perf_counter() - began}
    return warned(fit)


@never_raises('The diagnostics of the guide')
def _judge(fit: Fit, judged: Fit, run: _Run) -> list[str]:
    """Add k-hat, by the draws of ``judged``, to ``fit.info``; what is wrong, in words."""
    problems = list(run.notes)
    if run.r_hat is not None and run.stopped not in ('converged', 'interrupted'):
        problems.append(
            f"SVI stopped after {fit.info['num_steps']} steps before it converged: R-hat of the guide's parameters is "
            f'{run.r_hat_now:.3g}, and {run.r_hat:g} was asked for. {advice("few_steps", "svi", fit.info)}'
        )
    if {'lp', 'log_q'} <= set(judged.stats) and judged.num_draws >= 100:
        fit.info['k_hat'] = k_hat(judged)
        problem = k_hat_problem(fit.info['k_hat'], judged.num_draws, fit.info)
        problems += [problem] if problem else []
    return problems


class _Run:
    """The host's loop over chunks of steps."""

    def __init__(
        self,
        programs: Programs,
        data: Any,
        theta: jax.Array,
        key: jax.Array,
        num_steps: int,
        r_hat: float | None,
        stream: Stream | None,
        used: dict[str, Any],
    ):
        self._used = used
        self._programs, self._num_steps, self._stream, self.r_hat = programs, num_steps, stream, r_hat
        self.given = data, theta, float(num_steps)
        self._carry: Carry = programs.start(key, *self.given)
        self._pieces: list[np.ndarray] = []
        self._windows: list[tuple[np.ndarray, np.ndarray]] = []  # mean and sum of squares of each
        self.stopped = ''
        self.notes: list[str] = []

    @property
    def losses(self) -> np.ndarray:
        """Minus the ELBO of each step."""
        return np.concatenate(self._pieces)

    @property
    def r_hat_now(self) -> float:
        """The largest R-hat of the guide's parameters over the last half of the run."""
        return _r_hat(self._windows)[0]

    def go(self, ckpt: Checkpoint, progress: bool) -> None:
        """Take the steps that are still to do."""
        self._resume(ckpt)
        stops = tuple(x for x in (ckpt.every, CHUNK if self.r_hat is not None else None) if x is not None)
        total = ckpt.step if self.stopped else self._num_steps
        chunks = Chunks(total, CHUNK, 'SVI', progress, done=ckpt.step, every=stops)
        with chunks:
            for length in chunks:
                done = self._advance(length)
                self._check(done)
                if done:
                    chunks.note(elbo=f'{-np.mean(self._pieces[-1]):.6g}')
                if self.r_hat is not None and (ckpt.step + done) % CHUNK == 0 and done:
                    self._look()
                if ckpt.due(ckpt.step + done) and not self.stopped:
                    ckpt.save(*self._held())
                if self.stopped:
                    break
        if chunks.interrupted and not self._pieces:
            raise nothing_yet('before the first steps were done', ckpt)
        if not self._pieces:
            raise ValueError('batches gave no batch: there is nothing to fit.')
        if chunks.whole:
            ckpt.finish(*self._held())
        if chunks.interrupted and not self.stopped and len(self.losses) < self._num_steps:
            self.stopped = 'interrupted'
            self.notes.append(interruption(f'{len(self.losses)} of {self._num_steps} steps', ckpt))

    def params(self) -> dict:
        """The guide's parameters: the last ones, or their mean over the last half of the run."""
        mean = None if self.r_hat is None else _r_hat(self._windows)[1]
        window: Any = self._carry.window
        average = None if mean is None else jnp.asarray(mean, window.mean.dtype)
        return self._programs.params(self._carry, average, *self.given)

    def _resume(self, ckpt: Checkpoint) -> None:
        saved = ckpt.load((self.given[1], self._carry), total=self._num_steps)
        if saved is None:
            return
        theta, self._carry = saved.state
        self.given = self.given[0], theta, self.given[2]
        self._pieces = [saved.arrays['losses']]
        if self.r_hat is not None:
            self._windows = list(zip(saved.arrays['means'], saved.arrays['squares'], strict=True))
        self.stopped = saved.extra['stopped']
        if self._stream is not None:
            self._stream.skip(saved.step)

    def _held(self) -> tuple:
        """What a checkpoint has: the state, what grows, and whether it is the end."""
        arrays = {'losses': self.losses}
        if self.r_hat is not None:
            size = self._carry.window.mean.size  # type: ignore[union-attr]
            arrays['means'] = np.array([w[0] for w in self._windows]).reshape(-1, size)
            arrays['squares'] = np.array([w[1] for w in self._windows]).reshape(-1, size)
        return (self.given[1], self._carry), arrays, {'stopped': self.stopped}

    def _advance(self, length: int) -> int:
        """Take ``length`` steps; how many were done."""
        data, *rest = self.given
        if self._stream is None:
            self._carry, found = self._programs.advance(self._carry, length, data, *rest)
            self._pieces.append(np.asarray(found)[:length])
            return length
        losses = []
        for _ in range(length):
            try:
                data = next(self._stream)
            except StopIteration:
                self.stopped = 'the batches ended'
                break
            self._carry, found = self._programs.advance(self._carry, 1, data, *rest)
            losses.append(found[0])
        if losses:
            self._pieces.append(np.asarray(jax.device_get(losses)))
        return len(losses)

    def _check(self, done: int) -> None:
        if done and not np.isfinite(self._pieces[-1]).all():
            losses = self.losses
            step = int(np.argmin(np.isfinite(losses)))
            raise ValueError(
                f'The ELBO became {-losses[step]} at step {step}. {advice("not_finite", "svi", self._used)}'
            )

    def _look(self) -> None:
        """Keep the window that has ended, and stop if nothing drifts."""
        window: Any = self._carry.window
        self._windows.append((np.asarray(window.mean), np.asarray(window.squares)))
        if self.r_hat is not None and self.r_hat_now < self.r_hat:
            self.stopped = 'converged'


def _r_hat(windows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, np.ndarray | None]:
    """The largest R-hat of numbers between the two last quarters of a run, and their means over both."""
    half = len(windows) // 4
    if not half:
        return np.inf, None
    quarters = windows[-2 * half : -half], windows[-half:]
    means = np.array([np.mean([m for m, _ in q], axis=0, dtype=np.float64) for q in quarters])
    length = half * CHUNK
    within = np.mean(
        [
            sum(s + CHUNK * (m - centre) ** 2 for m, s in q) / (length - 1)
            for q, centre in zip(quarters, means, strict=True)
        ],
        axis=0,
    )
    between = means.var(axis=0, ddof=1)
    still = (within == 0) & (between == 0)  # parameters that do not move
    with np.errstate(divide='ignore', invalid='ignore'):
        ratio = np.where(still, 1.0, (length - 1) / length + between / within)
    return float(np.sqrt(ratio.max())), means.mean(axis=0)
