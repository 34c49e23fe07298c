"""Constrained values that are computed once for a block of code and then returned by `Param.value()`."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from brainstate_prob.nn.kinds import ParamNode

__all__ = ['serve_values', 'served_value']


class _Served(threading.local):
    """By Param (theta, what ``value()`` returns), in this thread."""

    def __init__(self):
        self.by_param: dict[ParamNode, tuple[Any, Any]] = {}


_served = _Served()


def served_value(param: ParamNode) -> tuple[Any, Any] | None:
    """The pair (theta, value) that is served for ``param``, if one is."""
    return _served.by_param.get(param)


@contextlib.contextmanager
def serve_values(computed: dict[ParamNode, tuple[Any, Any]]):
    """Within the block, let each Param's ``value()`` be what was computed for it, also while traced.

    Parameters
    ----------
    computed
        By Param (theta, constrained magnitude). They hold for as long as the Param's State has this very theta.
    """
    before = _served.by_param
    _served.by_param = before | {param: (raw, param._finish(magnitude)) for param, (raw, magnitude) in computed.items()}
    try:
        yield
    finally:
        _served.by_param = before
