"""Settings that layers read: the time step ``dt``, the ``fit`` mode, the precision, and the user's own.

`set` changes a setting for the whole process, `context` for a block of code in one thread. Importing this
module changes nothing in JAX.
"""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.state import holds_tracer
from brainstate_prob.core.units import u
from brainstate_prob.core.values import value_key

__all__ = [
    'MissingSettingError',
    'all',
    'context',
    'dftype',
    'ditype',
    'get',
    'get_dt',
    'get_precision',
    'has_traced',
    'pop',
    'set',
    'set_precision',
    'static_key',
]

_FLOATS = {16: jnp.float16, 'bf16': jnp.bfloat16, 32: jnp.float32, 64: jnp.float64}
_INTS = {16: jnp.int16, 'bf16': jnp.int16, 32: jnp.int32, 64: jnp.int64}
_FIXES = {
    'fit': 'Say whether the model is in training: `with environ.context(fit=True): ...` (fit=False for predictions), '
    'or environ.set(fit=...) for the whole process.',
    'dt': 'Give the time step: `with environ.context(dt=0.1 * u.ms): ...`, or environ.set(dt=...) for the whole '
    'process.',
}
_MISSING: Any = object()


class MissingSettingError(KeyError):
    """A requested setting has no value."""

    __str__ = Exception.__str__  # KeyError prints the repr of its message


