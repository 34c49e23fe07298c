"""Inspect a function without running it: output shapes, jaxpr, and the States that it uses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from brainstate_prob.core import State, StateTrace, to_predicate
from brainstate_prob.core.functionalize import Discovery, Pure
from brainstate_prob.transform.base import Transformed, check_callable, decorator

__all__ = ['StateFinder', 'eval_shape', 'make_jaxpr']

_USAGES = ('all', 'read', 'write', 'both')
_CONTAINERS = {'dict': dict, 'list': list, 'tuple': tuple}


def eval_shape(fun: Callable, *args, return_state_shapes: bool = False, **kwargs) -> Any:
    """Shapes and types of the result of ``fun(*args, **kwargs)``; nothing is computed and no State changes.

    Parameters
    ----------
    return_state_shapes
        Return also ``{State: shapes}`` of the States that it would write.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from brainstate_prob import State, transform
    >>> w = State(jnp.ones((2, 3)))
    >>> transform.eval_shape(lambda x: w.value @ x, jax.ShapeDtypeStruct((3,), jnp.float32)).shape
    (2,)
    """
    pure = Pure(fun)
    out, written, _ = jax.eval_shape(functools.partial(pure, ()), *args, **kwargs)
    return (out, {pure.states[n]: shapes for n, shapes in written.items()}) if return_state_shapes else out


def make_jaxpr(
    fun: Callable | None = None, *, static_argnums: int | Sequence[int] = (), return_shape: bool = False
) -> Any:
    """The jaxpr of a function, with the States that it reads as additional inputs.

    Returns
    -------
    A function that returns ``(jaxpr, states)``, with ``return_shape`` also the output shapes. The inputs of the
    jaxpr are the leaves of the values of ``states`` and of the arguments; its outputs are those of the results,
    written States and created States of ``fun``.

    Examples
    --------
    >>> from brainstate_prob import State, transform
    >>> w = State(2.0)
    >>> jaxpr, states = transform.make_jaxpr(lambda x: w.value * x)(3.0)
    >>> len(jaxpr.jaxpr.invars), states == (w,)
    (2, True)
    """
    return decorator(functools.partial(_Jaxpr, static_argnums=static_argnums, return_shape=return_shape), fun)


class _Jaxpr(Transformed):
    def __init__(self, fun: Callable, static_argnums: int | Sequence[int], return_shape: bool):
        super().__init__(fun)
        self._static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
        self._return_shape = return_shape

    def __call__(self, *args, **kwargs) -> tuple[Any, tuple[State, ...]] | tuple[Any, tuple[State, ...], Any]:
        static = {n % len(args): args[n % len(args)] for n in self._static}

        def fun(*dynamic, **kwargs):
            full = list(dynamic)
            for n in sorted(static):
                full.insert(n, static[n])
            return self.fun(*full, **kwargs)

        dynamic = [a for n, a in enumerate(args) if n not in static]
        discovery = Discovery(fun, *dynamic, **kwargs)
        pure = Pure(fun, tuple(discovery.pure.outside), discover=False)
        jaxpr, shapes = jax.make_jaxpr(pure, return_shape=True)([s.value for s in pure.inputs], *dynamic, **kwargs)
        return (jaxpr, pure.inputs, shapes[0]) if self._return_shape else (jaxpr, pure.inputs)


class StateFinder:
    """Find the States that a function reads or writes, by tracing it; no State changes.

    Parameters
    ----------
    fn
        The function. States that it creates are not listed.
    filter
        Which States: a type, a tag, a predicate ``f(path, state)``, ... (see `brainstate_prob.core.filters`; the
        path is empty). Default: all.
    usage
        ``'all'``, ``'read'``, ``'write'`` (assigned in the function), or ``'both'`` for
        ``{'read': ..., 'write': ...}``.
    return_type
        ``'dict'``, ``'list'`` or ``'tuple'``, in order of first use.
    key_fn
        ``key_fn(index, state)`` gives the keys of the dict; default: the index.

    Examples
    --------
    >>> from brainstate_prob import ParamState, State, transform
    >>> w, seen = ParamState(2.0, name='w'), State(0.0)
    >>> def f(x):
    ...     seen.value = x
    ...     return w.value * x
    >>> transform.StateFinder(f, ParamState)(1.0)
    {0: ParamState(2.0, name='w')}
    """

    def __init__(
        self,
        fn: Callable,
        filter: Any = None,
        *,
        usage: str = 'all',
        return_type: str = 'dict',
        key_fn: Callable[[int, State], Hashable] | None = None,
    ):
        check_callable(fn, 'StateFinder')
        if usage not in _USAGES:
            raise ValueError(f'usage must be one of {", ".join(_USAGES)}; got {usage!r}.')
        if return_type not in _CONTAINERS:
            raise ValueError(f'return_type must be one of {", ".join(_CONTAINERS)}; got {return_type!r}.')
        if key_fn is not None:
            check_callable(key_fn, 'StateFinder.key_fn')
        self.fn = fn
        self._wanted = to_predicate(... if filter is None else filter)
        self._usage = usage
        self._return_type = return_type
        self._key_fn = key_fn or (lambda index, state: index)

    def __call__(self, *args, **kwargs) -> Any:
        """The States that ``fn(*args, **kwargs)`` uses. Arrays may be ``jax.ShapeDtypeStruct``."""
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = {n: x for n, x in enumerate(leaves) if isinstance(x, jax.Array | jax.ShapeDtypeStruct)}
        trace = StateTrace(discover=True)

        def run(arrays):
            full_args, full_kwargs = jax.tree.unflatten(tree, [arrays.get(n, x) for n, x in enumerate(leaves)])
            with trace:
                self.fn(*full_args, **full_kwargs)

        jax.eval_shape(run, arrays)
        used = {'all': trace.uses, 'read': trace.reads, 'write': trace.writes}
        if self._usage == 'both':
            return {usage: self._container(used[usage], trace) for usage in ('read', 'write')}
        return self._container(used[self._usage], trace)

    def _container(self, states: dict[State, None], trace: StateTrace) -> Any:
        matching = [s for s in states if s not in trace.created and self._wanted((), s)]
        if self._return_type != 'dict':
            return _CONTAINERS[self._return_type](matching)
        named = {self._key_fn(index, state): state for index, state in enumerate(matching)}
        if len(named) < len(matching):
            raise ValueError('key_fn gave the same key to two States; use the index to tell them apart.')
        return named
