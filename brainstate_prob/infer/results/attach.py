"""Attach a posterior to draws: from a file, or of an existing fit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.density.noncentered import able_entries, places_of
from brainstate_prob.infer.density.variables import Variable, columns_of, differences, variables_of
from brainstate_prob.infer.density.wider import Beside
from brainstate_prob.infer.results.provenance import has_other_data, other_model, provenance_of
from brainstate_prob.infer.results.record import FitRecord
from brainstate_prob.infer.target.running_statistics import with_statistics
from brainstate_prob.infer.target.target import Target

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['rebuilt', 'record_of', 'with_posterior']


def record_of(fit: Fit) -> dict[str, Any]:
    """The record of a fit, from which it is restored together with draws and statistics."""
    kept: dict[str, Any] = {'weights': fit.weights, **fit.stats, **{f'{k} ': v for k, v in fit.history.items()}}
    return {
        'kind': fit.kind,
        'own': fit._own_record(),
        'method': fit.method,
        'info': fit.info,
        'dtype': fit.thetas.dtype.name,
        'dtypes': {k: v.dtype.name for k, v in kept.items() if v is not None},
        'noncentered': list(fit.noncentered),
        'columns': fit.columns,
        'beside': tuple(fit._auxiliary()) if fit._auxiliary().kind else None,
        'statistics': {} if fit.has_own_statistics else fit.running_statistics,
        'guide_params': fit.guide_params,
        'variables': [dataclasses.asdict(v) for v in fit.variables],
        'coords': dict(fit.coords),
        'provenance': fit.provenance(),
    }


def rebuilt(
    record: dict[str, Any],
    stored: dict[str, np.ndarray],
    posterior: Posterior | None,
    what: str,
    *,
    stats: dict[str, np.ndarray],
    history: dict[str, np.ndarray],
    weights: np.ndarray | None,
) -> Fit:
    """Restore the fit of a `record_of`, with ``posterior``.

    Parameters
    ----------
    stored
        Theta by parameter, with the axes (chains, draws, number).
    what
        The source of the draws, for errors.
    """
    variables = tuple(Variable.from_dict(d) for d in record['variables'])
    noncentered = tuple(record['noncentered'])
    target = None if posterior is None else _target_of(posterior, variables, stored, noncentered, what)
    columns = _consecutive(stored) if target is None else columns_of(target.density)
    beside = Beside.from_record(record['beside'])
    shape = next(iter(stored.values())).shape[:2]
    size = sum(map(len, columns.values()))
    thetas = np.empty((*shape, size + beside.width), jnp.dtype(record['dtype']))
    for name, where in columns.items():
        thetas[..., where] = stored[name]
    thetas[..., size:] = beside.numbers
    if target is not None:
        own = target.posterior
        own = with_statistics(own, record['statistics']) if record['statistics'] else own
        target = Target(own, beside.around(target.density))
    # The index of each number of theta in the record, and now.
    moved = np.empty(size, int)
    for name, where in columns.items():
        moved[record['columns'][name] if record['columns'] else where] = where
    kind = FitRecord.kinds[record['kind']]
    fit = kind(
        target,
        thetas,
        method=record['method'],
        stats=stats,
        history=history,
        info=record['info'],
        weights=weights,
        **kind._from_record(record['own'], moved),
    )
    fit.guide_params = record['guide_params']
    if posterior is None:
        fit.variables, fit.columns, fit.noncentered = variables, columns, noncentered
        fit.coords = {dim: np.asarray(labels) for dim, labels in record['coords'].items()}
        fit._statistics, fit._auxiliary_numbers = record['statistics'], beside
    return fit


def with_posterior(fit: Fit, posterior: Posterior) -> Fit:
    """See `Fit.with_posterior`."""
    record = record_of(fit)
    stored = {v.name: fit.thetas[..., fit.columns[v.name]] for v in fit.variables}
    new = rebuilt(record, stored, posterior, 'The fit', stats=fit.stats, history=fit.history, weights=fit.weights)
    fitted, current = record['provenance'], provenance_of(posterior)
    changed = fit.posterior is not None and _has_changed(fit.posterior)
    if fitted is not None:
        differing = other_model({**fitted, 'setting': None}, current)  # priors and constants, not the likelihood
        if differing:
            raise ValueError(f"The fit is of another model than the posterior's: {'; '.join(differing)}.")
        one_program = fitted['setting'] != current['setting'] or fitted['program'] == current['program']
        changed = changed or has_other_data(fitted, current) or not one_program
    new.has_other_data = fit.has_other_data or changed
    new._provenance = {} if fitted is None or changed else fitted
    new._draws = fit._draws
    return new


def _has_changed(posterior: Posterior) -> bool:
    """Whether values that its model or likelihood reads have changed."""
    try:
        if posterior.density.verify is not None:
            posterior.density.verify()
    except ValueError:
        return True
    return False


def _target_of(
    posterior: Posterior,
    variables: tuple[Variable, ...],
    stored: dict[str, np.ndarray],
    noncentered: tuple[str, ...],
    what: str,
) -> Target:
    """The posterior in the coordinates of the file."""
    differing = differences(variables_of(posterior.entries), variables)
    if differing:
        hint = ' Work under jax.enable_x64(True) for float64.' if any('float64' in f for f in differing) else ''
        raise ValueError(f"{what} holds the fit of another model than the posterior's: {'; '.join(differing)}.{hint}")
    if not noncentered and _has_columns(posterior.density, stored):
        return posterior.target
    if set(places_of(noncentered)) <= {e.name for e in able_entries(posterior.entries)}:
        target = posterior.sampling_target(list(noncentered) or False)
        if _has_columns(target.density, stored):
            return target
    raise ValueError(
        f'{what} has other coordinates than the posterior: a prior is expanded or non-centred in one of them only.'
    )


def _has_columns(density: Any, stored: dict[str, np.ndarray]) -> bool:
    return all(len(where) == stored[name].shape[-1] for name, where in columns_of(density).items())


def _consecutive(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns, offset = {}, 0
    for name, array in stored.items():
        columns[name] = np.arange(offset, offset + array.shape[-1])
        offset += array.shape[-1]
    return columns
