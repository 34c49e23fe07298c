"""SWAG: a normal distribution of theta from the path of stochastic gradient descent around a mode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.wider import base_of
from brainstate_prob.infer.descent.descent import Descent, Descents
from brainstate_prob.infer.descent.map import map as fit_map
from brainstate_prob.infer.descent.map import resolved_optimizer
from brainstate_prob.infer.descent.spread import relative_spread
from brainstate_prob.infer.descent.step_size import largest_curvature
from brainstate_prob.infer.descent.steps import Settings
from brainstate_prob.infer.diagnostics.mcmc import warn_of
from brainstate_prob.infer.diagnostics.safely import never_raises
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import optax_optimizer
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.progress import nested_fit
from brainstate_prob.infer.run.starts import member_starts
from brainstate_prob.infer.target.minibatch import Batching
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.running_statistics import settled
from brainstate_prob.infer.target.start import to_key

__all__ = ['Moments', 'collect', 'draw_from', 'no_moments', 'swag']

_DRAWS = 256  # of one compiled call
_MOMENTUM = 0.9
_NARROW = 0.1  # of the curvature's standard deviation; predictions are about equally too narrow


class Moments(NamedTuple):
    """Moments of a path: count, mean and squared deviations of snapshots (Welford), and the last deviations."""

    number: jax.Array
    mean: jax.Array
    squares: jax.Array
    deviations: jax.Array  # (rank, size), from the mean at that time, as a ring buffer


def no_moments(theta: jax.Array, rank: int) -> Moments:
    """The moments before the first snapshot."""
    zeros = jnp.zeros_like(theta)
    return Moments(jnp.zeros((), jnp.int32), zeros, zeros, jnp.zeros((rank, theta.size), theta.dtype))


def collect(moments: Moments, theta: jax.Array) -> Moments:
    """Add a snapshot."""
    count = moments.number + 1
    mean = moments.mean + (theta - moments.mean) / count.astype(theta.dtype)
    deviation = theta - mean
    place = moments.number % moments.deviations.shape[0]
    return Moments(
        count,
        mean,
        moments.squares + (theta - moments.mean) * deviation,
        moments.deviations.at[place].set(deviation),
    )


def draw_from(moments: Moments, key: jax.Array, scale: jax.Array) -> jax.Array:
    """One draw: mean + sqrt(scale) * (sqrt(variance / 2) * z1 + D' z2 / sqrt(2 (K - 1))), D the K deviations.

    With ``scale`` 1 its covariance is half the diagonal plus half the low-rank one (Maddox et al. 2019, eq. 1).
    """
    first, second = jax.random.split(key)
    dtype, rank = moments.mean.dtype, moments.deviations.shape[0]
    kept = jnp.minimum(moments.number, rank).astype(dtype)
    variance = jnp.maximum(moments.squares / moments.number.astype(dtype), 0.0)
    diagonal = jnp.sqrt(variance / 2) * jax.random.normal(first, moments.mean.shape, dtype)
    z = jax.random.normal(second, (rank,), dtype)  # unused rows are zero
    return moments.mean + jnp.sqrt(scale).astype(dtype) * (
        diagonal + z @ moments.deviations / jnp.sqrt(2 * jnp.maximum(kept - 1, 1))
    )


class _Path(NamedTuple):
    inner: Any
    moments: Moments
    step: jax.Array
    rate: jax.Array  # multiplies the updates


def _collecting(
    optimizer: optax.GradientTransformation, every: int, rank: int, num_observations: int
) -> optax.GradientTransformationExtraArgs:
    """The optimizer on the loss of one observation, that takes a snapshot every so many steps."""
    optimizer = optax.with_extra_args_support(optimizer)

    def init(theta: Any) -> _Path:
        one = jnp.ones((), theta.dtype)
        return _Path(optimizer.init(theta), no_moments(theta, rank), jnp.zeros((), jnp.int32), one)

    def update(gradient: Any, path: Any, theta: Any = None, **extra: Any) -> tuple[Any, _Path]:
        updates, inner = optimizer.update(gradient / num_observations, path.inner, theta, **extra)
        updates, step = path.rate * updates, path.step + 1
        new = optax.apply_updates(theta, updates)
        moments = lax.cond(step % every == 0, lambda m: collect(m, new), lambda m: m, path.moments)
        return updates, _Path(inner, moments, step, path.rate)

    return optax.GradientTransformationExtraArgs(init, update)


@named
def swag(
    posterior: Posterior,
    *,
    init: Any = 'map',
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 2000,
    snapshot_every: int = 50,
    rank: int = 20,
    num_draws: int = 1000,
    scale: float = 1.0,
    batch_size: int | None = None,
    batches: Iterable | None = None,
    num_observations: int | None = None,
    callbacks: Any = (),
    seed: Any = 0,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Fit SWAG (Maddox et al. 2019): the mean and a low-rank plus diagonal covariance of the iterates of SGD.

    The covariance is that of the noise that minibatches leave at a constant learning rate; it stands for the
    posterior's only as far as that rate fits. Running statistics (BatchNorm, under ``environ.context(fit=True)``) are
    computed anew for each draw, by a pass over the Posterior's data at its parameters, as the paper does.
    Batches are drawn without replacement, which leaves less noise than
    independent ones, and full data leave none, so that only the path remains.

    Parameters
    ----------
    init
        Where the path begins, a point that was trained: ``'map'``, the mode of theta's density (with ``batch_size``, by
        Adam over minibatches); a `Fit`, or as for `infer.map`.
    optimizer
        An optax optimizer of the loss of one observation (the loss divided by N), with a constant learning rate.
        Default: SGD with momentum 0.9 and a rate of 0.02 / (the largest curvature of that loss at the start), at which
        the path is stable; ``fit.info['learning_rate']``. A larger rate gives a wider distribution.
    num_steps, snapshot_every
        Every so many of these steps theta is taken into the moments; a pass over the data is usual.
    rank
        How many of the last deviations make the low-rank part.
    num_draws
        How many draws of the normal distribution.
    scale
        Multiplies its covariance; 1 is SWAG's, 0 leaves the mean (SWA).
    batch_size, batches, num_observations, callbacks
        As for `infer.map`.
    seed
        An int or a key.
    checkpoint, checkpoint_every
        Save to this file every so many steps, and go on from it if it exists.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        One chain of independent draws; ``fit.history['loss']``, ``fit.info['num_snapshots']``. Draws that are ten
        times narrower than the curvature at their mean, along the directions that the data determine best, give
        a `ConvergenceWarning`: a learning rate too small, or full data.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, a model that draws random numbers, fewer than two snapshots, a loss that
        does not stay finite.

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
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0, 1.0, 2.0]))
    >>> fit = infer.swag(posterior, optimizer=optax.sgd(0.3), batch_size=1, progress=False)
    >>> fit.draws['mu'].shape, bool(abs(fit.draws['mu'].mean() - 7 / 5) < 0.2)
    ((1, 1000), True)
    """
    check_options(swag, locals(), optimizer=optax_optimizer())
    began = time.perf_counter()
    if num_steps // snapshot_every < 2:
        raise ValueError(
            f'num_steps={num_steps} and snapshot_every={snapshot_every} give {num_steps // snapshot_every} snapshots; '
            'a covariance needs two at least.'
        )
    posterior = started_from(posterior, init, each=True)
    target, key = posterior.sampling_target(), to_key(seed)
    density = target.density
    batching = Batching(posterior, batch_size, batches, num_observations)
    given = optimizer is not None
    optimizer, _ = resolved_optimizer(posterior, optimizer if given else optax.sgd(1.0, momentum=_MOMENTUM), False)
    if isinstance(init, str) and init == 'map':
        init = _trained(posterior, batching, seed)
    path_key, draw_key = jax.random.split(key)
    thetas = member_starts(target, init, path_key[None])
    batching.check(density, thetas[0])
    num, example = batching.num_observations, batching.example
    rate = 1.0 if given else _rate(largest_curvature(density, thetas[0], example) / num)
    settings = Settings(_collecting(optimizer, int(snapshot_every), int(rank), num), batch_size, True)

    def as_fit(descent: Descent) -> Fit:
        moments = jax.tree.map(lambda x: x[0], descent.opt_state.moments)
        count = int(moments.number)
        if count < 2:
            raise KeyboardInterrupt(
                f'The run was interrupted after {count} snapshots; a covariance needs two at least.'
            )
        info = {
            **descent.info,
            'num_snapshots': count,
            'rank': min(rank, count),
            'scale_of_covariance': scale,
            **({} if given else {'learning_rate': rate}),
            'seconds': time.perf_counter() - began,
        }
        draws = _draws(density.jit, moments, draw_key, float(scale), num_draws)
        trained = target.with_carried(jax.tree.map(lambda x: x[0], descent.carried))
        return settled(Fit(trained, draws[None], method='swag', history={'loss': descent.losses[0]}, info=info))

    fit, descent = Descents(
        target,
        'swag',
        settings,
        thetas,
        path_key[None],
        batching=batching,
        num_steps=num_steps,
        as_fit=as_fit,
        init=init,
        callbacks=callbacks,
        adjust=lambda states: states._replace(
            opt_state=states.opt_state._replace(rate=jnp.full(1, rate, density.dtype))
        ),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        label='SWAG',
        progress=progress,
    ).run()
    if scale > 0:
        problems = _spread_problems(fit, descent, example, given, num)
        fit.info['warnings'] = [*fit.info.get('warnings', []), *problems]
        warn_of(problems)
    return fit


@never_raises('The spread of SWAG')
def _spread_problems(fit: Fit, descent: Descent, data: Data, given: bool, num_observations: int) -> list[str]:
    """Problems of the draws' spread, compared with that of the curvature."""
    # Not the target with running statistics of each draw: those of the path's mean are used here.
    density, scale = base_of(fit.density), float(fit.info['scale_of_covariance'])
    moments, carried = jax.tree.map(lambda x: x[0], (descent.opt_state.moments, descent.carried))
    data = density.with_carried(data, carried)
    relative = relative_spread(density, moments.mean, data, *_covariance(moments, scale))
    return _too_narrow(relative, fit.info, given, num_observations)


def _covariance(moments: Moments, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The covariance of the draws: a diagonal plus outer products of rows (see `draw_from`)."""
    number, deviations = int(moments.number), np.asarray(moments.deviations, np.float64)
    kept = min(number, len(deviations))
    variance = np.maximum(np.asarray(moments.squares, np.float64) / number, 0.0)
    return scale * variance / 2, np.sqrt(scale / (2 * max(kept - 1, 1))) * deviations


def _too_narrow(relative: float | None, info: dict[str, Any], given: bool, num_observations: int) -> list[str]:
    """The message if the draws are much narrower than the curvature at their mean implies."""
    if relative is None or relative >= _NARROW:
        return []
    size, scale = info.get('batch_size'), info['scale_of_covariance']
    if relative / np.sqrt(scale) >= _NARROW:
        advice = f'scale={scale:g} makes them so: leave it out, to use the covariance of the path.'
    elif size is None or size >= num_observations > 1:
        some = f' (of {num_observations})' if num_observations > 1 else ''
        advice = f'Full-data steps have no noise, so the path has no spread: give a small batch_size{some}.'
    else:
        smaller = f'take fewer observations a step (now {size})' if size > 1 else ''
        larger = (
            'give optimizer= a larger learning rate that stays constant, or leave it out to have it chosen by the '
            'curvature'
            if given
            else f'give optimizer=optax.sgd(rate, momentum=0.9) with a constant rate above {info["learning_rate"]:.2g}'
        )
        advice = ', or '.join(filter(None, (larger, smaller)))
        advice = f'{advice[0].upper()}{advice[1:]}.'
    narrow = f'{1 / relative:.2g} times narrower than' if relative > 0 else 'a single point, not as wide as'
    return [
        f'The draws of SWAG are {narrow} the curvature of the log density at their mean says, along the directions '
        'that the data determine best (standard deviations; Laplace has those of the curvature). Predictions '
        f'are overconfident. {advice}'
    ]


def _trained(posterior: Posterior, batching: Batching, seed: Any) -> Any:
    """The default start: a point at or near the mode of theta's density."""
    batch_size = batching.batch_size
    if batching.stream is not None:
        raise ValueError('With batches=, give init=, a fit of them: e.g. infer.map(..., jacobian=True, batches=...).')
    if batch_size is None:
        return 'map'
    with nested_fit():
        return fit_map(posterior, jacobian=True, optimizer='adam', batch_size=batch_size, seed=seed, progress=False)


def _rate(curvature: float) -> float:
    """The learning rate of SGD with momentum: a fifth of 1 / curvature, the rate without momentum."""
    if not np.isfinite(curvature) or curvature <= 0:
        raise ValueError(
            f'The curvature of the loss at the start is {curvature}, so no learning rate follows from it. Give '
            'optimizer=optax.sgd(...).'
        )
    return 0.2 * (1 - _MOMENTUM) / curvature


def _draws(jit: Callable, moments: Moments, key: jax.Array, scale: float, num_draws: int) -> np.ndarray:
    """Draws in blocks of fixed size, so that another number of draws compiles nothing and has the same first ones."""

    def build() -> Callable:
        def run(moments: Moments, key: jax.Array, scale: jax.Array) -> jax.Array:
            keys = jax.random.split(key, _DRAWS)
            return lax.map(lambda k: draw_from(moments, k, jnp.asarray(scale)), keys)

        return run

    run = jit(_draws, None, build)
    blocks = [run(moments, jax.random.fold_in(key, i), scale) for i in range(-(-num_draws // _DRAWS))]
    return np.concatenate([np.asarray(b) for b in blocks])[:num_draws]
