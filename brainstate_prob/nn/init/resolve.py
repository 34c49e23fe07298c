"""`param`: resolve the specification of a layer's parameter to an array."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core import State
from brainstate_prob.core.shapes import to_shape
from brainstate_prob.core.units import u

__all__ = ['param']


def param(
    parameter: Any,
    sizes: int | Sequence[int],
    batch_size: int | None = None,
    allow_none: bool = True,
    allow_scalar: bool = True,
) -> Any:
    """Resolve the specification of a parameter to an array.

    Parameters
    ----------
    parameter
        None (stays None), a number or array or Quantity that broadcasts to ``sizes`` (not expanded), a
        callable of the shape such as an initializer, or a State or `Param`, whose value is taken.
    sizes
        The shape without the batch axis.
    batch_size
        Adds a leading batch axis: a callable is called with ``(batch_size, *sizes)``; an array that has no such
        axis yet is repeated along it. A scalar stays a scalar.
    allow_none, allow_scalar
        Whether None and scalars are taken.

    Raises
    ------
    ValueError
        If the shape does not broadcast to ``sizes``, or None or a scalar is not allowed.
    TypeError
        For any other specification.

    Examples
    --------
    >>> from brainstate_prob.nn import init
    >>> init.param(init.ZeroInit(), (2, 3), batch_size=4).shape
    (4, 2, 3)
    >>> init.param([1.0, 2.0, 3.0], (2, 3)).shape
    (3,)
    """
    shape = to_shape(sizes)
    full = shape if batch_size is None else (operator.index(batch_size), *shape)
    if parameter is None:
        if allow_none:
            return None
        raise ValueError(f'A parameter of shape {full} is needed, got None. Pass an initializer or a value.')
    if isinstance(parameter, State):
        parameter = parameter.value
    elif callable(getattr(parameter, 'value', None)):  # a Param, whose module cannot be imported here
        parameter = parameter.value()
    elif callable(parameter):
        value = parameter(full)
        if np.shape(u.get_mantissa(value)) != full:
            raise ValueError(
                f'The initializer {parameter!r} gave shape {np.shape(u.get_mantissa(value))}, asked for {full}.'
            )
        return value
    value = _as_array(parameter)
    own = jnp.shape(u.get_mantissa(value))
    if own == ():
        if allow_scalar:
            return value
        raise ValueError(f'A parameter of shape {full} is needed, got the scalar {parameter!r}.')
    batched = batch_size is not None and len(own) == len(full)
    wanted = full if batched else shape
    try:
        fits = np.broadcast_shapes(own, wanted) == wanted
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f'A parameter of shape {own} does not broadcast to {wanted}, the shape that is needed.')
    return value if batch_size is None else jax.tree.map(lambda x: jnp.broadcast_to(x, full), value)


def _as_array(value: Any) -> Any:
    """``value`` as an array of its floating dtype; integers and Python numbers in the default dtype."""
    if isinstance(value, bool):
        raise TypeError(
            'A parameter is given as None, a number, an array or an initializer of floating numbers; got '
            f'{value}. Sizes and initializers come in the order of the signature: a layer without bias is b_init=None.'
        )
    if isinstance(value, u.Quantity):
        return u.Quantity(_as_array(value.mantissa), unit=value.unit)
    if isinstance(value, list | tuple | numbers.Number):
        value = np.asarray(value)
        if value.dtype.kind == 'f':
            value = value.astype(environ.dftype())
    elif not isinstance(value, jax.Array | np.ndarray | np.generic):
        raise TypeError(
            'A parameter is given as None, a number, an array, a Quantity, a State, a Param or an initializer; got '
            f'{type(value).__name__} {value!r}.'
        )
    array = jnp.asarray(value)
    if array.dtype.kind in 'iu':
        array = array.astype(environ.dftype())
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(f'A parameter holds floating numbers; got dtype {array.dtype}. Convert it to float.')
    return array
