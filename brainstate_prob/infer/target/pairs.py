"""Whether a log-likelihood sums over all pairs of a target and a prediction: shapes (N, 1) and (N,) that broadcast.

The sum hides the square (N, N) from a check of shapes, so it is looked for in the traced program: numbers that were
made element by element of targets along one axis and of other rows along another, and then added up by a sum, a product
of matrices, a norm or the carry of a scan. Squares that a model means do not look like this: matrices (of a Gaussian
process, of weights, a mask) are no broadcasts, pairs of targets (risk sets, rankings) have targets along both axes, and
a mixture takes a logarithm after its sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from brainstate_prob.core.program import inner_program, scan_counts
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
    'add broadcast_in_dim concatenate convert_element_type copy div dynamic_slice gather mul neg reduce_sum reshape '
    'select_n slice squeeze sub transpose'
)
_ELEMENTWISE, _LINEAR = frozenset(_OF_EACH.split()), frozenset(_ADDED_UP.split())
# Of the sum over both axes these make a score of the same mistake: a norm and its square, a profile likelihood.
_OF_A_TOTAL = frozenset({'abs', 'integer_pow', 'log', 'mul', 'pow', 'sqrt', 'square'})
_TARGETS, _ROWS, _CONSTANTS, _PARAMETERS, _PAIRS = 'targets', 'rows', 'constants', 'parameters', 'pairs'
_NUMBERS = 'numbers'  # 0, 1, 2, ...


class _Made(NamedTuple):
    """Of what an array is made.

    Attributes
    ----------
    axes
        By axis of N entries, of what it is made along it; None for a square that is no broadcast of rows. In the body
        of a scan, the axis that is scanned is -1, in that of a scan within it -2. An axis that joins the two of a
        square is of pairs.
    summed
        Whether it is linear in a sum over pairs.
    carried
        Whether it is what a scan has added up so far.
    exponential
        Whether an exponential of pairs is in it: the logarithm of a sum of those is a mixture's.
    """

    axes: dict[int, frozenset[str]] | None
    summed: bool = False
    carried: bool = False
    exponential: bool = False

    @property
    def of(self) -> frozenset[str]:
        return frozenset({_ROWS}) if self.axes is None else frozenset().union(*self.axes.values())

    @property
    def is_of_pairs(self) -> bool:
        """Targets along one axis, rows along the other.

        Constants count as rows that a model holds itself, unless something else varies with the targets: then they
        are the nodes of a quadrature for every row.
        """
        found = list((self.axes or {}).values())
        if any(_PAIRS in of for of in found):
            return True
        if len(found) != 2 or sum(_TARGETS in of for of in found) != 1:
            return False
        other, targets = sorted(found, key=lambda of: _TARGETS in of)
        return _ROWS in other or (_CONSTANTS in other and targets <= {_TARGETS, _CONSTANTS})

    @property
    def is_a_total(self) -> bool:
        return self.summed and self.axes == {}

    @property
    def scanned(self) -> dict[int, frozenset[str]]:
        return {axis: of for axis, of in (self.axes or {}).items() if axis < 0}


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
    of_data = [kinds.get(where[0].name, _PARAMETERS) for where, _ in leaves]
    variables = program.jaxpr.invars
    of = [_PARAMETERS] * (len(variables) - len(of_data)) + of_data
    given = [walk.made(v, k) for v, k in zip(variables, of, strict=True)]
    constants = [walk.made(v, _CONSTANTS) for v in program.jaxpr.constvars]
    return walk.run(program.jaxpr, constants, given)[0].summed


def squared_messages(posterior: Any) -> list[str]:
    """In words, whether the log-likelihood scores every target against every prediction."""
    if not posterior.inspection.sums_pairs:
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
        self._steps: list[int] = []  # of the scans around an operation

    @property
    def _depth(self) -> int:
        return -len(self._steps)

    def made(self, variable: Any, of: str) -> _Made:
        """An array of one kind."""
        return self._of(variable, frozenset({of}))

    def _of(self, variable: Any, of: frozenset[str]) -> _Made:
        axes = [i for i, n in enumerate(variable.aval.shape) if n == self._num]
        if not of or not axes:
            return _Made({})
        return _Made({axes[0]: of} if len(axes) == 1 else None)

    def run(self, jaxpr: Any, constants: list[_Made], given: list[_Made]) -> list[_Made]:
        known = dict(zip(map(id, (*jaxpr.constvars, *jaxpr.invars)), (*constants, *given), strict=True))

        def look(variable: Any) -> _Made:
            return self.made(variable, _CONSTANTS) if hasattr(variable, 'val') else known[id(variable)]

        for operation in jaxpr.eqns:
            taken = [look(v) for v in operation.invars]
            inner = inner_program(operation)
            if inner is not None:
                found = self._inside(inner, taken)
            elif operation.primitive.name == 'scan':
                found = self._scan(operation, taken)
            elif operation.primitive.name == 'cond':
                found = self._branches(operation, taken[1:])
            else:
                found = [self._result(operation, v, taken) for v in operation.outvars]
            known.update(zip(map(id, operation.outvars), found, strict=True))
        return [look(v) for v in jaxpr.outvars]

    def _inside(self, inner: Any, taken: list[_Made]) -> list[_Made]:
        return self.run(inner, [self.made(v, _CONSTANTS) for v in inner.constvars], taken)

    def _branches(self, operation: Any, taken: list[_Made]) -> list[_Made]:
        """What any of the branches makes."""
        branches = [self._inside(branch.jaxpr, taken) for branch in operation.params['branches']]
        return [
            _Made(
                _together(made),
                summed=any(one.summed for one in made),
                carried=all(one.carried for one in made),
                exponential=any(one.exponential for one in made),
            )
            for made in zip(*branches, strict=True)
        ]

    def _scan(self, operation: Any, taken: list[_Made]) -> list[_Made]:
        """A scan by its first step: what is added to its carry is summed along the axis that is scanned."""
        body, (consts, carry) = operation.params['jaxpr'].jaxpr, scan_counts(operation.params)
        self._steps.append(operation.params['length'])
        step = self._depth

        def entry(made: _Made) -> _Made:
            if made.axes is None:
                return made
            return made._replace(axes={step if axis == 0 else axis - (axis > 0): of for axis, of in made.axes.items()})

        def stacked(made: _Made) -> _Made:
            if made.axes is None:
                return made
            return made._replace(
                axes={0 if axis == step else axis + (axis >= 0): of for axis, of in made.axes.items()}, carried=False
            )

        start = [made._replace(carried=True) for made in taken[consts : consts + carry]]
        found = self._inside(body, [*taken[:consts], *start, *map(entry, taken[consts + carry :])])
        self._steps.pop()
        ends = zip(taken[consts:], operation.outvars[:carry], found, strict=False)
        last = [
            self._merged(v, (first, made))._replace(summed=made.summed, exponential=made.exponential)
            for first, v, made in ends
        ]
        return [*last, *map(stacked, found[carry:])]

    def _merged(self, variable: Any, taken: Any) -> _Made:
        """An array made of others in no way that is followed: along each axis of all that they are made of.

        The axes of scans that are no longer open are left out.
        """
        of = frozenset().union(*(made.of for made in taken))
        scanned = {axis: of for made in taken for axis in made.scanned if axis >= self._depth}
        axes = self._of(variable, of).axes
        return _Made(None if axes is None else axes | scanned)

    def _result(self, operation: Any, variable: Any, taken: list[_Made]) -> _Made:
        name = operation.primitive.name
        made = self._followed(operation, name, variable, taken) or self._merged(variable, taken)
        return made._replace(
            summed=self._is_summed(operation, name, taken),
            carried=name in _LINEAR and any(one.carried for one in taken),
            exponential=any(one.exponential or (name == 'exp' and one.is_of_pairs) for one in taken),
        )

    def _is_summed(self, operation: Any, name: str, taken: list[_Made]) -> bool:
        if name == 'reduce_sum':
            sums = [operation.params['axes']]
        elif name == 'dot_general' and all(one.axes is not None for one in taken):
            sums = operation.params['dimension_numbers'][0]
        else:
            sums = []
        over = zip(taken, sums, strict=False)
        if any(one.is_of_pairs and not set(axes).isdisjoint(one.axes or ()) for one, axes in over):
            return True
        added = [one for one in taken if not one.carried] if name in ('add', 'sub') else taken
        if len(added) < len(taken) and any(one.is_of_pairs and self._depth in one.scanned for one in added):
            return True
        summed = [one for one in taken if one.summed]
        if name in _OF_A_TOTAL and summed and all(one.is_a_total for one in summed):
            return name != 'log' or not summed[0].exponential
        if name in ('mul', 'dot_general'):
            return len(summed) == 1
        if name == 'div':
            return taken[0].summed and not taken[1].summed
        return name in _LINEAR and bool(summed)

    def _followed(self, operation: Any, name: str, variable: Any, taken: list[_Made]) -> _Made | None:
        """What an operation makes where its result's axes are those of what it takes."""
        if name in _ELEMENTWISE:
            axes = _together(taken)
            # A comparison of row and column numbers is a mask, e.g. the diagonal: a square that is no broadcast.
            return _Made(None if axes and len(axes) > 1 and set(axes.values()) == {frozenset({_NUMBERS})} else axes)
        if name == 'iota':
            along = operation.params['dimension']
            return _Made({along: frozenset({_NUMBERS})} if variable.aval.shape[along] == self._num else {})
        if name == 'reshape' and taken[0].axes is None and any(n % self._num**2 == 0 for n in variable.aval.shape):
            return _Made(None)
        if not taken or taken[0].axes is None:
            return None
        made, shape = taken[0], operation.invars[0].aval.shape
        if name == 'broadcast_in_dim':
            return _moved(made, dict(enumerate(operation.params['broadcast_dimensions'])))
        if name == 'transpose':
            return _moved(made, {axis: i for i, axis in enumerate(operation.params['permutation'])})
        if name == 'dynamic_slice' and self._steps and self._steps[-1] == self._num:
            # A row by its number, in a loop over as many: it is the row of the step.
            sizes = operation.params['slice_sizes']
            return _moved(made, {axis: axis if sizes[axis] > 1 else self._depth for axis in range(len(shape))})
        if name in ('reshape', 'squeeze', 'expand_dims'):
            return self._reshaped(made, shape, variable.aval.shape)
        if name == 'reduce_sum':
            dropped = operation.params['axes']
            kept = _moved(made, {axis: i for i, axis in enumerate(i for i in range(len(shape)) if i not in dropped)})
            gone = frozenset().union(*(of for axis, of in (made.axes or {}).items() if axis in dropped)) - {_PAIRS}
            return _Made({axis: of | gone for axis, of in (kept.axes or {}).items()})
        return None

    def _reshaped(self, made: _Made, before: tuple[int, ...], after: tuple[int, ...]) -> _Made | None:
        long, longer = ([i for i, n in enumerate(shape) if n != 1] for shape in (before, after))
        if [before[i] for i in long] == [after[i] for i in longer]:
            return _moved(made, dict(zip(long, longer, strict=True)))
        joined = [i for i, n in enumerate(after) if n % self._num**2 == 0]
        if not joined or len([axis for axis in made.axes or () if axis >= 0]) != 2:
            return None
        return _Made(made.scanned | {joined[0]: frozenset({_PAIRS})} if made.is_of_pairs else None)


def _together(taken: Iterable[_Made]) -> dict[int, frozenset[str]] | None:
    """Of what something is made that is made of all of these, element by element."""
    axes: dict[int, frozenset[str]] = {}
    for made in taken:
        if made.axes is None:
            return None
        for axis, of in made.axes.items():
            axes[axis] = axes.get(axis, frozenset()) | of
    return axes


def _moved(made: _Made, to: dict[int, int]) -> _Made:
    """With its axes at their new places, those of scans where they were."""
    return _Made({to.get(axis, axis): of for axis, of in (made.axes or {}).items() if axis < 0 or axis in to})
