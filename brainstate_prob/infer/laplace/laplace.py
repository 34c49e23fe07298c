"""Laplace's approximation: a Gaussian of theta centred at the mode, with the inverse curvature as covariance."""

from __future__ import annotations

import time
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from brainstate_prob.core.calls import named
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noncentered import described
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.density.wider import base_of
from brainstate_prob.infer.descent.map import map as fit_map
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.mcmc import ConvergenceWarning
from brainstate_prob.infer.diagnostics.prior_conflict import issue_warnings
from brainstate_prob.infer.laplace.curvature import Curvature, curvature_of
from brainstate_prob.infer.laplace.fit import LaplaceFit, make_fit, refuse_own_density
from brainstate_prob.infer.laplace.gaussians import NotPositiveDefinite
from brainstate_prob.infer.laplace.newton import newton, value_and_grad
from brainstate_prob.infer.laplace.selection import columns_matching
from brainstate_prob.infer.laplace.structures import STRUCTURES, describe, refuse_large, tolerance_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import choice
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.progress import nested_fit
from brainstate_prob.infer.run.starts import member_starts
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import checked_start, to_key
from brainstate_prob.infer.target.target import Target

__all__ = ['CURVATURES', 'checked_options', 'descend', 'laplace']

CURVATURES = ('hessian', 'ggn')

_NEWTON_STEPS = 30
_FEW, _MANY = 100, 1000  # up to this size Newton's method is cheap and needs no preliminary descent
_FAR = 0.1  # standard deviations by direction: beyond it the Gaussian is visibly off the mode

CURVATURES = ('hessian', 'ggn')


@named
def laplace(
    posterior: Posterior,
    *,
    structure: Literal['full', 'diagonal', 'low_rank', 'kronecker'] = 'full',
    curvature: Literal['hessian', 'ggn'] | None = None,
    params: Any = None,
    rank: int | None = None,
    num_draws: int = 1000,
    init: Any = 'map',
    noncentered: Any = 'auto',
    seed: Any = 0,
    progress: bool = True,
) -> LaplaceFit:
    """Approximate the posterior by a Gaussian of theta around its mode.

    The precision is the curvature of minus the whole log density of theta: likelihood, priors and log-determinants.

    Parameters
    ----------
    structure
        Of the precision. ``'full'``; ``'diagonal'``; ``'low_rank'``, the prior's diagonal corrected along the ``rank``
        directions in which the data say most; ``'kronecker'``, a block a Param, that of a matrix (or convolution) being
        the nearest Kronecker product of two small matrices (K-FAC), with ``curvature='ggn'``.
    curvature
        ``'hessian'`` (default, but for ``'kronecker'``) is exact. ``'ggn'``, the generalized Gauss-Newton matrix, takes
        the expected curvature of the likelihood in what the model predicts (its Fisher information where it is
        known, else the observed one) and the model as linear: positive also where the Hessian of a network is not.
    params
        Approximate only these, hold the others at the mode: a path (``'readout'``, ``('readout', 'w')``), a Param or
        Module of the model, a type, a predicate of (path, Param), or a list of these.
    rank
        Of ``'low_rank'``; default 20. Directions beyond it keep the prior's width: take as many as the data determine.
    num_draws
        How many draws the fit gets.
    init
        Around which point: ``'map'``, the mode of theta's density, found from the model's parameters by Newton's
        method, for many numbers after `infer.map`; a `Fit` of one point such as that of ``infer.map(jacobian=True)``,
        with its running statistics; ``'model'`` for the model's present parameters; values by path, the rest as in the
        model; an array of theta; ``'pathfinder'`` or ``'prior'`` for a draw.
    noncentered
        Which hierarchical Params are standardized, as in `nuts`: by default those about which the data say less than
        the prior. In centred form their joint density grows without bound where the scale goes to zero; where the data
        say much, scale and standardized values are bent around each other and no Gaussian. A point that is given keeps
        its own form.
    seed
        An int or a key, for the draws.
    progress
        Show a progress bar while the mode is sought.

    Returns
    -------
    LaplaceFit
        One chain of independent draws, with ``mode``, ``covariance``, ``log_marginal_likelihood`` and ``predictive``.
        ``predict`` and ``score`` take ``linearized``, which is the default with Gauss-Newton curvature and of networks.

    Raises
    ------
    ValueError
        Where the curvature is not positive definite, naming the Params; for transforms that are no bijections, models
        that draw random numbers, dense matrices of more than 5000 numbers, filters that match nothing.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Line(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self, x):
    ...         return dist.Normal(x @ self.w.value(), 0.5)
    >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> fit = infer.laplace(infer.Posterior(Line(), x, jnp.array([0.1, 1.1, 1.9])), progress=False)
    >>> fit.mode['w'].round(2), fit.predict(x, linearized=True).shape
    (array([0.2 , 0.82], dtype=float32), (1000, 3))
    """
    check_options(laplace, locals(), structure=choice(*STRUCTURES), curvature=choice(*CURVATURES, none=True))
    curvature = checked_options(posterior, structure, curvature, rank)
    posterior = started_from(posterior, init)
    target = _coordinates(posterior, init, noncentered)
    density, data = target.density, target.data
    moved = columns_matching(target, params)
    if structure == 'full':
        refuse_large(len(moved))
    began = time.perf_counter()
    programs = curvature_of(density, moved, curvature)
    try:
        theta = _find_mode(target, programs, init, to_key(seed), progress, always=structure == 'full')
        gaussian, notes = STRUCTURES[structure](programs, theta, data, rank)
    except NotPositiveDefinite as error:
        raise not_positive(error, programs) from None
    value, grad = value_and_grad(density, theta, data)
    distance = float(np.sqrt(max(0.0, grad[moved] @ gaussian.solve(grad[moved]))))
    if distance > _FAR * np.sqrt(len(moved)):
        each = distance / np.sqrt(len(moved))
        notes.append(
            f'The point is {each:.2g} standard deviations from the mode of theta in each of {len(moved)} directions, '
            'by its gradient and curvature. ' + advice('far_from_mode', 'laplace', {'init': init})
        )
    info = {
        'structure': structure,
        'curvature': curvature,
        'information': information_of(programs),
        'distance': distance,
        'noncentered': described(density),
        'params': None if params is None else [n for n, c in columns_of(density).items() if np.isin(c, moved).any()],
        'warnings': notes,
        'seconds': time.perf_counter() - began,
    }
    return issue_warnings(make_fit(target, programs, theta, value, gaussian, num_draws, seed, info))


