"""A step size for stochastic-gradient MCMC by the curvature of the log density where the chains start."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density

__all__ = ['largest_curvature', 'sgmcmc_step_size']

_ITERATIONS = 30
_ERROR = 0.1  # relative error of a variance from discretization, and from gradient noise


def largest_curvature(density: Density, theta: jax.Array, data: Data) -> float:
    """The largest absolute eigenvalue of the Hessian by power iteration, a lower bound."""

    def run(theta: jax.Array, data: Data) -> jax.Array:
        gradient = jax.grad(density.log_density)

        def multiply(v: jax.Array) -> jax.Array:
            return jax.jvp(lambda t: gradient(t, data), (theta,), (v,))[1]

        def iterate(_: int, pair: tuple) -> tuple:
            v = multiply(pair[0])
            norm = jnp.linalg.norm(v)
            return v / jnp.maximum(norm, jnp.finfo(v.dtype).tiny), norm

        start = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype)
        start = start / jnp.linalg.norm(start)
        return lax.fori_loop(0, _ITERATIONS, iterate, (start, jnp.zeros((), theta.dtype)))[1]

    return float(density.jit(largest_curvature, None, lambda: run)(theta, data))


def sgmcmc_step_size(
    density: Density, theta: jax.Array, data: Data, *, batch_fraction: float, friction: float, scale_by: float | None
) -> float:
    """The step at which discretization and gradient noise each add about a tenth to the narrowest variance.

    With L the largest curvature, a step eps makes the variance too large by eps * L / 2. The gradient of a fraction f
    of the observations has, near the mode, a variance of about L / f, which heats by eps * L / (2 * friction * f).

    Parameters
    ----------
    friction
        1 for Langevin dynamics.
    scale_by
        Where steps are preconditioned, the number of observations: the scale is then N / sqrt(L) there.

    Raises
    ------
    ValueError
        Where there is no finite curvature.
    """
    curvature = largest_curvature(density, theta, data)
    if not np.isfinite(curvature) or curvature <= 0:
        raise ValueError(
            f'The curvature of the log density at the start is {curvature}, so no step size follows from it. Give '
            'step_size.'
        )
    noise = min(1.0, friction * batch_fraction) if batch_fraction < 1 else 1.0
    divisor = curvature if scale_by is None else scale_by * float(np.sqrt(curvature))
    return 2 * _ERROR * noise / divisor
