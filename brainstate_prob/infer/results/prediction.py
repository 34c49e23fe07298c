"""Predictions of a fit: draws, means, intervals, densities and class probabilities; functions of its draws."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import random
from brainstate_prob.core import StateTrace
from brainstate_prob.core.quantities import with_unit
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.batching import (
    chosen_draws,
    class_rows,
    draws_at_once_of,
    first_batch,
    in_chunks,
    over_batches,
    over_draws,
    pointwise_rows,
)
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.code import present_code
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.results.observations import refuse_joint, refuse_unconditional
from brainstate_prob.infer.rules import choice, count
from brainstate_prob.infer.target.data import new_arguments
from brainstate_prob.infer.target.indices import refuse_out_of_range
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.rows import check_parts
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.words import misfit

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['Interval', 'data_for', 'drawn', 'evaluate', 'interval_of', 'predict']

KINDS = ('draws', 'mean', 'interval', 'log_density', 'probabilities')


class Interval(NamedTuple):
    """The mean of predictive draws and the bounds of their central (equal-tailed) interval."""

    mean: Any
    lower: Any
    upper: Any


def evaluate(fit: Fit, function: Callable, args: tuple, num_draws: int | None, draws_at_once: int | None) -> Any:
    """See `Fit.evaluate`."""
    posterior, density = fit.posterior_for('evaluate'), fit.density
    with precision_of(density):
        rows = _rows(fit, num_draws)
        args = jax.tree.map(jnp.asarray, args)
        # The function may call methods of the model.
        code = present_code(density.model)
        run = density.compiled(_evaluated, in_axes=(0, None, None), function=function, code=code)
        size = draws_at_once_of(draws_at_once, len(rows), density, posterior.data)
        return over_draws(lambda t: run(t, posterior.data, args), (rows,), size)


def _evaluated(
    density: Density, theta: jax.Array, data: Data, args: tuple, *, function: Callable, code: Hashable
) -> Any:
    del code  # tells programs apart
    return density.evaluate(function, theta, data, args)


def _rows(fit: Fit, num_draws: int | None) -> np.ndarray:
    if num_draws is None and fit.weights is None:
        return fit.rows
    total = fit.num_chains * fit.num_draws
    number = total if num_draws is None else count()('num_draws', num_draws)
    return fit.rows[chosen_draws(number, total, fit.weights)]


def _enough(fit: Fit) -> int:
    """The number of draws for quantiles: those of the fit, repeated to reach a thousand."""
    total = fit.num_chains * fit.num_draws
    return total * -(-1000 // total)


def _drawn_one(
    density: Density, theta: jax.Array, index: jax.Array, key: jax.Array, data: Data, *, mean: bool
) -> jax.Array:
    noise, sample = jax.random.split(jax.random.fold_in(key, index))
    with StateTrace() as outer:  # a model with random numbers (dropout) draws others for each row
        outer.bind(random.DEFAULT, noise)
        return density.predict_mean(theta, data) if mean else density.predict(theta, data, sample)


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
            'This posterior scores data by log_likelihood=f, which does not define how to draw targets. '
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
            run = pointwise_rows(density) if kind == 'log_density' else class_rows(density)

            def score(part: Data) -> np.ndarray:
                size = draws_at_once_of(draws_at_once, len(rows), density, part)
                return _log_mixture(run, rows, part, size, log_weights)

            out = over_batches(data, batch_size, score, axis=0)
            return out if kind == 'log_density' else np.exp(out)
        sizes = {'num_draws': num_draws, 'batch_size': batch_size, 'draws_at_once': draws_at_once, 'seed': seed}
        if kind == 'interval':
            intervals = drawn(fit, data, lambda draws, _: interval_of(draws, prob), **sizes)
            return Interval(*(with_unit(x, posterior.targets_unit) for x in intervals))
        out = drawn(fit, data, None, mean=kind == 'mean', **sizes)
    if kind == 'mean' and not np.isfinite(out).any():
        raise ValueError(
            'The predicted distribution has no mean (a categorical or Cauchy one, or StudentT with df of at most 1, '
            "say). Use kind='draws'."
        )
    return with_unit(out, posterior.targets_unit)


@contextlib.contextmanager
def rows_explained(fit: Fit, inputs: Any) -> Iterator[None]:
    """Explain why a model with a parameter per fitted row does not accept other rows.

    Raises
    ------
    ValueError
        In place of JAX's error about shapes, which is its cause.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if inputs is None or fit.posterior is None:
            raise
        why = misfit(error, fit.posterior.entries, fit.posterior.num_observations)
        if why is None:
            raise
        if columns := _other_columns(fit.posterior, inputs):
            raise ValueError(f'The model cannot be called with these inputs: {columns}.') from error
        raise ValueError(
            f'The model cannot be called with these inputs: {why}. Let an input select the parameter of each row (an '
            'index, self.z.value()[group]); for rows without a parameter in the fit compute predictions by '
            'fit.evaluate(f, inputs), with f(model, inputs).'
        ) from error


