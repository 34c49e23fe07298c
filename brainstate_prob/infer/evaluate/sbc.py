"""Simulation-based calibration of a way to fit.

Talts et al. (2018): parameters are drawn from the prior, data from the likelihood at them, and the model is fitted to
these. If fit and model are right, the rank of each true value among its posterior's draws is uniform.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from brainstate_prob.core.calls import named
from brainstate_prob.core.units import u
from brainstate_prob.infer.density.batching import chosen_draws
from brainstate_prob.infer.evaluate.uniformity import ecdf_band, uniformity_p_value
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.results.plots import pyplot
from brainstate_prob.infer.results.prior_fit import sample_prior
from brainstate_prob.infer.results.summary import row_names
from brainstate_prob.infer.rules import way_to_fit
from brainstate_prob.infer.run.progress import Chunks, nested_fit
from brainstate_prob.infer.table import Table
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.parameterization import chosen_by_data
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.target.target import Target

__all__ = ['SBC', 'sbc']

LOG_LIKELIHOOD = 'log_likelihood'


@dataclasses.dataclass(frozen=True)
class SBC:
    """The ranks of simulation-based calibration: ``ranks[name]`` has shape (simulations, ...), from 0 to num_draws.

    Beside the parameters ``log_likelihood`` is ranked, which detects errors that leave each parameter's rank uniform
    (Modrák et al. 2023).
    """

    ranks: Mapping[str, np.ndarray]
    num_draws: int
    rows: Mapping[str, Sequence[str]]
    num_warned: int = 0

    @property
    def num_simulations(self) -> int:
        """The number of simulated and fitted data sets."""
        return len(next(iter(self.ranks.values())))

    @property
    def p_values(self) -> dict[str, float]:
        """The p-value of uniformity of the ranks by number."""
        return {
            row: uniformity_p_value(column, self.num_draws + 1)
            for name, ranks in self.ranks.items()
            for row, column in zip(self.rows[name], ranks.reshape(len(ranks), -1).T, strict=True)
        }

    @property
    def p_value(self) -> float:
        """The smallest of `p_values` with Bonferroni's correction: one test of all."""
        p_values = self.p_values
        return min(1.0, min(p_values.values()) * len(p_values))

    def summary(self) -> Table:
        """A table with a row per number: mean rank (0.5 if calibrated), spread (1 if calibrated), and p-value."""
        columns = [column for ranks in self.ranks.values() for column in ranks.reshape(len(ranks), -1).T]
        scaled = [(column + 0.5) / (self.num_draws + 1) for column in columns]
        p_values = self.p_values
        return Table(
            repr(self),
            tuple(p_values),
            {
                'mean rank': np.array([x.mean() for x in scaled]),
                'spread': np.array([x.std() * np.sqrt(12) for x in scaled]),
                'p_value': np.array(list(p_values.values())),
            },
        )

    def plot_ecdf(self, names: Sequence[str] | None = None, prob: float = 0.95, ax: Any = None) -> Any:
        """Plot the ranks' distribution functions minus the uniform one, with a simultaneous band.

        Parameters
        ----------
        names
            Rows of `summary`; default: all.
        prob
            The probability that a calibrated one stays inside the band everywhere.
        ax
            Axes to draw on.

        Returns
        -------
        matplotlib.axes.Axes
        """
        ax = pyplot().subplots()[1] if ax is None else ax
        points, lower, upper = ecdf_band(self.num_simulations, self.num_draws + 1, prob)
        ax.fill_between(points, lower - points, upper - points, color='grey', alpha=0.3, linewidth=0, step='mid')
        columns = {
            row: column
            for name, ranks in self.ranks.items()
            for row, column in zip(self.rows[name], ranks.reshape(len(ranks), -1).T, strict=True)
        }
        unknown = set(names or ()) - set(columns)
        if unknown:
            raise KeyError(f'There are no ranks of {sorted(unknown)}; there are {list(columns)}.')
        for row in names or columns:
            counts = np.bincount(columns[row], minlength=self.num_draws + 1).cumsum()[:-1]
            ax.plot(points, counts / self.num_simulations - points, label=row)
        ax.set(xlabel='rank among the draws (share)', ylabel='ECDF of ranks minus uniform')
        ax.legend()
        return ax

    def __repr__(self) -> str:
        p_values = self.p_values
        worst = min(p_values, key=lambda row: p_values[row])
        shape = 'uniform' if self.p_value > 0.01 else f'not uniform, {self._shape(worst)}'
        text = (
            f'SBC of {self.num_simulations} simulations: ranks are {shape} (p = {self.p_value:.2g} for all '
            f'{len(p_values)} numbers; the worst is {worst!r}, p = {p_values[worst]:.2g})'
        )
        return f'{text}; {self.num_warned} fits warned' if self.num_warned else text

    def _shape(self, row: str) -> str:
        name = next(n for n, rows in self.rows.items() if row in rows)
        ranks = self.ranks[name].reshape(self.num_simulations, -1)[:, list(self.rows[name]).index(row)]
        scaled = (ranks + 0.5) / (self.num_draws + 1)
        shift = (scaled.mean() - 0.5) * np.sqrt(12 * len(scaled))
        spread = scaled.std() * np.sqrt(12)
        if abs(shift) > 3:
            return f'posteriors lie too {"low" if shift > 0 else "high"}'
        return f'posteriors are too {"narrow" if spread > 1 else "wide"}'


