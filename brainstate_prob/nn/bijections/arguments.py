"""The numeric arguments of a transform: plain numbers, arrays, quantities or tracers."""

import functools
import warnings
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.quantities import is_concrete, magnitude, magnitude_in, unit_of, written_unit
from brainstate_prob.core.units import u
from brainstate_prob.core.values import value_key

__all__ = [
    'Number',
    'as_floating',
    'identity_key',
    'show',
    'require_order',
    'tfp_bijectors',
    'tidy',
]

Number: TypeAlias = 'float | jax.Array | u.Quantity'  # a stored numeric argument


@functools.cache
def tfp_bijectors():
    """`tensorflow_probability.substrates.jax.bijectors`, imported when the first transform needs it."""
    try:
        with warnings.catch_warnings():
            # TFP uses names that JAX has deprecated; users cannot do anything about it.
            warnings.simplefilter('ignore', DeprecationWarning)
            from tensorflow_probability.substrates.jax import bijectors
    except (ImportError, AttributeError, TypeError) as error:
        raise ImportError(
            'The transforms need the bijectors of TensorFlow Probability in a build that imports under JAX '
            f'{jax.__version__}; the installed one does not ({type(error).__name__}: {error}). The stable '
            "tensorflow-probability 0.25 stops at JAX 0.6: uninstall it and run `pip install 'tfp-nightly[jax]'`."
        ) from error
    return bijectors


def tidy(value, what: str, *, unitless: bool = False) -> Number:
    """Convert an argument to a Python float, a JAX array (maybe traced), or a quantity of one.

    Python numbers (and NumPy scalars) stay weak, so that they never change the dtype of the value they bound.
    """
    if isinstance(value, u.Quantity):
        if unit_of(value) is None:
            return tidy(value.mantissa, what)
        if unitless:
            raise u.UnitMismatchError(f'{what} must be a plain number; got the unit {value.unit}.')
        return u.Quantity(tidy(value.mantissa, what), unit=value.unit)
    if isinstance(value, str | bytes) or value is None:
        raise TypeError(f'{what} must be a number, an array or a quantity; got {value!r}.')
    if not isinstance(value, jax.Array | np.ndarray):
        value = np.asarray(value)
        if value.ndim == 0 and value.dtype.kind in 'iuf':
            return _finite(float(value), what)
    if value.dtype == bool or jnp.issubdtype(value.dtype, jnp.complexfloating) or value.dtype.kind in 'OUS':
        raise TypeError(f'{what} must hold real numbers; got dtype {value.dtype}.')
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(float)
    return _finite(value if isinstance(value, jax.Array) else jnp.asarray(value), what)


def _finite(value, what):
    if is_concrete(value) and not np.all(np.isfinite(np.asarray(value, 'f8'))):
        raise ValueError(f'{what} must be finite; got {show(value)}.')
    return value


def as_floating(value, what: str) -> jax.Array:
    """`value` as an array of a floating dtype: its own, or the default one for integers."""
    array = jnp.asarray(value)
    if array.dtype == bool or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f'{what} must hold real numbers; got dtype {array.dtype}.')
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    return array


def identity_key(value):
    """A key for equality of arguments: by value (-0.0 is 0.0); tracers by identity."""
    if isinstance(magnitude(value), jax.Array | np.ndarray) and is_concrete(value):
        value = jax.tree.map(lambda x: np.asarray(x) + np.zeros((), x.dtype), value)
    return value_key(value)


def show(value) -> str:
    """An expression that rebuilds an argument, with brainunit as `u` and jax.numpy as `jnp`."""
    if isinstance(value, u.Quantity):
        return f'{show(value.mantissa)} * {written_unit(value.unit)}'
    if is_concrete(value) and isinstance(value, jax.Array | np.ndarray):
        text = np.array2string(np.asarray(value, 'f8'), separator=', ', precision=8).replace('\n', '')
        return f"jnp.array({text}, '{value.dtype}')"
    return repr(value) if is_concrete(value) else f'<traced {value.dtype}{list(value.shape)}>'


def require_order(name, low_name, low, high_name, high):
    """Raise `ValueError` unless `low < high` everywhere; traced bounds pass."""
    if not (is_concrete(low) and is_concrete(high)):
        return
    unit = unit_of(low) or unit_of(high)
    low, high = (np.asarray(magnitude_in(v, unit, name), 'f8') for v in (low, high))
    try:
        low, high = np.broadcast_arrays(low, high)
    except ValueError:
        raise ValueError(
            f'{name}: {low_name} of shape {low.shape} and {high_name} of shape {high.shape} do not broadcast.'
        ) from None
    wrong = np.argwhere(~(low < high))
    if len(wrong):
        first = tuple(wrong[0])
        at = f' at {list(map(int, first))}' if first else ''
        raise ValueError(
            f'{name}: {low_name} must be smaller than {high_name}; got {low_name}={low[first]:g} and '
            f'{high_name}={high[first]:g}{at}{f" {unit}" if unit is not None else ""}'
            f'{f" ({len(wrong)} of {low.size} pairs)" if low.size > 1 else ""}.'
        )
