"""Pareto-smoothed importance sampling: k-hat, the shape of the tail of the importance weights.

Yao et al. 2018, "Yes, but did it work?"; Vehtari et al. 2024, "Pareto smoothed importance sampling". The
algorithm is that of ArviZ, whose import takes longer than this computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.infer.density.batching import log_densities
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.diagnostics.advice import advice

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['k_hat', 'k_hat_limit', 'k_hat_problem', 'pareto_k', 'smoothed_weights']

_FEWEST_DRAWS = 100


def k_hat(fit: Fit) -> float:
    """k-hat of a fit by SVI: the tail index of posterior / guide at the draws.

    Below 0.5 the guide is close to the posterior, up to 0.7 (less for few draws: ``1 - 1 / log10(draws)``) importance
    weights can correct its moments, above that they are unreliable. It is computed from all data, also if the fit used
    minibatches.

    Raises
    ------
    ValueError
        If the fit has no guide density (``stats['log_q']``), or fewer than 100 draws.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> fit = infer.svi(posterior, num_steps=2000, progress=False)  # a normal posterior, a normal guide
    >>> infer.k_hat(fit) < 0.5
    True
    """
    if 'log_q' not in fit.stats:
        raise ValueError(
            f"k_hat needs the guide's log density at the draws, stats['log_q'], which a fit by {fit.method!r} of this "
            'kind does not have: infer.svi gives it, unless the guide is a point.'
        )
    log_q = fit.stats['log_q'].ravel()
    if len(log_q) < _FEWEST_DRAWS:
        raise ValueError(f'k_hat needs at least {_FEWEST_DRAWS} draws, got {len(log_q)}. Raise num_draws.')
    lp = fit.stats.get('lp')
    if lp is None:
        posterior = fit.posterior_for('k_hat')
        with precision_of(fit.density):
            lp = log_densities(fit.density, fit.rows, posterior.data)
    return pareto_k(np.ravel(lp).astype(np.float64) - log_q)


def k_hat_limit(num_draws: int) -> float:
    """The largest k-hat at which the moments of so many draws are reliable."""
    return min(1 - 1 / np.log10(num_draws), 0.7)


def k_hat_problem(k: float, num_draws: int, used: Mapping[str, Any]) -> str | None:
    """The warning about ``k``, given the options in use; None if it is small enough."""
    if not k > k_hat_limit(num_draws):
        return None
    return (
        f'k-hat of the guide {used["guide"]!r} is {k:.2f} (above {k_hat_limit(num_draws):.2f}): it differs much from '
        f'the posterior, so its means and, more so, its spread can be wrong. {advice("guide", "svi", used)}'
    )


def pareto_k(log_weights: np.ndarray) -> float:
    """The shape of a generalized Pareto distribution fitted to the largest importance weights.

    Infinite for fewer than five distinct weights in the tail, 0 if all weights are equal.
    """
    x = np.sort(np.asarray(log_weights, np.float64))
    if not np.isfinite(x[-1]):
        return np.inf
    x = x - x[-1]
    if -x[0] < 1e-3:
        return 0.0
    count = int(np.ceil(min(len(x) / 5, 3 * np.sqrt(len(x)))))
    cutoff = max(x[-count - 1], np.log(np.finfo(float).tiny))
    tail = x[x > cutoff]
    return np.inf if len(tail) < 5 else _pareto(np.exp(tail) - np.exp(cutoff))[0]


def smoothed_weights(log_ratios: np.ndarray) -> np.ndarray:
    """Importance weights that sum to 1, the largest replaced by quantiles of the fitted Pareto tail.

    Vehtari et al. 2024, algorithm 1. Light tails (shape below 1/3) and fewer than 25 ratios are not smoothed.
    """
    x = np.asarray(log_ratios, np.float64)
    order, count = np.argsort(x), min(max(int(3 * np.sqrt(len(x))), 5), len(x) // 5)
    ratios = np.exp(x - x[order[-1]])
    if count >= 5:
        largest = order[-count:]
        threshold = ratios[order[-count - 1]]
        tail = ratios[largest] - threshold
        if tail[int(count / 4 + 0.5) - 1] > 0:
            shape, scale = _pareto(tail)
            if shape >= 1 / 3:
                below = (np.arange(count) + 0.5) / count
                ratios[largest] = np.minimum(threshold + scale * np.expm1(-shape * np.log1p(-below)) / shape, 1)
    return ratios / np.sum(ratios)


def _pareto(tail: np.ndarray) -> tuple[float, float]:
    """Shape and scale by the empirical Bayes estimate of Zhang & Stephens 2009.

    A weak prior shrinks the shape towards 0.5, with the weight of 10 observations.
    """
    n = len(tail)
    m = 30 + int(np.sqrt(n))
    b = 1 / tail[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * tail[int(n / 4 + 0.5) - 1])
    k = np.log1p(-b[:, None] * tail).mean(axis=1)
    fit = n * (np.log(-b / k) - k - 1)
    weights = np.exp(fit - fit.max())
    weights[weights < 10 * np.finfo(float).eps * weights.sum()] = 0
    mean = np.average(b, weights=weights)
    shape = np.log1p(-mean * tail).mean()
    return float((n * shape + 5.0) / (n + 10)), float(-shape / mean)
