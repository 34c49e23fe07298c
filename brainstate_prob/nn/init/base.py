"""Initializer: a callable that returns initial values of a given shape, with an optional unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ, random
from brainstate_prob.core.quantities import VALUE, split_units
from brainstate_prob.core.shapes import to_shape
from brainstate_prob.core.units import u
from brainstate_prob.random.stream import to_key

__all__ = ['InUnits', 'Initializer', 'Size']

Size = int | Sequence[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Initializer:
    """Base class of the initializers: a callable ``(shape, dtype=None, key=None)``.

    ``shape`` is an int or a tuple, ``dtype`` by default that of `brainstate_prob.environ.dftype`, ``key`` a key or an
    int seed. A subclass is a dataclass that defines ``_fill(shape, dtype, key)``. Half precision is drawn in single
    precision and rounded.
    """

    _random: ClassVar[bool] = True

    def __call__(self, shape: Size, dtype: Any = None, key: Any = None) -> Any:
        """An array, or a Quantity if the initializer has a unit."""
        shape, dtype = to_shape(shape), jnp.dtype(environ.dftype() if dtype is None else dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f'{self!r}: dtype must be a floating type, got {dtype}.')
        wide = jnp.promote_types(dtype, jnp.float32)
        if 0 in shape:
            array = jnp.zeros(shape, dtype)
        else:
            array = self._fill(shape, wide, self._key(key) if self._random else None).astype(dtype)
        unit = self._unit()
        return array if unit is None or unit.is_unitless else u.Quantity(array, unit=unit)

    def _fill(self, shape: tuple[int, ...], dtype: Any, key: Any) -> jax.Array:
        raise NotImplementedError(f'{type(self).__name__} does not define _fill.')

    def _key(self, key: Any) -> jax.Array:
        source = getattr(self, 'seed', None) if key is None else key
        if source is None or isinstance(source, random.RandomState):
            return random.default_rng(source).split_key()
        return to_key(source)

    def _unit(self) -> Any:
        return getattr(self, 'unit', None)


class InUnits(Initializer):
    """Initializers whose parameters may be quantities; ``unit`` is that of plain numbers among them."""

    _names: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        self._magnitudes()

    def _magnitudes(self) -> tuple[list[Any], Any]:
        values = {name: getattr(self, name) for name in self._names}
        unit = getattr(self, 'unit', None)
        if unit is not None:
            values = {k: self._in_unit(k, v, unit) for k, v in values.items()}
        plain, common = split_units(type(self).__name__, dict.fromkeys(self._names, VALUE), values)
        return [plain[name] for name in self._names], common

    def _in_unit(self, name: str, value: Any, unit: Any) -> Any:
        if not isinstance(value, u.Quantity):
            return value * unit
        if not value.unit.has_same_dim(unit):
            raise u.UnitMismatchError(f'{type(self).__name__}: {name} is in {value.unit}, but unit={unit} was given.')
        return value.in_unit(unit)

    def _unit(self) -> Any:
        return self._magnitudes()[1]

    def _check(self, ok: Any, what: str) -> None:
        if not any(isinstance(x, jax.core.Tracer) for x in self._magnitudes()[0]) and not np.all(ok()):
            raise ValueError(f'{self!r}: {what}.')
