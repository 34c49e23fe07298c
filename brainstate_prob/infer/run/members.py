"""Several descents or chains that are advanced alike: alone, vectorized, one after another, or over devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.data.sharding import devices_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.run.chains import Runner, choose_method
from brainstate_prob.infer.run.checkpoint import Checkpoint

__all__ = ['Members', 'checked_devices', 'plain_types', 'until_save']


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


class Members:
    """Several states that are advanced alike: one by itself, others by a `Runner`.

    Parameters
    ----------
    args
        Arguments of ``advance`` after the state, by which it does nothing: to compile.
    """

    def __init__(
        self,
        density: Density,
        key: Any,
        advance: Callable,
        states: Any,
        num: int,
        *args: Any,
        method: str = 'vectorized',
        devices: Sequence[Any] | None = None,
    ):
        self.single = num == 1 and devices is None
        self.description = 'alone'
        if self.single:
            self._run = density.jit(Runner, key, lambda: advance)
            self._state = jax.tree.map(lambda x: x[0], states)
        else:
            self._runner = Runner(density.jit, key, advance, method, devices, num)
            self._runner.prepare(states, *args)
            self.description = self._runner.description

    def step(self, *args: Any) -> tuple:
        """Advance; the outputs as NumPy arrays with the members as first axis."""
        if not self.single:
            return self._runner.step(*args)
        self._state, *out = self._run(self._state, *args)
        return tuple(jax.tree.map(lambda x: np.asarray(x)[None], out))

    def state(self) -> Any:
        """The states, stacked."""
        return jax.tree.map(lambda x: x[None], self._state) if self.single else self._runner.state()


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
