"""Report: what a check has found, in words, the worst first."""

from __future__ import annotations

import dataclasses
import html
from typing import Any, NamedTuple

__all__ = ['Finding', 'Report']

_ORDER = {'error': 0, 'warning': 1, 'note': 2}


class Finding(NamedTuple):
    """One thing that was found; ``kind`` is ``'error'``, ``'warning'`` or ``'note'``."""

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check has found. ``ok`` if nothing is wrong; ``problems`` are the errors and warnings, in words.

    Examples
    --------
    >>> report = Report('Model', (Finding('note', 'Two Params have no prior.'),))
    >>> report.ok, report.problems
    (True, [])
    >>> report
    Model: no problems found
      note: Two Params have no prior.
    """

    title: str
    findings: tuple[Finding, ...]
    table: Any = None

    @property
    def ok(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """The texts of errors and warnings, errors first."""
        return [f.text for f in self._sorted() if f.kind != 'note']

    @property
    def notes(self) -> list[str]:
        """The texts of what is worth knowing but not wrong."""
        return [f.text for f in self.findings if f.kind == 'note']

    def _sorted(self) -> list[Finding]:
        return sorted(self.findings, key=lambda f: _ORDER[f.kind])

    def _head(self) -> str:
        count = len(self.problems)
        return f'{self.title}: {f"{count} problem{chr(115) * (count > 1)}" if count else "no problems found"}'

    def __repr__(self) -> str:
        lines = [self._head(), *(f'  {f.kind}: {f.text}' for f in self._sorted())]
        return '\n'.join([*lines, *([] if self.table is None else [str(self.table)])])

    def _repr_html_(self) -> str:
        items = ''.join(f'<li><b>{f.kind}</b>: {html.escape(f.text)}</li>' for f in self._sorted())
        table = '' if self.table is None else self.table._repr_html_()
        return f'<p>{html.escape(self._head())}</p><ul>{items}</ul>{table}'
