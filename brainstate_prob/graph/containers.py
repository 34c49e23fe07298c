"""Mappings of paths: the flat form `{path: x}` and the nested form `{name: {name: x}}`, both JAX pytrees."""

from __future__ import annotations

from typing import Any

import jax

from brainstate_prob.core import State

__all__ = ['FlattedDict', 'NestedDict', 'TreefyState']


class FlattedDict(dict):
    """A dict from path tuples to States (or their values), in the order of the model's paths.

    Examples
    --------
    >>> FlattedDict({('a', 'x'): 1, ('a', 'y'): 2}).to_nest()
    NestedDict({'a': NestedDict({'x': 1, 'y': 2})})
    """

    def to_nest(self) -> NestedDict:
        """The nested form."""
        root = NestedDict()
        for path, value in self.items():
            inner = root
            for key in path[:-1]:
                inner = inner.setdefault(key, NestedDict())
            inner[path[-1]] = value
        return root

    def __repr__(self) -> str:
        return f'{type(self).__name__}({dict.__repr__(self)})'


class NestedDict(dict):
    """A dict of dicts along the paths of a model.

    Examples
    --------
    >>> NestedDict({'a': NestedDict({'x': 1})}).to_flat()
    FlattedDict({('a', 'x'): 1})
    """

    def to_flat(self) -> FlattedDict:
        """The flat form ``{path: leaf}``."""
        flat = FlattedDict()

        def walk(prefix, inner):
            for key, value in inner.items():
                if isinstance(value, NestedDict):
                    walk((*prefix, key), value)
                else:
                    flat[(*prefix, key)] = value

        walk((), self)
        return flat

    def __repr__(self) -> str:
        return f'{type(self).__name__}({dict.__repr__(self)})'


def _register_mapping(cls) -> None:
    jax.tree_util.register_pytree_with_keys(
        cls,
        lambda d: (tuple((jax.tree_util.DictKey(k), v) for k, v in d.items()), tuple(d)),
        lambda keys, values: cls(zip(keys, values, strict=True)),
    )


_register_mapping(FlattedDict)
_register_mapping(NestedDict)


class TreefyState:
    """The value of a State and what is needed to rebuild the State; a pytree node.

    Examples
    --------
    >>> from brainstate_prob import ParamState
    >>> TreefyState.of(ParamState(1.0, name='w')).to_state()
    ParamState(1.0, name='w')
    """

    def __init__(self, type: type, value: Any, name: str | None = None, tag: str | None = None, **metadata):
        self.type = type
        self.value = value
        self.name = name
        self.tag = tag
        self.metadata = metadata

    @classmethod
    def of(cls, state: State) -> TreefyState:
        """The reference to ``state`` with its current value."""
        return cls(type(state), state.value, state.name, state.tag, **state.metadata)

    def to_state(self) -> State:
        """A new State of this type, value, name and metadata."""
        return self.type(self.value, name=self.name, tag=self.tag, **self.metadata)

    def __repr__(self) -> str:
        return f'TreefyState({self.type.__name__}, {self.value!r})'


def _unflatten_treefy(aux, children):
    type_, name, tag, metadata = aux
    return TreefyState(type_, children[0], name, tag, **dict(metadata))


jax.tree_util.register_pytree_with_keys(
    TreefyState,
    lambda s: (
        ((jax.tree_util.GetAttrKey('value'), s.value),),
        (s.type, s.name, s.tag, tuple(sorted(s.metadata.items()))),
    ),
    _unflatten_treefy,
)
