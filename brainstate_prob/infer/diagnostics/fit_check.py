"""Checks of a fit of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.identified import network_problems
from brainstate_prob.infer.diagnostics.mcmc import _FEWEST_DRAWS, mcmc_problems, rounding_problems
from brainstate_prob.infer.diagnostics.prior_conflict import conflicts
from brainstate_prob.infer.diagnostics.psis import k_hat, k_hat_limit
from brainstate_prob.infer.report import Finding, Report
from brainstate_prob.infer.target.forgotten import no_priors_message, some_priors_message
from brainstate_prob.infer.target.gradients import BY_WEIGHTS, stepped_messages
from brainstate_prob.infer.target.inspection import unused_messages
from brainstate_prob.infer.target.pairs import squared_messages

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['check', 'unfinished_members']

_BEST_POINTS = ('map', 'ensemble', 'swag', 'mc_dropout')  # maximum likelihood without a prior
_BY_CURVATURE = ('laplace', 'marginal_likelihood')  # by the curvature
_NORMAL = ('laplace', 'marginal_likelihood')


def check(fit: Fit) -> Report:
    """See `Fit.check`."""
    texts = list(fit.info.get('warnings', []))
    texts += [text for text in [*_sampling(fit), *network_problems(fit)] if text not in texts]
    findings = [Finding('warning', text) for text in texts]
    if fit.posterior is not None:
        messages = unused_messages(fit.posterior) + squared_messages(fit.posterior)
        messages += stepped_messages(fit.posterior) if fit.method not in BY_WEIGHTS else []
        findings += [Finding('warning', text) for text in messages]
        findings += _priors(fit) if fit.method not in _BEST_POINTS else []
    findings += _numbers(fit)
    try:
        findings += [Finding('warning', text) for text in conflicts(fit) if text not in texts]
    except (NotImplementedError, TypeError, ValueError) as error:
        findings.append(Finding('note', f'The priors were not compared with the posterior: {error}'))
    findings += [Finding('warning', text) for text in [*_stopped(fit), *_approximation(fit)] if text not in texts]
    if _is_stopped_early(fit):
        findings.append(
            Finding(
                'warning',
                f'The optimizer stopped before it had converged, after {fit.info.get("num_steps", "its")} steps '
                f'(gradient {fit.info["gradient"]:.2g}). {advice("few_steps", fit.method, fit.info)}',
            )
        )
    findings += [Finding('unseen', f'Not checked: {text}') for text in _essential(fit)]
    findings += [Finding('note', f'Not checked: {text}') for text in _not_checked(fit)]
    if fit.has_other_data:
        text = 'The posterior has other data, or another likelihood, than were fitted.'
        findings.append(Finding('note', text))
    return Report(repr(fit), tuple(findings))


def _priors(fit: Fit) -> list[Finding]:
    """Findings about parameters without a prior: a warning if none has one, else a note."""
    assert fit.posterior is not None
    none, some = no_priors_message(fit.posterior), some_priors_message(fit.posterior)
    if none is not None and fit.method not in _BY_CURVATURE:
        return [Finding('warning', none)]
    return [] if some is None else [Finding('note', some)]


def _is_stopped_early(fit: Fit) -> bool:
    """Whether an optimizer stopped before convergence; SVI warns itself."""
    info = fit.info
    return info.get('converged') is False and 'gradient' in info and info.get('stopped') != 'interrupted'


def _stopped(fit: Fit) -> Iterator[str]:
    """Warnings about interrupted runs and members that did not converge."""
    if fit.info.get('stopped') == 'interrupted':
        yield (
            f'The run was interrupted after {fit.info.get("num_steps", "some")} steps. '
            f'{advice("few_steps", fit.method, fit.info)}'
        )
    else:
        yield from fit.info.get('warnings') or unfinished_members(fit)


def unfinished_members(fit: Fit) -> list[str]:
    """Warnings about members of an ensemble that did not converge.

    By the gradient if a tolerance was given. Otherwise the loss, minus a log density, must have fallen by more than
    one and by more than a hundredth of its whole decrease.
    """
    if fit.method != 'ensemble' or fit.info.get('stopped') != 'num_steps' or 'converged' not in fit.info:
        return []
    steps = fit.info['num_steps']
    fell: dict[int, float] = {}
    for i, converged in enumerate(fit.info['converged']):
        losses = np.asarray(fit.history.get(f'loss_{i}', ()), np.float64)
        last = max(len(losses) // 10, 1)
        if converged or len(losses) < 2:
            continue
        # Mean losses of the last tenth of the steps, and of the tenth before.
        change = losses[-2 * last : -last].mean() - losses[-last:].mean()
        noise = 2 * np.sqrt((losses[-last:].var() + losses[-2 * last : -last].var()) / last) if last > 1 else 0.0
        by_batch = noise if fit.info.get('batch_size') is not None else 0.0
        if change > max(1.0, 0.01 * (losses[0] - losses[-1]), by_batch):
            fell[i] = change
    if not fell:
        return []
    return [
        f'Members {list(fell)} stopped after {steps} steps before they converged: their loss still fell, by '
        f'{max(fell.values()):.3g} over the last tenth. {advice("few_steps", "ensemble", fit.info)}'
    ]


def _has_k_hat(fit: Fit) -> bool:
    """Whether k-hat of a normal approximation is informative; not so for a linearized model."""
    known = fit.method in _NORMAL and {'lp', 'log_q'} <= set(fit.stats) and fit.num_draws >= 100
    return known and not fit.has_other_data and not getattr(fit, 'linearized', False)


def _approximation(fit: Fit) -> Iterator[str]:
    """Warnings about the normal approximation of a `LaplaceFit`."""
    if not _has_k_hat(fit):
        return
    k, limit = k_hat(fit), k_hat_limit(fit.num_draws)
    if not k <= limit:
        yield (
            f'k-hat of the normal approximation around the mode is {k:.2f} (above {limit:.2f}): it differs much from '
            f'the posterior, so its means and, more so, its spread can be wrong. '
            f'{advice("normal", fit.method, fit.info, forms=fit.info.get("noncentered"))}'
        )


def _essential(fit: Fit) -> Iterator[str]:
    """Essential diagnostics that could not be computed, with what they need."""
    if fit.density is not None and fit.is_markov and fit.num_draws < _FEWEST_DRAWS:
        chains = f'{fit.num_chains} chain{"s" * (fit.num_chains > 1)} of {fit.num_draws} draws'
        yield (f'convergence: {chains} are too few for R-hat and effective sample sizes. Raise num_samples.')


def _not_checked(fit: Fit) -> Iterator[str]:
    """Other checks that could not be made, with what they need."""
    total = fit.num_chains * fit.num_draws
    if fit.density is None:
        yield 'the parameters, since the fit was loaded without its posterior. Use infer.load(path, posterior).'
        return
    if total == 1:
        yield f'uncertainty: {fit.method!r} gives one point. Use infer.laplace or infer.nuts for it.'
        return
    if not fit.is_markov:
        if getattr(fit, 'linearized', False):
            yield (
                'k-hat. Predictions are those of the model linearized at the mode, whose posterior differs from that '
                'of the network itself. Judge the predictions: compare fit.score() on held-out data with that of '
                'infer.ensemble or infer.nuts.'
            )
        elif 'k_hat' not in fit.info and not _has_k_hat(fit):
            yield f'how far the draws of {fit.method!r} are from the posterior. Compare with infer.nuts.'
        return
    if fit.num_draws >= _FEWEST_DRAWS and fit.num_chains == 1:
        yield 'whether chains agree: there is only one, which may have missed a mode. Raise num_chains.'
    if fit.method == 'nuts' and 'diverging' not in fit.stats:
        yield 'divergences: the fit has no sampler statistics.'


def _sampling(fit: Fit) -> list[str]:
    if fit.density is None:
        return []
    if not fit.is_markov or fit.weights is not None:
        return rounding_problems(fit.density, fit.thetas, fit.stats)
    data = None if fit.posterior is None else fit.posterior.data
    return mcmc_problems(fit.density, fit.thetas, fit.stats, fit.method, fit.info, data)


def _numbers(fit: Fit) -> Iterator[Finding]:
    bad = [name for name, columns in fit.columns.items() if not np.isfinite(fit.thetas[..., columns]).all()]
    if bad:
        yield Finding(
            'error',
            f'There are draws that are not finite, of {bad}. {advice("not_finite", fit.method, fit.info)}',
        )
