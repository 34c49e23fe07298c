"""Fits: one Posterior, every way to fit it, one kind of result."""

from typing import Any

from brainstate_prob.core.calls import nearest
from brainstate_prob.infer.data.precision import PrecisionWarning
from brainstate_prob.infer.data.quantities import QuantityDistribution, UncheckedUnitWarning, of_quantities, with_unit
from brainstate_prob.infer.descent.early_stopping import EarlyStopping
from brainstate_prob.infer.descent.ensemble import ensemble
from brainstate_prob.infer.descent.map import map
from brainstate_prob.infer.descent.mc_dropout import mc_dropout
from brainstate_prob.infer.descent.swag import swag
from brainstate_prob.infer.diagnostics.mcmc import ConvergenceWarning
from brainstate_prob.infer.diagnostics.psis import k_hat
from brainstate_prob.infer.evaluate import calibration
from brainstate_prob.infer.evaluate.calibration import Tempered, temperature_scaling
from brainstate_prob.infer.evaluate.conformal import Conformal, conformal
from brainstate_prob.infer.evaluate.sbc import SBC, sbc
from brainstate_prob.infer.laplace.fit import LaplaceFit
from brainstate_prob.infer.laplace.laplace import laplace
from brainstate_prob.infer.laplace.marginal_likelihood import marginal_likelihood
from brainstate_prob.infer.mcmc.barker import barker
from brainstate_prob.infer.mcmc.elliptical_slice import elliptical_slice
from brainstate_prob.infer.mcmc.hmc_ecs import hmc_ecs
from brainstate_prob.infer.mcmc.many_chains import chees, mclmc, meads
from brainstate_prob.infer.mcmc.nuts import nuts
from brainstate_prob.infer.mcmc.sgmcmc import sgmcmc
from brainstate_prob.infer.mcmc.smc import smc
from brainstate_prob.infer.report import Report
from brainstate_prob.infer.results import scoring
from brainstate_prob.infer.results.compare import compare
from brainstate_prob.infer.results.draws import Draws
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.results.from_numpyro import from_numpyro
from brainstate_prob.infer.results.plots import plot_coverage, plot_reliability
from brainstate_prob.infer.results.prediction import Interval
from brainstate_prob.infer.results.prior_fit import prior_predictive, sample_prior
from brainstate_prob.infer.results.storage import load
from brainstate_prob.infer.run.optimization import FitProgress
from brainstate_prob.infer.table import Table
from brainstate_prob.infer.target.inspection import ModelWarning
from brainstate_prob.infer.target.numpyro import sample_module, to_numpyro
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.variational.pathfinder import pathfinder
from brainstate_prob.infer.variational.svi import svi

__all__ = [
    'Conformal',
    'ConvergenceWarning',
    'Draws',
    'EarlyStopping',
    'Fit',
    'FitProgress',
    'Interval',
    'LaplaceFit',
    'ModelWarning',
    'Posterior',
    'PrecisionWarning',
    'QuantityDistribution',
    'Report',
    'SBC',
    'Table',
    'Tempered',
    'UncheckedUnitWarning',
    'barker',
    'calibration',
    'chees',
    'compare',
    'conformal',
    'elliptical_slice',
    'ensemble',
    'from_numpyro',
    'hmc_ecs',
    'k_hat',
    'laplace',
    'load',
    'map',
    'marginal_likelihood',
    'mc_dropout',
    'mclmc',
    'meads',
    'nuts',
    'of_quantities',
    'pathfinder',
    'plot_coverage',
    'plot_reliability',
    'prior_predictive',
    'sample_module',
    'sample_prior',
    'sbc',
    'scoring',
    'sgmcmc',
    'smc',
    'svi',
    'swag',
    'temperature_scaling',
    'to_numpyro',
    'with_unit',
]


def __dir__() -> list[str]:
    return list(__all__)


_RENAMED = {'fit_map': 'map', 'fit_svi': 'svi', 'fit_marginal_likelihood': 'marginal_likelihood'}


def __getattr__(name: str) -> Any:
    hint = f'It is infer.{_RENAMED[name]}.' if name in _RENAMED else nearest(name, __all__)
    raise AttributeError(f'brainstate_prob.infer has no {name!r}. {hint}'.rstrip())
