"""Fingerprints of runs: model, data, versions and options as short texts that can be compared."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import jax
import numpy as np
import numpyro

import brainstate_prob
from brainstate_prob.core.contents import attributes_of, is_of_runtime
from brainstate_prob.core.structure import attributes_of_class, globals_of, is_users
from brainstate_prob.graph.walk import dotted, find_states
from brainstate_prob.infer.density.log_density import find_entries
from brainstate_prob.infer.density.variables import Variable
from brainstate_prob.infer.target.target import Target

__all__ = ['describe', 'differences_of', 'fingerprint_of', 'is_key', 'one_line']


def fingerprint_of(target: Target, method: str, **options: Any) -> dict[str, Any]:
    """Everything that the results of a run depend on, by name.

    Parameters
    ----------
    target
        The log density that the run moves in.
    method
        The name of the way to fit.
    **options
        What else the run depends on: numbers, keys, arrays, optimizers, functions, a `Fit`. What it may go on with
        (more steps) or that changes no number (the progress bar) stays out.
    """
    model, data = target.posterior.model, target.data
    fingerprint: dict[str, Any] = {
        'brainstate_prob': brainstate_prob.__version__,
        'jax': jax.__version__,
        'numpyro': numpyro.__version__,
        'platform': jax.default_backend(),
        'method': method,
        'model': type(model).__qualname__,
    }
    for e in target.posterior.entries:
        v = Variable.of(e)
        fingerprint[f'Param {v.name!r}'] = f'{v.shape} {v.dtype} {v.unit}, {v.transform}, prior {one_line(e.reg)}'
    for where, leaf in jax.tree_util.tree_flatten_with_path(data.args)[0]:
        fingerprint[f'inputs{jax.tree_util.keystr(where)}'] = describe(leaf)
    for where, leaf in jax.tree_util.tree_flatten_with_path(data.kwargs)[0]:
        fingerprint[f'inputs{jax.tree_util.keystr(where)}'] = describe(leaf)
    fingerprint['targets'] = describe(data.targets)
    fitted = {e.state for e in find_entries(model)}
    paths = [path for path, state in find_states(model).items() if state not in fitted]
    for path, value in zip(paths, data.states, strict=True):
        fingerprint[f'State {dotted(path)!r}'] = describe(value)
    fingerprint['parameters at the start'] = describe(target.start)
    fingerprint['log density (the code of model, likelihood, priors and transforms)'] = _program(target)
    return fingerprint | {name: describe(value) for name, value in options.items()}


def differences_of(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The differences of two fingerprints: ``theirs`` is that of the file, ``ours`` that of this run."""
    differing = []
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        if name not in ours:
            differing.append(f'{name} is {theirs[name]} there and absent here')
        elif name not in theirs:
            differing.append(f'{name} is absent there and {ours[name]} here')
        elif theirs[name] != ours[name]:
            differing.append(f'{name} is {theirs[name]} there and {ours[name]} here')
    return differing


def describe(x: Any) -> Any:
    """``x`` as plain data, equal in every process: numbers and strings unchanged, other objects as type and hash.

    Functions are hashed by their code, their closure and the globals that they read, arrays and keys by their bytes, a
    `Fit` by its draws.

    Examples
    --------
    >>> describe(3), describe('normal')
    (3, 'normal')
    >>> describe(lambda x: x + 1) == describe(lambda x: x + 1), describe(lambda x: x + 1) == describe(lambda x: x + 2)
    (True, False)
    """
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, np.generic) and x.ndim == 0:
        return x.item()
    if hasattr(x, 'thetas') and hasattr(x, 'method'):  # a `Fit`
        return f'Fit by {x.method} [{_hash(x.thetas)}]'
    if isinstance(x, jax.Array | np.ndarray):
        return f'{"key" if is_key(x) else "array"} {x.shape} {x.dtype} [{_hash(x)}]'
    name = getattr(x, '__qualname__', type(x).__qualname__)
    return f'{name} [{_hash(x)}]'


def _program(target: Target) -> str:
    """A hash of the program that computes the log density, constants included."""
    density, data, theta = target.density, target.data, target.start
    jacobian = all(e.t.has_density for e in density.entries)
    shapes = tuple((np.shape(x), str(x.dtype)) for x in jax.tree.leaves(data))

    def read() -> str:
        run = jax.jit(lambda theta, data: density.log_density(theta, data, jacobian))
        return hashlib.sha256(run.lower(theta, data).as_text().encode()).hexdigest()[:12]

    return density.kept((fingerprint_of, shapes, jax.tree.structure(data)), read)


def _hash(x: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest.update, x, {})
    return digest.hexdigest()[:12]


def _feed(put: Callable[[bytes], None], x: Any, seen: dict[int, tuple[int, Any]]) -> None:
    """Feed the parts of ``x`` to the hash, in an order that does not depend on the process.

    Objects in ``seen`` are written as their number in it; they are kept alive, so that their ids are not reused.
    """
    if id(x) in seen and not isinstance(x, bool | int | float | str | bytes | tuple | type(None)):
        return put(f'again {seen[id(x)][0]};'.encode())
    seen[id(x)] = len(seen), x

    def parts(kind: str, *items: Any) -> None:
        put(f'{kind} {len(items)}('.encode())
        for item in items:
            _feed(put, item, seen)
        put(b')')

    if isinstance(x, jax.Array | np.ndarray | np.generic):
        array = np.asarray(jax.random.key_data(x) if is_key(x) else x)
        put(f'array {x.dtype} {array.shape} '.encode())
        return put(array.tobytes())
    if isinstance(x, types.FunctionType):
        cells = [c.cell_contents for c in x.__closure__ or () if _is_filled(c)]
        return parts('function', x.__code__, x.__defaults__, x.__kwdefaults__, *cells, *globals_of(x))
    if isinstance(x, types.CodeType):
        return parts('code', x.co_code, x.co_names, x.co_varnames, *x.co_consts)
    if isinstance(x, types.MethodType):
        return parts('method', x.__func__, x.__self__)
    if isinstance(x, property):
        return parts('property', x.fget)
    if isinstance(x, functools.partial):
        return parts('partial', x.func, x.args, x.keywords)
    if isinstance(x, types.ModuleType | types.BuiltinFunctionType):
        return put(f'{type(x).__name__} {x.__name__};'.encode())
    if isinstance(x, type):
        attributes = attributes_of_class(x) if is_users(x.__module__) else ()
        return parts(f'class {x.__module__}.{x.__qualname__}', *attributes)
    if isinstance(x, list | tuple):
        return parts(type(x).__qualname__, *x)
    if isinstance(x, dict):
        return parts('dict', *(part for item in x.items() for part in item))
    if isinstance(x, set | frozenset):
        return parts('set', *sorted(map(one_line, x)))
    if callable(x) and hasattr(x, '__wrapped__'):  # functions under jax.jit and other decorators
        return parts(type(x).__qualname__, x.__wrapped__)
    own = {} if is_of_runtime(type(x)) else dict(attributes_of(x))
    if own:
        kind = [type(x)] if is_users(type(x).__module__) else []
        return parts(f'{type(x).__module__}.{type(x).__qualname__}', dict(sorted(own.items())), *kind)
    return put(f'{type(x).__qualname__} {one_line(x)};'.encode())


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # an unbound name
        return False
    return True


def is_key(x: Any) -> TypeGuard[jax.Array]:
    """Whether ``x`` is a random key."""
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def one_line(x: Any) -> str:
    """The repr on one line, without memory addresses."""
    return ' '.join(re.sub(r' at 0x[0-9a-fA-F]+', '', repr(x)).split())
