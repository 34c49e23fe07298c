"""Tables of which the quick suite takes some rows, and the slow one the rest."""

import pytest


def slow_rows(rows, slow):
    """The rows for `parametrize`, those named in `slow` marked so: `make test` leaves them out."""
    missing = [name for name in slow if name not in rows]
    if missing:
        raise ValueError(f'no such rows: {missing}')
    return [pytest.param(row, marks=pytest.mark.slow) if row in slow else row for row in rows]
