"""Running statistics of a model's layers (BatchNorm): those of a fit, and how the next fit starts from them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core import BatchState
from brainstate_prob.graph.walk import dotted, find_states
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.batching import over_draws, rows_at_once
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.wider import WiderDensity, base_of
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.target import Target

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

FitT = TypeVar('FitT', bound='Fit')

__all__ = [
    'StatisticsDensity',
    'each_with_its_own',
    'paths_of',
    'recomputed',
    'settled',
    'statistics_of',
    'with_statistics',
]

_OFF = 1e-3  # relative error below which a running mean counts as unchanged


def paths_of(density: Density) -> list[str]:
    """The dotted paths of the running statistics, in the order of ``density.carried``."""
    fitted = {e.state for e in density.entries}
    others = [(path, state) for path, state in find_states(density.model).items() if state not in fitted]
    return [dotted(path) for path, state in others if isinstance(state, BatchState)]


def statistics_of(posterior: Posterior) -> dict[str, Any]:
    """The running statistics by path that a posterior's model predicts with."""
    density = base_of(posterior.density)
    return dict(zip(paths_of(density), (posterior.data.states[i] for i in density.carried), strict=True))


def with_statistics(posterior: Posterior, statistics: Mapping[str, Any]) -> Posterior:
    """The posterior with these running statistics.

    Raises
    ------
    ValueError
        For statistics of other layers, naming the difference.
    """
    own = statistics_of(posterior)
    if not own and not statistics:
        return posterior
    problems = [f'{path!r} is missing' for path in own if path not in statistics]
    problems += [f'there is no {path!r}' for path in statistics if path not in own]
    for path in own.keys() & statistics.keys():
        ours, theirs = _shapes(own[path]), _shapes(statistics[path])
        if ours != theirs:
            problems.append(f'{path!r} has shape {ours[1]}, there {theirs[1]}')
    if problems:
        raise ValueError(f"The running statistics do not match the posterior's model: {'; '.join(problems)}.")
    values = tuple(jax.tree.map(_placed, statistics[path], own[path]) for path in own)
    return posterior.with_carried(base_of(posterior.density), values)


def _shapes(value: Any) -> tuple[Any, list[tuple[int, ...]]]:
    leaves, tree = jax.tree.flatten(value)
    return tree, [np.shape(x) for x in leaves]


def _placed(new: Any, old: Any) -> jax.Array:
    new = jnp.asarray(new, jnp.result_type(old))
    spread = isinstance(old, jax.Array) and len(old.sharding.device_set) > 1
    return jax.device_put(new, old.sharding) if spread else new


class StatisticsDensity(WiderDensity):
    """A density whose flat vector is theta followed by the running statistics of the draw.

    The outline has the shape and dtype of each array of statistics.
    """

    kind = 'running statistics'

    outline: tuple[tuple[tuple[int, ...], str], ...]

    def _width(self) -> int:
        return sum(math.prod(shape) for shape, _ in self.outline)

    def split(self, rows: Any) -> tuple:
        """The running statistics in rows of the flat vector, (..., size), in the order of ``carried``, as arrays."""
        parts, offset = [], self.base.size
        for shape, dtype in self.outline:
            size = math.prod(shape)
            parts.append(rows[..., offset : offset + size].reshape(*rows.shape[:-1], *shape).astype(jnp.dtype(dtype)))
            offset += size
        return tuple(parts)

    def statistics(self, rows: Any, states: tuple) -> tuple:
        """`split` with the tree structure of the States' values."""
        tree = jax.tree.structure(tuple(states[i] for i in self.carried))
        return jax.tree.unflatten(tree, self.split(rows))

    @contextlib.contextmanager
    def open(self, theta: jax.Array, data: Data) -> Iterator[Any]:
        with super().open(theta, self.with_carried(data, self.statistics(theta, data.states))) as opened:
            yield opened


def each_with_its_own(target: Target, thetas: np.ndarray, carried: tuple) -> tuple[Target, np.ndarray]:
    """The target and draws of a fit in which each draw has its running statistics.

    Parameters
    ----------
    thetas
        Of shape (chains, draws, size).
    carried
        The statistics in the order of ``density.carried``, with the draws, chain after chain, as first axis.
    """
    leaves = [np.asarray(x) for x in jax.tree.leaves(carried)]
    if not leaves:
        return target, thetas
    wide = StatisticsDensity.of(target.density, tuple((x.shape[1:], x.dtype.name) for x in leaves))
    dtype = jnp.result_type(thetas.dtype, *(x.dtype for x in leaves))  # represents all of them exactly
    flat = [x.reshape(*thetas.shape[:2], -1).astype(dtype) for x in leaves]
    return Target(target.posterior, wide), np.concatenate([np.asarray(thetas).astype(dtype), *flat], axis=-1)


def recomputed(target: Target, rows: np.ndarray) -> tuple:
    """The running statistics of the data at each draw, with the draws as first axis: one pass, as SWAG's ``bn_update``.

    An exponential average of batch statistics, s <- a s + (1 - a) b, is solved for b, with all data as the batch.
    Statistics with another update rule, for which this is not a fixed point, stay as in the posterior.
    """
    density, data = target.density, target.data
    with precision_of(density), environ.context(fit=True):
        run = density.compiled(_solved, in_axes=(0, None))
        size = rows_at_once(density, (data.args, data.kwargs))
        return over_draws(lambda part: run(part, data), (rows,), size)


def _solved(density: Density, theta: jax.Array, data: Data) -> tuple:
    def update(values: tuple) -> tuple:
        return density.training_log_density(theta, density.with_carried(data, values))[1]

    present = tuple(data.states[i] for i in density.carried)
    once = update(jax.tree.map(jnp.zeros_like, present))
    twice = update(once)

    def mean(first: jax.Array, second: jax.Array) -> jax.Array:
        square = jnp.sum(first * first)
        kept = jnp.sum((second - first) * first) / jnp.where(square > 0, square, 1)
        return first / (1 - kept)

    fixed = jax.tree.map(mean, once, twice)

    def checked(value: jax.Array, again: jax.Array, before: jax.Array) -> jax.Array:
        still = jnp.max(jnp.abs(again - value)) <= _OFF * jnp.max(jnp.abs(value))  # false for NaN
        return jnp.where(still, value, before).astype(before.dtype)

    return jax.tree.map(checked, fixed, update(fixed), present)


def settled(fit: FitT) -> FitT:
    """A fit in training mode, with the running statistics for predictions from its draws.

    Under ``environ.context(fit=True)`` a layer normalizes by the data and does not read its running statistics. The
    draws get those of the data at their parameters; a Gaussian around a mode has those of the mode.
    """
    if fit.target is None or not environ.get('fit', False) or isinstance(fit.density, WiderDensity):
        return fit
    if not fit.density.carried:
        return fit
    mode = getattr(fit, 'mode_theta', None)
    if mode is not None or fit.thetas.shape[:2] == (1, 1):
        row = fit.rows[:1] if mode is None else mode[None]
        carried = jax.tree.map(lambda x: jnp.asarray(x[0]), recomputed(fit.target, row))
        fit.target = fit.target.with_carried(carried)
    else:
        carried = recomputed(fit.target, fit.rows)
        fit.target, fit.thetas = each_with_its_own(fit.target, fit.thetas, carried)
    return fit
