"""Conversion of inputs and targets to arrays: exact, or with a warning or an error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State
from brainstate_prob.core.quantities import unit_name
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import Node
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.precision import PrecisionWarning, narrowed, of_large_integers, widened
from brainstate_prob.infer.data.sharding import on_host

__all__ = ['call_arguments', 'checked_dims', 'checked_targets', 'magnitude_in', 'new_arguments']


def call_arguments(inputs: Any) -> tuple[tuple, dict]:
    """The positional and keyword arguments of the model given by ``inputs``, as arrays.

    Raises
    ------
    TypeError
        For what is no number: text, dates, functions, sets, modules.
    ValueError
        For NaN, masked entries, lists of unequal length, and numbers that the present precision does not hold.
    """
    if inputs is None:
        return (), {}
    if isinstance(inputs, Mapping):
        unnamed = [k for k in inputs if not isinstance(k, str)]
        if unnamed:
            raise TypeError(
                f'A dict of inputs holds the keyword arguments of the model by name, but has the key {unnamed[0]!r}.'
            )
        return (), _arrays(dict(inputs))
    return _arrays(inputs if isinstance(inputs, tuple) else (inputs,)), {}


def new_arguments(data: Data, inputs: Any) -> tuple[tuple, dict]:
    """`call_arguments` for new inputs; quantities are converted to the units of the inputs in ``data``.

    Inputs of another structure are not converted; the model may refuse them.

    Raises
    ------
    brainunit.UnitMismatchError
        For another dimension, or plain numbers where there was a unit, and the other way round.
    """
    new, fitted = call_arguments(inputs), (data.args, data.kwargs)
    before, of_fitted = jax.tree_util.tree_flatten_with_path(fitted, is_leaf=_is_quantity)
    leaves, form = jax.tree_util.tree_flatten_with_path(new, is_leaf=_is_quantity)
    if str(form) != str(of_fitted):
        return new
    return jax.tree.unflatten(
        form, [_in_unit_of(b, x, where) for (_, b), (where, x) in zip(before, leaves, strict=True)]
    )


def _in_unit_of(fitted: Any, new: Any, where: tuple) -> Any:
    unit, own = u.get_unit(fitted), u.get_unit(new)
    if unit == own:
        return new
    name = 'inputs' + jax.tree_util.keystr(where[1:])  # the first key distinguishes positional from keyword arguments
    if unit.is_unitless:
        raise u.UnitMismatchError(
            f'{name} was fitted as plain numbers; got a Quantity in {unit_name(own)}. Divide it by the unit that the '
            f'numbers were in, e.g. x / u.{unit_name(own)}.'
        )
    if own.is_unitless:
        raise u.UnitMismatchError(
            f'{name} was fitted in {unit_name(unit)}; got plain numbers. Multiply them by the unit, e.g. x * '
            f'u.{unit_name(unit)}.'
        )
    if not own.has_same_dim(unit):
        raise u.UnitMismatchError(
            f'{name} was fitted in {unit_name(unit)}; a value in {unit_name(own)} cannot be converted to it.'
        )
    return u.Quantity(new.to_decimal(unit), unit=unit)


def checked_targets(targets: Any) -> Any:
    """The targets as one array; refuse NaN and arrays without observations.

    Raises
    ------
    TypeError, ValueError
        As `call_arguments`, and for several arrays or none.
    """
    if hasattr(targets, '__jax_array__'):
        targets = jnp.asarray(targets)
    elif isinstance(targets, list | tuple) and not _is_table_of_numbers(targets):
        if any(isinstance(x, u.Quantity) for x in jax.tree.leaves(targets, is_leaf=_is_quantity)):
            raise TypeError('targets is a list of quantities. Give one Quantity: jnp.array([1.0, 2.0]) * u.mV.')
        targets = _stacked([as_array(x, f'targets[{i}]') for i, x in enumerate(targets)])
    elif isinstance(targets, Mapping) or not (
        _is_leaf(targets) or jax.tree_util.treedef_is_leaf(jax.tree.structure(targets))
    ):
        raise TypeError(_one_array(targets))
    targets = as_array(targets, 'targets')
    if targets.size == 0:
        raise ValueError(f'There are no observations: the targets have shape {targets.shape}.')
    return targets


def magnitude_in(targets: Any, unit: u.Unit) -> Any:
    """The magnitude of the targets in ``unit``.

    Raises
    ------
    brainunit.UnitMismatchError
        For targets of another dimension, or plain numbers where there is a unit.
    """
    if not isinstance(targets, u.Quantity):
        if unit.is_unitless:
            return targets
        raise u.UnitMismatchError(
            f'targets has the unit {unit_name(unit)}; got plain numbers. Multiply them by the unit, e.g. targets * '
            f'{unit_name(unit)}.'
        )
    if not targets.unit.has_same_dim(unit):
        raise u.UnitMismatchError(
            f'targets has the unit {unit_name(unit)}; a value in {unit_name(targets.unit)} cannot be converted to it.'
        )
    magnitude = targets.mantissa
    return (
        magnitude
        if targets.unit == unit
        else u.Quantity(as_array(magnitude, 'targets'), unit=targets.unit).to_decimal(unit)
    )


def as_array(x: Any, name: str) -> Any:
    """``x`` as an array of real or complex numbers or bools in the current precision, without changing values.

    Floating numbers are rounded to that precision. Overflow to infinity is an error; underflow to zero and values that
    become equal give a warning. Integers get JAX's default integer dtype, since sums and products of 8 and 16 bits
    overflow (`widened`).
    """
    if isinstance(x, jax.Array):
        _refuse_nan(x, name)
        return _with_integers_checked(widened(x, name), name)
    _refuse_foreign(x, name)
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        if isinstance(x, list | tuple):
            raise ValueError(
                f'{name} is a list whose parts have unequal lengths, which is not an array. Pad them and mask what is '
                'padded, or give one long array and an array of group numbers.'
            ) from None
        raise TypeError(f'{name}: a {type(x).__name__} cannot be read as an array ({error}). {_NUMBERS}') from None
    _refuse_kind(array, x, name)
    narrow = narrowed(array, name)
    _refuse_nan(narrow, name)
    # A Python number keeps its weak type. NumPy arrays are copied, since they may be changed in place later.
    if isinstance(x, bool | int | float | complex):
        return jnp.asarray(x)
    return jnp.array(_with_integers_checked(widened(narrow, name), name))


def _with_integers_checked(array: Any, name: str) -> Any:
    """The same array, after a warning where an input's integers are not distinct as floats."""
    if not name.startswith('targets'):  # for targets it depends on their distribution, which is not known yet
        text = of_large_integers(array, name)
        if text is not None:
            warnings.warn(text, PrecisionWarning, stacklevel=2)
    return array


