"""Models of other libraries as models: Flax NNX, Equinox, brainstate, and functions of a pytree of parameters."""

from brainstate_prob.interop.wrap import wrap

__all__ = ['wrap']
