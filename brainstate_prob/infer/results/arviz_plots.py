"""ArviZ's plots as methods of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brainstate_prob.infer.results.arviz_io import import_arviz, is_old, scored_datasets, wrap
from brainstate_prob.infer.results.compare import loo
from brainstate_prob.infer.results.observations import refuse_joint
from brainstate_prob.infer.results.plots import pyplot

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['ArvizPlots']

# Names that differ between the major versions of ArviZ.
_IN_0 = {'ppc_dist': 'ppc', 'dist': 'posterior'}
_IN_1 = {'ppc': 'ppc_dist', 'posterior': 'dist'}
_NEED_LOG_LIKELIHOOD = ('elpd', 'loo')
_NEED_PREDICTIONS = ('bpv', 'loo', 'ppc')


class ArvizPlots:
    """The plots of a `Fit`, with the names, arguments and results of those of ArviZ.

    They need matplotlib, ``pip install 'brainstate-prob[plot]'``, and at least two draws.
    """

    def plot(self: Any, name: str, **kwargs: Any) -> Any:
        """Plot ``arviz.plot_<name>`` of the fit, for plots without a method.

        Raises
        ------
        ValueError
            For a plot that ArviZ does not have, or a fit of one point.

        Examples
        --------
        ``fit.plot('violin')``, ``fit.plot('autocorr', var_names=['w'])``.
        """
        return _plot(self, name, **kwargs)

    def plot_trace(self: Any, **kwargs: Any) -> Any:
        """The trace of each parameter by chain, beside the distribution of draws."""
        return _plot(self, 'trace', **kwargs)

    def plot_rank(self: Any, **kwargs: Any) -> Any:
        """Histograms of the ranks of each chain's draws among all: uniform where the chains have mixed."""
        return _plot(self, 'rank', **kwargs)

    def plot_forest(self: Any, **kwargs: Any) -> Any:
        """The credible interval of each number."""
        return _plot(self, 'forest', **kwargs)

    def plot_posterior(self: Any, **kwargs: Any) -> Any:
        """The marginal distribution of each number."""
        return _plot(self, 'posterior', **kwargs)

    def plot_pair(self: Any, **kwargs: Any) -> Any:
        """Scatter plots of pairs of parameters."""
        return _plot(self, 'pair', **kwargs)

    def plot_autocorr(self: Any, **kwargs: Any) -> Any:
        """The autocorrelation of each chain."""
        return _plot(self, 'autocorr', **kwargs)

    def plot_ess(self: Any, **kwargs: Any) -> Any:
        """Effective sample sizes of quantiles."""
        return _plot(self, 'ess', **kwargs)

    def plot_energy(self: Any, **kwargs: Any) -> Any:
        """The distribution of the energy of a Hamiltonian sampler beside that of its changes."""
        return _plot(self, 'energy', **kwargs)

    def plot_ppc(self: Any, **kwargs: Any) -> Any:
        """The distribution of the targets beside those of predictions."""
        return _plot(self, 'ppc', **kwargs)

    def plot_loo_pit(self: Any, **kwargs: Any) -> Any:
        """The leave-one-out PIT values of the targets: uniform if predictions are calibrated."""
        return _plot(self, 'loo_pit', **kwargs)

    def plot_khat(self: Any, **kwargs: Any) -> Any:
        """The k-hat of each observation's leave-one-out estimate: above 0.7 the observation is influential."""
        return _plot(self, 'khat', **kwargs)


def _plot(fit: Fit, name: str, **kwargs: Any) -> Any:
    pyplot()
    arviz = import_arviz()
    known = (_IN_0 if is_old(arviz) else _IN_1).get(name, name)
    if not hasattr(arviz, f'plot_{known}'):
        there = sorted(n.removeprefix('plot_') for n in dir(arviz) if n.startswith('plot_'))
        raise ValueError(f'ArviZ {arviz.__version__} has no plot_{name}; there are {there}.')
    if fit.num_chains * fit.num_draws < 2:
        raise ValueError(f'plot_{name} needs draws of the posterior; {fit.method!r} gives one point. Use nuts, say.')
    if known == 'khat':
        return arviz.plot_khat(loo(fit, 'plot_khat', pointwise=True), **kwargs)
    if known == 'loo_pit' and is_old(arviz):
        kwargs = {'y': 'targets'} | kwargs
    scored = any(word in known for word in _NEED_LOG_LIKELIHOOD)
    predicted = any(word in known for word in _NEED_PREDICTIONS)
    if not scored:
        return getattr(arviz, f'plot_{known}')(
            fit.to_arviz(log_likelihood=False, posterior_predictive=predicted), **kwargs
        )
    fit.refuse_other_data(f'plot_{name}')
    if fit.posterior is not None:
        refuse_joint(fit, fit.posterior.data, f'plot_{name}')
    data = wrap(scored_datasets(fit, posterior_predictive=predicted))
    return getattr(arviz, f'plot_{known}')(data, **kwargs)
