"""R-hat and effective sample sizes of many numbers at once.

The definitions are Vehtari et al. (2021) and Geyer's sequences as ArviZ computes them, to rounding. ArviZ takes
3 ms per number, longer than sampling if there are thousands.
"""

from __future__ import annotations

import numpy as np
from numpyro.diagnostics import gelman_rubin
from scipy import fft, special, stats

__all__ = ['bulk_ess', 'e_bfmi', 'effective_sizes', 'rank_r_hat', 'tail_ess']

_NUMBERS_AT_ONCE = 2**21  # numbers at a time; bounds the memory


def rank_r_hat(x: np.ndarray) -> np.ndarray:
    """Rank-normalized split R-hat of draws (chains, draws, ...): the maximum of bulk and tail (folded)."""
    x = _halves(x)
    folded = np.abs(x - np.median(x, axis=(0, 1)))
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.maximum(gelman_rubin(_normal_scores(x)), gelman_rubin(_normal_scores(folded)))


def bulk_ess(x: np.ndarray) -> np.ndarray:
    """Bulk effective sample size of draws (chains, draws, ...): that of the split chains' normal scores."""
    return _ess(_normal_scores(_halves(x)))


def tail_ess(x: np.ndarray) -> np.ndarray:
    """Tail effective sample size of draws (chains, draws, ...): the minimum over the 5 and 95 % quantiles."""
    low, high = np.quantile(x, [0.05, 0.95], axis=(0, 1))
    slack = 4 * np.finfo(x.dtype).eps * np.abs(high)  # a quantile may equal a draw up to rounding
    return np.minimum(_ess(_halves(x <= low + slack)), _ess(_halves(x <= high + slack)))


def e_bfmi(energy: np.ndarray) -> np.ndarray:
    """The estimated Bayesian fraction of missing information (E-BFMI) by chain."""
    energy = np.asarray(energy, np.float64)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)


def effective_sizes(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """``ess_bulk``, ``ess_tail`` and ``r_hat`` of numbers (chains, draws, n).

    NaN for fewer than four draws per chain, or constant draws.
    """
    if numbers.dtype.itemsize < 4:  # NumPy cannot sort bfloat16
        numbers = numbers.astype(np.float32)
    if numbers.shape[1] < 4:
        return {name: np.full(numbers.shape[2], np.nan) for name in ('ess_bulk', 'ess_tail', 'r_hat')}
    sizes = {'ess_bulk': bulk_ess(numbers), 'ess_tail': tail_ess(numbers), 'r_hat': rank_r_hat(numbers)}
    constant = np.ptp(numbers, axis=(0, 1)) == 0
    return {name: np.where(constant, np.nan, values) for name, values in sizes.items()}


def _halves(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _normal_scores(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    return special.ndtri((stats.rankdata(flat, axis=0) - 0.375) / (flat.shape[0] + 0.25)).reshape(x.shape)


def _ess(x: np.ndarray) -> np.ndarray:
    """Effective sample size of the mean of draws (chains, draws, ...)."""
    flat = np.asarray(x, np.float64).reshape(*x.shape[:2], -1)
    width = max(1, _NUMBERS_AT_ONCE // (flat.shape[0] * flat.shape[1]))
    parts = [_ess_together(flat[:, :, i : i + width]) for i in range(0, flat.shape[2], width)]
    return np.concatenate(parts).reshape(x.shape[2:])


def _ess_together(x: np.ndarray) -> np.ndarray:
    chains, draws, numbers = x.shape
    covariance = _autocovariance(x).mean(axis=0)
    within = covariance[0] * draws / (draws - 1)
    total = covariance[0] + (np.var(x.mean(axis=1), axis=0, ddof=1) if chains > 1 else 0.0)
    with np.errstate(invalid='ignore', divide='ignore'):
        rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: draws // 2 * 2].reshape(-1, 2, numbers).sum(axis=1)
    # Geyer's initial positive and monotone sequence of sums of pairs.
    positive = (pairs > 0) & (2 * np.arange(len(pairs))[:, None] + 1 < draws - 3)
    first = np.where(positive.all(axis=0), len(pairs) - 1, np.argmin(positive, axis=0))
    counted = np.arange(len(pairs))[:, None] < first
    last, pair = rho[2 * first, np.arange(numbers)], pairs[first, np.arange(numbers)]
    tau = -1 + 2 * np.sum(np.where(counted, np.minimum.accumulate(pairs), 0.0), axis=0)
    tau += np.where((last > 0) | ((pair >= 0) & (first > 0)), last, 0.0)
    size = chains * draws
    ess = size / np.maximum(tau, 1 / np.log10(size))
    return np.where(covariance[0] > 0, ess, size)


def _autocovariance(x: np.ndarray) -> np.ndarray:
    draws = x.shape[1]
    length = fft.next_fast_len(2 * draws, real=True)
    spectrum = fft.rfft(x - x.mean(axis=1, keepdims=True), length, axis=1)
    return fft.irfft(np.abs(spectrum) ** 2, length, axis=1)[:, :draws] / draws
