"""Collective calls: call one method of every module of a model, in a defined order, plain or vectorized."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from brainstate_prob.core import State, catch_new_states, to_predicate
from brainstate_prob.core.functionalize import Discovery
from brainstate_prob.graph import TreefyState, nodes
from brainstate_prob.graph.walk import dotted, find_states
from brainstate_prob.nn.kinds import ModuleNode
from brainstate_prob.transform import vmap2, vmap_new_states

__all__ = [
    'assign_state_values',
    'call_all_fns',
    'call_order',
    'init_all_states',
    'reset_all_states',
    'vmap_call_all_fns',
    'vmap_init_all_states',
    'vmap_reset_all_states',
]

_T = TypeVar('_T', bound=ModuleNode)
_LEVELS = 10
_IF_MISSING = ('raise', 'pass', 'warn')


def call_order(level: int = 0, check_order_boundary: bool = True) -> Callable[[Callable], Callable]:
    """Rank a method for collective calls: lower levels run first, methods without a rank before all of them.

    Parameters
    ----------
    level
        The rank, 0 to 9.
    check_order_boundary
        Whether levels outside 0 to 9 raise.

    Raises
    ------
    TypeError, ValueError
        If the level is not an integer, or out of range.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> class Late(nn.Module):
    ...     @nn.call_order(1)
    ...     def init_state(self):
    ...         print('late')
    >>> class Early(nn.Module):
    ...     def init_state(self):
    ...         print('early')
    >>> model = nn.Module()
    >>> model.a, model.b = Late(), Early()
    >>> _ = nn.init_all_states(model)
    early
    late
    """
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f'call_order takes an integer level, as in @call_order(1); got {level!r}.')
    if check_order_boundary and not 0 <= level < _LEVELS:
        raise ValueError(
            f'The level of call_order must be from 0 to {_LEVELS - 1}, got {level}. '
            'Use check_order_boundary=False for levels outside.'
        )

    def rank(method: Callable) -> Callable:
        method.call_order = level  # type: ignore[attr-defined]
        return method

    return rank


def call_all_fns(
    target: _T,
    fn_name: str,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    node_to_exclude: Any = None,
    fn_if_not_exist: str = 'raise',
) -> _T:
    """Call the method ``fn_name`` of ``target`` and of every Module below it, each once.

    Parameters
    ----------
    args, kwargs
        What each is called with; ``args`` other than a tuple or list is one argument.
    node_to_exclude
        A filter of nodes to skip: see `brainstate_prob.core.filters`.
    fn_if_not_exist
        What a Module without the method does: ``'raise'``, ``'pass'`` or ``'warn'``.

    Returns
    -------
    ``target``. Methods run by their level (`call_order`), and within a level from the outside in.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> class Counter(nn.Module):
    ...     n = 0
    ...
    ...     def add(self, by):
    ...         self.n += by
    >>> model = nn.Sequential(Counter(), Counter())
    >>> _ = nn.call_all_fns(model, 'add', 2, fn_if_not_exist='pass')
    >>> [layer.n for layer in model]
    [2, 2]
    """
    args, kwargs = _arguments(target, fn_name, args, kwargs)
    if fn_if_not_exist not in _IF_MISSING:
        raise ValueError(f'fn_if_not_exist must be one of {_IF_MISSING}, got {fn_if_not_exist!r}.')
    excluded = to_predicate(node_to_exclude)
    methods: list[Callable] = []
    mapped: list[tuple] = []
    for path, node in nodes(target, ModuleNode).items():
        if excluded(path, node) or any(path[: len(above)] == above for above in mapped):
            continue
        label = f'{dotted(path) or "the target"} ({type(node).__name__})'
        if hasattr(node, 'call_below'):  # a mapper: it calls its submodules for all lanes
            mapped.append(path)
            methods.append(functools.partial(node.call_below, fn_name, fn_if_not_exist=fn_if_not_exist))
            continue
        method = getattr(node, fn_name, None)
        if method is None:
            if fn_if_not_exist == 'raise':
                raise AttributeError(
                    f"{label} has no method {fn_name!r}. Use fn_if_not_exist='pass' to call it where it exists."
                )
            if fn_if_not_exist == 'warn':
                warnings.warn(f'{label} has no method {fn_name!r}.', UserWarning, stacklevel=2)
            continue
        if not callable(method):
            raise TypeError(f'{fn_name!r} of {label} is not a method but a {type(method).__name__}.')
        methods.append(method)
    for method in sorted(methods, key=lambda m: getattr(m, 'call_order', float('-inf'))):
        method(*args, **kwargs)
    return target


def vmap_call_all_fns(
    target: _T,
    fn_name: str,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    axis_size: int | None = None,
    node_to_exclude: Any = None,
    state_tag: str | None = None,
    fn_if_not_exist: str = 'raise',
) -> _T:
    """As `call_all_fns`, for ``axis_size`` lanes at once.

    States that are created or written have the lanes along axis 0, and every lane draws its own random numbers.
    States that are only read are shared; States that are read and written must have the axis of lanes already.

    Parameters
    ----------
    axis_size
        The number of lanes.
    state_tag
        The tag that new States get: ``target.states(state_tag)``.

    Examples
    --------
    >>> from brainstate_prob import HiddenState, nn, random
    >>> class Cell(nn.Module):
    ...     def start(self):
    ...         self.h = HiddenState(random.randn(3))
    >>> nn.vmap_call_all_fns(Cell(), 'start', axis_size=4).h.value.shape
    (4, 3)
    """
    args, kwargs = _arguments(target, fn_name, args, kwargs)
    size = _lanes(axis_size)

    def run() -> None:
        call_all_fns(target, fn_name, args, kwargs, node_to_exclude, fn_if_not_exist)

    written = {state for state in Discovery(run).states if type(state).split_lanes is State.split_lanes}

    def has_lanes(path: tuple, state: State) -> bool:
        return state in written

    with catch_new_states(state_tag):
        vmap2(run, axis_size=size, state_in_axes=has_lanes, state_out_axes=has_lanes)()
    return target


def init_all_states(target: _T, *init_args, node_to_exclude: Any = None, **init_kwargs) -> _T:
    """``init_state(*init_args, **init_kwargs)`` of every Module below ``target``; returns ``target``.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> rnn = nn.init_all_states(nn.GRUCell(3, 4), batch_size=2)
    >>> rnn.h.value.shape
    (2, 4)
    """
    return call_all_fns(target, 'init_state', init_args, init_kwargs, node_to_exclude)


def vmap_init_all_states(
    target: _T,
    *init_args,
    axis_size: int | None = None,
    node_to_exclude: Any = None,
    state_to_exclude: Any = None,
    state_tag: str | None = None,
    in_states: Any = None,
    out_states: Any = None,
    **init_kwargs,
) -> _T:
    """As `init_all_states`, for ``axis_size`` lanes at once: each new State gets the lanes along its axis 0.

    Parameters
    ----------
    state_to_exclude
        A filter for new States without the axis; their value must be the same for all lanes.
    state_tag
        The tag that new States get.
    in_states, out_states
        Existing States with a value for every lane that ``init_state`` reads or writes: see `transform.vmap`.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> rnn = nn.vmap_init_all_states(nn.GRUCell(3, 4), axis_size=5, state_tag='lanes')
    >>> list(rnn.states('lanes')), rnn.h.value.shape
    ([('h',)], (5, 4))
    """

    def run() -> None:
        init_all_states(target, *init_args, node_to_exclude=node_to_exclude, **init_kwargs)

    mapped = vmap_new_states(
        run,
        axis_size=_lanes(axis_size),
        state_tag=state_tag,
        state_to_exclude=state_to_exclude,
        in_states=in_states,
        out_states=out_states,
    )
    mapped()
    return target


def reset_all_states(target: _T, *reset_args, node_to_exclude: Any = None, **reset_kwargs) -> _T:
    """``reset_state(*reset_args, **reset_kwargs)`` of every Module below ``target``; returns ``target``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> rnn = nn.init_all_states(nn.GRUCell(3, 4))
    >>> _ = rnn(jnp.ones(3))
    >>> float(abs(nn.reset_all_states(rnn).h.value).sum())
    0.0
    """
    return call_all_fns(target, 'reset_state', reset_args, reset_kwargs, node_to_exclude)


def vmap_reset_all_states(
    target: _T,
    *reset_args,
    axis_size: int | None = None,
    node_to_exclude: Any = None,
    state_tag: str | None = None,
    **reset_kwargs,
) -> _T:
    """As `reset_all_states`, for ``axis_size`` lanes at once; see `vmap_call_all_fns`.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> rnn = nn.vmap_init_all_states(nn.GRUCell(3, 4), axis_size=5)
    >>> nn.vmap_reset_all_states(rnn, axis_size=5).h.value.shape
    (5, 4)
    """
    return vmap_call_all_fns(target, 'reset_state', reset_args, reset_kwargs, axis_size, node_to_exclude, state_tag)


def assign_state_values(target: ModuleNode, *state_by_abs_path: Mapping[Any, Any]) -> tuple[list, list]:
    """Write values into the States of ``target`` by path.

    Parameters
    ----------
    *state_by_abs_path
        Mappings from paths (tuples as in ``target.states()``, or dotted strings) to values, States or
        `TreefyState`; the last value of a repeated path counts.

    Returns
    -------
    (unexpected, missing): given paths that ``target`` does not have, and paths of ``target`` not given.

    Examples
    --------
    >>> from brainstate_prob import ParamState, nn
    >>> model = nn.Module()
    >>> model.w, model.b = ParamState(1.0), ParamState(2.0)
    >>> nn.assign_state_values(model, {'w': 5.0, ('x', 'y'): 0.0})
    ([('x', 'y')], [('b',)])
    >>> model.w.value
    5.0
    """
    states = {dotted(path): (path, state) for path, state in find_states(target).items()}
    given = {key if isinstance(key, str) else dotted(key): (key, x) for m in state_by_abs_path for key, x in m.items()}
    for name, (_, value) in given.items():
        if name in states:
            states[name][1].value = value.value if isinstance(value, TreefyState) else value
    unexpected = [key for name, (key, _) in given.items() if name not in states]
    return unexpected, [path for name, (path, _) in states.items() if name not in given]


def _arguments(target: Any, fn_name: Any, args: Any, kwargs: Any) -> tuple[tuple, Mapping[str, Any]]:
    if not isinstance(target, ModuleNode):
        raise TypeError(f'The target of a collective call must be a Module, got {type(target).__name__}.')
    if not isinstance(fn_name, str):
        raise TypeError(f'fn_name must be the name of a method, got {fn_name!r}.')
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f'kwargs must be a mapping, got {type(kwargs).__name__}.')
    return tuple(args) if isinstance(args, tuple | list) else (args,), kwargs or {}


def _lanes(axis_size: Any) -> int:
    if isinstance(axis_size, bool) or not hasattr(axis_size, '__index__') or int(axis_size) < 1:
        raise ValueError(f'axis_size must be a positive integer, the number of lanes; got {axis_size!r}.')
    return int(axis_size)
