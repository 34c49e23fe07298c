"""Case: what every layer must do; a family lists its layers in ``cases_<family>.py`` as ``CASES``."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from brainstate_prob import nn


def normal(shape, dtype):
    """One input: normal draws. NumPy's, since eager JAX compiles a program for every shape and dtype."""
    return (np.random.default_rng(1).normal(size=shape).astype(dtype),)


def indices(high):
    """Makes one input of integers below ``high``."""
    return lambda shape, dtype: (np.random.default_rng(1).integers(0, high, shape, np.int32),)


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and what is expected of it.

    Parameters
    ----------
    make
        Builds the layer.
    in_shape, out_shape
        Of one sample, without a batch axis.
    paths
        The paths of all its States, after ``init_state``.
    inputs
        ``(shape, dtype) -> tuple`` of the arguments of a call, best NumPy's; one array of normal draws by default.
    in_size, out_size
        What the layer says of itself without a call; ``'shape'`` for in_shape and out_shape.
    bad
        Shapes that must raise a ValueError with the layer's path; by default the last axis one longer, where the
        in_size is known.
    context
        Settings of the call, such as ``{'fit': True}``.
    stateful
        Has States that a call writes: ``init_state(batch_size)`` comes before.
    random
        Draws in the call: results are compared under the same seed, and batch rows are not compared to single calls.
    mixes_batch
        What one row gives depends on the others (batch statistics).
    batched
        Takes an input with a batch axis in front.
    float16
        Whether bfloat16 parameters and inputs give bfloat16.
    differentiable
        Whether gradients of inputs and parameters are finite and not all zero.
    name
        Of the case; the class's by default.
    """

    make: Callable[[], nn.Module]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    paths: tuple[tuple, ...] = ()
    inputs: Callable[..., tuple] = normal
    in_size: Any = 'shape'
    out_size: Any = 'shape'
    bad: tuple[tuple[int, ...], ...] | None = None
    context: dict = dataclasses.field(default_factory=dict)
    stateful: bool = False
    random: bool = False
    mixes_batch: bool = False
    batched: bool = True
    float16: bool = True
    differentiable: bool = True
    name: str | None = None

    def args(self, batch: int | None = None, dtype: Any = None) -> tuple:
        """The arguments of one call."""
        shape = self.in_shape if batch is None else (batch, *self.in_shape)
        return tuple(jnp.asarray(x) for x in self.inputs(shape, jnp.result_type(float) if dtype is None else dtype))

    def build(self, batch: int | None = None) -> nn.Module:
        """The layer, ready for a call."""
        layer = self.make()
        if self.stateful:
            layer.init_state() if batch is None else layer.init_state(batch)
        return layer
