"""Results as xarray Datasets with dims, coords and units, for ArviZ 0.x and 1.x."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.core.units import u
from brainstate_prob.infer.density.variables import Variable
from brainstate_prob.infer.results.observations import counted, is_pointwise, refuse_joint

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['datasets_of', 'free_name', 'group_name', 'import_arviz', 'is_old', 'mask_of', 'scored_datasets', 'wrap']


def import_arviz() -> Any:
    """Import ArviZ, without the announcement of version 1 by version 0.x."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message=r'\s*ArviZ is undergoing a major refactor', category=FutureWarning)
        import arviz

    return arviz


def is_old(arviz: Any) -> bool:
    """Whether the installed version is ArviZ 0.x."""
    return int(arviz.__version__.split('.')[0]) < 1


def wrap(datasets: dict[str, Any]) -> Any:
    """Convert Datasets by group to the container of the installed ArviZ."""
    arviz = import_arviz()
    if is_old(arviz):
        return arviz.InferenceData(**datasets)
    import xarray as xr

    return xr.DataTree.from_dict({f'/{group}': dataset for group, dataset in datasets.items()})


def group_name(name: str, method: str) -> str:
    """The name of a group in ArviZ; draws of the prior are in the group prior."""
    return name.replace('posterior', 'prior', 1) if method == 'prior' else name


def free_name(name: str, taken: Any) -> str:
    """``name``, with underscores appended until it is unique."""
    while name in taken:
        name += '_'
    return name


def datasets_of(
    fit: Fit, *, log_likelihood: bool | None, posterior_predictive: bool, seed: Any, prior: int = 0
) -> dict[str, Any]:
    """The groups of a fit as Datasets, from the file if the fit was loaded without its posterior."""
    import xarray as xr

    posterior = fit.posterior
    sampled = {'chain': np.arange(fit.num_chains), 'draw': np.arange(fit.num_draws)}
    named = functools.partial(group_name, method=fit.method)
    groups = {named('posterior'): _posterior(fit, sampled)}
    if fit.stats:
        stats = {
            k: (('chain', 'draw', *(f'{k}_dim_{i}' for i in range(v.ndim - 2))), plain(v)) for k, v in fit.stats.items()
        }
        groups['sample_stats'] = xr.Dataset(stats, sampled)
    if posterior is None:
        if prior:
            fit.posterior_for('draws of the prior')
        wanted = {'log_likelihood': log_likelihood is not False, named('posterior_predictive'): posterior_predictive}
        return groups | {name: group for name, group in (fit._groups or {}).items() if wanted.get(name, True)}
    data = _DataArrays(fit)
    if posterior.data.targets is not None:
        unit = posterior.targets_unit
        if log_likelihood and fit.method != 'prior':
            refuse_joint(fit, posterior.data, 'The group log_likelihood')
        if log_likelihood is None:
            log_likelihood = is_pointwise(fit.density, fit.rows[0], posterior.data)
        if log_likelihood and fit.method != 'prior':
            of = {'units_of_targets': str(unit)} if not unit.is_unitless else {}
            each = data.group('targets', fit.log_likelihood(), of, sampled)
            groups['log_likelihood'] = _among(each, mask_of(fit), 'targets')
        if posterior_predictive and posterior.log_likelihood_function is None:
            drawn = u.get_magnitude(fit.predict(seed=seed))
            drawn = drawn.reshape(fit.num_chains, fit.num_draws, *drawn.shape[1:])
            groups[named('posterior_predictive')] = data.group('targets', drawn, _attrs(unit), sampled)
    for name, x in posterior.arrays.items():
        dataset = data.group(name, np.asarray(u.get_magnitude(x)), _attrs(u.get_unit(x)))
        group = 'observed_data' if name == 'targets' else 'constant_data'
        groups[group] = groups[group].merge(dataset) if group in groups else dataset
    if prior and fit.method != 'prior':
        dataset = datasets_of(
            fit._of_prior(prior, seed), log_likelihood=False, posterior_predictive=posterior_predictive, seed=seed
        )
        groups |= {name: dataset[name] for name in ('prior', 'prior_predictive') if name in dataset}
    groups[named('posterior')].attrs.update({'inference_library': 'brainstate_prob', 'inference_method': fit.method})
    return groups


