"""RandomState: a stream of random keys that is a State, so that jit, grad and vmap update it correctly."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.state import State
from brainstate_prob.core.trace import current_trace

__all__ = ['KeyStream', 'to_key']

# Two threads that draw from one stream must not take the same key.
_taking = threading.RLock()


def is_typed_key(value: Any) -> bool:
    """Whether ``value`` is a key of ``jax.random.key``."""
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def to_key(seed_or_key: Any = None) -> jax.Array:
    """A random key from an integer seed, a key of either kind or a State that holds one; a fresh one for None.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if isinstance(seed_or_key, State):
        seed_or_key = seed_or_key.value
    if seed_or_key is None:
        seed_or_key = int.from_bytes(os.urandom(4), 'little') >> 1
    if is_typed_key(seed_or_key):
        if seed_or_key.ndim:
            raise ValueError(f'One random key is needed, got an array of shape {seed_or_key.shape} of them.')
        return seed_or_key
    if isinstance(seed_or_key, bool) or not isinstance(seed_or_key, int | np.integer | np.ndarray | jax.Array):
        raise TypeError(_allowed(seed_or_key))
    shape, dtype = np.shape(seed_or_key), getattr(seed_or_key, 'dtype', np.dtype(int))
    if shape == () and jnp.issubdtype(dtype, jnp.integer):
        if isinstance(seed_or_key, int) and not -(2**63) <= seed_or_key < 2**64:
            raise ValueError(f'A seed must fit into 64 bits; got {seed_or_key}.')
        return jax.random.PRNGKey(seed_or_key)
    if len(shape) == 1 and dtype == jnp.uint32 and shape[0] in (2, 4):
        return jnp.asarray(seed_or_key)
    raise TypeError(_allowed(seed_or_key))


def _allowed(value: Any) -> str:
    is_array = isinstance(value, np.ndarray | jax.Array) and value.ndim
    got = f'An array {value.dtype}{list(value.shape)}' if is_array else f'{type(value).__name__} {value!r}'
    return f'{got} is neither a seed nor a key. Allowed: an int, a key of jax.random.key or jax.random.PRNGKey, None.'


class KeyStream(State):
    """The key handling of a `RandomState`; `brainstate_prob.random.distributions` adds the draws."""

    def __init__(self, seed_or_key: Any = None, name: str | None = None, *, tag: str | None = None, **metadata):
        lazy = seed_or_key is None and current_trace() is None
        super().__init__(None if lazy else to_key(seed_or_key), name, tag=tag, **metadata)

    def _adopt(self, value: Any) -> None:
        # A stream without a seed stays empty until its first use: importing this package must not start a backend.
        if value is not None:
            super()._adopt(value)
        self._unseeded = value is None

    def _stored(self) -> Any:
        if self._unseeded:
            with jax.ensure_compile_time_eval():  # the first use may be traced
                self._value = to_key(None)
            self._unseeded = False
        return super()._stored()

    def seed(self, seed_or_key: Any = None) -> None:
        """Restart the stream from an integer, a key or (None) fresh entropy.

        Examples
        --------
        >>> from brainstate_prob import random
        >>> rng = random.RandomState(0)
        >>> first = rng.normal()
        >>> rng.seed(0)
        >>> bool(rng.normal() == first)
        True
        """
        self.set_key(to_key(seed_or_key))

    def get_key(self) -> jax.Array:
        """The current key of the stream; reading it draws nothing."""
        return self.value

    def set_key(self, key: Any) -> None:
        """Continue the stream from ``key``."""
        self.value = to_key(key)
        self._unseeded = False

    def split_key(self, n: int | None = None) -> jax.Array:
        """Draw one key from the stream, or ``n`` of them along a first axis.

        With ``key, *subs = split(key, n + 1)`` the stream keeps the first and returns the rest.

        Examples
        --------
        >>> from brainstate_prob import random
        >>> random.RandomState(0).split_key(3).shape
        (3, 2)
        """
        if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0):
            raise ValueError(f'The number of keys must be an int >= 0, or None for a single key; got {n!r}.')
        with _taking:
            keys = jax.random.split(self.value, 2 if n is None else int(n) + 1)
            self.value = keys[0]
        return keys[1] if n is None else keys[1:]

    def clone(self):
        """A new stream from a key of this one: independent, and reproducible with it."""
        return type(self)(self.split_key())

    @contextlib.contextmanager
    def seed_context(self, seed_or_key: Any):
        """Draw from ``seed_or_key`` in the block; the stream then continues as if nothing had been drawn.

        Examples
        --------
        >>> from brainstate_prob import random
        >>> with random.seed_context(42):
        ...     a = random.rand(3)
        >>> with random.seed_context(42):
        ...     bool((random.rand(3) == a).all())
        True
        """
        before = self.get_key()
        self.seed(seed_or_key)
        try:
            yield self
        finally:
            self.value = before

    def split_lanes(self, value: jax.Array) -> tuple[jax.Array, Callable[[Any], jax.Array]]:
        """The stream under a mapped axis: the key that stays outside, and the key of each lane."""
        kept, sub = jax.random.split(value)
        return kept, lambda lane: jax.random.fold_in(sub, lane)
