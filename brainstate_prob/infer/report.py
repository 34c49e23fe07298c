"""Report: what a check has found, in words, the worst first."""

from __future__ import annotations

import dataclasses
import html
from typing import Any, NamedTuple

__all__ = ['Finding', 'Report']

_ORDER = {'error': 0, 'warning': 1, 'unseen': 2, 'note': 3}


class Finding(NamedTuple):
    """One thing that was found; ``kind`` is ``'error'``, ``'warning'``, ``'note'`` or ``'unseen'``.

    ``'unseen'``: a diagnostic without which nothing is known could not be computed.
    """

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check has found. ``problems`` are the errors and warnings, in words.

    ``ok`` if nothing is wrong and enough could be looked at to say so.

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
        """Whether there is neither an error nor a warning, and enough could be looked at to say so."""
        return not self.problems and not self._unseen

    @property
    def problems(self) -> list[str]:
        """The texts of errors and warnings, errors first."""
        return [f.text for f in self._sorted() if f.kind in ('error', 'warning')]

    @property
    def notes(self) -> list[str]:
        """The texts of what is worth knowing but not wrong."""
        return [f.text for f in self.findings if f.kind in ('unseen', 'note')]

    @property
    def _unseen(self) -> bool:
        return any(f.kind == 'unseen' for f in self.findings)

    def _sorted(self) -> list[Finding]:
        return sorted(self.findings, key=lambda f: _ORDER[f.kind])

    def _head(self) -> str:
        count = len(self.problems)
        if count:
            return f'{self.title}: {count} problem{"s" * (count > 1)}'
        return f'{self.title}: {"too little could be looked at" if self._unseen else "no problems found"}'

    def __repr__(self) -> str:
        lines = [self._head(), *(f'  {_said(f)}: {f.text}' for f in self._sorted())]
        return '\n'.join([*lines, *([] if self.table is None else [str(self.table)])])

    def _repr_html_(self) -> str:
        items = ''.join(f'<li><b>{_said(f)}</b>: {html.escape(f.text)}</li>' for f in self._sorted())
        table = '' if self.table is None else self.table._repr_html_()
        return f'<p>{html.escape(self._head())}</p><ul>{items}</ul>{table}'


def _said(finding: Finding) -> str:
    return 'warning' if finding.kind == 'unseen' else finding.kind
