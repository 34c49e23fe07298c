"""StateFinder: which States a function uses."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax

from brainstate_prob.core import State, StateTrace, to_predicate
from brainstate_prob.transform.base import check_callable

__all__ = ['StateFinder']

_USAGES = ('all', 'read', 'write', 'both')
_CONTAINERS = {'dict': dict, 'list': list, 'tuple': tuple}


class StateFinder:
    """Find the States that a function reads or writes, by tracing it; no State changes.

    Parameters
    ----------
    fn
        The function. States that it creates itself are not listed.
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
        found = [s for s in states if s not in trace.created and self._wanted((), s)]
        if self._return_type != 'dict':
            return _CONTAINERS[self._return_type](found)
        named = {self._key_fn(index, state): state for index, state in enumerate(found)}
        if len(named) < len(found):
            raise ValueError('key_fn gave the same key to two States; use the index to tell them apart.')
        return named
