"""The summary table of a fit, with one row per number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brainstate_prob.infer.density.variables import Variable
from brainstate_prob.infer.diagnostics.ess import effective_sizes
from brainstate_prob.infer.table import Table

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['row_names', 'summarize']


def row_names(variable: Variable, coords: dict[str, np.ndarray]) -> list[str]:
    """The label of each number of a parameter: ``name``, ``name[0,1]``, or with named dims ``name[group=a]``."""
    if not variable.shape:
        return [variable.name]

    def label(axis: int, i: int) -> str:
        if variable.dims is None:
            return str(i)
        dim = variable.dims[axis]
        return f'{dim}={coords[dim][i]}' if dim in coords else f'{dim}={i}'

    return [
        f'{variable.name}[{",".join(label(axis, i) for axis, i in enumerate(index))}]'
        for index in np.ndindex(variable.shape)
    ]


def summarize(fit: Fit, prob: float = 0.9) -> Table:
    """See `Fit.summary`."""
    rows = tuple(name for v in fit.variables for name in row_names(v, fit.coords))
    units = np.array(
        ['-' if v.parsed_unit.is_unitless else v.unit for v in fit.variables for _ in range(int(np.prod(v.shape)))],
        dtype=str,
    )
    values = [m.reshape(*m.shape[:2], -1) for m in fit.magnitudes.values()]
    dtype = np.result_type(*values)
    numbers = np.concatenate([v.astype(np.float64 if dtype.itemsize < 8 else dtype) for v in values], axis=2)
    if numbers.shape[:2] == (1, 1):
        return Table(f'{fit.method}: one point', rows, {'estimate': numbers[0, 0], 'unit': units})
    flat = numbers.reshape(-1, numbers.shape[2])
    weights = None if fit.weights is None else np.ravel(fit.weights)
    mean = np.average(flat, axis=0, weights=weights)
    # The weighted spread; without weights the unbiased estimate, as in ArviZ.
    sd = (
        np.std(flat, axis=0, ddof=1)
        if weights is None
        else np.sqrt(np.average((flat - mean) ** 2, axis=0, weights=weights))
    )
    tails = [(1 - prob) / 2, (1 + prob) / 2]
    lower, upper = (
        np.quantile(flat, tails, axis=0)
        if weights is None
        else np.quantile(flat, tails, axis=0, weights=weights, method='inverted_cdf')
    )
    columns = {'mean': mean, 'sd': sd, 'lower': lower, 'upper': upper}
    if fit.is_markov and fit.weights is None:
        columns |= effective_sizes(numbers)
    size = f'{fit.num_chains} x {fit.num_draws} draws' if fit.num_chains > 1 else f'{fit.num_draws} draws'
    title = f'{fit.method}: {size}; lower and upper bound the central {100 * prob:g} % (equal-tailed)'
    return Table(title, rows, {**columns, 'unit': units})
