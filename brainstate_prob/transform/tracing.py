"""Look at what a function would do: eval_shape and make_jaxpr."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from brainstate_prob.core import State
from brainstate_prob.core.functionalize import Discovery, Pure
from brainstate_prob.transform.base import Transformed, decorator

__all__ = ['eval_shape', 'make_jaxpr']


def eval_shape(fun: Callable, *args, return_state_shapes: bool = False, **kwargs) -> Any:
    """Shapes and types of what ``fun(*args, **kwargs)`` would return; nothing is computed and no State changes.

    Parameters
    ----------
    return_state_shapes
        Return also ``{State: shapes}`` of the States that it would write.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from brainstate_prob import State, transform
    >>> w = State(jnp.ones((2, 3)))
    >>> transform.eval_shape(lambda x: w.value @ x, jax.ShapeDtypeStruct((3,), jnp.float32)).shape
    (2,)
    """
    pure = Pure(fun)
    out, written, _ = jax.eval_shape(functools.partial(pure, ()), *args, **kwargs)
    return (out, {pure.states[n]: shapes for n, shapes in written.items()}) if return_state_shapes else out


def make_jaxpr(
    fun: Callable | None = None, *, static_argnums: int | Sequence[int] = (), return_shape: bool = False
) -> Any:
    """The jaxpr of a function, with the States that it reads as further inputs.

    Returns
    -------
    A function that gives ``(jaxpr, states)``, with ``return_shape`` also the shapes of what is returned. The inputs
    of the jaxpr are the leaves of the values of ``states`` and of the arguments; its outputs those of what ``fun``
    returns, writes and creates.

    Examples
    --------
    >>> from brainstate_prob import State, transform
    >>> w = State(2.0)
    >>> jaxpr, states = transform.make_jaxpr(lambda x: w.value * x)(3.0)
    >>> len(jaxpr.jaxpr.invars), states == (w,)
    (2, True)
    """
    return decorator(functools.partial(_Jaxpr, static_argnums=static_argnums, return_shape=return_shape), fun)


class _Jaxpr(Transformed):
    def __init__(self, fun: Callable, static_argnums: int | Sequence[int], return_shape: bool):
        super().__init__(fun)
        self._static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
        self._return_shape = return_shape

    def __call__(self, *args, **kwargs) -> tuple[Any, tuple[State, ...]] | tuple[Any, tuple[State, ...], Any]:
        static = {n % len(args): args[n % len(args)] for n in self._static}

        def fun(*dynamic, **kwargs):
            full = list(dynamic)
            for n in sorted(static):
                full.insert(n, static[n])
            return self.fun(*full, **kwargs)

        dynamic = [a for n, a in enumerate(args) if n not in static]
        found = Discovery(fun, *dynamic, **kwargs)
        pure = Pure(fun, tuple(found.pure.outside), discover=False)
        jaxpr, shapes = jax.make_jaxpr(pure, return_shape=True)([s.value for s in pure.inputs], *dynamic, **kwargs)
        return (jaxpr, pure.inputs, shapes[0]) if self._return_shape else (jaxpr, pure.inputs)
