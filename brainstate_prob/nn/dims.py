"""Names of a parameter's axes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['checked_dims']


def checked_dims(dims: Sequence[str] | str | None, ndim: int, label: str) -> tuple[str, ...] | None:
    """The names of a value's axes as a tuple, one per axis."""
    if dims is None:
        return None
    names = (dims,) if isinstance(dims, str) else tuple(dims)
    if not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise TypeError(f'{label}: dims must be different names (str), one per axis, got {dims!r}.')
    if len(names) != ndim:
        raise ValueError(f'{label}: {len(names)} dims {names} for a value with {ndim} axes. Name every axis once.')
    return names
