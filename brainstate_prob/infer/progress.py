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

    Examples
    --------
    >>> list(Chunks(7, 3, 'counting', progress=False))
    [3, 3, 1]
    """

    def __init__(self, total: int, size: int, description: str, progress: bool = True):
        self._total = total
        self.size = max(1, size)
        self._bar = tqdm(total=total, desc=description, disable=not progress, leave=True)

    def __iter__(self) -> Iterator[int]:
        done = 0
        try:
            while done < self._total:
                length = min(self.size, self._total - done)
                yield length
                done += length
                self._bar.update(length)
        finally:
            self._bar.close()

    def note(self, **values: str) -> None:
        """Show values behind the bar."""
        self._bar.set_postfix(values, refresh=False)
