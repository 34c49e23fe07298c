"""The log density as samplers take it: a potential energy; how many draws one compiled call holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density

__all__ = ['block_slices', 'buffer_length', 'potential_of']


def buffer_length(density: Density) -> int:
    """The most transitions of one compiled call; fewer for large models, whose draws fill memory."""
    return int(np.clip(2_000_000 // density.size, 1, 1000))


def potential_of(density: Density, data: Data) -> Callable:
    """Minus the log density as a function of theta, in theta's precision."""
    return lambda theta: -density.log_density(theta.astype(density.dtype), data).astype(theta.dtype)


def block_slices(density: Density) -> list[slice]:
    """Where each block's segment lies in theta."""
    ends = np.cumsum([block.size for block in density.blocks])
    return [slice(int(end) - block.size, int(end)) for block, end in zip(density.blocks, ends, strict=True)]
