"""Plots of calibration: reliability and coverage."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from brainstate_prob.infer.results.scoring import ece, reliability

__all__ = ['plot_coverage', 'plot_reliability', 'pyplot']


def pyplot() -> Any:
    """``matplotlib.pyplot``.

    Raises
    ------
    ImportError
        If it is missing, with the package to install.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise ImportError("Plots need matplotlib: pip install 'brainstate-prob[plot]'.")
    import matplotlib.pyplot as plt

    return plt


def plot_reliability(probabilities: Any, labels: Any, bins: int = 15, ax: Any = None) -> Any:
    """Plot the accuracy of the most probable class against its probability; the diagonal is perfect calibration.

    Parameters
    ----------
    probabilities, labels
        Of shape (..., classes) and (...).
    bins
        The number of bins of probabilities.
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
    ax.set(xlabel='probability', ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    ax.set_title(f'ECE {ece(probabilities, labels, bins):.3f}')
    return ax


def plot_coverage(pit: Any, ax: Any = None) -> Any:
    """Plot the coverage of central intervals against their probability; the diagonal is perfect calibration.

    Parameters
    ----------
    pit
        The PIT values of the targets, of `infer.scoring.pit`.
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
    ax.set(xlabel='probability of the interval', ylabel='coverage', xlim=(0, 1), ylim=(0, 1))
    return ax


def _axes(ax: Any) -> Any:
    return pyplot().subplots()[1] if ax is None else ax
