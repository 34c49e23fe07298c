"""checkpoint (remat): recompute intermediate values in the backward pass instead of storing them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from brainstate_prob.core.functionalize import Pure
from brainstate_prob.transform.base import Transformed, decorator

__all__ = ['checkpoint', 'remat']


def checkpoint(
    fun: Callable | None = None,
    *,
    prevent_cse: bool = True,
    policy: Callable | None = None,
    static_argnums: int | Sequence[int] = (),
) -> Any:
    """As ``jax.checkpoint``, for functions that use States.

    Parameters
    ----------
    fun
        The function or method; if omitted, a decorator is returned.
    prevent_cse, policy, static_argnums
        As in ``jax.checkpoint``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import ParamState, transform
    >>> w = ParamState(jnp.array(2.0))
    >>> layer = transform.checkpoint(lambda x: jnp.sin(w.value * x))
    >>> float(transform.grad(layer, w)(0.0))
    0.0
    """
    make = functools.partial(_Checkpointed, prevent_cse=prevent_cse, policy=policy, static_argnums=static_argnums)
    return decorator(make, fun)


remat = checkpoint


class _Checkpointed(Transformed):
    def __init__(
        self, fun: Callable, *, prevent_cse: bool, policy: Callable | None, static_argnums: int | Sequence[int]
    ):
        super().__init__(fun)
        nums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
        self._static = nums
        self._options: dict[str, Any] = {'prevent_cse': prevent_cse, 'policy': policy}

    def __call__(self, *args, **kwargs):
        pure = Pure(self.fun)
        static = tuple(1 + n % len(args) for n in self._static if -len(args) <= n < len(args))
        staged = jax.checkpoint(pure, static_argnums=static, **self._options)
        out, written, created = staged((), *args, **kwargs)
        pure.commit(written, created)
        return out
