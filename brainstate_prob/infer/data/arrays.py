"""The data of a log density as a pytree of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ['Data']


class Data(NamedTuple):
    """The data that a log density is conditioned on: a pytree, an argument of every compiled function."""

    args: tuple
    kwargs: dict
    targets: Any
    states: tuple
    scale: Any = 1.0
    unit: Any = None  # of the targets: an `InUnit`, which is static, or None
