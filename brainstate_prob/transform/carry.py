"""Carry the States that the body of a loop or a branch writes from one iteration to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from brainstate_prob.core import State, TraceError
from brainstate_prob.core.functionalize import Discovery, Pure

__all__ = ['Carried', 'describe', 'stage', 'strong']


class Carried:
    """A body as a pure function, with the values of the written States as additional argument and result.

    Parameters
    ----------
    fn
        The body.
    discovery
        The discovery of its States, with arguments of the same types.
    states
        The States to carry.
    """

    def __init__(self, fn: Callable, discovery: Discovery, states: Sequence[State]):
        self.states = list(states)
        self.pure = Pure(fn, self.states, discover=False)
        self.created: dict[int, Any] = {}
        self._discovery = discovery

    def initial(self) -> tuple[list, list]:
        """The initial values of the carried States and of those that every run creates."""
        written = {self._discovery.pure.states[n]: shapes for n, shapes in self._discovery.written.items()}
        values = [strong(s.value, written[s]) if s in written else s.value for s in self.states]
        return values, self._discovery.created_last()

    def __call__(self, carried: tuple[list, list], *args) -> tuple[tuple[list, list], Any]:
        values, made = carried
        out, written, created = self.pure(values, *args)
        missed = [self.pure.states[n]._label() for n in written if n >= len(values)]
        if missed or len(created) != len(made):
            what = f'writes {", ".join(missed)}' if missed else 'creates States'
            raise TraceError(f'The body {what} only in some of its traces: it must use the same States every time.')
        self.created = created
        last = [value for _, value in created.values()]
        return ([written.get(n, value) for n, value in enumerate(values)], last), out

    def commit(self, carried: tuple[list, list]) -> None:
        values, made = carried
        for state, value in zip(self.states, values, strict=True):
            state.value = value
        self.pure.commit({}, {n: (value, value) for n, value in zip(self.created, made, strict=True)})


def stage(run: Callable[[list[State]], Any], *discoveries: Discovery) -> Any:
    """``run(states)`` with the States that the discoveries found to be written.

    States that a body creates lazily were created by the discovery; they get their first value and are
    carried too.
    """
    states = list(dict.fromkeys(state for f in discoveries for state in f.states))
    while True:
        try:
            return run(states)
        except TraceError:
            created = [state for f in discoveries for state in f.init_created()]
            if not created:
                raise
            states += created


def strong(value: Any, shapes: Any) -> Any:
    """``value`` with the leaves of weak type (Python numbers) in the types of ``shapes``, where these can hold them.

    A body returns strong types, and JAX would trace the body again to find that out, which doubles the number of
    traces with each level of nested loops.
    """
    tree: Any
    leaves, tree = jax.tree.flatten(value)
    if tree != jax.tree.structure(shapes):
        return value
    return tree.unflatten([_strong(x, s) for x, s in zip(leaves, jax.tree.leaves(shapes), strict=True)])


def _strong(x: Any, shape: Any) -> Any:
    kind = jax.typeof(x)
    if not getattr(kind, 'weak_type', False) or kind.shape != shape.shape:
        return x
    if jax.numpy.promote_types(kind.dtype, shape.dtype) != shape.dtype:
        return x
    return jax.lax.convert_element_type(x, shape.dtype)


def describe(shapes: Any) -> str:
    """Shapes and types of a pytree of arrays or ``jax.ShapeDtypeStruct``, for messages."""
    return str(jax.tree.map(lambda x: f'{x.dtype}{list(x.shape)}', shapes)).replace("'", '')
