"""What a model predicts: over how many classes, of which shape; and the log probability of each class."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from brainstate_prob import environ
from brainstate_prob.infer.density import Data, Density

__all__ = ['Predicted', 'class_log_probs', 'predicted']


class Predicted(NamedTuple):
    """The name and batch shape of the distribution that a model predicts, and of how many classes if of any."""

    name: str
    batch_shape: tuple[int, ...]
    num_classes: int | None


def predicted(density: Density, theta: Any, data: Data) -> Predicted:
    """What a model predicts, by shapes alone: nothing is computed, and for shapes seen before nothing traced."""

    def trace() -> Predicted:
        found: list[Predicted] = []

        def look(theta: jax.Array, data: Data) -> jax.Array:
            with density.open(theta, data):
                d = density.distribution(data)
                found.append(Predicted(type(_base(d)).__name__, d.batch_shape, num_classes(d)))
            return jnp.zeros(())

        jax.eval_shape(look, theta, data)
        return found[0]

    leaves, treedef = jax.tree.flatten(data)
    shapes = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
    return density.compiled.get(('predicted', treedef, shapes, environ.static_key()), trace)


_BERNOULLI = (dist.BernoulliLogits, dist.BernoulliProbs)
_CATEGORICAL = (dist.CategoricalLogits, dist.CategoricalProbs)


def _base(distribution: dist.Distribution) -> dist.Distribution:
    """Without the wrappers that only arrange batches."""
    while isinstance(distribution, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def num_classes(distribution: dist.Distribution) -> int | None:
    """How many classes a Bernoulli or categorical distribution is over; None for any other."""
    base = _base(distribution)
    if isinstance(base, _BERNOULLI):
        return 2
    if isinstance(base, _CATEGORICAL):
        parameter = base.logits if isinstance(base, dist.CategoricalLogits) else base.probs
        return int(jnp.shape(parameter)[-1])
    return None


def class_log_probs(distribution: dist.Distribution) -> jax.Array:
    """The log probability of each class, along a new last axis.

    Raises
    ------
    ValueError
        For a distribution that is not over classes.
    """
    number = num_classes(distribution)
    if number is None:
        raise ValueError(
            f'Probabilities of classes need a Bernoulli or categorical distribution of the targets, but the model '
            f"predicts {type(_base(distribution)).__name__}. Use kind='interval' or 'draws'."
        )
    shape = distribution.batch_shape + distribution.event_shape
    base = _base(distribution)
    log_probs = [jnp.broadcast_to(base.log_prob(jnp.asarray(k)), shape) for k in range(number)]
    return jnp.stack(log_probs, axis=-1)
