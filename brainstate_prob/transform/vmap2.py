"""vmap2 and pmap2: mapping with States chosen by filters, on one device and over several."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State, catch_new_states, to_predicate
from brainstate_prob.core.functionalize import Pure
from brainstate_prob.transform.base import Transformed, decorator
from brainstate_prob.transform.jit import jit
from brainstate_prob.transform.vmap import Mapped

__all__ = ['pmap2', 'pmap2_new_states', 'vmap2', 'vmap2_new_states']


def vmap2(
    fn: Callable | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    state_in_axes: Any = None,
    state_out_axes: Any = None,
) -> Any:
    """As `vmap`, with the States chosen by filters instead of listed.

    Parameters
    ----------
    state_in_axes
        Which of the States that are read have a value for every lane: a filter (a type, a tag, a predicate; see
        `brainstate_prob.core.filters`) for axis 0, or ``{axis: filter}``. All others are the same for all lanes.
    state_out_axes
        The same for the States that are written or created; those of ``state_in_axes`` keep their axis, and those
        created get axis 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import HiddenState, ParamState, transform
    >>> h, w = HiddenState(jnp.zeros(3)), ParamState(2.0)
    >>> @transform.vmap2(state_in_axes=HiddenState)
    ... def step(x):
    ...     h.value = h.value + w.value * x
    >>> step(jnp.arange(3.0))
    >>> h.value.tolist()
    [0.0, 2.0, 4.0]
    """
    make = functools.partial(
        _Mapped2,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        spmd_axis_name=spmd_axis_name,
        state_in_axes=state_in_axes,
        state_out_axes=state_out_axes,
    )
    return decorator(make, fn)


class _Mapped2(Mapped):
    def __init__(self, fun: Callable, *, state_in_axes: Any, state_out_axes: Any, **options):
        super().__init__(fun, **options)
        self._filter_in = _Filters(state_in_axes)
        self._filter_out = _Filters(state_out_axes)

    def _inputs(self, args: tuple, kwargs: dict) -> dict[State, int]:
        def one_lane(state: State, value: Any) -> Any:
            axis = self._filter_in(state)
            if axis is not None:
                return jax.tree.map(lambda x: jnp.take(x, 0, axis), value)
            split = state.split_lanes(value)
            return value if split is None else split[1](0)

        pure = Pure(self.fun, lift=one_lane, discover=True)

        def probe(args, kwargs):
            axes = self._in_axes if isinstance(self._in_axes, tuple) else (self._in_axes,) * len(args)
            lane = jax.tree.map(
                lambda axis, part: part if axis is None else jax.tree.map(lambda x: jnp.take(x, 0, axis), part),
                axes,
                tuple(args),
                is_leaf=lambda axis: axis is None,
            )
            kwargs = jax.tree.map(lambda x: x[0], kwargs)
            return jax.vmap(lambda _: pure((), *lane, **kwargs), axis_name=self._name)(jnp.zeros(1))

        jax.eval_shape(probe, args, kwargs)
        return {state: axis for state in pure.outside if (axis := self._filter_in(state)) is not None}

    def _written_axis(self, state: State, inputs: dict[State, int]) -> int | None:
        axis = self._filter_out(state)
        return inputs.get(state) if axis is None else axis

    def _created_axis(self, state: State) -> int | None:
        return self._filter_out(state) or 0

    def _axes(self, inputs: dict[State, int]) -> set[int]:
        return {0, *inputs.values(), *self._filter_out.axes}


class _Filters:
    """The axis of a State, from ``filter`` or ``{axis: filter}``; None where no filter takes it."""

    def __init__(self, spec: Any):
        by_axis = spec if isinstance(spec, dict) else {} if spec is None else {0: spec}
        for axis in by_axis:
            if isinstance(axis, bool) or not isinstance(axis, int):
                raise TypeError(f'State axes are given as {{axis: filter}} with int axes; got the axis {axis!r}.')
        self.axes = list(by_axis)
        self._by_axis = {axis: to_predicate(filter) for axis, filter in by_axis.items()}

    def __call__(self, state: State) -> int | None:
        return next((axis for axis, wanted in self._by_axis.items() if wanted((), state)), None)


def vmap2_new_states(
    module: Any,
    init_kwargs: dict | None = None,
    state_tag: str | None = None,
    axis_size: int | None = None,
    state_out_axes: Any = None,
    spmd_axis_name: Any = None,
) -> dict[int, list[State]]:
    """Call ``module.init_all_states(**init_kwargs)`` for ``axis_size`` lanes at once.

    Parameters
    ----------
    state_tag
        The tag that the new States get.
    state_out_axes
        A filter, or ``{axis: filter}``, for where the new States get the axis of the lanes; default: axis 0.

    Returns
    -------
    ``{axis: States created}``. Lanes draw different random numbers.
    """
    if axis_size is None:
        raise ValueError('axis_size is needed: how many values each new State is to have.')
    mapped = vmap2(
        lambda: module.init_all_states(**(init_kwargs or {})) and None,
        axis_size=axis_size,
        spmd_axis_name=spmd_axis_name,
        state_out_axes=state_out_axes,
    )
    with catch_new_states(state_tag) as new:
        mapped()
    axis_of = _Filters(state_out_axes)
    created: dict[int, list[State]] = {}
    for state in new:
        if state._has_value():  # what the call has made and thrown away has none
            created.setdefault(axis_of(state) or 0, []).append(state)
    return created


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
    """As a compiled `vmap2`, with the lanes spread over devices.

    The mapped arguments and States are laid out over the devices along their mapped axis and the compiler splits the
    work; nothing of ``jax.pmap`` is used, so there may be any multiple of lanes as devices.

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
        _Spread,
        in_axes=in_axes,
        devices=devices,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        state_in_axes=state_in_axes,
        state_out_axes=state_out_axes,
    )
    return decorator(make, fn)


class _Spread(Transformed):
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
    """As `vmap2_new_states`; the lanes go to the devices at the first call of a `pmap2` function."""
    return vmap2_new_states(module, init_kwargs, state_tag, axis_size, state_out_axes)
