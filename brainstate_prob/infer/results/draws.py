"""Draws: constrained values by path, with their units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from brainstate_prob.graph.walk import dotted

__all__ = ['Draws']


class Draws(Mapping):
    """Constrained values by path, each of shape (chains, draws, ...), with units; paths are dotted or tuples.

    Examples
    --------
    >>> import numpy as np
    >>> draws = Draws({'layer.w': np.zeros((4, 100, 2))})
    >>> draws['layer.w'].shape, draws['layer', 'w'].shape
    ((4, 100, 2), (4, 100, 2))
    """

    def __init__(self, values: Mapping[str, Any]):
        self._values = dict(values)

    def __getitem__(self, path: str | tuple) -> Any:
        name = dotted(path) if isinstance(path, tuple) else path
        try:
            return self._values[name]
        except (KeyError, TypeError):
            raise KeyError(f'There is no parameter {path!r}; the paths are {list(self._values)}.') from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        inner = ', '.join(f'{name!r}: {np.shape(getattr(v, "mantissa", v))}' for name, v in self._values.items())
        return f'Draws({{{inner}}})'
