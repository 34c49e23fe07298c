"""Functions of many draws in bounded memory: chunks of draws and of inputs, results kept on the host."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import on_host, whole
from brainstate_prob.infer.density.classes import class_log_probs, precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.rules import count

__all__ = [
    'chosen_draws',
    'class_rows',
    'constrain',
    'draws_at_once_of',
    'first_batch',
    'in_chunks',
    'log_densities',
    'log_likelihood',
    'over_batches',
    'over_draws',
    'pointwise_rows',
    'rows_at_once',
]

# At most: more are hardly faster, and few draws are filled up to as many.
_CHUNK = 64
# Numbers of theta, or of the largest input or target, over all draws of a chunk: on a CPU they stay in its cache (1 MB
# in float32, three times as fast as 16 MB).
_NUMBERS = {'cpu': 2**18}
_NUMBERS_ELSEWHERE = 2**22


# Chunks of draws


def in_chunks(run: Callable, arrays: tuple[np.ndarray, ...], size: int) -> Iterator[tuple[slice, Any]]:
    """``run`` over the rows of ``arrays``, at most ``size`` at a time: (which rows, NumPy arrays with one row a row).

    The last chunk is filled up, so that one shape is compiled whatever the number of draws. A single row, the point of
    a fit without draws, is not.
    """
    num = len(arrays[0])
    size = min(size, num) if num == 1 else size
    for start in range(0, num, size):
        rows = [a[start : start + size] for a in arrays]
        have = len(rows[0])
        part = on_host(run(*(_filled(r, size) for r in rows)))
        yield slice(start, start + have), jax.tree.map(lambda x, n=have: x[:n], part)


def _filled(rows: Any, size: int) -> Any:
    """``rows`` and as many copies of the last one as make ``size``."""
    return rows if len(rows) == size else rows[np.minimum(np.arange(size), len(rows) - 1)]


def over_draws(run: Callable, arrays: tuple[np.ndarray, ...], size: int) -> Any:
    """``run`` over the rows of ``arrays``, at most ``size`` at a time; NumPy arrays with one row a row."""
    out = None
    for where, part in in_chunks(run, arrays, size):
        if out is None:
            out = jax.tree.map(lambda x: np.empty((len(arrays[0]), *x.shape[1:]), x.dtype), part)
        jax.tree.map(lambda whole, x, at=where: whole.__setitem__(at, x), out, part)
    return out


def chosen_draws(num_draws: int, total: int, weights: np.ndarray | None) -> np.ndarray:
    """Which of ``total`` draws serve ``num_draws`` times: evenly spread, in proportion to their weights."""
    position = (np.arange(num_draws) + 0.5) / num_draws
    if weights is None:
        return np.floor(position * total).astype(int)
    cumulative = np.cumsum(np.ravel(weights))
    return np.searchsorted(cumulative / cumulative[-1], position).clip(max=total - 1)


def rows_at_once(density: Density, data: Any = ()) -> int:
    """How many rows of theta are computed at a time: it depends on the sizes of what is computed, not on how many."""
    largest = max(density.size, 1, *(np.size(x) for x in jax.tree.leaves(data)))
    numbers = _NUMBERS.get(jax.default_backend(), _NUMBERS_ELSEWHERE)
    return 1 << max(0, min(_CHUNK, numbers // largest).bit_length() - 1)


def draws_at_once_of(asked: int | None, num: int, density: Density, data: Data) -> int:
    """How many of ``num`` draws are computed at a time, where ``asked`` are wanted at most."""
    usual = rows_at_once(density, (data.args, data.kwargs, data.targets))
    if asked is None:
        return usual
    asked = count()('draws_at_once', asked)
    return min(asked, max(usual, 1 << (num - 1).bit_length()))  # not many more than there are


# Chunks of inputs


def _batches(data: Data, batch_size: int | None) -> Iterator[tuple[slice | None, Data]]:
    """The data, ``batch_size`` rows of inputs and targets at a time, the last filled up; (None, data) for all at once.

    Raises
    ------
    ValueError
        For inputs that have no common first axis.
    """
    if batch_size is None:
        yield None, data
        return
    size = count()('batch_size', batch_size)
    rows, data = None, whole(data)
    leaves = jax.tree_util.tree_flatten_with_path({'inputs': (data.args, data.kwargs), 'targets': data.targets})[0]
    for where, leaf in leaves:
        if np.ndim(leaf):
            rows = np.shape(leaf)[0] if rows is None else rows
            if np.shape(leaf)[0] != rows:
                name = 'targets' if where[0].key == 'targets' else f'inputs{jax.tree_util.keystr(where[2:])}'
                raise ValueError(
                    f'With batch_size every input must be a scalar or have the {rows} rows as its first axis, but '
                    f'{name} has shape {np.shape(leaf)}. Leave batch_size out, or keep what is shared by all rows in '
                    'the model (nn.Const).'
                )
    if rows is None:
        raise ValueError('batch_size takes the rows of the inputs a few at a time, but there are no rows.')
    size = min(size, rows)
    for start in range(0, rows, size):
        index = np.minimum(np.arange(start, start + size), rows - 1)
        args, kwargs, targets = jax.tree.map(
            lambda x, i=index: x[i] if np.ndim(x) else x, (data.args, data.kwargs, data.targets)
        )
        yield slice(start, min(start + size, rows)), data._replace(args=args, kwargs=kwargs, targets=targets)


def first_batch(data: Data, batch_size: int | None) -> Data:
    """What is computed first of all rows."""
    return next(_batches(data, batch_size))[1]


def over_batches(data: Data, batch_size: int | None, compute: Callable[[Data], Any], axis: int) -> Any:
    """``compute(part of the data)``, whose rows are along ``axis``, put together for all rows."""
    pieces = []
    for where, part in _batches(data, batch_size):
        found = compute(part)
        if where is None:
            return found
        rows = next(np.shape(x)[0] for x in jax.tree.leaves((part.args, part.kwargs, part.targets)) if np.ndim(x))
        for x in jax.tree.leaves(found):
            if x.shape[axis : axis + 1] != (rows,):
                raise ValueError(
                    f'With batch_size each row must have a prediction of its own; {rows} rows gave one of shape '
                    f'{x.shape[axis:]}. Leave batch_size out.'
                )
        kept = (slice(None),) * axis + (slice(0, where.stop - where.start),)
        pieces.append(jax.tree.map(operator.itemgetter(kept), found))
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *pieces)


# What is computed


def constrain(density: Density, rows: np.ndarray, states: tuple) -> dict[str, np.ndarray]:
    """The constrained magnitudes by name at each row of flat vectors."""
    with precision_of(density):
        run = density.compiled(Density.constrain, in_axes=(0, None))
        return over_draws(lambda t: run(t, states), (rows,), rows_at_once(density))


def log_densities(density: Density, rows: np.ndarray, data: Data) -> np.ndarray:
    """The log density of theta at each row of flat vectors."""
    with precision_of(density):
        run = density.compiled(Density.log_density, in_axes=(0, None))
        return over_draws(lambda t: run(t, data), (rows,), draws_at_once_of(None, len(rows), density, data))


def pointwise_rows(density: Density) -> Callable:
    """The log-likelihood of each observation at rows of theta, compiled."""
    return density.compiled(Density.pointwise, in_axes=(0, None))


def class_rows(density: Density) -> Callable:
    """The log probability of each class at rows of theta, compiled."""
    return density.compiled(_log_probs_of_classes, in_axes=(0, None))


def _log_probs_of_classes(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    with density.open(theta, data) as model:
        return class_log_probs(model.distribution_of_each(data))


def log_likelihood(
    density: Density, rows: np.ndarray, data: Data, batch_size: int | None = None, draws_at_once: int | None = None
) -> np.ndarray:
    """The log-likelihood of each observation at each row of flat vectors."""
    with precision_of(density):
        run = pointwise_rows(density)

        def compute(part: Data) -> np.ndarray:
            return over_draws(
                lambda t: run(t, part), (rows,), draws_at_once_of(draws_at_once, len(rows), density, part)
            )

        return over_batches(data, batch_size, compute, axis=1)
