"""vjp and jvp: vector-Jacobian and Jacobian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from brainstate_prob.core import ParamState, State
from brainstate_prob.core.functionalize import Pure
from brainstate_prob.transform.base import check_callable, flatten_states, split_aux

__all__ = ['jvp', 'vjp']


def vjp(fun: Callable, *primals, grad_states: Any = None, has_aux: bool = False) -> tuple:
    """The value of ``fun(*primals)``, and its pullback to cotangents of States and arguments.

    Parameters
    ----------
    grad_states
        A State, a list, tuple or dict of States, or a Module (its ParamStates).
    has_aux
        ``fun`` returns ``(value, aux)``.

    Returns
    -------
    ``(value, pullback)`` or ``(value, pullback, aux)``. The pullback returns a tuple over the arguments, or
    ``(of the States, tuple over the arguments)`` with ``grad_states``. Writes of ``fun`` are kept.

    Examples
    --------
    >>> from brainstate_prob import ParamState, transform
    >>> w = ParamState(3.0)
    >>> value, pullback = transform.vjp(lambda x: w.value * x, 2.0, grad_states={'w': w})
    >>> of_states, of_args = pullback(1.0)
    >>> float(value), float(of_states['w']), float(of_args[0])
    (6.0, 2.0, 3.0)
    """
    call, theta, finish = _prepare(fun, primals, grad_states, has_aux)
    value, pullback, rest = jax.vjp(call, theta, has_aux=True)

    def pull(cotangents: Any) -> Any:
        of_states, of_args = pullback(cotangents)[0]
        return of_args if grad_states is None else (_rebuild(grad_states, of_states), of_args)

    return (value, pull, *finish(rest))


def jvp(
    fun: Callable,
    primals: Sequence,
    tangents: Sequence,
    *,
    grad_states: Any = None,
    state_tangents: Any = None,
    has_aux: bool = False,
) -> tuple:
    """The value of ``fun(*primals)`` and its derivative along tangents of arguments and States.

    Parameters
    ----------
    primals, tangents
        Sequences of the same structure.
    grad_states, state_tangents
        States, and their tangents in the same structure.
    has_aux
        ``fun`` returns ``(value, aux)``.

    Returns
    -------
    ``(value, derivative)`` or ``(value, derivative, aux)``. Writes of ``fun`` are kept.

    Examples
    --------
    >>> from brainstate_prob import ParamState, transform
    >>> w = ParamState(3.0)
    >>> value, slope = transform.jvp(lambda x: w.value * x, (2.0,), (1.0,), grad_states=w, state_tangents=1.0)
    >>> float(value), float(slope)
    (6.0, 5.0)
    """
    primals, tangents = tuple(primals), tuple(tangents)
    if len(primals) != len(tangents):
        raise ValueError(f'jvp needs one tangent per argument; got {len(tangents)} for {len(primals)}.')
    if (grad_states is None) != (state_tangents is None):
        raise ValueError('jvp needs grad_states and state_tangents together.')
    call, theta, finish = _prepare(fun, primals, grad_states, has_aux)
    along = {} if grad_states is None else dict(_pairs(grad_states, state_tangents))
    value, slope, rest = jax.jvp(call, (theta,), (([*along.values()], tangents),), has_aux=True)
    return (value, slope, *finish(rest))


def _prepare(fun: Callable, primals: tuple, grad_states: Any, has_aux: bool) -> tuple[Callable, tuple, Callable]:
    """A pure function of ``(values of the States, arguments)``, these, and a handler of its second result."""
    check_callable(fun, 'The transform')
    entries, _ = flatten_states([] if grad_states is None else grad_states)
    pure = Pure(fun, list(dict.fromkeys(state for _, state in entries)))

    def call(theta):
        out, written, created = pure(theta[0], *theta[1])
        value, aux = split_aux(out) if has_aux else (out, None)
        return value, (aux, written, created)

    def finish(rest):
        aux, written, created = rest
        pure.commit(written, created)
        return (aux,) if has_aux else ()

    return call, ([state.value for state in pure.inputs], tuple(primals)), finish


def _pairs(states: Any, tangents: Any) -> Iterator[tuple[State, Any]]:
    """The States of a container with the matching entries of another container."""
    if isinstance(states, State):
        yield states, tangents
        return
    if not isinstance(states, Mapping | list | tuple):
        states = states.states(ParamState)
    if isinstance(states, Mapping):
        keys: Any = states.keys()
        same = isinstance(tangents, Mapping) and tangents.keys() == keys
    else:
        keys = range(len(states))
        same = isinstance(tangents, list | tuple) and len(tangents) == len(states)
    if not same:
        raise ValueError(f'state_tangents must have the structure of grad_states, {list(keys)}; got {tangents!r}.')
    for key in keys:
        yield from _pairs(states[key], tangents[key])


def _rebuild(grad_states: Any, values: list) -> Any:
    entries, rebuild = flatten_states(grad_states)
    by_state = dict(zip(dict.fromkeys(state for _, state in entries), values, strict=True))
    return rebuild([by_state[state] for _, state in entries])
