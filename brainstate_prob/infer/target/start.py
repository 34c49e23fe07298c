"""Random keys from seeds, and starting points with a finite log density, or an error with the reason."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.rules import seed as check_seed
from brainstate_prob.infer.target.target import Target

__all__ = ['checked_start', 'non_finite_term', 'to_key']


def to_key(seed: Any) -> jax.Array:
    """A random key from an int or a key.

    Raises
    ------
    ValueError
        For anything else.
    """
    check_seed('seed', seed)
    if isinstance(seed, int | np.integer):
        return jax.random.key(int(seed))
    seed = jnp.asarray(seed)
    return seed if jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(seed)


def checked_start(target: Target, theta: jax.Array | None = None, *, jacobian: bool = True) -> jax.Array:
    """``theta``, by default the model's current one, where the log density and its gradient are finite.

    Without ``jacobian`` the density is that of the values, which also exists for transforms that are not bijections.

    Raises
    ------
    ValueError
        Naming the parameter and the term that is not finite.
    """
    density, data = target.density, target.data
    theta = target.start if theta is None else theta
    value, grad = density.compiled(Density.value_and_grad, jacobian=jacobian)(theta, data)
    if not np.isfinite(value):
        raise ValueError(non_finite_term(target, theta, jacobian))
    if not np.isfinite(np.asarray(grad)).all():
        raise ValueError(
            f'The gradient of the log density is not finite at the start (parameters: {_not_finite(density, grad)}). '
            'Start elsewhere (param.set_value, param.init_from_prior), or avoid sqrt, norm or log at zero in the model.'
        )
    return theta


def _not_finite(density: Density, grad: jax.Array) -> list[str]:
    bad, offset = [], 0
    for block in density.blocks:
        for entry, size in zip(block.entries, block.sizes, strict=True):
            if not np.isfinite(np.asarray(grad[offset : offset + size])).all():
                bad.append(entry.name)
            offset += size
    return bad


def non_finite_term(target: Target, theta: jax.Array, jacobian: bool) -> str:
    """A description of the term of the log density, and the parameter, that is not finite at ``theta``."""
    density, data = target.density, target.data
    terms = density.compiled(Density.terms, jacobian=jacobian)(theta, data)
    values = density.compiled(Density.constrain)(theta)
    causes = [
        f'the prior of {name!r} is {float(v):g} at {np.asarray(values[name]).tolist()}'
        for name, v in terms['prior'].items()
        if not np.isfinite(v)
    ]
    causes += [
        f'the log-determinant of {name!r} is {float(v):g}' for name, v in terms['log_det'].items() if not np.isfinite(v)
    ]
    if not np.isfinite(terms['likelihood']):
        pointwise = np.asarray(density.compiled(Density.pointwise)(theta, data))
        bad = np.argwhere(~np.isfinite(np.atleast_1d(pointwise)))
        causes.append(
            f'the likelihood is {float(terms["likelihood"]):g} ({len(bad)} observations, the first at '
            f'{tuple(int(i) for i in bad[0])})'
        )
    if not causes:
        return (
            'The log density is not finite at the start, though each of its terms is when computed by itself: it is at '
            f'the edge of what {density.dtype} can do (the Cholesky factor of an almost singular matrix, say). Work '
            'under jax.enable_x64(True), or add more to the diagonal.'
        )
    return (
        'The log density is not finite at the start: '
        + '; '.join(causes)
        + '. Start elsewhere (param.set_value, param.init_from_prior), or widen the prior or the likelihood.'
    )
