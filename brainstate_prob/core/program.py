"""Traced programs as keys, and what their results depend on.

`jax.make_jaxpr` gives what a function computes, whatever Python code it took: two functions with equal programs are the
same function of their arguments, and one whose program has changed is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.structure import LIBRARIES, Identity, array_digest

__all__ = ['ProgramKey', 'depends_on', 'has_own_rules', 'has_while_loop', 'inner_program', 'program_key', 'scan_counts']

# Operations whose inner program has the operation's own arguments and results, computed once.
_CALLS = {'jit', 'pjit', 'closed_call', 'core_call', 'checkpoint', 'remat2', 'custom_jvp_call', 'custom_vjp_call'}
# The derivative rules of these, Python functions that are made anew in each trace.
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
    digest, kept = _Digest(), list[Identity]()
    digest.closed(program, kept)
    return ProgramKey(digest.hash.digest(), tuple(kept))


class _Digest:
    """Writes a program down in an order and with names that do not depend on how it came about."""

    def __init__(self):
        self.hash = hashlib.blake2b(digest_size=16)
        self._written: dict[int, int] = {}

    def put(self, *texts: Any) -> None:
        self.hash.update('\x1f'.join(map(str, texts)).encode() + b'\x1e')

    def closed(self, program: Any, kept: list[Identity]) -> None:
        for constant in program.consts:
            self.value(constant, kept)
        self.open(program.jaxpr, kept)

    def open(self, jaxpr: Any, kept: list[Identity]) -> None:
        if id(jaxpr) in self._written:  # programs are shared between operations
            return self.put('again', self._written[id(jaxpr)])
        self._written[id(jaxpr)] = len(self._written)
        names: dict[Any, int] = {}

        def name(variable: Any) -> str:
            if hasattr(variable, 'val'):
                self.value(variable.val, kept)
                return f'literal {variable.aval}'
            return str(names.setdefault(variable, len(names)))

        self.put('program', *(f'{name(v)}:{v.aval}' for v in (*jaxpr.constvars, *jaxpr.invars)))
        for operation in jaxpr.eqns:
            self.put(operation.primitive.name, *map(name, operation.invars))
            rules = _RULES if operation.primitive.name.startswith('custom_') else ()
            for key, value in sorted(operation.params.items()):
                if key not in rules:
                    self.put(key)
                    self.param(value, kept)
            self.put('->', *(f'{name(v)}:{v.aval}' for v in operation.outvars))
        return self.put('out', *map(name, jaxpr.outvars))

    def param(self, x: Any, kept: list[Identity]) -> None:
        if hasattr(x, 'jaxpr') and hasattr(x, 'consts'):
            self.closed(x, kept)
        elif hasattr(x, 'eqns'):
            self.open(x, kept)
        elif isinstance(x, list | tuple) and type(x).__repr__ in (list.__repr__, tuple.__repr__):
            self.put(type(x).__name__, len(x))
            for part in x:
                self.param(part, kept)
        elif isinstance(x, dict):
            for key, value in x.items():
                self.put(key)
                self.param(value, kept)
        else:
            self.value(x, kept)

    def value(self, x: Any, kept: list[Identity]) -> None:
        if isinstance(x, np.ndarray | np.generic | jax.Array) and not isinstance(x, jax.core.Tracer):
            self.put(array_digest(x))
            return
        text = repr(x)
        if ' at 0x' not in text:
            self.put(type(x).__qualname__, text)
        else:
            self.put('object', len(kept))
            kept.append(Identity(x))


def has_own_rules(program: Any) -> bool:
    """Whether a program uses derivative rules that the user wrote, which `program_key` does not see."""
    return _has_own_rules(program.jaxpr, set())


def _has_own_rules(jaxpr: Any, seen: set[int]) -> bool:
    if id(jaxpr) in seen:
        return False
    seen.add(id(jaxpr))
    for operation in jaxpr.eqns:
        inner = list(_programs_in(operation.params.values()))
        if operation.primitive.name.startswith('custom_') and not all(_is_of_library(j) for j in inner):
            return True
        if any(_has_own_rules(j, seen) for j in inner):
            return True
    return False


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many arguments of a scan are constants of its body, and how many are carried, by its ``params``."""
    if 'num_carry' in params:
        return params['num_consts'], params['num_carry']
    constants, carry, _ = params['ft_in'].unpack()  # since JAX 0.12
    return len(list(constants)), len(list(carry))


def has_while_loop(program: Any) -> bool:
    """Whether a program has a loop whose number of steps is not fixed, outside of functions with rules of their own."""
    waiting, seen = [program.jaxpr], set()
    while waiting:
        jaxpr = waiting.pop()
        if id(jaxpr) in seen:
            continue
        seen.add(id(jaxpr))
        for operation in jaxpr.eqns:
            if operation.primitive.name == 'while':
                return True
            if not operation.primitive.name.startswith('custom_'):
                waiting += _programs_in(operation.params.values())
    return False


def _programs_in(values: Any) -> Iterator[Any]:
    for value in values:
        jaxpr = getattr(value, 'jaxpr', value)
        if hasattr(jaxpr, 'eqns'):
            yield jaxpr
        elif isinstance(value, list | tuple):
            yield from _programs_in(value)


def _is_of_library(jaxpr: Any) -> bool:
    file = getattr(getattr(jaxpr, 'debug_info', None), 'func_filename', None)
    return file is not None and file.startswith(LIBRARIES)


def depends_on(program: Any, outputs: Iterable[int], *, by_gradient: bool = False) -> set[int]:
    """The numbers of the arguments of a program (`jax.make_jaxpr`) that the results ``outputs`` depend on.

    Loops and branches count as a whole: each of their results depends on each of their arguments.

    Parameters
    ----------
    by_gradient
        Only where a gradient may pass: not through comparisons, whole numbers, rounding and ``stop_gradient``.
        Functions with derivative rules of their own count as a whole.
    """
    return _needed(program.jaxpr, [program.jaxpr.outvars[i] for i in outputs], by_gradient)


# Of derivative zero wherever they have one. What is no floating number has none either.
_STEPS = {'ceil', 'floor', 'round', 'sign', 'stop_gradient'}


def _needed(jaxpr: Any, wanted: Sequence[Any], by_gradient: bool) -> set[int]:
    live = {id(v) for v in wanted}
    for operation in reversed(jaxpr.eqns):
        name = operation.primitive.name
        made = [i for i, v in enumerate(operation.outvars) if id(v) in live]
        if not made or (by_gradient and name in _STEPS):
            continue
        own_rules = by_gradient and name.startswith('custom_')
        inner = None if own_rules else inner_program(operation)
        if inner is None:
            taken = list(operation.invars)
        else:
            within = _needed(inner, [inner.outvars[i] for i in made], by_gradient)
            taken = [operation.invars[i] for i in within]
        live.update(id(v) for v in taken if not by_gradient or _has_gradient(v))
    return {i for i, v in enumerate(jaxpr.invars) if id(v) in live}


def _has_gradient(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)


def inner_program(operation: Any) -> Any:
    """The program of an operation that calls it once, with the operation's own arguments and results; else None."""
    if operation.primitive.name not in _CALLS:
        return None
    for value in operation.params.values():
        jaxpr = getattr(value, 'jaxpr', value)
        if hasattr(jaxpr, 'eqns') and len(jaxpr.invars) == len(operation.invars):
            return jaxpr
    return None