def _arrays(tree: Any) -> Any:
    def convert(where: tuple, x: Any) -> Any:
        name = 'inputs' + jax.tree_util.keystr(where)
        if _is_list_of_quantities(x):
            raise TypeError(
                f'{name} is a list of quantities. Give one Quantity, jnp.array([1.0, 2.0]) * u.{x[0].unit}; several '
                'arguments are a tuple.'
            )
        if isinstance(x, u.Quantity):
            return u.Quantity(as_array(x.mantissa, name), unit=x.unit)
        return as_array(x, name)

    return jax.tree_util.tree_map_with_path(convert, tree, is_leaf=_is_leaf)


def _is_leaf(x: Any) -> bool:
    return (
        _is_quantity(x)
        or isinstance(x, Node | State | Iterator)
        or (isinstance(x, list) and (_is_table_of_numbers(x) or _is_list_of_quantities(x)))
    )


def _is_quantity(x: Any) -> bool:
    return isinstance(x, u.Quantity)


def _is_list_of_quantities(x: Any) -> bool:
    """Whether ``x`` is a list of scalar quantities of one dimension, which is read as one array."""
    return (
        isinstance(x, list)
        and len(x) > 0
        and all(_is_quantity(q) and np.ndim(q.mantissa) == 0 and q.unit.has_same_dim(x[0].unit) for q in x)
    )


def _is_table_of_numbers(x: Any) -> bool:
    """Whether ``x`` is a (nested) list of numbers, which is read as one array. Lists of arrays stay lists."""
    rows = [x]
    while rows:
        row = rows.pop()
        for entry in row:
            if isinstance(entry, list | tuple):
                rows.append(entry)
            elif not (entry is None or isinstance(entry, bool | int | float | complex | str | np.generic)):
                return False
    return len(x) > 0


def _stacked(arrays: list) -> Any:
    shapes = {jnp.shape(x) for x in arrays}
    if len(shapes) > 1:
        raise TypeError(
            f'targets must be one array, got a list of arrays of shapes {sorted(shapes)}. Join them by '
            'jnp.concatenate, or use log_likelihood=f with everything as inputs.'
        )
    return jnp.stack(arrays) if arrays else np.zeros(0)


def _one_array(targets: Any) -> str:
    return (
        f'targets must be one array, got {type(targets).__name__}. For several outputs stack them, or use '
        'log_likelihood=f with everything as inputs.'
    )


