"""vmap: map a function that uses States over an axis of its arguments and of chosen States."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core import State, catch_new_states, to_predicate
from brainstate_prob.core.functionalize import Pure
from brainstate_prob.transform.base import Transformed, decorator, flatten_states

__all__ = ['vmap', 'vmap2', 'vmap2_new_states', 'vmap_new_states']

_LANE = 'brainstate_prob.lane'


def vmap(
    fn: Callable | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    in_states: Any = None,
    out_states: Any = None,
) -> Any:
    """Map a function over an axis.

    Parameters
    ----------
    fn
        The function or method; if omitted, a decorator is returned.
    in_axes, out_axes, axis_name, axis_size, spmd_axis_name
        As in ``jax.vmap``.
    in_states
        The States with a value for every lane: a State, a container of States or a Module for axis 0, or
        ``{axis: container}``. Written ones keep their axis. All others are shared by the lanes.
    out_states
        The States with a value for every lane after they are written; as ``in_states``.

    Raises
    ------
    ValueError
        If a State in neither gets a value that differs between lanes.

    Notes
    -----
    Every lane draws its own random numbers: lane ``i`` sees the key ``fold_in(sub, i)``, where ``sub`` is one key
    of the stream. States created inside get axis 0 over the lanes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import State, transform
    >>> w, total = State(2.0), State(jnp.zeros(3))
    >>> @transform.vmap(in_states=total)
    ... def add(x):
    ...     total.value = total.value + w.value * x
    >>> add(jnp.arange(3.0))
    >>> total.value.tolist()
    [0.0, 2.0, 4.0]
    """
    make = functools.partial(
        _Mapped,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        spmd_axis_name=spmd_axis_name,
        in_states=in_states,
        out_states=out_states,
    )
    return decorator(make, fn)


def vmap_new_states(
    fun: Callable | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    state_tag: str | None = None,
    state_to_exclude: Any = None,
    in_states: Any = None,
    out_states: Any = None,
) -> Any:
    """As `vmap`, for functions that create States: ``axis_size`` values of each, stacked along axis 0.

    Parameters
    ----------
    state_tag
        The tag that the new States get.
    state_to_exclude
        A filter for new States without the axis; their value must be the same for all lanes.

    Examples
    --------
    >>> from brainstate_prob import State, catch_new_states, random, transform
    >>> with catch_new_states() as new:
    ...     transform.vmap_new_states(lambda: State(random.randn(3)) and None, axis_size=4)()
    >>> new[0].value.shape
    (4, 3)
    """
    make = functools.partial(
        _Mapped,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        spmd_axis_name=spmd_axis_name,
        in_states=in_states,
        out_states=out_states,
        state_tag=state_tag,
        state_to_exclude=state_to_exclude,
    )
    return decorator(make, fun)


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
        `brainstate_prob.core.filters`) for axis 0, or ``{axis: filter}``. All others are shared by the lanes.
    state_out_axes
        The same for States that are written or created; those of ``state_in_axes`` keep their axis, and created
        ones get axis 0.

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
        _MappedByFilter,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        spmd_axis_name=spmd_axis_name,
        state_in_axes=state_in_axes,
        state_out_axes=state_out_axes,
    )
    return decorator(make, fn)


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
        raise ValueError('axis_size is needed: the number of values of each new State.')
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
        if state._has_value():  # discarded States have no value
            created.setdefault(axis_of(state) or 0, []).append(state)
    return created


class _Mapped(Transformed):
    """A mapped function; see `vmap`."""

    def __init__(
        self,
        fun: Callable,
        *,
        in_axes: Any = 0,
        out_axes: Any = 0,
        axis_name: Any = None,
        axis_size: int | None = None,
        spmd_axis_name: Any = None,
        in_states: Any = None,
        out_states: Any = None,
        state_tag: str | None = None,
        state_to_exclude: Any = None,
    ):
        super().__init__(fun)
        self._in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
        self._out_axes = out_axes
        self._name = _LANE if axis_name is None else axis_name
        self._options = {'axis_name': self._name, 'axis_size': axis_size, 'spmd_axis_name': spmd_axis_name}
        self._in_states = _axes_of_states(in_states, 'in_states')
        self._out_states = self._in_states | _axes_of_states(out_states, 'out_states')
        self._state_tag = state_tag
        self._excluded = to_predicate(state_to_exclude)

    def _inputs(self, args: tuple, kwargs: dict) -> dict[State, int]:
        """The States with a value for every lane, and the axis."""
        return self._in_states

    def _written_axis(self, state: State, inputs: dict[State, int]) -> int | None:
        """The axis of a written State; None if it is shared by the lanes."""
        return self._out_states.get(state)

    def _created_axis(self, state: State) -> int | None:
        return None if self._excluded((), state) else 0

    def _axes(self, inputs: dict[State, int]) -> set[int]:
        """All axes of input and written States."""
        return {0, *self._out_states.values()}

    def _run(self, *args, **kwargs) -> Any:
        if self._state_tag is None:
            return self.fun(*args, **kwargs)
        with catch_new_states(self._state_tag, self._excluded):
            return self.fun(*args, **kwargs)

    def __call__(self, *args, **kwargs):
        inputs = self._inputs(args, kwargs)
        axes = [*sorted(self._axes(inputs)), None]
        streams: dict[State, None] = {}
        index = None

        def lift(state: State, value: Any) -> Any:
            split = state.split_lanes(value)
            if split is None:
                return value
            streams[state] = None
            return split[1](index)

        def lane(values: Sequence[Any], args: tuple, kwargs: dict) -> tuple:
            nonlocal index
            index = jax.lax.axis_index(self._name)  # here, since an inner vmap may use the same name
            out, written, created = pure(values, *args, **kwargs)
            groups: list[tuple[dict, dict]] = [({}, {}) for _ in axes]
            for number, value in written.items():
                state = pure.states[number]
                if state not in streams:
                    axis = self._written_axis(state, inputs)
                    groups[axes.index(axis)][0][number] = _same(state, value, index) if axis is None else value
            for number, pair in created.items():
                new = pure.made[number]()
                if new is not None:
                    axis = self._created_axis(new)
                    groups[axes.index(axis)][1][number] = _same(new, pair, index) if axis is None else pair
            return out, groups

        pure = Pure(self._run, tuple(inputs), lift=lift)
        mapped = jax.vmap(
            lane, in_axes=(tuple(inputs.values()), self._in_axes, 0), out_axes=(self._out_axes, axes), **self._options
        )
        out, groups = mapped(tuple(state.value for state in inputs), args, kwargs)
        for written, created in groups:
            pure.commit(written, created)
        for state in streams:
            state.value = _kept_outside(state)
        return out


class _MappedByFilter(_Mapped):
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
    """The axis of a State, from ``filter`` or ``{axis: filter}``; None if no filter matches."""

    def __init__(self, spec: Any):
        by_axis = spec if isinstance(spec, dict) else {} if spec is None else {0: spec}
        for axis in by_axis:
            if isinstance(axis, bool) or not isinstance(axis, int):
                raise TypeError(f'State axes are given as {{axis: filter}} with int axes; got the axis {axis!r}.')
        self.axes = list(by_axis)
        self._by_axis = {axis: to_predicate(filter) for axis, filter in by_axis.items()}

    def __call__(self, state: State) -> int | None:
        return next((axis for axis, wanted in self._by_axis.items() if wanted((), state)), None)


def _kept_outside(stream: State) -> Any:
    """The value of a State after the lanes have taken theirs."""
    kept, _ = stream.split_lanes(stream.value) or (stream.value, None)
    return kept


def _axes_of_states(spec: Any, name: str) -> dict[State, int]:
    """``{State: axis}`` from ``in_states`` or ``out_states``."""
    if spec is None:
        return {}
    if isinstance(spec, dict) and spec and all(isinstance(k, int) and not isinstance(k, bool) for k in spec):
        if not any(isinstance(v, State) for v in spec.values()):
            by_axis = spec
        elif list(spec) == [0]:
            by_axis = {0: spec[0]}
        else:
            raise ValueError(
                f'{name}={{int: State}} could mean axes or positions. Put the States of an axis into a list, '
                '{1: [state]}; for positions give list(states.values()).'
            )
    else:
        by_axis = {0: spec}
    axes: dict[State, int] = {}
    for axis, container in by_axis.items():
        for _, state in flatten_states(container, name)[0]:
            if axes.setdefault(state, axis) != axis:
                raise ValueError(f'{name} gives {state._label()} both axis {axes[state]} and axis {axis}.')
    return axes


def _same(state: State, value: Any, index: jax.Array) -> Any:
    """``value``, after a check that it is the same for all lanes."""
    if any(_is_mapped(leaf, index) for leaf in jax.tree.leaves(value) if isinstance(leaf, jax.core.Tracer)):
        raise ValueError(
            f'{state._label()} got a value that differs from lane to lane. List it in out_states to keep the values '
            'of all lanes along a new axis (in in_states too, if each lane starts from its own), or write something '
            'that is the same for all, such as a mean over the axis.'
        )
    return value


def _is_mapped(x: jax.Array, index: jax.Array) -> bool:
    """Whether ``x`` is batched by the innermost vmap; ``index`` is known to be batched."""
    batched = []

    @jax.custom_batching.custom_vmap
    def probe(x, index):
        return x

    @probe.def_vmap
    def rule(axis_size, in_batched, x, index):
        batched.append(in_batched[0])
        return x, in_batched[0]

    probe(x, index)
    return batched[0]
