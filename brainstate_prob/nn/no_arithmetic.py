"""Errors for a Param used in arithmetic instead of its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from brainstate_prob.graph import Node, path_of

__all__ = ['NoArithmetic']

_BINARY = {
    'add': '+',
    'sub': '-',
    'mul': '*',
    'truediv': '/',
    'floordiv': '//',
    'mod': '%',
    'pow': '**',
    'matmul': '@',
    'and': '&',
    'or': '|',
    'xor': '^',
    'divmod': 'divmod',
}
_COMPARISONS = {'lt': '<', 'le': '<=', 'gt': '>', 'ge': '>='}
_UNARY = {'neg': '-param', 'pos': '+param', 'abs': 'abs(param)', 'invert': '~param', 'round': 'round(param)'}
_CONVERSIONS = {'float': 'float(param)', 'int': 'int(param)', 'complex': 'complex(param)', 'index': 'an index'}
_CONTAINER = {
    'len': 'len(param)',
    'iter': 'a loop over it',
    'getitem': 'param[...]',
    'setitem': 'param[...] = ...',
    'contains': '... in param',
}
_ARRAYS = {'array_ufunc': 'a function of NumPy'}
# Attributes of arrays that a Param lacks; it has `shape` and `dtype`.
_ATTRIBUTES = frozenset(
    {
        *('T', 'all', 'any', 'argmax', 'argmin', 'astype', 'at', 'clip', 'copy', 'cumsum', 'dot', 'flatten', 'item'),
        *('max', 'mean', 'min', 'ndim', 'prod', 'ravel', 'reshape', 'round', 'size', 'squeeze', 'std', 'sum'),
        *('swapaxes', 'tolist', 'transpose', 'var'),
    }
)


class NoArithmetic(Node):
    """Base of objects that hold a value: use as a number or an array raises an error with the fix.

    The error is a `TypeError`, and a `ValueError` in functions of JAX.

    Equality and hash are those of the object, so that Params may be keys.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> model = nn.Module()
    >>> model.slope = nn.Param(2.0)
    >>> 3.0 * model.slope
    Traceback (most recent call last):
        ...
    TypeError: Param 'slope' is not a number: use its value, slope.value(), in ... * param. ...
    """

    def _refuse(self, use: str, error: type[Exception] = TypeError) -> NoReturn:
        path = '.'.join(map(str, path_of(self)))
        name = path or 'param'
        raise error(
            f'{self._named(path)} is not a number: use its value, {name}.value(), in {use}. A prior of this library '
            f'takes the Param itself as a hyper-parameter, e.g. nn.GaussianReg(mean={name}, std=1.0); a NumPyro '
            'distribution takes numbers.'
        )

    def _named(self, path: str) -> str:
        label = path or getattr(self, 'name', None)
        if label:
            return f'{type(self).__name__} {label!r}'
        try:
            shown = repr(self)
        except AttributeError:  # during construction
            return f'This {type(self).__name__}'
        return shown if 'Traced' not in shown else f'A {type(self).__name__} of shape {self.shape}'

    def __bool__(self) -> bool:
        self._refuse('a condition (if param, not param, param and ...)')

    @property
    def __jax_array__(self) -> Any:
        # A property, since JAX rejects objects that have the method before calling it. A ValueError, since JAX
        # replaces the message of a TypeError.
        self._refuse('a function of JAX', ValueError)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if dtype is None or np.dtype(dtype) != object:
            self._refuse('a function of NumPy')
        container = np.empty((), object)  # an array of objects may hold it
        container[()] = self
        return container

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse('param(...)')

    def __format__(self, spec: str) -> str:
        if spec:
            self._refuse(f'the format {spec!r}')
        return str(self)

    def __getattr__(self, name: str) -> Any:
        if name in _ATTRIBUTES:
            path = '.'.join(map(str, path_of(self)))
            raise AttributeError(
                f'{self._named(path)} is not an array and has no {name!r}. Use its value: '
                f'{path or "param"}.value().{name}.'
            )
        raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')


def _refusing(name: str, use: str) -> Callable:
    def refuse(self: NoArithmetic, *args: Any, **kwargs: Any) -> Any:
        self._refuse(use)

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


def _uses() -> dict[str, str]:
    """The source code that each special method stands for, for messages."""
    uses = {f'__{name}__': f'param {sign} ...' for name, sign in (_BINARY | _COMPARISONS).items()}
    uses |= {f'__r{name}__': f'... {sign} param' for name, sign in _BINARY.items()}
    for names in (_UNARY, _CONVERSIONS, _CONTAINER, _ARRAYS):
        uses |= {f'__{name}__': use for name, use in names.items()}
    return uses


for _name, _use in _uses().items():
    setattr(NoArithmetic, _name, _refusing(_name, _use))
