"""Initial values of parameters: initializers, called with a shape, and `param`, which resolves a specification.

An initializer is a value without state: it draws with the ``key`` of the call, else with its ``seed`` (the same
numbers for the same shape every time), else from the stream of `brainstate_prob.random`. The distributions are those of
``jax.nn.initializers``; units are added here.
"""

from brainstate_prob.nn.init.base import Initializer
from brainstate_prob.nn.init.elementwise import Constant, Identity, Normal, TruncatedNormal, Uniform, ZeroInit
from brainstate_prob.nn.init.resolve import param
from brainstate_prob.nn.init.scaled import (
    DeltaOrthogonal,
    KaimingNormal,
    KaimingUniform,
    LecunNormal,
    LecunUniform,
    Orthogonal,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
    calculate_init_gain,
)

__all__ = [
    'Constant',
    'DeltaOrthogonal',
    'Identity',
    'Initializer',
    'KaimingNormal',
    'KaimingUniform',
    'LecunNormal',
    'LecunUniform',
    'Normal',
    'Orthogonal',
    'TruncatedNormal',
    'Uniform',
    'VarianceScaling',
    'XavierNormal',
    'XavierUniform',
    'ZeroInit',
    'calculate_init_gain',
    'param',
]
