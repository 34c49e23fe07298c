"""Newton's method in some columns of theta, which is invariant to their scales."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.laplace.curvature import Curvature
from brainstate_prob.infer.laplace.gaussians import NotPositiveDefinite
from brainstate_prob.infer.laplace.structures import full_from

__all__ = ['Point', 'newton', 'value_and_grad']

_HALVINGS = 12


class Point(NamedTuple):
    """The end of Newton's method: theta, log density, curvature, and estimated distance to the mode.

    ``distance`` is the length of the next step in standard deviations of the Gaussian; infinite where there is none.
    """

    theta: np.ndarray
    value: float
    matrices: Any
    distance: float


def value_and_grad(density: Density, theta: Any, data: Data) -> tuple[float, np.ndarray]:
    """The log density of theta and its gradient."""
    value, grad = density.compiled(Density.value_and_grad, jacobian=True)(theta, data)
    return float(value), np.asarray(grad, np.float64)


def newton(curvature: Curvature, theta: np.ndarray, data: Data, *, num_steps: int, tol: float) -> Point:
    """Move the columns of ``theta`` uphill until the mode is less than ``tol`` standard deviations away.

    Negative eigenvalues are replaced by their absolute values, so that the method leaves saddle points.
    """
    density = curvature.density
    theta = np.asarray(theta)
    value, grad = value_and_grad(density, theta, data)
    for step in range(num_steps + 1):
        matrices = [np.asarray(m, np.float64) for m in curvature.matrices(theta, data)]
        direction, distance = _step(curvature, matrices, grad[curvature.columns])
        if step == num_steps or distance < tol:
            break
        uphill = _uphill(curvature, theta, value, direction, data)
        if uphill is None:  # no further increase beyond rounding
            break
        theta, value, grad = uphill
    return Point(theta, value, matrices, distance)


def _step(curvature: Curvature, matrices: list[np.ndarray], grad: np.ndarray) -> tuple[np.ndarray, float]:
    try:
        direction = full_from(matrices, curvature)[0].solve(grad)
        return direction, float(np.sqrt(max(0.0, grad @ direction)))
    except NotPositiveDefinite as error:
        if not np.isfinite(error.curvature):
            raise
        total = matrices[0] + matrices[1]
        scale = np.sqrt(np.maximum(np.abs(np.diag(total)), 1e-12))
        values, vectors = linalg.eigh((total + total.T) / 2 / np.outer(scale, scale))
        turned = vectors.T @ (grad / scale)
        return vectors @ (turned / np.maximum(np.abs(values), 1e-3)) / scale, np.inf


def _uphill(
    curvature: Curvature, theta: np.ndarray, value: float, direction: np.ndarray, data: Data
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Backtracking: the first halved step that does not lower the log density beyond rounding."""
    slack = 4 * float(jnp.finfo(theta.dtype).eps) * abs(value)
    for halving in range(_HALVINGS):
        moved = theta.copy()
        moved[curvature.columns] += (direction * 0.5**halving).astype(theta.dtype)
        there, grad = value_and_grad(curvature.density, moved, data)
        if np.isfinite(there) and there >= value - slack and np.isfinite(grad).all():
            return moved, there, grad
    return None
