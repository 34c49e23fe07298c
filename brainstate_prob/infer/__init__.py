"""Fits: one Posterior, every way to fit it, one kind of result."""

from brainstate_prob.infer import calibration, scoring
from brainstate_prob.infer.calibration import temperature_scaling
from brainstate_prob.infer.compare import compare
from brainstate_prob.infer.conformal import conformal
from brainstate_prob.infer.descent import FitProgress
from brainstate_prob.infer.diagnostics import ConvergenceWarning
from brainstate_prob.infer.draws import Draws
from brainstate_prob.infer.early_stopping import EarlyStopping
from brainstate_prob.infer.elliptical_slice import elliptical_slice
from brainstate_prob.infer.ensemble import ensemble
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.hmc_ecs import hmc_ecs
from brainstate_prob.infer.laplace import laplace
from brainstate_prob.infer.laplace_fit import LaplaceFit
from brainstate_prob.infer.many_chains import chees, mclmc, meads
from brainstate_prob.infer.map import fit_map
from brainstate_prob.infer.marginal_likelihood import fit_marginal_likelihood
from brainstate_prob.infer.mc_dropout import mc_dropout
from brainstate_prob.infer.numpyro_bridge import from_numpyro, to_numpyro
from brainstate_prob.infer.nuts import nuts
from brainstate_prob.infer.pathfinder import pathfinder
from brainstate_prob.infer.plots import plot_coverage, plot_reliability
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.prior import prior_predictive, sample_prior
from brainstate_prob.infer.psis import k_hat
from brainstate_prob.infer.sbc import SBC, sbc
from brainstate_prob.infer.sgmcmc import sgmcmc
from brainstate_prob.infer.smc import smc
from brainstate_prob.infer.storage import load
from brainstate_prob.infer.svi import fit_svi
from brainstate_prob.infer.swag import swag
from brainstate_prob.infer.target.door import ModelWarning
from brainstate_prob.infer.target.precision import PrecisionWarning
from brainstate_prob.infer.target.quantities import QuantityDistribution, UncheckedUnitWarning, of_quantities, with_unit

__all__ = [
    'ConvergenceWarning',
    'Draws',
    'EarlyStopping',
    'Fit',
    'FitProgress',
    'LaplaceFit',
    'ModelWarning',
    'Posterior',
    'PrecisionWarning',
    'QuantityDistribution',
    'SBC',
    'UncheckedUnitWarning',
    'calibration',
    'chees',
    'compare',
    'conformal',
    'elliptical_slice',
    'ensemble',
    'fit_map',
    'fit_marginal_likelihood',
    'fit_svi',
    'from_numpyro',
    'hmc_ecs',
    'k_hat',
    'laplace',
    'load',
    'mc_dropout',
    'mclmc',
    'meads',
    'nuts',
    'of_quantities',
    'pathfinder',
    'plot_coverage',
    'plot_reliability',
    'prior_predictive',
    'sample_prior',
    'sbc',
    'scoring',
    'sgmcmc',
    'smc',
    'swag',
    'temperature_scaling',
    'to_numpyro',
    'with_unit',
]
