"""Regularizations: priors from distributions, penalties with their densities, and compositions."""

from brainstate_prob.nn.priors.base import DistributionReg, Regularization
from brainstate_prob.nn.priors.compose import ChainedReg, Prior, as_regularization
from brainstate_prob.nn.priors.distributions import (
    BetaReg,
    CauchyReg,
    DirichletReg,
    ExponentialReg,
    GammaReg,
    GaussianReg,
    HorseshoeReg,
    InverseGammaReg,
    LogNormalReg,
    LogUniformReg,
    SpikeAndSlabReg,
    StudentTReg,
    UniformReg,
)
from brainstate_prob.nn.priors.penalties import ElasticNetReg, HuberReg, L1Reg, L2Reg, Penalty
from brainstate_prob.nn.priors.structured_penalties import (
    EntropyReg,
    GroupLassoReg,
    MaxNormReg,
    OrthogonalReg,
    SpectralNormReg,
    TotalVariationReg,
)

__all__ = [
    'Regularization',
    'DistributionReg',
    'Penalty',
    'Prior',
    'as_regularization',
    'L1Reg',
    'L2Reg',
    'ElasticNetReg',
    'HuberReg',
    'GroupLassoReg',
    'TotalVariationReg',
    'MaxNormReg',
    'EntropyReg',
    'OrthogonalReg',
    'SpectralNormReg',
    'ChainedReg',
    'GaussianReg',
    'StudentTReg',
    'CauchyReg',
    'UniformReg',
    'BetaReg',
    'LogNormalReg',
    'ExponentialReg',
    'GammaReg',
    'InverseGammaReg',
    'LogUniformReg',
    'HorseshoeReg',
    'SpikeAndSlabReg',
    'DirichletReg',
]
