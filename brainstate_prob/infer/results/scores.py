"""The scores of a fit on held-out data, as a table."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.batching import first_batch
from brainstate_prob.infer.density.classes import predicted
from brainstate_prob.infer.results import prediction as predictions
from brainstate_prob.infer.results import scoring
from brainstate_prob.infer.results.observations import counted, has_moments, refuse_joint
from brainstate_prob.infer.table import Table

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['predicts_classes', 'score']


def predicts_classes(fit: Fit) -> bool:
    """Whether the targets are classes (Bernoulli or categorical)."""
    posterior = fit.posterior_for('scores')
    if posterior.log_likelihood_function is not None:
        return False
    return predicted(fit.density, fit.rows[0], posterior.data).num_classes is not None


def score(fit: Fit, inputs: Any, targets: Any, prob: float, **sizes: Any) -> Table:
    """See `Fit.score`."""
    posterior = fit.posterior_for('score')
    noiseless = {name: sizes[name] for name in ('num_draws', 'batch_size', 'draws_at_once')}
    data = predictions.data_for(posterior, inputs, targets, scored=True)
    part = first_batch(data, sizes['batch_size'])
    refuse_joint(fit, part, 'score')
    mask = counted(fit.density, fit.rows[0], data, part)
    log_density = np.asarray(fit.predict(inputs, targets, kind='log_density', **noiseless), np.float64)

    def among(x: Any) -> np.ndarray:
        """The entries of observations that count."""
        return np.asarray(x) if mask is None else np.asarray(x)[mask]

    log_density = among(log_density)
    rows: dict[str, tuple[Any, Any, str]] = {'nll': (scoring.nll(log_density), _error(-log_density), '-')}
    unit = '-' if posterior.targets_unit.is_unitless else str(posterior.targets_unit)
    y = among(data.targets)
    if posterior.log_likelihood_function is not None:
        pass  # no predictions
    elif predicts_classes(fit):
        probabilities = among(fit.predict(inputs, kind='probabilities', **noiseless))
        each = scoring.brier(probabilities, y)
        rows['accuracy'] = scoring.accuracy(probabilities, y), _error(probabilities.argmax(-1) == y), '-'
        rows['brier'] = each.mean(), _error(each), '-'
        rows['ece'] = scoring.ece(probabilities, y), np.nan, '-'
    else:
        with_crps = importlib.util.find_spec('scoringrules') is not None

        def reduce(draws: np.ndarray, part: Data) -> dict[str, np.ndarray]:
            return _statistics(draws, np.asarray(part.targets), prob, with_crps)

        values = {name: among(x) for name, x in predictions.drawn(fit, data, reduce, **sizes).items()}
        # No score without expectation: no squared error if the variance is infinite.
        with_mean, with_variance = has_moments(fit, part)
        if with_variance:
            squares = (values['mean'] - y) ** 2
            root = np.sqrt(squares.mean())
            rows['rmse'] = root, _error(squares) / (2 * root) if root else 0.0, unit
        if with_crps and with_mean:
            rows['crps'] = values['crps'].mean(), _error(values['crps']), unit
        covered = (values['lower'] <= y) & (y <= values['upper'])
        rows[f'coverage of {100 * prob:g} %'] = covered.mean(), _error(covered), '-'
        width = values['upper'] - values['lower']
        rows['mean width'] = width.mean(), _error(width), unit
        rows['pit distance'] = _distance_from_uniform(values['pit']), np.nan, '-'
    columns = {
        'value': np.array([row[0] for row in rows.values()], np.float64),
        'error': np.array([row[1] for row in rows.values()], np.float64),
        'unit': np.array([row[2] for row in rows.values()]),
    }
    return Table(f'{fit.method}: scores of {len(np.atleast_1d(y))} observations', tuple(rows), columns)


def _statistics(draws: np.ndarray, y: np.ndarray, prob: float, with_crps: bool) -> dict[str, np.ndarray]:
    mean, lower, upper = predictions.interval_of(draws, prob)
    seed = int(np.abs(draws[0]).sum() * 1e3) % (1 << 31)  # other noise for each batch, reproducible
    values = {'mean': mean, 'lower': lower, 'upper': upper, 'pit': scoring.pit(draws, y, seed)}
    return values | ({'crps': scoring.crps(draws, y)} if with_crps else {})


def _error(x: np.ndarray) -> float:
    """The standard error of the mean over observations."""
    return float(np.std(x, ddof=1) / np.sqrt(np.size(x))) if np.size(x) > 1 else np.nan


def _distance_from_uniform(x: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance from the uniform distribution."""
    x, n = np.sort(np.ravel(x)), np.size(x)
    return float(max((np.arange(1, n + 1) / n - x).max(), (x - np.arange(n) / n).max()))
