"""A progress bar around work that runs in compiled chunks on the host's loop."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm.auto import tqdm

__all__ = ['Chunks']


class Chunks:
    """Iterate over the lengths of chunks that make up ``total`` steps, with a progress bar.

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
        self._total = total
        self._done = done
        self._every = every if isinstance(every, tuple) else () if every is None else (every,)
        self.size = max(1, size)
        self._bar = tqdm(total=total, initial=done, desc=description, disable=not progress, leave=True)

    def __iter__(self) -> Iterator[int]:
        done = self._done
        try:
            while done < self._total:
                length = min(self.size, self._total - done, *(every - done % every for every in self._every))
                yield length
                done += length
                self._bar.update(length)
        finally:
            self._bar.close()

    def stop(self, done: int) -> None:
        """The work ended early, ``done`` steps into the present chunk: the bar is full at that length."""
        self._bar.total = self._bar.n + done
        self._bar.update(done)

    def note(self, **values: str) -> None:
        """Show values behind the bar."""
        self._bar.set_postfix(values, refresh=False)
