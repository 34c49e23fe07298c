"""Selection of parameters by path, object, type or predicate."""

from __future__ import annotations

from typing import Any

import numpy as np

from brainstate_prob.core.calls import nearest
from brainstate_prob.core.filters import to_predicate
from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.log_density import find_entries
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.target.target import Target
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param

__all__ = ['columns_matching']


def columns_matching(target: Target, spec: Any) -> np.ndarray:
    """The columns in theta of the Params that match a filter; all columns for None.

    Raises
    ------
    ValueError
        Where nothing matches.
    """
    posterior, columns = target.posterior, columns_of(target.density)
    if spec is None:
        return np.arange(target.size)
    entries = find_entries(posterior.model)
    chosen = [e.name for e in entries if _matches(spec, e, entries)]
    if not chosen:
        hint = nearest(spec, posterior.names) if isinstance(spec, str) else ''
        raise ValueError(f'params={spec!r} matches no parameter; the paths are {posterior.names}. {hint}'.rstrip())
    return np.sort(np.concatenate([columns[name] for name in chosen]))


def _matches(spec: Any, entry: Entry, entries: list[Entry]) -> bool:
    """Whether a filter matches a parameter; a path matches all below it, unless it is itself a parameter's path."""
    if isinstance(spec, list | set | frozenset):
        return any(_matches(one, entry, entries) for one in spec)
    if isinstance(spec, Param):
        return entry.param is spec
    if isinstance(spec, Module):
        return any(entry.state is e.state for e in find_entries(spec))
    if isinstance(spec, str | tuple):
        path = tuple(spec.split('.')) if isinstance(spec, str) else tuple(str(part) for part in spec)
        own = tuple(entry.name.split('.'))
        exact = any(tuple(e.name.split('.')) == path for e in entries)
        return own == path or (not exact and own[: len(path)] == path)
    return to_predicate(spec)(entry.path, entry.state if entry.param is None else entry.param)