def checked_dims(dims: Mapping[str, Any], arrays: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The names of the axes of the data, by array, as tuples.

    Raises
    ------
    ValueError
        For names of what is no array, another number of axes, a name twice, or that of an array.
    """
    checked = {}
    for name, axes in dims.items():
        if name not in arrays:
            raise ValueError(f'dims names the axes of {name!r}, but the data are {list(arrays)}.')
        checked[name] = (axes,) if isinstance(axes, str) else tuple(axes)
        shape = np.shape(u.get_magnitude(arrays[name]))
        if len(checked[name]) != len(shape) or not all(isinstance(axis, str) for axis in checked[name]):
            raise ValueError(f'dims[{name!r}] must be one name an axis of shape {shape}, got {axes!r}.')
        taken = [axis for axis in checked[name] if axis in arrays]
        if taken:
            raise ValueError(
                f"dims[{name!r}] has the axis {taken[0]!r}, which is the name of one of the data's arrays. Rename it."
            )
        if len(set(checked[name])) != len(shape):
            raise ValueError(f'dims[{name!r}] has a name twice: {axes!r}.')
    return checked


# Refusal of anything but arrays of numbers

_NUMBERS = 'Data are arrays of numbers.'


def _refuse_foreign(x: Any, name: str) -> None:
    """Refuse objects that are not numbers, with advice on what to pass instead."""
    kind = type(x).__name__
    if isinstance(x, Node | State):
        raise TypeError(
            f'{name} is a {kind}, which is part of a model and not data. Make it an attribute of the model, or give '
            'its value: param.value().'
        )
    if isinstance(x, str | bytes):
        raise TypeError(
            f'{name} is text: {x!r}. {_NUMBERS} Encode labels by np.unique(labels, return_inverse=True)[1]; an option '
            'of the model is an attribute of it.'
        )
    if isinstance(x, Set):
        raise TypeError(f'{name} is a {kind}, which has no order. Give a list or an array.')
    if isinstance(x, Iterator):
        raise TypeError(
            f'{name} is a {kind}, which gives its values only once. Give an array or a list: np.array(list(values)).'
        )
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(
            f'{name} has {int(np.ma.count_masked(x))} masked entries of {x.size}, and a mask is not kept in an array. '
            'Drop them, or fill them in (y.filled(1.0), by a value that the distribution can take), give ~y.mask as '
            'an input, and return dist.Normal(...).mask(mask).'
        )
    if callable(getattr(x, 'toarray', None)):
        raise TypeError(f'{name} is a sparse matrix ({kind}). Give it as {name}.toarray().')
    if callable(x) or isinstance(x, Mapping):
        raise TypeError(f'{name} is a {kind}. {_NUMBERS} Keep functions and options as attributes of the model.')


def _refuse_kind(array: np.ndarray, x: Any, name: str) -> None:
    """Refuse non-numeric dtypes."""
    dtype = array.dtype
    if dtype.kind in 'mM':
        raise TypeError(
            f'{name} holds dates or times ({dtype}). Give numbers, counted from the first, in a unit of moderate '
            "size: (t - t[0]) / np.timedelta64(1, 's')."
        )
    if dtype.kind in 'USOT':
        entries = array.ravel().tolist()
        kinds = sorted({type(e).__name__ for e in entries})
        text = [e for e in entries if isinstance(e, str | bytes)]
        missing = [i for i, e in enumerate(entries) if e is None or type(e).__name__ in ('NAType', 'NaTType')]
        if text:
            raise TypeError(
                f'{name} holds text: {text[0]!r}. {_NUMBERS} Encode labels by np.unique(labels, '
                'return_inverse=True)[1]; turn numbers written as text into numbers by .astype(float).'
            )
        if missing:
            first = tuple(int(i) for i in np.unravel_index(missing[0], array.shape))
            raise ValueError(
                f'{name} has {len(missing)} missing entries ({entries[missing[0]]}), the first at {first}. Drop or '
                'impute them before fitting.'
            )
        if kinds == ['int']:
            raise ValueError(f'{name} has integers beyond 64 bits. Give them as floating numbers, in another scale.')
        raise TypeError(
            f'{name} is an array of Python objects ({", ".join(kinds)}) of shape {array.shape}. {_NUMBERS} '
            'If each of them is a number, .astype(float) makes it one; arrays of unequal length have to be padded.'
        )
    if dtype.names is not None:
        raise TypeError(f'{name} has named columns {dtype.names}. Give them as a dict of inputs, one array each.')
    if not (dtype.kind in 'biufc' or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f'{name} has the dtype {dtype}. {_NUMBERS}')


def _refuse_nan(x: Any, name: str) -> None:
    """Refuse NaN entries; the error names the first position."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return
    elsewhere = isinstance(x, jax.Array) and not x.is_fully_addressable  # some shards are on other processes' devices
    bad = on_host(jnp.isnan(x)) if elsewhere else np.isnan(np.asarray(x))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f'{name} has {int(bad.sum())} NaN entries, the first at {first}. Drop or impute them before fitting.'
        )
