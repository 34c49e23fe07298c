"""What a model predicts: its family and shapes, over how many classes; and the log probability of each class."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.quantities import QuantityDistribution
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.nn.supports import bounds, is_known

__all__ = ['Predicted', 'class_log_probs', 'precision_of', 'predicted', 'says_unit']


def precision_of(density: Density) -> contextlib.AbstractContextManager:
    """Double precision for what was fitted in it: outside, JAX would silently halve its digits."""
    return jax.enable_x64(True) if density.dtype == jnp.float64 else contextlib.nullcontext()


class Predicted(NamedTuple):
    """The distribution that a model predicts, by name and shapes.

    Attributes
    ----------
    num_classes
        Of how many classes, if of any.
    event_shape
        The shape of what has one joint log density.
    is_dependent
        Whether the numbers of an event depend on each other, given the parameters: not those of ``to_event``.
    is_masked
        Whether some targets may not count.
    num_joined
        How many axes of the event ``to_event`` has made.
    is_real
        Whether its numbers may be any, as those of a process in time or space; not shares or counts.
    """

    name: str
    batch_shape: tuple[int, ...]
    num_classes: int | None
    event_shape: tuple[int, ...] = ()
    is_dependent: bool = False
    is_masked: bool = False
    num_joined: int = 0
    is_real: bool = False


def says_unit(density: Density, theta: Any, data: Data) -> bool:
    """Whether the model says the unit of what it predicts; for shapes seen before nothing is traced."""

    def trace() -> bool:
        answers: list[bool] = []

        def look(theta: jax.Array, data: Data) -> None:
            with density.open(theta, data) as model:
                answers.append(isinstance(model.declared(data), QuantityDistribution))

        jax.eval_shape(look, theta, data)
        return answers[0]

    return density.kept((says_unit, *_shapes(data)), trace)


def predicted(density: Density, theta: Any, data: Data) -> Predicted:
    """What a model predicts, by shapes alone: nothing is computed, and for shapes seen before nothing traced."""

    def trace() -> Predicted:
        found: list[Predicted] = []

        def look(theta: jax.Array, data: Data) -> jax.Array:
            with density.open(theta, data) as model:
                d = model.distribution(data)
                name = type(_base(d)).__name__
                found.append(
                    Predicted(
                        name,
                        d.batch_shape,
                        num_classes(d),
                        d.event_shape,
                        _is_dependent(d),
                        _is_masked(d),
                        len(d.event_shape) - len(_base(d).event_shape),
                        _is_real(d),
                    )
                )
            return jnp.zeros(())

        with precision_of(density):
            jax.eval_shape(look, theta, data)
        return found[0]

    return density.kept((predicted, *_shapes(data)), trace)


def _shapes(data: Data) -> tuple:
    leaves, treedef = jax.tree.flatten(data)
    return treedef, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)


_BERNOULLI = (dist.BernoulliLogits, dist.BernoulliProbs)
_CATEGORICAL = (dist.CategoricalLogits, dist.CategoricalProbs)


def _base(distribution: dist.Distribution) -> dist.Distribution:
    """Without the wrappers that only arrange batches."""
    while isinstance(distribution, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def _is_masked(distribution: dist.Distribution) -> bool:
    if isinstance(distribution, dist.MaskedDistribution):
        return True
    wrapper = isinstance(distribution, dist.ExpandedDistribution | dist.Independent)
    return wrapper and _is_masked(distribution.base_dist)


def _is_dependent(distribution: dist.Distribution) -> bool:
    """Whether an event has more than independent numbers."""
    base = _base(distribution)
    if isinstance(base, dist.TransformedDistribution):
        return _is_dependent(base.base_dist) or any(t.domain.event_dim > 0 for t in base.transforms)
    return len(base.event_shape) > 0 and not isinstance(base, dist.Delta)


def _is_real(distribution: dist.Distribution) -> bool:
    support = _base(distribution).support
    return is_known(support) and all(isinstance(x, float) and np.isinf(x) for x in bounds(support))


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
