"""Modules, parameters with transforms and priors, and layers."""

from brainstate_prob.nn import init
from brainstate_prob.nn.bijections import (
    AffineT,
    ChainT,
    ClipT,
    ExpT,
    IdentityT,
    LogT,
    MaskedT,
    NegativeT,
    NegSoftplusT,
    OrderedT,
    PositiveT,
    PowerT,
    ReluT,
    ScaledSigmoidT,
    SigmoidT,
    SimplexT,
    SoftplusT,
    SoftsignT,
    TanhT,
    Transform,
    UnitVectorT,
)
from brainstate_prob.nn.collective import *  # noqa: F403
from brainstate_prob.nn.collective import __all__ as _collective
from brainstate_prob.nn.dynamics import *  # noqa: F403
from brainstate_prob.nn.dynamics import __all__ as _dynamics
from brainstate_prob.nn.functional import *  # noqa: F403
from brainstate_prob.nn.functional import __all__ as _functional
from brainstate_prob.nn.layers.adaptive_pool import *  # noqa: F403
from brainstate_prob.nn.layers.adaptive_pool import __all__ as _adaptive_pool
from brainstate_prob.nn.layers.batch_norm import *  # noqa: F403
from brainstate_prob.nn.layers.batch_norm import __all__ as _batch_norm
from brainstate_prob.nn.layers.conv import *  # noqa: F403
from brainstate_prob.nn.layers.conv import __all__ as _conv
from brainstate_prob.nn.layers.dropout import *  # noqa: F403
from brainstate_prob.nn.layers.dropout import __all__ as _dropout
from brainstate_prob.nn.layers.elementwise import *  # noqa: F403
from brainstate_prob.nn.layers.elementwise import __all__ as _elementwise
from brainstate_prob.nn.layers.embedding import Embedding
from brainstate_prob.nn.layers.event import *  # noqa: F403
from brainstate_prob.nn.layers.event import __all__ as _event
from brainstate_prob.nn.layers.linear import *  # noqa: F403
from brainstate_prob.nn.layers.linear import __all__ as _linear
from brainstate_prob.nn.layers.norm import *  # noqa: F403
from brainstate_prob.nn.layers.norm import __all__ as _norm
from brainstate_prob.nn.layers.pad import *  # noqa: F403
from brainstate_prob.nn.layers.pad import __all__ as _pad
from brainstate_prob.nn.layers.pool import *  # noqa: F403
from brainstate_prob.nn.layers.pool import __all__ as _pool
from brainstate_prob.nn.layers.reshape import *  # noqa: F403
from brainstate_prob.nn.layers.reshape import __all__ as _reshape
from brainstate_prob.nn.layers.rnn import *  # noqa: F403
from brainstate_prob.nn.layers.rnn import __all__ as _rnn
from brainstate_prob.nn.layers.sparse import *  # noqa: F403
from brainstate_prob.nn.layers.sparse import __all__ as _sparse
from brainstate_prob.nn.layers.unpool import *  # noqa: F403
from brainstate_prob.nn.layers.unpool import __all__ as _unpool
from brainstate_prob.nn.layers.wrappers import *  # noqa: F403
from brainstate_prob.nn.layers.wrappers import __all__ as _wrappers
from brainstate_prob.nn.metrics import *  # noqa: F403
from brainstate_prob.nn.metrics import __all__ as _metrics
from brainstate_prob.nn.module import ElementWiseBlock, Module, Sequential
from brainstate_prob.nn.param import Const, Param
from brainstate_prob.nn.priors import *  # noqa: F403
from brainstate_prob.nn.priors import __all__ as _priors
from brainstate_prob.nn.utils import clip_grad_norm, count_parameters
from brainstate_prob.nn.weights import ParamSpec, Weights
from brainstate_prob.nn.with_prior import PriorReport, with_prior

__all__ = [
    'AffineT',
    'ChainT',
    'ClipT',
    'Const',
    'ElementWiseBlock',
    'Embedding',
    'ExpT',
    'IdentityT',
    'LogT',
    'MaskedT',
    'Module',
    'NegSoftplusT',
    'NegativeT',
    'OrderedT',
    'Param',
    'ParamSpec',
    'PositiveT',
    'PowerT',
    'PriorReport',
    'ReluT',
    'ScaledSigmoidT',
    'Sequential',
    'SigmoidT',
    'SimplexT',
    'SoftplusT',
    'SoftsignT',
    'TanhT',
    'Transform',
    'UnitVectorT',
    'Weights',
    'with_prior',
    'clip_grad_norm',
    'count_parameters',
    'init',
    *_priors,
    *_functional,
    *_elementwise,
    *_metrics,
    *_collective,
    *_adaptive_pool,
    *_dropout,
    *_pad,
    *_pool,
    *_reshape,
    *_unpool,
    *_linear,
    *_norm,
    *_batch_norm,
    *_conv,
    *_dynamics,
    *_rnn,
    *_wrappers,
    *_event,
    *_sparse,
]