def information_of(programs: Curvature) -> str | None:
    """The information used by Gauss-Newton: expected, or observed for unknown families."""
    if programs.kind == 'hessian':
        return None
    return 'expected' if programs.is_expected else 'observed'


def mode_tolerance(density: Density) -> float:
    """The tolerance of Newton's method, in standard deviations."""
    return 1e-6 if density.dtype == jnp.float64 else 1e-3


def checked_options(
    posterior: Posterior, structure: Any, curvature: Any, rank: Any = None
) -> Literal['hessian', 'ggn']:
    """The kind of curvature, if the options agree."""
    if structure == 'kronecker' and curvature == 'hessian':
        raise ValueError(
            "structure='kronecker' factors the Gauss-Newton matrix, which is a sum of squares, unlike the Hessian. "
            "Leave curvature out, or use structure='full', 'low_rank' or 'diagonal'."
        )
    if rank is not None and structure != 'low_rank':
        raise ValueError(f"rank belongs to structure='low_rank', not to {structure!r}.")
    kind: Literal['hessian', 'ggn'] = 'ggn' if curvature == 'ggn' or structure == 'kronecker' else 'hessian'
    if kind == 'ggn':
        refuse_own_density(posterior, "curvature='ggn'")
    return kind


def descend(programs: Curvature, target: Target, theta: np.ndarray, progress: bool = False) -> np.ndarray:
    """`infer.map` of the columns that move, from ``theta``; without a warning if it has not converged."""
    view = target.posterior.replaced(density=target.density)  # a target with its own coordinates
    optimizer: Any = 'lbfgs'
    if not programs.is_whole:
        moves = np.isin(np.arange(len(theta)), programs.columns)
        keep_fixed = optax.stateless(lambda updates, _: jnp.where(moves, updates, 0.0))
        optimizer = optax.chain(keep_fixed, optax.lbfgs())
    tol = 1e-8 if programs.density.dtype == jnp.float64 else 1e-5
    with warnings.catch_warnings(), nested_fit():
        warnings.simplefilter('ignore', ConvergenceWarning)
        fit = fit_map(view, init=jnp.asarray(theta), optimizer=optimizer, tol=tol, jacobian=True, progress=progress)
    return fit.thetas[0, 0]


