"""Prior-data conflict: parameters whose posterior lies in the tails of their prior."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from scipy.stats import chi2

from brainstate_prob.core.quantities import with_unit
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.density.batching import over_draws
from brainstate_prob.infer.density.blocks import Entry, is_horseshoe
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.prior_draws import prior_thetas
from brainstate_prob.infer.diagnostics.identified import network_problems
from brainstate_prob.infer.diagnostics.mcmc import warn_of
from brainstate_prob.infer.diagnostics.safely import never_raises
from brainstate_prob.infer.target.probe import prior_terms
from brainstate_prob.infer.target.running_statistics import settled

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

FitT = TypeVar('FitT', bound='Fit')

__all__ = ['conflicts', 'issue_warnings', 'suspected_conflicts']

_PRIOR_DRAWS = 1024
_UNLIKELY = 0.005  # the share of prior draws of lower density than the posterior's draws


def issue_warnings(fit: FitT) -> FitT:
    """Issue the problems of a fit (draws, predictions, prior-data conflict) as warnings, and return it."""
    fit = settled(fit)
    fit.info['warnings'] += network_problems(fit) + suspected_conflicts(fit)
    warn_of(fit.info['warnings'])
    return fit


def conflicts(fit: Fit, names: list[str] | None = None) -> Iterator[str]:
    """Describe each conflict, from the prior density at draws from the prior and from the posterior.

    Parameters
    ----------
    names
        The parameters to check. Default: all with a prior of fixed hyper-parameters.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        If a prior cannot be drawn from.
    """
    if fit.posterior is None:
        return
    density, states = fit.density, fit.posterior.data.states
    entries = [e for e in _own(density) if names is None or e.name in names]
    if not entries:
        return
    drawn = prior_thetas(density, _PRIOR_DRAWS, jax.random.key(0), fit.posterior.start(density), states)
    prior = prior_terms(density, drawn, states)
    posterior = prior_terms(density, _some_rows(fit, 1024), states)
    for e in entries:
        lower = np.searchsorted(np.sort(prior[e.name]), posterior[e.name], side='right') / _PRIOR_DRAWS
        if np.mean(lower) < _UNLIKELY:
            mean = np.asarray(u.get_magnitude(fit.estimate[e.name]))
            unit = '' if e.unit.is_unitless else f' {e.unit}'
            around = f' (around {mean:.4g}{unit})' if mean.ndim == 0 else ''
            yield (
                f'Prior and data disagree about {e.name!r}: its posterior{around} lies where its prior '
                f'{" ".join(repr(e.reg).split())} has almost no mass (a lower density than at '
                f'{100 * (1 - np.mean(lower)):.1f} % of draws from it). Check data and units, or widen the prior.'
            )


@never_raises('The comparison of priors and posterior')
def suspected_conflicts(fit: Fit) -> list[str]:
    """`conflicts` of the parameters that lie in the tails by the priors' distribution functions.

    These compile much faster than draws of the prior. Priors without them are left to `Fit.check`.
    """
    if fit.posterior is None:
        return []
    density, states = fit.density, fit.posterior.data.states
    with precision_of(density):
        run = density.compiled(_distances, in_axes=(0, None))
        distances = over_draws(lambda rows: run(rows, states), (_some_rows(fit, 256),), 256)
    sizes = {e.name: int(np.prod(e.value_shape)) for e in density.entries}
    suspects = [name for name, x in distances.items() if np.mean(chi2.sf(x, sizes[name])) < 2 * _UNLIKELY]
    try:
        return list(conflicts(fit, suspects)) if suspects else []
    except (NotImplementedError, TypeError, ValueError):
        return []


def _own(density: Density) -> list[Entry]:
    """The entries whose prior has fixed hyper-parameters."""
    fitted = {e.state for e in density.entries}
    return [
        e
        for e in density.entries
        if e.reg is not None and fitted.isdisjoint(find_states(e.reg).values()) and not is_horseshoe(e)
    ]


def _some_rows(fit: Fit, num: int) -> np.ndarray:
    """A fixed number of rows, so that fits of other lengths compile nothing."""
    return fit.rows[np.linspace(0, len(fit.rows) - 1, num).astype(int)]


def _distances(density: Density, theta: jax.Array, states: tuple) -> dict[str, jax.Array]:
    """The distance of each parameter from its prior's median: chi-squared under the prior, one degree per number."""
    values, thetas = density.constrain(theta, states), density.thetas(theta, states)
    found = {}
    for e in _own(density):
        assert e.reg is not None
        try:
            distribution = e.reg.distribution
            x = thetas[e.name] if e.on_theta else with_unit(values[e.name], e.unit)
            if isinstance(x, u.Quantity):
                x = x.to_decimal(e.unit if e.reg.unit is None else e.reg.unit)
            # NumPyro's distribution functions do not support bfloat16.
            below = distribution.cdf(jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32)))
        except NotImplementedError:
            continue
        if jnp.shape(below) == e.value_shape:
            eps = jnp.finfo(below.dtype).eps
            found[e.name] = jnp.sum(ndtri(jnp.clip(below, eps, 1 - eps)) ** 2)
    return found
