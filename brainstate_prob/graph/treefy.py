"""Convert an object graph to structure plus values and back: flatten, split, merge, clone, update."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

from brainstate_prob.core import State, to_predicate
from brainstate_prob.core.structure import structural_key
from brainstate_prob.graph.builtin_containers import form_of, is_container, rebuilt
from brainstate_prob.graph.containers import FlattedDict, NestedDict, TreefyState
from brainstate_prob.graph.functions import bound_again, is_function, outline_of
from brainstate_prob.graph.walk import Node, children, find_states, walk

__all__ = [
    'GraphDef',
    'clone',
    'flatten',
    'graphdef',
    'pop_states',
    'treefy_merge',
    'treefy_split',
    'treefy_states',
    'unflatten',
    'update_states',
]


@dataclasses.dataclass(frozen=True)
class _Reference:
    """The second and later places of a shared object."""

    index: int


@dataclasses.dataclass(frozen=True)
class _StateAt:
    index: int
    path: tuple
    kind: type


class _Static:
    """Anything but a node, State or container; compared by value, arrays element by element."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Static) and same_value(self.value, other.value)

    def __hash__(self):
        return hash(type(self.value))

    def __repr__(self):
        return repr(self.value)


def same_value(a: Any, b: Any) -> bool:
    """Whether two static values are the same: identical, equal, functions built alike, or trees of equal arrays."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    try:
        if isinstance(a, np.ndarray | jax.Array):
            return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=True))
        if callable(a):
            return structural_key(a, objects=False) == structural_key(b, objects=False)
        leaves_a, tree_a = jax.tree.flatten(a)
        leaves_b, tree_b = jax.tree.flatten(b)
        if jax.tree_util.treedef_is_leaf(tree_a):
            return bool(a == b)
        same_tree = bool(tree_a == tree_b)  # type: ignore[operator]  # jaxlib's stubs leave it out
        return same_tree and all(map(same_value, leaves_a, leaves_b))
    except Exception:  # tracers, or objects whose == is not a truth value
        return False


@dataclasses.dataclass(frozen=True)
class _Tree:
    """A node or container: its class, its index if it may be shared, its children by key, and its form."""

    kind: type
    index: int
    below: tuple[tuple[Any, Any], ...]
    form: tuple[Any, ...] = ()


class _Bound:
    """A function that refers to nodes of the graph: a bound method, a partial or a closure; compared by structure.

    ``outline`` has References in place of nodes, so that a copy of the graph has a function of its own nodes.
    """

    def __init__(self, outline: Any, key: Hashable):
        self.outline = outline
        self._key = key

    def __eq__(self, other):
        return isinstance(other, _Bound) and self._key == other._key

    def __hash__(self):
        return hash(self._key)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GraphDef:
    """The structure of an object graph without the values of its States; equal and hashable by value.

    Examples
    --------
    >>> from brainstate_prob import graph, nn
    >>> a, b = nn.Param(1.0), nn.Param(2.0)
    >>> graph.graphdef(a) == graph.graphdef(b)
    True
    """

    root: Any

    def __repr__(self):
        return f'GraphDef({getattr(self.root, "kind", type(self.root)).__name__})'


def flatten(node: Any) -> tuple[GraphDef, FlattedDict]:
    """Split into the structure and the States' values ``{path: TreefyState}``. Shared objects stay shared."""
    states = find_states(node)
    paths = {id(state): path for path, state in states.items()}
    numbers = {id(x): number for number, (_, _, x) in enumerate(walk(node))}
    seen: set[int] = set()

    def visit(value: Any) -> Any:
        if isinstance(value, Node | State):
            index = numbers[id(value)]
            if index in seen:
                return _Reference(index)
            seen.add(index)
            if isinstance(value, State):
                return _StateAt(index, paths[id(value)], type(value))
            return _Tree(type(value), index, tuple((k, visit(v)) for k, v in children(value)))
        if is_container(value):
            form = tuple(_Static(part) for part in form_of(value))
            return _Tree(type(value), -1, tuple((k, visit(v)) for k, v in children(value)), form)
        if is_function(value) and (outline := outline_of(value, numbers)) is not None:
            return _Bound(outline, structural_key(value, numbers, objects=False))
        return _Static(value)

    return GraphDef(visit(node)), FlattedDict({path: TreefyState.of(state) for path, state in states.items()})


def unflatten(definition: GraphDef, values: Mapping) -> Any:
    """The inverse of `flatten`: new nodes and States. Caches and owners start empty."""
    made: dict[int, Any] = {}

    def make(part: Any) -> None:
        """Create every node and State, empty, since functions and attributes may refer to any of them."""
        if isinstance(part, _StateAt):
            if part.path not in values:
                raise ValueError(
                    f'No value for the State at {part.path}. Given: {list(values)}. Pass all parts that treefy_split '
                    'gave.'
                )
            value = values[part.path]
            made[part.index] = value.to_state() if isinstance(value, TreefyState) else part.kind(value)
        elif isinstance(part, _Tree):
            if issubclass(part.kind, Node):
                made[part.index] = object.__new__(part.kind)
            for _, below in part.below:
                make(below)

    def build(part: Any) -> Any:
        if isinstance(part, _Static):  # NumPy arrays are mutable: copy them
            return part.value.copy() if isinstance(part.value, np.ndarray) else part.value
        if isinstance(part, _Bound):
            return bound_again(part.outline, made)
        if isinstance(part, _Reference | _StateAt):
            return made[part.index]
        if issubclass(part.kind, Node):
            node = made[part.index]
            for key, below in part.below:
                setattr(node, key, build(below))
            return node
        form = tuple(static.value for static in part.form)
        return rebuilt(part.kind, form, [(key, build(below)) for key, below in part.below])

    make(definition.root)
    return build(definition.root)


