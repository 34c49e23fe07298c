"""A model of another library as a Module: its arrays are Params and States under their own paths."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from brainstate_prob import environ
from brainstate_prob.core import LongTermState, State
from brainstate_prob.graph.treefy import same_value
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param

__all__ = ['Foreign', 'Path', 'Skeleton', 'constant', 'is_trainable', 'keep_statistics', 'names_of', 'training']

Path = tuple[Any, ...]


def training() -> bool:
    """Whether layers shall compute what they do in training, as the setting ``fit`` says."""
    return bool(environ.get('fit', False))


def keep_statistics() -> bool:
    """Whether layers shall normalize by their running statistics and leave them as they are."""
    return not training() or bool(environ.get('keep_statistics', False))


def is_trainable(x: Any) -> bool:
    """Whether ``x`` is an array of real floating numbers."""
    return hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jnp.floating)


def names_of(keys: tuple) -> Path:
    """A path of JAX's tree functions as names and numbers."""
    return tuple(getattr(k, 'key', getattr(k, 'idx', getattr(k, 'name', k))) for k in keys)


class Skeleton:
    """What a model is without its arrays: equal for models of one structure, whose programs are then shared.

    Parameters
    ----------
    value
        What the model is rebuilt from.
    key
        What is compared, where ``value`` does not say itself whether it is equal.
    """

    def __init__(self, value: Any, key: Hashable = None):
        self.value = value
        self._key = key

    def __eq__(self, other):
        if not isinstance(other, Skeleton):
            return False
        if self._key is not None or other._key is not None:
            return self._key == other._key
        a, tree_a = jax.tree.flatten(self.value)
        b, tree_b = jax.tree.flatten(other.value)
        same_tree = bool(tree_a == tree_b)  # type: ignore[operator]  # jaxlib's stubs leave it out
        return same_tree and all(map(same_value, a, b))

    def __hash__(self):
        return hash(type(self.value))

    def __repr__(self) -> str:
        return f'Skeleton of {type(self.value).__name__}'


class Foreign(Module):
    """Base of the Modules that stand for a model of another library.

    A Param or State lies under the path that its array has in the model: ``layers.0.kernel``. Where the first name is
    one of Module's own it gets an underscore at its end. The model itself is rebuilt from them whenever it is called.

    Parameters
    ----------
    skeleton
        The model without its arrays.
    leaves
        By path, its trainable arrays as Params, all others as States.
    classes
        The classes that the model is made of, whose code counts for what is compiled.
    """

    library: ClassVar[str]

    def __init__(self, skeleton: Skeleton, leaves: Mapping[Path, Param | State], classes: Iterable[type] = ()):
        super().__init__()
        self._skeleton = skeleton
        self._classes = sorted(set(classes), key=lambda c: (c.__module__, c.__qualname__))
        self._paths = [_attribute(path) for path in leaves]
        self._own_paths = tuple(leaves)
        tree: dict[Any, Any] = {}
        for path, leaf in zip(self._paths, leaves.values(), strict=True):
            inner = tree
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = leaf
        for name, value in tree.items():
            setattr(self, name, value)

    def leaves(self) -> dict[Path, Any]:
        """Its Params and States by the paths in the model."""
        found = {}
        for own, (name, *keys) in zip(self._own_paths, self._paths, strict=True):
            x = getattr(self, name)
            for key in keys:
                x = x[key]
            found[own] = x
        return found

    def values(self) -> dict[Path, Any]:
        """The arrays by the paths in the model, parameters as their constrained values."""
        return {path: x.value() if isinstance(x, Param) else x.value for path, x in self.leaves().items()}

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """The model of the other library with the present values; States get what it leaves in them."""
        with self._mode():
            model = self._built(self.values())
            yield model
            left = self._left(model)
        for path, state in self.leaves().items():
            if isinstance(state, State) and path in left and left[path] is not state.value:
                state.value = jnp.asarray(left[path], state.value.dtype)

    def update(self, *args, **kwargs):
        with self.opened() as model:
            return model(*args, **kwargs)

    def assign_to(self, model: Any) -> Any:
        """Write the present values into a model of the structure that was wrapped; returns the model.

        What cannot be written into (Equinox modules, pytrees) stays as it is, and a new one is returned.

        Raises
        ------
        TypeError, ValueError
            For another kind of model, or one with other arrays.
        """
        other = type(self).of(model)
        if other is None:
            raise TypeError(f'assign_to takes the {self.library} that was wrapped, got {type(model).__name__}.')
        mine, theirs = ({path: jnp.shape(x) for path, x in m.values().items()} for m in (self, other))
        if mine != theirs:
            differ = sorted({'.'.join(map(str, p)) for p, _ in mine.items() ^ theirs.items()})
            raise ValueError(
                f'This {self.library} is not the one that was wrapped: they differ in {", ".join(differ)}.'
            )
        return self._written(model, self.values())

    # What a library gives

    @classmethod
    def of(cls, model: Any) -> Foreign | None:
        """The Module for a model, or None for what is no model of this library."""
        raise NotImplementedError

    @classmethod
    def places_of(cls, model: Any, kind: type) -> list[Path]:
        """The paths of the layers of a class, for filters that are classes."""
        return []

    def _mode(self) -> contextlib.AbstractContextManager:
        """The settings of the library under which the model is called."""
        return contextlib.nullcontext()

    def _built(self, values: dict[Path, Any]) -> Any:
        """The model with these values, as the setting ``fit`` wants it."""
        raise NotImplementedError

    def _left(self, model: Any) -> Mapping[Path, Any]:
        """By path, the arrays of States as the model has left them."""
        return {}

    def _written(self, model: Any, values: dict[Path, Any]) -> Any:
        """``model`` with these values."""
        raise NotImplementedError

    def __repr__(self) -> str:
        lines = [f'  {".".join(map(str, path))}={x!r},\n' for path, x in self.leaves().items()]
        return f'{type(self).__name__}(\n{"".join(lines)})'


def constant(x: Any) -> LongTermState:
    """An array that is no parameter, as an argument of compiled programs."""
    return LongTermState(jnp.asarray(x))


def _attribute(path: Path) -> Path:
    first = str(path[0]) if path else 'parameters'
    return (f'{first}_' if hasattr(Module, first) else first, *path[1:])
