"""Check the shapes of inputs; names of layers in error messages."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import dotted, path_of
from brainstate_prob.nn.kinds import ModuleNode
from brainstate_prob.nn.module import Module

__all__ = [
    'SizedModule',
    'SpatialModule',
    'add_bias',
    'as_array',
    'check_input',
    'label',
    'ntuple',
    'paddings',
    'shape_of',
]

Axis = int | str | None
Pairs = tuple[tuple[int, int], ...]


def as_array(x: Any) -> Any:
    """A JAX array, or the Quantity unchanged."""
    return x if isinstance(x, u.Quantity) else jnp.asarray(x)


def add_bias(layer: Module, y: Any, bias: Any) -> Any:
    """``y + bias``; None adds nothing. Units must agree, also for zero."""
    if bias is None:
        return y
    units = [x.unit if isinstance(x, u.Quantity) else u.UNITLESS for x in (y, bias)]
    if not units[0].has_same_dim(units[1]):
        raise u.UnitMismatchError(
            f'{label(layer)}: the input times the weight has the unit {units[0]}, the bias has {units[1]}. Leave it '
            'out (b_init=None), or give it a unit, e.g. b_init=nn.init.ZeroInit(unit=...).'
        )
    return y + bias


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, a Quantity, a number or nested numbers."""
    return tuple(x.shape) if hasattr(x, 'shape') else np.shape(x)


def _sizes(size: tuple[int, ...] | None) -> str:
    return '?' if size is None else str(size[0]) if len(size) == 1 else str(size)


def label(layer: ModuleNode) -> str:
    """The layer in a message: its path in the model (or its name), its class and its sizes.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> model = nn.Module()
    >>> model.head = nn.Module()
    >>> model.head.in_size, model.head.out_size = 3, 4
    >>> label(model.head)
    'head (Module(3 -> 4))'
    """
    kind = type(layer).__name__
    if layer.in_size is not None or layer.out_size is not None:
        kind = f'{kind}({_sizes(layer.in_size)} -> {_sizes(layer.out_size)})'
    where = dotted(path_of(layer)) or layer.name
    return f'{where} ({kind})' if where else kind


def check_input(
    layer: Module, x: Any, shape: Sequence[Axis] | None = None, *, max_batch: int | None = None, what: str = 'input'
) -> int:
    """Check the trailing axes of an input, and return the number of batch axes.

    Parameters
    ----------
    shape
        The trailing axes: sizes, and None or a name for an axis of any size. ``layer.in_size`` by default; no check if
        that is None too.
    max_batch
        The largest number of batch axes; None for any.
    what
        The name of ``x`` in messages.

    Raises
    ------
    ValueError
        With the layer's path, the expected and the actual shape.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.Module(name='head')
    >>> layer.in_size, layer.out_size = 3, 4
    >>> check_input(layer, jnp.zeros((5, 3)))
    1
    >>> check_input(layer, jnp.zeros((5, 4)))
    Traceback (most recent call last):
    ValueError: head (Module(3 -> 4)): expected an input of shape (..., 3), got (5, 4).
    """
    expected: Sequence[Axis] = (layer.in_size or ()) if shape is None else shape
    _check_numbers(layer, x, what)
    got = shape_of(x)
    batch = len(got) - len(expected)
    fits = batch >= 0 and (max_batch is None or batch <= max_batch)
    if fits and all(not isinstance(n, int) or n == m for n, m in zip(expected, got[batch:], strict=True)):
        return batch
    axes = ['*' if n is None else str(n) for n in expected]
    if max_batch is None:
        wanted = f'({", ".join(["...", *axes])})'
    else:
        forms = [['batch'] * n + axes for n in range(max_batch + 1)]
        wanted = ' or '.join(f'({", ".join(form)}{"," if len(form) == 1 else ""})' for form in forms)
    article = 'an' if what[0] in 'aeiou' else 'a'
    first = len(expected) > 1 and got[len(got) - len(expected) :] == (expected[-1], *expected[:-1])
    hint = f' Channels come last: jnp.moveaxis(x, {-len(expected)}, -1).' if first else ''
    raise ValueError(f'{label(layer)}: expected {article} {what} of shape {wanted}, got {got}.{hint}')


