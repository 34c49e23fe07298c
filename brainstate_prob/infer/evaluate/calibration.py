"""Temperature scaling of class probabilities."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize, special

from brainstate_prob.infer.evaluate.conformal import with_same_predictions
from brainstate_prob.infer.results import scoring

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['Tempered', 'best_temperature', 'temper', 'temperature_scaling']

_FACTOR = 100.0  # temperatures from 1 / 100 to 100 are tried


def temper(probabilities: Any, temperature: float) -> np.ndarray:
    """Probabilities proportional to their power 1 / temperature: less confident above 1, more below.

    Examples
    --------
    >>> temper([[0.8, 0.2]], 2.0).round(3)
    array([[0.667, 0.333]])
    """
    if not temperature > 0:
        raise ValueError(f'A temperature is a positive number, got {temperature!r}.')
    with np.errstate(divide='ignore'):
        logits = np.log(np.asarray(probabilities, np.float64)) / temperature
    return special.softmax(logits, axis=-1)


def best_temperature(probabilities: Any, labels: Any) -> float:
    """The maximum likelihood temperature of the labels (Guo et al. 2017), from 0.01 to 100.

    Examples
    --------
    >>> sure = [[0.99, 0.01]] * 4
    >>> round(best_temperature(sure, [0, 0, 0, 1]), 2)  # right three times of four
    4.18
    """
    probabilities, labels = scoring._classes(probabilities, labels)
    with np.errstate(divide='ignore'):
        log_probs = np.maximum(np.log(probabilities), -1e4)  # a label of probability zero is a large loss, not NaN
    index = labels.astype(int)[..., None]

    def loss(log_temperature: float) -> float:
        scaled = special.log_softmax(log_probs / np.exp(log_temperature), axis=-1)
        return -np.take_along_axis(scaled, index, axis=-1).mean()

    edge = np.log(_FACTOR)
    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-edge, edge), method='bounded').x))


@dataclasses.dataclass(frozen=True)
class Tempered:
    """A fit with tempered class probabilities."""

    fit: Any
    temperature: float
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def predict(self, inputs: Any = None, **kwargs: Any) -> np.ndarray:
        """The tempered probabilities, with the classes as last axis; arguments as for `Fit.predict`.

        Defaults are those of the calibration.
        """
        kwargs = with_same_predictions(self.fit, self.options, kwargs)
        return temper(self.fit.predict(inputs, kind='probabilities', **kwargs), self.temperature)

    def __repr__(self) -> str:
        return f'Tempered({self.fit!r}, temperature={self.temperature:.4g})'


def temperature_scaling(fit: Fit, inputs: Any, targets: Any, **kwargs: Any) -> Tempered:
    """Temper the class probabilities of a fit to match held-out data.

    Parameters
    ----------
    inputs, targets
        Held-out data, as for `Posterior`.
    **kwargs
        Sizes for `Fit.predict`.

    Returns
    -------
    Tempered
        With ``temperature`` and ``predict(inputs)``.

    Raises
    ------
    ValueError
        If targets are not classes.
    """
    probabilities = fit.predict(inputs, kind='probabilities', **kwargs)
    return Tempered(fit, best_temperature(probabilities, np.asarray(targets)), kwargs)
