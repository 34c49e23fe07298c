"""Where an object is reached from: the path to a parameter that hangs outside the tree of a model."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from brainstate_prob.core import State
from brainstate_prob.core.structure import globals_of
from brainstate_prob.graph import Node

__all__ = ['place_of']

_MOST = 20_000  # objects that are looked at: a message is not worth more


def place_of(state: State, roots: Mapping[str, Any]) -> str:
    """In words, how ``state`` is reached from one of ``roots``, by attributes, containers, closures and globals."""
    queue: deque[tuple[str, Any]] = deque((name, root) for name, root in roots.items() if root is not None)
    seen: set[int] = set()
    while queue and len(seen) < _MOST:
        path, value = queue.popleft()
        if value is state:
            return _described(path, state)
        if id(value) in seen:
            continue
        seen.add(id(value))
        queue.extend((f'{path}{step}', below) for step, below in _below(value))
    return _described('', state)


def _described(path: str, state: State) -> str:
    kind = f'a {type(state).__name__}{f" {state.name!r}" if state.name else ""}'
    return f'{path.removesuffix(".val")!r}, {kind}' if path else kind


def _below(x: Any) -> Iterator[tuple[str, Any]]:
    """The (step, object) pairs that a Python object holds."""
    if isinstance(x, types.FunctionType):
        names = x.__code__.co_freevars
        for name, cell in zip(names, x.__closure__ or (), strict=True):
            try:
                yield f': {name}', cell.cell_contents
            except ValueError:
                continue
        for value in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()):
            yield ' by a default', value
        yield from ((f': {name}', value) for name, value in globals_of(x))
        if hasattr(x, '__wrapped__'):
            yield '', x.__wrapped__
    elif isinstance(x, types.MethodType):
        yield from (('', x.__self__), ('', x.__func__))
    elif isinstance(x, functools.partial):
        yield from (('', x.func), *(('', a) for a in x.args), *((f'.{k}', a) for k, a in x.keywords.items()))
    elif isinstance(x, dict):
        yield from ((f'[{key!r}]', value) for key, value in x.items())
    elif isinstance(x, list | tuple | set | frozenset | deque):
        yield from ((f'[{i}]' if not isinstance(x, set | frozenset) else '{...}', value) for i, value in enumerate(x))
    elif isinstance(x, Node | State) or not isinstance(x, type | types.ModuleType | str | bytes | int | float):
        yield from ((f'.{name}', value) for name, value in getattr(x, '__dict__', {}).items() if name != '_owner')
        for cls in type(x).__mro__:
            if cls.__module__.partition('.')[0] not in ('builtins', 'brainstate_prob', 'jax', 'numpy', 'numpyro'):
                yield from ((f'.{name}', value) for name, value in vars(cls).items())
        wrapped = getattr(x, '__wrapped__', None)
        if wrapped is not None:
            yield '', wrapped
