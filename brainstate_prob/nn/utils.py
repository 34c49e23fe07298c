"""Count the parameters of a model; clip gradients by their norm."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core import ParamState
from brainstate_prob.graph.walk import dotted
from brainstate_prob.nn.module import Module

__all__ = ['clip_grad_norm', 'count_parameters']


def count_parameters(module: Module, precision: int = 2, return_table: bool = False) -> Any:
    """Print the number of trained parameters, one row per `ParamState`, and return the total.

    Parameters
    ----------
    precision
        The decimals of the short form of the total (1.23 M).
    return_table
        Also return the table, as text.

    Returns
    -------
    int or (int, str)
        A State that is shared counts once; a constrained `Param` counts its unconstrained entries.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> model = nn.Module()
    >>> model.w = nn.Param(jnp.ones((30, 40)))
    >>> nn.count_parameters(model)
    path   shape     number
    -----------------------
    w.val  (30, 40)   1,200
    -----------------------
    total             1,200  (1.20 K)
    1200
    """
    states = module.states(ParamState)
    rows = []
    for path, state in states.items():
        for below, leaf in jax.tree.leaves_with_path(state.value):
            where = dotted(path) + jax.tree_util.keystr(below)
            rows.append((where, str(jnp.shape(leaf)), math.prod(jnp.shape(leaf))))
    total = sum(number for *_, number in rows)
    cells = [
        ('path', 'shape', 'number'),
        *((*row, f'{number:,}') for *row, number in rows),
        ('total', '', f'{total:,}'),
    ]
    widths = [max(len(cell[i]) for cell in cells) for i in range(3)]
    lines = [f'{path:<{widths[0]}}  {shape:<{widths[1]}}  {number:>{widths[2]}}' for path, shape, number in cells]
    rule = '-' * len(lines[0])
    table = '\n'.join([lines[0], rule, *lines[1:-1], rule, lines[-1] + _short(total, precision)])
    print(table)
    return (total, table) if return_table else total


def _short(number: int, precision: int) -> str:
    for unit, size in (('G', 10**9), ('M', 10**6), ('K', 10**3)):
        if number >= size:
            return f'  ({number / size:.{precision}f} {unit})'
    return ''


def clip_grad_norm(grad: Any, max_norm: float, norm_type: float | str = 2.0, return_norm: bool = False) -> Any:
    """Scale a gradient by min(1, max_norm / (norm + 1e-6)), with the norm over all leaves together.

    Parameters
    ----------
    grad
        Any pytree of arrays, such as `brainstate_prob.transform.grad` gives; quantities count by their magnitudes.
    max_norm
        The largest norm, not negative.
    norm_type
        The p of the norm, positive; ``float('inf')`` (or 'inf') for the largest absolute entry.
    return_norm
        Also return the norm before clipping.

    Returns
    -------
    The gradient with structure, units and dtypes kept, or the pair (gradient, norm). Norms that are
    not finite are not treated specially.

    Raises
    ------
    ValueError
        For a negative max_norm or a norm_type that is not positive.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> clipped, norm = nn.clip_grad_norm({'w': jnp.array([3.0, 4.0])}, 1.0, return_norm=True)
    >>> float(norm), [round(float(x), 3) for x in clipped['w']]
    (5.0, [0.6, 0.8])
    """
    p = float(norm_type)
    if not p > 0:
        raise ValueError(f'clip_grad_norm: norm_type must be positive, got {norm_type!r}.')
    if not isinstance(max_norm, jax.core.Tracer) and not max_norm >= 0:
        raise ValueError(f'clip_grad_norm: max_norm must not be negative, got {max_norm!r}.')
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(grad)]
    dtype = jnp.result_type(jnp.float32, *leaves)  # half precision would lose small entries in the sum
    sizes = [jnp.abs(x).astype(dtype) for x in leaves if x.size]
    largest = jnp.max(jnp.stack([jnp.zeros((), dtype), *(jnp.max(x) for x in sizes)]))
    norm = largest
    if not math.isinf(p):  # powers of ratios to the largest entry neither overflow nor vanish
        unit = jnp.where(largest > 0, largest, 1)
        norm = largest * sum((jnp.sum((x / unit) ** p) for x in sizes), jnp.zeros((), dtype)) ** (1 / p)
    factor = jnp.minimum(1, max_norm / (norm + 1e-6))
    clipped = jax.tree.map(lambda x: x * factor.astype(jnp.result_type(x)), grad)
    return (clipped, norm) if return_norm else clipped
