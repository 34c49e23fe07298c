"""HMC with energy-conserving subsampling: NUTS for large data, with subsampled observations.

Dang et al. (2019), as in NumPyro's HMCECS, which takes no density and compiles anew at every run. The log-likelihood is
that of a quadratic expansion around a reference, known for all data together, plus an estimate of the difference from a
subsample; the subsample is a part of the chain's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.mcmc.adaptation import Adaptation, adapted, first_adaptation, schedule
from brainstate_prob.infer.mcmc.backends import Point, transition_of
from brainstate_prob.infer.mcmc.kernel import STATS, transition_stats
from brainstate_prob.infer.mcmc.metric import Dense, Diagonal
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import choice
from brainstate_prob.infer.run.algorithm import Algorithm
from brainstate_prob.infer.run.members import plain_types
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.run.sampling import sample
from brainstate_prob.infer.run.starts import start_points
from brainstate_prob.infer.target.minibatch import check_parts, take
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import checked_start
from brainstate_prob.infer.target.target import Target

__all__ = ['hmc_ecs']

_MOST_VARIANCE = 1.0  # of the estimated log-likelihood, above which its bias correction is unreliable
_KIND = 'stan'
_STATS = {**STATS, 'variance': float, 'exchanged': bool}


class _Reference(NamedTuple):
    """The quadratic expansion of the full log-likelihood, and a root of its covariance."""

    theta: jax.Array
    value: jax.Array
    grad: jax.Array
    hessian: jax.Array
    root: jax.Array


class _State(NamedTuple):
    """The state of a chain: parameters, subsample and adaptation."""

    theta: jax.Array
    rows: jax.Array
    key: jax.Array
    adaptation: Adaptation


@named
def hmc_ecs(
    posterior: Posterior,
    *,
    batch_size: int,
    num_blocks: int | None = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    init: Any = 'map',
    noncentered: Any = 'auto',
    mass_matrix: str = 'diagonal',
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    thinning: int = 1,
    seed: Any = 0,
    devices: Sequence[Any] | None = None,
    chain_method: str | None = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample the posterior of many independent observations, with gradients of ``batch_size`` of them.

    Right to the order of the estimate's error as long as its variance is about 1 or less (reported, with a warning):
    then the draws are those of `nuts` at a small part of the cost. The reference and its Hessian take a few passes over
    all data. A second call with other data of the same shape compiles nothing.

    Parameters
    ----------
    batch_size
        Observations of a subsample, at least 2, fewer than there are.
    num_blocks
        At each step one such part of the subsample is proposed anew. Default: up to 10. More: exchanged more often.
    init
        Around which the log-likelihood is expanded: ``'map'`` (theta's mode), ``'model'``, ``'pathfinder'``, a `Fit`,
        values by path or a theta. The chains start around it, as the expansion says.
    mass_matrix
        ``'diagonal'`` or ``'full'``.
    num_warmup, num_samples, num_chains, seed, noncentered, target_accept, max_tree_depth, thinning
        As for `nuts`.
    devices, chain_method, checkpoint, checkpoint_every, progress
        As for `nuts`.

    Returns
    -------
    Fit
        With ``stats`` as of `nuts`, and ``variance`` (of the estimated log-likelihood) and ``exchanged`` (whether the
        proposed block was taken). ``lp`` is that of the estimate.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, inputs that are not one row an observation, a log-likelihood that is a
        sum or in which observations depend on each other; for the checkpoint of another run.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Rate(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.rate = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.Gamma(2.0, 1.0))
    ...
    ...     def __call__(self, duration):
    ...         return dist.Poisson(self.rate.value() * duration)
    >>> posterior = infer.Posterior(Rate(), jnp.linspace(0.5, 2.0, 1000), jnp.arange(1000) % 5)
    >>> fit = infer.hmc_ecs(posterior, batch_size=50, num_warmup=300, num_samples=500, progress=False)
    >>> bool(abs(fit.draws['rate'].mean() - 2002 / 1251) < 0.02)
    True
    """
    options = RunOptions.of(hmc_ecs, locals(), mass_matrix=choice('diagonal', 'full'))
    num = posterior.num_observations
    if not 2 <= batch_size < num:
        raise ValueError(f'batch_size must be at least 2 and less than the {num} observations, got {batch_size}.')
    num_blocks = min(10, batch_size) if num_blocks is None else num_blocks
    if num_blocks > batch_size:
        raise ValueError(f'num_blocks must be at most batch_size = {batch_size}, got {num_blocks}.')
    target = options.target(posterior)
    check_parts(target.posterior, batch_size, instead='Use infer.nuts')
    reference = _reference(target, init, options.keys(target)[0])
    algorithm = Algorithm(
        name='hmc_ecs',
        init=lambda target, options: _starts(target, options, reference, batch_size, mass_matrix),
        step=lambda density: _step_function(density, batch_size, num_blocks, mass_matrix, max_tree_depth),
        stats=_STATS,
        settings={
            'batch_size': batch_size,
            'num_blocks': num_blocks,
            'mass_matrix': mass_matrix,
            'max_tree_depth': max_tree_depth,
        },
        numbers={'target_accept': target_accept},
        arguments=(reference, target_accept),
        schedule=lambda num_warmup: schedule(num_warmup, _KIND),
        report=_report,
        problems=_problems,
    )
    return sample(target, algorithm, options)


