"""pmap2: map a function over lanes spread over several devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State
from brainstate_prob.transform.base import Transformed, decorator
from brainstate_prob.transform.jit import jit
from brainstate_prob.transform.mapping import vmap2, vmap2_new_states

__all__ = ['pmap2', 'pmap2_new_states']


def pmap2(
    fn: Callable | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    devices: Sequence[Any] | None = None,
    state_in_axes: Any = None,
    state_out_axes: Any = None,
) -> Any:
    """A compiled `vmap2` with the lanes spread over devices.

    The mapped arguments and States are sharded over the devices along their mapped axis and the compiler splits the
    work. ``jax.pmap`` is not used, so the number of lanes may be any multiple of the number of devices.

    Parameters
    ----------
    devices
        Default: all.
    in_axes, out_axes, axis_name, axis_size, state_in_axes, state_out_axes
        As in `vmap2`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from brainstate_prob import transform
    >>> square = transform.pmap2(lambda x: x**2)
    >>> square(jnp.arange(2.0 * jax.device_count())).shape[0] == 2 * jax.device_count()
    True
    """
    make = functools.partial(
        _MappedOverDevices,
        in_axes=in_axes,
        devices=devices,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        state_in_axes=state_in_axes,
        state_out_axes=state_out_axes,
    )
    return decorator(make, fn)


class _MappedOverDevices(Transformed):
    def __init__(self, fun: Callable, *, in_axes: Any, devices: Sequence[Any] | None, **options):
        super().__init__(fun)
        self._in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
        self._devices = devices
        self._compiled = jit(vmap2(fun, in_axes=in_axes, **options))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        bound = super().__get__(instance, owner)
        if bound is not self:
            bound._compiled = self._compiled.__get__(instance, owner)
        return bound

    def __call__(self, *args, **kwargs):
        devices = jax.devices() if self._devices is None else list(self._devices)
        mesh = jax.sharding.Mesh(np.array(devices), ('lanes',))

        def spread(axis: int | None, part: Any) -> Any:
            def put(x):
                spec: list[str | None] = [None] * jnp.ndim(x)
                if axis is not None:
                    spec[axis] = 'lanes'
                    if jnp.shape(x)[axis] % len(devices):
                        raise ValueError(
                            f'{jnp.shape(x)[axis]} lanes cannot be spread evenly over {len(devices)} devices; use a '
                            'multiple, or fewer devices.'
                        )
                return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))

            return jax.tree.map(put, part)

        axes = self._in_axes if isinstance(self._in_axes, tuple) else (self._in_axes,) * len(args)
        args = jax.tree.map(spread, axes, args, is_leaf=lambda axis: axis is None)
        return self._compiled(*args, **{k: spread(0, v) for k, v in kwargs.items()})


def pmap2_new_states(
    module: Any,
    init_kwargs: dict | None = None,
    state_tag: str | None = None,
    axis_size: int | None = None,
    state_out_axes: Any = None,
) -> dict[int, list[State]]:
    """As `vmap2_new_states`; the first call of a `pmap2` function moves the lanes to the devices."""
    return vmap2_new_states(module, init_kwargs, state_tag, axis_size, state_out_axes)
