"""Convert draws of NumPyro's MCMC from a model of `to_numpyro` to a `Fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from brainstate_prob.core.calls import named
from brainstate_prob.infer.density.batching import log_densities
from brainstate_prob.infer.density.blocks import Entry, is_horseshoe
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['from_numpyro']

# NumPyro's extra fields by their names in ArviZ's sample_stats.
_STATS = {
    'diverging': 'diverging',
    'num_steps': 'n_steps',
    'accept_prob': 'acceptance_rate',
    'energy': 'energy',
    'adapt_state.step_size': 'step_size',
}


@named
def from_numpyro(posterior: Posterior, mcmc: Any) -> Fit:
    """Convert draws of NumPyro's MCMC from ``to_numpyro(model)`` to a `Fit`.

    Parameters
    ----------
    posterior
        The posterior of the same model and data.
    mcmc
        A ``numpyro.infer.MCMC`` that has run, or its samples by site, of shape (chains, draws, ...).

    Raises
    ------
    ValueError
        If a site is missing.
    """
    samples = mcmc if isinstance(mcmc, Mapping) else mcmc.get_samples(group_by_chain=True)
    fields = {} if isinstance(mcmc, Mapping) else mcmc.get_extra_fields(group_by_chain=True)
    target = posterior.sampling_target(noncentered=False)
    density = target.density
    columns = columns_of(density)
    first = np.asarray(next(iter(samples.values())))
    thetas = np.empty((*first.shape[:2], density.size), density.dtype)
    with precision_of(density):
        for block in density.blocks:
            for entry in block.entries:
                thetas[..., columns[entry.name]] = _flat_thetas(density, entry, samples)
        lp = log_densities(density, thetas.reshape(-1, density.size), posterior.data)
    stats = {name: np.asarray(fields[field]) for field, name in _STATS.items() if field in fields}
    stats['lp'] = lp.reshape(first.shape[:2])
    return Fit(target, thetas, method='numpyro', stats=stats)


def _flat_thetas(density: Density, entry: Entry, samples: Mapping[str, Any]) -> np.ndarray:
    expanded = is_horseshoe(entry)
    names = [f'{entry.name}.z', f'{entry.name}.local_scale'] if expanded else [entry.name]
    missing = [name for name in names if name not in samples]
    if missing:
        raise ValueError(
            f'The samples have no site {missing[0]!r}; they have {list(samples)}. Draw them from to_numpyro(model).'
        )
    arrays = [np.asarray(samples[name]) for name in names]
    if expanded:
        arrays[1] = np.log(arrays[1])
    else:
        run = density.jit(from_numpyro, entry.name, lambda: jax.vmap(jax.vmap(entry.t._inv)))
        arrays = [np.asarray(run(arrays[0].astype(entry.dtype)))]
    return np.concatenate([a.reshape(*a.shape[:2], -1) for a in arrays], axis=2)
