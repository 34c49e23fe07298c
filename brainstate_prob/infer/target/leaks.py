"""Values that outlive the call of a model that computed them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

__all__ = ['no_leaks']


@contextlib.contextmanager
def no_leaks() -> Iterator[None]:
    """Say in plain words that a model uses a value of an earlier call.

    Raises
    ------
    TypeError
        In place of JAX's error, which is its cause.
    """
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise TypeError(
            'The model uses a value that it has kept from an earlier call: by functools.cached_property or lru_cache, '
            'by an attribute that the call sets, or by jax.jit or jax.checkpoint of a function that reads its '
            'parameters. Compute it in each call; in place of the transformations of JAX use those of '
            'brainstate_prob.transform (transform.jit, transform.checkpoint), which know parameters.'
        ) from error
