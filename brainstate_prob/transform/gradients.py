"""The gradient transforms, with the options and the return convention of `GradientTransform`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.random import DEFAULT
from brainstate_prob.transform.base import decorator
from brainstate_prob.transform.gradient_transform import GradientTransform

__all__ = ['fwd_grad', 'grad', 'hessian', 'jacfwd', 'jacobian', 'jacrev', 'vector_grad']

_P = ParamSpec('_P')


@dataclasses.dataclass(frozen=True)
class _Options:
    """The arguments of every gradient transform; `grad` documents them."""

    fun: Callable | None = None
    grad_states: Any = None
    argnums: int | Sequence[int] | None = None
    holomorphic: bool = False
    allow_int: bool = False
    has_aux: bool | None = None
    return_value: bool = False
    unit_aware: bool = False
    check_states: bool = True
    debug_nan: bool = False


@dataclasses.dataclass(frozen=True)
class _ForwardOptions(_Options):
    """The arguments of transforms in forward mode, which has no gradients of integers."""

    def __post_init__(self):
        if self.allow_int:
            raise ValueError(
                'uses forward mode, which has no gradients of integers; allow_int=True works in grad, vector_grad and '
                'jacrev.'
            )


@dataclasses.dataclass(frozen=True)
class _RandomDirections(_ForwardOptions):
    """The arguments of `fwd_grad`."""

    key: Any = dataclasses.field(default=None, kw_only=True)
    tangent_size: int = dataclasses.field(default=1, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        size = self.tangent_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f'needs a tangent_size that is an int of at least 1; got {size!r}.')


_OF_GRADIENT_TRANSFORM = (
    'grad_states',
    'argnums',
    'has_aux',
    'return_value',
    'unit_aware',
    'check_states',
    'debug_nan',
)


def _gradient(options: Callable[_P, _Options]) -> Callable[[Callable[..., Any]], Callable[_P, Any]]:
    """Turn a derivative, a `GradientTransform.transform`, into a public transform with these options."""
    signature = inspect.signature(options).replace(return_annotation=inspect.Signature.empty)

    def decorate(derivative: Callable[..., Any]) -> Callable[_P, Any]:
        name = derivative.__name__

        @functools.wraps(derivative)
        def transform(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f'{name}() {error}') from None
            try:
                given = vars(options(*args, **kwargs)).copy()
            except ValueError as error:
                raise ValueError(f'{name} {error}') from None
            fun = given.pop('fun')
            general = {key: given.pop(key) for key in _OF_GRADIENT_TRANSFORM}
            make = functools.partial(GradientTransform, transform=derivative, transform_params=given, **general)
            return decorator(make, fun)

        transform.__signature__ = signature  # type: ignore[attr-defined]
        return transform

    return decorate


@_gradient(_Options)
def grad(fun, *, argnums, has_aux, holomorphic, allow_int):
    """The gradient of a scalar function with respect to States and arguments.

    Parameters
    ----------
    fun
        The function or method; if omitted, a decorator is returned.
    grad_states
        A State, a list, tuple or dict of States, or a Module (its ParamStates).
    argnums
        Which positional arguments; default: 0 if no States are given, else none.
    holomorphic, allow_int
        As in ``jax.grad``.
    has_aux
        ``fun`` returns ``(value, aux)``.
    return_value
        Return the value too.
    unit_aware, check_states, debug_nan
        See `GradientTransform`.

    Returns
    -------
    A function that returns ``G``, ``(G, aux)``, ``(G, value)`` or ``(G, value, aux)``; ``G`` are the gradients of the
    arguments, those of the States in the structure of ``grad_states``, or both as a pair.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import ParamState, transform
    >>> w = ParamState(jnp.array([1.0, 2.0]))
    >>> def loss(x):
    ...     return jnp.sum((w.value * x) ** 2)
    >>> grads, value = transform.grad(loss, {'w': w}, return_value=True)(3.0)
    >>> grads['w'].tolist(), float(value)
    ([18.0, 36.0], 45.0)
    """
    return jax.grad(fun, argnums, has_aux=has_aux, holomorphic=holomorphic, allow_int=allow_int)


@_gradient(_Options)
def vector_grad(fun, *, argnums, has_aux, holomorphic, allow_int):
    """The gradient of the sum of all outputs, which may be any pytree of arrays; otherwise as `grad`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import transform
    >>> transform.vector_grad(lambda x: jnp.stack([x**2, x**3]))(2.0).item()
    16.0
    """

    def ones(x):
        dtype = jnp.result_type(x)
        inexact = jnp.issubdtype(dtype, jnp.inexact)
        return jnp.ones_like(x) if inexact else np.zeros(jnp.shape(x), jax.dtypes.float0)

    def wrapped(wrt):
        out, pullback, aux = jax.vjp(fun, wrt, has_aux=True)
        return pullback(jax.tree.map(ones, out))[0], aux

    return wrapped


@_gradient(_Options)
def jacrev(fun, *, argnums, has_aux, holomorphic, allow_int):
    """The Jacobian in reverse mode: for many inputs and few outputs. Shapes are output shape + input shape.

    Arguments and results are as in `grad`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import ParamState, transform
    >>> w = ParamState(jnp.ones((2, 3)))
    >>> transform.jacrev(lambda x: w.value @ x, w)(jnp.ones(3)).shape
    (2, 2, 3)
    """
    return _unless_empty(fun, jax.jacrev(fun, argnums, has_aux=has_aux, holomorphic=holomorphic, allow_int=allow_int))


jacobian = jacrev


@_gradient(_ForwardOptions)
def jacfwd(fun, *, argnums, has_aux, holomorphic, allow_int):
    """The Jacobian in forward mode: for few inputs and many outputs; otherwise as `jacrev`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import transform
    >>> transform.jacfwd(lambda x: jnp.stack([x, x**2]))(3.0).tolist()
    [1.0, 6.0]
    """
    return _unless_empty(fun, jax.jacfwd(fun, argnums, has_aux=has_aux, holomorphic=holomorphic))


@_gradient(_ForwardOptions)
def hessian(fun, *, argnums, has_aux, holomorphic, allow_int):
    """The second derivatives; otherwise as `grad`.

    Each entry of the gradient's structure is a row, and again has that structure: ``H['a']['b']`` for a dict of
    States; with States and arguments together ``H[0]['a'] == (row of States, row of arguments)``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import ParamState, transform
    >>> a, b = ParamState(jnp.array(2.0)), ParamState(jnp.array(3.0))
    >>> rows = transform.hessian(lambda: a.value**2 * b.value, {'a': a, 'b': b})()
    >>> {k: {j: float(h) for j, h in row.items()} for k, row in rows.items()}
    {'a': {'a': 6.0, 'b': 4.0}, 'b': {'a': 4.0, 'b': 0.0}}
    """
    return _unless_empty(fun, jax.hessian(fun, argnums, has_aux=has_aux, holomorphic=holomorphic))


@_gradient(_RandomDirections)
def fwd_grad(fun, *, argnums, has_aux, holomorphic, allow_int, key, tangent_size):
    """An unbiased estimate of the gradient of a scalar function in forward mode; otherwise as `grad`.

    The mean over ``tangent_size`` directions v, standard normal, of (v . gradient) v.

    Parameters
    ----------
    key
        A random key; default: a new one of `brainstate_prob.random` at every call.
    tangent_size
        The number of directions.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from brainstate_prob import transform
    >>> estimate = transform.fwd_grad(lambda x: x**2, key=jax.random.key(0), tangent_size=4000)
    >>> bool(abs(estimate(3.0) - 6.0) < 0.5)
    True
    """

    def wrapped(wrt):
        tree: Any
        leaves, tree = jax.tree.flatten(wrt)
        keys = jax.random.split(DEFAULT.split_key() if key is None else key, max(len(leaves), 1))
        directions = tree.unflatten(
            [
                jax.random.normal(k, (tangent_size, *jnp.shape(x)), jnp.result_type(x))
                for k, x in zip(keys, leaves, strict=False)
            ]
        )
        linear: Any = jax.linearize(fun, wrt, has_aux=True)
        out, pushforward, aux = linear
        if jnp.shape(out) != ():
            raise TypeError(f'fwd_grad needs a function with a scalar value; its value has shape {jnp.shape(out)}.')
        slopes = jax.vmap(pushforward)(directions)
        return jax.tree.map(lambda v: jnp.tensordot(slopes, v, 1) / tangent_size, directions), aux

    return wrapped


def _unless_empty(fun, derivative):
    """``derivative``, also defined if there is nothing to differentiate."""

    def wrapped(wrt):
        if jax.tree.leaves(wrt):
            return derivative(wrt)
        out, aux = fun(wrt)
        return jax.tree.map(lambda _: wrt, out), aux

    return wrapped
