"""Scores of predictions on plain arrays: errors and calibration.

``draws`` have the draws as first axis, ``probabilities`` the classes as last axis; ``labels`` are ints from 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from brainstate_prob.infer.rules import probability
from brainstate_prob.infer.target.options import RULES

__all__ = ['accuracy', 'brier', 'coverage', 'crps', 'ece', 'interval_score', 'nll', 'pit', 'reliability', 'rmse']


def nll(log_density: Any) -> float:
    """Minus the mean log density of the targets: the log score.

    Examples
    --------
    >>> nll([-1.0, -2.0])
    1.5
    """
    return float(-np.mean(np.asarray(log_density, np.float64)))


def rmse(predictions: Any, targets: Any) -> float:
    """The root of the mean squared difference.

    Examples
    --------
    >>> rmse([1.0, 2.0], [4.0, 5.0])
    3.0
    """
    predictions, targets = _alike(predictions, targets, 'predictions')
    return float(np.sqrt(np.mean((predictions - targets) ** 2)))


def crps(draws: Any, targets: Any) -> np.ndarray:
    """The continuous ranked probability score of each target, E|X - y| - E|X - X'| / 2, estimated without bias.

    In the unit of the targets; the absolute error if all draws are equal. Computed by scoringrules.

    Raises
    ------
    ImportError
        Without scoringrules: ``pip install 'brainstate-prob[scoring]'``.

    Examples
    --------
    >>> crps([[0.0], [2.0]], [1.0])
    array([0.])
    """
    try:
        import scoringrules
    except ImportError as error:
        raise ImportError("The CRPS needs scoringrules: pip install 'brainstate-prob[scoring]'.") from error
    draws, targets = _draws_of(draws, targets)
    if len(draws) == 1:
        return np.abs(draws[0] - targets)
    # The unbiased estimate by moments, since the "fair" estimate stores all pairs of draws.
    return np.asarray(scoringrules.crps_ensemble(targets, draws, m_axis=0, estimator='pwm', backend='numpy'))


def interval_score(lower: Any, upper: Any, targets: Any, prob: float = 0.9) -> np.ndarray:
    """Winkler's score: the width of the interval plus 2 / (1 - prob) times the distance of the target from it.

    Examples
    --------
    >>> interval_score([0.0, 0.0], [1.0, 1.0], [0.5, 2.0], prob=0.9)
    array([ 1., 21.])
    """
    probability('prob', prob)
    lower, targets = _alike(lower, targets, 'lower')
    upper, targets = _alike(upper, targets, 'upper')
    outside = np.maximum(lower - targets, 0) + np.maximum(targets - upper, 0)
    return upper - lower + np.round(2 / (1 - prob), 12) * outside


def coverage(lower: Any, upper: Any, targets: Any) -> float:
    """The share of targets between the bounds, both included.

    Examples
    --------
    >>> coverage([0.0, 0.0], [1.0, 1.0], [0.5, 2.0])
    0.5
    """
    lower, targets = _alike(lower, targets, 'lower')
    upper, targets = _alike(upper, targets, 'upper')
    return float(np.mean((lower <= targets) & (targets <= upper)))


def pit(draws: Any, targets: Any, seed: int = 0) -> np.ndarray:
    """The probability integral transform of each target: its randomized rank among the draws, in (0, 1).

    Uniform if the targets are distributed as the draws are, discrete ones included.

    Examples
    --------
    >>> bool(0.5 < pit([[0.0], [1.0], [2.0]], [1.5])[0] < 0.75)  # between the second and the third of three draws
    True
    """
    draws, targets = _draws_of(draws, targets)
    below, equal = np.sum(draws < targets, axis=0), np.sum(draws == targets, axis=0)
    return (below + np.random.default_rng(seed).random(targets.shape) * (equal + 1)) / (len(draws) + 1)


def brier(probabilities: Any, labels: Any) -> np.ndarray:
    """The Brier score of each observation; its mean is scikit-learn's ``brier_score_loss``.

    The squared error of the probability for two classes, from 0 to 1; for more the sum of squared errors over the
    classes, from 0 to 2.

    Examples
    --------
    >>> brier([[0.5, 0.5], [0.0, 1.0]], [0, 1])
    array([0.25, 0.  ])
    """
    probabilities, labels = _classes(probabilities, labels)
    number = probabilities.shape[-1]
    squares = np.sum((probabilities - (labels[..., None] == np.arange(number))) ** 2, axis=-1)
    return squares / 2 if number == 2 else squares


def accuracy(probabilities: Any, labels: Any) -> float:
    """The share of labels that are the most probable class.

    Examples
    --------
    >>> accuracy([[0.7, 0.3], [0.6, 0.4]], [0, 1])
    0.5
    """
    probabilities, labels = _classes(probabilities, labels)
    return float(np.mean(probabilities.argmax(-1) == labels))


def reliability(probabilities: Any, labels: Any, bins: int = 15) -> dict[str, np.ndarray]:
    """The accuracy of the most probable class by its probability.

    Returns
    -------
    dict
        Means of ``confidence`` and ``accuracy``, and ``count``, in each of ``bins`` equal parts of (0, 1]; NaN for
        empty ones.

    Examples
    --------
    >>> table = reliability([[0.7, 0.3], [0.7, 0.3]], [0, 1], bins=2)
    >>> table['accuracy'], table['count']
    (array([nan, 0.5]), array([0, 2]))
    """
    RULES['bins']('bins', bins)
    probabilities, labels = _classes(probabilities, labels)
    confidence = np.ravel(probabilities.max(-1))
    right = np.ravel(probabilities.argmax(-1) == labels)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid='ignore'):
        means = {
            name: np.bincount(place, x, minlength=bins) / count
            for name, x in (('confidence', confidence), ('accuracy', right))
        }
    return {**means, 'count': count}


def ece(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """The expected calibration error: the mean abs(accuracy - confidence) of the parts of `reliability`.

    Examples
    --------
    >>> ece([[0.75, 0.25], [0.75, 0.25]], [0, 1], bins=4)
    0.25
    """
    table = reliability(probabilities, labels, bins)
    used = table['count'] > 0
    gap = np.abs(table['accuracy'] - table['confidence'])[used]
    return float(np.average(gap, weights=table['count'][used]))


# Checks of arguments


def _float(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _alike(x: Any, targets: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    x, targets = _float(x), _float(targets)
    if x.shape != targets.shape:
        raise ValueError(f'{name} must have the shape of the targets, {targets.shape}, got {x.shape}.')
    return x, targets


def _draws_of(draws: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    draws, targets = _float(draws), _float(targets)
    if draws.shape[1:] != targets.shape or draws.ndim == 0 or not len(draws):
        raise ValueError(
            f'draws must have shape (draws, ...) with the shape of the targets, {targets.shape}, behind; got '
            f'{draws.shape}.'
        )
    return draws, targets


def _classes(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = _float(probabilities), np.asarray(labels)
    if probabilities.ndim == 0 or probabilities.shape[:-1] != labels.shape:
        raise ValueError(
            f'probabilities must have shape (..., classes) with the shape of the labels, {labels.shape}, in front; '
            f'got {probabilities.shape}.'
        )
    number = probabilities.shape[-1]
    if labels.size and not ((labels >= 0) & (labels < number) & (labels == np.floor(labels))).all():
        raise ValueError(f'labels must be ints from 0 to {number - 1}, the classes; got {np.unique(labels)}.')
    if (np.abs(probabilities.sum(-1) - 1) > 1e-3).any() or (probabilities < 0).any():
        raise ValueError('probabilities must be at least 0 and sum to 1 over the last axis.')
    return probabilities, labels
