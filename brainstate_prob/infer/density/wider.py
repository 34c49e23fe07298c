"""Densities whose flat vector has numbers behind theta that belong to a draw: its masks, its running statistics."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import StateTrace
from brainstate_prob.infer.density.log_density import Density

__all__ = ['Beside', 'WiderDensity', 'base_of']


class WiderDensity(Density):
    """A density of another one's parameters, whose flat vector is theta and then ``beside`` more numbers.

    Everything that is computed from a draw (predictions, log-likelihoods) sees the numbers that belong to it. A file
    holds the kind and the outline, by which the same density is found again.

    Parameters
    ----------
    base
        The density of theta alone.
    outline
        What the further numbers are, as a subclass says; hashable, and plain data for files.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[WiderDensity]]] = {}

    def __init_subclass__(cls) -> None:
        WiderDensity.kinds[cls.kind] = cls

    def __init__(self, base: Density, outline: Hashable = ()):
        super().__init__(
            base.model, base.likelihood, base.own_log_likelihood, base.expand, base.noncentered, source=base
        )
        self.base, self.outline = base, outline
        self.beside = self._width()
        self.size = base.size + self.beside

    @classmethod
    def of(cls, base: Density, outline: Hashable = ()) -> WiderDensity:
        """The one of a density, kept with it."""
        return base.programs.get((cls, outline), lambda: cls(base, outline))

    def _width(self) -> int:
        raise NotImplementedError

    def flatten(self, thetas: dict[str, Any], states: tuple = ()) -> jax.Array:
        return jnp.append(super().flatten(thetas, states), jnp.zeros(self.beside, self.dtype))

    def _bind(self, trace: StateTrace, theta: jax.Array) -> tuple[dict[str, tuple], list[tuple]]:
        return super()._bind(trace, theta[: self.base.size].astype(self.dtype))

    def __reduce__(self) -> tuple:
        return _of_kind, (self.kind, self.base, self.outline)


def _of_kind(kind: str, base: Density, outline: Any) -> WiderDensity:
    return WiderDensity.kinds[kind].of(base, outline)


def base_of(density: Density) -> Density:
    """The density of theta alone."""
    return density.base if isinstance(density, WiderDensity) else density


class Beside(NamedTuple):
    """The numbers behind theta of a fit's draws, and what they are: as a file holds them."""

    kind: str | None
    outline: Any
    numbers: np.ndarray  # (chains, draws, width)
    tree: Any = None

    @classmethod
    def from_record(cls, record: Any) -> Beside:
        """What a file has; None for nothing."""
        return cls(None, (), np.empty((1, 1, 0))) if record is None else cls(*record)

    @property
    def width(self) -> int:
        """How many there are of each draw."""
        return self.numbers.shape[-1]

    def statistics(self) -> dict[str, Any]:
        """By path, where they are running statistics of the draws."""
        found, offset = [], 0
        for shape, dtype in self.outline:
            size = int(np.prod(shape, dtype=int))
            part = self.numbers[..., offset : offset + size]
            found.append(part.reshape(*part.shape[:-1], *shape).astype(jnp.dtype(dtype)))
            offset += size
        return {path: jax.tree.map(found.__getitem__, leaves) for path, leaves in self.tree.items()}

    def around(self, density: Density) -> Density:
        """The density that reads them."""
        return density if self.kind is None else _of_kind(self.kind, density, self.outline)
