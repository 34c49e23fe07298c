"""Functions of many draws in bounded memory: chunks of draws and of inputs, results kept on the host."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ, random
from brainstate_prob.core import StateTrace
from brainstate_prob.core.quantities import with_unit
from brainstate_prob.infer.classes import class_log_probs, precision_of
from brainstate_prob.infer.density import Data, Density, code_key
from brainstate_prob.infer.observations import refuse_joint, refuse_unconditional
from brainstate_prob.infer.options import choice, count
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.sharding import on_host, whole
from brainstate_prob.infer.start import to_key
from brainstate_prob.infer.target.rows import check_rows

if TYPE_CHECKING:
    from brainstate_prob.infer.fit import Fit

__all__ = [
    'Interval',
    'check_parts',
    'choose',
    'constrain',
    'data_for',
    'drawn',
    'evaluate',
    'first_batch',
    'interval_of',
    'log_densities',
    'log_likelihood',
    'over_draws',
    'precision_of',
    'predict',
    'rows_at_once',
]

KINDS = ('draws', 'mean', 'interval', 'log_density', 'probabilities')

# At most: more are hardly faster, and few draws are filled up to as many.
_CHUNK = 64
# Numbers of theta, or of the largest input or target, over all draws of a chunk: on a CPU they stay in its cache (1 MB
# in float32, three times as fast as 16 MB).
_NUMBERS = {'cpu': 2**18}
_NUMBERS_ELSEWHERE = 2**22


class Interval(NamedTuple):
    """Predictions in short: the mean of the draws and the bounds of their central (equal-tailed) interval."""

    mean: Any
    lower: Any
    upper: Any


# Chunks of draws


def _chunks(run: Callable, arrays: tuple[np.ndarray, ...], size: int) -> Iterator[tuple[slice, Any]]:
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
    for where, part in _chunks(run, arrays, size):
        if out is None:
            out = jax.tree.map(lambda x: np.empty((len(arrays[0]), *x.shape[1:]), x.dtype), part)
        jax.tree.map(lambda whole, x, at=where: whole.__setitem__(at, x), out, part)
    return out


def choose(num_draws: int, total: int, weights: np.ndarray | None) -> np.ndarray:
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


def _draws_at_once(asked: int | None, num: int, density: Density, data: Data) -> int:
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


def check_parts(posterior: Posterior, data: Data, batch_size: int | None, *, predicted: bool) -> None:
    """Refuse to compute rows in parts where they depend on each other: see `check_rows`."""
    if batch_size is None:
        return
    shapes = [np.shape(x) for x in jax.tree.leaves(whole((data.args, data.kwargs, data.targets)))]
    lengths = {shape[0] for shape in shapes if shape}
    if len(lengths) != 1:
        return  # an error of `_batches`
    if batch_size < max(lengths):
        with precision_of(posterior.density):
            fix = 'Leave batch_size out.'
            check_rows(posterior, data, max(lengths), 'batch_size=', fix, predicted=predicted, most=batch_size)


def _over_batches(data: Data, batch_size: int | None, compute: Callable[[Data], Any], axis: int) -> Any:
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
        run = density.jit('constrain_rows', None, lambda: jax.vmap(density.constrain, in_axes=(0, None)))
        return over_draws(lambda t: run(t, states), (rows,), rows_at_once(density))


def log_densities(density: Density, rows: np.ndarray, data: Data) -> np.ndarray:
    """The log density of theta at each row of flat vectors."""
    with precision_of(density):
        run = density.jit(
            'log_density_rows', environ.static_key(), lambda: jax.vmap(density.log_density, in_axes=(0, None))
        )
        return over_draws(lambda t: run(t, data), (rows,), _draws_at_once(None, len(rows), density, data))


def _pointwise(density: Density) -> Callable:
    return density.jit('pointwise_rows', environ.static_key(), lambda: jax.vmap(density.pointwise, in_axes=(0, None)))


def _class_rows(density: Density) -> Callable:
    def one(theta: jax.Array, data: Data) -> jax.Array:
        with density.open(theta, data):
            return class_log_probs(density.distribution(data))

    return density.jit('class_rows', environ.static_key(), lambda: jax.vmap(one, in_axes=(0, None)))


def log_likelihood(
    density: Density, rows: np.ndarray, data: Data, batch_size: int | None = None, draws_at_once: int | None = None
) -> np.ndarray:
    """The log-likelihood of each observation at each row of flat vectors."""
    with precision_of(density):
        run = _pointwise(density)

        def compute(part: Data) -> np.ndarray:
            return over_draws(lambda t: run(t, part), (rows,), _draws_at_once(draws_at_once, len(rows), density, part))

        return _over_batches(data, batch_size, compute, axis=1)


def evaluate(fit: Fit, function: Callable, args: tuple, num_draws: int | None, draws_at_once: int | None) -> Any:
    """See `Fit.evaluate`."""
    posterior, density = fit.posterior_for('evaluate'), fit.density
    with precision_of(density):
        rows = _rows(fit, num_draws)
        args = jax.tree.map(jnp.asarray, args)

        def one(theta: jax.Array, data: Data, args: tuple) -> Any:
            return density.evaluate(function, theta, data, args)

        # What the function does depends on the methods of the model, too.
        key = (function, code_key(density.model))
        run = density.jit('evaluate_rows', key, lambda: jax.vmap(one, in_axes=(0, None, None)))
        size = _draws_at_once(draws_at_once, len(rows), density, posterior.data)
        return over_draws(lambda t: run(t, posterior.data, args), (rows,), size)


def _rows(fit: Fit, num_draws: int | None) -> np.ndarray:
    if num_draws is None and fit.weights is None:
        return fit.rows
    total = fit.num_chains * fit.num_draws
    number = total if num_draws is None else count()('num_draws', num_draws)
    return fit.rows[choose(number, total, fit.weights)]


def _enough(fit: Fit) -> int:
    """How many draws of the targets a quantile needs: those of the fit, each often enough to make up a thousand."""
    total = fit.num_chains * fit.num_draws
    return total * -(-1000 // total)


def _drawing(density: Density, kind: str) -> Callable:
    def one(theta: jax.Array, index: jax.Array, key: jax.Array, data: Data) -> jax.Array:
        noise, sample = jax.random.split(jax.random.fold_in(key, index))
        with StateTrace() as outer:  # a model that draws random numbers (dropout) draws others for each row
            outer.bind(random.DEFAULT, noise)
            return density.predict(theta, data, sample) if kind == 'draws' else density.predict_mean(theta, data)

    return jax.vmap(one, in_axes=(0, 0, None, None))


def predict(
    fit: Fit,
    inputs: Any,
    targets: Any,
    num_draws: int | None,
    batch_size: int | None,
    draws_at_once: int | None,
    seed: Any,
    kind: str,
    prob: float,
) -> Any:
    """See `Fit.predict`."""
    posterior, density = fit.posterior_for('predict'), fit.density
    choice(*KINDS)('kind', kind)
    if posterior.log_likelihood_function is not None and kind != 'log_density':
        raise ValueError(
            'This posterior scores data by log_likelihood=f, which says nothing about how targets are drawn. '
            'Give the Posterior likelihood=f with f(model, *inputs) -> distribution.'
        )
    if targets is not None and kind != 'log_density':
        raise ValueError(f"targets are scored by kind='log_density'; kind={kind!r} predicts them. Drop targets=.")
    with precision_of(density):
        data = data_for(posterior, inputs, targets, scored=kind == 'log_density')
        if kind == 'log_density':
            refuse_joint(fit, first_batch(data, batch_size), "kind='log_density'")
        else:
            refuse_unconditional(fit, inputs, first_batch(data, batch_size), batch_size, kind)
        if kind in ('log_density', 'probabilities'):
            check_parts(posterior, data, batch_size, predicted=kind == 'probabilities')
            log_weights = None
            if num_draws is None and fit.weights is not None:
                rows = fit.rows
                with np.errstate(divide='ignore'):
                    log_weights = np.log(np.ravel(fit.weights).astype(np.float64) / np.sum(fit.weights))
            else:
                rows = _rows(fit, num_draws)
            run = _pointwise(density) if kind == 'log_density' else _class_rows(density)

            def score(part: Data) -> np.ndarray:
                size = _draws_at_once(draws_at_once, len(rows), density, part)
                return _log_mixture(run, rows, part, size, log_weights)

            out = _over_batches(data, batch_size, score, axis=0)
            return out if kind == 'log_density' else np.exp(out)
        sizes = {'num_draws': num_draws, 'batch_size': batch_size, 'draws_at_once': draws_at_once, 'seed': seed}
        if kind == 'interval':
            found = drawn(fit, data, lambda draws, _: interval_of(draws, prob), **sizes)
            return Interval(*(with_unit(x, posterior.targets_unit) for x in found))
        out = drawn(fit, data, None, mean=kind == 'mean', **sizes)
    if kind == 'mean' and np.isnan(out).all():
        raise ValueError("The predicted distribution has no mean (a categorical or Cauchy one, say). Use kind='draws'.")
    return with_unit(out, posterior.targets_unit)


def data_for(posterior: Posterior, inputs: Any, targets: Any, *, scored: bool) -> Data:
    """The posterior's data with new inputs or targets.

    Raises
    ------
    ValueError
        Where targets are to be scored and there are none.
    """
    data = posterior.data
    if targets is not None:
        data = data._replace(targets=posterior.targets_of(targets))
    if inputs is not None:
        args, kwargs = posterior.inputs_of(inputs)
        if targets is None and scored:
            raise ValueError('What scores targets (log_density, score) needs those of the new inputs: give targets=.')
        data = data._replace(args=args, kwargs=kwargs, targets=None if targets is None else data.targets)
    if scored and data.targets is None:
        raise ValueError('What scores targets (log_density, score) needs some, and this posterior has none: targets=.')
    return data


def drawn(
    fit: Fit,
    data: Data,
    reduce: Callable[[np.ndarray, Data], Any] | None,
    *,
    num_draws: int | None,
    batch_size: int | None,
    draws_at_once: int | None,
    seed: Any,
    mean: bool = False,
) -> Any:
    """Draws of the targets (or their means), or what ``reduce(draws, data)`` makes of them, batch by batch of rows."""
    density = fit.density
    if num_draws is None and reduce is not None:
        num_draws = _enough(fit)
    with precision_of(density):
        check_parts(fit.posterior_for('predict'), data, batch_size, predicted=True)
        rows, root = _rows(fit, num_draws), to_key(seed)
        index = np.arange(len(rows), dtype=np.int32)
        run = density.jit(
            'predict_rows', (mean, environ.static_key()), lambda: _drawing(density, 'mean' if mean else 'draws')
        )
        batches = itertools.count()

        def draw(part: Data) -> Any:
            batch = next(batches)  # other noise for each batch of rows; the first one has that of all rows at once
            key = root if batch == 0 else jax.random.fold_in(root, batch)
            size = _draws_at_once(draws_at_once, len(rows), density, part)
            draws = over_draws(lambda t, i: run(t, i, key, part), (rows, index), size)
            return draws if reduce is None else reduce(draws, part)

        return _over_batches(data, batch_size, draw, axis=1 if reduce is None else 0)


def interval_of(draws: np.ndarray, prob: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper bound of the central interval of draws along the first axis."""
    exact = draws.astype(np.float32) if draws.dtype.kind in 'biu' or draws.dtype.itemsize < 4 else draws
    lower, upper = np.quantile(exact, [(1 - prob) / 2, (1 + prob) / 2], axis=0)
    return exact.mean(0, dtype=np.float64).astype(exact.dtype), lower.astype(exact.dtype), upper.astype(exact.dtype)


def _log_mixture(
    run: Callable, rows: np.ndarray, data: Data, size: int, log_weights: np.ndarray | None = None
) -> np.ndarray:
    """The log of the mean over draws of exp(``run``), added up chunk by chunk: that of a mixture's density."""
    total: Any = -np.inf
    dtype: Any = None
    if log_weights is None:
        log_weights = np.full(len(rows), -np.log(len(rows)))
    for where, part in _chunks(lambda t: run(t, data), (rows,), size):
        dtype = part.dtype
        each = part.astype(np.float64) + log_weights[where].reshape(-1, *[1] * (part.ndim - 1))
        total = np.logaddexp(total, np.logaddexp.reduce(each, axis=0))
    return total.astype(dtype)
