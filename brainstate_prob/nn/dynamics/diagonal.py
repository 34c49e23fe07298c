"""The diagonal of a Jacobian, by one derivative if the function is elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core.functionalize import Pure
from brainstate_prob.transform import jacfwd, jvp

__all__ = ['is_elementwise', 'value_and_diagonal']

# Elementwise operations, by JAX's names.
_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac
    integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not optimization_barrier or
    polygamma pow rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
"""
_ELEMENTWISE = frozenset(_NAMES.split())
_CALLS = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')


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
    jaxpr = jax.make_jaxpr(lambda x: Pure(f)((), x)[0])(x).jaxpr
    return _follows(jaxpr, [True], x.shape) is not None


def _follows(jaxpr: Any, dependent: list[bool], shape: tuple[int, ...]) -> list[bool] | None:
    """Whether each output depends elementwise on the dependent inputs; None if a dependence may not be elementwise."""
    follows = {var for var, depends in zip(jaxpr.invars, dependent, strict=True) if depends}

    def depends(var: Any) -> bool:
        return not hasattr(var, 'val') and var in follows  # literals are not hashable

    for equation in jaxpr.eqns:
        inputs = [depends(var) for var in equation.invars]
        if not any(inputs):
            continue
        inner: Any = next((equation.params[name] for name in _CALLS if name in equation.params), None)
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns') and len(inner.invars) == len(inputs) and equation.primitive.name not in ('scan',):
            outputs = _follows(inner, inputs, shape)
            if outputs is None:
                return None
        elif equation.primitive.name in _ELEMENTWISE:
            if any(math.prod(var.aval.shape) != 1 and var.aval.shape != shape for var in equation.outvars):
                return None
            if any(d and var.aval.shape != shape for d, var in zip(inputs, equation.invars, strict=True)):
                return None
            outputs = [True] * len(equation.outvars)
        else:
            return None
        follows |= {var for var, d in zip(equation.outvars, outputs, strict=True) if d}
    return [depends(var) for var in jaxpr.outvars]
