"""The inverse mass matrix L L' as a linear map: kernels move in w with unit mass, where theta = origin + L w.

Diagonal, dense and low-rank matrices differ only in L, and every kernel works with all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ['MASS_MATRICES', 'Dense', 'Diagonal', 'LowRank', 'Metric', 'unit_metric']

MASS_MATRICES = ('diagonal', 'full', 'low_rank')


class Diagonal(NamedTuple):
    """L = diag(scale)."""

    scale: jax.Array

    def forward(self, w: jax.Array) -> jax.Array:
        """L w: a step in theta."""
        return self.scale * w

    def pull(self, grad: jax.Array) -> jax.Array:
        """L' g: the gradient in w of a gradient in theta."""
        return self.scale * grad

    def push(self, grad: jax.Array) -> jax.Array:
        """The inverse of `pull`."""
        return grad / self.scale


class Dense(NamedTuple):
    """Any L, with its inverse."""

    root: jax.Array
    inverse: jax.Array

    def forward(self, w: jax.Array) -> jax.Array:
        return self.root @ w

    def pull(self, grad: jax.Array) -> jax.Array:
        return grad @ self.root

    def push(self, grad: jax.Array) -> jax.Array:
        return grad @ self.inverse


class LowRank(NamedTuple):
    """L = diag(scale) (I + V diag(factors - 1) V'), with orthonormal columns in V."""

    scale: jax.Array
    vectors: jax.Array
    factors: jax.Array

    def _along_vectors(self, x: jax.Array, by: jax.Array) -> jax.Array:
        return x + self.vectors @ ((by - 1) * (x @ self.vectors))

    def forward(self, w: jax.Array) -> jax.Array:
        return self.scale * self._along_vectors(w, self.factors)

    def pull(self, grad: jax.Array) -> jax.Array:
        return self._along_vectors(self.scale * grad, self.factors)

    def push(self, grad: jax.Array) -> jax.Array:
        return self._along_vectors(grad, 1 / self.factors) / self.scale


Metric = Diagonal | Dense | LowRank


def unit_metric(kind: str, size: int, rank: int, dtype: Any) -> Metric:
    """The identity, in the form of one of `MASS_MATRICES`."""
    one = jnp.ones(size, dtype)
    if kind == 'diagonal':
        return Diagonal(one)
    if kind == 'full':
        return Dense(jnp.eye(size, dtype=dtype), jnp.eye(size, dtype=dtype))
    return LowRank(one, jnp.zeros((size, rank), dtype), jnp.ones(rank, dtype))
