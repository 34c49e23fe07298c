"""Batches from a user's iterable, one for each step: checks, passes, and the scale of the log-likelihood."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.target.data import new_arguments

if TYPE_CHECKING:
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['Stream']


class Stream:
    """An endless stream of an iterable's batches, each with the scale of its log-likelihood.

    In a pass each observation must count as often as any other, and the prior once: so every batch has the same
    factor, the number of batches in a pass, N / (mean size of a batch), whatever its own size. The sizes in a list are
    known. Of any other iterable the mean size is that of all whole passes so far, and in the first one that of the
    batches so far. A generator has ended a pass whenever N observations more were seen; if none of its passes ends
    with a batch, the mean is that of all batches so far.

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
        For no ``num_observations``; for a batch that is no pair, has no targets, no observations or
        more than N, or has other inputs than the first one; for a first pass that does not have the N observations (up
        to what a last, incomplete batch leaves out). A list is looked through at once. After the first pass what is
        wrong ends the fit with a warning, and what was done is kept.

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
    >>> stream = Stream(infer.Posterior(Mean()), [(None, jnp.ones(7)), (None, jnp.zeros(3))], 10)
    >>> float(next(stream).scale), float(next(stream).scale), stream.describe()
    (2.0, 2.0, {'num_observations': 10, 'batch_size': 5.0, 'scale': 2.0})
    """

    def __init__(self, posterior: Posterior, batches: Iterable, num_observations: int | None):
        if num_observations is None:
            raise ValueError(
                'batches= needs num_observations=, how many observations there are in all: by it the likelihood of a '
                'batch is scaled.'
            )
        self.posterior = posterior
        self.num_observations = int(num_observations)
        self.shares: list[float] = []  # of each batch, its size over the mean size
        self._source = batches
        self._iterator: Iterator | None = None
        self._pushed: Data | None = None
        self._form: Any = None  # of the inputs of the first batch
        self._sizes: set[int] = set()
        self._pass = self._all = self._whole_passes = _Count(0, 0)  # of this pass, all, complete passes
        self._passes = 0
        self._has_warned = self._ended = False
        self._is_list = isinstance(batches, list | tuple)
        if self._is_list:
            for i, batch in enumerate(batches):
                self._whole_passes = self._whole_passes.plus(self._size_of(batch, i))
            self._check_pass(self._whole_passes)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Data:
        if self._pushed is not None:
            batch, self._pushed = self._pushed, None
            return batch
        if self._ended:
            raise StopIteration
        try:
            return self._data(self._given())
        except StopIteration:
            self._ended = True
            raise
        except Exception as error:  # the user's loader may raise anything
            if not self._passes:
                raise
            self._ended = True
            warnings.warn(
                f'The batches ended after {self._all.number} steps, and the result is that of these steps: '
                f'{type(error).__name__}: {error}',
                UserWarning,
                stacklevel=2,
            )
            raise StopIteration from None

    def peek(self) -> Data:
        """The next batch, without consuming it."""
        if self._pushed is None:
            self._pushed = next(self)
        return self._pushed

    def stand_in(self) -> Data:
        """The next batch, with the scale N / B for all observations."""
        batch = self.peek()
        return batch._replace(scale=self._scale(np.shape(batch.targets)[0]))

    def skip(self, number: int) -> None:
        """Skip the batches that a resumed run has already used.

        Raises
        ------
        ValueError
            If there are not as many.
        """
        for i in range(number):
            try:
                next(self)
            except StopIteration:
                raise ValueError(
                    f'The checkpoint is that of a run that has seen {number} batches, and these are {i}. Give the same '
                    'batches as before.'
                ) from None

    @property
    def mean_size(self) -> float:
        """The mean batch size, as far as known."""
        recent = not self._is_used_up or self._all.seen - self._whole_passes.seen <= self.num_observations
        count = self._whole_passes if self._whole_passes.number and recent else self._all
        return count.seen / max(1, count.number)

    def describe(self) -> dict[str, Any]:
        """The entries of `Fit.info`: N, the (mean) batch size and the scale."""
        size = next(iter(self._sizes)) if len(self._sizes) == 1 else self.mean_size
        return {
            'num_observations': self.num_observations,
            'batch_size': size,
            'scale': self.num_observations / self.mean_size,
        }

    # Passes

    def _given(self) -> Any:
        if self._iterator is None:
            self._begin()
        try:
            return next(self._iterator)  # type: ignore[arg-type]
        except StopIteration:
            self._end_of_pass()
            if self._is_used_up:
                raise
        self._begin()
        return next(self._iterator)  # type: ignore[arg-type]

    @property
    def _is_used_up(self) -> bool:
        """Whether the iterable is a generator, which cannot be restarted."""
        return self._iterator is self._source

    def _begin(self) -> None:
        self._iterator, self._pass = iter(self._source), _Count(0, 0)

    def _end_of_pass(self) -> None:
        if self._is_used_up:
            num, seen = self.num_observations, self._all.seen
            if not seen:
                raise ValueError(_NO_BATCH)
            if seen <= num - max(self._sizes):
                warnings.warn(
                    f'The batches ended after {seen} observations, and num_observations={num}: the fit has not seen '
                    'the others, for which those that it saw stand. Check the number.',
                    UserWarning,
                    stacklevel=2,
                )
            return
        self._check_pass(self._pass)
        self._passes, self._whole_passes = self._passes + 1, self._whole_passes if self._is_list else self._all

    def _check_pass(self, count: _Count) -> None:
        """Check a pass's number of observations: an error up to the first pass, a warning later."""
        num = self.num_observations
        if not count.number:
            raise ValueError(_NO_BATCH)
        if num - max(self._sizes) < count.seen <= num or count.seen % num == 0 or self._has_warned:
            return
        problem = (
            f'A pass over batches had {count.seen} observations, but num_observations={num} was given, by which the '
            'likelihood of a batch is scaled. Give the number of the whole data set.'
        )
        if not self._passes:
            raise ValueError(problem)
        self._has_warned = True
        warnings.warn(f'{problem} The passes before had them all.', UserWarning, stacklevel=2)

    # Batches

    def _data(self, batch: Any) -> Data:
        size = self._size_of(batch, self._pass.number)
        try:
            args, kwargs = new_arguments(self.posterior.data, batch[0])
            targets = self.posterior.targets_of(batch[1])
        except (TypeError, ValueError) as error:
            if type(error) not in (TypeError, ValueError):
                raise
            raise type(error)(f'Batch {self._pass.number} (counted from 0): {error}') from None
        self._pass, self._all = self._pass.plus(size), self._all.plus(size)
        mean = self.mean_size
        self.shares.append(size / mean)
        if self._is_used_up:
            self._passes = self._all.seen // self.num_observations
            if self._all.seen % self.num_observations == 0:
                self._whole_passes = self._all
        return self.posterior.data._replace(args=args, kwargs=kwargs, targets=targets, scale=self._scale(mean))

    def _scale(self, size: float) -> np.ndarray:
        return np.asarray(self.num_observations / size, self.posterior.data.scale.dtype)

    def _size_of(self, batch: Any, number: int) -> int:
        """The number of observations in a batch."""
        where = f'Batch {number} (counted from 0)'
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f'Each batch must be a pair (inputs, targets), got {type(batch).__name__}'
                f'{f" of {len(batch)}" if isinstance(batch, tuple | list) else ""}. Arrays of all observations are the '
                'inputs and targets of the Posterior, with batch_size=.'
            )
        inputs, targets = batch
        given: Any = () if targets is None else getattr(targets, 'mantissa', targets)
        shape = () if targets is None else np.shape(given)
        if not shape:
            raise ValueError(
                f'Each batch needs targets, with the observations along their first axis; {where} has none.'
            )
        if not shape[0]:
            raise ValueError(f'{where} has no observations: its targets have shape {shape}. Leave it out.')
        if shape[0] > self.num_observations:
            raise ValueError(
                f'{where} has {shape[0]} observations, more than num_observations={self.num_observations} of all. Give '
                'the number of the whole data set.'
            )
        form = sorted(map(str, inputs)) if isinstance(inputs, dict) else _number_of(inputs)
        self._form = form if self._form is None else self._form
        if form != self._form:
            raise ValueError(
                f'{where} has the inputs {form}, the first one {self._form} (names, or how many). All batches must '
                'have the same.'
            )
        self._sizes.add(int(shape[0]))
        return int(shape[0])


class _Count(NamedTuple):
    """Counts of batches and of observations."""

    number: int
    seen: int

    def plus(self, size: int) -> _Count:
        return _Count(self.number + 1, self.seen + size)


_NO_BATCH = 'batches yielded nothing: the iterable is empty or exhausted.'


def _number_of(inputs: Any) -> int:
    return len(inputs) if isinstance(inputs, tuple) else int(inputs is not None)
