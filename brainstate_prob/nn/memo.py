"""A cache of constrained values for a block of code, read by `Param.value()`."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from brainstate_prob.nn.kinds import ParamNode

__all__ = ['serve_values', 'served_value']


class _Served(threading.local):
    """(theta, value) by Param, in this thread."""

    def __init__(self):
        self.by_param: dict[ParamNode, tuple[Any, Any]] = {}


_served = _Served()


def served_value(param: ParamNode) -> tuple[Any, Any] | None:
    """The cached pair (theta, value) of ``param``, if any."""
    return _served.by_param.get(param)


@contextlib.contextmanager
def serve_values(computed: dict[ParamNode, tuple[Any, Any]]):
    """Let ``value()`` return the given values in the block, also while traced.

    Parameters
    ----------
    computed
        (theta, constrained magnitude) by Param; valid while the Param's State has this very theta.
    """
    before = _served.by_param
    _served.by_param = before | {param: (raw, param._finish(magnitude)) for param, (raw, magnitude) in computed.items()}
    try:
        yield
    finally:
        _served.by_param = before
