"""Whether a log-likelihood sums over all pairs of a target and a prediction: shapes (N, 1) and (N,) that broadcast.

The sum hides the shape (N, N) from a check of shapes, so the traced program is searched for it: element-wise functions
of targets along one axis and other rows along another, which are summed by a reduction, a matrix product, a norm or the
carry of a scan. Intended matrices do not match: covariances, weights and masks are not broadcasts, pairs of targets
(risk sets, rankings) have targets along both axes, and a mixture takes a logarithm after its sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any, NamedTuple

import jax
import numpy as np

from brainstate_prob.core.interpreter import ELEMENTWISE, Interpreter, split_inputs
from brainstate_prob.infer.data.arrays import Data

__all__ = ['squared_messages', 'sums_all_pairs']

_LINEAR_OPERATIONS = (
    'add broadcast_in_dim concatenate convert_element_type copy div dynamic_slice gather mul neg reduce_sum reshape '
    'select_n slice squeeze sub transpose'
)
_LINEAR = frozenset(_LINEAR_OPERATIONS.split())
# Functions of the sum over both axes that occur in the same mistake: norms, profile likelihoods.
_FUNCTIONS_OF_A_SUM = frozenset({'abs', 'integer_pow', 'log', 'mul', 'pow', 'sqrt', 'square'})
_TARGETS, _ROWS, _CONSTANTS, _PARAMETERS, _PAIRS = 'targets', 'rows', 'constants', 'parameters', 'pairs'
_NUMBERS = 'numbers'  # 0, 1, 2, ...


class _Origin(NamedTuple):
    """The inputs from which the entries of an array are computed.

    Attributes
    ----------
    axes
        For each axis of N entries, what varies along it; None for a square that is no broadcast of rows. In the body
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
    def kinds(self) -> frozenset[str]:
        return frozenset({_ROWS}) if self.axes is None else frozenset().union(*self.axes.values())

    @property
    def is_of_pairs(self) -> bool:
        """Whether targets vary along one axis and rows along the other.

        Constants count as rows kept by the model, unless something else varies with the targets: then they are the
        nodes of a quadrature for every row.
        """
        along = list((self.axes or {}).values())
        if any(_PAIRS in kinds for kinds in along):
            return True
        if len(along) != 2 or sum(_TARGETS in kinds for kinds in along) != 1:
            return False
        other, targets = sorted(along, key=lambda kinds: _TARGETS in kinds)
        return _ROWS in other or (_CONSTANTS in other and targets <= {_TARGETS, _CONSTANTS})

    @property
    def is_a_total(self) -> bool:
        return self.summed and self.axes == {}

    @property
    def scanned(self) -> dict[int, frozenset[str]]:
        return {axis: kinds for axis, kinds in (self.axes or {}).items() if axis < 0}


def sums_all_pairs(program: Any, data: Data) -> bool:
    """Whether the first result of a program sums over all pairs of a target and a row of another array.

    Parameters
    ----------
    program
        By `jax.make_jaxpr`; the data are its last arguments.
    """
    shape = np.shape(data.targets)
    if data.targets is None or not shape or shape[0] < 2 or shape.count(shape[0]) != 1:
        return False
    pairs = _Pairs(shape[0])
    sides = {'args': _ROWS, 'kwargs': _ROWS, 'targets': _TARGETS}
    kinds = [sides.get(where[0].name, _PARAMETERS) for where, _ in jax.tree_util.tree_flatten_with_path(data)[0]]
    variables = program.jaxpr.invars
    kinds = [_PARAMETERS] * (len(variables) - len(kinds)) + kinds
    return pairs.run(program, [pairs.origin(v, {kind}) for v, kind in zip(variables, kinds, strict=True)])[0].summed


def squared_messages(posterior: Any) -> list[str]:
    """A message if the log-likelihood scores every target against every prediction."""
    if not posterior.inspection.sums_pairs:
        return []
    num = posterior.num_observations
    return [
        f'log_likelihood= scores each of the {num} targets against the predictions of all {num} rows, and sums the '
        f'{num} x {num} terms: predictions of shape ({num}, 1) and targets of shape ({num},), or the other way round, '
        'broadcast to a matrix. Give both the same shape, e.g. model(x)[:, 0] or y[:, None].'
    ]