def _check_numbers(layer: Module, x: Any, what: str) -> None:
    """Raise unless ``x`` is an array of numbers."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f'{label(layer)}: the mask of a masked {what} would be lost. Fill it first: x.filled(...).')
    kind = getattr(getattr(x, 'dtype', None), 'kind', '')
    if x is None or isinstance(x, str | bytes) or kind in ('O', 'S', 'U', 'M', 'm'):
        got = f'an array of dtype {x.dtype}' if kind else repr(x)
        raise TypeError(f'{label(layer)}: the {what} must be an array of numbers, got {got}.')


def ntuple(value: Any, n: int, what: str, minimum: int = 1) -> tuple[int, ...]:
    """A tuple of ``n`` integers, from one, repeated, or a sequence of ``n``.

    Raises
    ------
    ValueError
        For another number of integers, or one below ``minimum``.

    Examples
    --------
    >>> ntuple(3, 2, 'kernel_size')
    (3, 3)
    """
    try:
        items = (operator.index(value),) * n
    except TypeError:
        try:
            items = tuple(operator.index(v) for v in value)
        except TypeError:
            raise TypeError(f'{what} must be an int or a sequence of {n} ints, got {value!r}.') from None
    if len(items) != n or any(v < minimum for v in items):
        raise ValueError(f'{what} must be an int or {n} ints, each at least {minimum}, got {value!r}.')
    return items


def _pair(value: Any) -> tuple[int, int]:
    low, high = ntuple(value, 2, 'padding', 0)
    return low, high


@overload
def paddings(padding: Any, n: int, flat: Literal[True]) -> Pairs: ...
@overload
def paddings(padding: Any, n: int, flat: Literal[False] = False) -> str | Pairs: ...
def paddings(padding: Any, n: int, flat: bool = False) -> str | Pairs:
    """The padding (low, high) of each of ``n`` axes, or ``'SAME'`` or ``'VALID'``.

    Parameters
    ----------
    padding
        A mode, an int for all sides, an int per axis (for both its sides), a pair per axis, or one pair in a
        sequence for all axes. For a single axis also a plain pair.
    flat
        Whether 2 n plain ints (low, high, low, high, ...) are allowed and modes are not.

    Examples
    --------
    >>> paddings(1, 2), paddings((1, 2), 2), paddings([(0, 1)], 2), paddings('same', 2)
    (((1, 1), (1, 1)), ((1, 1), (2, 2)), ((0, 1), (0, 1)), 'SAME')
    """
    if isinstance(padding, str):
        if not flat and padding.upper() in ('SAME', 'VALID'):
            return padding.upper()
    elif not np.ndim(padding):
        (side,) = ntuple(padding, 1, 'padding', 0)
        return ((side, side),) * n
    else:
        items = [tuple(item) if np.ndim(item) else item for item in padding]
        pairs = [isinstance(item, tuple) for item in items]
        if not any(pairs) and len(items) == 2 * n and (flat or n == 1):
            items = list(zip(items[::2], items[1::2], strict=True))
        elif len(items) == 1 and all(pairs):
            items = items * n
        if len(items) == n:
            return tuple(_pair(item) for item in items)
    modes = '' if flat else "'SAME', 'VALID', "
    sides = f', {2 * n} ints (low, high, ...)' if flat or n == 1 else ''
    raise ValueError(f'padding must be {modes}an int, {n} ints{sides} or {n} pairs (low, high); got {padding!r}.')


class SizedModule(Module):
    """Base of layers with known sizes."""

    in_size: tuple[int, ...]
    out_size: tuple[int, ...]


class SpatialModule(Module):
    """Base of layers over one, two or three spatial axes: a general class per family, with a subclass for each number.

    The subclasses inherit the documentation of the general class from ``Parameters`` on.
    """

    spatial: ClassVar[int]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own = inspect.cleandoc(vars(cls).get('__doc__') or '')
        if 'Parameters\n---' in own or 'spatial' not in vars(cls):
            return
        for base in cls.__mro__[1:]:
            _, title, below = inspect.cleandoc(vars(base).get('__doc__') or '').partition('\n\nParameters\n---')
            if title:
                summary, heading, examples = own.partition('\n\nExamples\n---')
                cls.__doc__ = f'{summary}{title}{below}{heading}{examples}'
                return

    def _names(self, channel: bool = True) -> tuple[str, ...]:
        """The names of the axes of one sample in messages, channels last."""
        return (*('depth', 'height', 'width')[3 - self.spatial :], *(('channels',) if channel else ()))

    def _take_in_size(self, in_size: Any) -> None:
        """Set ``in_size``, and ``out_size`` from a call."""
        if in_size is None:
            return
        sample = jax.ShapeDtypeStruct(tuple(np.atleast_1d(in_size).tolist()), jnp.float32)
        self.out_size = jax.tree.leaves(jax.eval_shape(self.update, sample))[0].shape
        self.in_size = sample.shape
