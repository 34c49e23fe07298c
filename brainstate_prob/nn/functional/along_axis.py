"""Functions along an axis: softmax and related functions, the gated linear unit, one-hot vectors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob import environ
from brainstate_prob.nn.functional.units import takes_numbers

__all__ = ['glu', 'log_softmax', 'logsumexp', 'one_hot', 'softmax', 'softmin']


@takes_numbers
def glu(x: Any, axis: int = -1) -> jax.Array:
    """The first half of ``x`` along ``axis`` times σ of the second half.

    Raises
    ------
    ValueError
        For an axis of odd size.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.glu(jnp.array([2.0, 0.0]))
    Array([1.], dtype=float32)
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[axis] % 2:
        raise ValueError(f'glu: the size of axis {axis} must be even, got shape {x.shape}.')
    return jax.nn.glu(x, axis)


@takes_numbers
def logsumexp(
    a: Any,
    axis: Any = None,
    b: Any = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: Any = None,
) -> Any:
    """Logarithm of a sum of exponentials: log Σ b·eᵃ along ``axis`` (None: over all), without overflow.

    ``b`` are factors (1 by default), which broadcast against ``a``. With ``return_sign`` the result is the pair (log of
    the absolute sum, its sign), else a negative sum gives NaN. ``where`` selects the entries.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> round(float(nn.logsumexp(jnp.array([1000.0, 1000.0]))), 3)
    1000.693
    """
    return jax.nn.logsumexp(a, axis, b, keepdims, return_sign, where)


@takes_numbers
def softmax(x: Any, axis: Any = -1, where: Any = None) -> jax.Array:
    """eˣ / Σ eˣ along ``axis``; entries where ``where`` is False are ignored and give 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.softmax(jnp.zeros(2))
    Array([0.5, 0.5], dtype=float32)
    """
    return jax.nn.softmax(x, axis, where=where)


@takes_numbers
def log_softmax(x: Any, axis: Any = -1, where: Any = None) -> jax.Array:
    """Logarithm of `softmax`: x − logsumexp(x) along ``axis``.

    Entries where ``where`` is False are ignored and give −inf.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> bool(jnp.allclose(nn.log_softmax(jnp.zeros(2)), jnp.log(0.5)))
    True
    """
    return jax.nn.log_softmax(x, axis, where=where)


@takes_numbers
def softmin(x: Any, axis: Any = -1) -> jax.Array:
    """softmax(−x) along ``axis``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.softmin(jnp.array([0.0, 1000.0]))
    Array([1., 0.], dtype=float32)
    """
    return jax.nn.softmax(-jnp.asarray(x), axis)


def one_hot(x: Any, num_classes: int, *, dtype: Any = float, axis: int = -1) -> jax.Array:
    """Indicator vectors of the classes ``x`` along a new axis ``axis``; all zero for a class out of range.

    ``dtype=float`` is the default floating type (`brainstate_prob.environ.dftype`).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.one_hot(jnp.array([1, 5]), 2)
    Array([[0., 1.],
           [0., 0.]], dtype=float32)
    """
    return jax.nn.one_hot(x, num_classes, dtype=environ.dftype() if dtype is float else dtype, axis=axis)
