"""Progress bars of loops that run inside compiled code."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core.state import holds_tracer

__all__ = ['Progress', 'ProgressBar']


class ProgressBar:
    """The progress bar of a loop: a tqdm bar, updated from compiled code.

    Parameters
    ----------
    freq
        The number of steps between two updates.
    count
        The number of updates, instead of ``freq``; default: 20.
    desc
        The label of the bar.
    **kwargs
        For ``tqdm.tqdm``, as ``file`` or ``disable``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import transform
    >>> bar = transform.ProgressBar(freq=10, desc='fit', disable=True)
    >>> transform.for_loop(lambda x: x + 1, jnp.arange(100), pbar=bar).shape
    (100,)
    """

    def __init__(self, freq: int | None = None, count: int | None = None, desc: str | None = None, **kwargs):
        if freq is not None and count is not None:
            raise ValueError('Give freq (steps between two updates) or count (number of updates), not both.')
        for name, value in (('freq', freq), ('count', count)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f'{name} must be an int of at least 1; got {value!r}.')
        if desc is not None and not isinstance(desc, str):
            raise TypeError(f'desc must be a text; got {type(desc).__name__}.')
        self.freq = freq
        self.count = count
        self.desc = desc
        self.kwargs = kwargs

    def every(self, steps: int) -> int:
        """The number of steps between two updates of a loop of ``steps`` steps."""
        return self.freq or max(1, steps // (self.count or 20))


class Progress:
    """The bar of one loop: created by the first step of a run, closed by the last one or by a failure.

    Calls may be late and out of order, since nothing waits for them; the bar never moves back.
    """

    def __init__(self, spec: ProgressBar, steps: int):
        self._spec = spec
        self._steps = steps
        self._every = spec.every(steps)
        self._bar: Any = None
        self._lock = threading.Lock()

    @staticmethod
    def start(pbar: ProgressBar | int | None, steps: int) -> Progress | _NoProgress:
        """The progress of a loop, from its ``pbar`` argument."""
        if pbar is None or steps == 0:
            return _NoProgress()
        if isinstance(pbar, int) and not isinstance(pbar, bool):
            pbar = ProgressBar(freq=pbar)
        if not isinstance(pbar, ProgressBar):
            raise TypeError(f'pbar takes a ProgressBar or an int, the steps between two updates; got {pbar!r}.')
        return Progress(pbar, steps)

    def first(self) -> jax.Array:
        return jnp.zeros((), int)

    def count(self, n: jax.Array) -> jax.Array:
        return n + 1

    def update(self, n: jax.Array) -> None:
        """Report the number of steps done, from inside the loop."""

        def show():
            jax.debug.callback(self._show, n)

        # Only steps that update the bar call back to Python.
        jax.lax.cond((n % self._every == 0) | (n == self._steps - 1), show, lambda: None)

    def _show(self, n: Any) -> None:
        from tqdm import tqdm

        n = int(n)
        with self._lock:
            if n == 0 and self._bar is not None and self._bar.n > 0:
                self._close()  # an earlier run of the same code was interrupted
            if self._bar is None:
                self._bar = tqdm(total=self._steps, desc=self._spec.desc, **self._spec.kwargs)
            last = n == self._steps - 1
            self._bar.update(max(0, n + last - self._bar.n))
            if last:
                self._close()

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info) -> None:
        if not holds_tracer(jnp.zeros(())):  # the run itself, not its trace
            try:
                if exc_info[0] is None:
                    jax.effects_barrier()
            finally:
                with self._lock:
                    self._close()


class _NoProgress:
    """The progress of a loop without a bar."""

    def first(self) -> None:
        return None

    def count(self, n: None) -> None:
        return None

    def update(self, n: None) -> None:
        return None

    def __enter__(self) -> _NoProgress:
        return self

    def __exit__(self, *exc_info) -> None:
        return None
