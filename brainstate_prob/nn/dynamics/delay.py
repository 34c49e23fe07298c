"""Delays: a buffer of past values, read at a delay in time, with units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core import DelayState
from brainstate_prob.core.units import u
from brainstate_prob.graph import Node
from brainstate_prob.nn.collective import call_order
from brainstate_prob.nn.dynamics.history import Target, filled, flat, read, steps_of, targets
from brainstate_prob.nn.dynamics.interpolation import resolve
from brainstate_prob.nn.layers.shapes import label
from brainstate_prob.nn.module import Module

__all__ = ['Delay', 'DelayAccess']

_MARGIN = 1e-3  # in steps; the tolerance for rounding of a traced time at the ends of the buffer


class Delay(Module):
    """A buffer of past values.

    Every ``update(value)`` stores one value; ``at(entry)`` reads the value at a registered delay. A delay of 0 is the
    value of the last update. Times are in the unit of ``environ``'s ``dt``, which must be set from ``init_state`` on.

    Parameters
    ----------
    target_info
        The shape and type of values: an array, a Quantity, a ``jax.ShapeDtypeStruct``, or a pytree of these.
    time
        The longest delay; longer entries extend it.
    init
        The history before the first update: a number, an array or Quantity that broadcasts to
        ``(length, *shape)`` (entry k is k steps ago), or a callable of that shape. Default: zeros.
    entries
        ``{name: time}`` or ``{name: (time, *indices)}``, as of `register_entry`.
    interpolation
        Between the steps: ``'linear'``, ``'nearest'`` (or ``'round'``), ``'cubic'`` (Catmull-Rom, second-order slopes
        at the ends), ``'hermite'`` (the same with first-order slopes at the ends), ``'polynomial2'``,
        ``'polynomial3'`` (through the 3 or 4 nearest entries), or a callable
        ``f(history, indices, step, length)``, where ``history[k]`` is the value k steps ago. Values that are not
        floating (spikes) are read from the nearest step. Default: ``interp_method``.
    take_aware_unit
        Whether plain numbers in ``target_info`` take the unit of the first update.
    update_every
        The time between two stored values, a multiple of ``dt``; None stores each. Updates in between only advance
        time.
    delay_method
        ``'rotation'`` writes into a ring buffer, in place; ``'concat'`` shifts the buffer at every update.
    interp_method
        The default of ``interpolation``.

    Raises
    ------
    ValueError
        For a negative delay, one longer than the buffer, an unknown method, a value of another shape.
    brainunit.UnitMismatchError
        For values or times of another dimension.

    Notes
    -----
    The buffer has ``ceil(time / dt) + 1`` entries. A traced time (a fitted delay, say) outside the buffer cannot
    raise: floating values are NaN there.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> environ.set(dt=0.1 * u.ms)
    >>> delay = nn.Delay(jnp.zeros(2) * u.mV, entries={'synapse': 0.2 * u.ms})
    >>> delay.init_state()
    >>> for n in range(5):
    ...     delay.update(jnp.full(2, float(n)) * u.mV)
    >>> delay.at('synapse').mantissa.tolist(), delay.retrieve_ago(0.15 * u.ms, 0)
    ([2.0, 2.0], Quantity(2.5, "mV"))
    >>> _ = environ.pop('dt')
    """

    def __init__(
        self,
        target_info: Any,
        time: Any = None,
        init: Any = None,
        entries: Mapping[str, Any] | None = None,
        interpolation: str | Callable | None = None,
        take_aware_unit: bool = False,
        update_every: Any = None,
        delay_method: str | None = 'rotation',
        interp_method: str = 'linear_interp',
    ):
        super().__init__()
        self.target_info = targets(target_info)
        self.interpolation = interp_method if interpolation is None else interpolation
        resolve(self.interpolation)
        self.delay_method = 'rotation' if delay_method is None else delay_method
        if self.delay_method not in ('rotation', 'concat'):
            raise ValueError(f"delay_method must be 'rotation' or 'concat', got {delay_method!r}.")
        if not (init is None or callable(init) or hasattr(init, 'shape')):
            try:
                init = jnp.asarray(init)
            except TypeError:
                raise TypeError(f'init must be a number, an array, a Quantity or a callable, got {init!r}.') from None
        self.init = init
        self.take_aware_unit = take_aware_unit
        self.update_every = update_every
        self._units: dict[int, Any] = {}  # of the arrays that took the unit of an update, by position
        self._read_plain = False
        self._times: list[Any] = []
        self._entries: dict[str, tuple | None] = {}
        if time is not None:
            self.register_delay(time)
        for name, spec in (entries or {}).items():
            self.register_entry(name, *(spec if isinstance(spec, tuple | list) else (spec,)))

    # Registration

    def register_delay(self, *time_and_index) -> tuple | None:
        """Extend the buffer to a delay, and return ``(time, *indices)``, or None for no delay.

        Parameters
        ----------
        *time_and_index
            The time, a number or an array of them, then integers, slices or integer arrays that index the value's
            axes. Arrays broadcast, so that each entry may have its own delay.
        """
        if not time_and_index:
            raise ValueError(f'{label(self)}: give a delay, as in register_delay(5.0 * u.ms).')
        time, *indices = time_and_index
        for index in indices:
            if not isinstance(index, slice) and np.asarray(index).dtype.kind not in 'iub':
                raise TypeError(f'{label(self)}: the arguments after the delay index the value, got {index!r}.')
        if time is None:
            return None
        magnitude = u.get_mantissa(time)
        if isinstance(magnitude, jax.core.Tracer):
            raise TypeError(f'{label(self)}: a registered delay is concrete. For a traced one use retrieve_ago(time).')
        if np.any(np.asarray(magnitude) < 0) or not np.all(np.isfinite(np.asarray(magnitude))):
            raise ValueError(f'{label(self)}: a delay is finite and not negative, got {time}.')
        self._times = [*self._times, time]
        return (time, *indices)

    def register_entry(self, entry: str, *time_and_index) -> Delay:
        """Give a delay a name, for `at`. See `register_delay`."""
        if entry in self._entries:
            raise KeyError(f'{label(self)} has an entry {entry!r} already: {self._entries[entry]}.')
        self._entries = {**self._entries, entry: self.register_delay(*time_and_index)}
        return self

    def access(self, entry: str, *time_and_index) -> DelayAccess:
        """Register an entry and return a handle whose call is ``at(entry)``."""
        return DelayAccess(self, *time_and_index, entry=entry)

    @property
    def max_time(self) -> Any:
        """The longest registered delay."""
        longest = max(self._times, key=lambda time: np.max(self._steps(time)), default=0.0 * environ.get_dt())
        return longest.max() if hasattr(longest, 'max') else longest

    @property
    def max_length(self) -> int:
        """The number of entries of the buffer: ``ceil(time / dt) + 1``."""
        steps = [np.max(self._steps(time)) for time in self._times]
        return int(np.ceil(max(steps, default=0.0) / self._every())) + 1

    # Time in steps

    def _steps(self, time: Any) -> Any:
        """A time in calls of update; NumPy if concrete."""
        try:
            return steps_of(time, environ.get_dt())
        except u.UnitMismatchError as error:
            raise u.UnitMismatchError(f'{label(self)}: {error}') from None

    def _every(self) -> int:
        """Calls of update for one stored value."""
        if self.update_every is None:
            return 1
        steps = float(self._steps(self.update_every))
        if steps < 1 or steps != round(steps):
            raise ValueError(
                f'{label(self)}: update_every must be a multiple of dt={environ.get_dt()}, got {self.update_every}.'
            )
        return round(steps)

    # The buffer

    @call_order(3)
    def init_state(self, batch_size: int | None = None, **kwargs) -> None:
        """Create the buffer for all registered entries, and fill it with ``init``."""
        self.history = DelayState(self._filled(batch_size))
        self._read_plain = False
        if self.delay_method == 'rotation' or self.update_every is not None:
            self.write_ptr = DelayState(jnp.zeros((), jnp.int32))

    def reset_state(self, batch_size: int | None = None, **kwargs) -> None:
        """Refill the buffer with ``init``."""
        self._check_ready()
        self.history.value = self._filled(batch_size)
        if 'write_ptr' in vars(self):
            self.write_ptr.value = jnp.zeros((), jnp.int32)

    def _filled(self, batch_size: int | None) -> Any:
        unit = None if callable(self.init) else u.get_unit(self.init) if self.init is not None else None
        length, batch = self.max_length, () if batch_size is None else (batch_size,)

        def fill(target: Target) -> Any:
            if unit is not None and target.unit is None and not unit.is_unitless and not self.take_aware_unit:
                raise u.UnitMismatchError(f'{label(self)} holds plain numbers, but init is in {unit}.')
            return filled(target, self.init, length, batch, self.delay_method == 'rotation')

        return jax.tree.map(fill, self.target_info, is_leaf=lambda x: isinstance(x, Target))

    def _check_ready(self) -> None:
        if 'history' not in vars(self):
            raise RuntimeError(
                f'{label(self)}: the buffer is not there yet. Call init_state() or nn.init_all_states(model) first.'
            )

    def update(self, current: Any) -> None:
        """Store a value; with ``update_every``, only at multiples of it."""
        self._check_ready()
        leaves, tree = flat(self.history.value)
        values, given = flat(current)
        if tree != given:
            raise ValueError(f'{label(self)}: expected a value with the structure {tree}, got {given}.')
        values = [self._magnitude(n, *pair) for n, pair in enumerate(zip(leaves, values, strict=True))]
        every = self._every()
        count: Any = self.write_ptr.value if 'write_ptr' in vars(self) else None

        def store(leaf: Any, value: jax.Array) -> Any:
            old = u.get_mantissa(leaf)
            if self.delay_method == 'concat':
                new = jnp.concatenate([value[None], old[:-1]])
                new = new if every == 1 else jnp.where(count % every == 0, new, old)
            else:
                place = count // every
                new = old.at[place].set(value if every == 1 else jnp.where(count % every == 0, value, old[place]))
            return u.Quantity(new, unit=leaf.unit) if isinstance(leaf, u.Quantity) else new

        self.history.value = jax.tree.unflatten(tree, [store(*pair) for pair in zip(leaves, values, strict=True)])
        if count is not None:
            length = u.get_mantissa(leaves[0]).shape[0] if leaves else 1
            self.write_ptr.value = (count + 1) % (length * every)

    def _magnitude(self, n: int, leaf: Any, value: Any) -> jax.Array:
        """A new value of array ``n``, as numbers in the buffer's unit."""
        value = u.Quantity(value)
        unit = leaf.unit if isinstance(leaf, u.Quantity) else self._units.get(n, u.UNITLESS)
        if unit.is_unitless and self.take_aware_unit and not value.unit.is_unitless:
            if self._read_plain:
                raise ValueError(
                    f'{label(self)} was read before the first update, whose value is in {value.unit}: what was read '
                    f'had no unit. Give the history before the start in its unit, as in init=0. * u.{value.unit}.'
                )
            unit = self._units[n] = value.unit
        if not value.unit.has_same_dim(unit):
            raise u.UnitMismatchError(
                f'{label(self)} holds {"plain numbers" if unit.is_unitless else f"values in {unit}"}, got a value in '
                f'{value.unit}. target_info (or init) says the unit.'
            )
        number = value.to_decimal(unit)
        number, buffer = jnp.asarray(number), u.get_mantissa(leaf)
        if number.shape != buffer.shape[1:]:
            raise ValueError(f'{label(self)}: expected a value of shape {buffer.shape[1:]}, got {number.shape}.')
        return number.astype(buffer.dtype)

    # Reading

    def at(self, entry: str) -> Any:
        """The value at a registered entry."""
        if entry not in self._entries:
            raise KeyError(f'{label(self)} has no entry {entry!r}; it has {sorted(self._entries)}.')
        return self.retrieve(self._entries[entry])

    def retrieve(self, time_and_index: tuple | None, interpolation: str | Callable | None = None) -> Any:
        """The value at a result of `register_delay`."""
        if time_and_index is None:
            return self.retrieve_at_step(0)
        return self.retrieve_ago(*time_and_index, interpolation=interpolation)

    def retrieve_at_step(self, delay_step: Any, *indices) -> Any:
        """The value ``delay_step`` stored values ago: an integer, or an array of them."""
        concrete = not isinstance(delay_step, jax.core.Tracer)
        step = np.asarray(delay_step) if concrete else delay_step
        if not np.issubdtype(step.dtype, np.integer):
            raise TypeError(f'{label(self)}: a step is an integer, got {delay_step!r}; retrieve_ago takes times.')
        return self._read(step, indices, 'nearest')

    def retrieve_ago(self, time: Any, *indices, interpolation: str | Callable | None = None) -> Any:
        """The value a time ago, interpolated between steps; the time may be traced and has a gradient."""
        steps, every = self._steps(time), self._every()
        if every > 1:
            self._check_ready()
            age = (self.write_ptr.value - 1) % every  # age of the newest value, in calls
            steps = jnp.maximum(steps - age, 0) / every
        return self._read(steps, indices, self.interpolation if interpolation is None else interpolation)

    def retrieve_at_time(self, time: Any, *indices) -> Any:
        """The value at a point in time, relative to the setting ``t`` of ``environ`` at the last update."""
        return self.retrieve_ago(environ.get('t', desc='the current time') - time, *indices)

    def _read(self, steps: Any, indices: tuple, method: str | Callable) -> Any:
        self._check_ready()
        leaves, tree = flat(self.history.value)
        length = u.get_mantissa(leaves[0]).shape[0]
        valid = None
        if isinstance(steps, jax.core.Tracer):
            valid = (steps >= -_MARGIN) & (steps <= length - 1 + _MARGIN)
            steps = jnp.clip(steps, 0, length - 1)
        else:
            steps = np.asarray(steps)
            if np.any(steps < 0) or np.any(steps > length - 1):
                raise ValueError(
                    f'{label(self)}: asked for {np.max(steps):g} steps ago; the buffer has 0 to {length - 1}. Register '
                    'the delay (or give time=) before init_state is called.'
                )
        newest, out = self._newest(length), []
        for n, leaf in enumerate(leaves):
            value = read(u.get_mantissa(leaf), newest, steps, indices, method, valid)
            unit = leaf.unit if isinstance(leaf, u.Quantity) else self._units.get(n)
            self._read_plain |= unit is None
            out.append(value if unit is None else u.Quantity(value, unit=unit))
        return jax.tree.unflatten(tree, out)

    def _newest(self, length: int) -> jax.Array | None:
        """The position of the newest value in the ring buffer; None if the buffer is in order."""
        if self.delay_method == 'concat':
            return None
        return (self.write_ptr.value - 1) // self._every() % length


class DelayAccess(Node):
    """A handle on an entry of a `Delay`; a call returns ``delay.at(entry)``.

    Parameters
    ----------
    delay
        The delay.
    *time
        The time and indices registered under ``entry``.
    entry
        The name.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> with environ.context(dt=0.1):
    ...     delay = nn.Delay(jnp.zeros(2))
    ...     before = delay.access('before', 0.1)
    ...     delay.init_state()
    ...     for n in range(3):
    ...         delay.update(jnp.full(2, float(n)))
    ...     print(before())
    [1. 1.]
    """

    _references: ClassVar[frozenset[str]] = frozenset({'delay'})

    def __init__(self, delay: Delay, *time, entry: str):
        if not isinstance(delay, Delay):
            raise TypeError(f'DelayAccess needs a Delay, got {type(delay).__name__}.')
        self.delay = delay
        self.entry = entry
        delay.register_entry(entry, *time)

    def __call__(self, *args, **kwargs):
        return self.delay.at(self.entry)
