"""A comparison of the spread of a path with the posterior standard deviations from the curvature.

Along a direction v the normal approximation at a point has at least the variance 1 / (v' H v), with H minus the Hessian
of the log density. It is compared with the variance of the path along the leading eigenvectors of H: the data determine
these directions best, and predictions depend on them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density

__all__ = ['leading_curvatures', 'relative_spread']

_STEPS = 20  # steps of Lanczos' method
_LEADING = 0.01  # of the largest curvature: directions below it are dominated by the prior or not resolved


def leading_curvatures(density: Density, theta: jax.Array, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of the negative Hessian, and their directions as rows, by Lanczos' method."""
    steps = min(density.size, _STEPS)

    def build() -> Callable:
        def run(theta: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
            gradient = jax.grad(density.log_density)

            def step(i: jax.Array, kept: tuple) -> tuple:
                basis, products, v = kept
                basis = basis.at[i].set(v)
                product = -jax.jvp(lambda t: gradient(t, data), (theta,), (v,))[1]
                products = products.at[i].set(product)
                rest = product
                for _ in range(2):  # orthogonalized twice against rounding
                    rest = rest - basis.T @ (basis @ rest)
                return basis, products, rest / jnp.maximum(jnp.linalg.norm(rest), jnp.finfo(rest.dtype).tiny)

            start = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype)
            nothing = jnp.zeros((steps, theta.size), theta.dtype)
            basis, products, _ = lax.fori_loop(0, steps, step, (nothing, nothing, start / jnp.linalg.norm(start)))
            return basis, products

        return run

    run = density.jit(leading_curvatures, steps, build)
    basis, products = (np.asarray(x, np.float64) for x in run(theta, data))
    if not np.isfinite(products).all():
        return np.zeros(1), np.zeros((1, density.size))
    small = basis @ products.T
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    return values[::-1], (vectors.T @ basis)[::-1]


def relative_spread(
    density: Density, theta: jax.Array, data: Data, variance: np.ndarray, roots: np.ndarray
) -> float | None:
    """The ratio of a path's standard deviation to that of the curvature, along the best determined directions.

    None if the log density is not concave there.

    Parameters
    ----------
    variance, roots
        The covariance of the path: a diagonal, and rows whose outer products are added to it.
    """
    values, directions = leading_curvatures(density, theta, data)
    if values[0] <= 0:
        return None
    leading = values >= _LEADING * values[0]
    path_variances = directions[leading] ** 2 @ variance + np.sum((directions[leading] @ roots.T) ** 2, axis=1)
    return float(np.sqrt(np.mean(path_variances * values[leading])))
