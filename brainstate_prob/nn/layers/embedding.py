"""Embedding: rows of a trainable table, selected by index."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import LongTermState, ParamState, State
from brainstate_prob.core.units import u
from brainstate_prob.nn import init
from brainstate_prob.nn.layers.shapes import label
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param
from brainstate_prob.nn.weights import ParamSpec, weights

__all__ = ['Embedding']


class Embedding(Module):
    """Look up rows of a table: indices of shape (...) give vectors of shape (..., `embedding_size`).

    Parameters
    ----------
    num_embeddings
        The number of rows.
    embedding_size
        The shape of a row: an int or a tuple of ints.
    embedding_init
        The initial table: an initializer, an array, a `Param` or a `ParamSpec`.
    padding_idx
        The row for padding; it may count from the end. An initializer starts it at 0. It gets no gradient.
    max_norm
        The largest norm of a row; larger ones are scaled down in the output, not in the table.
    norm_type
        The p of that norm, at least 1.
    scale_grad_by_freq
        Divide the gradient of a row by its number of lookups in the call. This is not the gradient of a density:
        use it with optimizers, not with samplers.
    freeze
        Do not train the table: its State is not a `ParamState`, and its gradient is zero.

    Raises
    ------
    ValueError
        For sizes, a padding_idx or a norm out of range, and for concrete indices out of range. Traced indices out of
        range give NaN.
    TypeError
        If indices are not integers.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.Embedding(10, 3, padding_idx=0)
    >>> layer(jnp.array([[1, 2, 0, 0]])).shape, list(layer.states())
    ((1, 4, 3), [('weight',)])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_size: Any,
        embedding_init: Any = init.LecunUniform(),  # noqa: B008  (a value object without state)
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        freeze: bool = False,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(name)
        if num_embeddings < 1:
            raise ValueError(f'Embedding: num_embeddings must be at least 1, got {num_embeddings}.')
        self.num_embeddings = int(num_embeddings)
        self.in_size, self.out_size = (), embedding_size
        self.embedding_size = self.out_size
        if padding_idx is not None and not -self.num_embeddings <= padding_idx < self.num_embeddings:
            raise ValueError(
                f'Embedding: padding_idx must be one of the {self.num_embeddings} rows, got {padding_idx}.'
            )
        if max_norm is not None and not (max_norm > 0 and norm_type >= 1):
            raise ValueError(
                f'Embedding: max_norm must be positive and norm_type at least 1, got {max_norm} and {norm_type}.'
            )
        self.padding_idx = None if padding_idx is None else range(self.num_embeddings)[padding_idx]
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.freeze = freeze
        if freeze and _is_trained(embedding_init):
            raise ValueError('Embedding: freeze=True, but the Param given is trained; make it with fit=False.')
        kind = LongTermState if freeze and issubclass(param_type, ParamState) else param_type
        shape = (self.num_embeddings, *self.embedding_size)
        table = self._with_padding(embedding_init) if _is_initializer(embedding_init) else embedding_init
        self.weight = weights(self, kind, weight=(table, shape))

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, **options: Any) -> Embedding:
        """Create an Embedding from a table, padding row included; frozen by default.

        Parameters
        ----------
        embeddings
            Of shape (num_embeddings, `embedding_size`).
        **options
            As of the class: ``padding_idx``, ``max_norm``, ...

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> from brainstate_prob import nn
        >>> layer = nn.Embedding.from_pretrained(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> layer(1)
        Array([3., 4.], dtype=float32)
        """
        shape = jnp.shape(u.get_mantissa(embeddings))
        if len(shape) < 2:
            raise ValueError(f'Embedding.from_pretrained takes a table of two axes or more, got shape {shape}.')
        return cls(shape[0], shape[1:], embedding_init=embeddings, freeze=freeze, **options)

    def update(self, indices: Any) -> Any:
        indices = self._checked(indices)
        table = self.weight.value['weight']
        if self.freeze:
            table = jax.lax.stop_gradient(table)
        rows = jax.tree.map(lambda x: jnp.asarray(x).at[indices].get(mode='fill', fill_value=jnp.nan), table)
        share = self._gradient_share(indices)
        if share is not None:
            share = share.reshape(indices.shape + (1,) * len(self.embedding_size))
            rows = jax.tree.map(lambda x: _scale_gradient(x, share.astype(x.dtype)), rows)
        return rows if self.max_norm is None else self._shortened(rows, self.max_norm)

    def _checked(self, indices: Any) -> jax.Array:
        traced = isinstance(indices, jax.core.Tracer)
        values = indices if traced else np.asarray(indices)
        if not jnp.issubdtype(values.dtype, jnp.integer):
            raise TypeError(f'{label(self)}: indices must be integers, got {values.dtype}.')
        if not traced and values.size and not (values.min() >= 0 and values.max() < self.num_embeddings):
            raise ValueError(
                f'{label(self)}: indices must be from 0 to {self.num_embeddings - 1}, got {values.min()} to '
                f'{values.max()}.'
            )
        indices = jnp.asarray(indices)
        return jnp.where(indices < 0, self.num_embeddings, indices)  # out of range; negative indices included

    def _gradient_share(self, indices: jax.Array) -> jax.Array | None:
        """The share of its gradient that an index passes to its row; None for all."""
        share = None
        if self.scale_grad_by_freq:
            counts = jnp.zeros(self.num_embeddings, jnp.int32).at[indices].add(1)
            share = 1 / jnp.maximum(counts[indices], 1)
        if self.padding_idx is not None:
            share = jnp.where(indices == self.padding_idx, 0.0, 1.0 if share is None else share)
        return share

    def _shortened(self, rows: Any, max_norm: float) -> Any:
        if isinstance(rows, u.Quantity):
            raise TypeError(f'{label(self)}: max_norm is a plain number, but the table has the unit {rows.unit}.')
        axes = tuple(range(-len(self.embedding_size), 0))
        size = jnp.max(jnp.abs(rows), axes, keepdims=True)  # scaled by the maximum so that no power overflows
        safe = jnp.where(size > 0, size, 1)
        unit = jnp.where(size > 0, rows / safe, 1)  # any row, since its norm is not used
        if np.isinf(self.norm_type):
            norm = size
        else:
            norm = size * jnp.sum(jnp.abs(unit) ** self.norm_type, axes, keepdims=True) ** (1 / self.norm_type)
        longer = norm > max_norm
        return jnp.where(longer, rows * (max_norm / jnp.where(longer, norm, 1)), rows)

    def _with_padding(self, initializer: Any) -> Any:
        if self.padding_idx is None:
            return initializer
        row = self.padding_idx
        return lambda shape: jax.tree.map(lambda x: x.at[row].set(0), initializer(shape))


def _is_initializer(x: Any) -> bool:
    return callable(x) and not isinstance(x, Module)


def _is_trained(x: Any) -> bool:
    return x.fit if isinstance(x, Param) else isinstance(x, ParamSpec) and bool(x.options['fit'])


def _scale_gradient(x: jax.Array, share: jax.Array) -> jax.Array:
    """``x``, with its gradient multiplied by ``share``."""
    still = jax.lax.stop_gradient(x)
    return still + (x - still) * share
