"""The choice between centred and non-centred parameterization of hierarchical parameters, by the data.

For a number with prior location + scale * z the centred form is better where the likelihood is more informative than
the prior: where information * scale**2 > 1, with the information minus the second derivative of the log-likelihood
(Papaspiliopoulos, Roberts & Skoeld 2007; Betancourt & Girolami 2015). This product is the curvature of the likelihood
in z, so it is computed at one point in the non-centred coordinates, by differences of the gradient. It must also hold
at small scales within the posterior, where the funnel is: few groups determine their scale poorly.

The point must have a typical scale. At the joint mode of the centred coordinates the scale is zero, at that of the
non-centred ones it is too large. So the standardized values get independent normals, and the evidence lower bound over
fixed draws is maximized in their means and widths and all other parameters: variational expectation maximization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import on_host
from brainstate_prob.infer.density.blocks import NoncenteredBlock
from brainstate_prob.infer.density.log_density import Density, scores_horseshoe
from brainstate_prob.infer.density.noncentered import able_entries, depth_of, named

if TYPE_CHECKING:
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['chosen_by_data']

_STEPS = 100  # steps of L-BFGS
_PAIRS = 4  # antithetic pairs of draws
_WIDTH = 0.3  # initial standard deviation of standardized values
_FEW = 16  # up to this size one finite difference for each number; beyond it, as many random directions
_DIFFERENCE = 1e-2  # step of finite differences, in standardized coordinates
_SIMILAR = 10.0  # an entry whose ratios differ by less than this factor has one parameterization


def chosen_by_data(posterior: Posterior, data: Data | None = None) -> tuple[str, ...]:
    """The names of the non-centred entries (`noncentered.named`); deterministic given model, start and data.

    Without a likelihood or a finite start, all entries are non-centred.

    Parameters
    ----------
    data
        By which to choose; default: the posterior's.
    """
    data = posterior.data if data is None else data
    able = able_entries(posterior.entries)
    everything = tuple(e.name for e in able)
    if not able or (data.targets is None and posterior.log_likelihood_function is None):
        return everything
    density = _density(posterior, everything)
    theta = _typical_point(density, posterior.start(density), data)
    if theta is None:
        return everything
    depths = {e.name: depth_of(e, posterior.entries) for e in able}
    masks = {e.name: np.ones(e.size, bool) for e in able}
    now, states = density, data.states
    # The deepest level comes first: where it is centred, its prior informs the level above.
    for depth in sorted(set(depths.values()), reverse=True):
        if now is not density:
            theta = _translated(density, now, theta, states)
            density = now
        products = _products(density, theta, data, [n for n, d in depths.items() if d == depth])
        scales = _scales(density, theta, data)
        masks |= {name: ~_informed(product, scales[name]) for name, product in products.items()}
        now = _density(posterior, tuple(n for n in (named(e, masks[e.name]) for e in able) if n))
    return tuple(n for n in (named(e, masks[e.name]) for e in able) if n)


def _density(posterior: Posterior, noncentered: tuple[str, ...]) -> Density:
    return posterior.density.variant(scores_horseshoe(posterior.entries), noncentered)


def _translated(source: Density, density: Density, theta: jax.Array, states: tuple) -> jax.Array:
    thetas = source.compiled(Density.thetas)(theta, states)
    return density.compiled(Density.flatten)(thetas, states)


def _informed(product: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The numbers of an entry that the data determine better than the prior, even at small scales.

    A number with y ~ N(location, scale**2 + 1 / information) has the information 2 * (product / (1 + product))**2 about
    its log scale, which is summed over the numbers with the same scale. The product is evaluated at a scale three
    standard deviations lower: if it is small there, a sampler would enter the funnel.
    """
    product = np.clip(np.nan_to_num(product, nan=0.0), 1e-6, 1e6)
    about_scale = 2 * (product / (1 + product)) ** 2
    known = np.array([about_scale[scale == s].sum() for s in scale])
    logs = np.log(product) - 6 / np.sqrt(known)
    if np.exp(np.ptp(logs)) < _SIMILAR:
        return np.full(product.shape, logs.mean() > 0)
    return logs > 0


# Typical point