def _other_columns(posterior: Posterior, inputs: Any) -> str:
    """The inputs that differ from the fitted ones in more than the number of rows."""
    before, now = (posterior.data.args, posterior.data.kwargs), posterior.inputs_of(inputs)
    leaves, form = jax.tree_util.tree_flatten_with_path(now[0] or now[1])
    old_leaves, old_form = jax.tree.flatten(before[0] or before[1])
    if str(form) != str(old_form):
        return ''
    pairs = zip(leaves, old_leaves, strict=True)
    return '; '.join(
        f'inputs{jax.tree_util.keystr(where)} has shape {np.shape(new)} where {np.shape(old)} was fitted'
        for (where, new), old in pairs
        if np.shape(new)[1:] != np.shape(old)[1:]
    )


def data_for(posterior: Posterior, inputs: Any, targets: Any, *, scored: bool) -> Data:
    """The posterior's data with new inputs or targets.

    Raises
    ------
    ValueError
        If targets are to be scored and there are none.
    """
    data = posterior.data
    if targets is not None:
        data = data._replace(targets=posterior.targets_of(targets))
    if inputs is not None:
        args, kwargs = new_arguments(posterior.data, inputs)
        if targets is None and scored:
            raise ValueError('What scores targets (log_density, score) needs those of the new inputs: give targets=.')
        data = data._replace(args=args, kwargs=kwargs, targets=None if targets is None else data.targets)
        refuse_out_of_range(posterior.density, posterior.theta, data, new=True)
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
    """Draws of the targets (or their means), or ``reduce(draws, data)`` of them, by batches of rows."""
    density = fit.density
    if num_draws is None and reduce is not None:
        num_draws = _enough(fit)
    with precision_of(density):
        check_parts(fit.posterior_for('predict'), data, batch_size, predicted=True)
        rows, root = _rows(fit, num_draws), to_key(seed)
        index = np.arange(len(rows), dtype=np.int32)
        run = density.compiled(_drawn_one, in_axes=(0, 0, None, None), mean=mean)
        batches = itertools.count()

        def draw(part: Data) -> Any:
            batch = next(batches)  # other noise for each batch of rows; the first has that of all rows at once
            key = root if batch == 0 else jax.random.fold_in(root, batch)
            size = draws_at_once_of(draws_at_once, len(rows), density, part)
            draws = over_draws(lambda t, i: run(t, i, key, part), (rows, index), size)
            return draws if reduce is None else reduce(draws, part)

        return over_batches(data, batch_size, draw, axis=1 if reduce is None else 0)


def interval_of(draws: np.ndarray, prob: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper bound of the central interval of draws along the first axis."""
    exact = draws.astype(np.float32) if draws.dtype.kind in 'biu' or draws.dtype.itemsize < 4 else draws
    lower, upper = np.quantile(exact, [(1 - prob) / 2, (1 + prob) / 2], axis=0)
    return exact.mean(0, dtype=np.float64).astype(exact.dtype), lower.astype(exact.dtype), upper.astype(exact.dtype)


def _log_mixture(
    run: Callable, rows: np.ndarray, data: Data, size: int, log_weights: np.ndarray | None = None
) -> np.ndarray:
    """The log of the mean over draws of exp(``run``), accumulated by chunks: a mixture's log density."""
    total: Any = -np.inf
    dtype: Any = None
    if log_weights is None:
        log_weights = np.full(len(rows), -np.log(len(rows)))
    for where, part in in_chunks(lambda t: run(t, data), (rows,), size):
        dtype = part.dtype
        each = part.astype(np.float64) + log_weights[where].reshape(-1, *[1] * (part.ndim - 1))
        total = np.logaddexp(total, np.logaddexp.reduce(each, axis=0))
    return total.astype(dtype)