class _Pairs(Interpreter[_Origin]):
    """Propagates origins through a program, for ``num`` rows."""

    def __init__(self, num: int):
        self._num = num
        self._steps: list[int] = []  # the lengths of the enclosing scans

    @property
    def _depth(self) -> int:
        return -len(self._steps)

    def origin(self, variable: Any, kinds: Set[str]) -> _Origin:
        """The origin of an input array that varies along its axis of rows."""
        axes = [i for i, n in enumerate(variable.aval.shape) if n == self._num]
        if not kinds or not axes:
            return _Origin({})
        return _Origin({axes[0]: frozenset(kinds)} if len(axes) == 1 else None)

    def constant(self, variable: Any, value: Any) -> _Origin:
        return self.origin(variable, {_CONSTANTS})

    def operation(self, operation: Any, inputs: list[_Origin]) -> list[_Origin]:
        if operation.primitive.name == 'scan':
            return self._scan(operation, *split_inputs(operation, inputs))
        if operation.primitive.name == 'cond':
            branches = [self.run(branch, inputs[1:]) for branch in operation.params['branches']]
            return [_any_of(results) for results in zip(*branches, strict=True)]
        return [self._result(operation, v, inputs) for v in operation.outvars]

    def _scan(self, operation: Any, constants: list, carry: list, rows: list) -> list[_Origin]:
        """A scan by its first step: terms added to its carry are summed along the scanned axis."""
        self._steps.append(operation.params['length'])
        step = self._depth

        def row(x: _Origin) -> _Origin:
            return x._replace(axes=x.axes and {step if i == 0 else i - (i > 0): kinds for i, kinds in x.axes.items()})

        def stacked(x: _Origin) -> _Origin:
            axes = x.axes and {0 if i == step else i + (i >= 0): kinds for i, kinds in x.axes.items()}
            return x._replace(axes=axes, carried=False)

        start = [x._replace(carried=True) for x in carry]
        results = self.run(operation.params['jaxpr'], [*constants, *start, *map(row, rows)])
        self._steps.pop()
        last = [
            self._unknown_operation(v, (first, x))._replace(summed=x.summed, exponential=x.exponential)
            for first, v, x in zip(carry, operation.outvars, results, strict=False)
        ]
        return [*last, *map(stacked, results[len(carry) :])]

    def _unknown_operation(self, variable: Any, inputs: Any) -> _Origin:
        """The result of an unknown operation: everything varies along each axis.

        The axes of completed scans are left out.
        """
        kinds = frozenset().union(*(x.kinds for x in inputs))
        scanned = {axis: kinds for x in inputs for axis in x.scanned if axis >= self._depth}
        axes = self.origin(variable, kinds).axes
        return _Origin(None if axes is None else axes | scanned)

    def _result(self, operation: Any, variable: Any, inputs: list[_Origin]) -> _Origin:
        name = operation.primitive.name
        result = self._known_operation(operation, name, variable, inputs) or self._unknown_operation(variable, inputs)
        return result._replace(
            summed=self._is_summed(operation, name, inputs),
            carried=name in _LINEAR and any(x.carried for x in inputs),
            exponential=any(x.exponential or (name == 'exp' and x.is_of_pairs) for x in inputs),
        )

    def _is_summed(self, operation: Any, name: str, inputs: list[_Origin]) -> bool:
        if name == 'reduce_sum':
            sums = [operation.params['axes']]
        elif name == 'dot_general' and all(x.axes is not None for x in inputs):
            sums = operation.params['dimension_numbers'][0]
        else:
            sums = []
        over = zip(inputs, sums, strict=False)
        if any(x.is_of_pairs and not set(axes).isdisjoint(x.axes or ()) for x, axes in over):
            return True
        added = [x for x in inputs if not x.carried] if name in ('add', 'sub') else inputs
        if len(added) < len(inputs) and any(x.is_of_pairs and self._depth in x.scanned for x in added):
            return True
        summed = [x for x in inputs if x.summed]
        if name in _FUNCTIONS_OF_A_SUM and summed and all(x.is_a_total for x in summed):
            return name != 'log' or not summed[0].exponential
        if name in ('mul', 'dot_general'):
            return len(summed) == 1
        if name == 'div':
            return inputs[0].summed and not inputs[1].summed
        return name in _LINEAR and bool(summed)

    def _known_operation(self, operation: Any, name: str, variable: Any, inputs: list[_Origin]) -> _Origin | None:
        """The result of an operation that preserves axes; None for other operations."""
        if name in ELEMENTWISE and not operation.primitive.multiple_results:
            axes = _joined(inputs)
            # A comparison of row and column indices is a mask such as the diagonal, not an accidental broadcast.
            return _Origin(None if axes and len(axes) > 1 and set(axes.values()) == {frozenset({_NUMBERS})} else axes)
        if name == 'iota':
            along = operation.params['dimension']
            return _Origin({along: frozenset({_NUMBERS})} if variable.aval.shape[along] == self._num else {})
        if name == 'reshape' and inputs[0].axes is None and any(n % self._num**2 == 0 for n in variable.aval.shape):
            return _Origin(None)
        if not inputs or inputs[0].axes is None:
            return None
        origin, shape = inputs[0], operation.invars[0].aval.shape
        if name == 'broadcast_in_dim':
            return _moved(origin, dict(enumerate(operation.params['broadcast_dimensions'])))
        if name == 'transpose':
            return _moved(origin, {axis: i for i, axis in enumerate(operation.params['permutation'])})
        if name == 'dynamic_slice' and self._steps and self._steps[-1] == self._num:
            # Row i in a loop over all rows: the row of this step.
            sizes = operation.params['slice_sizes']
            return _moved(origin, {axis: axis if sizes[axis] > 1 else self._depth for axis in range(len(shape))})
        if name in ('reshape', 'squeeze', 'expand_dims'):
            return self._reshaped(origin, shape, variable.aval.shape)
        if name == 'reduce_sum':
            dropped = operation.params['axes']
            kept = _moved(origin, {axis: i for i, axis in enumerate(i for i in range(len(shape)) if i not in dropped)})
            summed = frozenset().union(*((origin.axes or {}).get(axis, frozenset()) for axis in dropped)) - {_PAIRS}
            return _Origin({axis: kinds | summed for axis, kinds in (kept.axes or {}).items()})
        return None

    def _reshaped(self, origin: _Origin, before: tuple[int, ...], after: tuple[int, ...]) -> _Origin | None:
        long, longer = ([i for i, n in enumerate(shape) if n != 1] for shape in (before, after))
        if [before[i] for i in long] == [after[i] for i in longer]:
            return _moved(origin, dict(zip(long, longer, strict=True)))
        joined = [i for i, n in enumerate(after) if n % self._num**2 == 0]
        if not joined or len([axis for axis in origin.axes or () if axis >= 0]) != 2:
            return None
        return _Origin(origin.scanned | {joined[0]: frozenset({_PAIRS})} if origin.is_of_pairs else None)


def _any_of(results: Sequence[_Origin]) -> _Origin:
    """The union over the branches of a cond."""
    return _Origin(
        _joined(results),
        summed=any(x.summed for x in results),
        carried=all(x.carried for x in results),
        exponential=any(x.exponential for x in results),
    )


def _joined(inputs: Iterable[_Origin]) -> dict[int, frozenset[str]] | None:
    """The result of an element-wise function of these."""
    axes: dict[int, frozenset[str]] = {}
    for x in inputs:
        if x.axes is None:
            return None
        for axis, kinds in x.axes.items():
            axes[axis] = axes.get(axis, frozenset()) | kinds
    return axes


def _moved(origin: _Origin, to: dict[int, int]) -> _Origin:
    """The origin with its axes moved; the axes of scans stay first."""
    return _Origin({to.get(axis, axis): kinds for axis, kinds in (origin.axes or {}).items() if axis < 0 or axis in to})
