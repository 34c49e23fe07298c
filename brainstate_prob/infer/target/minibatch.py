"""Minibatches of data in memory: the observations of each step, and the scale N / B of their log-likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import is_padded
from brainstate_prob.infer.data.support import refuse_impossible
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.target.indices import refuse_out_of_range
from brainstate_prob.infer.target.rows import check_rows
from brainstate_prob.infer.target.stream import Stream

if TYPE_CHECKING:
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = [
    'Batches',
    'Batching',
    'Stream',
    'check_batch_size',
    'check_parts',
    'first_batch',
    'loop_in_batches',
    'next_batch',
    'take',
]


class Batches(NamedTuple):
    """The state of a pass over the data: the order of the observations, the next position, and the random key."""

    order: jax.Array
    position: jax.Array
    key: jax.Array


def check_batch_size(data: Data, batch_size: int | None, num_observations: int) -> None:
    """Refuse a batch size that the data do not allow.

    Raises
    ------
    ValueError
        For a size outside 1 to N, no targets, or an input that has no axis of observations.
    """
    if batch_size is None:
        return
    if data.targets is None:
        raise ValueError('batch_size needs targets, since minibatches are parts of them.')
    if not 1 <= batch_size <= num_observations:
        raise ValueError(
            f'batch_size must be from 1 to the number of observations {num_observations}, got {batch_size}.'
        )
    for where, leaf in jax.tree_util.tree_flatten_with_path((data.args, data.kwargs), is_leaf=is_padded)[0]:
        shape = np.shape(leaf)
        if shape and shape[0] != num_observations:
            raise ValueError(
                f'inputs{jax.tree_util.keystr(where[1:])} has shape {shape}; with batch_size every input must be a '
                f'scalar or have the observations ({num_observations}) as its first axis. Close the model over what is '
                'shared by all.'
            )


def first_batch(key: jax.Array, num_observations: int) -> Batches:
    """The state before the first pass, whose order is drawn with the first batch."""
    return Batches(jnp.arange(num_observations), jnp.full((), num_observations, int), key)


def _new_pass(key: jax.Array, num_observations: int) -> Batches:
    key, sub = jax.random.split(key)
    return Batches(jax.random.permutation(sub, num_observations), jnp.zeros((), int), key)


def next_batch(batches: Batches, batch_size: int) -> tuple[jax.Array, Batches]:
    """The indices of the next batch. Each pass has a new random order; an incomplete last batch is skipped."""
    return _within_pass(_refreshed(batches, batch_size), batch_size)


def _refreshed(batches: Batches, batch_size: int) -> Batches:
    """The start of the next pass if no complete batch is left in this one."""
    num = batches.order.shape[0]
    over = batches.position + batch_size > num
    return lax.cond(over, lambda b: _new_pass(b.key, num), lambda b: b, batches)


def _within_pass(batches: Batches, batch_size: int) -> tuple[jax.Array, Batches]:
    index = lax.dynamic_slice(batches.order, (batches.position,), (batch_size,))
    return index, batches._replace(position=batches.position + batch_size)


def loop_in_batches(unfinished: Callable, body: Callable, state: Any, rest: tuple, batch_size: int | None) -> tuple:
    """``while unfinished(state, *rest): state, *rest = body(index, state, *rest)``; ``index`` is the next batch.

    A new order is drawn outside the inner loop: under ``vmap`` both branches of a condition are computed, and a
    permutation of all observations at each step would cost more than the step.
    """
    if batch_size is None:
        return lax.while_loop(lambda loop: unfinished(*loop), lambda loop: body(None, *loop), (state, *rest))

    def one_pass(loop: tuple) -> tuple:
        state, *rest = loop
        state = state._replace(batches=_refreshed(state.batches, batch_size))
        return lax.while_loop(has_batch, step, (state, *rest))

    def has_batch(loop: tuple) -> jax.Array:
        batches = loop[0].batches
        return unfinished(*loop) & (batches.position + batch_size <= batches.order.shape[0])

    def step(loop: tuple) -> tuple:
        state, *rest = loop
        index, batches = _within_pass(state.batches, batch_size)
        return body(index, state._replace(batches=batches), *rest)

    return lax.while_loop(lambda loop: unfinished(*loop), one_pass, (state, *rest))


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


def check_parts(posterior: Posterior, batch_size: int, what: str = 'batch_size=', instead: str = '') -> None:
    """Refuse minibatches where the data or the model do not allow them.

    Parameters
    ----------
    what, instead
        How parts were asked for, and what to do instead: for the message.

    Raises
    ------
    ValueError
        As `check_batch_size`, and for rows that are not independent (`check_rows`).
    """
    num = posterior.num_observations
    check_batch_size(posterior.data, batch_size, num)
    fix = instead or f'Leave {what.rstrip("=")} out'
    check_rows(posterior, posterior.data, num, what, f'{fix}, {_PIECES}')


_PIECES = (
    'or make pieces that are independent the observations (windows of a series, whole groups), along the first axis of '
    'inputs and targets.'
)


class Batching:
    """The data of each step of a fit: all observations, minibatches of them, or batches of an iterable.

    Parameters
    ----------
    batch_size, batches, num_observations
        The options of a fit.

    Attributes
    ----------
    batch_size : int or None
    stream : Stream or None
        The batches of an iterable.
    num_observations : int
        How many observations there are in all.

    Raises
    ------
    ValueError
        For options that contradict each other, and as `check_parts` and `Stream`.
    """

    def __init__(self, posterior: Posterior, batch_size: int | None, batches: Any, num_observations: int | None):
        self._data, self.batch_size, self.stream = posterior.data, batch_size, None
        self.num_observations = posterior.num_observations or 1
        if batches is not None:
            if batch_size is not None:
                raise ValueError("Give batch_size= (parts of the Posterior's data) or batches=, not both.")
            self.stream = Stream(posterior, batches, num_observations)
            self.num_observations = self.stream.num_observations
            first = self.stream.peek()
            num = int(np.shape(first.targets)[0])
            shapes = [np.shape(x) for x in jax.tree.leaves((first.args, first.kwargs))]
            if all(not shape or shape[0] == num for shape in shapes):  # else no check is possible
                fix = f'Give all rows to the Posterior and leave batches out, {_PIECES}'
                check_rows(posterior, first, num, 'batches=', fix)
        elif num_observations is not None:
            raise ValueError(
                'num_observations= goes with batches=; the observations of the Posterior are counted from its targets.'
            )
        elif batch_size is not None:
            check_parts(posterior, batch_size)

    @property
    def in_parts(self) -> bool:
        """Whether a step sees only a part of the observations."""
        return self.stream is not None or self.batch_size is not None

    @property
    def example(self) -> Data:
        """Example data: those of the posterior, or the next batch."""
        return self._data if self.stream is None else self.stream.stand_in()

    def check(self, density: Density, theta: jax.Array) -> None:
        """Evaluate the first batch, so that errors of shapes, dtypes and supports appear before a long run.

        Raises
        ------
        ValueError
            For targets outside the likelihood's support, and whatever the model says about shapes.
        """
        if self.stream is not None:
            refuse_out_of_range(density, theta, self.stream.peek())
            refuse_impossible(density, theta, self.stream.peek(), 'the targets of the first batch')

    def info(self) -> dict[str, Any]:
        """The entries of `Fit.info` about minibatches."""
        if self.stream is not None:
            return self.stream.describe()
        if self.batch_size is None:
            return {}
        num = self.num_observations
        return {'num_observations': num, 'batch_size': self.batch_size, 'scale': num / self.batch_size}
