"""Execution of several points or chains in parallel, and the types of their states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from brainstate_prob.infer.data.sharding import devices_of
from brainstate_prob.infer.run.chains import choose_method

__all__ = ['checked_devices', 'plain_types']


def checked_devices(devices: Any, method: str | None, num: int, data: Any = None) -> tuple[str, Sequence[Any] | None]:
    """The method and the devices for ``num`` members: see `devices_of` and `choose_method`.

    A single member runs without ``vmap``.

    Raises
    ------
    ValueError
        For more devices than there are; an unknown method, or one that contradicts ``devices`` or ``data``.
    """
    devices = devices_of(devices)
    if method == 'vectorized' and (devices is not None or num == 1):  # the default
        method = None if devices is not None else 'sequential'
    return choose_method(method, devices, num, data), devices


def plain_types(tree: Any) -> Any:
    """Remove weak types, since a returned state of another type would be compiled again."""

    def plain(x: Any) -> Any:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if is_key else lax.convert_element_type(x, x.dtype)

    return jax.tree.map(plain, tree)
