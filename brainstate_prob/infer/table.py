"""A table with named rows and columns, as text and HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ['Table']


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with named rows and columns; ``table['mean']`` is a column, ``table['mean', 'w[0]']`` a number.

    Examples
    --------
    >>> import numpy as np
    >>> print(Table('Two numbers', ('a', 'b'), {'mean': np.array([1.0, 20.0]), 'unit': np.array(['Hz', '-'])}))
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
