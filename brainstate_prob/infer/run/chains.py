"""How several chains run: vectorized, one after another, in threads, or spread over devices.

Every method runs the same chain. 'sequential' and threads use the same compiled program. Over CPU devices the program
is another one, whose draws are equal bit for bit for any number of devices and processes, and equal to those of one
device unless XLA folds a constant of the model differently. Vectorized chains, and chains on accelerators, which are
vectorized, have another order of arithmetic, and rounding makes long chains diverge.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brainstate_prob.infer.data.sharding import along_chains, devices_of, is_sharded, on_host, placed, replicated
from brainstate_prob.infer.density.log_density import Density

__all__ = ['CHAIN_METHODS', 'Runner', 'Together', 'choose_method', 'inherited_settings', 'keys_of_chains', 'num_cores']

CHAIN_METHODS = ('vectorized', 'sequential', 'parallel')

# XLA runs an extra pass on programs for several devices, which merges common subexpressions before it simplifies
# arithmetic; then other simplifications apply (``a / exp(b)`` stays a division) and results round differently. Without
# it the arithmetic is that of one device; XLA merges them later in any case.
_ONE_DEVICE_ARITHMETIC = {'xla_disable_hlo_passes': 'spmd-cleanup'}


def choose_method(method: str | None, devices: Any, num_chains: int, data: Any = None) -> str:
    """The requested method, or the fastest one for these devices.

    On an accelerator many chains cost as much as one, so they are vectorized. On a CPU vectorized chains wait for the
    longest tree at each step, but chains in threads do not. If ``data`` are sharded over devices, all devices compute
    the density of each chain, and threads would wait for each other's sums.

    Raises
    ------
    ValueError
        For an unknown method, or one that the devices or the data do not allow.
    """
    if devices is not None and method not in (None, 'parallel'):
        raise ValueError(
            f"devices= spreads chains over devices, which is chain_method='parallel', but got {method!r}. "
            'Drop one of them.'
        )
    devices = devices_of(devices)
    if is_sharded(data):
        if devices is not None or method == 'parallel':
            raise ValueError(
                'The observations are spread over devices (posterior.shard), which compute the density of each chain '
                "together: leave devices= out, with chain_method='vectorized', 'sequential' or None; or spread the "
                'chains, of the posterior as it was before .shard().'
            )
        return method or 'vectorized'
    on_cpu = jax.default_backend() == 'cpu'
    if method == 'parallel' and devices is None and not on_cpu and jax.local_device_count() == 1 and num_chains > 1:
        raise ValueError(
            f"chain_method='parallel' spreads chains over devices, but there is one, {jax.local_devices()[0]}. "
            "Use chain_method='vectorized' (or None)."
        )
    if method is not None or devices is not None:
        return method or 'parallel'
    if num_chains == 1:
        return 'sequential'
    if not on_cpu:
        return 'vectorized'
    return 'parallel' if num_cores() > 1 else 'sequential'


class Runner:
    """Runs ``advance(state, *args) -> (state, *out)`` for all chains, and keeps their states.

    Parameters
    ----------
    jit
        `Density.jit`, which keeps compiled functions.
    key
        What ``advance`` depends on.
    """

    def __init__(self, jit: Callable, key: Any, advance: Callable, method: str, devices: Any, num_chains: int):
        on_cpu = jax.default_backend() == 'cpu'
        self._mesh: Mesh | None = None
        devices = (
            tuple(jax.local_devices())
            if method == 'parallel' and devices is None and not on_cpu
            else devices_of(devices)
        )
        self._num = num_chains
        self._one_by_one = method == 'sequential' or (method == 'parallel' and devices is None)
        self._workers = min(num_chains, num_cores()) if method == 'parallel' and devices is None else 1
        if self._one_by_one:
            self.description = 'one after another' if method == 'sequential' else f'in {self._workers} threads'
            self._run = jit(Runner, key, lambda: advance)
        elif method == 'vectorized':
            self.description = 'vectorized'
            self._run = jit(_vectorized, key, lambda: _vectorized(advance))
        else:
            # A mesh needs equally many chains on every device, so copies of the last one pad it.
            self._each = -(-num_chains // len(devices))
            used = _enough(devices, -(-num_chains // self._each))
            self.description = f'on {len(used)} device{"s" * (len(used) > 1)}'
            self._mesh = Mesh(np.array(used), ('chains',))
            options = _ONE_DEVICE_ARITHMETIC if used[0].platform == 'cpu' else None
            self._run = jit(_spread, (key, used), lambda: _spread(advance, self._mesh), compiler_options=options)

    @property
    def arithmetic(self) -> str:
        """A description of how the chains run, as far as it affects rounding; threads equal one after another."""
        return 'one by one' if self._one_by_one else self.description

    def prepare(self, states: Any, *args: Any) -> None:
        """Set the stacked states of the chains, and compile by running zero steps, as ``args`` request."""
        self.take(states)
        jax.block_until_ready(self._run(self.states[0] if self._one_by_one else self.states, *args))

    def compile_early(self, shapes: Any, *args: Any) -> Callable:
        """Compile for stacked states of these shapes in the background; the returned function waits for it."""
        if self._mesh is not None:
            return lambda: None
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)
        lowered = self._run.lower(one if self._one_by_one else shapes, *args)
        thread = threading.Thread(target=lowered.compile)
        thread.start()
        return thread.join

    def take(self, states: Any) -> None:
        """Set the stacked states."""
        num = jax.tree.leaves(states)[0].shape[0]
        if self._mesh is not None:
            missing = self._each * self._mesh.size - num
            filled = jax.tree.map(lambda x: jnp.concatenate([x, *[x[-1:]] * missing]) if missing else x, states)
            states = placed(filled, NamedSharding(self._mesh, PartitionSpec('chains')))
        self.states = [jax.tree.map(lambda x, i=i: x[i], states) for i in range(num)] if self._one_by_one else states

    def step(self, *args: Any) -> tuple:
        """Advance every chain; the outputs as NumPy arrays with the chains as first axis."""
        if not self._one_by_one:
            self.states, *out = self._run(self.states, *args)
            return tuple(jax.tree.map(lambda x: x[: self._num], on_host(out)))
        if self._workers == 1:
            results = [_wait(self._run(state, *args)) for state in self.states]
        else:
            inherit = inherited_settings()
            with ThreadPoolExecutor(self._workers) as pool:
                results = list(pool.map(lambda state: inherit(self._run, state, *args), self.states))
        self.states = [state for state, *_ in results]
        return tuple(jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *[r[1:] for r in results]))

    def state(self) -> Any:
        """The chains' states, stacked."""
        if self._one_by_one:
            return jax.tree.map(lambda *x: jnp.stack(x), *self.states)
        if self._mesh is None:
            return self.states
        states = replicated(self.states)
        return jax.tree.map(lambda x: x if len(x) == self._num else x[: self._num], states)


