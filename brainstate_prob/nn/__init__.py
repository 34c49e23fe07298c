"""Modules, parameters with transforms and priors, and layers."""

from brainstate_prob.nn.module import ElementWiseBlock, Module, Sequential

__all__ = ['ElementWiseBlock', 'Module', 'Sequential']
