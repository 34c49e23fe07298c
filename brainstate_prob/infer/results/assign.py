"""Write values of the parameters from a fit's draws into a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import graph
from brainstate_prob.core import BatchState
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import dotted
from brainstate_prob.infer.density.batching import log_densities
from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density, density_of, find_entries, others_of, plain_values
from brainstate_prob.infer.density.variables import columns_of, differences, variables_of
from brainstate_prob.infer.density.wider import base_of
from brainstate_prob.nn.adoption import adopted
from brainstate_prob.nn.module import Module

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['assign_to']


def assign_to(fit: Fit, model: Any, which: Any) -> Any:
    """See `Fit.assign_to`."""
    if not isinstance(model, Module):
        return _assign_to_foreign(fit, model, which)
    entries = find_entries(model)
    mismatches = differences(variables_of(entries), fit.variables)
    if mismatches:
        raise ValueError(f'{type(model).__name__} is not the model that was fitted: {"; ".join(mismatches)}.')
    if which == 'mode':
        which = np.unravel_index(int(np.argmax(_log_densities(fit))), fit.thetas.shape[:2])
    elif which == 'mean' and fit.thetas.shape[:2] == (1, 1):
        which = (0, 0)
    density = _density_for(fit, model)
    with precision_of(density):
        thetas = _means(fit, entries) if which == 'mean' else _draw(fit, model, density, which)
        thetas = {entry.name: jnp.asarray(thetas[entry.name], entry.dtype) for entry in entries}
        values = {entry.state: thetas[entry.name] for entry in entries if entry.param is not None}
        for state, value in (values | plain_values(entries, thetas)).items():
            state.value = value
    _assign_statistics(fit, model, which)
    return None


def _assign_to_foreign(fit: Fit, model: Any, which: Any) -> Any:
    """Write into a model of another library, by way of the Module that stood for it in the fit."""
    if adopted(model) is model:
        raise TypeError(f'assign_to takes a Module or a model of another library, got {type(model).__name__}.')
    fitted = fit.posterior_for('assign_to a model of another library').model
    if not hasattr(fitted, 'assign_to'):
        raise TypeError(
            f'{type(model).__name__} is not the model that was fitted, which is a Module: {type(fitted).__name__}.'
        )
    module = graph.clone(fitted)
    assign_to(fit, module, which)
    return module.assign_to(model)


def _assign_statistics(fit: Fit, model: Module, which: Any) -> None:
    """Write the running statistics of the fit: those of a draw, or the mean."""
    statistics = fit.running_statistics
    if fit.has_own_statistics:
        at = (lambda x: fit._mean(np.asarray(x))) if isinstance(which, str) else lambda x: x[tuple(which)]
        statistics = {path: jax.tree.map(at, value) for path, value in statistics.items()}
    states = {dotted(path): state for path, state in model.states(BatchState).items()}
    for path, value in statistics.items():
        states[path].value = jax.tree.map(jnp.asarray, value)


def _density_for(fit: Fit, model: Module) -> Density:
    """The density of the fit's coordinates, built from a model if there is no posterior."""
    if fit.density is not None:
        return fit.density
    plain = density_of(model, None, None, expand=False)
    same = all(len(c) == len(fit.columns[name]) for name, c in columns_of(plain).items())
    if same and not fit.noncentered:
        return plain
    return density_of(model, None, None, expand=not same, noncentered=fit.noncentered)


def _draw(fit: Fit, model: Module, density: Density, which: Any) -> dict[str, Any]:
    """Theta of each parameter at one draw, by name."""
    try:
        chain, draw = (int(i) for i in which)
        row = fit.thetas[chain, draw]
    except (TypeError, ValueError):
        raise ValueError(f"which must be 'mean', 'mode' or (chain, draw), got {which!r}.") from None
    except IndexError:
        chains, draws = fit.thetas.shape[:2]
        raise ValueError(f'There is no draw {which!r}: the fit has {chains} chains of {draws} draws.') from None
    density = base_of(density)
    theta = np.empty(density.size, density.dtype)
    for name, columns in columns_of(density).items():
        theta[columns] = row[fit.columns[name]]
    states = others_of(model) if fit.posterior is None else fit.posterior.data.states
    return density.compiled(Density.thetas)(theta, states)


def _means(fit: Fit, entries: list[Entry]) -> dict[str, Any]:
    """The theta of the mean of the constrained values, by name."""
    thetas = {}
    for name, mean in fit.estimate.items():
        entry = next(e for e in entries if e.name == name)
        mean = jnp.asarray(u.get_magnitude(mean))
        try:
            thetas[name] = entry.t.inverse(mean)
        except ValueError as error:
            raise ValueError(
                f"Param {name!r}: the mean of the draws is not a possible value: {error} Use which='mode' or a draw."
            ) from None
    return thetas


def _log_densities(fit: Fit) -> np.ndarray:
    if 'lp' in fit.stats:
        return fit.stats['lp']
    if fit.thetas.shape[:2] == (1, 1):
        return np.zeros((1, 1))
    posterior = fit.posterior_for("which='mode'")
    return log_densities(fit.density, fit.rows, posterior.data).reshape(fit.thetas.shape[:2])
