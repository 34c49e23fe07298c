"""What a log density is conditioned on, as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ['Data']


class Data(NamedTuple):
    """What a log density is conditioned on; a pytree, passed as an argument to every compiled function."""

    args: tuple
    kwargs: dict
    targets: Any
    states: tuple
    scale: Any = 1.0
    unit: Any = None  # of the targets: an `InUnit`, which belongs to the structure, or None
