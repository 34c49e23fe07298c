"""Several descents or chains that are advanced alike: alone, vectorized, one after another, or over devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from brainstate_prob.infer.data.sharding import devices_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.run.chains import Runner, choose_method
from brainstate_prob.infer.run.checkpoint import Checkpoint

__all__ = ['checked_devices', 'members', 'plain_types', 'until_save']


def checked_devices(devices: Any, method: str | None, num: int, data: Any = None) -> tuple[str, Sequence[Any] | None]:
    """How ``num`` members run, and the devices that they are spread over: see `devices_of` and `choose_method`.

    Raises
    ------
    ValueError
        For more devices than there are; an unknown method, or one that contradicts ``devices`` or ``data``.
    """
    devices = devices_of(devices)
    if devices is not None and method == 'vectorized':  # the default
        method = None
    return choose_method(method, devices, num, data), devices


def members(
    density: Density,
    key: Any,
    advance: Callable,
    states: Any,
    *args: Any,
    method: str = 'vectorized',
    devices: Sequence[Any] | None = None,
) -> Runner:
    """Several states, stacked, that are advanced alike; a single one runs by itself, without ``vmap``.

    Parameters
    ----------
    args
        Arguments of ``advance`` after the state, by which it does nothing: to compile.
    """
    num = len(jax.tree.leaves(states)[0])
    alone = num == 1 and devices is None
    runner = Runner(density.jit, key, advance, 'sequential' if alone else method, devices, num)
    if alone:
        runner.description = 'alone'
        runner.take(states)
    else:
        runner.prepare(states, *args)
    return runner


def plain_types(tree: Any) -> Any:
    """Without weak types: else the state that comes back would be a new signature, compiled once more."""

    def plain(x: Any) -> Any:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if is_key else lax.convert_element_type(x, x.dtype)

    return jax.tree.map(plain, tree)


def until_save(checkpoint: Checkpoint, most: int) -> int:
    """The steps up to where a save is due, at most ``most``."""
    every = checkpoint.every
    return most if every is None else min(most, every - checkpoint.step % every)
