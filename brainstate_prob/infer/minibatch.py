"""Minibatches: which observations a step sees, and the factor that makes their likelihood stand for all."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.density import Data

__all__ = ['Batches', 'check_batch_size', 'first_batch', 'next_batch', 'take']


class Batches(NamedTuple):
    """Where a pass over the data stands: the order of the observations, the next position, and the random key."""

    order: jax.Array
    position: jax.Array
    key: jax.Array


def check_batch_size(data: Data, batch_size: int | None, num_observations: int) -> None:
    """Refuse minibatches that the data do not allow.

    Raises
    ------
    ValueError
        For a size outside 1 to N, no targets, or an input that has no axis of observations.
    """
    if batch_size is None:
        return
    if data.targets is None:
        raise ValueError('batch_size needs targets: without them there is nothing to take a part of.')
    if not 1 <= batch_size <= num_observations:
        raise ValueError(
            f'batch_size must be from 1 to the number of observations {num_observations}, got {batch_size}.'
        )
    for where, leaf in jax.tree_util.tree_flatten_with_path((data.args, data.kwargs))[0]:
        shape = np.shape(leaf)
        if shape and shape[0] != num_observations:
            raise ValueError(
                f'inputs{jax.tree_util.keystr(where[1:])} has shape {shape}; with batch_size every input must be a '
                f'scalar or have the observations ({num_observations}) as its first axis. Close the model over what is '
                'shared by all.'
            )


def first_batch(key: jax.Array, num_observations: int) -> Batches:
    """The start of the first pass."""
    key, sub = jax.random.split(key)
    return Batches(jax.random.permutation(sub, num_observations), jnp.zeros((), int), key)


def next_batch(batches: Batches, batch_size: int) -> tuple[jax.Array, Batches]:
    """The indices of the next batch. Each pass has a new random order; what is left over at its end is skipped."""
    num = batches.order.shape[0]
    over = batches.position + batch_size > num
    batches = lax.cond(over, lambda b: first_batch(b.key, num), lambda b: b, batches)
    index = lax.dynamic_slice(batches.order, (batches.position,), (batch_size,))
    return index, batches._replace(position=batches.position + batch_size)


def take(data: Data, index: jax.Array) -> Data:
    """The observations at ``index``, with the scale N / B."""

    def pick(x: Any) -> Any:
        return x[index] if np.ndim(x) else x

    num = np.shape(data.targets)[0]
    return data._replace(
        args=jax.tree.map(pick, data.args),
        kwargs=jax.tree.map(pick, data.kwargs),
        targets=pick(data.targets),
        scale=data.scale * (num / index.shape[0]),
    )
