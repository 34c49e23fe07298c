"""What can be wrong with a fit of any kind, said in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.blocks import is_horseshoe
from brainstate_prob.infer.diagnostics import mcmc_problems, rounding_problems
from brainstate_prob.infer.prior import prior_thetas
from brainstate_prob.infer.probe import prior_terms
from brainstate_prob.infer.report import Finding, Report

if TYPE_CHECKING:
    from brainstate_prob.infer.fit import Fit

__all__ = ['check']

_PRIOR_DRAWS = 1024
_UNLIKELY = 0.005  # the share of prior draws of lower density than the posterior's draws


def check(fit: Fit) -> Report:
    """See `Fit.check`."""
    texts = list(fit.info.get('warnings', []))
    texts += [text for text in _sampling(fit) if text not in texts]
    findings = [Finding('warning', text) for text in texts]
    findings += [*_numbers(fit), *_conflicts(fit)]
    if fit.info.get('converged') is False:
        findings.append(
            Finding(
                'warning',
                f'The optimizer stopped before it had converged, after {fit.info.get("num_steps", "its")} steps '
                f'(gradient {fit.info.get("gradient", float("nan")):.2g}). Raise num_steps, or lower the '
                'learning rate.',
            )
        )
    return Report(repr(fit), tuple(findings))


def _sampling(fit: Fit) -> list[str]:
    if fit.density is None:
        return []
    if not fit.is_markov or fit.weights is not None:
        return rounding_problems(fit.density, fit.thetas, fit.stats)
    return mcmc_problems(
        fit.density,
        fit.thetas,
        fit.stats,
        max_tree_depth=fit.info.get('max_tree_depth', 10),
        target_accept=fit.info.get('target_accept', 0.8),
    )


def _numbers(fit: Fit) -> Iterator[Finding]:
    bad = [name for name, columns in fit.columns.items() if not np.isfinite(fit.thetas[..., columns]).all()]
    if bad:
        yield Finding(
            'error',
            f'There are draws that are not finite, of {bad}. Lower the learning rate or step size, and see '
            'posterior.check().',
        )


def _conflicts(fit: Fit) -> Iterator[Finding]:
    """Parameters whose posterior lies where their prior has almost nothing."""
    if fit.posterior is None:
        return
    density, states = fit.density, fit.posterior.data.states
    fitted = {e.state for e in density.entries}
    own = [
        e
        for e in density.entries
        if e.reg is not None and fitted.isdisjoint(find_states(e.reg).values()) and not is_horseshoe(e)
    ]
    if not own:
        return
    try:
        drawn = prior_thetas(density, _PRIOR_DRAWS, jax.random.key(0), fit.posterior.start(density), states)
    except (NotImplementedError, TypeError, ValueError) as error:
        yield Finding('note', f'The priors were not compared with the posterior: {error}')
        return
    prior = prior_terms(density, drawn, states)
    rows = fit.rows[np.linspace(0, len(fit.rows) - 1, min(len(fit.rows), 1024)).astype(int)]
    posterior = prior_terms(density, rows, states)
    for e in own:
        lower = np.searchsorted(np.sort(prior[e.name]), posterior[e.name], side='right') / _PRIOR_DRAWS
        if np.mean(lower) < _UNLIKELY:
            mean = np.asarray(u.get_magnitude(fit.estimate[e.name]))
            around = f' (around {mean:.4g}{_unit(e)})' if mean.ndim == 0 else ''
            yield Finding(
                'warning',
                f'Prior and data disagree about {e.name!r}: its posterior{around} lies where its prior '
                f'{" ".join(repr(e.reg).split())} has almost nothing (a lower density than at '
                f'{100 * (1 - np.mean(lower)):.1f} % of draws from it). Check data and units, or widen the prior.',
            )


def _unit(entry: Any) -> str:
    return '' if entry.unit.is_unitless else f' {entry.unit}'
