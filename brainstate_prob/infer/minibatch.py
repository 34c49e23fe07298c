"""Minibatches: which observations a step sees, and the factor that makes their likelihood stand for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.density import Data
from brainstate_prob.infer.sharding import is_padded

if TYPE_CHECKING:
    from brainstate_prob.infer.posterior import Posterior

__all__ = [
    'Batches',
    'Stream',
    'check_batch_size',
    'first_batch',
    'loop_in_batches',
    'next_batch',
    'stream_of',
    'take',
]


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
    for where, leaf in jax.tree_util.tree_flatten_with_path((data.args, data.kwargs), is_leaf=is_padded)[0]:
        shape = np.shape(leaf)
        if shape and shape[0] != num_observations:
            raise ValueError(
                f'inputs{jax.tree_util.keystr(where[1:])} has shape {shape}; with batch_size every input must be a '
                f'scalar or have the observations ({num_observations}) as its first axis. Close the model over what is '
                'shared by all.'
            )


def first_batch(key: jax.Array, num_observations: int) -> Batches:
    """Before the first pass, whose order is drawn with the first batch."""
    return Batches(jnp.arange(num_observations), jnp.full((), num_observations, int), key)


def _new_pass(key: jax.Array, num_observations: int) -> Batches:
    key, sub = jax.random.split(key)
    return Batches(jax.random.permutation(sub, num_observations), jnp.zeros((), int), key)


def next_batch(batches: Batches, batch_size: int) -> tuple[jax.Array, Batches]:
    """The indices of the next batch. Each pass has a new random order; what is left over at its end is skipped."""
    return _within_pass(_refreshed(batches, batch_size), batch_size)


def _refreshed(batches: Batches, batch_size: int) -> Batches:
    """The start of the next pass, where this one has no whole batch left."""
    num = batches.order.shape[0]
    over = batches.position + batch_size > num
    return lax.cond(over, lambda b: _new_pass(b.key, num), lambda b: b, batches)


def _within_pass(batches: Batches, batch_size: int) -> tuple[jax.Array, Batches]:
    index = lax.dynamic_slice(batches.order, (batches.position,), (batch_size,))
    return index, batches._replace(position=batches.position + batch_size)


def loop_in_batches(unfinished: Callable, body: Callable, state: Any, rest: tuple, batch_size: int | None) -> tuple:
    """``while unfinished(state, *rest): state, *rest = body(index, state, *rest)``; ``index`` is the next batch.

    A new order is drawn outside the inner loop: under ``vmap`` both branches of a condition are computed, and the order
    of all observations at each step would cost more than the step.
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


