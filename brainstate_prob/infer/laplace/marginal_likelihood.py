"""Tuning on Laplace's marginal likelihood: prior scales and noise levels by empirical Bayes."""

from __future__ import annotations

import copy
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from brainstate_prob.core.calls import named
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.density.log_density import Density, find_entries
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.diagnostics.mcmc import warn_of
from brainstate_prob.infer.laplace.curvature import curvature_of
from brainstate_prob.infer.laplace.fit import LaplaceFit, make_fit
from brainstate_prob.infer.laplace.gaussians import Diagonal, NotPositiveDefinite
from brainstate_prob.infer.laplace.laplace import (
    CURVATURES,
    checked_options,
    descend,
    information_of,
    mode_tolerance,
    not_positive,
)
from brainstate_prob.infer.laplace.newton import Point, newton, value_and_grad
from brainstate_prob.infer.laplace.selection import columns_matching
from brainstate_prob.infer.laplace.structures import full_from, refuse_large
from brainstate_prob.infer.rules import choice
from brainstate_prob.infer.run.progress import Chunks
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.running_statistics import settled
from brainstate_prob.infer.target.start import checked_start
from brainstate_prob.infer.target.target import Target

__all__ = ['marginal_likelihood']

_INNER_STEPS = 20
_NEAR = 0.01  # standard deviations from the mode by direction
_FAR_BELOW = 1e6  # the search's value, relative to the best one, where there is no Gaussian
_STEEP = 0.05  # the slope of the log evidence in theta above which the search has not converged


@named
def marginal_likelihood(
    posterior: Posterior,
    *,
    params: Any = None,
    structure: Literal['full', 'diagonal'] = 'full',
    curvature: Literal['hessian', 'ggn'] | None = None,
    num_steps: int = 100,
    num_draws: int = 1000,
    seed: Any = 0,
    progress: bool = True,
) -> LaplaceFit:
    """Choose hyper-parameters by the marginal likelihood of the data, and approximate the posterior of the others.

    The tuned Params maximize log p(targets | tuned), with the other Params integrated out by Laplace's approximation
    around their mode, plus the log prior of the tuned values if they have one (empirical Bayes, type-II maximum
    likelihood). The gradient is exact: it includes the dependence of the mode and the curvature on the tuned Params.

    Parameters
    ----------
    params
        Which to tune besides the hyper-parameters of priors (``fit_hyper=True``, or Params given as such): the noise,
        say, as ``'sigma'``. A filter as in `laplace`.
    structure, curvature
        Of the precision: see `laplace`.
    num_steps
        The most steps of the search (BFGS).
    num_draws, seed, progress
        As for `laplace`.

    Returns
    -------
    LaplaceFit
        That of the other Params, with the tuned ones fixed at their best values, which ``fit.mode`` shows.
        ``fit.history['log_marginal_likelihood']`` has the steps.

    Raises
    ------
    ValueError
        Where there is nothing to tune or nothing left to integrate, or the curvature is not positive definite at the
        start.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Means(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(jnp.zeros(4), reg=nn.GaussianReg(0.0, std=1.0, fit_hyper=True))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Means(), targets=jnp.array([3.0, -2.0, 4.0, -1.0]))
    >>> fit = infer.marginal_likelihood(posterior, progress=False)
    >>> {path: round(float(value), 2) for path, value in fit.mode.items() if path != 'mu'}
    {'mu.reg.mean': 1.0, 'mu.reg.std': 2.35}
    """
    check_options(
        marginal_likelihood,
        locals(),
        structure=choice('full', 'diagonal'),
        curvature=choice(*CURVATURES, none=True),
    )
    kind = checked_options(posterior, structure, curvature)
    target = posterior.sampling_target(True)  # centred densities have no mode
    density, tuned = target.density, _tuned(target, params)
    inner = np.setdiff1d(np.arange(density.size), tuned)
    if not len(inner):
        raise ValueError('All Params are tuned: there is nothing left to integrate. Use infer.map for them.')
    refuse_large(len(inner))
    began = time.perf_counter()
    evidence = _Evidence(target, structure, kind, tuned, inner)
    start = np.asarray(checked_start(target))
    evidence.move(start)  # raises on failure; within the search a failure only shortens the step
    evidence, history, interrupted = _search(evidence, start[tuned], num_steps, progress)
    slope = float(np.max(np.abs(evidence.gradient())))
    notes = interrupted + list(evidence.notes)
    if slope > _STEEP:
        notes.append(
            f'The search of {len(history) - 1} steps ended where the log marginal likelihood still has the slope '
            f'{slope:.2g} by theta of the tuned Params. Take more steps (num_steps), start elsewhere, or give them '
            'priors: the best value may lie at infinity.'
        )
    names = [name for name, c in columns_of(density).items() if np.isin(c, tuned).any()]
    info = {
        'structure': structure,
        'curvature': kind,
        'information': information_of(evidence.programs),
        'distance': evidence.point.distance,
        'tuned': names,
        'num_steps': len(history) - 1,
        'slope': slope,
        'warnings': notes,
        'seconds': time.perf_counter() - began,
    }
    warn_of(notes)
    theta = evidence.point.theta
    fit = make_fit(
        target,
        evidence.programs,
        theta,
        evidence.point.value,
        evidence.gaussian,
        num_draws,
        seed,
        info,
        method='marginal_likelihood',
        history={'log_marginal_likelihood': history},
    )
    return settled(fit)