def _typical_point(density: Density, theta: Any, data: Data) -> Any:
    """The mode with standardized values integrated out, and their means; None if it is not finite."""
    from scipy.optimize import minimize

    columns = np.concatenate(list(_columns(density).values()))
    signs = np.zeros((_PAIRS, density.size), density.dtype)
    signs[:, columns] = np.random.default_rng(0).choice([-1.0, 1.0], (_PAIRS, len(columns)))
    descent = _Descent(density, data, columns, signs)
    start = np.concatenate([np.asarray(on_host(theta), np.float64), np.full(len(columns), np.log(_WIDTH))])
    if not np.isfinite(descent(start)[0]):
        return None
    options = {'maxiter': _STEPS, 'maxfun': 2 * _STEPS}
    return (
        minimize(descent, start, jac=True, method='L-BFGS-B', options=options).x[: density.size].astype(density.dtype)
    )


class _Descent:
    """The negative ELBO as a function of theta and the log widths of the standardized values."""

    def __init__(self, density: Density, data: Data, columns: np.ndarray, signs: np.ndarray):
        self._density, self._data, self._given = density, data, (columns, signs)
        self._run = density.compiled(_negative_elbo)
        self._least = np.inf

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        result = self._run(x.astype(self._density.dtype), *self._given, self._data)
        value, grad = (np.asarray(on_host(y), np.float64) for y in result)
        if np.isfinite(value) and np.isfinite(grad).all():
            self._least = min(self._least, float(value))
            return float(value), grad
        # A large value makes the line search shorten its step; at the start it is infinite.
        return self._least + 10 * (1 + abs(self._least)), np.zeros_like(grad)


def _negative_elbo(density: Density, x: jax.Array, columns: jax.Array, signs: jax.Array, data: Data) -> tuple:
    """The negative evidence lower bound and its gradient."""

    def negative(x: jax.Array) -> jax.Array:
        theta, log_widths = x[: density.size], x[density.size :]
        width = jnp.zeros_like(theta).at[columns].set(jnp.exp(log_widths))
        draws = jnp.concatenate([theta + width * signs, theta - width * signs])
        return -jnp.mean(jax.vmap(lambda t: density.log_density(t, data))(draws)) - jnp.sum(log_widths)

    return jax.value_and_grad(negative)(x)


def _columns(density: Density) -> dict[str, np.ndarray]:
    """The positions in theta of each entry that is non-centred, wholly or in part."""
    columns, offset = {}, 0
    for block in density.blocks:
        for entry, size in zip(block.entries, block.sizes, strict=True):
            if isinstance(block, NoncenteredBlock):
                columns[entry.name] = np.arange(offset, offset + size)
            offset += size
    return columns


def _scales(density: Density, theta: Any, data: Data) -> dict[str, np.ndarray]:
    """The prior scale of each number of each non-centred entry."""
    scales = np.asarray(on_host(density.compiled(_prior_scales)(theta, data)), np.float64)
    where = _columns(density)
    pieces = np.split(scales, np.cumsum([len(at) for at in where.values()])[:-1])
    return dict(zip(where, pieces, strict=True))


def _prior_scales(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    with density.open(theta, data):
        blocks = [b for b in density.blocks if isinstance(b, NoncenteredBlock)]
        return jnp.concatenate([jnp.broadcast_to(b.location_scale()[1], (b.size,)) for b in blocks])


# Curvature


def _products(density: Density, theta: Any, data: Data, names: list[str]) -> dict[str, np.ndarray]:
    """Information * scale**2 of each number, by entry, where the information excludes the number's own prior."""
    theta = np.asarray(on_host(theta), density.dtype)
    gradient = density.compiled(_gradient)
    own = density.compiled(_gradient_of_own_priors)
    where = {name: at for name, at in _columns(density).items() if name in names}
    columns = np.concatenate(list(where.values()))
    few = len(columns) <= _FEW
    signs = np.eye(len(columns)) if few else np.random.default_rng(0).choice([-1.0, 1.0], (_FEW, len(columns)))
    total = np.zeros(len(columns))
    for sign in signs:
        step = np.zeros_like(theta)
        step[columns] = _DIFFERENCE * sign
        up, down = theta + step, theta - step
        change = [np.asarray(on_host(f(up, data) - f(down, data)), np.float64)[columns] for f in (gradient, own)]
        total -= sign * (change[0] - change[1]) / (2 * _DIFFERENCE)
    by_column = dict(zip(columns, total / (1 if few else len(signs)), strict=True))
    return {name: np.array([by_column[c] for c in at]) for name, at in where.items()}


def _gradient(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    return jax.grad(density.log_density)(theta, data)


def _gradient_of_own_priors(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    return jax.grad(lambda theta: _own_priors(density, theta, data))(theta)


def _own_priors(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    """The log density of all standardized values."""
    with density.open(theta, data) as model:
        return sum(
            (b.standardized_prior(part) for b, part, _ in model.computed if isinstance(b, NoncenteredBlock)),
            jnp.zeros((), density.dtype),
        )
