"""brainstate modules as Modules."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob import random
from brainstate_prob.core import BatchState
from brainstate_prob.interop.brainstate_params import content_key, prior_of, transform_of
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
from brainstate_prob.nn.param import Param

__all__ = ['BrainstateModel']


class BrainstateModel(Foreign):
    """A brainstate module as a Module.

    Each array of a ``ParamState`` is a Param; a ``brainstate.nn.Param`` is one, with its transform and regularization.
    ``BatchState`` are running statistics, all other States are constants. brainstate's own setting ``fit`` follows
    that of this library, and what draws from ``brainstate.random`` draws from the stream of this library.
    """

    library = 'brainstate module'

    @classmethod
    def of(cls, model):
        brainstate = sys.modules.get('brainstate')  # where nobody has imported it, nothing is of it
        if brainstate is None or not isinstance(model, brainstate.nn.Module):
            return None
        definition, template = brainstate.graph.treefy_split(model)
        nodes = dict(model.nodes().items())
        params = {path: x for path, x in nodes.items() if isinstance(x, brainstate.nn.Param) and x.fit}
        leaves: dict[Path, Any] = {}
        for path, x in params.items():
            leaves[path] = Param(x.t.forward(x.val.value), t=transform_of(x, path), reg=prior_of(x, path))
        forms = {}
        for path, state in model.states().items():
            if isinstance(state, brainstate.random.RandomState):
                continue  # draws from the stream of this library
            found, form = jax.tree_util.tree_flatten_with_path(state.value)
            below = [names_of(keys) for keys, _ in found]
            own = path[:-1] in params and path[-1] == 'val'
            forms[path] = None if own else (form, tuple((*path, *keys) for keys in below))
            trained = isinstance(state, brainstate.ParamState)
            kind = BatchState if isinstance(state, brainstate.BatchState) else constant
            for keys, (_, x) in zip(below, [] if own else found, strict=False):
                leaves[*path, *keys] = Param(x) if trained and is_trainable(x) else kind(jnp.asarray(x))
        empty = {path: x if path not in forms else x.replace(None) for path, x in template.to_flat().items()}
        skeleton = Skeleton((definition, empty, forms), key=_structure(model, nodes))
        return cls(skeleton, leaves, classes=map(type, nodes.values()))

    @classmethod
    def places_of(cls, model, kind):
        return [path for path, node in model.nodes().items() if isinstance(node, kind)]

    @contextlib.contextmanager
    def _mode(self):
        import brainstate

        def first_seen(state: Any) -> Any:
            """The value of a State that is read: of a stream a key that this library knows of."""
            old = state.value
            if not isinstance(state, brainstate.random.RandomState):
                return old
            return jax.random.wrap_key_data(_data(random.split_key()), impl=jax.random.key_impl(old))

        with brainstate.environ.context(fit=training()), brainstate.StateTraceStack(new_arg=first_seen) as trace:
            try:
                yield
            finally:
                trace.recovery_original_values()

    def _built(self, values):
        import brainstate

        definition, empty, forms = self._skeleton.value
        states = dict(empty)
        for path, form in forms.items():
            if form is not None:
                states[path] = states[path].replace(jax.tree.unflatten(form[0], [values[p] for p in form[1]]))
            else:
                states[path] = states[path].replace(values[path[:-1]])  # set by its Param below
        model = brainstate.graph.treefy_merge(definition, brainstate.util.FlattedDict(states).to_nest())
        if training() and keep_statistics():
            norms = tuple(getattr(brainstate.nn, f'BatchNorm{n}d') for n in range(4))
            for node in model.nodes().values():
                if isinstance(node, norms):
                    node.update = _in_use(node.update)
        return self._written(model, values)

    def _left(self, model):
        states = model.states()
        found: dict[Path, Any] = {}
        for path, form in self._skeleton.value[2].items():
            if form is not None:
                found.update(zip(form[1], jax.tree.leaves(states[path].value), strict=True))
        return found

    def _written(self, model, values):
        forms = self._skeleton.value[2]
        nodes, states = model.nodes(), model.states()
        for path, form in forms.items():
            if form is None:
                nodes[path[:-1]].set_value(values[path[:-1]])
            else:
                states[path].value = jax.tree.unflatten(form[0], [values[p] for p in form[1]])
        return model


def _in_use(update: Callable) -> Callable:
    """A layer's ``update`` as it is outside of training."""

    def run(*args: Any, **kwargs: Any) -> Any:
        import brainstate

        with brainstate.environ.context(fit=False):
            return update(*args, **kwargs)

    return run


def _data(key: jax.Array) -> jax.Array:
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def _structure(model: Any, nodes: Mapping[Path, Any]) -> Hashable:
    """What the modules hold beside States and other modules, by path: brainstate's own comparison goes by identity."""
    known = {id(x): path for path, x in [*nodes.items(), *model.states().items()]}

    def counts(name: str, x: Any) -> bool:
        # Not what a Param remembers, nor locks and loggers.
        return not name.startswith(('_cache', '_hook')) and type(x).__module__ not in ('_thread', 'logging')

    return tuple(
        (path, type(node), content_key({name: x for name, x in vars(node).items() if counts(name, x)}, known))
        for path, node in nodes.items()
    )
