"""Base classes of `Module`, `Param` and `Dynamics`, for modules that these import."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax

from brainstate_prob.core import State
from brainstate_prob.graph import Node

__all__ = ['DynamicsNode', 'ModuleNode', 'ParamNode']


class ModuleNode(Node):
    """Base of `Module`: a node that collective calls reach."""

    name: str | None
    in_size: tuple[int, ...] | None
    out_size: tuple[int, ...] | None


class ParamNode(Node):
    """Base of `Param`: a node with theta in ``val`` and a constrained value."""

    val: State
    fit: bool
    t: Any
    reg: Any
    unit: Any
    prior_on: str
    value: Callable[[], Any]
    constrained: Callable[[], Any]
    reg_loss: Callable[[], jax.Array]
    _magnitude: Callable[[Any], jax.Array]
    _finish: Callable[[Any], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the constrained value."""
        return self.constrained().shape


class DynamicsNode(ModuleNode):
    """Base of `Dynamics`: a module with hooks that are called after each of its steps."""

    after_updates: dict[Hashable, Callable]
    add_after_update: Callable[[Hashable, Callable], None]
