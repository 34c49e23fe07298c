"""What a result is about: the parameters' names, shapes, units and axes, and where each lies in the flat vector."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainstate_prob.core.units import u
from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.log_density import Density

_SAMPLED = ('chain', 'draw')

__all__ = ['Variable', 'check_coords', 'columns_of', 'differences', 'variables_of']


@dataclasses.dataclass(frozen=True)
class Variable:
    """One parameter of a result: an `Entry` without its live State, so that it can be written to a file."""

    name: str
    shape: tuple[int, ...]
    theta_shape: tuple[int, ...]
    dtype: str
    unit: str
    transform: str
    dims: tuple[str, ...] | None

    @classmethod
    def of(cls, entry: Entry) -> Variable:
        """The description of an entry."""
        return cls(
            entry.name,
            entry.value_shape,
            tuple(entry.shape),
            np.dtype(entry.dtype).name,
            str(entry.unit),
            ' '.join(repr(entry.t).split()),
            entry.dims,
        )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Variable:
        """The inverse of `dataclasses.asdict`, also after a passage through JSON."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
        return cls(**fields)

    @property
    def parsed_unit(self) -> u.Unit:
        """The unit as an object."""
        return u.parse_unit(self.unit)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the value's axes: its dims, else ``<name>_dim_0``, ... as ArviZ calls them."""
        return tuple(f'{self.name}_dim_{i}' for i in range(len(self.shape))) if self.dims is None else self.dims


def variables_of(entries: Sequence[Entry]) -> tuple[Variable, ...]:
    """The descriptions of a model's parameters."""
    return tuple(Variable.of(e) for e in entries)


def columns_of(density: Density) -> dict[str, np.ndarray]:
    """By name, where a parameter's numbers lie in the flat vector of ``density``."""
    columns, offset = {}, 0
    for block in density.blocks:
        for entry, size in zip(block.entries, block.sizes, strict=True):
            columns[entry.name] = np.arange(offset, offset + size)
            offset += size
    return {e.name: columns[e.name] for e in density.entries}


def differences(theirs: Sequence[Variable], ours: Sequence[Variable]) -> list[str]:
    """What keeps ``theirs`` from being read as ``ours``, in words; empty if nothing does."""
    a, b = {v.name: v for v in theirs}, {v.name: v for v in ours}
    found = [f'{name!r} is missing' for name in b if name not in a]
    found += [f'{name!r} is not a parameter of the fit' for name in a if name not in b]
    for name in (name for name in b if name in a):
        for field in ('shape', 'dtype', 'unit', 'transform'):
            has, wanted = getattr(a[name], field), getattr(b[name], field)
            if has != wanted:
                found.append(f'{name!r} has {field} {has} where the fit has {wanted}')
    return found


def check_coords(
    variables: Sequence[Variable], coords: Mapping[str, Any], data_axes: Mapping[str, tuple] | None = None
) -> dict[str, np.ndarray]:
    """Labels of every named dim that has some, as arrays.

    Parameters
    ----------
    data_axes
        By name of an array of the data, its dims and its shape.

    Raises
    ------
    ValueError
        Where a dim has several lengths, labels of another length, or the name of a parameter; for labels of a dim that
        nothing has; for Params and dims named as a sampling axis or as files cannot hold it.
    """
    lengths: dict[str, tuple[int, str]] = {}
    axes = [(f'Param {v.name!r}', v.dims or (), v.shape if v.dims else ()) for v in variables]
    axes += [(repr(name), dims, shape) for name, (dims, shape) in (data_axes or {}).items()]
    _check_names(variables, axes)
    for label, dims, shape in axes:
        for dim, size in zip(dims, shape, strict=True):
            first, where = lengths.setdefault(dim, (size, label))
            if first != size:
                raise ValueError(
                    f'The dim {dim!r} has length {first} in {where} and {size} in {label}. '
                    'Give them different names, or make the shapes agree.'
                )
    labels = {}
    for dim, values in coords.items():
        labels[dim] = _labels(values)
        if dim not in lengths:
            raise ValueError(
                f'coords has labels for {dim!r}, which is no dim of a parameter or of the data; there are '
                f'{sorted(lengths)}. Name the axes with Param(..., dims=...), or Posterior(..., dims=...) for data.'
            )
        if labels[dim].shape != (lengths[dim][0],):
            raise ValueError(
                f'coords[{dim!r}] must have one label an entry: {lengths[dim][0]} of them ({lengths[dim][1]}), '
                f'got shape {labels[dim].shape}.'
            )
    return labels


def _check_names(variables: Sequence[Variable], axes: Sequence[tuple]) -> None:
    """Refuse the names under which results could not be kept: those of another thing in the same table of arrays.

    Raises
    ------
    ValueError
        With the Param's path or the dim, and what to call it.
    """
    own_axes = {axis: v.name for v in variables for axis in v.axes}
    for v in variables:
        if v.name in _SAMPLED:
            raise ValueError(
                f'Param {v.name!r} has the name of an axis of the draws, (chain, draw), beside which results are kept. '
                f"Rename the attribute, e.g. to '{v.name}_'."
            )
        if v.name in own_axes:
            raise ValueError(
                f'Param {v.name!r} has the name of an axis of Param {own_axes[v.name]!r}, beside which results are '
                'kept. Rename the attribute, or name the axes by Param(..., dims=...).'
            )
        _check_text(f'Param {v.name!r}', v.name, 'Rename the attribute, or the key of the dict that it is in')
    for label, dims, _ in axes:
        for dim in dims:
            if dim in _SAMPLED or any(dim == w.name for w in variables):
                raise ValueError(
                    f'{label}: the dim {dim!r} has the name of a parameter or of a sampling axis. Rename it.'
                )
            _check_text(f'{label}: the dim {dim!r}', dim, 'Rename it')


def _check_text(label: str, name: str, fix: str) -> None:
    """Refuse names that files cannot hold."""
    if '/' in name or '\0' in name or not name or name != name.strip():
        raise ValueError(
            f"{label} has a name that files cannot hold: a '/' there parts folders, and spaces at the ends are lost. "
            f'{fix}.'
        )


def _labels(values: Any) -> np.ndarray:
    """Labels as files and ArviZ hold them: dates as such, other objects by their text."""
    labels = np.asarray(values)
    if labels.dtype == np.float16:
        return labels.astype(np.float32)
    if labels.dtype.kind == 'S':
        return labels.astype(str)
    if labels.dtype.kind != 'O':
        return labels
    flat = labels.ravel().tolist()
    for kind, unit in ((datetime.datetime, 'us'), (datetime.date, 'D')):
        if all(isinstance(x, kind) and getattr(x, 'tzinfo', None) is None for x in flat):
            return labels.astype(f'datetime64[{unit}]')
    return np.array([str(x) for x in flat]).reshape(labels.shape)
