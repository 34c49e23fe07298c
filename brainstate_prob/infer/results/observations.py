"""Whether the log-likelihood is a sum over observations, or one joint log density.

Scores and leave-one-out need a term per observation, which a joint likelihood does not have. A joint distribution of
the targets (a Gaussian process, a random walk) also does not give predictions at new inputs given the fitted targets.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import is_padded
from brainstate_prob.infer.density.classes import Predicted, precision_of, predicted
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.target.data import new_arguments

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['counted', 'has_moments', 'is_pointwise', 'refuse_joint', 'refuse_single', 'refuse_unconditional']


def is_pointwise(density: Density, theta: Any, data: Data) -> bool:
    """Whether the likelihood has a term per observation, by shapes alone."""
    return num_terms(density, theta, data) > 1 or _num_observations(data) <= 1


def num_terms(density: Density, theta: Any, data: Data) -> int:
    """The number of terms of the log-likelihood."""
    leaves, treedef = jax.tree.flatten(data)
    shapes = tuple((np.shape(x), jax.dtypes.result_type(x)) for x in leaves)
    key = (num_terms, treedef, shapes)

    def trace() -> int:
        with precision_of(density):
            return math.prod(jax.eval_shape(density.pointwise, theta, data).shape)

    return density.kept(key, trace)


def refuse_joint(fit: Fit, data: Data, what: str) -> None:
    """Refuse ``what`` if all observations have one joint log density.

    Raises
    ------
    ValueError
        With the form of the likelihood, and the fix.
    """
    posterior, density, theta = fit.posterior_for(what), fit.density, fit.rows[0]
    if data.targets is None or is_pointwise(density, theta, data):
        return
    number = _num_observations(data)
    needs = f'{what} needs the log density of each observation, but '
    joint = 'Their joint log density at each draw is fit.log_likelihood().'
    if posterior.log_likelihood_function is not None:
        raise ValueError(
            f'{needs}log_likelihood= of this posterior returns one number for all {number}. Where they are independent '
            f'given the parameters, return one number for each, without the sum. {joint}'
        )
    law = predicted(density, theta, data)
    if law.num_joined:  # its first axis is that of the observations
        joined = f'.to_event({law.num_joined})'
        fix = f'Leave out {joined}'
        if law.num_joined > 1:
            fix = f'Write .to_event({law.num_joined - 1}) in place of {joined}'
        raise ValueError(
            f'{needs}the model declares all {number} as one event of {law.name}, shape {law.event_shape}. {fix}, '
            f'so that they are {number} observations.'
        )
    raise ValueError(
        f'{needs}the model predicts a joint {law.name} of all {number}, of one log density. {joint} For scores of '
        'single observations the model must return the distribution of each given the others.'
    )


def refuse_single(fit: Fit, data: Data, what: str) -> None:
    """Refuse ``what``, which leaves out one observation after another, for a single observation.

    Raises
    ------
    ValueError
        With the shape of the targets.
    """
    if num_terms(fit.density, fit.rows[0], data) < 2:
        raise ValueError(
            f'{what} leaves out one observation after another, but there is only one: targets of shape '
            f'{np.shape(data.targets)} have one log density.'
        )


def refuse_unconditional(fit: Fit, inputs: Any, part: Data, batch_size: int | None, kind: str) -> None:
    """Refuse predictions by a joint distribution of all targets, which would ignore the fitted targets.

    Draws at the fitted inputs replicate the data and are allowed, all at once; so are predictions of a prior. Means and
    intervals are refused, since they are not conditioned on the data.

    Parameters
    ----------
    part
        The first part of the computation; the data are only checked if its rows are dependent.

    Raises
    ------
    ValueError
        With the way to conditional predictions.
    """
    posterior = fit.posterior_for('predict')
    if fit.method == 'prior' or posterior.data.targets is None or posterior.log_likelihood_function is not None:
        return
    if not _is_one_event(predicted(fit.density, fit.rows[0], part)):
        return
    data = posterior.data
    law = predicted(fit.density, fit.rows[0], data)
    given = _arrays((data.args, data.kwargs))
    rows = {np.shape(x)[0] for x in given if np.ndim(x)} - {1}
    # Without inputs the model has its own locations, and a distribution of reals is a process over them.
    of_all = not rows.isdisjoint(law.event_shape) if given else law.is_real
    if not _is_one_event(law) or not of_all:
        return
    joint = f'The model predicts a joint {law.name} of all {_num_observations(data)} targets'
    if inputs is not None and not _alike(new_arguments(posterior.data, inputs), (data.args, data.kwargs)):
        raise ValueError(
            f'{joint}. At new inputs it gives their distribution without the targets that were fitted: for a Gaussian '
            'process that is its prior. Compute the prediction given them by fit.evaluate(f, new_inputs), where '
            'f(model, new_inputs) returns the conditional mean and covariance, or make the latent function a Param of '
            'the model.'
        )
    if kind != 'draws':
        place, call = ('at the inputs that were fitted ', ', inputs') if given else ('', '')
        raise ValueError(
            f'{joint}. Its {kind} {place}is that of new targets there, without those that were fitted: for a Gaussian '
            f'process that of its prior. Compute the prediction given them by fit.evaluate(f{call}), where '
            f'f(model{call}) returns the conditional mean and covariance, or make the '
            "latent function a Param of the model. kind='draws' replicates the data, for posterior predictive checks."
        )
    if batch_size is not None:
        raise ValueError(f'{joint}, so that batch_size would lose how they depend on each other. Leave batch_size out.')


def counted(density: Density, theta: Any, data: Data, part: Data) -> np.ndarray | None:
    """Whether each observation counts by the mask of the predicted distribution (of ``part`` too); None without one."""
    if density.own_log_likelihood is not None or not predicted(density, theta, part).is_masked:
        return None

    with precision_of(density):
        return np.asarray(density.compiled(_mask)(theta, data))


def _mask(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    with density.open(theta, data) as model:
        return _mask_of(model.distribution(data))


def _mask_of(distribution: Any) -> jax.Array:
    """The mask by observation; one of several numbers counts if any of them does."""
    if isinstance(distribution, dist.MaskedDistribution):
        own = jnp.broadcast_to(distribution._mask, distribution.batch_shape)
        return own & _mask_of(distribution.base_dist)
    if isinstance(distribution, dist.Independent):
        each = _mask_of(distribution.base_dist)
        return jnp.any(each, axis=tuple(range(-distribution.reinterpreted_batch_ndims, 0)))
    if isinstance(distribution, dist.ExpandedDistribution):
        return jnp.broadcast_to(_mask_of(distribution.base_dist), distribution.batch_shape)
    return jnp.ones(distribution.batch_shape, bool)


def has_moments(fit: Fit, data: Data) -> tuple[bool, bool]:
    """Whether the predicted distributions have finite means and variances, at draws spread over the fit.

    A distribution with unknown moments counts as having both.
    """
    density = fit.density

    with precision_of(density):
        look = density.compiled(_finite_moments)
        rows = fit.rows[np.linspace(0, len(fit.rows) - 1, min(_NUM_CHECKED, len(fit.rows))).astype(int)]
        found = np.array([[bool(x) for x in look(row, data)] for row in rows])
    return bool(found[:, 0].all()), bool(found.all())


def _finite_moments(density: Density, theta: jax.Array, data: Data) -> tuple[jax.Array, ...]:
    with density.open(theta, data) as model:
        distribution = model.distribution(data)
        return tuple(_are_finite(lambda moment=moment: getattr(distribution, moment)) for moment in _MOMENTS)


_MOMENTS, _NUM_CHECKED = ('mean', 'variance'), 16


def _are_finite(moment: Any) -> Any:
    try:
        return jnp.all(jnp.isfinite(moment()))
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return jnp.ones((), bool)


def _is_one_event(law: Predicted) -> bool:
    independent = (*law.batch_shape, *law.event_shape[: law.num_joined])
    return law.is_dependent and math.prod(independent) == 1


def _num_observations(data: Data) -> int:
    return int(np.shape(data.targets)[0]) if data.targets is not None and np.ndim(data.targets) else 1


def _alike(new: Any, old: Any) -> bool:
    """Whether two trees have the same numbers."""
    new, old = _arrays(new), _arrays(old)
    return len(new) == len(old) and all(
        a is b or (np.shape(a) == np.shape(b) and np.array_equal(np.asarray(a), np.asarray(b)))
        for a, b in zip(new, old, strict=True)
    )


def _arrays(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=is_padded)
