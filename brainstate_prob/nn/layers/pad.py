"""Padding of 1, 2 or 3 spatial axes, over ``jnp.pad``."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp

from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.core.units import u
from brainstate_prob.nn.layers.shapes import SpatialModule, check_input, label, paddings

__all__ = [
    'CircularPad1d',
    'CircularPad2d',
    'CircularPad3d',
    'ConstantPad1d',
    'ConstantPad2d',
    'ConstantPad3d',
    'ReflectionPad1d',
    'ReflectionPad2d',
    'ReflectionPad3d',
    'ReplicationPad1d',
    'ReplicationPad2d',
    'ReplicationPad3d',
    'ZeroPad1d',
    'ZeroPad2d',
    'ZeroPad3d',
]


class _Pad(SpatialModule):
    """Pad the ``spatial`` axes before the last one; any number of batch axes may precede them.

    Parameters
    ----------
    padding
        An int for all sides; an int per axis, for both its sides; 2 ints per axis (low, high, low, high, ...), the
        first spatial axis first; or a pair (low, high) per axis. None may be negative.
    in_size
        The shape of one sample, channels last; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        For an invalid ``padding``, or an input of another shape.
    """

    mode: ClassVar[str]

    def __init__(self, padding: Any, in_size: Any = None, name: str | None = None):
        super().__init__(name)
        self.padding = paddings(padding, self.spatial, flat=True)
        self._take_in_size(in_size)

    def update(self, x):
        check_input(self, x, self.in_size or self._names())
        x, unit = magnitude_and_unit(x)
        self._check(x.shape)
        widths = [(0, 0)] * (x.ndim - self.spatial - 1) + [*self.padding, (0, 0)]
        return with_unit(self._pad(x, widths, unit), unit)

    def _pad(self, x, widths, unit):
        return jnp.pad(x, widths, mode=self.mode)

    def _check(self, shape: tuple[int, ...]) -> None:
        """Refuse a padding that is larger than the axes allow."""


class _ReflectionPad(_Pad):
    mode = 'reflect'

    def _check(self, shape):
        for n, sides in zip(shape[-1 - self.spatial : -1], self.padding, strict=True):
            if max(sides) >= n:
                raise ValueError(
                    f'{label(self)}: an axis of size {n} has {n - 1} entries to reflect at its edge, the padding asks '
                    f'for {max(sides)}. Use ReplicationPad or CircularPad for more.'
                )


class _ReplicationPad(_Pad):
    mode = 'edge'


class _CircularPad(_Pad):
    mode = 'wrap'


class _ConstantPad(_Pad):
    """Pad with a constant.

    Parameters
    ----------
    padding
        As of `ZeroPad1d`: an int for all sides, an int or 2 ints per axis, or a pair (low, high) per axis.
    value
        The value of the new entries; a Quantity if the inputs have a unit.
    in_size
        The shape of one sample, channels last; ``out_size`` follows from it.

    Raises
    ------
    ValueError
        For an invalid ``padding``, or an input of another shape.
    brainunit.UnitMismatchError
        If ``value`` does not have the unit of the input (0 fits every unit).
    """

    mode = 'constant'

    def __init__(self, padding: Any, value: Any = 0, in_size: Any = None, name: str | None = None):
        self.value = value
        super().__init__(padding, in_size, name)

    def _pad(self, x, widths, unit):
        value = self.value
        if unit is not None and isinstance(value, u.Quantity):
            value = value.to_decimal(unit)
        elif isinstance(value, u.Quantity) or (unit is not None and value != 0):
            raise u.UnitMismatchError(f'{label(self)} pads with {value!r}, the input has the unit {unit or 1}.')
        return jnp.pad(x, widths, constant_values=jnp.asarray(value, x.dtype))


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: Any, in_size: Any = None, name: str | None = None):
        super().__init__(padding, 0, in_size, name)


class ReflectionPad1d(_ReflectionPad):
    """Pad one spatial axis by mirroring the interior at the edge, without repeating the edge.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ReflectionPad1d(2, in_size=(5, 3)).out_size
    (9, 3)
    """

    spatial = 1


class ReflectionPad2d(_ReflectionPad):
    """Pad two spatial axes by mirroring the interior at the edge, without repeating the edge.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ReflectionPad2d((0, 1, 2, 2), in_size=(4, 5, 3)).out_size
    (5, 9, 3)
    """

    spatial = 2


class ReflectionPad3d(_ReflectionPad):
    """Pad three spatial axes by mirroring the interior at the edge, without repeating the edge.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ReflectionPad3d([(1, 0), (2, 1), (1, 1)], in_size=(4, 5, 6, 3)).out_size
    (5, 8, 8, 3)
    """

    spatial = 3


class ReplicationPad1d(_ReplicationPad):
    """Pad one spatial axis by repeating the value at the edge.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ReplicationPad1d(2, in_size=(5, 3)).out_size
    (9, 3)
    """

    spatial = 1


class ReplicationPad2d(_ReplicationPad):
    """Pad two spatial axes by repeating the value at the edge.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ReplicationPad2d((0, 1, 2, 2), in_size=(4, 5, 3)).out_size
    (5, 9, 3)
    """

    spatial = 2


class ReplicationPad3d(_ReplicationPad):
    """Pad three spatial axes by repeating the value at the edge.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ReplicationPad3d([(1, 0), (2, 1), (1, 1)], in_size=(4, 5, 6, 3)).out_size
    (5, 8, 8, 3)
    """

    spatial = 3


class ZeroPad1d(_ZeroPad):
    """Pad one spatial axis with zeros.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ZeroPad1d(2, in_size=(5, 3)).out_size
    (9, 3)
    """

    spatial = 1


class ZeroPad2d(_ZeroPad):
    """Pad two spatial axes with zeros.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ZeroPad2d((0, 1, 2, 2), in_size=(4, 5, 3)).out_size
    (5, 9, 3)
    """

    spatial = 2


class ZeroPad3d(_ZeroPad):
    """Pad three spatial axes with zeros.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ZeroPad3d([(1, 0), (2, 1), (1, 1)], in_size=(4, 5, 6, 3)).out_size
    (5, 8, 8, 3)
    """

    spatial = 3


class ConstantPad1d(_ConstantPad):
    """Pad one spatial axis with a constant.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ConstantPad1d(2, 1.0, in_size=(5, 3)).out_size
    (9, 3)
    """

    spatial = 1


class ConstantPad2d(_ConstantPad):
    """Pad two spatial axes with a constant.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ConstantPad2d((0, 1, 2, 2), 1.0, in_size=(4, 5, 3)).out_size
    (5, 9, 3)
    """

    spatial = 2


class ConstantPad3d(_ConstantPad):
    """Pad three spatial axes with a constant.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.ConstantPad3d([(1, 0), (2, 1), (1, 1)], 1.0, in_size=(4, 5, 6, 3)).out_size
    (5, 8, 8, 3)
    """

    spatial = 3


class CircularPad1d(_CircularPad):
    """Pad one spatial axis periodically.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.CircularPad1d(2, in_size=(5, 3)).out_size
    (9, 3)
    """

    spatial = 1


class CircularPad2d(_CircularPad):
    """Pad two spatial axes periodically.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.CircularPad2d((0, 1, 2, 2), in_size=(4, 5, 3)).out_size
    (5, 9, 3)
    """

    spatial = 2


class CircularPad3d(_CircularPad):
    """Pad three spatial axes periodically.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.CircularPad3d([(1, 0), (2, 1), (1, 1)], in_size=(4, 5, 6, 3)).out_size
    (5, 8, 8, 3)
    """

    spatial = 3
