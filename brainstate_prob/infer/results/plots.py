"""Plots: of fits by ArviZ, of either version, and of what ArviZ has none: reliability, coverage, ranks."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.infer.results.arviz_io import import_arviz, is_old, scored_datasets, wrap
from brainstate_prob.infer.results.compare import loo
from brainstate_prob.infer.results.observations import refuse_joint
from brainstate_prob.infer.results.scoring import ece, reliability

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['plot', 'plot_coverage', 'plot_reliability', 'pyplot']

# What one major version of ArviZ calls otherwise.
_IN_0 = {'ppc_dist': 'ppc', 'dist': 'posterior'}
_IN_1 = {'ppc': 'ppc_dist', 'posterior': 'dist'}
_NEED_LOG_LIKELIHOOD = ('elpd', 'loo')
_NEED_PREDICTIONS = ('bpv', 'loo', 'ppc')


def pyplot() -> Any:
    """``matplotlib.pyplot``.

    Raises
    ------
    ImportError
        Where it is missing, saying what to install.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise ImportError("Plots need matplotlib: pip install 'brainstate-prob[plot]'.")
    import matplotlib.pyplot as plt

    return plt


def plot(fit: Fit, name: str, **kwargs: Any) -> Any:
    """``arviz.plot_<name>`` of a fit; what it is called in the installed version is looked up.

    Raises
    ------
    AttributeError
        For a plot that ArviZ does not have, listing those it has.
    """
    pyplot()
    arviz = import_arviz()
    known = (_IN_0 if is_old(arviz) else _IN_1).get(name, name)
    if not hasattr(arviz, f'plot_{known}'):
        there = sorted(n.removeprefix('plot_') for n in dir(arviz) if n.startswith('plot_'))
        raise AttributeError(f'ArviZ {arviz.__version__} has no plot_{name}; there are {there}.')
    if fit.num_chains * fit.num_draws < 2:
        raise ValueError(f'plot_{name} needs draws of the posterior; {fit.method!r} gives one point. Use nuts, say.')
    if known == 'khat':
        return arviz.plot_khat(loo(fit, 'plot_khat', pointwise=True), **kwargs)
    if known == 'loo_pit' and is_old(arviz):
        kwargs = {'y': 'targets'} | kwargs
    scored = any(word in known for word in _NEED_LOG_LIKELIHOOD)
    predicted = any(word in known for word in _NEED_PREDICTIONS)
    if not scored:
        return getattr(arviz, f'plot_{known}')(
            fit.to_arviz(log_likelihood=False, posterior_predictive=predicted), **kwargs
        )
    fit.refuse_other_data(f'plot_{name}')
    if fit.posterior is not None:
        refuse_joint(fit, fit.posterior.data, f'plot_{name}')
    data = wrap(scored_datasets(fit, posterior_predictive=predicted))
    return getattr(arviz, f'plot_{known}')(data, **kwargs)


def plot_reliability(probabilities: Any, labels: Any, bins: int = 15, ax: Any = None) -> Any:
    """How often the most probable class came against how probable it was; the diagonal is perfect.

    Parameters
    ----------
    probabilities, labels
        Of shape (..., classes) and (...).
    bins
        How many parts the probabilities are grouped in.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        With the expected calibration error as its title.
    """
    table = reliability(probabilities, labels, bins)
    ax = _axes(ax)
    used = table['count'] > 0
    left = np.arange(bins)[used] / bins
    ax.bar(left, table['accuracy'][used], 1 / bins, align='edge', alpha=0.6, edgecolor='white')
    ax.plot(table['confidence'][used], table['accuracy'][used], 'k.')
    ax.plot([0, 1], [0, 1], '--', color='grey')
    ax.set(xlabel='probability', ylabel='share that came', xlim=(0, 1), ylim=(0, 1))
    ax.set_title(f'ECE {ece(probabilities, labels, bins):.3f}')
    return ax


def plot_coverage(pit: Any, ax: Any = None) -> Any:
    """The share of targets inside central intervals of every probability; the diagonal is perfect.

    Parameters
    ----------
    pit
        The targets' ranks among the draws, of `infer.scoring.pit`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        With pointwise 95 % bounds for a calibrated model.
    """
    pit = np.ravel(np.asarray(pit, np.float64))
    ax = _axes(ax)
    prob = np.linspace(0, 1, 101)
    inside = np.mean(np.abs(pit - 0.5)[:, None] <= prob / 2, axis=0)
    noise = 1.96 * np.sqrt(prob * (1 - prob) / len(pit))
    ax.fill_between(prob, prob - noise, prob + noise, color='grey', alpha=0.3, linewidth=0)
    ax.plot([0, 1], [0, 1], '--', color='grey')
    ax.plot(prob, inside)
    ax.set(xlabel='probability of the interval', ylabel='share of targets inside', xlim=(0, 1), ylim=(0, 1))
    return ax


def _axes(ax: Any) -> Any:
    return pyplot().subplots()[1] if ax is None else ax
