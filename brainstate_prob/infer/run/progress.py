"""A progress bar for work in compiled chunks, and the handling of Ctrl-C."""

from __future__ import annotations

import contextlib
import contextvars
import signal
import threading
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm

__all__ = ['Chunks', 'nested_fit']

_IS_NESTED: contextvars.ContextVar[bool] = contextvars.ContextVar('is_nested', default=False)


@contextlib.contextmanager
def nested_fit() -> Iterator[None]:
    """Mark the fits within the block as parts of another one, so that Ctrl-C ends the whole."""
    token = _IS_NESTED.set(True)
    try:
        yield
    finally:
        _IS_NESTED.reset(token)


class Chunks:
    """Iterate over the lengths of chunks that make up ``total`` steps, with a progress bar.

    As a context around the loop it handles Ctrl-C: the running chunk is completed (a second Ctrl-C does not wait for
    it), the loop ends, and ``interrupted`` is True. ``whole`` is true if no chunk was aborted, so that the state of the
    loop may be saved.

    Parameters
    ----------
    total
        How many steps there are in all.
    size
        The most steps of one chunk; it bounds how long a program runs between two updates of the bar.
    description
        What the bar says.
    progress
        False for no bar.
    done
        How many of the steps were done before.
    every
        End a chunk at each multiple of this (of each of these), for a checkpoint there.

    Examples
    --------
    >>> list(Chunks(7, 3, 'counting', progress=False))
    [3, 3, 1]
    >>> list(Chunks(9, 3, 'counting', progress=False, done=1, every=4))
    [3, 3, 1, 1]
    """

    def __init__(
        self,
        total: int,
        size: int,
        description: str,
        progress: bool = True,
        *,
        done: int = 0,
        every: int | tuple[int, ...] | None = None,
    ):
        self._total, self.description = total, description
        self._done = done
        self._every = every if isinstance(every, tuple) else () if every is None else (every,)
        self.size = max(1, size)
        self.interrupted, self.whole = False, True
        self._asked = False
        self._handler: Any = None
        self._bar = tqdm(total=total, initial=done, desc=description, disable=not progress, leave=True)

    def __iter__(self) -> Iterator[int]:
        done = self._done
        try:
            while done < self._total:
                length = min(self.size, self._total - done, *(every - done % every for every in self._every))
                yield length
                done += length
                self._bar.update(length)
                if self._asked:
                    self.interrupted = True
                    return
        finally:
            self._bar.close()

    def __enter__(self) -> Chunks:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and not _IS_NESTED.get() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None
        self._bar.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and not _IS_NESTED.get():
            self.interrupted, self.whole = True, False
            return True
        self.interrupted = self.interrupted or self._asked
        return False

    @property
    def asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self._bar.set_postfix_str('interrupted: ends with this chunk')

    def stop(self, done: int) -> None:
        """The work ended early, ``done`` steps into the present chunk: the bar ends there."""
        self._bar.total = self._bar.n + done
        self._bar.update(done)

    def note(self, **values: str) -> None:
        """Show values next to the bar."""
        self._bar.set_postfix(values, refresh=False)
