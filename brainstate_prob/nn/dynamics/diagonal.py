"""The diagonal of a Jacobian, by one derivative if the function is elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core.functionalize import Pure
from brainstate_prob.core.interpreter import ELEMENTWISE, Interpreter
from brainstate_prob.transform import jacfwd, jvp

__all__ = ['is_elementwise', 'value_and_diagonal']


def value_and_diagonal(f: Callable, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``f(x)`` and the diagonal of its Jacobian; ``f`` preserves the shape and may use States."""
    if x.size <= 1 or is_elementwise(f, x):
        return jvp(f, (x,), (jnp.ones_like(x),))
    jacobian, value = jacfwd(f, return_value=True)(x)
    return value, jnp.diagonal(jacobian.reshape(x.size, x.size)).reshape(x.shape)


def is_elementwise(f: Callable, x: jax.Array) -> bool:
    """Whether ``f`` consists of elementwise operations on ``x``; False if unknown.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> x = jnp.ones(3)
    >>> is_elementwise(lambda x: jnp.exp(-x) * jnp.arange(3.0), x), is_elementwise(lambda x: x - x.mean(), x)
    (True, False)
    """
    program = jax.make_jaxpr(lambda x: Pure(f)((), x)[0])(x)
    try:
        _Dependence(x.shape).run(program, [True])
    except _NotElementwiseError:
        return False
    return True


class _NotElementwiseError(Exception):
    """A result may not depend elementwise on its argument."""


class _Dependence(Interpreter[bool]):
    """Track whether a value depends elementwise on the argument."""

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape

    def constant(self, variable: Any, value: Any) -> bool:
        return False

    def operation(self, operation: Any, inputs: list[bool]) -> list[bool]:
        if any(inputs):
            dependent = [v for v, depends in zip(operation.invars, inputs, strict=True) if depends]
            results = [v for v in operation.outvars if math.prod(v.aval.shape) != 1]
            if operation.primitive.name not in ELEMENTWISE or any(
                v.aval.shape != self._shape for v in (*dependent, *results)
            ):
                raise _NotElementwiseError
        return [any(inputs)] * len(operation.outvars)
