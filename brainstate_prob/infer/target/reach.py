"""The path by which a model refers to a parameter outside its module tree."""

from __future__ import annotations

import functools
import types
from collections import UserList, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from brainstate_prob.core import ParamState, State
from brainstate_prob.core.structure import globals_of
from brainstate_prob.graph import Node

__all__ = ['hidden_parameter_message', 'place_of']

_MOST = 20_000  # objects that are searched, to bound the cost of a message


def place_of(state: State, roots: Mapping[str, Any]) -> str:
    """The path to ``state`` from one of ``roots``, through attributes, containers, closures and globals."""
    reached = _search(roots, lambda value: value is state)
    return _described('' if reached is None else reached[0], state)


def hidden_parameter_message(model: Any) -> str:
    """A sentence about the first trainable State outside the module tree of a model; empty if there is none."""
    reached = _search({'the model': model}, lambda value: isinstance(value, ParamState))
    if reached is None:
        return ''
    return (
        f' There is {_described(*reached)}, outside the module tree: make it an attribute of the model, of an '
        'nn.Module in it, or an entry of a list or dict in it.'
    )


def _search(roots: Mapping[str, Any], is_it: Callable[[Any], bool]) -> tuple[str, Any] | None:
    """The path to the nearest object for which ``is_it`` is true, and the object."""
    queue: deque[tuple[str, Any]] = deque((name, root) for name, root in roots.items() if root is not None)
    seen: set[int] = set()
    while queue and len(seen) < _MOST:
        path, value = queue.popleft()
        if is_it(value):
            return path, value
        if id(value) in seen:
            continue
        seen.add(id(value))
        queue.extend((f'{path}{step}', below) for step, below in _below(value))
    return None


def _described(path: str, state: State) -> str:
    kind = f'a {type(state).__name__}{f" {state.name!r}" if state.name else ""}'
    return f'{path.removesuffix(".val")!r}, {kind}' if path else kind


def _below(x: Any) -> Iterator[tuple[str, Any]]:
    """The (step, object) pairs that a Python object refers to."""
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
    elif isinstance(x, Mapping) and not isinstance(x, Node):
        yield from ((f'[{key!r}]', value) for key, value in x.items())
    elif isinstance(x, list | tuple | set | frozenset | deque | UserList):
        yield from ((f'[{i}]' if not isinstance(x, set | frozenset) else '{...}', value) for i, value in enumerate(x))
    elif isinstance(x, Node | State) or not isinstance(x, type | types.ModuleType | str | bytes | int | float):
        yield from ((f'.{name}', value) for name, value in getattr(x, '__dict__', {}).items() if name != '_owner')
        for cls in type(x).__mro__:
            if cls.__module__.partition('.')[0] not in ('builtins', 'brainstate_prob', 'jax', 'numpy', 'numpyro'):
                yield from ((f'.{name}', value) for name, value in vars(cls).items())
                slots = vars(cls).get('__slots__', ())
                names = (slots,) if isinstance(slots, str) else slots
                yield from ((f'.{name}', getattr(x, name)) for name in names if hasattr(x, name))
        wrapped = getattr(x, '__wrapped__', None)
        if wrapped is not None:
            yield '', wrapped
