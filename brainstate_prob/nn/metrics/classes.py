"""Classification metrics from exact counts: precision, recall, F1 and the confusion matrix."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.nn.metrics.stream import Metric, MetricState, check_integers, counter_dtype, ratio

__all__ = ['ConfusionMatrix', 'F1ScoreMetric', 'PrecisionMetric', 'RecallMetric']


class _ClassCounts(Metric):
    """Base of ratios of counts: predictions, labels, and true positives of each class."""

    true_positives: MetricState
    predicted: MetricState
    actual: MetricState
    _averages: ClassVar[tuple[str | None, ...]] = ('macro', 'micro', 'weighted', None)

    def __init__(self, num_classes: int | None = None, average: str | None = 'macro', name: str | None = None):
        if average not in self._averages:
            raise ValueError(f'{type(self).__name__}: average must be one of {self._averages}, got {average!r}.')
        self.num_classes = None if num_classes is None else _class_number(type(self).__name__, num_classes)
        self.average = average
        super().__init__(name)

    def _start(self):
        zeros = jnp.zeros(self.num_classes or 2, counter_dtype())
        return {'true_positives': zeros, 'predicted': zeros, 'actual': zeros}

    def update(self, *, predictions: Any, labels: Any, **_):
        n = self.num_classes or 2
        predictions, labels, valid = _pairs(type(self).__name__, predictions, labels, n)
        for state, classes, counts in (
            (self.true_positives, labels, valid & (labels == predictions)),
            (self.predicted, predictions, valid),
            (self.actual, labels, valid),
        ):
            state.value = state.value.at[jnp.where(counts, classes, n)].add(1, mode='drop')

    def compute(self):
        counts = self.true_positives.value, self.predicted.value, self.actual.value
        if self.num_classes is None:
            return ratio(*self._fraction(*(c[1] for c in counts)))
        if self.average == 'micro':
            return ratio(*self._fraction(*(jnp.sum(c) for c in counts)))
        scores = ratio(*self._fraction(*counts))
        if self.average == 'weighted':
            return ratio(jnp.sum(scores * counts[2]), jnp.sum(counts[2]))
        return scores if self.average is None else jnp.mean(scores)

    @staticmethod
    def _fraction(true_positives, predicted, actual):
        """Numerator and denominator."""
        raise NotImplementedError


_PARAMETERS = """

    ``update(predictions=..., labels=...)`` takes class indices, arrays of integers of one shape. A concrete index out
    of range raises; under jit such a pair is ignored. An empty denominator gives 0.

    Parameters
    ----------
    num_classes
        None for binary classes 0 and 1: the score of class 1.
    average
        How the scores of several classes become one: 'macro' (the mean over all classes),
        'weighted' (the mean weighted by the number of labels), 'micro' (the score of the counts summed over classes),
        or None (one score per class).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> metric = nn.{name}()
    >>> metric.update(predictions=jnp.array([1, 1, 1, 0]), labels=jnp.array([1, 1, 0, 1]))
    >>> round(float(metric.compute()), 4)
    0.6667
    """


class PrecisionMetric(_ClassCounts):
    """Precision: the share of the predictions of a class that are right, TP / (TP + FP)."""

    __doc__ += _PARAMETERS.format(name='PrecisionMetric')

    @staticmethod
    def _fraction(true_positives, predicted, actual):
        return true_positives, predicted


class RecallMetric(_ClassCounts):
    """Recall: the share of the labels of a class that are found, TP / (TP + FN)."""

    __doc__ += _PARAMETERS.format(name='RecallMetric')

    @staticmethod
    def _fraction(true_positives, predicted, actual):
        return true_positives, actual


class F1ScoreMetric(_ClassCounts):
    """F1: the harmonic mean of precision and recall of a class, 2 TP / (2 TP + FP + FN)."""

    __doc__ += _PARAMETERS.format(name='F1ScoreMetric')

    @staticmethod
    def _fraction(true_positives, predicted, actual):
        return 2 * true_positives, predicted + actual


class ConfusionMatrix(Metric):
    """The confusion matrix: counts of labels (rows) by predictions (columns), as integers.

    ``update(predictions=..., labels=...)`` takes class indices, arrays of integers of one shape. A concrete index out
    of range raises; under jit such a pair is ignored.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> metric = nn.ConfusionMatrix(2)
    >>> metric.update(predictions=jnp.array([1, 1, 0]), labels=jnp.array([1, 0, 0]))
    >>> metric.compute()
    Array([[1, 1],
           [0, 1]], dtype=int32)
    """

    matrix: MetricState

    def __init__(self, num_classes: int, name: str | None = None):
        self.num_classes: int = _class_number('ConfusionMatrix', num_classes)
        super().__init__(name)

    def _start(self):
        return {'matrix': jnp.zeros((self.num_classes, self.num_classes), counter_dtype())}

    def update(self, *, predictions: Any, labels: Any, **_):
        predictions, labels, valid = _pairs('ConfusionMatrix', predictions, labels, self.num_classes)
        rows = jnp.where(valid, labels, self.num_classes)
        self.matrix.value = self.matrix.value.at[rows, predictions].add(1, mode='drop')

    def compute(self):
        return self.matrix.value


def _class_number(who: str, num_classes: Any) -> int:
    if not isinstance(num_classes, int | np.integer) or isinstance(num_classes, bool) or num_classes < 2:
        raise ValueError(f'{who}: num_classes must be an integer from 2 on, got {num_classes!r}.')
    return int(num_classes)


def _pairs(who: str, predictions: Any, labels: Any, num_classes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Predictions and labels as flat indices, and whether each pair is in range."""
    given = {'predictions': jnp.asarray(predictions), 'labels': jnp.asarray(labels)}
    check_integers(who, **given)
    if given['predictions'].shape != given['labels'].shape:
        raise ValueError(
            f'{who}: predictions and labels must have one shape, got {given["predictions"].shape} and '
            f'{given["labels"].shape}.'
        )
    for key, x in given.items():
        if not isinstance(x, jax.core.Tracer) and x.size and not 0 <= np.min(x) <= np.max(x) < num_classes:
            raise ValueError(
                f'{who}: {key} must be from 0 to {num_classes - 1}, got {np.min(x)} to {np.max(x)}.'
                + (' Give num_classes= for more than two classes.' if num_classes == 2 else '')
            )
    predictions, labels = (x.astype(jnp.int32).ravel() for x in given.values())
    inside = ((x >= 0) & (x < num_classes) for x in (predictions, labels))
    return predictions, labels, next(inside) & next(inside)
