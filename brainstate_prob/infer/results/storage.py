"""Save fits to netCDF files and zarr folders: ArviZ's groups, and a record to restore the fit."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.quantities import with_unit
from brainstate_prob.infer.density.variables import Variable
from brainstate_prob.infer.results.arviz_io import datasets_of, free_name, group_name, plain
from brainstate_prob.infer.results.attach import rebuilt, record_of
from brainstate_prob.infer.results.draws import Draws
from brainstate_prob.infer.results.plain_records import Arrays, decoded, encoded
from brainstate_prob.infer.results.provenance import has_other_data, other_model, provenance_of

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['load', 'save']

_ATTRIBUTE = 'brainstate_prob'
_FORMAT = 2  # 1: the record is an attribute of plain data, without kinds of fits
# Suffixes of other formats. Any other, or none, is netCDF.
_OTHER_FORMATS = ('.pkl', '.pickle', '.npz', '.npy', '.json', '.csv', '.txt', '.mat', '.h5', '.hdf5')
_OWN = ('unconstrained_posterior', 'history', 'guide_params', 'brainstate_prob_record')


def save(fit: Fit, path: str | os.PathLike, **groups: Any) -> None:
    """See `Fit.save`."""
    import xarray as xr

    path = _checked_path(path)
    datasets = datasets_of(fit, **groups)
    names = {v.name for v in fit.variables}
    rows = {
        v.name: (('chain', 'draw', free_name(f'{v.name}_theta', names)), plain(fit.thetas[..., fit.columns[v.name]]))
        for v in fit.variables
    }
    datasets['unconstrained_posterior'] = xr.Dataset(rows)
    if fit.weights is not None:
        datasets['sample_stats'] = datasets.get('sample_stats', xr.Dataset()).assign(
            weights=(('chain', 'draw'), plain(fit.weights))
        )
    if fit.history:
        datasets['history'] = xr.Dataset({k: (f'{k}_step', plain(v)) for k, v in fit.history.items()})
    arrays = Arrays()
    record = encoded(record_of(fit), arrays)
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    # As an array, since an attribute of a netCDF file has at most 64 KB.
    datasets['brainstate_prob_record'] = xr.Dataset(
        {'json': ('json_byte', text)}
        | {name: (tuple(f'{name}_{axis}' for axis in range(x.ndim)), x) for name, x in arrays.arrays.items()}
    )
    tree = xr.DataTree.from_dict(
        {'/': xr.Dataset(attrs={_ATTRIBUTE: json.dumps({'format': _FORMAT})})}
        | {f'/{name}': dataset for name, dataset in datasets.items()}
    )
    temporary = os.path.join(os.path.dirname(path), f'.{os.path.basename(path)}.{os.getpid()}.tmp')
    try:
        if _is_zarr(path):
            _import_zarr()
            tree.to_zarr(temporary, zarr_format=2)  # format 3 does not specify strings yet
            _replace_folder(temporary, path)
        else:
            tree.to_netcdf(temporary, engine='h5netcdf')
            with open(temporary, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        _remove(temporary)


def _checked_path(path: str | os.PathLike) -> str:
    """Check the path of a file before the work.

    Raises
    ------
    ValueError
        For a name with the suffix of another format.
    FileNotFoundError
        If the folder does not exist.
    """
    path = os.fspath(path)
    extension = os.path.splitext(path)[1].lower()
    if extension in _OTHER_FORMATS:
        raise ValueError(
            f'{path!r} would be a netCDF file in spite of its name. A fit is written as netCDF (a name that ends in '
            '.nc, or without an ending) or as a zarr folder (.zarr).'
        )
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'{path!r} cannot be written: there is no folder {folder!r}. Make it first.')
    if os.path.isdir(path) and not path.endswith('.zarr') and os.listdir(path) and not _holds_zarr(path):
        raise ValueError(f'{path!r} is a folder, and no zarr folder. Give the name of a file, {path!r} + "/fit.nc".')
    return path


def _holds_zarr(path: str) -> bool:
    return any(name.startswith('.z') or name == 'zarr.json' for name in os.listdir(path))


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
    """Replace a folder, restoring the old one if that fails, since it is not atomic."""
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
    """Read a fit written by `Fit.save`.

    Parameters
    ----------
    posterior
        The posterior of the fitted model, which restores the fit. With other data, default predictions and
        ``log_likelihood`` are of these, and quantities of the fitted data (``log_marginal_likelihood``, ``loo``,
        ``waic``) are refused. Without it there are draws, summary, ``to_arviz`` and ``assign_to``.

    Raises
    ------
    ValueError
        For a file of another kind, or a posterior with other parameters, priors, constants or likelihood, naming the
        difference. Likelihoods are compared if the data have the same shapes, and the versions of JAX and this
        library are the same.

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
    >>> fit = infer.map(posterior, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fit.save(os.path.join(folder, 'fit.nc'))
    ...     same = infer.load(os.path.join(folder, 'fit.nc'), posterior)
    >>> bool(same.draws['mu'] == fit.draws['mu'])
    True
    """
    groups, record = _read(os.fspath(path))
    variables = tuple(Variable.from_dict(d) for d in record['variables'])
    stored = {v.name: groups['unconstrained_posterior'][v.name].values for v in variables}
    provenance = record.get('provenance')
    stats = _arrays_of(groups.get('sample_stats'), record['dtypes'])
    weights = stats.pop('weights', None)
    history = _arrays_of(groups.get('history'), {k[:-1]: v for k, v in record['dtypes'].items()})
    fit = rebuilt(record, stored, posterior, repr(os.fspath(path)), stats=stats, history=history, weights=weights)
    others = posterior is not None and provenance is not None and _has_other_data(posterior, provenance, path)
    fit._provenance, fit.has_other_data = provenance or {}, others
    values = group_name('posterior', fit.method)
    if posterior is None:
        fit._groups = {name: group for name, group in groups.items() if name not in (values, 'sample_stats', *_OWN)}
    fit._draws = Draws(
        {v.name: with_unit(groups[values][v.name].values.astype(jnp.dtype(v.dtype)), v.parsed_unit) for v in variables}
    )
    return fit


def _arrays_of(group: Any, dtypes: dict[str, str]) -> dict[str, np.ndarray]:
    """The variables of a group in their original dtypes."""
    if group is None:
        return {}
    arrays = {str(name): x.values for name, x in group.data_vars.items()}
    return {name: x.astype(jnp.dtype(dtypes[name])) if name in dtypes else x for name, x in arrays.items()}


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
        record: dict[str, Any] = json.loads(tree.attrs[_ATTRIBUTE])
        if record['format'] > _FORMAT:
            raise ValueError(
                f'{path!r} has format {record["format"]}, this version reads up to {_FORMAT}. Update brainstate_prob.'
            )
        groups = {str(name): node.to_dataset(inherit=False).load() for name, node in tree.children.items()}
    if record['format'] == 1:
        return groups, _of_format_1(record, groups)
    arrays = {str(name): x.values for name, x in groups['brainstate_prob_record'].data_vars.items()}
    return groups, decoded(json.loads(arrays.pop('json').astype(np.uint8).tobytes()), arrays)


def _of_format_1(record: dict[str, Any], groups: dict[str, Any]) -> dict[str, Any]:
    """Convert the record of a file of the first format to the current one."""
    beside = None
    if record['method'] == 'mc_dropout':  # whose masks come from seeds in its info
        shape = next(iter(groups['unconstrained_posterior'].data_vars.values())).shape[:2]
        seeds = np.asarray(record['info']['mask_seeds'], jnp.dtype(record['dtype']))
        beside = ('masks', (), seeds.reshape(*shape, 1))
    outline = record['guide_params']
    return {
        'noncentered': (),
        **record,
        'kind': 'fit',
        'own': {},
        'dtypes': {},
        'columns': {},
        'beside': beside,
        'statistics': {},
        'guide_params': _filled(outline, groups['guide_params']) if 'guide_params' in groups else None,
    }


def _has_other_data(posterior: Posterior, provenance: dict[str, Any], path: Any) -> bool:
    """Whether the posterior has other data than were fitted; refuse one of another model."""
    current = provenance_of(posterior)
    differing = other_model(provenance, current)
    if differing:
        raise ValueError(
            f"{os.fspath(path)!r} holds the fit of another model than the posterior's: {'; '.join(differing)}. Build "
            'the posterior as it was fitted, or fit this one.'
        )
    return has_other_data(provenance, current)


def _filled(outline: Any, leaves: Any) -> Any:
    """The tree of arrays from an outline ``[kind, parts]`` of the first format."""
    if outline is None:
        return None
    if isinstance(outline, int):
        return leaves[f'p{outline}'].values
    kind, parts = outline
    if kind == 'dict':
        return {name: _filled(part, leaves) for name, part in parts.items()}
    return (tuple if kind == 'tuple' else list)(_filled(part, leaves) for part in parts)
