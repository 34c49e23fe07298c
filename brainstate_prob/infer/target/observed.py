"""What a model says about its observations: a distribution of the targets, their shapes and supports."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

__all__ = ['checked_batch_shape', 'checked_distribution', 'checked_log_prob', 'expanded_to']


def checked_distribution(out: Any) -> dist.Distribution:
    """``out``, if it is a NumPyro distribution.

    Raises
    ------
    TypeError
        Otherwise, saying what to return.
    """
    if not isinstance(out, dist.Distribution):
        raise TypeError(
            f'The model must return a NumPyro distribution of the targets, e.g. dist.Normal(mean, sigma), but '
            'returned '
            f'{type(out).__name__}. Return one, pass likelihood=f with f(model, *inputs) -> distribution, or '
            'log_likelihood=f for a log density of your own.'
        )
    return out


def checked_log_prob(distribution: dist.Distribution, targets: Any) -> jax.Array:
    """``distribution.log_prob(targets)``, if the shapes agree: see `checked_batch_shape`."""
    checked_batch_shape(distribution, targets)
    return distribution.log_prob(targets)


def expanded_to(distribution: dist.Distribution, targets: Any) -> dist.Distribution:
    """The distribution of all targets, where it may be that of each."""
    return distribution.expand(checked_batch_shape(distribution, targets))


def checked_batch_shape(distribution: dist.Distribution, targets: Any) -> tuple[int, ...]:
    """The targets' batch shape, if the distribution has it and does not broadcast them.

    Raises
    ------
    ValueError
        Where the shapes differ: broadcasting would score every target against every prediction.
    """
    shape = jnp.shape(targets)
    event = len(distribution.event_shape)
    batch = shape[: len(shape) - event] if event else shape
    try:
        fits = jnp.broadcast_shapes(distribution.batch_shape, batch) == batch
    except ValueError:
        fits = False
    if not fits or (event and shape[len(shape) - event :] != distribution.event_shape):
        raise ValueError(
            f'The model predicts targets of shape {distribution.batch_shape + distribution.event_shape}, the targets '
            'have shape '
            f'{shape}. They must agree (a scalar prediction may serve all). Reshape the prediction or the targets, '
            'e.g. x[:, 0] in place of x.'
        )
    return batch