def _tuned(target: Target, params: Any) -> np.ndarray:
    """The columns of hyper-parameters, and of the Params that match ``params``."""
    entries = find_entries(target.posterior.model)
    in_priors = {state for e in entries if e.reg is not None for state in find_states(e.reg).values()}
    columns = columns_of(target.density)
    chosen = [columns[e.name] for e in entries if e.state in in_priors]
    if params is not None:
        chosen.append(columns_matching(target, params))
    if not chosen:
        raise ValueError(
            'There is nothing to tune: no prior has a hyper-parameter that is fitted. Use fit_hyper=True in a prior, '
            "give a Param as its hyper-parameter, or name other Params, such as the noise: params='sigma'."
        )
    return np.unique(np.concatenate(chosen))


def _search(
    evidence: _Evidence, start: np.ndarray, num_steps: int, progress: bool
) -> tuple[_Evidence, np.ndarray, list[str]]:
    """The best evidence, the log evidence at each step, and whether Ctrl-C ended the search."""
    chunks = Chunks(num_steps, 1, 'marginal likelihood', progress)
    steps = iter(chunks)
    next(steps, None)
    history = [evidence.value]
    best = evidence

    def loss(part: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        tried = copy.copy(best)  # from its own mode, not from that of a rejected step
        try:
            tried.move(tried.with_tuned(part))
            gradient = tried.gradient()
        except (ValueError, np.linalg.LinAlgError):
            tried.value, gradient = -np.inf, np.zeros_like(part)
        if not (np.isfinite(tried.value) and np.isfinite(gradient).all()):
            return _FAR_BELOW * (1 + abs(best.value)), np.zeros_like(part)
        if tried.value >= best.value:
            best = tried
        return -tried.value, -gradient

    def note(_: np.ndarray) -> None:
        history.append(best.value)
        if chunks.asked:
            raise KeyboardInterrupt
        chunks.note(log_marginal_likelihood=f'{best.value:.6g}')
        next(steps, None)

    tol = 1e-6 if evidence.density.dtype == jnp.float64 else 1e-3
    with chunks:
        optimize.minimize(
            loss,
            start.astype(np.float64),
            jac=True,
            method='BFGS',
            callback=note,
            options={'maxiter': num_steps, 'gtol': tol},
        )
    getattr(steps, 'close', lambda: None)()
    done = len(history) - 1
    notes = []
    if chunks.interrupted:
        notes = [
            f'The search was interrupted after {done} of at most {num_steps} steps: the fit is of the best so far.'
        ]
    return best, np.asarray(history), notes


class _Evidence:
    """The log marginal likelihood at values of the tuned Params, plus their log prior, and its gradient."""

    def __init__(self, target: Target, structure: str, kind: str, tuned: np.ndarray, inner: np.ndarray):
        density = target.density
        self.target, self.density, self.structure = target, density, structure
        self.tuned, self.inner = tuned, inner
        self.programs = curvature_of(density, inner, kind)
        self.hessian = curvature_of(density, inner, 'hessian')
        self.whole = curvature_of(density, np.arange(density.size), 'hessian')
        self.names = [name for name, c in columns_of(density).items() if np.isin(c, tuned).any()]
        self.point: Point = None  # type: ignore[assignment]  # the attributes below are set by `move`
        self.gaussian: Any = None
        self.value = -np.inf
        self.notes: list[str] = []

    def with_tuned(self, part: np.ndarray) -> np.ndarray:
        """The last theta with new tuned values, the starting point for the mode search."""
        theta = self.point.theta.copy()
        theta[self.tuned] = part
        return theta

    def move(self, theta: np.ndarray) -> None:
        """Find the mode of the other Params, and the Gaussian and the evidence there.

        Raises
        ------
        ValueError
            Where the curvature is not positive definite; the point then stays where it was.
        """
        data = self.target.data
        tol = mode_tolerance(self.density)
        point = newton(self.programs, theta, data, num_steps=_INNER_STEPS, tol=tol)
        if point.distance > _NEAR * np.sqrt(len(self.inner)):  # far away, where a descent is faster than Newton
            theta = descend(self.programs, self.target, point.theta)
            point = newton(self.programs, theta, data, num_steps=_INNER_STEPS, tol=tol)
        try:
            self.full, notes = full_from(point.matrices, self.programs)
        except NotPositiveDefinite as error:
            raise not_positive(error, self.programs) from None
        gaussian: Any = self.full
        if self.structure == 'diagonal':
            gaussian = Diagonal.of(np.diag(point.matrices[0]) + np.diag(point.matrices[1]))
        log_det, self._log_det_slope = self.density.compiled(_log_det_of, names=self.names)(point.theta, data.states)
        half = gaussian.size / 2 * np.log(2 * np.pi) - gaussian.log_det / 2
        self.point, self.gaussian, self.notes = point, gaussian, notes
        self.value = point.value - float(log_det) + half

    def gradient(self) -> np.ndarray:
        """The gradient in the tuned part of theta at the last point."""
        theta, data = self.point.theta, self.target.data
        slope = value_and_grad(self.density, theta, data)[1] - np.asarray(self._log_det_slope, np.float64)
        roots = self.gaussian.spread(np.eye(self.gaussian.size))
        half = np.asarray(self.programs.log_det_gradient(roots, theta, data), np.float64)
        total = slope[self.tuned] - half[self.tuned]
        if np.abs(half[self.inner]).max() > 0:  # the total derivative includes the change of mode and curvature
            turned = np.zeros(self.density.size)
            turned[self.inner] = self._mode_solve(half[self.inner])
            products = self.whole.times(turned[None].astype(self.density.dtype), theta, data)[0]
            total += np.asarray(products, np.float64)[self.tuned]
        return total

    def _mode_solve(self, gradient: np.ndarray) -> np.ndarray:
        """The inverse Hessian of the other Params times a vector: how their mode moves."""
        if self.programs.kind == 'ggn':
            try:
                matrices = self.hessian.matrices(self.point.theta, self.target.data)
                return full_from(matrices, self.hessian)[0].solve(gradient)
            except NotPositiveDefinite:
                pass
        return self.full.solve(gradient)


def _log_det_of(density: Density, theta: jax.Array, states: tuple, *, names: list[str]) -> tuple[jax.Array, jax.Array]:
    """The sum of some parameters' log-determinants, and its gradient in theta."""

    def total(theta: jax.Array) -> jax.Array:
        terms = density.log_dets(theta, states)
        return sum((terms[name] for name in names), start=jnp.zeros((), theta.dtype))

    return jax.value_and_grad(total)(theta)
