"""Elementwise activations, from `jax.nn` where it has them, with units.

Piecewise linear ones carry the unit of their input (a rate, a current); the others take plain numbers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import random
from brainstate_prob.nn.functional.units import carries_unit, takes_numbers

__all__ = [
    'celu',
    'elu',
    'gelu',
    'hard_shrink',
    'hard_sigmoid',
    'hard_silu',
    'hard_swish',
    'hard_tanh',
    'leaky_relu',
    'log_sigmoid',
    'mish',
    'prelu',
    'relu',
    'relu6',
    'rrelu',
    'selu',
    'sigmoid',
    'silu',
    'soft_shrink',
    'soft_sign',
    'softplus',
    'sparse_plus',
    'sparse_sigmoid',
    'squareplus',
    'swish',
    'tanh',
    'tanh_shrink',
]


def _check_order(who: str, low: str, low_value: Any, high: str, high_value: Any) -> None:
    traced = any(isinstance(x, jax.core.Tracer) for x in (low_value, high_value))
    if not traced and np.any(np.asarray(low_value) > np.asarray(high_value)):
        raise ValueError(f'{who}: {low} must not be greater than {high}, got {low_value} and {high_value}.')


# Piecewise linear: the unit of the input is that of the output


@carries_unit('x')
def relu(x: Any) -> jax.Array:
    """max(x, 0); the gradient at 0 is 0.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.relu(jnp.array([-1.0, 2.0]) * u.nA)
    Quantity([0. 2.], "nA")
    """
    return jax.nn.relu(x)


@carries_unit('x')
def leaky_relu(x: Any, negative_slope: Any = 0.01) -> jax.Array:
    """Leaky rectifier: x where x >= 0, else negative_slope·x.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.leaky_relu(-2.0, 0.25))
    -0.5
    """
    return jax.nn.leaky_relu(x, negative_slope)


@carries_unit('x')
def prelu(x: Any, a: Any = 0.25) -> jax.Array:
    """Parametric rectifier: x where x >= 0, else a·x, with a trainable slope that broadcasts against ``x``.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.prelu(-2.0, 0.5))
    -1.0
    """
    return jax.nn.leaky_relu(x, a)


@carries_unit('x')
def rrelu(x: Any, lower: float = 0.125, upper: float = 1 / 3, *, key: Any = None) -> jax.Array:
    """Randomized rectifier: x where x >= 0, else a·x with a ~ U(lower, upper) drawn for every element.

    Parameters
    ----------
    lower, upper
        The bounds of the slope, in order.
    key
        A key or an int seed; None draws from the stream of `brainstate_prob.random`.

    Raises
    ------
    ValueError
        If lower > upper.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> -1 / 3 <= float(nn.rrelu(-1.0)) <= -0.125
    True
    """
    x = jnp.asarray(x)
    _check_order('rrelu', 'lower', lower, 'upper', upper)
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else None
    return jax.nn.leaky_relu(x, random.uniform(lower, upper, size=x.shape, key=key, dtype=dtype))


@carries_unit('x', 'min_val', 'max_val')
def hard_tanh(x: Any, min_val: Any = -1.0, max_val: Any = 1.0) -> jax.Array:
    """Hard tanh: x clipped to [min_val, max_val]; the gradient is 1 inside, 0 outside and on the bounds.

    Raises
    ------
    ValueError
        If min_val > max_val.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.hard_tanh(3.0))
    1.0
    """
    _check_order('hard_tanh', 'min_val', min_val, 'max_val', max_val)
    x = jnp.asarray(x)
    low, high = (jnp.asarray(bound, x.dtype) for bound in (min_val, max_val))
    return jnp.where(x >= high, high, jnp.where(x <= low, low, x))


@carries_unit('x', 'lambd')
def hard_shrink(x: Any, lambd: Any = 0.5) -> jax.Array:
    """Hard shrinkage: x where abs(x) > λ, else 0.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.hard_shrink(0.4)), float(nn.hard_shrink(-0.75))
    (0.0, -0.75)
    """
    x = jnp.asarray(x)
    return jnp.where(jnp.abs(x) > lambd, x, jnp.zeros_like(x))


@carries_unit('x', 'lambd')
def soft_shrink(x: Any, lambd: Any = 0.5) -> jax.Array:
    """Soft shrinkage: sign(x)·max(abs(x) − λ, 0).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.soft_shrink(0.4)), float(nn.soft_shrink(-0.75))
    (0.0, -0.25)
    """
    x = jnp.asarray(x)
    return jnp.where(jnp.abs(x) > lambd, x - jnp.sign(x) * lambd, jnp.zeros_like(x))


# Elementwise functions of plain numbers


@takes_numbers
def tanh(x: Any) -> jax.Array:
    """The hyperbolic tangent.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.tanh(0.0))
    0.0
    """
    return jax.nn.tanh(x)


@takes_numbers
def squareplus(x: Any, b: Any = 4) -> jax.Array:
    """(x + √(x² + b)) / 2: a smooth `relu`.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.squareplus(0.0))
    1.0
    """
    return jax.nn.squareplus(x, b)


@takes_numbers
def softplus(x: Any) -> jax.Array:
    """log(1 + eˣ), without overflow.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> round(float(nn.softplus(0.0)), 4), float(nn.softplus(1000.0))
    (0.6931, 1000.0)
    """
    return jax.nn.softplus(x)


@takes_numbers
def soft_sign(x: Any) -> jax.Array:
    """Softsign: x / (1 + abs(x)).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.soft_sign(-1.0))
    -0.5
    """
    return jax.nn.soft_sign(x)


@takes_numbers
def sigmoid(x: Any) -> jax.Array:
    """σ(x) = 1 / (1 + e⁻ˣ).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.sigmoid(0.0))
    0.5
    """
    return jax.nn.sigmoid(x)


@takes_numbers
def log_sigmoid(x: Any) -> jax.Array:
    """Logarithm of `sigmoid`: log σ(x) = −softplus(−x).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.log_sigmoid(-1000.0))
    -1000.0
    """
    return jax.nn.log_sigmoid(x)


@takes_numbers
def silu(x: Any) -> jax.Array:
    """x·σ(x); also called swish.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> round(float(nn.silu(1.0)), 4)
    0.7311
    """
    return jax.nn.silu(x)


swish = silu


@takes_numbers
def mish(x: Any) -> jax.Array:
    """x·tanh(softplus(x)).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> round(float(nn.mish(1.0)), 4)
    0.8651
    """
    return jax.nn.mish(x)


@takes_numbers
def elu(x: Any, alpha: Any = 1.0) -> jax.Array:
    """Exponential linear unit: x where x > 0, else α(eˣ − 1).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.elu(-100.0, alpha=2.0))
    -2.0
    """
    return jax.nn.elu(x, alpha)


@takes_numbers
def celu(x: Any, alpha: Any = 1.0) -> jax.Array:
    """max(0, x) + min(0, α(e^(x/α) − 1)): `elu` with a continuous gradient for every α.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.celu(-100.0, alpha=2.0))
    -2.0
    """
    return jax.nn.celu(x, alpha)


@takes_numbers
def selu(x: Any) -> jax.Array:
    """1.0507·(x where x > 0, else 1.67326(eˣ − 1)): keeps mean 0 and variance 1 from layer to layer.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> round(float(nn.selu(1.0)), 4)
    1.0507
    """
    return jax.nn.selu(x)


@takes_numbers
def gelu(x: Any, approximate: bool = True) -> jax.Array:
    """x·Φ(x) with the normal distribution function, or its tanh approximation.

    The default is the approximation; the layer `GELU` defaults to the exact form.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> round(float(nn.gelu(1.0, approximate=False)), 4)
    0.8413
    """
    return jax.nn.gelu(jnp.asarray(x), approximate)


@takes_numbers
def relu6(x: Any) -> jax.Array:
    """min(max(x, 0), 6).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.relu6(7.0))
    6.0
    """
    return jax.nn.relu6(x)


@takes_numbers
def hard_sigmoid(x: Any) -> jax.Array:
    """relu6(x + 3) / 6.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.hard_sigmoid(0.0))
    0.5
    """
    return jax.nn.hard_sigmoid(x)


@takes_numbers
def hard_silu(x: Any) -> jax.Array:
    """x·hard_sigmoid(x); also called hard swish.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.hard_silu(3.0))
    3.0
    """
    return jax.nn.hard_silu(x)


hard_swish = hard_silu


@takes_numbers
def tanh_shrink(x: Any) -> jax.Array:
    """Tanh shrinkage: x − tanh(x).

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> round(float(nn.tanh_shrink(1.0)), 4)
    0.2384
    """
    return x - jnp.tanh(x)


@takes_numbers
def sparse_plus(x: Any) -> jax.Array:
    """0 below −1, (x + 1)²/4 up to 1, then x.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.sparse_plus(0.0))
    0.25
    """
    return jax.nn.sparse_plus(x)


@takes_numbers
def sparse_sigmoid(x: Any) -> jax.Array:
    """(x + 1)/2 clipped to [0, 1]: the derivative of `sparse_plus`.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.sparse_sigmoid(0.5))
    0.75
    """
    return jax.nn.sparse_sigmoid(x)
