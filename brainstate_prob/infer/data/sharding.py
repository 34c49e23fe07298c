"""Devices of a fit: choose them, shard data over them, and gather results."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brainstate_prob.core.units import u
from brainstate_prob.infer.data.arrays import Data

__all__ = ['Padded', 'devices_of', 'is_padded', 'is_sharded', 'next_length', 'on_host', 'placed', 'replicated']
__all__ += ['shard_data', 'whole']


def devices_of(devices: Any) -> tuple[jax.Device, ...] | None:
    """The devices from their number, a list of them or a `jax.sharding.Mesh`; None stays None.

    Raises
    ------
    ValueError
        For more devices than exist, none, duplicates, or a choice without a device of this process.
    """
    if devices is None:
        return None
    if isinstance(devices, int | np.integer) and not isinstance(devices, bool):
        there = jax.devices()
        if not 1 <= devices <= len(there):
            raise ValueError(
                f'devices={devices}, but there {"is" if len(there) == 1 else "are"} {len(there)}: {there}. On a CPU '
                'XLA_FLAGS=--xla_force_host_platform_device_count=8, set before Python starts, gives more.'
            )
        return tuple(there[:devices])
    chosen = tuple(devices.devices.flat) if isinstance(devices, Mesh) else devices
    if not isinstance(chosen, list | tuple) or not chosen or not all(isinstance(d, jax.Device) for d in chosen):
        raise ValueError(
            f'devices= takes devices such as jax.devices(), at least one, their number or a Mesh, got {devices!r}.'
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f'devices= has a device twice: {list(chosen)}.')
    if not any(d.process_index == jax.process_index() for d in chosen):
        raise ValueError(
            f'Process {jax.process_index()} has none of the devices {list(chosen)}. Every process takes part: choose '
            'among jax.devices(), which are those of all processes, or jax.local_devices().'
        )
    return tuple(chosen)


class Padded:
    """An array whose first axis is padded by copies of the last row, to shard it evenly over devices.

    It has the shape and the rows of the original array. A compiled function gets a plain array without the padding, so
    that no weight or mask is needed. XLA keeps such an array on its devices, the last one with less work.
    """

    def __init__(self, value: Any, num: int):
        self.value, self.num = value, num

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num, *jnp.shape(u.get_magnitude(self.value))[1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> Any:
        return u.get_magnitude(self.value).dtype

    @property
    def sharding(self) -> Any:
        """The sharding of the padded array."""
        return u.get_magnitude(self.value).sharding

    def whole(self) -> Any:
        """The array without padding."""
        return jax.tree.map(lambda x: x[: self.num], self.value)

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: Any) -> Any:
        return self.whole()[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(on_host(self.value)[: self.num], dtype)

    def __jax_array__(self) -> jax.Array:
        return self.whole()

    def __repr__(self) -> str:
        return f'Padded(shape={self.shape}, dtype={self.dtype}, sharding={self.sharding})'


def _unflatten(num: int, children: tuple) -> Any:
    padded = Padded(children[0], num)
    leaves = jax.tree.leaves(padded.value)
    return padded.whole() if leaves and all(isinstance(x, jax.core.Tracer) for x in leaves) else padded


jax.tree_util.register_pytree_node(Padded, lambda x: ((x.value,), x.num), _unflatten)


def is_padded(x: Any) -> bool:
    """Whether it is a `Padded` array."""
    return isinstance(x, Padded)


def whole(tree: Any) -> Any:
    """``tree`` with plain arrays in place of `Padded` ones."""
    return jax.tree.map(lambda x: x.whole() if is_padded(x) else x, tree, is_leaf=is_padded)


def shard_data(data: Data, devices: Any = None, axis: str | None = None) -> Data:
    """Shard the observations over devices and replicate everything else; see `Posterior.shard`."""
    if data.targets is None or np.ndim(data.targets) == 0:
        raise ValueError(
            'Data are sharded over devices along the first axis of the targets, the observations, but there are no '
            'targets with one. Give the Posterior targets.'
        )
    mesh, name = _mesh_of(devices, axis)
    num, parts = np.shape(data.targets)[0], mesh.shape[name]
    if parts > num:
        raise ValueError(f'{num} observations cannot be spread over {parts} devices. Use at most {num}.')
    by_rows, by_copies = NamedSharding(mesh, PartitionSpec(name)), NamedSharding(mesh, PartitionSpec())

    def put(x: Any) -> Any:
        if is_padded(x):
            x = x.whole()
        shape = np.shape(u.get_magnitude(x))
        if not shape or shape[0] != num:
            return placed(x, by_copies)
        missing = -num % parts
        if not missing:
            return placed(x, by_rows)
        return Padded(placed(jax.tree.map(lambda a: _filled(a, missing), x), by_rows), num)

    def put_all(tree: Any) -> Any:
        return jax.tree.map(put, tree, is_leaf=lambda x: is_padded(x) or isinstance(x, u.Quantity))

    return Data(
        put_all(data.args),
        put_all(data.kwargs),
        put(data.targets),
        placed(data.states, by_copies),
        placed(data.scale, by_copies),
        data.unit,
    )


def _filled(x: jax.Array, missing: int) -> jax.Array:
    return jnp.concatenate([x, jnp.repeat(x[-1:], missing, axis=0)])


def _mesh_of(devices: Any, axis: str | None) -> tuple[Mesh, str]:
    if isinstance(devices, Mesh):
        names = devices.axis_names
        if axis is None and len(names) > 1:
            raise ValueError(f'The mesh has the axes {list(names)}: say by axis= which one the observations go along.')
        if axis is not None and axis not in names:
            raise ValueError(f'axis must be one of the axes {list(names)} of the mesh, got {axis!r}.')
        devices_of(devices)
        # Without the explicit axis types of jax.make_mesh, under which a model must annotate each sharding.
        return Mesh(devices.devices, names), names[0] if axis is None else axis
    name = 'observations' if axis is None else axis
    if not isinstance(name, str):
        raise TypeError(f'axis must be the name of a mesh axis, a str, got {axis!r}.')
    return Mesh(np.array(jax.devices() if devices is None else devices_of(devices)), (name,)), name


def is_sharded(data: Any) -> bool:
    """Whether ``data`` are sharded over several devices."""
    return any(isinstance(x, jax.Array) and len(x.sharding.device_set) > 1 for x in jax.tree.leaves(data))


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays of this process laid out by ``sharding``, also over devices of other processes with equal arrays."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> Any:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.jit(lambda a: a, out_shardings=sharding)(x)
        return jax.device_put(np.asarray(x), sharding)

    return jax.tree.map(put, tree)


def along_chains(tree: Any, num: int, devices: tuple[jax.Device, ...]) -> Any:
    """Shard arrays whose first axis is that of ``num`` chains, and replicate the others.

    Raises
    ------
    ValueError
        If the devices do not divide the number of chains.
    """
    if num % len(devices):
        raise ValueError(
            f'{num} chains of one program cannot be spread evenly over {len(devices)} devices. Take a multiple of '
            f'{len(devices)} chains, or other devices.'
        )
    mesh = Mesh(np.array(devices), ('chains',))
    spread, copies = NamedSharding(mesh, PartitionSpec('chains')), NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: placed(x, spread if np.shape(x)[:1] == (num,) else copies), tree)


def replicated(tree: Any) -> Any:
    """Gather arrays that are sharded over processes; all processes must call this, and each gets the whole."""

    def local(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if not x.is_fully_replicated:
            x = _gather(x.sharding.mesh)(x)  # type: ignore[attr-defined]
        return x.addressable_data(0)

    return jax.tree.map(local, tree)


@functools.cache
def _gather(mesh: Mesh) -> Callable:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def on_host(tree: Any) -> Any:
    """Arrays of any devices, also of other processes, as NumPy arrays."""
    return jax.tree.map(np.asarray, replicated(tree))


def next_length(length: int, seconds: float, aim: float, most: int) -> int:
    """The number of steps that take about ``aim`` seconds, if ``length`` took ``seconds``.

    Several processes must agree and their clocks differ, so that among them the number grows by itself.
    """
    wanted = 2 * length if jax.process_count() > 1 else length * aim / max(seconds, 1e-6)
    return int(np.clip(wanted, 1, min(50 * length, most)))
