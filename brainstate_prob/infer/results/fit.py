"""Fit: the result of every way to fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from brainstate_prob.core.quantities import with_unit
from brainstate_prob.infer.density import batching
from brainstate_prob.infer.density.batching import chosen_draws, constrain
from brainstate_prob.infer.density.prior_draws import prior_thetas, refuse_without_prior
from brainstate_prob.infer.diagnostics import fit_check
from brainstate_prob.infer.results import assign, attach, compare, scores, storage
from brainstate_prob.infer.results import prediction as predictions
from brainstate_prob.infer.results.arviz_io import datasets_of, wrap
from brainstate_prob.infer.results.arviz_plots import ArvizPlots
from brainstate_prob.infer.results.draws import Draws
from brainstate_prob.infer.results.record import FitRecord
from brainstate_prob.infer.results.summary import summarize
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.options import posterior as a_posterior
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.rows import check_parts
from brainstate_prob.infer.target.start import to_key

if TYPE_CHECKING:
    import os

    from brainstate_prob.infer.report import Report
    from brainstate_prob.infer.table import Table

__all__ = ['Draws', 'Fit']


class Fit(FitRecord, ArvizPlots):
    """Draws of a posterior's parameters, or one best point, with summaries, predictions, scores and plots.

    ``fit.plot_trace()``, ``fit.plot_forest()``, ``fit.plot_ppc()`` and so on are ArviZ's plots with their arguments;
    ``fit.plot(name)`` is any other plot of ArviZ.

    Parameters
    ----------
    target
        The fitted target, in the coordinates of ``thetas``: `Posterior.target` or `Posterior.sampling_target`. None
        for a fit that was loaded without its posterior.
    thetas
        Of shape (chains, draws, target.size); a single best point is one draw of one chain.
    method
        The name of the way to fit.
    stats
        Arrays of shape (chains, draws) under ArviZ's names: ``lp``, ``diverging``, ``tree_depth``, ...
    history
        One-dimensional arrays over the steps: ``loss``, ``elbo``, ...
    info
        Further information: plain values and arrays.
    weights
        Weights of draws, of shape (chains, draws), if not equal.

    Raises
    ------
    ValueError
        If shapes do not agree.

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
    >>> fit = infer.Fit(posterior.target, jnp.array([[[1.0], [2.0]]]), method='by hand')
    >>> fit
    Fit(method='by hand', 1 chain of 2 draws, 1 parameter)
    >>> fit.draws['mu']
    array([[1., 2.]], dtype=float32)
    >>> fit.predict(num_draws=5).shape
    (5, 2)
    """

    kind = 'fit'

    # Draws and checks

    @property
    def draws(self) -> Draws:
        """The constrained values by path, of shape (chains, draws, ...), with units; computed on first use."""
        if self._draws is None:
            values = constrain(self.density, self.rows, self.posterior_for('draws').data.states)
            self._draws = Draws(
                {
                    v.name: with_unit(values[v.name].reshape(*self.thetas.shape[:2], *v.shape), v.parsed_unit)
                    for v in self.variables
                }
            )
        return self._draws

    @property
    def magnitudes(self) -> dict[str, np.ndarray]:
        """As `draws`, without units and by dotted path."""
        return {name: np.asarray(getattr(value, 'mantissa', value)) for name, value in self.draws.items()}

    @property
    def estimate(self) -> Draws:
        """One value by path, with units: the mode for MAP, the mean of the draws otherwise.

        A mean of unit vectors is shorter than one.
        """
        return Draws({v.name: with_unit(self._mean(self.magnitudes[v.name]), v.parsed_unit) for v in self.variables})

    def summary(self, prob: float = 0.9) -> Table:
        """A table with a row for each number: mean, standard deviation and the central interval.

        Parameters
        ----------
        prob
            The probability of the interval, which leaves as much below as above (equal-tailed).

        Returns
        -------
        Table
            Columns ``mean``, ``sd``, ``lower``, ``upper`` and ``unit``; for Markov chains also ``ess_bulk``,
            ``ess_tail`` and ``r_hat``; for a single best point ``estimate`` and ``unit``. ``summary()['mean']`` is a
            column, ``to_dict()`` everything, by row.
        """
        check_options(Fit.summary, locals())
        return summarize(self, prob)

    def check(self) -> Report:
        """Check the fit for problems.

        R-hat, effective sample sizes, divergences, tree depth and E-BFMI of Markov chains; k-hat of a guide; an
        optimizer that did not converge; draws that are not finite or not resolved by their precision; prior-data
        conflict. The report includes warnings of the way to fit.

        Returns
        -------
        Report
            ``ok``, ``problems`` and ``notes``, with the worst parameter's path and advice.
        """
        return fit_check.check(self)

    # Predictions and scores

    def predict(
        self,
        inputs: Any = None,
        targets: Any = None,
        *,
        kind: Literal['draws', 'mean', 'interval', 'log_density', 'probabilities'] = 'draws',
        prob: float = 0.9,
        num_draws: int | None = None,
        batch_size: int | None = None,
        draws_at_once: int | None = None,
        seed: Any = 0,
    ) -> Any:
        """The posterior predictive distribution of the targets.

        Parameters
        ----------
        inputs
            As for `Posterior`; default: the fitted ones.
        targets
            The targets that ``kind='log_density'`` scores; default: the fitted ones.
        kind
            ``'draws'`` of the targets; ``'mean'``: the mean of the predicted distribution at each posterior draw, no
            noise; ``'interval'``: mean and central interval of the draws; ``'log_density'``: log of the mean over
            posterior draws of each target's density; ``'probabilities'`` of each class, for Bernoulli and categorical
            targets.
        prob
            The probability of the interval, which leaves as much below as above.
        num_draws
            The number of draws; default: one per posterior draw, chain after chain; for intervals and scores at
            least 1000. Other numbers are spread evenly over the posterior draws.
        batch_size
            The number of rows of the inputs per batch; default: all. It bounds the memory of ``'interval'``,
            ``'log_density'`` and ``'probabilities'``. Every input must then be a scalar or have the rows as its first
            axis, and the prediction of a row must not depend on other rows, which is checked. The noise of draws
            depends on it.
        draws_at_once
            The number of draws per batch; default: as many as fit the processor's cache. Results depend on it only
            by rounding.
        seed
            An int or a key.

        Returns
        -------
        numpy.ndarray, Quantity or Interval
            Draws and means of shape (num_draws, ...) in the unit of the targets; an ``Interval(mean, lower, upper)``
            of shape (...); log densities, of the magnitudes in the targets' unit, one per observation; probabilities
            with the classes as last axis.

        Raises
        ------
        ValueError
            For a posterior with ``log_likelihood=``, which has no predictions (but log densities); a distribution
            without mean or classes; a joint distribution of all targets (a Gaussian process) at new inputs, or for a
            mean or an interval, which would ignore the targets that were fitted, and under ``kind='log_density'``,
            since it has no terms. ``kind='draws'`` at the inputs that were fitted replicates the data.
        """
        check_options(Fit.predict, locals())
        with predictions.rows_explained(self, inputs):
            return predictions.predict(self, inputs, targets, num_draws, batch_size, draws_at_once, seed, kind, prob)

    def evaluate(
        self, function: Callable, *args: Any, num_draws: int | None = None, draws_at_once: int | None = None
    ) -> Any:
        """Evaluate ``function(model, *args)`` at the draws: any quantity of the model, with its uncertainty.

        Parameters
        ----------
        function
            A function of the model with one draw's values in its Params; it returns arrays or quantities (any pytree).
        *args
            Array arguments; a second call with others of the same shapes compiles nothing.
        num_draws, draws_at_once
            As for `predict`.

        Returns
        -------
        Any
            The results of ``function``, with the draws as a new first axis.

        Examples
        --------
        With ``rate = fit.evaluate(lambda model, x: model.rate(x), grid)`` a credible band is
        ``numpy.quantile(rate, [0.05, 0.95], axis=0)``.
        """
        check_options(Fit.evaluate, locals())
        return predictions.evaluate(self, function, args, num_draws, draws_at_once)

    def log_likelihood(self, batch_size: int | None = None, draws_at_once: int | None = None) -> np.ndarray:
        """The log-likelihood of each observation at each draw, of shape (chains, draws, ...); sizes as in `predict`.

        Of shape (chains, draws) if all observations have one joint log density.
        """
        check_options(Fit.log_likelihood, locals())
        posterior = self.posterior_for('log_likelihood')
        check_parts(posterior, posterior.data, batch_size, predicted=False)
        out = batching.log_likelihood(self.density, self.rows, posterior.data, batch_size, draws_at_once)
        return out.reshape(*self.thetas.shape[:2], *out.shape[1:])

    def score(
        self,
        inputs: Any = None,
        targets: Any = None,
        *,
        prob: float = 0.9,
        num_draws: int | None = None,
        batch_size: int | None = None,
        draws_at_once: int | None = None,
        seed: Any = 0,
    ) -> Table:
        """Score predictions of data: a table with one row per score.

        Parameters
        ----------
        inputs, targets
            Held-out data, as for `Posterior`; default: the fitted data, which is too optimistic.
        prob
            The probability of the interval whose coverage is computed.
        num_draws, batch_size, draws_at_once, seed
            As for `predict`.

        Returns
        -------
        Table
            Columns ``value``, ``error`` (standard error over the observations) and ``unit``. Rows ``nll`` (minus the
            mean log density), ``rmse`` (if the variance is finite), ``crps`` (if the mean is finite and scoringrules
            is installed), coverage and mean width of the interval, ``pit distance`` (the
            Kolmogorov-Smirnov distance of the targets' PIT values from uniform); for classes ``nll``, ``accuracy``,
            ``brier``, ``ece``. See `infer.scoring`. Observations masked by the predicted distribution do not count.

        Raises
        ------
        ValueError
            If all observations have one joint log density (a Gaussian process, or a ``log_likelihood=`` that sums).
        """
        check_options(Fit.score, locals())
        sizes = {'num_draws': num_draws, 'batch_size': batch_size, 'draws_at_once': draws_at_once, 'seed': seed}
        with predictions.rows_explained(self, inputs):
            return scores.score(self, inputs, targets, prob, **sizes)

    def loo(self, **kwargs: Any) -> Any:
        """Pareto-smoothed leave-one-out cross-validation, by ``arviz.loo(**kwargs)``.

        Observations masked by the predicted distribution do not count.
        """
        return compare.loo(self, **kwargs)

    def waic(self, **kwargs: Any) -> Any:
        """The widely applicable information criterion, by ``arviz.waic``; not in ArviZ 1.x. Prefer `loo`."""
        return compare.waic(self, **kwargs)

    def to_arviz(
        self, *, log_likelihood: bool | None = None, posterior_predictive: bool = True, prior: int = 0, seed: Any = 0
    ) -> Any:
        """The results for ArviZ: an ``InferenceData`` (ArviZ 0.x) or ``DataTree`` (1.x).

        Groups: ``posterior`` (variables named by their paths, with dims, coords and units), ``sample_stats``,
        ``log_likelihood``, ``posterior_predictive``, ``observed_data``, ``constant_data`` (the inputs). Weighted draws
        are resampled, since ArviZ has no weights. Observations masked by the predicted distribution are not in
        ``log_likelihood``; if the targets have several axes, the others are along one, ``observation``.

        Parameters
        ----------
        log_likelihood, posterior_predictive
            False omits the group, which has a number per observation and draw. Default: no ``log_likelihood`` if all
            observations have one joint log density, which ArviZ would take for one observation; True raises.
        prior
            The number of draws of the prior and of its predictions, as groups ``prior`` and ``prior_predictive``.
        seed
            An int or a key for the predictive draws.
        """
        check_options(Fit.to_arviz, locals())
        fit = self if self.weights is None else self._resampled()
        return wrap(
            datasets_of(
                fit,
                log_likelihood=log_likelihood,
                posterior_predictive=posterior_predictive,
                seed=seed,
                prior=prior,
            )
        )

    def save(
        self,
        path: str | os.PathLike,
        *,
        log_likelihood: bool = False,
        posterior_predictive: bool = False,
        seed: Any = 0,
    ) -> None:
        """Write a netCDF file, or a zarr folder (``path`` ends in ``.zarr``), that `infer.load` and ArviZ read.

        It has the groups of `to_arviz`, the unconstrained draws and the history. Writing is atomic.
        Entries of ``info`` that are neither plain data nor arrays are saved as text. With the posterior, `infer.load`
        restores the same fit: its kind (a `LaplaceFit`, say), running statistics, predictions, scores and evidence.
        Zarr needs ``pip install 'brainstate-prob[zarr]'``.

        Parameters
        ----------
        log_likelihood, posterior_predictive
            Also write these groups, for use without the model; they are often large.
        seed
            An int or a key for the predictive draws.
        """
        check_options(Fit.save, locals())
        storage.save(self, path, log_likelihood=log_likelihood, posterior_predictive=posterior_predictive, seed=seed)

    def assign_to(self, model: Any, which: Literal['mean', 'mode'] | tuple[int, int] = 'mean') -> Any:
        """Write one value of every parameter into a model of the same structure.

        A model of another library that can be written into (Flax NNX, brainstate) is returned afterwards; of one that
        cannot (Equinox, a function of a pytree) a new one is.

        Parameters
        ----------
        which
            ``'mean'``: the mean of the constrained values (`estimate`); it must lie in the transform's codomain, as
            for all but unit vectors. ``'mode'``: the draw of highest log density of theta. Or (chain, draw).

        Raises
        ------
        ValueError
            For a model with other parameters, naming the difference; the model is not changed.
        """
        return assign.assign_to(self, model, which)

    def with_posterior(self, posterior: Posterior) -> Fit:
        """The same draws with another posterior of the same parameters, for predictions and scores.

        For other data, or a likelihood that has changed since the fit with a global that it reads. Quantities of the
        fitted posterior (``log_marginal_likelihood``, ``loo``, ``waic``) are refused if data or likelihood differ.

        Parameters
        ----------
        posterior
            With the parameters, priors and constants that were fitted. Draws do not change.

        Raises
        ------
        ValueError
            For a posterior with other parameters, naming the difference.

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
        >>> fit = infer.map(infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0])), progress=False)
        >>> fit.with_posterior(infer.Posterior(Mean(), targets=jnp.array([0.0, 1.0, 2.0]))).predict().shape
        (1, 3)
        """
        check_options(Fit.with_posterior, locals(), posterior=a_posterior)
        return attach.with_posterior(self, posterior)

    # Internals

    def _mean(self, array: np.ndarray) -> np.ndarray:
        exact = np.float64 if array.dtype.itemsize < 8 else array.dtype
        weights = None if self.weights is None else np.ravel(self.weights)
        return np.average(array.reshape(-1, *array.shape[2:]).astype(exact), axis=0, weights=weights).astype(
            array.dtype
        )[()]

    def posterior_for(self, what: str) -> Posterior:
        """The posterior; ``what`` needs it.

        Raises
        ------
        ValueError
            If the fit was loaded without it.
        """
        if self.posterior is None:
            raise ValueError(
                f'{what} needs the posterior, but this fit was loaded without one. Use infer.load(path, posterior).'
            )
        return self.posterior

    def _of_prior(self, num_draws: int, seed: Any) -> Fit:
        """Draws of the prior, as a fit."""
        posterior = self.posterior_for('draws of the prior')
        for e in posterior.density.entries:
            refuse_without_prior(e)
        thetas = prior_thetas(posterior.density, num_draws, to_key(seed), posterior.theta, posterior.data.states)
        return Fit(posterior.target, thetas[None], method='prior')

    def _resampled(self) -> Fit:
        index = chosen_draws(self.num_chains * self.num_draws, self.num_chains * self.num_draws, self.weights)
        stats = {k: v.reshape(-1, *v.shape[2:])[index][None] for k, v in self.stats.items()}
        self.posterior_for('to_arviz of weighted draws')
        return Fit(
            self.target,
            self.rows[index][None],
            method=self.method,
            stats=stats,
            history=self.history,
            info=self.info,
        )

    def __repr__(self) -> str:
        def count(n: int, word: str) -> str:
            return f'{n} {word}{"" if n == 1 else "s"}'

        return (
            f'Fit(method={self.method!r}, {count(self.num_chains, "chain")} of {count(self.num_draws, "draw")}, '
            f'{count(len(self.variables), "parameter")}{", with other data" if self.has_other_data else ""})'
        )