@named
def sbc(
    posterior: Posterior,
    fit: Callable[..., Fit],
    *,
    num_simulations: int = 100,
    num_draws: int = 99,
    seed: Any = 0,
    progress: bool = True,
) -> SBC:
    """Simulation-based calibration of any way to fit, on any model with proper priors.

    Parameters
    ----------
    posterior
        Its model and inputs are used; of its targets only the shape.
    fit
        ``fit(posterior, seed=...)`` gives a `Fit`: ``functools.partial(infer.nuts, num_samples=500, progress=False)``.
        Its warnings are counted, not shown. Ways to fit of this package compile once for all simulations.
    num_simulations
        The number of simulated and fitted data sets.
    num_draws
        The number of draws of each fit that are used, evenly spread and few enough to be nearly independent. The
        default gives 100 ranks.
    seed
        An int or a key.
    progress
        Whether to show a progress bar.

    Returns
    -------
    SBC
        Its repr tells whether the ranks are uniform; has ``ranks``, ``p_values``, ``summary()`` and ``plot_ecdf()``.

    Raises
    ------
    ValueError
        For a Param without prior, a posterior without targets or with ``log_likelihood=``, a fit with fewer draws.
    """
    check_options(sbc, locals(), fit=way_to_fit)
    if posterior.data.targets is None or posterior.log_likelihood_function is not None:
        raise ValueError(
            'sbc simulates targets from the likelihood: give the Posterior targets (for their shape) and a model or '
            'likelihood= that predicts them, not log_likelihood=.'
        )
    prior_key, data_key, fit_key = jax.random.split(to_key(seed), 3)
    truth = sample_prior(posterior, num_simulations, seed=prior_key)
    simulated = np.asarray(u.get_magnitude(truth.predict(seed=data_key)))
    ranks: dict[str, list[np.ndarray]] = {name: [] for name in (*truth.names, LOG_LIKELIHOOD)}
    warned, choice = 0, None
    seeds = np.asarray(jax.random.bits(fit_key, (num_simulations,), np.uint32) >> 1)
    rng = np.random.default_rng(0)
    for i, _ in enumerate(Chunks(num_simulations, 1, 'SBC', progress)):
        data = with_targets(posterior, simulated[i])
        # One parametrization, so that all fits share one program.
        choice = (
            (chosen_by_data(data) if posterior.fixed_choice is None else posterior.fixed_choice) if i == 0 else choice
        )
        data.fixed_choice = choice
        with warnings.catch_warnings(record=True) as caught, nested_fit():
            warnings.simplefilter('always')
            fitted = fit(data, seed=int(seeds[i]))
        warned += bool(caught)
        for name, (true, draws) in _quantities(data, truth, i, fitted, num_draws).items():
            ranks[name].append(_rank(true, draws, rng))
    rows = {v.name: row_names(v, truth.coords) for v in truth.variables} | {LOG_LIKELIHOOD: [LOG_LIKELIHOOD]}
    return SBC({name: np.stack(r) for name, r in ranks.items()}, num_draws, rows, warned)


def with_targets(posterior: Posterior, targets: Any) -> Posterior:
    """The posterior with other targets of the same shape, without checks."""
    return posterior.replaced(data=posterior.data._replace(targets=targets))


def _quantities(data: Posterior, truth: Fit, i: int, fit: Fit, num_draws: int) -> dict[str, tuple]:
    """The true value and the fit's draws by name."""
    total = fit.num_chains * fit.num_draws
    if total < num_draws:
        raise ValueError(f'sbc ranks among num_draws={num_draws} draws, but the fit has {total}. Lower it.')
    rows = fit.rows[chosen_draws(num_draws, total, fit.weights)]
    fewer = Fit(Target(data, fit.density), rows[None], method=fit.method)
    alone = Fit(Target(data, truth.density), truth.thetas[:, i : i + 1], method='prior')
    pairs = {name: (truth.magnitudes[name][0, i], fewer.magnitudes[name][0]) for name in truth.names}
    sums = [x.log_likelihood().astype(np.float64).reshape(x.num_draws, -1).sum(1) for x in (alone, fewer)]
    return pairs | {LOG_LIKELIHOOD: (sums[0][0], sums[1])}


def _rank(true: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The number of smaller draws, with ties broken at random."""
    below, equal = np.sum(draws < true, axis=0), np.sum(draws == true, axis=0)
    return np.asarray(below + rng.integers(0, equal + 1))