class Stream:
    """Batches of an iterable, without end, each with the scale N / B that its likelihood counts.

    Parameters
    ----------
    posterior
        Whose model, units and States the batches are for.
    batches
        Gives pairs ``(inputs, targets)``, each as `Posterior` takes them. One that can be iterated anew (a list, a data
        loader) is begun again when it ends; a generator ends the fit.
    num_observations
        How many observations there are in all, N.

    Raises
    ------
    ValueError
        For no or an impossible ``num_observations``; while iterating, for a batch that is no pair, has no targets or
        is larger than N, and for a pass that does not have the N observations (up to what a last, incomplete batch
        leaves out).

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> stream = Stream(infer.Posterior(Mean()), [(None, jnp.ones(5)), (None, jnp.zeros(5))], 10)
    >>> float(next(stream).scale), stream.describe()
    (2.0, {'num_observations': 10, 'batch_size': 5, 'scale': 2.0})
    """

    def __init__(self, posterior: Posterior, batches: Iterable, num_observations: int | None):
        if num_observations is None:
            raise ValueError(
                'batches= needs num_observations=, how many observations there are in all: the likelihood of a batch '
                'of B counts N/B times.'
            )
        if isinstance(num_observations, bool) or not isinstance(num_observations, int | np.integer):
            raise TypeError(f'num_observations must be an int, got {num_observations!r}.')
        if num_observations < 1:
            raise ValueError(f'num_observations must be at least 1, got {num_observations}.')
        if not isinstance(batches, Iterable):
            raise TypeError(
                f'batches must be an iterable of pairs (inputs, targets), got {type(batches).__name__}. Arrays in '
                'memory are the inputs and targets of the Posterior, with batch_size=.'
            )
        self.posterior = posterior
        self.num_observations = int(num_observations)
        self.batch_size = 0  # of the first batch
        self._source = batches
        self._iterator: Iterator | None = None
        self._pushed: Data | None = None
        self._seen = self._largest = 0  # in this pass

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Data:
        if self._pushed is not None:
            batch, self._pushed = self._pushed, None
            return batch
        if self._iterator is None:
            self._begin()
        try:
            batch = next(self._iterator)  # type: ignore[arg-type]
        except StopIteration:
            self._end_of_pass()
            if self._iterator is self._source:
                raise
            self._begin()
            batch = next(self._iterator)  # type: ignore[arg-type]
        return self._data(batch)

    def peek(self) -> Data:
        """The batch that comes next."""
        if self._pushed is None:
            self._pushed = next(self)
        return self._pushed

    def skip(self, number: int) -> None:
        """Pass over batches, which a run that is resumed has seen before."""
        for _ in range(number):
            next(self)

    def describe(self) -> dict[str, Any]:
        """What to report: N, B and the scale of the first batch."""
        scale = self.num_observations / max(1, self.batch_size)
        return {'num_observations': self.num_observations, 'batch_size': self.batch_size, 'scale': scale}

    def _begin(self) -> None:
        self._iterator, self._seen, self._largest = iter(self._source), 0, 0

    def _end_of_pass(self) -> None:
        num = self.num_observations
        if self._seen == 0:
            raise ValueError('batches gave no batch at all: it is empty, or was used up before.')
        if not num - self._largest < self._seen <= num:
            raise ValueError(
                f'A pass over batches had {self._seen} observations, but num_observations={num} was given, by which '
                f'the likelihood of a batch is scaled. Give the number of the whole data set.'
            )

    def _data(self, batch: Any) -> Data:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f'Each batch must be a pair (inputs, targets), got {type(batch).__name__}'
                f'{f" of {len(batch)}" if isinstance(batch, tuple | list) else ""}.'
            )
        args, kwargs = self.posterior.inputs_of(batch[0])
        given: Any = batch[1]
        if given is None or np.ndim(getattr(given, 'mantissa', given)) == 0:
            raise ValueError('Each batch needs targets with the observations along their first axis.')
        targets = self.posterior.targets_of(given)
        size = int(np.shape(targets)[0])
        if size > self.num_observations:
            raise ValueError(
                f'A batch has {size} observations, more than num_observations={self.num_observations} of all. Give '
                'the number of the whole data set.'
            )
        self.batch_size = self.batch_size or size
        self._seen += size
        self._largest = max(self._largest, size)
        whole = self.posterior.data
        scale = np.asarray(self.num_observations / size, whole.scale.dtype)
        return whole._replace(args=args, kwargs=kwargs, targets=targets, scale=scale)


def stream_of(
    posterior: Posterior, batch_size: int | None, batches: Any, num_observations: int | None
) -> Stream | None:
    """The options of a fit about minibatches, checked; a `Stream` where they come from an iterable.

    Raises
    ------
    ValueError
        For options that contradict each other, and as `check_batch_size` and `Stream`.
    """
    if batches is not None:
        if batch_size is not None:
            raise ValueError("Give batch_size= (parts of the Posterior's data) or batches=, not both.")
        return Stream(posterior, batches, num_observations)
    if num_observations is not None:
        raise ValueError(
            'num_observations= goes with batches=; the observations of the Posterior are counted from its targets.'
        )
    check_batch_size(posterior.data, batch_size, posterior.num_observations)
    return None
