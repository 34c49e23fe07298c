"""Flax NNX modules as Modules."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob import random
from brainstate_prob.core import BatchState
from brainstate_prob.interop.foreign import (
    Foreign,
    Path,
    Skeleton,
    constant,
    is_trainable,
    keep_statistics,
    training,
)
from brainstate_prob.nn.param import Param

__all__ = ['FlaxModel']


class FlaxModel(Foreign):
    """A Flax NNX module as a Module.

    ``nnx.Param`` are Params, ``nnx.BatchStat`` running statistics, all else is constant. In training
    (``environ.context(fit=True)``) every stream of ``nnx.Rngs`` starts from a new key at each evaluation, and layers
    are as after ``model.train()``; otherwise as after ``model.eval()``.
    """

    library = 'Flax NNX module'
    _streams: tuple[Path, ...]

    @classmethod
    def of(cls, model):
        nnx = sys.modules.get('flax.nnx')  # where nobody has imported it, nothing is of it
        if nnx is None or not isinstance(model, nnx.Module):
            return None
        definition, state = nnx.split(model)
        leaves: dict[Any, Any] = {}
        keys = []
        for path, x in nnx.to_flat_state(state):
            value = x[...] if isinstance(x, nnx.Variable) else x
            if isinstance(x, nnx.Param) and is_trainable(value):
                leaves[path] = Param(value)
            else:
                leaves[path] = BatchState(value) if isinstance(x, nnx.BatchStat) else constant(value)
            if isinstance(x, nnx.RngKey):
                keys.append(path)
        module = cls(Skeleton(definition), leaves, classes=(type(node) for _, node in nnx.iter_modules(model)))
        module._streams = tuple(keys)
        return module

    @classmethod
    def places_of(cls, model, kind):
        from flax import nnx

        return [path for path, node in nnx.iter_modules(model) if isinstance(node, kind)]

    def _built(self, values):
        from flax import nnx

        if training():
            values = values | {path: _like(values[path], random.split_key()) for path in self._streams}
        model = nnx.merge(self._skeleton.value, nnx.from_flat_state(values))
        model.set_attributes(
            deterministic=not training(), use_running_average=keep_statistics(), raise_if_not_found=False
        )
        return model

    def _left(self, model):
        from flax import nnx

        return {
            path: x[...] if isinstance(x, nnx.Variable) else x
            for path, x in nnx.to_flat_state(nnx.state(model))
            if not isinstance(x, nnx.RngState)
        }

    def _written(self, model, values):
        from flax import nnx

        kept = {path for path, x in nnx.to_flat_state(nnx.state(model)) if not isinstance(x, nnx.RngState)}
        nnx.update(model, nnx.from_flat_state({path: x for path, x in values.items() if path in kept}))
        return model


def _like(old: jax.Array, key: jax.Array) -> jax.Array:
    """The key, or as many keys from it, of the kind that a stream holds."""
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        key = key if typed else jax.random.wrap_key_data(key, impl=jax.random.key_impl(old))
        return jax.random.split(key, old.shape) if old.shape else key
    return jax.random.split(key, old.shape[:-1]) if old.shape[:-1] else key
