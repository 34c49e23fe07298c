"""Fits in netCDF files and zarr folders: ArviZ's groups, and beside them what it takes to go on working with a fit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.arviz_io import datasets_of, group_name, plain
from brainstate_prob.infer.draws import Draws
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.variables import Variable, columns_of, differences, variables_of
from brainstate_prob.nn.magnitudes import with_unit

if TYPE_CHECKING:
    from brainstate_prob.infer.posterior import Posterior

__all__ = ['load', 'save']

_ATTRIBUTE = 'brainstate_prob'
_FORMAT = 1
_OWN = ('unconstrained_posterior', 'history', 'guide_params')


def save(fit: Fit, path: str | os.PathLike, **groups: Any) -> None:
    """See `Fit.save`."""
    import xarray as xr

    datasets = datasets_of(fit, **groups)
    rows = {
        v.name: (('chain', 'draw', f'{v.name}_theta'), plain(fit.thetas[..., fit.columns[v.name]]))
        for v in fit.variables
    }
    datasets['unconstrained_posterior'] = xr.Dataset(rows)
    if fit.weights is not None:
        datasets['sample_stats'] = datasets.get('sample_stats', xr.Dataset()).assign(
            weights=(('chain', 'draw'), fit.weights)
        )
    if fit.history:
        datasets['history'] = xr.Dataset({k: (f'{k}_step', v) for k, v in fit.history.items()})
    leaves = jax.tree.leaves(fit.guide_params)
    if leaves:
        datasets['guide_params'] = xr.Dataset(
            {f'p{i}': (tuple(f'p{i}_{axis}' for axis in range(np.ndim(x))), x) for i, x in enumerate(leaves)}
        )
    record = {
        'format': _FORMAT,
        'method': fit.method,
        'info': _as_plain(fit.info),
        'dtype': fit.thetas.dtype.name,
        'noncentered': list(fit.noncentered),
        'guide_params': _outline(fit.guide_params, iter(range(len(leaves)))),
        'variables': [dataclasses.asdict(v) for v in fit.variables],
        'coords': {dim: labels.tolist() for dim, labels in fit.coords.items()},
    }
    tree = xr.DataTree.from_dict(
        {'/': xr.Dataset(attrs={_ATTRIBUTE: json.dumps(record)})}
        | {f'/{name}': dataset for name, dataset in datasets.items()}
    )
    path = os.fspath(path)
    temporary = os.path.join(os.path.dirname(path), f'.{os.path.basename(path)}.{os.getpid()}.tmp')
    try:
        if _is_zarr(path):
            _import_zarr()
            tree.to_zarr(temporary, zarr_format=2)  # format 3 has no specification of strings yet
            _replace_folder(temporary, path)
        else:
            tree.to_netcdf(temporary, engine='h5netcdf')
            with open(temporary, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        _remove(temporary)


def _is_zarr(path: str) -> bool:
    return os.path.isdir(path) or path.endswith('.zarr')


def _import_zarr() -> None:
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Files in the zarr format need zarr: pip install 'brainstate-prob[zarr]'. Or save as netCDF (fit.nc)."
        ) from error


def _replace_folder(new: str, path: str) -> None:
    """A folder cannot be replaced in one step: the old one is moved away first, and back if that fails."""
    old = f'{new}.old'
    if os.path.exists(path):
        os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        if os.path.exists(old):
            os.replace(old, path)
        raise
    _remove(old)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def load(path: str | os.PathLike, posterior: Posterior | None = None) -> Fit:
    """Read a fit that `Fit.save` has written.

    Parameters
    ----------
    posterior
        That of the model that was fitted: everything then works as before. Its data may be others; predictions by
        default, and ``log_likelihood``, are then of those. Without it there are draws, summary, ``to_arviz`` and
        ``assign_to``.

    Raises
    ------
    ValueError
        For a file of another kind, or a posterior with other parameters, naming the difference.

    Examples
    --------
    >>> import os, tempfile
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> fit = infer.fit_map(posterior, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fit.save(os.path.join(folder, 'fit.nc'))
    ...     same = infer.load(os.path.join(folder, 'fit.nc'), posterior)
    >>> bool(same.draws['mu'] == fit.draws['mu'])
    True
    """
    groups, record = _read(os.fspath(path))
    variables = tuple(Variable.from_dict(d) for d in record['variables'])
    noncentered = tuple(record.get('noncentered', ()))
    stored = {v.name: groups['unconstrained_posterior'][v.name].values for v in variables}
    density = None if posterior is None else _density_of(posterior, variables, stored, noncentered, path)
    columns = _consecutive(stored) if density is None else columns_of(density)
    shape = next(iter(stored.values())).shape[:2]
    thetas = np.empty((*shape, sum(map(len, columns.values()))), jnp.dtype(record['dtype']))
    for name, where in columns.items():
        thetas[..., where] = stored[name]
    stats = {str(k): v.values for k, v in groups['sample_stats'].items()} if 'sample_stats' in groups else {}
    weights = stats.pop('weights', None)
    history = {str(k): v.values for k, v in groups['history'].items()} if 'history' in groups else {}
    fit = Fit(
        posterior,
        density,
        thetas,
        method=record['method'],
        stats=stats,
        history=history,
        info=record['info'],
        weights=weights,
    )
    if 'guide_params' in groups:
        fit.guide_params = _filled(record['guide_params'], groups['guide_params'])
    if fit.method == 'mc_dropout' and posterior is not None:
        from brainstate_prob.infer.mc_dropout import with_masks

        fit = with_masks(fit)
    values = group_name('posterior', fit.method)
    if posterior is None:
        fit.variables, fit.columns, fit.noncentered = variables, columns, noncentered
        fit.coords = {dim: np.asarray(labels) for dim, labels in record['coords'].items()}
        fit._groups = {name: group for name, group in groups.items() if name not in (values, 'sample_stats', *_OWN)}
    fit._draws = Draws(
        {v.name: with_unit(groups[values][v.name].values.astype(jnp.dtype(v.dtype)), v.parsed_unit) for v in variables}
    )
    return fit


def _read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import xarray as xr

    if not os.path.exists(path):
        raise FileNotFoundError(f'There is no file {path!r}.')
    zarr = _is_zarr(path)
    if zarr:
        _import_zarr()
    try:
        tree = xr.open_datatree(path, engine='zarr' if zarr else 'h5netcdf')
    except (OSError, ValueError) as error:
        kind = 'zarr' if zarr else 'netCDF'
        raise ValueError(f'{path!r} cannot be read as {kind}: {error}. Was it written by Fit.save?') from None
    with tree:
        if _ATTRIBUTE not in tree.attrs:
            raise ValueError(f'{path!r} was not written by Fit.save; ArviZ reads such files (arviz.from_netcdf).')
        record = json.loads(tree.attrs[_ATTRIBUTE])
        if record['format'] > _FORMAT:
            raise ValueError(
                f'{path!r} has format {record["format"]}, this version reads up to {_FORMAT}. Update brainstate_prob.'
            )
        groups = {str(name): node.to_dataset(inherit=False).load() for name, node in tree.children.items()}
    return groups, record


def _density_of(
    posterior: Posterior,
    variables: tuple[Variable, ...],
    stored: dict[str, np.ndarray],
    noncentered: tuple[str, ...],
    path: Any,
) -> Any:
    """That one of the posterior's densities whose coordinates the file has."""
    found = differences(variables_of(posterior.entries), variables)
    if found:
        hint = ' Work under jax.enable_x64(True) for float64.' if any('float64' in f for f in found) else ''
        raise ValueError(
            f"{os.fspath(path)!r} holds the fit of another model than the posterior's: {'; '.join(found)}.{hint}"
        )
    if not noncentered and _has_columns(posterior.density, stored):
        return posterior.density
    if set(noncentered) <= set(posterior.sampling_density.noncentered):
        density = posterior.sampling_density_for(list(noncentered) or False)
        if _has_columns(density, stored):
            return density
    raise ValueError(
        f'{os.fspath(path)!r} has other coordinates than the posterior: a prior is expanded or non-centred '
        'in one of them only.'
    )


def _has_columns(density: Any, stored: dict[str, np.ndarray]) -> bool:
    return all(len(where) == stored[name].shape[-1] for name, where in columns_of(density).items())


def _consecutive(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns, offset = {}, 0
    for name, array in stored.items():
        columns[name] = np.arange(offset, offset + array.shape[-1])
        offset += array.shape[-1]
    return columns


def _outline(tree: Any, numbers: Iterator[int]) -> Any:
    """A tree of dicts, lists and tuples as JSON holds it: ``[kind, parts]``, leaves by their number, None as it is."""
    if isinstance(tree, dict):
        return ['dict', {name: _outline(tree[name], numbers) for name in sorted(tree)}]  # as JAX orders leaves
    if isinstance(tree, list | tuple):
        return ['tuple' if isinstance(tree, tuple) else 'list', [_outline(part, numbers) for part in tree]]
    return None if tree is None else next(numbers)


def _filled(outline: Any, leaves: Any) -> Any:
    """The inverse of `_outline`."""
    if outline is None:
        return None
    if isinstance(outline, int):
        return leaves[f'p{outline}'].values
    kind, parts = outline
    if kind == 'dict':
        return {name: _filled(part, leaves) for name, part in parts.items()}
    return (tuple if kind == 'tuple' else list)(_filled(part, leaves) for part in parts)


def _as_plain(x: Any) -> Any:
    """What JSON can hold; anything else as text."""
    if isinstance(x, dict):
        return {str(k): _as_plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_as_plain(v) for v in x]
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        return _as_plain(np.asarray(x).tolist())
    return x if x is None or isinstance(x, bool | int | float | str) else repr(x)
