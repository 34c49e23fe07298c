"""What layers say about shapes: who is speaking, what came, what was expected."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from brainstate_prob.graph.walk import path_of
from brainstate_prob.nn.module import Module, dotted

__all__ = ['check_input', 'label', 'ntuple', 'shape_of']

Axis = int | str | None


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, a Quantity, a number or nested numbers."""
    return tuple(x.shape) if hasattr(x, 'shape') else np.shape(x)


def _sizes(size: tuple[int, ...] | None) -> str:
    return '?' if size is None else str(size[0]) if len(size) == 1 else str(size)


def label(layer: Module) -> str:
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
    """Check the trailing axes of an input; the number of axes before them, the batch axes, comes back.

    Parameters
    ----------
    shape
        The trailing axes: sizes, and None or a name for an axis of any size. ``layer.in_size`` by default; where
        that is None too, everything passes.
    max_batch
        The largest number of batch axes; None for any.
    what
        What ``x`` is, for the message.

    Raises
    ------
    ValueError
        With the layer's path, the expected shape and the one that came.

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
    raise ValueError(f'{label(layer)}: expected {article} {what} of shape {wanted}, got {got}.')


def ntuple(value: Any, n: int, what: str, minimum: int = 1) -> tuple[int, ...]:
    """``n`` integers: of one, repeated, or of a sequence of ``n``.

    Raises
    ------
    ValueError
        For another number of them, or one below ``minimum``.

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
