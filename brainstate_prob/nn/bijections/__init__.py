"""Transforms: bijectors from unconstrained numbers to the values of parameters."""

from brainstate_prob.nn.bijections.base import NoDensityError, Transform, from_family
from brainstate_prob.nn.bijections.compose import ChainT, MaskedT
from brainstate_prob.nn.bijections.interval import ClipT, ScaledSigmoidT, SigmoidT, SoftsignT, TanhT
from brainstate_prob.nn.bijections.linear import AffineT, IdentityT, PowerT
from brainstate_prob.nn.bijections.numpyro_compat import ParamSupport, to_numpyro_transform
from brainstate_prob.nn.bijections.positive import ExpT, LogT, NegativeT, NegSoftplusT, PositiveT, ReluT, SoftplusT
from brainstate_prob.nn.bijections.support import transform_for
from brainstate_prob.nn.bijections.vector import OrderedT, SimplexT, UnitVectorT

__all__ = [
    'Transform',
    'IdentityT',
    'ClipT',
    'AffineT',
    'SigmoidT',
    'TanhT',
    'SoftsignT',
    'ScaledSigmoidT',
    'SoftplusT',
    'NegSoftplusT',
    'LogT',
    'ExpT',
    'ReluT',
    'PositiveT',
    'NegativeT',
    'PowerT',
    'OrderedT',
    'SimplexT',
    'UnitVectorT',
    'ChainT',
    'MaskedT',
    'NoDensityError',
    'ParamSupport',
    'from_family',
    'to_numpyro_transform',
    'transform_for',
]
