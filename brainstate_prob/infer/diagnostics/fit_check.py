"""What can be wrong with a fit of any kind, said in words."""

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

_BEST_POINTS = ('map', 'ensemble', 'swag', 'mc_dropout')  # without a prior they are of maximum likelihood
_FINDS_OUT = ('laplace', 'marginal_likelihood')  # by the curvature
_NORMAL = ('laplace', 'marginal_likelihood')


def check(fit: Fit) -> Report:
    """See `Fit.check`."""
    texts = list(fit.info.get('warnings', []))
    texts += [text for text in [*_sampling(fit), *network_problems(fit)] if text not in texts]
    findings = [Finding('warning', text) for text in texts]
    if fit.posterior is not None:
        told = unused_messages(fit.posterior) + squared_messages(fit.posterior)
        told += stepped_messages(fit.posterior) if fit.method not in BY_WEIGHTS else []
        findings += [Finding('warning', text) for text in told]
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
    findings += [Finding('unseen', f'Not looked at: {text}') for text in _essential(fit)]
    findings += [Finding('note', f'Not looked at: {text}') for text in _unseen(fit)]
    if fit.has_other_data:
        text = 'The posterior is of other data, or of another likelihood, than were fitted; the fit is not theirs.'
        findings.append(Finding('note', text))
    return Report(repr(fit), tuple(findings))


def _priors(fit: Fit) -> list[Finding]:
    """Parameters without a prior: a warning where none has one and draws move freely, else a note."""
    assert fit.posterior is not None
    none, some = no_priors_message(fit.posterior), some_priors_message(fit.posterior)
    if none is not None and fit.method not in _FINDS_OUT:
        return [Finding('warning', none)]
    return [] if some is None else [Finding('note', some)]


def _is_stopped_early(fit: Fit) -> bool:
    """Whether an optimizer of one point ended before it had converged; SVI has said so itself."""
    info = fit.info
    return info.get('converged') is False and 'gradient' in info and info.get('stopped') != 'interrupted'


def _stopped(fit: Fit) -> Iterator[str]:
    """Where a run was interrupted, and members that did not converge."""
    if fit.info.get('stopped') == 'interrupted':
        yield (
            f'The run was interrupted after {fit.info.get("num_steps", "some")} steps. '
            f'{advice("few_steps", fit.method, fit.info)}'
        )
    else:
        yield from fit.info.get('warnings') or unfinished_members(fit)


def unfinished_members(fit: Fit) -> list[str]:
    """Which members of an ensemble were still on their way when the steps ended, in words.

    By the gradient where a tolerance was asked for. Else by the loss, minus a log density: of it a whole unit matters,
    and more than a hundredth of all that was gained.
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
        # Means, of batches too: of the last tenth of the steps, and of the tenth before.
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


def _is_judged(fit: Fit) -> bool:
    """Whether k-hat of a normal approximation says something: not of a linearized model, whose posterior is another."""
    known = fit.method in _NORMAL and {'lp', 'log_q'} <= set(fit.stats) and fit.num_draws >= 100
    return known and not fit.has_other_data and not getattr(fit, 'linearized', False)


def _approximation(fit: Fit) -> Iterator[str]:
    """How far the normal approximation of a `LaplaceFit` is from the posterior."""
    if not _is_judged(fit):
        return
    k, limit = k_hat(fit), k_hat_limit(fit.num_draws)
    if not k <= limit:
        yield (
            f'k-hat of the normal approximation around the mode is {k:.2f} (above {limit:.2f}): it differs much from '
            f'the posterior, so its means and, more so, its spread can be wrong. '
            f'{advice("normal", fit.method, fit.info, forms=fit.info.get("noncentered"))}'
        )


def _essential(fit: Fit) -> Iterator[str]:
    """Diagnostics without which nothing is known of the fit, and what would let them be computed."""
    if fit.density is not None and fit.is_markov and fit.num_draws < _FEWEST_DRAWS:
        chains = f'{fit.num_chains} chain{"s" * (fit.num_chains > 1)} of {fit.num_draws} draws'
        yield (
            f'convergence: {chains} are too few for R-hat and effective sample sizes, so that nothing is known of it. '
            'Raise num_samples.'
        )


def _unseen(fit: Fit) -> Iterator[str]:
    """What the checks could not judge, and what would let them."""
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
                'k-hat. Predictions are those of the model linearized at the mode, under which the posterior of the '
                'weights is another than that of the network itself, with which k-hat would compare the draws. Judge '
                'the predictions: fit.score() of held-out data, beside that of infer.ensemble or infer.nuts.'
            )
        elif 'k_hat' not in fit.info and not _is_judged(fit):
            yield f'how far the draws of {fit.method!r} are from the posterior. Compare with infer.nuts.'
        return
    if fit.num_draws >= _FEWEST_DRAWS and fit.num_chains == 1:
        yield 'whether chains agree: there is one, which may have missed a mode. Raise num_chains.'
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