class _Frame:
    """The settings of one context merged with those of its outer contexts, and their key."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.traced = builtins.any(holds_tracer(v) for v in settings.values())
        self.key = tuple((k, value_key(v)) for k, v in sorted(settings.items()) if not holds_tracer(v))


_EMPTY = _Frame({})
_lock = threading.Lock()
_process = _EMPTY
_local: contextvars.ContextVar[_Frame] = contextvars.ContextVar('brainstate_prob.environ', default=_EMPTY)


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    """Raise for invalid values of known settings."""
    precision = settings.get('precision')
    if 'precision' in settings and (isinstance(precision, bool) or precision not in _FLOATS):
        raise ValueError(f"precision must be 16, 'bf16', 32 or 64; got {precision!r}.")
    if 'dt' in settings and not holds_tracer(settings['dt']):
        try:
            positive = bool(np.all(np.asarray(u.get_mantissa(settings['dt'])) > 0))
        except TypeError:
            positive = False
        if not positive:
            raise ValueError(f'dt must be a positive number or time, such as 0.1 * u.ms; got {settings["dt"]!r}.')
    return settings


def set(precision: int | str | None = None, dt: Any = None, **settings) -> None:
    """Change settings for the whole process; open contexts keep theirs.

    Parameters
    ----------
    precision
        16, ``'bf16'``, 32 or 64: the floating type that `dftype` gives. None leaves it as it is.
        64 also switches on JAX's own ``jax_enable_x64``, since arrays of that type need it. No other
        precision ever switches it off.
    dt
        The time step of dynamics, positive; a number or a time. None leaves it as it is.
    **settings
        Any others; layers ask for ``fit``.

    Examples
    --------
    >>> from brainstate_prob import environ
    >>> environ.set(dt=0.1)
    >>> environ.get_dt()
    0.1
    >>> environ.pop('dt')
    0.1
    """
    global _process
    if precision is not None:
        settings['precision'] = precision
    if dt is not None:
        settings['dt'] = dt
    _check(settings)
    if traced := [name for name, value in settings.items() if holds_tracer(value)]:
        raise ValueError(
            f'environ.set got a traced value for {", ".join(traced)}: it would be gone when the trace ends. '
            'Use `with environ.context(...)` inside the traced function.'
        )
    if precision == 64:
        jax.config.update('jax_enable_x64', True)
    with _lock:
        _process = _Frame({**_process.settings, **settings})


@contextlib.contextmanager
def context(**settings):
    """Change settings for a block of code, in this thread only; they are restored also after an exception.

    ``precision=64`` enters ``jax.enable_x64(True)`` for the block.

    Yields
    ------
    dict
        All settings in force.

    Examples
    --------
    >>> from brainstate_prob import environ
    >>> with environ.context(fit=True):
    ...     environ.get('fit')
    True
    """
    _check(settings)
    with contextlib.ExitStack() as stack:
        if settings.get('precision') == 64:
            stack.enter_context(jax.enable_x64(True))
        token = _local.set(_Frame({**_local.get().settings, **settings}))
        try:
            yield all()
        finally:
            _local.reset(token)


def get(key: str, default: Any = _MISSING, desc: str | None = None) -> Any:
    """The value of a setting: from the innermost context that has it, else from the process.

    Parameters
    ----------
    key
        The name of the setting.
    default
        Returned if the setting has no value.
    desc
        What the setting is for, printed in the error.

    Raises
    ------
    MissingSettingError
        If there is neither a value nor a default; a ``KeyError``.
    """
    for frame in (_local.get(), _process):
        if key in frame.settings:
            return frame.settings[key]
    if default is not _MISSING:
        return default
    fix = _FIXES.get(key, f'Give it: `with environ.context({key}=...): ...`, or environ.set({key}=...).')
    what = f' ({desc.rstrip(".")})' if desc else ''
    have = ', '.join(sorted(all())) or 'nothing'
    raise MissingSettingError(f'The setting {key!r}{what} has no value; set are: {have}. {fix}')


def all() -> dict[str, Any]:
    """A copy of all settings in force."""
    return {**_process.settings, **_local.get().settings}


def pop(key: str, default: Any = _MISSING) -> Any:
    """Remove a setting from the process and return its value; contexts are unchanged."""
    global _process
    with _lock:
        settings = dict(_process.settings)
        if key in settings:
            value = settings.pop(key)
            _process = _Frame(settings) if settings else _EMPTY
            return value
    if default is not _MISSING:
        return default
    scoped = key in _local.get().settings
    where = ' It is set by an open context only, which takes it away when it ends.' if scoped else ''
    raise MissingSettingError(f'The process has no setting {key!r}.{where}')


def get_dt() -> Any:
    """The time step of dynamics (the setting ``dt``)."""
    return get('dt', desc='the time step of dynamics')


def set_precision(precision: int | str) -> None:
    """The same as ``set(precision=precision)``."""
    if precision is None:
        raise ValueError("precision must be 16, 'bf16', 32 or 64; got None.")
    set(precision=precision)


def _x64() -> bool:
    """Whether JAX has 64-bit numbers, in this thread and context."""
    return jnp.result_type(float) == jnp.float64


def get_precision() -> int | str:
    """The precision: as set, else that of JAX (64 under ``jax_enable_x64``, 32 otherwise)."""
    return get('precision', default=64 if _x64() else 32)


def _of_precision(kinds: dict, what: str) -> Any:
    precision = get_precision()
    if precision == 64 and not _x64():
        raise RuntimeError(
            f'The precision is 64, but JAX has no 64-bit {what} now: jax_enable_x64 was switched off after '
            "environ.set(precision=64). Use jax.config.update('jax_enable_x64', True), or environ.set(precision=32)."
        )
    return kinds[precision]


def dftype() -> Any:
    """The default floating type, by the precision.

    Examples
    --------
    >>> from brainstate_prob import environ
    >>> with environ.context(precision=16):
    ...     environ.dftype().__name__
    'float16'
    """
    return _of_precision(_FLOATS, 'floats')


def ditype() -> Any:
    """The default integer type, by the precision."""
    return _of_precision(_INTS, 'integers')


def static_key() -> tuple:
    """A hashable key of the concrete settings, for caches of compiled code; () if nothing is set.

    Equal keys mean equal settings, arrays and quantities compared by value. Traced settings cannot be part of
    it: see `has_traced`.
    """
    return _process.key + _local.get().key


def has_traced() -> bool:
    """Whether a setting is traced, so that code compiled now cannot be reused under another trace."""
    return _local.get().traced
