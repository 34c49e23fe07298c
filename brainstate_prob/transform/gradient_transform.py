"""GradientTransform: any JAX gradient transform, over States and arguments, with one return convention."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import State
from brainstate_prob.core.functionalize import Pure
from brainstate_prob.core.quantities import is_quantity
from brainstate_prob.core.units import u
from brainstate_prob.transform.base import Transformed, check_callable, flatten_states, split_aux

__all__ = ['GradientTransform', 'Wrt']


class Wrt(NamedTuple):
    """The differentiated values, or their gradients: of the States in order, and of the chosen arguments."""

    states: list
    args: tuple


def _is_wrt(x: Any) -> bool:
    return isinstance(x, Wrt)


class _Hidden:
    """Passes any pytree through a JAX transform: leaves other than arrays are kept aside and put back."""

    def __call__(self, value: Any) -> list:
        self.tree: Any
        leaves, self.tree = jax.tree.flatten(value)
        self.rest = [None if isinstance(x, jax.Array) else x for x in leaves]
        return [x if isinstance(x, jax.Array) else None for x in leaves]

    def restore(self, arrays: list) -> Any:
        return self.tree.unflatten([r if a is None else a for a, r in zip(arrays, self.rest, strict=True)])


class GradientTransform(Transformed):
    """A function that returns the gradients of ``target`` with respect to States and arguments.

    Parameters
    ----------
    target
        The function to differentiate; it may read, write and create States. Writes are kept.
    transform
        ``transform(fun, argnums=0, has_aux=True, **transform_params)`` must return a function of the same one
        argument as ``fun`` that returns ``(gradients, aux)``. The argument is a pytree, `Wrt`, of the values of all
        the States and of the chosen arguments, so the gradients can be scaled or clipped together.
    grad_states
        A State, a list, tuple or dict of States, or a Module (its ParamStates).
    argnums
        Which positional arguments: an int, or a sequence of ints for a tuple of gradients; negative ones
        count from the end. Default: 0 if no States are given, else none.
    return_value
        Return the value too.
    has_aux
        ``target`` returns ``(value, aux)``; ``aux`` is any pytree, not only of arrays.
    transform_params
        Further keyword arguments of ``transform``.
    check_states
        Raise for a State of ``grad_states`` that ``target`` does not read; otherwise its gradient is zero.
    debug_nan
        Raise FloatingPointError if a gradient is not finite, naming the States and arguments.
    unit_aware
        Allow units of the output; a gradient then has the unit of output / parameter. Otherwise a gradient has
        the unit of its parameter, as a JAX pytree has, second and mixed derivatives have none, and an output
        with a unit raises.

    Returns
    -------
    ``G``, ``(G, aux)``, ``(G, value)`` or ``(G, value, aux)``. ``G`` are the gradients of the arguments if no States
    are given, those of the States in the structure of ``grad_states`` if no arguments are given, else
    ``(of the States, of the arguments)``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from brainstate_prob import ParamState, transform
    >>> def halved(fun, *, argnums, has_aux):
    ...     gradient = jax.grad(fun, argnums=argnums, has_aux=True)
    ...
    ...     def call(x):
    ...         grads, aux = gradient(x)
    ...         return jax.tree.map(lambda g: g / 2, grads), aux
    ...
    ...     return call
    >>> w = ParamState(jnp.array(3.0))
    >>> f = transform.GradientTransform(lambda x: (x * w.value) ** 2, halved, {'w': w})
    >>> {k: float(g) for k, g in f(2.0).items()}
    {'w': 12.0}
    """

    def __init__(
        self,
        target: Callable,
        transform: Callable,
        grad_states: Any = None,
        argnums: int | Sequence[int] | None = None,
        return_value: bool = False,
        has_aux: bool | None = False,
        transform_params: dict | None = None,
        check_states: bool = True,
        debug_nan: bool = False,
        unit_aware: bool = False,
    ):
        super().__init__(target)
        check_callable(transform, 'GradientTransform.transform')
        self._transform = transform
        self._params = dict(transform_params or {})
        self._has_states = grad_states is not None
        self._entries, self._rebuild = flatten_states([] if grad_states is None else grad_states)
        self._states = list(dict.fromkeys(state for _, state in self._entries))
        self._argnums = _check_argnums(0 if argnums is None and grad_states is None else argnums)
        self._return_value = bool(return_value)
        self._has_aux = bool(has_aux)
        self._check_states = check_states
        self._debug_nan = debug_nan
        self._unit_aware = unit_aware

    def __call__(self, *args, **kwargs):
        args, kwargs, argnums = self._arguments(args, kwargs)
        theta = Wrt([state.value for state in self._states], tuple(args[n] for n in argnums))
        labels = [*map(self._label, self._states), *(f'Argument {n}' for n in argnums)]
        self._check_types(theta, labels)
        tree: Any
        leaves, tree = jax.tree.flatten(theta, is_leaf=is_quantity)
        units = [leaf.unit if is_quantity(leaf) else u.UNITLESS for leaf in leaves]
        magnitudes = tree.unflatten([leaf.mantissa if is_quantity(leaf) else leaf for leaf in leaves])
        with_units = any(is_quantity(leaf) for leaf in leaves)
        pure, hidden = Pure(self.fun, self._states), _Hidden()
        out_units: list = []

        def fun(wrt: Wrt):
            if with_units:
                wrt = tree.unflatten(
                    [
                        u.Quantity(m, unit=leaf.unit) if is_quantity(leaf) else m
                        for m, leaf in zip(tree.flatten_up_to(wrt), leaves, strict=True)
                    ]
                )
            full = list(args)
            for n, value in zip(argnums, wrt.args, strict=True):
                full[n] = value
            value, written, created = pure(wrt.states, *full, **kwargs)
            value, aux = split_aux(value) if self._has_aux else (value, None)
            out, out_units[:] = self._strip(value)
            return out, hidden((value, aux, written, created))

        grads, arrays = self._transform(fun, argnums=0, has_aux=True, **self._params)(magnitudes)
        value, aux, written, created = hidden.restore(arrays)
        if self._check_states:
            self._check_read(pure)
        pure.commit(written, created)
        if self._debug_nan:
            _check_finite(grads, labels, tree)
        if with_units or any(not unit.is_unitless for unit in out_units):
            grads = self._with_units(grads, tree, units, jax.tree.structure(value, is_leaf=is_quantity), out_units)
        result = self._assemble(grads)
        if not (self._return_value or self._has_aux):
            return result
        return (result, *([value] if self._return_value else []), *([aux] if self._has_aux else []))

    def _label(self, state: State) -> str:
        path = next(path for path, s in self._entries if s is state)
        where = f' at {path}' if path else ''
        return f'{state._label()}{where}'

    def _arguments(self, args: tuple, kwargs: dict) -> tuple[tuple, dict, tuple[int, ...]]:
        """Positional and keyword arguments, and the positions to differentiate; a chosen one may be a keyword."""
        nums = self._argnums if isinstance(self._argnums, tuple) else () if self._argnums is None else (self._argnums,)
        needed = max((n if n >= 0 else -n - 1 for n in nums), default=-1)
        if needed >= len(args) and kwargs:
            try:
                names = list(inspect.signature(self.fun).parameters)[len(args) : needed + 1]
            except (TypeError, ValueError):
                names = []
            if names and all(name in kwargs for name in names):
                args = (*args, *(kwargs[name] for name in names))
                kwargs = {k: v for k, v in kwargs.items() if k not in names}
        for n in nums:
            if not -len(args) <= n < len(args):
                raise ValueError(
                    f'argnums={n} names no argument: the call has {len(args)} positional argument'
                    f'{"" if len(args) == 1 else "s"}. Give the argument, or grad_states to differentiate States.'
                )
        nums = tuple(n % len(args) for n in nums)
        if len(set(nums)) < len(nums):
            raise ValueError(f'argnums={self._argnums} names an argument twice; the call has {len(args)} arguments.')
        return args, kwargs, nums

    def _check_types(self, theta: Wrt, labels: list[str]) -> None:
        if self._params.get('allow_int'):
            return
        for label, value in zip(labels, (*theta.states, *theta.args), strict=True):
            for leaf in jax.tree.leaves(value):
                try:
                    dtype = jnp.result_type(leaf)
                except TypeError:
                    raise TypeError(
                        f'{label} cannot be differentiated: it is a {type(leaf).__name__}, not an array.'
                    ) from None
                if not jnp.issubdtype(dtype, jnp.inexact):
                    raise TypeError(
                        f'{label} cannot be differentiated: its type is {dtype}; a floating or complex type is needed. '
                        f'Convert it, omit it, or use allow_int=True (reverse mode) for gradients of type float0.'
                    )

    def _strip(self, value: Any) -> tuple[Any, list]:
        """The magnitudes of the output, and the units of its leaves."""
        tree: Any
        leaves, tree = jax.tree.flatten(value, is_leaf=is_quantity)
        units = [leaf.unit if is_quantity(leaf) else u.UNITLESS for leaf in leaves]
        if not self._unit_aware:
            if dimensioned := [unit for unit in units if not unit.is_unitless and not unit.dim.is_dimensionless]:
                raise TypeError(
                    f'The function to differentiate returned a quantity in {dimensioned[0]}. Use unit_aware=True for '
                    'gradients with units, or return a magnitude: loss.to_decimal(unit).'
                )
            leaves = [leaf.to_decimal() if is_quantity(leaf) else leaf for leaf in leaves]
            return tree.unflatten(leaves), [u.UNITLESS] * len(leaves)
        return tree.unflatten([leaf.mantissa if is_quantity(leaf) else leaf for leaf in leaves]), units

    def _with_units(self, grads: Any, tree: Any, units: list, out_tree: Any, out_units: list) -> Any:
        def finish(wrt: Wrt, out_unit: Any) -> Wrt:
            parts = zip(tree.flatten_up_to(wrt), units, strict=True)
            return tree.unflatten([leaf(sub, out_unit, unit) for sub, unit in parts])

        def leaf(sub: Any, out_unit: Any, unit: Any) -> Any:
            if any(map(_is_wrt, jax.tree.leaves(sub, is_leaf=_is_wrt))):
                return jax.tree.map(
                    lambda w: finish(w, out_unit / unit) if self._unit_aware else w, sub, is_leaf=_is_wrt
                )
            result = u.Quantity(sub, unit=out_unit / unit if self._unit_aware else unit)
            return result.to_decimal() if result.unit.dim.is_dimensionless else result

        outer = out_tree.flatten_up_to(grads)
        return out_tree.unflatten(
            [
                jax.tree.map(lambda w: finish(w, unit), part, is_leaf=_is_wrt)  # noqa: B023
                for part, unit in zip(outer, out_units, strict=True)
            ]
        )

    def _assemble(self, grads: Any) -> Any:
        """The gradients in the structures of ``grad_states`` and ``argnums``."""
        position = {state: n for n, state in enumerate(self._states)}

        def states(wrt: Wrt) -> Any:
            values = [inner(wrt.states[position[state]]) for _, state in self._entries]
            return self._rebuild(values)

        def args(wrt: Wrt) -> Any:
            values = tuple(map(inner, wrt.args))
            return values if isinstance(self._argnums, tuple) else values[0]

        def both(wrt: Wrt) -> Any:
            if not self._has_states:
                return args(wrt)
            return states(wrt) if self._argnums is None else (states(wrt), args(wrt))

        def inner(value: Any) -> Any:
            return jax.tree.map(lambda x: both(x) if _is_wrt(x) else x, value, is_leaf=_is_wrt)

        def outer(part: Callable[[Wrt], Any]) -> Any:
            return jax.tree.map(lambda x: part(x) if _is_wrt(x) else x, grads, is_leaf=_is_wrt)

        if self._has_states and self._argnums is not None:
            return outer(states), outer(args)
        return outer(both)

    def _check_read(self, pure: Pure) -> None:
        unread = [state for state in self._states if state not in pure.reads]
        if unread:
            names = '; '.join(map(self._label, unread))
            raise ValueError(
                f'The function does not read the States to differentiate by: {names}. '
                'Leave it out of grad_states, or use check_states=False for gradients of zero.'
            )


def _check_argnums(argnums: Any) -> int | tuple[int, ...] | None:
    def one(n: Any) -> int:
        if isinstance(n, bool | np.bool_) or not isinstance(n, int | np.integer):
            raise TypeError(f'argnums takes an int or a sequence of ints; got {argnums!r}.')
        return int(n)

    if argnums is None:
        return None
    if isinstance(argnums, list | tuple | range | np.ndarray) and np.ndim(argnums) == 1:
        nums = tuple(map(one, argnums))
        if len(set(nums)) < len(nums):
            raise ValueError(f'argnums={argnums} names an argument twice.')
        return nums
    return one(argnums)


def _check_finite(grads: Any, labels: list[str], tree: Any) -> None:
    bad: dict[str, Any] = {}
    for wrt in filter(_is_wrt, jax.tree.leaves(grads, is_leaf=_is_wrt)):
        for label, part in zip(labels, (*wrt.states, *wrt.args), strict=True):
            leaves = [x for x in jax.tree.leaves(part) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
            flags = [~jnp.isfinite(x).all() for x in leaves]
            if flags:
                bad[label] = jnp.stack([*flags, *([bad[label]] if label in bad else [])]).any()

    def check(*flags):
        if names := [label for label, flag in zip(bad, flags, strict=True) if flag]:
            raise FloatingPointError(f'The gradient is not finite for: {"; ".join(names)}.')

    if any(isinstance(flag, jax.core.Tracer) for flag in bad.values()):
        jax.debug.callback(check, *bad.values())
    else:
        check(*bad.values())
