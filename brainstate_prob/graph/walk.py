"""The object graph: walk its nodes and States in the order of their names, each once."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

from brainstate_prob.core import State, to_predicate
from brainstate_prob.graph.builtin_containers import is_container, items_of, within
from brainstate_prob.graph.containers import FlattedDict

__all__ = ['Node', 'children', 'dotted', 'find_states', 'nodes', 'path_of', 'states', 'walk']

Path = tuple[Any, ...]


class Node:
    """Base class of the nodes of an object graph, whose attributes are its edges.

    Attributes may be Nodes, States, containers of these (see `brainstate_prob.graph.builtin_containers`), or anything
    else, which is then static.
    ``_not_in_graph`` names the bookkeeping attributes, which are never walked, copied or pickled. ``_references`` names
    those that refer to a Node elsewhere in the graph, which keeps its path there if it has one.
    """

    _not_in_graph: ClassVar[frozenset[str]] = frozenset({'_owner'})
    _references: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name not in self._not_in_graph and name not in self._references:
            _own(self, (name,), value)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in self._not_in_graph}


def _own(parent: Node, path: Path, value: Any, above: tuple[int, ...] = ()) -> None:
    """Record the owner and attribute of the nodes below ``value``, for messages."""
    if isinstance(value, Node):
        object.__setattr__(value, '_owner', (weakref.ref(parent), path))
    elif is_container(value):
        above = within(value, path, above)
        for key, item in items_of(value):
            _own(parent, (*path, key), item, above)


def path_of(node: Node) -> Path:
    """The path from the outermost owner to ``node``, as far as it is known.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> model = nn.Module()
    >>> model.rate = nn.Param(1.0)
    >>> path_of(model.rate)
    ('rate',)
    """
    path: Path = ()
    visited = set()
    while id(node) not in visited:
        visited.add(id(node))
        owner, below = vars(node).get('_owner', (None, ()))
        parent = owner() if owner is not None else None
        if parent is None:
            break
        path, node = below + path, parent
    return path


def dotted(path: tuple, prefix: str = '') -> str:
    """A path as text: ``('layers', 0, 'w')`` as ``layers.0.w``."""
    return '.'.join(str(part) for part in ((prefix, *path) if prefix else path))


def children(value: Any) -> Iterator[tuple[Any, Any]]:
    """The (key, value) pairs directly below a node or container, sorted; nothing below anything else."""
    if isinstance(value, Node):
        attributes = vars(value)
        yield from ((name, attributes[name]) for name in sorted(attributes) if name not in value._not_in_graph)
    elif is_container(value):
        yield from items_of(value)


def _shortest_paths(root: Any) -> dict[int, Path]:
    """The path of every node and State by id: of a shared object the shortest, of equally long ones the first.

    A path through a reference counts only if there is no other.
    """
    paths: dict[int, Path] = {}
    queue: deque[tuple[Path, tuple[int, ...], Any]] = deque([((), (), root)])
    referred: deque[tuple[Path, tuple[int, ...], Any]] = deque()
    while queue or referred:
        path, above, value = (queue or referred).popleft()
        if isinstance(value, Node | State):
            if id(value) in paths:
                continue
            paths[id(value)] = path
            above = ()
        elif is_container(value):
            above = within(value, path, above)
        references = value._references if isinstance(value, Node) else ()
        for key, child in children(value):
            (referred if key in references else queue).append(((*path, key), above, child))
    return paths


def walk(root: Any, max_level: float = float('inf')) -> Iterator[tuple[Path, int, Any]]:
    """Yield (path, level, node or State) depth first in sorted order, each object once, with its shortest path.

    The root has level 0, what its attributes hold level 1, and so on; containers add to the path but not to the level.
    """
    paths = _shortest_paths(root)

    def visit(path: Path, level: int, value: Any) -> Iterator[tuple[Path, int, Any]]:
        if level > max_level:
            return
        if isinstance(value, Node | State):
            if paths[id(value)] != path:
                return
            yield path, level, value
        below = level + 1 if isinstance(value, Node) else level
        for key, child in children(value):
            yield from visit((*path, key), below, child)

    return visit((), 0 if isinstance(root, Node) else 1, root)


def find_states(root: Any) -> dict[Path, State]:
    """All States below ``root`` by path."""
    return {path: x for path, _, x in walk(root) if isinstance(x, State)}


def _select(kind: type, root: Any, filters: tuple, allowed_hierarchy: tuple[float, float]) -> Any:
    low, high = allowed_hierarchy
    selected = {path: x for path, level, x in walk(root, high) if isinstance(x, kind) and level >= low}
    predicates = [to_predicate(f) for f in (filters or (...,))]
    groups = [FlattedDict() for _ in predicates]
    for path, x in selected.items():
        for predicate, group in zip(predicates, groups, strict=True):
            if predicate(path, x):
                group[path] = x
                break
    return groups[0] if len(groups) == 1 else tuple(groups)


def states(node: Any, *filters: Any, allowed_hierarchy: tuple[float, float] = (0, float('inf'))) -> Any:
    """The States below ``node`` by path.

    Parameters
    ----------
    *filters
        See `brainstate_prob.core.filters`. With several, the result is a tuple of dicts, and a State belongs to
        the first that matches it.
    allowed_hierarchy
        The lowest and highest level: 1 is what the node's own attributes hold.

    Examples
    --------
    >>> from brainstate_prob import ParamState, nn
    >>> model = nn.Module()
    >>> model.w = ParamState(1.0)
    >>> states(model, ParamState)
    FlattedDict({('w',): ParamState(1.0)})
    """
    return _select(State, node, filters, allowed_hierarchy)


def nodes(node: Any, *filters: Any, allowed_hierarchy: tuple[float, float] = (0, float('inf'))) -> Any:
    """The nodes below and including ``node`` by path; the root's path is ``()``. Otherwise as `states`."""
    return _select(Node, node, filters, allowed_hierarchy)
