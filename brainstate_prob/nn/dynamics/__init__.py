"""Dynamics in discrete time steps, delays, integration, hierarchical data."""

from brainstate_prob.nn.dynamics.base import Dynamics, DynamicsGroup
from brainstate_prob.nn.dynamics.delay import Delay, DelayAccess
from brainstate_prob.nn.dynamics.hidata import HiData
from brainstate_prob.nn.dynamics.integration import exp_euler_step
from brainstate_prob.nn.dynamics.prefetch import OutputDelayAt, Prefetch, PrefetchDelay, PrefetchDelayAt
from brainstate_prob.nn.dynamics.state_delay import StateWithDelay

__all__ = [
    'Delay',
    'DelayAccess',
    'Dynamics',
    'DynamicsGroup',
    'HiData',
    'OutputDelayAt',
    'Prefetch',
    'PrefetchDelay',
    'PrefetchDelayAt',
    'StateWithDelay',
    'exp_euler_step',
]