def _report(stats: dict[str, np.ndarray]) -> dict[str, Any]:
    return {'variance': float(np.mean(stats['variance'])), 'exchange_rate': float(np.mean(stats['exchanged']))}


def _problems(stats: dict[str, np.ndarray], info: dict[str, Any]) -> list[str]:
    if info['variance'] < _MOST_VARIANCE:
        return []
    return [
        f'The estimated log-likelihood has variance {info["variance"]:.2g} (above {_MOST_VARIANCE:g}): the draws can '
        f'be far off. {advice("variance", "hmc_ecs", info)}'
    ]


# The estimate


def _each(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    """The log-likelihood of each observation, along the first axis."""
    each = density.pointwise(theta.astype(density.dtype), data).astype(theta.dtype)
    num = jnp.shape(data.targets)[0]
    if jnp.ndim(each) == 0 or each.shape[0] != num:
        raise ValueError(
            f'Subsampling needs the log-likelihood of each of {num} observations, but log_likelihood= gave shape '
            f'{jnp.shape(each)}. Return one number an observation instead of their sum.'
        )
    return each.reshape(num, -1).sum(axis=1)


def _prior(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    """Log prior and log-determinant."""
    return density.log_prior_of_theta(theta.astype(density.dtype), data.states).astype(theta.dtype)


def _estimate(density: Density, theta: jax.Array, index: jax.Array, data: Data, at: _Reference) -> tuple:
    """The estimated log-likelihood, less half its variance, and that variance."""
    num, part = jnp.shape(data.targets)[0], take(data, index)
    shift = theta - at.theta
    along = lambda t: _each(density, at.theta + t * shift, part)
    first = lambda t: jax.jvp(along, (t,), (jnp.ones_like(t),))
    zero = jnp.zeros((), theta.dtype)
    (value, slope), (_, bend) = jax.jvp(first, (zero,), (jnp.ones_like(zero),))
    rest = _each(density, theta, part) - (value + slope + bend / 2)
    whole = at.value + at.grad @ shift + shift @ at.hessian @ shift / 2
    variance = (data.scale * float(num)) ** 2 / index.shape[0] * jnp.var(rest)  # float: int32 overflows
    total = data.scale * (whole + num * jnp.mean(rest)) - variance / 2
    return total.astype(theta.dtype), variance.astype(theta.dtype)


def _reference(target: Target, init: Any, keys: jax.Array) -> _Reference:
    density = target.density
    theta = start_points(target, init, keys[:1])[1][0]
    checked_start(target, theta)

    def build() -> Callable:
        def run(theta: jax.Array, data: Data) -> _Reference:
            theta = theta.astype(jnp.result_type(float))
            total = lambda x: jnp.sum(_each(density, x, data))
            value, grad = jax.value_and_grad(total)(theta)
            hessian = jax.hessian(total)(theta)
            curvature = -data.scale * hessian - jax.hessian(lambda x: _prior(density, x, data))(theta)
            values, vectors = jnp.linalg.eigh(curvature)
            least = jnp.maximum(1e-6 * jnp.max(jnp.abs(values)), jnp.finfo(theta.dtype).tiny)
            root = (vectors / jnp.sqrt(jnp.maximum(values, least))) @ vectors.T
            return _Reference(theta, value, grad, hessian, root)

        return run

    return density.jit(_reference, None, build)(theta, target.data)


# The chain


def _metric(root: jax.Array, mass_matrix: str) -> Any:
    if mass_matrix == 'full':
        return Dense(root, jnp.linalg.inv(root))
    return Diagonal(jnp.sqrt(jnp.sum(root**2, axis=1)))


def _starts(target: Target, options: RunOptions, reference: _Reference, batch_size: int, mass_matrix: str) -> _State:
    key = (batch_size, mass_matrix)
    start = target.density.jit(_start_function, key, lambda: _start_function(target.density, *key))
    return start(*options.keys(target), reference, target.data)


def _start_function(density: Density, batch_size: int, mass_matrix: str) -> Callable:
    def one(start_key: jax.Array, key: jax.Array, at: _Reference, data: Data) -> _State:
        shift_key, index_key = jax.random.split(start_key)
        shift = at.root @ jax.random.normal(shift_key, at.theta.shape, at.theta.dtype)
        index = jax.random.randint(index_key, (batch_size,), 0, jnp.shape(data.targets)[0])
        potential = lambda x: -_estimate(density, x, index, data, at)[0] - _prior(density, x, data)
        theta = jnp.where(jnp.isfinite(potential(at.theta + shift)), at.theta + shift, at.theta)
        adaptation = first_adaptation(mass_matrix, _KIND, at.theta)._replace(metric=_metric(at.root, mass_matrix))
        return plain_types(_State(theta, index, key, adaptation))

    return lambda start_keys, keys, *rest: lax.map(lambda chain: one(*chain, *rest), (start_keys, keys))


def _step_function(
    density: Density, batch_size: int, num_blocks: int, mass_matrix: str, max_tree_depth: int
) -> Callable:
    step = transition_of('numpyro')
    block_size = -(-batch_size // num_blocks)

    def run(state: _State, data: Data, action: jax.Array, at: _Reference, target_accept: Any) -> tuple:
        num = jnp.shape(data.targets)[0]
        key, block_key, index_key, accept_key, move_key = jax.random.split(state.key, 5)
        block = jax.random.randint(block_key, (), 0, num_blocks)
        anew = jax.random.randint(index_key, (batch_size,), 0, num)
        proposed = jnp.where(jnp.arange(batch_size) // block_size == block, anew, state.rows)
        now, then = (_estimate(density, state.theta, i, data, at)[0] for i in (state.rows, proposed))
        exchanged = -jax.random.exponential(accept_key, (), now.dtype) < then - now
        index = jnp.where(exchanged, proposed, state.rows)

        def potential(theta: jax.Array) -> jax.Array:
            return -_estimate(density, theta, index, data, at)[0] - _prior(density, theta, data)

        metric = state.adaptation.metric
        value, grad = jax.value_and_grad(potential)(state.theta)
        point = Point(jnp.zeros_like(state.theta), value, metric.pull(grad))
        point, _, info = step(
            lambda w: potential(state.theta + metric.forward(w)),
            point,
            move_key,
            state.adaptation.step_size,
            max_tree_depth,
        )
        theta = state.theta + metric.forward(point.w)
        kind = (mass_matrix, _KIND)
        fell = value - point.potential
        adaptation, _ = adapted(action, state.adaptation, theta, point.grad, fell, info.acceptance, target_accept, kind)
        stats = transition_stats(point, info, adaptation.step_size) | {
            'variance': _estimate(density, theta, index, data, at)[1],
            'exchanged': exchanged,
        }
        return _State(theta, index, key, adaptation), theta, stats

    return run
