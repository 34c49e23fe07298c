"""Functions without state: activations over `jax.nn`, standardization."""

from brainstate_prob.nn.functional.activations import *  # noqa: F403
from brainstate_prob.nn.functional.activations import __all__ as _activations
from brainstate_prob.nn.functional.along_axis import *  # noqa: F403
from brainstate_prob.nn.functional.along_axis import __all__ as _along_axis
from brainstate_prob.nn.functional.standardization import standardize, weight_standardization

__all__ = [*_activations, *_along_axis, 'standardize', 'weight_standardization']
