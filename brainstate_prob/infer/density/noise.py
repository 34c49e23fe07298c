"""The random numbers that a model draws itself (dropout, noise), under a key of ours: other ones at every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob import random
from brainstate_prob.core import StateTrace
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.random import RandomState

__all__ = ['draws_noise', 'noise']


@contextlib.contextmanager
def noise(density: Density, key: jax.Array, data: Data) -> Iterator[Data]:
    """Within the block the model draws from ``key``, by the data that are yielded and the default stream.

    A model without randomness does not use the key, and the compiled program does not compute it.
    """
    states = tuple(
        _like(value, jax.random.fold_in(key, i)) if isinstance(state, RandomState) else value
        for i, (state, value) in enumerate(zip(density._others, data.states, strict=True), 1)
    )
    with StateTrace() as trace:
        trace.bind(random.DEFAULT, key)
        yield data._replace(states=states)


def _like(value: Any, key: jax.Array) -> jax.Array:
    typed = jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key)
    return key if typed else jax.random.key_data(key)


def draws_noise(density: Density, theta: jax.Array, data: Data) -> bool:
    """Whether the model draws random numbers under the present settings (``environ``)."""

    def find() -> bool:
        found: list[bool] = []

        def look(theta: jax.Array, data: Data) -> None:
            with density.open(theta, data) as model:
                model.log_likelihood(data)
                found.append(any(isinstance(state, RandomState) for state in model.trace.uses))

        jax.eval_shape(look, theta, data)
        return found[0]

    return density.kept((draws_noise, data.targets is None), find)