def scored_datasets(fit: Fit, *, posterior_predictive: bool) -> dict[str, Any]:
    """The groups of a fit with a value per observation, without masked observations."""
    groups = datasets_of(
        fit if fit.weights is None else fit._resampled(),
        log_likelihood=True,
        posterior_predictive=posterior_predictive,
        seed=0,
    )
    mask = None if fit.posterior is None else mask_of(fit)
    for name in ('observed_data', group_name('posterior_predictive', fit.method)):
        if mask is not None and name in groups and 'targets' in groups[name]:
            lead = 0 if name == 'observed_data' else 2
            if groups[name]['targets'].shape[lead:] == mask.shape:  # an observed vector counts if any entry does
                groups[name] = _among(groups[name], mask, 'targets')
    return groups


def mask_of(fit: Fit) -> np.ndarray | None:
    """Whether each fitted observation counts; None if all do."""
    data = fit.posterior_for('the mask').data
    mask = None if data.targets is None else counted(fit.density, fit.rows[0], data, data)
    return None if mask is None or mask.all() else mask


def _among(dataset: Any, mask: np.ndarray | None, name: str) -> Any:
    """A Dataset of the entries of ``name`` that count; several axes become one, ``observation``."""
    import xarray as xr

    if mask is None:
        return dataset
    array = dataset[name]
    lead = array.dims[: array.ndim - mask.ndim]
    own = array.dims[array.ndim - mask.ndim :]
    if len(own) == 1:
        return dataset.isel({own[0]: np.flatnonzero(mask)})
    coords = {dim: dataset[dim] for dim in lead} | {'observation': np.flatnonzero(mask)}
    return xr.Dataset({name: ((*lead, 'observation'), array.values[..., mask], array.attrs)}, coords)


class _DataArrays:
    """The data as Datasets with the dims and coords of the posterior."""

    def __init__(self, fit: Fit):
        self._dims, self._labels = fit.posterior.dims, fit.coords

    def group(self, name: str, array: np.ndarray, attrs: dict, sampled: dict[str, np.ndarray] | None = None) -> Any:
        import xarray as xr

        lead = tuple(sampled or ())
        rank = array.ndim - len(lead)
        dims = self._dims.get(name, ())
        if len(dims) != rank:  # an observed vector has one log-likelihood
            dims = dims[:rank] if dims else tuple(f'{name}_dim_{i}' for i in range(rank))
        coords = {
            dim: self._labels.get(dim, np.arange(n)) for dim, n in zip(dims, array.shape[len(lead) :], strict=True)
        }
        return xr.Dataset({name: ((*lead, *dims), plain(array), attrs)}, {**(sampled or {}), **coords})


def _posterior(fit: Fit, sampled: dict[str, np.ndarray]) -> Any:
    import xarray as xr

    coords = dict(sampled)
    for v in fit.variables:
        coords.update({axis: fit.coords.get(axis, np.arange(size)) for axis, size in zip(v.axes, v.shape, strict=True)})
    return xr.Dataset({v.name: _variable(v, fit.magnitudes[v.name]) for v in fit.variables}, coords)


def _variable(v: Variable, array: np.ndarray) -> tuple:
    return ('chain', 'draw', *v.axes), plain(array), _attrs(v.parsed_unit)


def _attrs(unit: u.Unit) -> dict[str, str]:
    return {} if unit.is_unitless else {'units': str(unit)}


def plain(array: np.ndarray) -> np.ndarray:
    """``array`` in a dtype for files: bfloat16 as float32, which represents all its values."""
    return array.astype(np.float32) if array.dtype.kind == 'V' else array
