"""Models that are pytrees: a function with its parameters, and Equinox modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core import BatchState, State
from brainstate_prob.interop.foreign import (
    Foreign,
    Path,
    Skeleton,
    constant,
    is_trainable,
    keep_statistics,
    names_of,
    training,
)
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param

__all__ = ['BoundFunction', 'EquinoxModel', 'FunctionModel', 'StatefulCall', 'StatefulEquinoxModel']


class BoundFunction:
    """A function of parameters and inputs with its parameters: what ``likelihood`` gets for a pair of these.

    Attributes
    ----------
    function, params
        The pair, with the present values.
    """

    def __init__(self, function: Callable, params: Any):
        self.function, self.params = function, params

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.params, *args, **kwargs)


class StatefulCall:
    """An Equinox module with its state: what ``likelihood`` gets for a pair of these.

    Attributes
    ----------
    model, state
        The pair, with the present values. What ``state`` is in the end goes on to the next step: write
        ``out, m.state = jax.vmap(m.model, axis_name='batch', in_axes=(0, None), out_axes=(0, None))(x, m.state)``.
    """

    def __init__(self, model: Any, state: Any):
        self.model, self.state = model, state

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out, self.state = self.model(*args, self.state, **kwargs)
        return out


class _Tree(Foreign):
    """A pytree: its arrays in order, and the structure with its other leaves."""

    def _tree(self, values: dict[Path, Any]) -> Any:
        tree, leaves = self._skeleton.value
        arrays = iter(values.values())
        return jax.tree.unflatten(tree, [next(arrays) if x is _ARRAY else x for x in leaves])


_ARRAY = '<array>'  # in the place of an array


def _parts(tree: Any, leaf: Callable[[Path, Any], Param | State | None]) -> tuple[Skeleton, dict[Path, Any]]:
    """The structure with the leaves that are no arrays, and what ``leaf`` makes of the arrays, by path."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    found, others = {}, []
    for keys, x in leaves:
        path = names_of(keys)
        made = leaf(path, x)
        if made is not None:
            found[path] = made
        others.append(x if made is None else _ARRAY)
    return Skeleton((structure, tuple(others))), found


class FunctionModel(_Tree):
    """A pair ``(function, parameters)`` as a Module: ``function(parameters, *inputs)``."""

    library = 'pair (function, parameters)'
    _function: Callable

    @classmethod
    def of(cls, model):
        if not (type(model) is tuple and len(model) == 2 and callable(model[0])) or isinstance(model[0], Module):
            return None
        function, params = model

        def leaf(path: Path, x: Any) -> Param | State | None:
            if is_trainable(x) or isinstance(x, float):
                return Param(jnp.asarray(x))
            return constant(x) if hasattr(x, 'dtype') else None

        module = cls(*_parts(params, leaf))
        module._function = function
        return module

    def _built(self, values):
        return BoundFunction(self._function, self._tree(values))

    def _written(self, model, values):
        return model[0], self._tree(values)


def _is_equinox(x: Any) -> bool:
    equinox = sys.modules.get('equinox')  # where nobody has imported it, nothing is of it
    return equinox is not None and isinstance(x, equinox.Module)


class EquinoxModel(_Tree):
    """An Equinox module as a Module. The ``inference`` flags of its layers follow the setting ``fit``."""

    library = 'Equinox module'

    @classmethod
    def of(cls, model):
        if not _is_equinox(model):
            return None
        return cls(*_parts(model, _equinox_leaf), classes=_classes(model))

    @classmethod
    def places_of(cls, model, kind):
        found = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda x: isinstance(x, kind))[0]
        places = (keys for keys, x in found if isinstance(x, kind))
        return [names_of(keys) for keys in places]

    def _built(self, values):
        return _in_mode(self._tree(values))

    def _written(self, model, values):
        return self._tree(values)


def _equinox_leaf(path: Path, x: Any) -> Param | State | None:
    if is_trainable(x):
        return Param(jnp.asarray(x))
    return constant(x) if hasattr(x, 'dtype') else None


def _classes(model: Any) -> Iterator[type]:
    """The classes of a module and of all below it."""
    leaves = jax.tree.leaves(model, is_leaf=lambda x: _is_equinox(x) and x is not model)
    yield type(model)
    for x in leaves:
        if _is_equinox(x):
            yield from _classes(x)


def _in_mode(model: Any) -> Any:
    """The module with dropout on in training, and batch statistics unless these are kept."""
    from equinox import nn

    model = nn.inference_mode(model, value=not training())
    if not (training() and keep_statistics()):
        return model

    def is_norm(x: Any) -> bool:
        return isinstance(x, nn.BatchNorm)

    return jax.tree.map(lambda x: nn.inference_mode(x) if is_norm(x) else x, model, is_leaf=is_norm)


class StatefulEquinoxModel(_Tree):
    """The pair that ``eqx.nn.make_with_state`` gives as a Module: the state's arrays are running statistics."""

    library = 'pair (Equinox module, eqx.nn.State)'

    @classmethod
    def of(cls, model):
        if type(model) is not tuple or len(model) != 2 or not _is_equinox(model[0]):
            return None
        from equinox import nn

        if not isinstance(model[1], nn.State):
            return None

        def leaf(path: Path, x: Any) -> Param | State | None:
            return BatchState(jnp.asarray(x)) if path[0] == 1 else _equinox_leaf(path, x)

        skeleton, leaves = _parts(model, leaf)
        named = {path[1:] if path[0] == 0 else ('state', *path[1:]): x for path, x in leaves.items()}
        return cls(skeleton, named, classes=_classes(model[0]))

    @classmethod
    def places_of(cls, model, kind):
        return EquinoxModel.places_of(model[0], kind)

    def _built(self, values):
        model, state = self._tree(values)
        return StatefulCall(_in_mode(model), state)

    def _left(self, model):
        states = jax.tree.leaves(model.state)
        paths = [path for path, x in self.leaves().items() if isinstance(x, BatchState)]
        return dict(zip(paths, states, strict=True))

    def _written(self, model, values):
        return self._tree(values)
