"""Split conformal prediction: intervals and sets with guaranteed coverage for any model, from held-out data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.core.calls import nearest
from brainstate_prob.core.quantities import with_unit
from brainstate_prob.core.units import u
from brainstate_prob.infer.results.prediction import Interval
from brainstate_prob.infer.results.scores import predicts_classes
from brainstate_prob.infer.rules import probability, refuse

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['Conformal', 'conformal', 'conformal_quantile']

_INTERVALS = ('absolute', 'normalized', 'quantile')
_SETS = ('threshold', 'adaptive')


def conformal_quantile(scores: Any, prob: float) -> float:
    """The ``ceil((n + 1) prob)``-th smallest of n scores, which bounds a new score with probability ``prob`` or more.

    The probability is at most ``prob + 1 / (n + 1)`` without ties, for exchangeable scores of any distribution.

    Raises
    ------
    ValueError
        For too few scores.

    Examples
    --------
    >>> conformal_quantile([3.0, 1.0, 2.0, 4.0], 0.8)
    4.0
    """
    scores = np.sort(np.asarray(scores, np.float64))
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f'scores must be one number per observation, without NaN; got shape {scores.shape}.')
    prob = probability('prob', prob)
    rank = int(np.ceil(np.round((len(scores) + 1) * prob, 9)))  # (4 + 1) * 0.8 is 4, whatever its rounding
    if rank > len(scores):
        raise ValueError(
            f'{len(scores)} observations cannot guarantee a coverage of {100 * prob:g} %: at least '
            f'{int(np.ceil(np.round(prob / (1 - prob), 9)))} are needed. Hold out more, or lower prob.'
        )
    return float(scores[rank - 1])


@dataclasses.dataclass(frozen=True)
class Conformal:
    """Predictions of a fit, calibrated to cover ``prob`` of new targets."""

    fit: Any
    method: str
    prob: float
    quantile: float
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def predict(self, inputs: Any = None, **kwargs: Any) -> Any:
        """Predict intervals, or for classes whether each is in the set.

        Parameters
        ----------
        inputs
            As for `Posterior`.
        **kwargs
            Sizes and seed for `Fit.predict`; default: those of the calibration.

        Returns
        -------
        Interval or numpy.ndarray
            ``Interval(mean, lower, upper)`` in the unit of the targets, or bools of shape (n, classes).
        """
        kwargs = with_same_predictions(self.fit, self.options, kwargs)
        if self.method in _SETS:
            return _class_scores(self.fit, self.method, inputs, kwargs) <= self.quantile
        mean, lower, upper, unit = _interval(self.fit, inputs, self.prob, kwargs)
        if self.method == 'quantile':
            lower, upper = lower - self.quantile, upper + self.quantile
            # If the model is far too uncertain the bounds may cross: an empty interval is replaced by its middle.
            middle = (lower + upper) / 2
            lower, upper = np.minimum(lower, middle), np.maximum(upper, middle)
        else:
            half = self.quantile * (1.0 if self.method == 'absolute' else (upper - lower) / 2)
            lower, upper = mean - half, mean + half
        return Interval(*(with_unit(x, unit) for x in (mean, lower, upper)))

    def __repr__(self) -> str:
        return f'Conformal({self.fit!r}, method={self.method!r}, prob={self.prob}, quantile={self.quantile:.4g})'


def conformal(
    fit: Fit, inputs: Any, targets: Any, prob: float = 0.9, method: str | None = None, **kwargs: Any
) -> Conformal:
    """Calibrate a fit's predictions on held-out data.

    For new data exchangeable with these n, the intervals or sets cover the target with a probability of at least
    ``prob`` and at most about ``prob + 1 / (n + 1)``, averaged over calibration and new data, however wrong the model.

    Parameters
    ----------
    inputs, targets
        Held-out data; one number or class per observation.
    prob
        The coverage probability.
    method
        ``'absolute'``: the mean plus and minus a constant; ``'normalized'``: plus and minus a multiple of the half
        width of the model's interval; ``'quantile'``: the model's interval with bounds shifted by a constant (Romano
        et al. 2019). For classes ``'threshold'``: those with a probability above a
        threshold (small sets); ``'adaptive'``: the most probable ones until their sum reaches a level (larger sets
        where the model is unsure). Default: ``'quantile'``, ``'threshold'`` for classes.
    **kwargs
        Sizes and seed for `Fit.predict`.

    Returns
    -------
    Conformal
        With ``predict(inputs)``.

    Raises
    ------
    ValueError
        For a method that does not fit the targets, or too few observations.
    """
    of_classes = predicts_classes(fit)
    allowed = _SETS if of_classes else _INTERVALS
    if method is None:
        method = 'threshold' if of_classes else 'quantile'
    if method not in allowed:
        kind = 'classes' if of_classes else 'numbers'
        raise refuse('method', f'one of {list(allowed)} for targets that are {kind}', method, nearest(method, allowed))
    y = np.asarray(fit.posterior.targets_of(targets))
    if y.ndim != 1:
        raise ValueError(
            f'Conformal prediction needs one target per observation, shape (n,), got {y.shape}. Calibrate each column '
            'by a fit of its own.'
        )
    if of_classes:
        scores = np.take_along_axis(_class_scores(fit, method, inputs, kwargs), y.astype(int)[:, None], axis=1)[:, 0]
    else:
        mean, lower, upper, _ = _interval(fit, inputs, prob, kwargs)
        if method == 'quantile':
            scores = np.maximum(lower - y, y - upper)
        else:
            scores = np.abs(y - mean) / (1.0 if method == 'absolute' else (upper - lower) / 2)
    return Conformal(fit, method, float(prob), conformal_quantile(scores, prob), kwargs)


def with_same_predictions(fit: Fit, calibrated: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Options for `Fit.predict`; defaults are those of the calibration.

    Raises
    ------
    ValueError
        For predictions of another kind than the calibrated ones.
    """
    default = getattr(fit, 'linearized', None)
    calibrated_with, wanted = (default if x.get('linearized') is None else x['linearized'] for x in (calibrated, asked))
    if asked.get('linearized') is not None and wanted != calibrated_with:
        raise ValueError(
            f'What calibrated_with calibrated are predictions with linearized={calibrated_with}; with '
            f'linearized={wanted} they are others. Calibrate with linearized={wanted}.'
        )
    return {**calibrated, **asked}


def _interval(fit: Fit, inputs: Any, prob: float, kwargs: dict) -> tuple:
    intervals = fit.predict(inputs, kind='interval', prob=prob, **kwargs)
    mean, lower, upper = (np.asarray(u.get_magnitude(x), np.float64) for x in intervals)
    return mean, lower, upper, fit.posterior.targets_unit


def _class_scores(fit: Fit, method: str, inputs: Any, kwargs: dict) -> np.ndarray:
    """The nonconformity score of each class, of shape (n, classes)."""
    probabilities = np.asarray(fit.predict(inputs, kind='probabilities', **kwargs), np.float64)
    if method == 'threshold':
        return 1 - probabilities
    order = np.argsort(-probabilities, axis=1, kind='stable')
    sums = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    return np.take_along_axis(sums, np.argsort(order, axis=1, kind='stable'), axis=1)