class Together:
    """Chains with one joint state and one vectorized program.

    Parameters
    ----------
    advance
        As of `Runner`, for the state of all chains; its outputs have the chains as second axis.
    devices
        Devices to spread the chains over; they divide the number of chains.
    """

    def __init__(self, jit: Callable, key: Any, advance: Callable, devices: Any, num_chains: int, data: Any):
        self._devices, self._num = devices_of(devices), num_chains
        if self._devices is not None and is_sharded(data):
            raise ValueError(
                'The observations are spread over devices (posterior.shard), which compute all chains together: leave '
                'devices= out, or spread the chains, of the posterior as it was before .shard().'
            )
        self.arithmetic = f'{1 if self._devices is None else len(self._devices)} devices'
        self.description = f'vectorized on {len(self._devices)} devices' if self._devices else 'vectorized'
        self._run = jit(Together, (key, num_chains), lambda: advance)

    def spread(self, tree: Any) -> Any:
        """Shard arrays with one row for each chain over the devices; replicate others."""
        return along_chains(tree, self._num, self._devices) if self._devices else tree

    def prepare(self, states: Any, *args: Any) -> None:
        """Set the state; the program compiles at the first step."""
        self.take(states)

    def take(self, states: Any) -> None:
        """Set the state."""
        self.states = self.spread(states)  # the same sharding after a checkpoint as before

    def step(self, *args: Any) -> tuple:
        """Advance all chains; the outputs as NumPy arrays with the chains as first axis."""
        self.states, *out = self._run(self.states, *args)
        return tuple(jax.tree.map(lambda x: np.swapaxes(x, 0, 1), on_host(out)))

    def state(self) -> Any:
        """The state of all chains."""
        return self.states


def _enough(devices: tuple, number: int) -> tuple:
    """The first ``number`` devices, with at least one of each process, since all processes run the program."""
    first = devices[:number]
    left_out = {d.process_index for d in devices} - {d.process_index for d in first}
    return devices if left_out else first


def _wait(x: Any) -> Any:
    return jax.block_until_ready(x)


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


_SETTINGS: dict[str, Callable] = {
    'jax_enable_x64': jax.enable_x64,
    'jax_default_matmul_precision': jax.default_matmul_precision,
    'jax_default_device': jax.default_device,
}


def inherited_settings() -> Callable:
    """A caller for other threads with this thread's JAX settings, which are thread-local."""
    values = {name: getattr(jax.config, name) for name in _SETTINGS}

    def call(f: Callable, *args: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for name, value in values.items():
                if value is not None:
                    stack.enter_context(_SETTINGS[name](value))
            return _wait(f(*args))

    return call


def _vectorized(advance: Callable) -> Callable:
    def run(states: Any, *args: Any) -> Any:
        return jax.vmap(lambda state: advance(state, *args))(states)

    return run


def _spread(advance: Callable, mesh: Mesh) -> Callable:
    """Each device runs its own chains without communication."""
    on_cpu = mesh.devices.flat[0].platform == 'cpu'

    def run(states: Any, *args: Any) -> Any:
        def own(states: Any, *args: Any) -> Any:
            one = lambda state: advance(state, *args)
            return lax.map(one, states) if on_cpu else jax.vmap(one)(states)

        chains, whole = PartitionSpec('chains'), PartitionSpec()
        return jax.shard_map(
            own, mesh=mesh, in_specs=(chains, *(whole for _ in args)), out_specs=chains, check_vma=False
        )(states, *args)

    return run


def keys_of_chains(density: Density, key: jax.Array, num_chains: int) -> tuple[jax.Array, jax.Array]:
    """A key for the start and one for the run of each chain; chain i's do not depend on the number of chains."""
    return density.compiled(_keys, num_chains=num_chains)(key)


def _keys(density: Density, key: jax.Array, *, num_chains: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(jnp.arange(num_chains))
    return keys[:, 0], keys[:, 1]
