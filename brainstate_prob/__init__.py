"""Bayesian models with constrained parameters, priors and units, on JAX and NumPyro."""

from __future__ import annotations

import importlib
from typing import Any

from brainstate_prob import core, environ, graph, interop, nn, random, transform
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
    'infer',
    'interop',
    'maybe_state',
    'nn',
    'transform',
    'random',
    'environ',
]


def __getattr__(name: str) -> Any:
    if name == 'infer':  # imported on first use: NumPyro and optax take a second
        return importlib.import_module('brainstate_prob.infer')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*__all__, '__version__'])
