"""Metric, the base class, and metrics of a stream of numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from brainstate_prob import environ
from brainstate_prob.core import LongTermState
from brainstate_prob.nn.module import Module

__all__ = [
    'AccuracyMetric',
    'AverageMetric',
    'Metric',
    'MetricState',
    'MultiMetric',
    'Statistics',
    'WelfordMetric',
    'accumulator_dtype',
    'check_integers',
    'counter_dtype',
    'ratio',
]


class MetricState(LongTermState):
    """An accumulator of a metric: kept across episodes, never trained.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.MetricState(jnp.zeros((), jnp.int32)).value
    Array(0, dtype=int32)
    """


class Metric(Module):
    """Base class of metrics: ``update(**batch)`` adds a batch, ``compute()`` returns the value so far.

    A subclass defines `_start` (the accumulators by name, each becomes a `MetricState`), ``update`` and ``compute``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> class Largest(nn.Metric):
    ...     def _start(self):
    ...         return {'value': jnp.array(-jnp.inf)}
    ...
    ...     def update(self, *, values, **_):
    ...         self.value.value = jnp.maximum(self.value.value, jnp.max(values))
    ...
    ...     def compute(self):
    ...         return self.value.value
    >>> metric = Largest()
    >>> metric.update(values=jnp.array([1.0, 3.0]))
    >>> float(metric.compute())
    3.0
    """

    def __init__(self, name: str | None = None):
        super().__init__(name)
        for key, value in self._start().items():
            setattr(self, key, MetricState(value))

    def _start(self) -> dict[str, Any]:
        return {}

    def reset(self) -> None:
        """Reset the accumulators."""
        for key, value in self._start().items():
            getattr(self, key).value = value

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch; arguments that the metric does not use are ignored."""
        raise NotImplementedError(f'{type(self).__name__} does not define update.')

    def compute(self) -> Any:
        """The value over all batches since the last reset."""
        raise NotImplementedError(f'{type(self).__name__} does not define compute.')


class _Stream(Metric):
    """Base of metrics of one argument of ``update``."""

    def __init__(self, argname: str = 'values', name: str | None = None):
        super().__init__(name)
        self.argname = argname

    def _argument(self, given: dict[str, Any]) -> Any:
        if self.argname not in given:
            raise TypeError(
                f'{type(self).__name__}.update needs {self.argname}=..., got {", ".join(given) or "nothing"}.'
            )
        return given[self.argname]


class AverageMetric(_Stream):
    """The mean of a stream: ``update(values=...)`` takes numbers of any shape, each of which counts once.

    Parameters
    ----------
    argname
        The name of the argument of ``update``.

    Notes
    -----
    The mean of no numbers is NaN.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> loss = nn.AverageMetric('loss')
    >>> loss.update(loss=jnp.array([1.0, 2.0]))
    >>> loss.update(loss=6.0)
    >>> float(loss.compute())
    3.0
    """

    total: MetricState
    count: MetricState

    def _start(self):
        return {'total': jnp.zeros((), accumulator_dtype()), 'count': jnp.zeros((), counter_dtype())}

    def update(self, **kwargs):
        values = jnp.asarray(self._argument(kwargs), self.total.value.dtype)
        self.total.value = self.total.value + jnp.sum(values)
        self.count.value = self.count.value + values.size

    def compute(self):
        return ratio(self.total.value, self.count.value, jnp.nan)


class AccuracyMetric(AverageMetric):
    """The accuracy: ``update(logits=..., labels=...)`` counts how often argmax(logits) is the label.

    ``logits`` have shape (..., classes), ``labels`` (integers) shape (...). It is NaN without labels.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> metric = nn.AccuracyMetric()
    >>> metric.update(logits=jnp.array([[0.1, 2.0], [3.0, -1.0]]), labels=jnp.array([1, 1]))
    >>> float(metric.compute())
    0.5
    """

    def _start(self):
        return {**super()._start(), 'total': jnp.zeros((), counter_dtype())}  # exact as an integer

    def update(self, *, logits: Any, labels: Any, **_):  # type: ignore[override]
        logits, labels = jnp.asarray(logits), jnp.asarray(labels)
        check_integers(type(self).__name__, labels=labels)
        if logits.shape[:-1] != labels.shape or not logits.ndim:
            raise ValueError(
                'AccuracyMetric: logits must have the shape of labels and an axis of classes behind it; got logits '
                f'{logits.shape} and labels {labels.shape}.'
            )
        super().update(**{self.argname: jnp.argmax(logits, -1) == labels})


