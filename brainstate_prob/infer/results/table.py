"""The table of a fit: one row a number, as text and HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.infer.density.variables import Variable
from brainstate_prob.infer.diagnostics.ess import effective_sizes

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['FitSummary', 'summarize']


@dataclasses.dataclass(frozen=True)
class FitSummary:
    """A table with named rows and columns; ``table['mean']`` is a column, ``table['mean', 'w[0]']`` a number.

    Examples
    --------
    >>> import numpy as np
    >>> print(FitSummary('Two numbers', ('a', 'b'), {'mean': np.array([1.0, 20.0]), 'unit': np.array(['Hz', '-'])}))
    Two numbers
       mean  unit
    a     1  Hz
    b    20  -
    """

    title: str
    rows: tuple[str, ...]
    columns: dict[str, np.ndarray]

    def __getitem__(self, key: str | tuple[str, str]) -> Any:
        column, row = key if isinstance(key, tuple) else (key, None)
        if column not in self.columns:
            raise KeyError(f'There is no column {column!r}; there are {list(self.columns)}.')
        if row is None:
            return self.columns[column]
        if row not in self.rows:
            raise KeyError(f'There is no row {row!r}; there are {list(self.rows)}.')
        return self.columns[column][self.rows.index(row)]

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """``{row: {column: value}}`` with plain Python values."""
        return {
            row: {name: column[i].item() for name, column in self.columns.items()} for i, row in enumerate(self.rows)
        }

    def _cells(self) -> Iterator[list[str]]:
        formatted = [_format(name, column) for name, column in self.columns.items()]
        return ([row, *(column[i] for column in formatted)] for i, row in enumerate(self.rows))

    def __str__(self) -> str:
        lines = [['', *self.columns], *self._cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        left = [True, *(column.dtype.kind == 'U' for column in self.columns.values())]
        text = [
            '  '.join(
                cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(line, widths, left, strict=True)
            )
            for line in lines
        ]
        return '\n'.join(line.rstrip() for line in [self.title, *text])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = ''.join(f'<th>{name}</th>' for name in ['', *self.columns])
        body = ''.join(
            '<tr>'
            + ''.join(
                f'<td style="text-align:{"right" if i else "left"}">{html.escape(cell)}</td>'
                for i, cell in enumerate(line)
            )
            + '</tr>'
            for line in self._cells()
        )
        return f'<p>{html.escape(self.title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _format(name: str, column: np.ndarray) -> list[str]:
    if column.dtype.kind == 'U':
        return [str(cell) for cell in column]
    if name.startswith('ess'):
        return ['-' if np.isnan(x) else f'{x:.0f}' for x in column]
    if name == 'r_hat':
        return ['-' if np.isnan(x) else f'{x:.3f}' for x in column]
    return [f'{x:.4g}' for x in column]


def row_names(variable: Variable, coords: dict[str, np.ndarray]) -> list[str]:
    """``name``, ``name[0,1]``, or with named dims ``name[group=a]``, for each number of a parameter."""
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


def summarize(fit: Fit, prob: float = 0.9) -> FitSummary:
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
        return FitSummary(f'{fit.method}: one point', rows, {'estimate': numbers[0, 0], 'unit': units})
    flat = numbers.reshape(-1, numbers.shape[2])
    weights = None if fit.weights is None else np.ravel(fit.weights)
    mean = np.average(flat, axis=0, weights=weights)
    # With weights the sample's own spread; without, the unbiased one that ArviZ gives too.
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
    return FitSummary(title, rows, {**columns, 'unit': units})
