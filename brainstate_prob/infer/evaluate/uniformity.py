"""Whether ranks are uniform: simultaneous bands around their distribution function, and the test that goes with them.

Säilynoja, Bürkner and Vehtari, Graphical test for discrete uniformity (2022): at each point the number of smaller ranks
is binomial; the smallest of the two-sided pointwise probabilities is compared with its own law, found by simulation.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import stats

__all__ = ['ecdf_band', 'uniformity_p_value']

_SIMULATIONS = 10_000


def uniformity_p_value(ranks: np.ndarray, num_values: int) -> float:
    """The probability that uniform ranks, of ``num_values`` possible ones from 0, look as odd as these or odder.

    Examples
    --------
    >>> import numpy as np
    >>> uniformity_p_value(np.arange(100), 100), uniformity_p_value(np.arange(100) // 2, 100) < 0.01
    (1.0, True)
    """
    ranks = np.asarray(ranks)
    counts = np.bincount(ranks, minlength=num_values).cumsum()[None, :-1]
    oddness = _oddness(counts, len(ranks), num_values)[0]
    law = _law(len(ranks), num_values)
    return float((1 + np.searchsorted(law, oddness * (1 + 1e-9), side='right')) / (1 + len(law)))


def ecdf_band(num_ranks: int, num_values: int, prob: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points from 0 to 1 and the bounds between which the share of smaller ranks lies everywhere with ``prob``."""
    points = np.arange(1, num_values) / num_values
    level = np.quantile(_law(num_ranks, num_values), 1 - prob)
    lower = stats.binom.ppf(level / 2, num_ranks, points)
    upper = stats.binom.ppf(1 - level / 2, num_ranks, points)
    return points, lower / num_ranks, upper / num_ranks


def _oddness(counts: np.ndarray, num_ranks: int, num_values: int) -> np.ndarray:
    """The smallest pointwise two-sided probability of cumulative counts (several, points)."""
    table = _pointwise(num_ranks, num_values)
    return table[np.arange(num_values - 1), counts].min(axis=1)


@functools.lru_cache(maxsize=8)
def _pointwise(num_ranks: int, num_values: int) -> np.ndarray:
    """By point and count: the two-sided probability of that count."""
    points = np.arange(1, num_values)[:, None] / num_values
    count = np.arange(num_ranks + 1)[None]
    below, above = stats.binom.cdf(count, num_ranks, points), stats.binom.sf(count - 1, num_ranks, points)
    return np.minimum(1, 2 * np.minimum(below, above))


@functools.lru_cache(maxsize=8)
def _law(num_ranks: int, num_values: int) -> np.ndarray:
    """Sorted oddness of uniform ranks."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(20):  # in parts, which bounds the memory
        drawn = rng.multinomial(num_ranks, np.full(num_values, 1 / num_values), size=_SIMULATIONS // 20)
        parts.append(_oddness(drawn.cumsum(axis=1)[:, :-1], num_ranks, num_values))
    return np.sort(np.concatenate(parts))
