"""Models written once, fitted in every way: constrained parameters with priors and units over JAX and NumPyro."""

from brainstate_prob import core, environ, graph, nn, random, transform
from brainstate_prob.core import (
    BatchState,
    DelayState,
    HiddenState,
    LongTermState,
    ParamState,
    ShortTermState,
    State,
    StateTrace,
    TraceError,
    catch_new_states,
    maybe_state,
)

__version__ = '0.1.0'

__all__ = [
    'BatchState',
    'DelayState',
    'HiddenState',
    'LongTermState',
    'ParamState',
    'ShortTermState',
    'State',
    'StateTrace',
    'TraceError',
    'catch_new_states',
    'core',
    'graph',
    'maybe_state',
    'nn',
    'transform',
    'random',
    'environ',
]
