"""Traced programs as keys, and what their results depend on.

`jax.make_jaxpr` gives what a function computes, whatever Python code it took: two functions with equal programs are the
same function of their arguments, and one whose program has changed is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.interpreter import Interpreter, jaxpr_of, operations_in, programs_in
from brainstate_prob.core.structure import LIBRARIES, Identity, array_digest

__all__ = ['ProgramKey', 'depends_on', 'has_own_rules', 'has_while_loop', 'program_key']

# Derivative rules: Python functions that are made anew in each trace.
_RULES = {'jvp_jaxpr_fun', 'jvp_jaxpr_thunk', 'fwd_jaxpr_thunk', 'fwd', 'bwd', 'out_trees'}


class ProgramKey(NamedTuple):
    """Equal for equal programs. ``objects`` are the Python functions that a program calls back, made in each trace."""

    digest: bytes
    objects: tuple[Identity, ...]


def program_key(program: Any) -> ProgramKey:
    """A hashable key of what `jax.make_jaxpr` gives: equal for equal operations on equal constants.

    Derivative rules of the user's own (`jax.custom_jvp`, `jax.custom_vjp`) are not part of it: trace a derivative where
    `has_own_rules` finds some. Python functions that a program calls back count by identity.
    """
    digest = _Digest()
    digest.program(program)
    return ProgramKey(digest.hash.digest(), tuple(digest.objects))


class _Digest:
    """Writes a program down in an order and with names that do not depend on how it came about."""

    def __init__(self):
        self.hash, self.objects = hashlib.blake2b(digest_size=16), list[Identity]()
        self._written: dict[int, int] = {}

    def put(self, *texts: Any) -> None:
        self.hash.update('\x1f'.join(map(str, texts)).encode() + b'\x1e')

    def program(self, program: Any) -> None:
        for constant in getattr(program, 'consts', ()):
            self.value(constant)
        jaxpr = jaxpr_of(program)
        if id(jaxpr) in self._written:  # programs are shared between operations
            return self.put('again', self._written[id(jaxpr)])
        self._written[id(jaxpr)] = len(self._written)
        names: dict[Any, int] = {}

        def name(variable: Any) -> str:
            if hasattr(variable, 'val'):
                self.value(variable.val)
                return f'literal {variable.aval}'
            return str(names.setdefault(variable, len(names)))

        self.put('program', *(f'{name(v)}:{v.aval}' for v in (*jaxpr.constvars, *jaxpr.invars)))
        for operation in jaxpr.eqns:
            self.put(operation.primitive.name, *map(name, operation.invars))
            for key, value in sorted(operation.params.items()):
                if not (_has_rules(operation) and key in _RULES):
                    self.put(key)
                    self.param(value)
            self.put('->', *(f'{name(v)}:{v.aval}' for v in operation.outvars))
        return self.put('out', *map(name, jaxpr.outvars))

    def param(self, x: Any) -> None:
        if hasattr(jaxpr_of(x), 'eqns'):
            self.program(x)
        elif isinstance(x, list | tuple) and type(x).__repr__ in (list.__repr__, tuple.__repr__):
            self.put(type(x).__name__, len(x))
            for part in x:
                self.param(part)
        elif isinstance(x, dict):
            for key, value in x.items():
                self.put(key)
                self.param(value)
        else:
            self.value(x)

    def value(self, x: Any) -> None:
        if isinstance(x, np.ndarray | np.generic | jax.Array) and not isinstance(x, jax.core.Tracer):
            return self.put(array_digest(x))
        text = repr(x)
        if ' at 0x' not in text:
            return self.put(type(x).__qualname__, text)
        self.put('object', len(self.objects))
        return self.objects.append(Identity(x))


def has_own_rules(program: Any) -> bool:
    """Whether a program uses derivative rules that the user wrote, which `program_key` does not see."""
    return any(
        _has_rules(operation) and not all(map(_is_of_library, programs_in(operation.params.values())))
        for operation in operations_in(program)
    )


def has_while_loop(program: Any) -> bool:
    """Whether a program has a loop whose number of steps is not fixed, outside of functions with rules of their own."""
    operations = operations_in(program, enters=lambda operation: not _has_rules(operation))
    return any(operation.primitive.name == 'while' for operation in operations)


def _has_rules(operation: Any) -> bool:
    return operation.primitive.name.startswith('custom_')


def _is_of_library(program: Any) -> bool:
    file = getattr(getattr(jaxpr_of(program), 'debug_info', None), 'func_filename', None)
    return file is not None and file.startswith(LIBRARIES)


def depends_on(program: Any, outputs: Iterable[int], *, by_gradient: bool = False) -> frozenset[int]:
    """The numbers of the arguments of a program (`jax.make_jaxpr`) that the results ``outputs`` depend on.

    Loops and branches count as a whole: each of their results depends on each of their arguments.

    Parameters
    ----------
    by_gradient
        Only where a gradient may pass: not through comparisons, whole numbers, rounding and ``stop_gradient``.
        Functions with derivative rules of their own count as a whole.
    """
    arguments = [frozenset({i}) for i in range(len(program.jaxpr.invars))]
    results = _Dependence(by_gradient).run(program, arguments)
    return frozenset().union(*(results[i] for i in outputs))


# Of derivative zero wherever they have one. What is no floating number has none either.
_STEPS = {'ceil', 'floor', 'round', 'sign', 'stop_gradient'}


class _Dependence(Interpreter[frozenset[int]]):
    """Follows on which arguments a value depends, by number."""

    def __init__(self, by_gradient: bool):
        self._by_gradient = by_gradient

    def constant(self, variable: Any, value: Any) -> frozenset[int]:
        return frozenset()

    def enters(self, operation: Any) -> bool:
        return not (self._by_gradient and _has_rules(operation))

    def operation(self, operation: Any, inputs: list[frozenset[int]]) -> Sequence[frozenset[int]]:
        if self._by_gradient and operation.primitive.name in _STEPS:
            inputs = []
        elif self._by_gradient:
            inputs = [x for x, v in zip(inputs, operation.invars, strict=True) if _has_gradient(v)]
        return [frozenset().union(*inputs)] * len(operation.outvars)


def _has_gradient(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)
