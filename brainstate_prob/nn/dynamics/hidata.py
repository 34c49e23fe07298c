"""HiData: an immutable tree of named values, as a pytree."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

import jax

__all__ = ['HiData']


class HiData:
    """Named children, arrays or further `HiData`: the state of composed dynamics.

    A JAX pytree, in the order of the children. It is immutable: `add`, `replace` and `pop` return a new one.
    Children are read as attributes or items. Subclasses are pytrees too.

    Parameters
    ----------
    children
        A mapping of names to values.
    name
        A label.
    **kwargs
        Further children; they override ``children``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> cell = nn.HiData(v=jnp.zeros(2), gate=nn.HiData(m=0.1, h=0.6))
    >>> jax.tree.map(lambda x: x + 1, cell).gate['h'], cell.state_size
    (1.6, 3)
    """

    name: str | None
    children: dict[str, Any]

    def __init__(self, children: Mapping[str, Any] | None = None, name: str | None = None, **kwargs):
        if children is not None and not isinstance(children, Mapping | HiData):
            raise TypeError(f'children must be a mapping of names to values, got {type(children).__name__}.')
        merged = {**dict((children or {}).items()), **kwargs}
        if not all(isinstance(key, str) for key in merged):
            raise TypeError(f'The names of children are strings, got {[k for k in merged if not isinstance(k, str)]}.')
        object.__setattr__(self, 'children', merged)
        object.__setattr__(self, 'name', name)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _register(cls)

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f'A {type(self).__name__} is immutable: use x = x.replace({key}=...) or x.add.')

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f'A {type(self).__name__} is immutable: use x = x.pop({key!r}).')

    def __getattr__(self, key: str) -> Any:
        if key.startswith('__') or key == 'children':  # not set yet during unpickling
            raise AttributeError(key)
        if key not in self.children:
            raise AttributeError(f'{type(self).__name__} has no child {key!r}; it has {list(self.children)}.')
        return self.children[key]

    def __getitem__(self, key: str) -> Any:
        return self.children[key]

    def __contains__(self, key: object) -> bool:
        return key in self.children

    def __len__(self) -> int:
        return len(self.children)

    def __iter__(self) -> Iterator[str]:
        return iter(self.children)

    def keys(self) -> KeysView:
        """The names."""
        return self.children.keys()

    def items(self) -> ItemsView:
        """Pairs (name, value)."""
        return self.children.items()

    def values(self) -> ValuesView:
        """The values."""
        return self.children.values()

    def add(self, *others: Mapping[str, Any] | HiData, **children) -> HiData:
        """A copy with children added or replaced; later ones override."""
        merged = dict(self.children)
        for other in others:
            if not isinstance(other, Mapping | HiData):
                raise TypeError(f'add takes mappings and HiData, got {type(other).__name__}.')
            merged.update(other.items())
        return type(self)._of({**merged, **children}, self.name)

    def replace(self, **children) -> HiData:
        """A copy with new values of existing children."""
        self._check_present(children)
        return self.add(**children)

    def pop(self, *names: str) -> HiData:
        """A copy without these children."""
        self._check_present(names)
        return type(self)._of({k: v for k, v in self.children.items() if k not in names}, self.name)

    def clone(self) -> HiData:
        """A copy, and copies of the `HiData` below; arrays are shared, as they do not change."""
        return type(self)._of(
            {k: v.clone() if isinstance(v, HiData) else v for k, v in self.children.items()}, self.name
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to nested dicts."""
        return {k: v.to_dict() if isinstance(v, HiData) else v for k, v in self.children.items()}

    @classmethod
    def from_dict(cls, children: Mapping[str, Any]) -> HiData:
        """The reverse of `to_dict`."""
        return cls._of({k: cls.from_dict(v) if isinstance(v, Mapping) else v for k, v in children.items()}, None)

    @property
    def state_size(self) -> int:
        """The number of values in the tree that are not None."""
        return sum(v.state_size if isinstance(v, HiData) else v is not None for v in self.children.values())

    @property
    def dtype(self) -> Any:
        """The dtype of the first array in the tree.

        Raises
        ------
        ValueError
            If there is none.
        """
        dtype = _first_dtype(self)
        if dtype is None:
            raise ValueError(f'No child of {type(self).__name__}({", ".join(self.children)}) is an array with a dtype.')
        return dtype

    @classmethod
    def _of(cls, children: dict[str, Any], name: str | None) -> HiData:
        """Create an instance without the constructor, which a subclass may have changed."""
        new = object.__new__(cls)
        object.__setattr__(new, 'children', children)
        object.__setattr__(new, 'name', name)
        return new

    def _check_present(self, names: Any) -> None:
        missing = [name for name in names if name not in self.children]
        if missing:
            raise KeyError(f'{type(self).__name__} has no children {missing}; it has {list(self.children)}.')

    def __repr__(self) -> str:
        parts = [] if self.name is None else [f'name={self.name!r}']
        for key, value in self.children.items():
            if hasattr(value, 'shape') and hasattr(value, 'dtype'):
                text = f'{type(value).__name__}(shape={tuple(value.shape)}, dtype={value.dtype})'
            else:
                text = repr(value).replace('\n', '\n  ')
            parts.append(f'{key}={text}')
        inner = ',\n  '.join(parts)
        return f'{type(self).__name__}(\n  {inner},\n)' if parts else f'{type(self).__name__}()'


def _first_dtype(data: HiData) -> Any:
    for value in data.values():
        dtype = _first_dtype(value) if isinstance(value, HiData) else getattr(value, 'dtype', None)
        if dtype is not None:
            return dtype
    return None


def _register(cls: type[HiData]) -> None:
    jax.tree_util.register_pytree_with_keys(
        cls,
        lambda x: (tuple((jax.tree_util.GetAttrKey(k), v) for k, v in x.items()), (tuple(x.keys()), x.name)),
        lambda aux, values: cls._of(dict(zip(aux[0], values, strict=True)), aux[1]),
    )


_register(HiData)
