"""What the code of a model is and what it reads beside its arguments: the key under which programs are compiled."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np

from brainstate_prob.core import State
from brainstate_prob.core.contents import changed_between
from brainstate_prob.core.structure import Cache, code_and_contents, is_users
from brainstate_prob.graph.functions import is_function
from brainstate_prob.graph.walk import Node, children, walk
from brainstate_prob.nn.module import Module

__all__ = ['present_code', 'watched', 'watching']

# By code, the paths of what tracing it changes: counters and logs, by which it does not become another.
_noted = Cache(size=256)


def _changed_by_tracing(code: Hashable) -> set[tuple]:
    return _noted.get(code, set)


def read_code(model: Module, *functions: Callable | None) -> tuple[Hashable, dict[tuple, Hashable]]:
    """A key of the code that is run, and what it can read beside its arguments: objects, dicts, lists, arrays.

    What tracing the code changes (`watching`) does not count.

    Code is that of the user's classes in the model, and of ``functions`` such as what scores the data. A trace shows
    what the log density computes now; code and what it reads also say what predictions, draws and other settings
    (training mode) will. The model's own nodes are known by their paths.
    """
    known: dict[int, Hashable] = {}
    classes: dict[type, None] = {}
    held: dict[Hashable, Any] = {}
    for path, _, x in walk(model):
        known[id(x)] = path
        for name, value in ((None, x), *children(x)):
            cls = value if isinstance(value, type) else type(value)
            if is_users(cls.__module__):
                classes[cls] = None
            if name is not None and _is_read(value):
                held[path, name] = value
    return code_and_contents((functions, tuple(classes)), held, known, _changed_by_tracing)


def _is_read(value: Any) -> bool:
    """Whether an attribute of a model is more than its structure says: what may change in place, and functions."""
    if isinstance(value, np.ndarray | dict | list) or is_function(value):
        return True
    return is_users(type(value).__module__) and not isinstance(value, State | Node | type)


def present_code(model: Module, *functions: Callable | None) -> Hashable:
    """The key of the code that is run and of what it reads now: see `read_code`."""
    code, contents = read_code(model, *functions)
    return code, frozenset(contents.items())


@contextlib.contextmanager
def watching(model: Module, *functions: Callable | None) -> Iterator[None]:
    """Note what changes while the code is traced in here: it is no part of `present_code`."""
    code, before = read_code(model, *functions)
    yield
    _changed_by_tracing(code).update(changed_between(before, read_code(model, *functions)[1]))


def watched(function: Callable, *code: Any) -> Callable:
    """``function``, `watching` the model and functions of ``code`` while it is traced."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with watching(*code):
            return function(*args, **kwargs)

    return run
