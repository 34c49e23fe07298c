"""What can be wrong with a fit of any kind, said in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from brainstate_prob.infer.advice import advice
from brainstate_prob.infer.conflict import conflicts
from brainstate_prob.infer.diagnostics import _FEWEST_DRAWS, mcmc_problems, rounding_problems
from brainstate_prob.infer.identified import network_problems
from brainstate_prob.infer.report import Finding, Report
from brainstate_prob.infer.target.door import unused_messages

if TYPE_CHECKING:
    from brainstate_prob.infer.fit import Fit

__all__ = ['check']


def check(fit: Fit) -> Report:
    """See `Fit.check`."""
    texts = list(fit.info.get('warnings', []))
    texts += [text for text in [*_sampling(fit), *network_problems(fit)] if text not in texts]
    findings = [Finding('warning', text) for text in texts]
    if fit.posterior is not None:
        findings += [Finding('warning', text) for text in unused_messages(fit.posterior)]
    findings += _numbers(fit)
    try:
        findings += [Finding('warning', text) for text in conflicts(fit) if text not in texts]
    except (NotImplementedError, TypeError, ValueError) as error:
        findings.append(Finding('note', f'The priors were not compared with the posterior: {error}'))
    if fit.info.get('converged') is False and 'gradient' in fit.info:  # SVI has said so itself
        findings.append(
            Finding(
                'warning',
                f'The optimizer stopped before it had converged, after {fit.info.get("num_steps", "its")} steps '
                f'(gradient {fit.info["gradient"]:.2g}). {advice("few_steps", fit.method, fit.info)}',
            )
        )
    findings += [Finding('note', f'Not looked at: {text}') for text in _unseen(fit)]
    return Report(repr(fit), tuple(findings))


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
        if 'k_hat' not in fit.info:
            yield f'how far the draws of {fit.method!r} are from the posterior. Compare with infer.nuts.'
        return
    if fit.num_draws < _FEWEST_DRAWS:
        yield (
            f'convergence: {fit.num_chains} chains of {fit.num_draws} draws are too few for R-hat and effective sample '
            'sizes. Raise num_samples.'
        )
    elif fit.num_chains == 1:
        yield 'whether chains agree: there is one, which may have missed a mode. Raise num_chains.'
    if fit.method == 'nuts' and 'diverging' not in fit.stats:
        yield 'divergences: the fit has no sampler statistics.'


def _sampling(fit: Fit) -> list[str]:
    if fit.density is None:
        return []
    if not fit.is_markov or fit.weights is not None:
        return rounding_problems(fit.density, fit.thetas, fit.stats)
    return mcmc_problems(fit.density, fit.thetas, fit.stats, fit.method, fit.info)


def _numbers(fit: Fit) -> Iterator[Finding]:
    bad = [name for name, columns in fit.columns.items() if not np.isfinite(fit.thetas[..., columns]).all()]
    if bad:
        yield Finding(
            'error',
            f'There are draws that are not finite, of {bad}. {advice("not_finite", fit.method, fit.info)}',
        )
