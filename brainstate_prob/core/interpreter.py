"""One interpreter of traced programs, for whatever is read off them.

It follows values through a program and the programs nested in it, and knows how JAX nests them. A check states what it
follows and what one operation makes of it. A JAX release that nests programs in another way is met here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

__all__ = ['ELEMENTWISE', 'Interpreter', 'jaxpr_of', 'operations_in', 'programs_in', 'split_inputs']

T = TypeVar('T')

# Operations whose inner program has the operation's own arguments and results, computed once.
_CALLS = {'jit', 'pjit', 'closed_call', 'core_call', 'checkpoint', 'remat2', 'custom_jvp_call', 'custom_vjp_call'}
_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac
    integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not optimization_barrier or
    polygamma pow reduce_precision regularized_incomplete_beta rem round rsqrt select_n sign sin sinh sqrt square
    stop_gradient sub tan tanh xor zeta
"""
# Operations whose result at one place depends on their arguments at that place only.
ELEMENTWISE = frozenset(_ELEMENTWISE.split())


class Interpreter(Generic[T]):
    """Evaluates a program on abstract values, as a subclass defines them. It enters calls, not loops and branches."""

    def constant(self, variable: Any, value: Any) -> T:
        raise NotImplementedError

    def operation(self, operation: Any, inputs: list[T]) -> Sequence[T]:
        """The results of an operation that is not entered."""
        raise NotImplementedError

    def enters(self, operation: Any) -> bool:
        return True

    def run(self, program: Any, inputs: Sequence[T], constants: Sequence[T] | None = None) -> list[T]:
        """The results of a program, whose constants are those that it holds if none are given."""
        jaxpr, values = jaxpr_of(program), getattr(program, 'consts', ())
        if constants is None:
            constants = [self.constant(v, x) for v, x in zip(jaxpr.constvars, values, strict=True)]
        known = dict(zip(map(id, (*jaxpr.constvars, *jaxpr.invars)), (*constants, *inputs), strict=True))

        def read(variable: Any) -> T:
            return self.constant(variable, variable.val) if hasattr(variable, 'val') else known[id(variable)]

        for operation in jaxpr.eqns:
            taken, inner = [read(v) for v in operation.invars], _called(operation)
            enter = inner is not None and self.enters(operation)
            results = self.run(inner, taken) if enter else self.operation(operation, taken)
            known.update(zip(map(id, operation.outvars), results, strict=True))
        return [read(v) for v in jaxpr.outvars]


def _called(operation: Any) -> Any:
    """The program of an operation that computes it once, on its own arguments; else None."""
    if operation.primitive.name not in _CALLS:
        return None
    programs = programs_in(operation.params.values())
    return next((p for p in programs if len(jaxpr_of(p).invars) == len(operation.invars)), None)


def split_inputs(operation: Any, inputs: list[T]) -> tuple[list[T], list[T], list[T]]:
    """Those of a scan: constants, carry, rows. Those of a while loop: constants of test and body, carry."""
    params = operation.params
    if operation.primitive.name == 'while':
        first, second = params['cond_nconsts'], params['body_nconsts']
    elif 'num_carry' in params:
        first, second = params['num_consts'], params['num_carry']
    else:  # since JAX 0.12
        first, second = (len(list(part)) for part in params['ft_in'].unpack()[:2])
    return inputs[:first], inputs[first : first + second], inputs[first + second :]


def operations_in(program: Any, enters: Callable[[Any], bool] = lambda operation: True) -> Iterator[Any]:
    """Each operation of a program, and of the programs nested in the operations that are entered."""
    waiting, seen = [program], set()
    while waiting:
        jaxpr = jaxpr_of(waiting.pop())
        if id(jaxpr) in seen:  # programs are shared between operations
            continue
        seen.add(id(jaxpr))
        for operation in jaxpr.eqns:
            yield operation
            if enters(operation):
                waiting += programs_in(operation.params.values())


def programs_in(values: Iterable[Any]) -> Iterator[Any]:
    """The programs among the parameters of an operation."""
    for value in values:
        if hasattr(jaxpr_of(value), 'eqns'):
            yield value
        elif isinstance(value, list | tuple):
            yield from programs_in(value)


def jaxpr_of(program: Any) -> Any:
    """A program without the constants that it may hold."""
    return getattr(program, 'jaxpr', program)