def graphdef(node: Any) -> GraphDef:
    """The structure without values."""
    return flatten(node)[0]


def _split(values: FlattedDict, filters: tuple, strict: bool) -> Any:
    predicates = [to_predicate(f) for f in (filters or (...,))]
    groups = [FlattedDict() for _ in predicates]
    for path, value in values.items():
        for predicate, group in zip(predicates, groups, strict=True):
            if predicate(path, value[0]):
                group[path] = value[1]
                break
        else:
            if strict:
                raise ValueError(f'No filter matches the State at {path}. Add ... as the last filter for the rest.')
    return tuple(group.to_nest() for group in groups)


def _with_states(node: Any) -> FlattedDict:
    return FlattedDict({path: (s, TreefyState.of(s)) for path, s in find_states(node).items()})


def treefy_states(node: Any, *filters: Any) -> Any:
    """The States below ``node`` as a nested mapping of `TreefyState`; a tuple of them for several filters.

    Examples
    --------
    >>> from brainstate_prob import ParamState, graph, nn
    >>> graph.treefy_states(nn.Param(2.0), ParamState).to_flat()[('val',)].value
    Array(2., dtype=float32)
    """
    groups = _split(_with_states(node), filters, strict=False)
    return groups[0] if len(groups) == 1 else groups


def treefy_split(node: Any, *filters: Any) -> tuple:
    """``(graphdef, states)``, or ``(graphdef, states_1, states_2, ...)`` with filters, which must cover every State."""
    return (graphdef(node), *_split(_with_states(node), filters, strict=True))


def _flat(states: Any) -> dict:
    if isinstance(states, NestedDict):
        return states.to_flat()
    if isinstance(states, FlattedDict):
        return states
    if isinstance(states, Mapping):
        return dict(states) if all(isinstance(k, tuple) for k in states) else NestedDict(states).to_flat()
    raise TypeError(f'Expected a mapping of states by path (nested or flat), got {type(states).__name__}.')


def treefy_merge(definition: GraphDef, *states: Any) -> Any:
    """Rebuild the object that `treefy_split` split, with the given values."""
    values: dict = {}
    for part in states:
        values.update(_flat(part))
    return unflatten(definition, values)


def clone(node: Any) -> Any:
    """A copy with its own States and NumPy arrays; sharing inside the graph is kept, other values are not copied.

    Bound methods, partials and closures that refer to nodes of the graph refer to those of the copy.
    """
    return unflatten(*flatten(node))


def update_states(node: Any, *states: Any) -> None:
    """Write values (States, `TreefyState` or plain) into the States of ``node`` by path.

    Raises
    ------
    KeyError
        For a path that ``node`` does not have.
    """
    own = find_states(node)
    for part in states:
        for path, value in _flat(part).items():
            if path not in own:
                raise KeyError(f'There is no State at {path}. There are: {list(own)}.')
            own[path].value = value.value if isinstance(value, State | TreefyState) else value


def pop_states(node: Any, *filters: Any) -> Any:
    """Remove the matching States and their attributes from the graph, and return them as a nested mapping.

    Raises
    ------
    ValueError
        Without a filter, or for a State in a tuple, which cannot lose an item.
    """
    if not filters:
        raise ValueError('pop_states needs at least one filter; use ... for all States.')
    predicates = [to_predicate(f) for f in filters]
    groups = [FlattedDict() for _ in predicates]
    for path, _, holder in list(_holders(node)):
        for key, value in list(children(holder)):
            if not isinstance(value, State):
                continue
            for predicate, group in zip(predicates, groups, strict=True):
                if predicate((*path, key), value):
                    _remove(holder, key, (*path, key))
                    group[(*path, key)] = TreefyState.of(value)
                    break
    nested = tuple(group.to_nest() for group in groups)
    return nested[0] if len(nested) == 1 else nested


def _holders(node: Any):
    """The nodes and containers, which can hold States."""

    def inside(path, value):
        for key, child in children(value):
            if is_container(child):
                yield (*path, key), 0, child
                yield from inside((*path, key), child)

    for path, level, x in walk(node):
        if isinstance(x, Node):
            yield path, level, x
            yield from inside(path, x)


def _remove(holder: Any, key: Any, path: tuple) -> None:
    if isinstance(holder, Node):
        delattr(holder, key)
    elif isinstance(holder, dict):
        del holder[key]
    else:
        raise ValueError(
            f'The State at {path} is an item of a {type(holder).__name__}; only attributes and dict items can be '
            'popped.'
        )
