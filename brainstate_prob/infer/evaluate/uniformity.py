"""Uniformity of ranks: simultaneous bands of their distribution function, and the corresponding test.

Säilynoja, Bürkner and Vehtari, Graphical test for discrete uniformity (2022): at each point the number of smaller ranks
is binomial; the smallest two-sided pointwise probability is compared with its simulated distribution.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import stats

__all__ = ['ecdf_band', 'uniformity_p_value']

_SIMULATIONS = 10_000


def uniformity_p_value(ranks: np.ndarray, num_values: int) -> float:
    """The p-value of the uniformity of ranks among ``num_values`` possible ones from 0.

    Examples
    --------
    >>> import numpy as np
    >>> uniformity_p_value(np.arange(100), 100), uniformity_p_value(np.arange(100) // 2, 100) < 0.01
    (1.0, True)
    """
    ranks = np.asarray(ranks)
    counts = np.bincount(ranks, minlength=num_values).cumsum()[None, :-1]
    statistic = _smallest_pointwise(counts, len(ranks), num_values)[0]
    law = _law(len(ranks), num_values)
    return float((1 + np.searchsorted(law, statistic * (1 + 1e-9), side='right')) / (1 + len(law)))


def ecdf_band(num_ranks: int, num_values: int, prob: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points from 0 to 1 and the simultaneous bounds of the share of smaller ranks with probability ``prob``."""
    points = np.arange(1, num_values) / num_values
    level = np.quantile(_law(num_ranks, num_values), 1 - prob)
    lower = stats.binom.ppf(level / 2, num_ranks, points)
    upper = stats.binom.ppf(1 - level / 2, num_ranks, points)
    return points, lower / num_ranks, upper / num_ranks


def _smallest_pointwise(counts: np.ndarray, num_ranks: int, num_values: int) -> np.ndarray:
    """The smallest pointwise two-sided probability of cumulative counts (several, points)."""
    table = _pointwise(num_ranks, num_values)
    return table[np.arange(num_values - 1), counts].min(axis=1)


@functools.lru_cache(maxsize=8)
def _pointwise(num_ranks: int, num_values: int) -> np.ndarray:
    """The two-sided probability by point and count."""
    points = np.arange(1, num_values)[:, None] / num_values
    count = np.arange(num_ranks + 1)[None]
    below, above = stats.binom.cdf(count, num_ranks, points), stats.binom.sf(count - 1, num_ranks, points)
    return np.minimum(1, 2 * np.minimum(below, above))


@functools.lru_cache(maxsize=8)
def _law(num_ranks: int, num_values: int) -> np.ndarray:
    """Sorted simulated statistics of uniform ranks."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(20):  # in parts to bound the memory
        drawn = rng.multinomial(num_ranks, np.full(num_values, 1 / num_values), size=_SIMULATIONS // 20)
        parts.append(_smallest_pointwise(drawn.cumsum(axis=1)[:, :-1], num_ranks, num_values))
    return np.sort(np.concatenate(parts))
