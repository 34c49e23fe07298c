"""Convergence of SVI: the guide's parameters are stationary (Dhaka et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from brainstate_prob.infer.run.optimization import MOST_STEPS

__all__ = ['Stationarity', 'r_hat_of']


class Stationarity:
    """Stop when R-hat of the guide's parameters, between the two last quarters of the run, is below a threshold."""

    reason = 'converged'
    every = MOST_STEPS  # the steps of one window

    def __init__(self, threshold: float):
        self._threshold = threshold
        self._windows: list[tuple[np.ndarray, np.ndarray]] = []  # mean and sum of squares of each
        self.r_hat, self.mean = r_hat_of(self._windows)  # the largest R-hat, and the mean over the last half of the run

    def holds(self, state: Any, losses: np.ndarray, shares: Sequence[float] | None) -> bool:
        """Add the completed window, and test for stationarity."""
        window = state[1].window
        self._windows.append((np.asarray(window.mean), np.asarray(window.squares)))
        self.r_hat, self.mean = r_hat_of(self._windows)
        return self.r_hat < self._threshold

    def arrays(self) -> dict[str, np.ndarray]:
        """The state for a checkpoint."""
        means, squares = zip(*self._windows, strict=True) if self._windows else ((), ())
        return {'means': np.array(means), 'squares': np.array(squares)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the state from `arrays`."""
        self._windows = list(zip(arrays['means'], arrays['squares'], strict=True))
        self.r_hat, self.mean = r_hat_of(self._windows)


def r_hat_of(windows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, np.ndarray | None]:
    """The largest R-hat of numbers between the two last quarters of a run, and their means over both."""
    half = len(windows) // 4
    if not half:
        return np.inf, None
    quarters = windows[-2 * half : -half], windows[-half:]
    means = np.array([np.mean([m for m, _ in q], axis=0, dtype=np.float64) for q in quarters])
    length = half * MOST_STEPS
    within = np.mean(
        [
            sum(s + MOST_STEPS * (m - centre) ** 2 for m, s in q) / (length - 1)
            for q, centre in zip(quarters, means, strict=True)
        ],
        axis=0,
    )
    between = means.var(axis=0, ddof=1)
    still = (within == 0) & (between == 0)  # constant parameters
    with np.errstate(divide='ignore', invalid='ignore'):
        ratio = np.where(still, 1.0, (length - 1) / length + between / within)
    return float(np.sqrt(ratio.max())), means.mean(axis=0)
