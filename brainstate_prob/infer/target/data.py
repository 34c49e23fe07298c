"""Data as arrays: what a user gives as inputs and targets, converted in one place and checked."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.sharding import on_host

__all__ = ['call_arguments', 'checked_targets', 'refuse_nan']


def call_arguments(inputs: Any) -> tuple[tuple, dict]:
    """The positional and keyword arguments that ``inputs`` stand for, as arrays."""
    if inputs is None:
        return (), {}
    if isinstance(inputs, dict):
        return (), jax.tree.map(jnp.asarray, inputs)
    return jax.tree.map(jnp.asarray, inputs if isinstance(inputs, tuple) else (inputs,)), {}


def checked_targets(targets: Any) -> Any:
    """The targets as one array, which has observations and no NaN."""
    try:
        targets = jnp.asarray(targets)
    except (TypeError, ValueError):
        raise TypeError(
            f'targets must be one array, got {type(targets).__name__}. For several outputs stack them, or use '
            'log_likelihood=f with everything as inputs.'
        ) from None
    if targets.size == 0:
        raise ValueError(f'There are no observations: the targets have shape {targets.shape}.')
    refuse_nan(targets, 'targets')
    return targets


def refuse_nan(x: Any, name: str) -> None:
    """Refuse NaN entries, saying where the first is."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return
    elsewhere = isinstance(x, jax.Array) and not x.is_fully_addressable  # on the devices of other processes
    bad = on_host(jnp.isnan(x)) if elsewhere else np.isnan(np.asarray(x, dtype=np.float64))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f'{name} has {int(bad.sum())} NaN entries, the first at {first}. Drop or impute them before fitting.'
        )
