"""Random integers, choices, permutations and categories, and draws with the shape as arguments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core.quantities import magnitude_and_unit
from brainstate_prob.core.units import u
from brainstate_prob.random.params import to_size
from brainstate_prob.random.stream import KeyStream, to_key

__all__ = ['Selection']


class Selection(KeyStream):
    """The methods of `RandomState` that are not in the table of distributions."""

    def _take(self, key: Any) -> jax.Array:
        return self.split_key() if key is None else to_key(key)

    def rand(self, *dn: int, key: Any = None, dtype: Any = None) -> jax.Array:
        """Uniform draws from [0, 1) of shape ``dn``."""
        return jr.uniform(self._take(key), _one_shape(dn), dtype or environ.dftype())

    def randn(self, *dn: int, key: Any = None, dtype: Any = None) -> jax.Array:
        """Standard normal draws of shape ``dn``.

        Examples
        --------
        >>> from brainstate_prob import random
        >>> random.randn(2, 3).shape
        (2, 3)
        """
        return jr.normal(self._take(key), _one_shape(dn), dtype or environ.dftype())

    def randint(self, low: Any, high: Any = None, size: Any = None, key: Any = None, dtype: Any = None) -> jax.Array:
        """Integers from [low, high); with one bound, from [0, low)."""
        if high is None:
            low, high = 0, low
        for name, bound in (('low', low), ('high', high)):
            if not jnp.issubdtype(jnp.result_type(bound), jnp.integer):
                raise TypeError(f'randint: {name} must be an integer; got {bound!r}.')
        if not any(isinstance(b, jax.core.Tracer) for b in (low, high)) and np.any(np.asarray(low) >= np.asarray(high)):
            raise ValueError(f'randint: low must be less than high; got {low} and {high}.')
        shape = to_size(size)
        if shape is None:
            shape = np.broadcast_shapes(jnp.shape(low), jnp.shape(high))
        return jr.randint(self._take(key), shape, low, high, dtype or environ.ditype())

    def choice(
        self, a: Any, size: Any = None, replace: bool = True, p: Any = None, key: Any = None, *, axis: int = 0
    ) -> Any:
        """Items of ``a`` (an array, a quantity, or an int for ``range(a)``) along ``axis``.

        Parameters
        ----------
        a
            The items.
        size
            The shape of the choice; None is one item.
        replace
            Whether an item can be chosen more than once.
        p
            The probability of each item; they must sum to 1. None: all are equal.
        key
            A key or an int seed; None draws from the stream.
        axis
            The axis of ``a`` to choose along.
        """
        plain, unit = _magnitude(a)
        if p is not None and not isinstance(p, jax.core.Tracer):
            array = np.asarray(p, np.float64)
            if np.any(array < 0) or not abs(array.sum() - 1) < 1e-5:
                raise ValueError(f'choice: p must be probabilities that sum to 1; got {p} with sum {array.sum():.6g}.')
        out = jr.choice(
            self._take(key), plain, to_size(size) or (), replace, None if p is None else jnp.asarray(p), axis
        )
        return out if unit is None else u.Quantity(out, unit=unit)

    def permutation(self, x: Any, axis: int = 0, independent: bool = False, key: Any = None) -> Any:
        """The items of ``x`` (or of ``range(x)``) shuffled along ``axis``; ``independent``: each line by itself."""
        plain, unit = _magnitude(x)
        out = jr.permutation(self._take(key), plain, axis, independent)
        return out if unit is None else u.Quantity(out, unit=unit)

    def shuffle(self, x: Any, axis: int = 0, key: Any = None) -> Any:
        """A shuffled copy of ``x`` (an array cannot change in place)."""
        return self.permutation(x, axis, key=key)

    def categorical(self, logits: Any, axis: int = -1, size: Any = None, key: Any = None) -> jax.Array:
        """Indices drawn with log-probabilities ``logits`` along ``axis``; they need not be normalized."""
        return jr.categorical(self._take(key), jnp.asarray(logits), axis, to_size(size)).astype(environ.ditype())

    def orthogonal(self, n: int, size: Any = None, key: Any = None, dtype: Any = None) -> jax.Array:
        """Orthogonal ``n`` x ``n`` matrices, uniform over the group."""
        return jr.orthogonal(self._take(key), n, to_size(size) or (), dtype or environ.dftype())

    def ball(self, d: int, p: float = 2, size: Any = None, key: Any = None, dtype: Any = None) -> jax.Array:
        """Points uniform in the ``d``-dimensional unit ball of the ``p``-norm."""
        return jr.ball(self._take(key), d, p, to_size(size) or (), dtype or environ.dftype())


def _one_shape(dn: tuple) -> tuple[int, ...]:
    return to_size(dn[0] if len(dn) == 1 and isinstance(dn[0], tuple | list) else dn) or ()


def _magnitude(x: Any) -> tuple[Any, Any]:
    """An integer n stands for the first n integers and is kept."""
    return (x, None) if isinstance(x, int | np.integer) else magnitude_and_unit(x)