def _find_mode(
    target: Target, programs: Curvature, init: Any, key: jax.Array, progress: bool, always: bool
) -> np.ndarray:
    """Theta of the point given by ``init``, after a search for the mode if needed.

    Newton's method needs only the programs of the curvature. It is used alone for few numbers, and to end the search
    for many, or ``always``.
    """
    density, data = target.density, target.data
    if not _is_map(init):
        return np.asarray(member_starts(target, init, key[None])[0])
    theta = np.asarray(checked_start(target))
    tol = mode_tolerance(density)
    if density.size <= _FEW:
        whole = curvature_of(density, np.arange(density.size), programs.kind)
        point = newton(whole, theta, data, num_steps=_NEWTON_STEPS, tol=tol)
        if point.distance < tol:
            return point.theta
    theta = descend(curvature_of(density, np.arange(density.size), programs.kind), target, theta, progress)
    if not (always or density.size <= _MANY):
        return theta
    return newton(programs, theta, data, num_steps=_NEWTON_STEPS, tol=tol).theta


def _is_map(init: Any) -> bool:
    return isinstance(init, str) and init == 'map'


def _coordinates(posterior: Posterior, init: Any, noncentered: Any) -> Target:
    """The target whose coordinates the Gaussian uses: that of ``init`` if it is a fit of one point.

    Raises
    ------
    TypeError, ValueError
        For a fit that is no point of this posterior.
    """
    target = posterior.sampling_target(noncentered)  # refuses transforms without a density
    if _is_map(init):
        return target
    if not isinstance(init, Fit):
        return posterior.target
    if init.thetas.shape[:2] != (1, 1):
        raise ValueError(
            f'init is a fit by {init.method!r} of {init.num_chains * init.num_draws} draws, but a Gaussian has one '
            "centre. Give a fit of one point such as infer.map(posterior, jacobian=True), or leave init='map'."
        )
    if init.density is None:  # loaded without its posterior
        return target if init.noncentered == target.density.noncentered else posterior.target
    for one in (posterior.target, target):
        if base_of(init.density) is one.density:
            return one
    raise ValueError("init has other coordinates than this posterior. Leave init='map'.")


def not_positive(error: NotPositiveDefinite, programs: Curvature) -> ValueError:
    """The error for a curvature that is not positive definite."""
    where = describe(error.direction, programs)
    if not np.isfinite(error.curvature):
        return ValueError(
            f'The curvature of the log density is not finite along {where}, at the final point: probably '
            'the mode lies at infinity. What helps: give Params without a prior one that is proper, scales first '
            '(a scale may grow, or shrink to zero, without bound); fix some Params by params=; sample with infer.nuts.'
        )
    flat = abs(error.curvature) <= tolerance_of(programs)
    problem = (
        f'The posterior is flat, up to rounding in {programs.density.dtype}, along {where}'
        if flat
        else f'The point is not a maximum of the log density, which curves upwards along {where}'
    )
    fixes = ['give these Params a prior']
    if not flat:
        fixes = ['start nearer to the mode', 'give Params whose mode lies at infinity (a scale at zero) a prior']
    if programs.kind == 'hessian' and not flat:
        fixes.append("use curvature='ggn'")
    if programs.density.dtype != jnp.float64 and flat:
        fixes.append('scale the inputs, or work under jax.enable_x64(True)')
    fixes.append('fix some Params by params=')
    return ValueError(
        f'{problem} (curvature {error.curvature:.2g}, relative to 1 for each number alone). There is no Gaussian '
        f'around such a point. What helps: {"; ".join(fixes)}.'
    )
