"""Keys of values: hashable, and equal for equal numbers, arrays and quantities."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

from brainstate_prob.core.structure import Identity, array_digest
from brainstate_prob.core.units import u

__all__ = ['value_key']


def value_key(value: Any) -> Hashable:
    """A hashable key that is equal for equal values of one type: 1, 1.0 and True differ.

    Arrays count by dtype, shape and content, quantities by their unit too, pytrees leaf by leaf; tracers
    and unhashable objects only equal themselves.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> value_key({'a': jnp.ones(2)}) == value_key({'a': np.ones(2, 'f4')}), value_key(1) == value_key(1.0)
    (True, False)
    """
    if isinstance(value, u.Quantity):
        return u.Quantity, value.unit, value_key(value.mantissa)
    if isinstance(value, jax.core.Tracer):
        return Identity(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return array_digest(value)
    leaves, tree = jax.tree.flatten(value)
    if not jax.tree_util.treedef_is_leaf(tree):
        return tree, tuple(map(value_key, leaves))
    try:
        hash(value)
    except TypeError:
        return Identity(value)
    return type(value), value