class Statistics(NamedTuple):
    """The result of `WelfordMetric`: mean, standard error of the mean, and population standard deviation."""

    mean: jax.Array
    standard_error_of_mean: jax.Array
    standard_deviation: jax.Array


class WelfordMetric(_Stream):
    """Mean, population standard deviation and standard error of a stream, in one numerically stable pass.

    ``update(values=...)`` takes numbers of any shape, each of which counts once. Statistics of no numbers are NaN.

    Parameters
    ----------
    argname
        The name of the argument of ``update``.

    References
    ----------
    Chan, Golub and LeVeque 1983: the means and sums of squares of two sets make those of their union.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> metric = nn.WelfordMetric()
    >>> metric.update(values=jnp.array([1.0, 2.0]))
    >>> metric.update(values=3.0)
    >>> [round(float(x), 4) for x in metric.compute()]
    [2.0, 0.4714, 0.8165]
    """

    count: MetricState
    mean: MetricState
    squares: MetricState

    def _start(self):
        zero = jnp.zeros((), accumulator_dtype())
        return {'count': jnp.zeros((), counter_dtype()), 'mean': zero, 'squares': zero}

    def update(self, **kwargs):
        dtype = self.mean.value.dtype
        values = jnp.asarray(self._argument(kwargs), dtype)
        if not values.size:
            return
        before, mean = self.count.value, jnp.mean(values)
        delta, share = mean - self.mean.value, (values.size / (before + values.size)).astype(dtype)
        self.squares.value += jnp.sum((values - mean) ** 2) + delta**2 * before * share
        self.mean.value += delta * share
        self.count.value = before + values.size

    def compute(self):
        count = self.count.value
        mean = jnp.where(count > 0, self.mean.value, jnp.nan)
        deviation = jnp.sqrt(ratio(self.squares.value, count, jnp.nan))
        return Statistics(mean, deviation / jnp.sqrt(jnp.maximum(count, 1).astype(deviation.dtype)), deviation)


class MultiMetric(Metric):
    """Several metrics: ``update`` passes all arguments to each, ``compute`` returns a dict of their values.

    Raises
    ------
    TypeError
        For anything but a Metric.
    ValueError
        For the name of an attribute of Metric, such as ``compute``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> metrics = nn.MultiMetric(accuracy=nn.AccuracyMetric(), loss=nn.AverageMetric())
    >>> metrics.update(logits=jnp.eye(2), labels=jnp.array([0, 1]), values=0.25)
    >>> {name: float(value) for name, value in metrics.compute().items()}
    {'accuracy': 1.0, 'loss': 0.25}
    """

    def __init__(self, **metrics: Metric):
        super().__init__()
        for key, metric in metrics.items():
            if not isinstance(metric, Metric):
                raise TypeError(f'MultiMetric: {key} must be a Metric, got {type(metric).__name__}.')
            if hasattr(Metric, key) or key == 'metrics':
                raise ValueError(f'MultiMetric: {key!r} is a name of every Metric; choose another one.')
            setattr(self, key, metric)
        self.metrics = tuple(metrics)

    def reset(self):
        for key in self.metrics:
            getattr(self, key).reset()

    def update(self, **kwargs):
        for key in self.metrics:
            getattr(self, key).update(**kwargs)

    def compute(self):
        return {key: getattr(self, key).compute() for key in self.metrics}


def accumulator_dtype() -> Any:
    """The type of accumulators: single precision at least, since sums in half precision stop growing."""
    return jnp.promote_types(environ.dftype(), jnp.float32)


def counter_dtype() -> Any:
    """The type of counts: 32 bits at least."""
    return jnp.promote_types(environ.ditype(), jnp.int32)


def ratio(numerator: Any, denominator: Any, empty: float = 0.0) -> jax.Array:
    """A quotient, or ``empty`` where the denominator is 0."""
    dtype = jnp.promote_types(jnp.result_type(numerator), accumulator_dtype())
    return jnp.where(denominator > 0, numerator / jnp.maximum(denominator, 1), empty).astype(dtype)


def check_integers(who: str, **arrays: jax.Array) -> None:
    """Raise a TypeError unless arrays are class indices."""
    for key, x in arrays.items():
        if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_):
            raise TypeError(
                f'{who}: {key} must be class indices (integers), got {x.dtype}. Of scores, take jnp.argmax(..., -1) '
                'or a threshold.'
            )
