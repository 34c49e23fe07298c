"""Initial points from a fit or from values by path, with the running statistics that belong to them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.quantities import split_unit
from brainstate_prob.graph.walk import dotted
from brainstate_prob.infer.data.sharding import on_host
from brainstate_prob.infer.density.variables import columns_of, differences, variables_of
from brainstate_prob.infer.density.wider import base_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.running_statistics import StatisticsDensity, with_statistics
from brainstate_prob.infer.target.target import Target

__all__ = ['chosen_rows', 'in_coordinates', 'of_values', 'started_from', 'statistics_of_rows']


def started_from(posterior: Posterior, init: Any, *, each: bool = False) -> Posterior:
    """The posterior with the running statistics of the fit ``init``.

    Parameters
    ----------
    each
        Whether each start has statistics of its own, see `statistics_of_rows`.

    Raises
    ------
    ValueError
        For a fit of other parameters, or of draws that do not share their running statistics.
    """
    if not isinstance(init, Fit):
        return posterior
    differing = [f for f in differences(init.variables, variables_of(posterior.entries)) if ' has dtype ' not in f]
    if differing:
        raise ValueError(f'init is the fit of another model than the posterior: {"; ".join(differing)}.')
    if not init.has_own_statistics:
        return with_statistics(posterior, init.running_statistics)
    if init.num_chains * init.num_draws == 1:
        one = {path: jax.tree.map(lambda x: x[0, 0], value) for path, value in init.running_statistics.items()}
        return with_statistics(posterior, one)
    if each:
        return posterior
    raise ValueError(
        f'init is a fit by {init.method!r} of which each of {init.num_chains * init.num_draws} draws has running '
        'statistics of its own (BatchNorm), but a run has one set. Start from a fit of one point, such as that of '
        'infer.map under environ.context(fit=True).'
    )


def chosen_rows(init: Fit, keys: jax.Array) -> np.ndarray:
    """The row of a fit's draws for each key, sampled by the weights."""
    # On the host, so that fits of another length compile nothing.
    place, num_rows = on_host(jax.vmap(jax.random.uniform)(keys)).astype(np.float64), len(init.rows)
    cumulative = np.arange(1, num_rows + 1) if init.weights is None else np.cumsum(np.ravel(init.weights))
    return np.searchsorted(cumulative / cumulative[-1], place, side='right').clip(max=num_rows - 1)


def in_coordinates(init: Fit, rows: np.ndarray, target: Target) -> jax.Array:
    """Draws of a fit in the coordinates of ``density``."""
    posterior, density, source = target.posterior, target.density, init.density
    if source is None:  # loaded without its posterior
        source = (posterior.sampling_target(list(init.noncentered)) if init.noncentered else posterior.target).density
        if source.size != sum(map(len, init.columns.values())):
            raise ValueError(
                'init was loaded without its posterior, and has other coordinates than this posterior. Load it by '
                'infer.load(path, posterior).'
            )
        placed = np.empty((len(rows), source.size), rows.dtype)
        for name, where in columns_of(source).items():
            placed[:, where] = rows[:, init.columns[name]]
        rows = placed
    base = base_of(source)
    thetas = jnp.asarray(np.asarray(rows)[:, : base.size].astype(base.dtype))
    if base is density:
        return thetas
    states = target.data.states
    return jnp.stack([density.flatten(base.thetas(theta, states), states) for theta in thetas])


def statistics_of_rows(target: Target, init: Any, keys: jax.Array) -> tuple:
    """The running statistics of each starting point along the first axis, in the order of ``density.carried``."""
    if isinstance(init, Fit) and isinstance(init.density, StatisticsDensity):
        rows = init.rows[chosen_rows(init, keys)]
        return jax.tree.map(jnp.asarray, init.density.statistics(rows, target.data.states))
    present = tuple(target.data.states[i] for i in target.density.carried)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *jnp.shape(x))), present)


def of_values(target: Target, values: Mapping[Any, Any]) -> jax.Array:
    """The theta of constrained values by path; other parameters are as in the model.

    Raises
    ------
    ValueError
        For an unknown path, another shape, a value that the transform does not take.
    """
    posterior, density = target.posterior, target.density
    entries = {e.name: e for e in density.entries}
    states = target.data.states
    base = base_of(posterior.density)
    thetas = dict(base.thetas(posterior.start(base), states))
    for path, value in values.items():
        name = dotted(path) if isinstance(path, tuple) else path
        if name not in entries:
            near = difflib.get_close_matches(str(name), entries, n=1)
            hint = f' Did you mean {near[0]!r}?' if near else ''
            raise ValueError(f'init has a value for {name!r}, but the parameters are {list(entries)}.{hint}')
        entry = entries[name]
        magnitude, _ = split_unit(value, f'init[{name!r}]', entry.unit)
        magnitude = jnp.asarray(magnitude, entry.dtype)
        if magnitude.ndim == 0:
            magnitude = jnp.broadcast_to(magnitude, entry.value_shape)
        if magnitude.shape != entry.value_shape:
            raise ValueError(
                f'init[{name!r}] must have shape {entry.value_shape}, as the parameter has, or be one number for all '
                f'of it; got shape {magnitude.shape}.'
            )
        try:
            entry.t.check(magnitude)
        except ValueError as error:
            raise ValueError(f'init[{name!r}] is not a possible value: {error}') from None
        thetas[name] = entry.t.inverse(magnitude)
    return density.flatten(thetas, states)
