"""What the value of an option may be: rules, each a check of a name and a value, and the error that refuses one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.calls import nearest

__all__ = [
    'Rule',
    'choice',
    'count',
    'file_to_write',
    'flag',
    'functions',
    'iterable',
    'nearest',
    'not_negative',
    'number',
    'optax_optimizer',
    'positive',
    'probability',
    'refuse',
    'seed',
    'share',
    'shown',
    'step_size',
    'way_to_fit',
]

Rule = Callable[[str, Any], Any]

_LARGEST = 2**31 - 1  # compiled programs count in 32 bits


def refuse(name: str, allowed: str, value: Any, hint: str = '') -> ValueError:
    """The error for an option: ``name must be ..., got ...``, and how to mend it."""
    return ValueError(f'{name} must be {allowed}, got {shown(value)}.{f" {hint}" if hint else ""}')


def shown(value: Any) -> str:
    """The value as an error shows it: arrays by their shape, the rest by at most 80 characters."""
    if hasattr(value, 'shape') and np.ndim(value):
        return f'an array of shape {tuple(value.shape)}'
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


# Kinds of rules


def count(least: int = 1, most: int = _LARGEST) -> Rule:
    """An int from ``least`` to ``most``."""

    def check(name: str, value: Any) -> int:
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            rounded = int(value) if isinstance(value, float) and value == np.floor(value) and abs(value) <= most else 0
            raise refuse(
                name, f'an int of at least {least}', value, f'Write {rounded}.' if rounded >= least > 0 else ''
            )
        if value < least:
            raise refuse(name, f'an int of at least {least}', value)
        if value > most:
            raise refuse(name, f'an int of at most {most}', value)
        return int(value)

    return check


def number(allowed: str, holds: Callable[[float], bool]) -> Rule:
    """A finite number for which ``holds``; ``allowed`` says in words which these are."""

    def check(name: str, value: Any) -> float:
        numeric = not isinstance(value, bool | str) and np.ndim(value) == 0
        if numeric and np.asarray(value).dtype.kind in 'iuf' and np.isfinite(value) and holds(float(value)):
            return float(value)
        raise refuse(name, allowed, value)

    return check


positive = number('a positive number', lambda x: x > 0)
not_negative = number('a number of at least 0', lambda x: x >= 0)
share = number('a number between 0 and 1', lambda x: 0 < x < 1)


def probability(name: str, value: Any) -> float:
    """A number between 0 and 1; a percentage is answered by the share that it is."""
    try:
        return share(name, value)
    except ValueError:
        percent = isinstance(value, int | float) and 1 < value < 100
        hint = f'Write {value / 100:g} for {value:g} %.' if percent else ''
        raise refuse(name, 'a probability between 0 and 1', value, hint) from None


def choice(*allowed: str, none: bool = False) -> Rule:
    """One of some words, or None if ``none``."""

    def check(name: str, value: Any) -> Any:
        if (isinstance(value, str) and value in allowed) or (none and value is None):
            return value
        words = f'one of {list(allowed)}{" or None" if none else ""}'
        raise refuse(name, words, value, nearest(value, allowed) if isinstance(value, str) else '')

    return check


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise refuse(name, 'True or False', value)


def seed(name: str, value: Any) -> None:
    """An int, a random key, or the two numbers of one."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if -(2**63) <= value < 2**63:
            return
        raise refuse(name, 'an int of at most 64 bits', value)
    if isinstance(value, jax.Array | np.ndarray):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.shape == ():
                return
            raise refuse(name, 'one random key', value, f'{name}=keys[0] is the first of them.')
        if value.dtype == np.uint32 and value.ndim == 1:
            return
        if value.ndim == 0 and value.dtype.kind in 'iu':
            return
    raise refuse(name, 'an int or a random key such as jax.random.key(0)', value)


def file_to_write(name: str, value: Any) -> None:
    """The path of a file that can be written.

    Raises
    ------
    ValueError, FileNotFoundError, PermissionError
        For what is no path or a folder; for a folder that does not exist, or in which nothing may be written.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise refuse(name, 'the path of a file', value)
    path = os.path.abspath(os.fspath(value))
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise refuse(name, 'the path of a file', os.fspath(value), 'This is a folder: add the name of a file in it.')
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'{name}={os.fspath(value)!r}: there is no folder {folder!r}. Make it first.')
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise PermissionError(f'{name}={os.fspath(value)!r} cannot be written. Give the path of a file that can.')


def optax_optimizer(*named: str) -> Rule:
    """An optax optimizer, or one of some names."""
    example = 'optax.adam(1e-2)'

    def check(name: str, value: Any) -> None:
        if isinstance(value, str) and value in named:
            return
        if callable(getattr(value, 'init', None)) and callable(getattr(value, 'update', None)):
            return
        words = f'an optax optimizer such as {example}{"".join(f" or {n!r}" for n in named)}'
        if isinstance(value, str):
            raise refuse(name, words, value, nearest(value, named) or f'Write optax.{value}(1e-2), if optax has it.')
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise refuse(name, words, value, f'For a learning rate of {value!r} write optax.adam({value!r}).')
        if callable(value):
            made = getattr(value, '__name__', 'it')
            raise refuse(name, words, value, f'{made} makes an optimizer: call it, optax.{made}(1e-2).')
        raise refuse(name, words, value)

    return check


def step_size(name: str, value: Any) -> None:
    """A positive number, or a function of the step."""
    try:
        callable(value) or positive(name, value)
    except ValueError:
        raise refuse(name, 'a positive number or a function of the step', value) from None


def functions(name: str, value: Any) -> None:
    """A function or several."""
    if callable(value):
        return
    if not isinstance(value, list | tuple) or not all(map(callable, value)):
        raise refuse(name, 'a function of a FitProgress, or a list of such functions', value)


def iterable(name: str, value: Any) -> None:
    """An iterable of batches."""
    if not isinstance(value, Iterable) or isinstance(value, str | dict) or hasattr(value, 'dtype'):
        hint = 'Arrays in memory are the inputs and targets of the Posterior, with batch_size=.'
        if callable(value):
            hint = f'This is a function: call it, {name}=f().'
        raise refuse(name, 'an iterable of pairs (inputs, targets)', value, hint)


def way_to_fit(name: str, value: Any) -> None:
    """A function of a posterior and a seed."""
    if not callable(value):
        hint = 'Hand over the function and not its result: functools.partial(infer.nuts, num_samples=500).'
        raise refuse(name, 'a way to fit, fit(posterior, seed=...)', value, hint)
