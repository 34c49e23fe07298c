"""Detection of priors that are Gaussian in theta, from their densities and not their class.

A density is Gaussian if the gradient of its logarithm is linear. So a normal prior, an `L2Reg`, a multivariate normal
(a Gaussian process), a log-normal under `ExpT` and any of these under an affine transform are detected.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import StateTrace
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.density.blocks import Block, ElementwiseBlock
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import block_slices

__all__ = ['gaussian_prior']

_POINTS = (-30.0, -4.0, -0.7, 0.3, 1.9, 30.0)  # points of the linearity check, in standard deviations
_TOLERANCE = 1e-3


def gaussian_prior(density: Density, states: tuple) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The mean of theta, and by block its standard deviations or, for a block of several dependent numbers, a factor.

    Raises
    ------
    ValueError
        For a parameter without a prior, with one that is not Gaussian in theta, or with a fitted hyper-parameter.
    """
    by_state = {e.state: e.name for e in density.entries}
    for e in density.entries:
        above = [] if e.reg is None else [by_state[s] for s in find_states(e.reg).values() if s in by_state]
        if above:
            raise ValueError(
                f'Param {e.name!r}: its prior depends on {above}, which are fitted as well, so the joint '
                'prior is not Gaussian. Fix them (fit=False), or use infer.nuts.'
            )
        if e.reg is None:
            raise ValueError(
                f'Parameter {e.name!r} has no prior, so there is no Gaussian to draw from. Give it one: '
                'nn.Param(..., reg=dist.Normal(0.0, 1.0)), or use infer.nuts.'
            )
    with jax.enable_x64(True):  # differences of gradients lose too much in single precision
        run = density.compiled(_all_blocks)
        moments = jax.device_get(run(states))
    for block, (_, _, off) in zip(density.blocks, moments, strict=True):
        _refuse(block, off)
    return np.concatenate([mean for mean, _, _ in moments]), tuple(scale for _, scale, _ in moments)


def _all_blocks(density: Density, states: tuple) -> list[tuple]:
    with StateTrace() as trace:
        density._bind_others(trace, states)
        return [_moments(block) for block in density.blocks]


def _moments(block: Block) -> tuple[Any, Any, Any]:
    """Mean, scale and the nonlinearity of the gradient for each number."""
    gradient = jax.grad(lambda x: jnp.sum(block.log_joint(x, block.forward(x))))
    zero, one = jnp.zeros(block.size), jnp.ones(block.size)
    if isinstance(block, ElementwiseBlock):
        at_zero = gradient(zero)
        precision = at_zero - gradient(one)
        scale = 1 / jnp.sqrt(precision)
        mean = at_zero / precision
        pushed = lambda shift: shift * scale
        expected = lambda shift: -shift / scale
    else:
        precision = -jax.jacobian(gradient)(zero)
        mean = jnp.linalg.solve(precision, gradient(zero))
        scale = jnp.linalg.cholesky(jnp.linalg.inv(precision))
        pushed = lambda shift: scale @ (shift * jnp.cos(jnp.arange(block.size)))
        expected = lambda shift: -precision @ pushed(shift)
    off = jnp.zeros(block.size)
    for shift in _POINTS:
        wanted = expected(shift)
        size = jnp.abs(wanted) if isinstance(block, ElementwiseBlock) else jnp.max(jnp.abs(wanted))
        off = jnp.maximum(off, jnp.abs(gradient(mean + pushed(shift)) - wanted) / size)
    return mean, scale, jnp.where(jnp.isfinite(off), off, jnp.inf)


def _refuse(block: Block, off: np.ndarray) -> None:
    begin = 0
    for e, size in zip(block.entries, block.sizes, strict=True):
        if np.max(off[begin : begin + size], initial=0.0) > _TOLERANCE:
            raise ValueError(
                f'Param {e.name!r}: its prior {" ".join(repr(e.reg).split())} is not Gaussian in theta (its transform '
                f'is {e.t!r}). Elliptical slice sampling takes normal and multivariate normal priors of untransformed '
                'values, and log-normal ones under ExpT. Use infer.nuts.'
            )
        begin += size


def draw(key: jax.Array, density: Density, scales: tuple) -> jax.Array:
    """A draw of theta minus its mean."""
    normal = jax.random.normal(key, (density.size,), scales[0].dtype)
    parts = [
        scale * normal[where] if scale.ndim == 1 else scale @ normal[where]
        for scale, where in zip(scales, block_slices(density), strict=True)
    ]
    return jnp.concatenate(parts)
