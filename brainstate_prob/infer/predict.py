"""Functions of many draws in bounded memory: a compiled program a chunk of draws, results kept on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ, random
from brainstate_prob.core import StateTrace
from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.posterior import _call_arguments, _refuse_nan
from brainstate_prob.infer.start import to_key
from brainstate_prob.nn.magnitudes import with_unit

if TYPE_CHECKING:
    from brainstate_prob.infer.fit import Fit

__all__ = [
    'choose',
    'constrain',
    'evaluate',
    'log_densities',
    'log_likelihood',
    'over_draws',
    'precision_of',
    'predict',
]

_CHUNK = 1024
# Numbers of the largest input or target over all draws of a chunk: on a CPU they stay in its cache (1 MB in float32,
# three times as fast as 16 MB).
_NUMBERS = {'cpu': 2**18}
_NUMBERS_ELSEWHERE = 2**22


def precision_of(density: Density) -> contextlib.AbstractContextManager:
    """Double precision for what was fitted in it: outside, JAX would silently halve its digits."""
    return jax.enable_x64(True) if density.dtype == jnp.float64 else contextlib.nullcontext()


def over_draws(run: Callable, arrays: tuple[np.ndarray, ...], batch_size: int) -> Any:
    """``run`` over the rows of ``arrays``, at most ``batch_size`` at a time; NumPy arrays with one row a row.

    The last chunk is filled up, and few rows are filled up to a power of two, so that few shapes are ever compiled.
    """
    num = len(arrays[0])
    size = min(batch_size, 1 << (num - 1).bit_length())
    out = None
    for start in range(0, num, size):
        rows = [a[start : start + size] for a in arrays]
        have = len(rows[0])
        filled = [np.concatenate([r, np.repeat(r[-1:], size - have, axis=0)]) for r in rows] if have < size else rows
        part = jax.device_get(run(*filled))
        if out is None:
            out = jax.tree.map(lambda x: np.empty((num, *x.shape[1:]), x.dtype), part)
        jax.tree.map(
            lambda all_rows, x, at=slice(start, start + have), n=have: all_rows.__setitem__(at, x[:n]), out, part
        )
    return out


def choose(num_draws: int, total: int, weights: np.ndarray | None) -> np.ndarray:
    """Which of ``total`` draws serve ``num_draws`` times: evenly spread, in proportion to their weights."""
    position = (np.arange(num_draws) + 0.5) / num_draws
    if weights is None:
        return np.floor(position * total).astype(int)
    cumulative = np.cumsum(np.ravel(weights))
    return np.searchsorted(cumulative / cumulative[-1], position).clip(max=total - 1)


def _chunk_size(batch_size: int | None, data: Data) -> int:
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(
                f'batch_size is how many draws are computed at a time, an int of at least 1; got {batch_size!r}.'
            )
        return int(batch_size)
    largest = max([np.size(x) for x in jax.tree.leaves((data.args, data.kwargs, data.targets))], default=1)
    numbers = _NUMBERS.get(jax.default_backend(), _NUMBERS_ELSEWHERE)
    return 1 << max(0, min(_CHUNK, numbers // max(1, largest)).bit_length() - 1)


def constrain(density: Density, rows: np.ndarray, states: tuple) -> dict[str, np.ndarray]:
    """The constrained magnitudes by name at each row of flat vectors."""
    with precision_of(density):
        run = density.jit('constrain_rows', None, lambda: jax.vmap(density.constrain, in_axes=(0, None)))
        return over_draws(lambda t: run(t, states), (rows,), _CHUNK)


def log_densities(density: Density, rows: np.ndarray, data: Data) -> np.ndarray:
    """The log density of theta at each row of flat vectors."""
    with precision_of(density):
        run = density.jit(
            'log_density_rows', environ.static_key(), lambda: jax.vmap(density.log_density, in_axes=(0, None))
        )
        return over_draws(lambda t: run(t, data), (rows,), _chunk_size(None, data))


def log_likelihood(density: Density, rows: np.ndarray, data: Data, batch_size: int | None) -> np.ndarray:
    """The log-likelihood of each observation at each row of flat vectors."""
    with precision_of(density):
        run = density.jit(
            'pointwise_rows', environ.static_key(), lambda: jax.vmap(density.pointwise, in_axes=(0, None))
        )
        return over_draws(lambda t: run(t, data), (rows,), _chunk_size(batch_size, data))


def evaluate(fit: Fit, function: Callable, args: tuple, num_draws: int | None, batch_size: int | None) -> Any:
    """See `Fit.evaluate`."""
    posterior, density = fit.posterior_for('evaluate'), fit.density
    total = fit.num_chains * fit.num_draws
    with precision_of(density):
        rows = fit.rows if num_draws is None else fit.rows[choose(num_draws, total, fit.weights)]
        run = density.jit(
            'evaluate_rows',
            (function, environ.static_key()),
            lambda: jax.vmap(lambda t, data, a: density.evaluate(function, t, data, a), in_axes=(0, None, None)),
        )
        args = jax.tree.map(jnp.asarray, args)
        return over_draws(lambda t: run(t, posterior.data, args), (rows,), _chunk_size(batch_size, posterior.data))


def _drawing(density: Density, kind: str) -> Callable:
    def one(theta: jax.Array, index: jax.Array, key: jax.Array, data: Data) -> jax.Array:
        noise, sample = jax.random.split(jax.random.fold_in(key, index))
        with StateTrace() as outer:  # a model that draws random numbers (dropout) draws others for each row
            outer.bind(random.DEFAULT, noise)
            return density.predict(theta, data, sample) if kind == 'draws' else density.predict_mean(theta, data)

    return jax.vmap(one, in_axes=(0, 0, None, None))


def predict(fit: Fit, inputs: Any, num_draws: int | None, batch_size: int | None, seed: Any, kind: str) -> Any:
    """See `Fit.predict`."""
    posterior, density = fit.posterior_for('predict'), fit.density
    if kind not in ('draws', 'mean'):
        raise ValueError(f"kind must be 'draws' or 'mean', got {kind!r}.")
    if posterior.log_likelihood_function is not None:
        raise ValueError(
            'This posterior scores data by log_likelihood=f, which says nothing about how targets are drawn. '
            'Give the Posterior likelihood=f with f(model, *inputs) -> distribution.'
        )
    total = fit.num_chains * fit.num_draws
    if num_draws is not None and (
        isinstance(num_draws, bool) or not isinstance(num_draws, int | np.integer) or num_draws < 1
    ):
        raise ValueError(
            f'num_draws must be an int of at least 1, or None for one a posterior draw; got {num_draws!r}.'
        )
    with precision_of(density):
        data = posterior.data
        if inputs is not None:
            args, kwargs = _call_arguments(inputs)
            for where, leaf in jax.tree_util.tree_flatten_with_path((args, kwargs))[0]:
                _refuse_nan(leaf, 'inputs' + jax.tree_util.keystr(where[1:]))
            data = data._replace(args=args, kwargs=kwargs, targets=None)
        number = total if num_draws is None else int(num_draws)
        rows = fit.rows[choose(number, total, fit.weights)]
        run = density.jit('predict_rows', (kind, environ.static_key()), lambda: _drawing(density, kind))
        key = to_key(seed)
        out = over_draws(
            lambda t, i: run(t, i, key, data), (rows, np.arange(number, dtype=np.int32)), _chunk_size(batch_size, data)
        )
    if kind == 'mean' and np.isnan(out).all():
        raise ValueError("The predicted distribution has no mean (a categorical or Cauchy one, say). Use kind='draws'.")
    return with_unit(out, posterior.targets_unit)
