"""Whether a log-likelihood sums over all pairs of a target and a prediction: shapes (N, 1) and (N,) that broadcast.

The sum hides the square (N, N) from a check of shapes, so it is looked for in the traced program: numbers that were
made element by element of targets along one axis and of other rows along another, and then added up. Squares that a
model means do not look like this: matrices (of a Gaussian process, of weights) are no broadcasts, pairs of targets
(risk sets, rankings) have targets along both axes, and a mixture takes a logarithm after its sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from brainstate_prob.core.program import inner_program
from brainstate_prob.infer.data.arrays import Data

__all__ = ['squared_messages', 'sums_all_pairs']

_OF_EACH = (
    'abs acos acosh add and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp convert_element_type '
    'copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac integer_pow is_finite le '
    'lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma pow reduce_precision '
    'regularized_incomplete_beta rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor '
    'zeta'
)
_ADDED_UP = (
    'add broadcast_in_dim concatenate convert_element_type copy div mul neg reduce_sum reshape select_n squeeze sub '
    'transpose'
)
_ELEMENTWISE, _LINEAR = frozenset(_OF_EACH.split()), frozenset(_ADDED_UP.split())
_TARGETS, _ROWS = 'targets', 'rows'


class _Made(NamedTuple):
    """Of what an array is made.

    Attributes
    ----------
    axes
        By axis of N entries, of what it is made along it; None for a square that is no broadcast of rows.
    summed
        Whether it is linear in a sum over pairs.
    """

    axes: dict[int, frozenset[str]] | None
    summed: bool = False

    @property
    def of(self) -> frozenset[str]:
        return frozenset({_ROWS}) if self.axes is None else frozenset().union(*self.axes.values())

    @property
    def is_of_pairs(self) -> bool:
        found = list((self.axes or {}).values())
        return len(found) == 2 and all(found) and sum(_TARGETS in of for of in found) == 1


def sums_all_pairs(program: Any, data: Data) -> bool:
    """Whether the first result of a program adds up terms of all pairs of a target and a row of something else.

    Parameters
    ----------
    program
        By `jax.make_jaxpr`; the data are its last arguments.
    """
    shape = np.shape(data.targets)
    if data.targets is None or not shape or shape[0] < 2 or shape.count(shape[0]) != 1:
        return False
    walk = _Walk(shape[0])
    leaves = jax.tree_util.tree_flatten_with_path(data)[0]
    kinds = {'args': _ROWS, 'kwargs': _ROWS, 'targets': _TARGETS}
    of_data = [kinds.get(where[0].name) for where, _ in leaves]
    variables = program.jaxpr.invars
    of = [None] * (len(variables) - len(of_data)) + of_data
    given = [walk.made(v, k) for v, k in zip(variables, of, strict=True)]
    constants = [walk.made(v, _ROWS) for v in program.jaxpr.constvars]
    return walk.run(program.jaxpr, constants, given)[0].summed


def squared_messages(posterior: Any) -> list[str]:
    """In words, whether the log-likelihood scores every target against every prediction."""
    if not posterior.inspection.squared:
        return []
    num = posterior.num_observations
    return [
        f'log_likelihood= scores each of the {num} targets against the predictions of all {num} rows, and sums the '
        f'{num} x {num} terms: predictions of shape ({num}, 1) and targets of shape ({num},), or the other way round, '
        'broadcast to a square. Give both one shape, e.g. model(x)[:, 0] or y[:, None].'
    ]


class _Walk:
    """Follows a program, for ``num`` rows."""

    def __init__(self, num: int):
        self._num = num

    def made(self, variable: Any, of: str | None) -> _Made:
        """An array of one kind; parameters (None) have no rows."""
        return self._of(variable, frozenset() if of is None else frozenset({of}))

    def _of(self, variable: Any, of: frozenset[str]) -> _Made:
        axes = [i for i, n in enumerate(variable.aval.shape) if n == self._num]
        if not of or not axes:
            return _Made({})
        return _Made({axes[0]: of} if len(axes) == 1 else None)

    def run(self, jaxpr: Any, constants: list[_Made], given: list[_Made]) -> list[_Made]:
        known = dict(zip(map(id, (*jaxpr.constvars, *jaxpr.invars)), (*constants, *given), strict=True))

        def look(variable: Any) -> _Made:
            return self.made(variable, _ROWS) if hasattr(variable, 'val') else known[id(variable)]

        for operation in jaxpr.eqns:
            taken = [look(v) for v in operation.invars]
            inner = inner_program(operation)
            if inner is not None:
                found = self.run(inner, [self.made(v, _ROWS) for v in inner.constvars], taken)
            else:
                found = [self._result(operation, v, taken) for v in operation.outvars]
            known.update(zip(map(id, operation.outvars), found, strict=True))
        return [look(v) for v in jaxpr.outvars]

    def _result(self, operation: Any, variable: Any, taken: list[_Made]) -> _Made:
        name = operation.primitive.name
        summed = name in _LINEAR and any(made.summed for made in taken)
        if name == 'reduce_sum':
            (made,), dropped = taken, operation.params['axes']
            summed = summed or (made.is_of_pairs and not set(dropped).isdisjoint(made.axes or ()))
        return _Made(self._axes(operation, name, variable, taken), summed)

    def _axes(self, operation: Any, name: str, variable: Any, taken: list[_Made]) -> dict[int, frozenset[str]] | None:
        if name in _ELEMENTWISE:
            axes: dict[int, frozenset[str]] = {}
            for made in taken:
                if made.axes is None:
                    return None
                for axis, of in made.axes.items():
                    axes[axis] = axes.get(axis, frozenset()) | of
            return axes
        if name == 'broadcast_in_dim' and taken[0].axes is not None:
            to = operation.params['broadcast_dimensions']
            return {to[axis]: of for axis, of in taken[0].axes.items()}
        if name == 'transpose' and taken[0].axes is not None:
            order = operation.params['permutation']
            return {order.index(axis): of for axis, of in taken[0].axes.items()}
        return self._of(variable, frozenset().union(*(made.of for made in taken))).axes
