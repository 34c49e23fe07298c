"""A choice of rows that shows dependence between rows, and perturbed values of them.

Most rows of a sparse series are equal and carry no information. So rows with rare and extreme values are chosen, with
their neighbours, and some at random. Two perturbed versions of these rows follow: one with each column resampled from
its distinct values, so that rare values are frequent, and one with interpolated values, so that no two rows are equal.
Independent rows are independent for any values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import on_host

__all__ = ['VERSIONS', 'informative_rows', 'row_order', 'rows_of']

# The versions of the rows, in words: unchanged, resampled, and interpolated values.
VERSIONS = (
    '',
    ' (each column drawn anew from its values)',
    ' (each column drawn anew between its values)',
)

_COLUMNS, _SAMPLE, _RARE = 16, 4096, 64  # columns of an array that are examined, and values of each
_NEIGHBOURS = np.arange(-1, 4)  # a time series reads earlier rows


class _Column(NamedTuple):
    values: np.ndarray  # distinct ones
    rows: np.ndarray  # of rare and extreme values


def rows_of(data: Data, index: Any, num: int) -> Data:
    """The rows at ``index`` of every array with ``num`` rows; other leaves are unchanged."""
    return _with_rows(data, num, lambda x: x[index])


def informative_rows(rng: np.random.Generator, data: Data, num: int, size: int | None) -> tuple[np.ndarray, Data]:
    """About ``size`` rows, in order (all for None), and the data of them: once for each of `VERSIONS`, in a row."""
    columns = [_columns(rng, x, num) for x in _leaves(data, num)]
    rows = np.arange(num) if size is None or num <= size else _chosen(rng, columns, num, size)
    known = iter(columns)

    def versions(x: Any, mixed: bool) -> Any:
        columns_of_x, x = next(known), x[rows]
        if columns_of_x is None:
            order = rng.permutation(len(rows))
            return jnp.concatenate([x, x[order], x[order]])
        host = np.asarray(on_host(x))
        drawn = [host, _drawn(rng, host, columns_of_x), _drawn(rng, host, columns_of_x)]
        if mixed and jnp.issubdtype(host.dtype, jnp.floating):
            drawn[2] = _between(rng, drawn[2], _drawn(rng, host, columns_of_x)).astype(host.dtype)
        return np.concatenate(drawn)

    # In the order of `_leaves`. Targets are resampled only, so that integers stay integers.
    args, kwargs = _mapped((data.args, data.kwargs), num, lambda x: versions(x, True))
    targets = _mapped(data.targets, num, lambda x: versions(x, False))
    return rows, data._replace(args=args, kwargs=kwargs, targets=targets)


def row_order(rng: np.random.Generator, data: Data, num: int, version: int, sort: bool) -> np.ndarray:
    """An order of the ``num`` rows of a version: random, or from large to small values of some column."""
    order = rng.permutation(num)
    leaves = [x for x in _leaves(data, num * len(VERSIONS)) if _is_number(x)]
    if not sort or not leaves:
        return order
    leaf = np.asarray(on_host(leaves[rng.integers(len(leaves))])).reshape(len(VERSIONS), num, -1)[version]
    if not leaf.shape[1]:
        return order
    column = leaf[:, rng.integers(leaf.shape[1])].astype(np.float64)
    return order[np.argsort(-column[order], kind='stable')]


def _with_rows(data: Data, num: int, change: Any) -> Data:
    args, kwargs, targets = _mapped((data.args, data.kwargs, data.targets), num, change)
    return data._replace(args=args, kwargs=kwargs, targets=targets)


def _mapped(tree: Any, num: int, change: Any) -> Any:
    return jax.tree.map(lambda x: change(x) if np.shape(x)[:1] == (num,) else x, tree)


def _leaves(data: Data, num: int) -> list[Any]:
    leaves = jax.tree.leaves(((data.args, data.kwargs), data.targets))
    return [x for x in leaves if np.shape(x)[:1] == (num,)]


def _is_number(x: Any) -> bool:
    dtype = jnp.result_type(x)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


# Columns


def _columns(rng: np.random.Generator, x: Any, num: int) -> list[_Column] | None:
    """Some columns of an array, or all if they are few; None for arrays that are not real."""
    if not _is_number(x):
        return None
    wide = int(np.prod(np.shape(x)[1:]))
    which = np.arange(wide) if wide <= _COLUMNS else rng.choice(wide, _COLUMNS, replace=False)
    table = np.asarray(on_host(x.reshape(num, wide)[:, which]))
    if jnp.issubdtype(table.dtype, jnp.floating):
        table = table.astype(np.float64)  # NumPy can sort it in any precision
    return [_summarized(rng, column) for column in table.T]


def _summarized(rng: np.random.Generator, column: np.ndarray) -> _Column:
    sample = column if len(column) <= _SAMPLE else rng.choice(column, _SAMPLE)
    values, counts = np.unique(sample, return_counts=True)
    rows = np.array([np.argmin(column), np.argmax(column)])
    if 2 * counts.max() > len(sample):
        usual = values[np.argmax(counts)]
        rare = np.flatnonzero(column != usual)
        rare = rare if len(rare) <= _RARE else rng.choice(rare, _RARE, replace=False)
        rows = np.concatenate([rows, rare])
    return _Column(np.unique(np.concatenate([values, column[rows]])), rows)


def _chosen(rng: np.random.Generator, columns: list[list[_Column] | None], num: int, size: int) -> np.ndarray:
    """Rows of rare and extreme values with their neighbours, a block of successive rows, others at random; in order."""
    rare = [rng.permutation(column.rows) for of_array in columns for column in of_array or ()]
    chosen: dict[int, None] = {}
    for place in range(max(map(len, rare), default=0)):  # round robin over the columns
        for rows in rare:
            if place < len(rows) and len(chosen) + len(_NEIGHBOURS) <= size // 2:
                chosen.update(dict.fromkeys(np.clip(rows[place] + _NEIGHBOURS, 0, num - 1).tolist()))
    length = max(1, (size - len(chosen)) // 2)
    start = int(rng.integers(num - length + 1))
    chosen.update(dict.fromkeys(range(start, start + length)))
    rest = np.setdiff1d(rng.choice(num, min(num, 2 * size), replace=False), list(chosen))
    chosen.update(dict.fromkeys(rng.permutation(rest)[: size - len(chosen)].tolist()))
    return np.sort(np.array(list(chosen)))


# Perturbed values


def _drawn(rng: np.random.Generator, x: np.ndarray, columns: list[_Column]) -> np.ndarray:
    """Each column resampled from its distinct values, with the dtype and shape of ``x``."""
    flat = x.reshape(len(x), -1)
    if flat.shape[1] == len(columns):
        drawn = [rng.choice(column.values, len(x)) for column in columns]
        return np.stack(drawn, axis=1).astype(x.dtype).reshape(x.shape) if drawn else x
    out = rng.permuted(flat, axis=0)
    if jnp.issubdtype(x.dtype, jnp.floating):  # many columns share the values of some of them
        pool = np.unique(np.concatenate([column.values for column in columns]))
        out = np.where(rng.random(flat.shape) < 0.5, rng.choice(pool, flat.shape).astype(x.dtype), out)
    return out.reshape(x.shape)


def _between(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Random points between two values of a column, or between half of it and it if they are equal: no ties."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all='ignore'):
        return b + rng.random(a.shape) * (np.where(a == b, 0.5 * b, a) - b)
