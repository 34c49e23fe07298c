"""Convergence of chains of a network, judged by its predictions, since its weights are not identified."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.batching import over_draws, rows_at_once
from brainstate_prob.infer.density.classes import class_log_probs, precision_of
from brainstate_prob.infer.density.information import outputs_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.networks import is_network
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.ess import effective_sizes
from brainstate_prob.infer.diagnostics.safely import never_raises
from brainstate_prob.infer.target.minibatch import take

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['network_problems', 'prediction_sizes']

FEWEST_DRAWS = 100  # per chain; R-hat and ESS need as many
_DRAWS = 500  # draws of each chain that are used, evenly spread
_NUMBERS = 64  # predicted numbers, evenly spread over the data
_R_HAT = 1.05  # the spread of a prediction is then wrong by at most five per cent
_ESS = 100  # the Monte Carlo error of a mean is then a tenth of the spread


@never_raises('The diagnostics of the predictions')
def network_problems(fit: Fit) -> list[str]:
    """Warnings about predictions of a network about which chains differ; empty for other models."""
    if fit.posterior is None or fit.weights is not None or not fit.is_markov or not is_network(fit.density.entries):
        return []
    if 'num_warmup' not in fit.info or fit.num_draws < FEWEST_DRAWS or fit.posterior.data.targets is None:
        return []
    in_batches = fit.info.get('batch_size') is not None
    sizes = prediction_sizes(fit.density, fit.thetas, fit.posterior.data, in_batches)
    return _warnings(sizes, fit)


def _warnings(sizes: dict[str, np.ndarray], fit: Fit) -> list[str]:
    """Warnings about predictions with large R-hat or few effective draws."""
    texts = []
    r_hat = np.nan_to_num(sizes['r_hat'], nan=1.0)  # constant predictions agree
    what = 'predictions of this network'
    if fit.num_chains > 1 and r_hat.max() > _R_HAT:
        texts.append(
            f'R-hat of the {what} is up to {r_hat.max():.3f} (above {_R_HAT} for {int((r_hat > _R_HAT).sum())} of '
            f'{r_hat.size} that were checked): the chains have not mixed, and predict like an ensemble. '
            f'{advice("r_hat", fit.method, fit.info)}'
        )
    ess = np.nan_to_num(sizes['ess_bulk'], nan=np.inf)
    if ess.min() < _ESS:
        texts.append(
            f'The bulk effective sample size of the {what} is down to {ess.min():.0f} (below {_ESS} for '
            f'{int((ess < _ESS).sum())} of {ess.size} that were checked): their means and quantiles are uncertain. '
            f'{advice("ess", fit.method, fit.info)}'
        )
    return texts


def prediction_sizes(density: Density, thetas: np.ndarray, data: Data, in_batches: bool) -> dict[str, np.ndarray]:
    """R-hat and effective sizes of some predictions: the parameters of the targets' distribution.

    For classes their log-probabilities; for ``log_likelihood=`` its terms; and their sum over the selected
    observations.

    Parameters
    ----------
    in_batches
        Whether the likelihood can be computed for single observations: then only for the selected ones.
    """
    chains, draws = thetas.shape[:2]
    some = np.unique(np.linspace(0, draws - 1, min(draws, _DRAWS)).astype(int))
    if in_batches and np.ndim(data.targets) and np.shape(data.targets)[0] > _NUMBERS:
        index = np.linspace(0, np.shape(data.targets)[0] - 1, _NUMBERS).astype(int)
        data = take(data, jnp.asarray(index))
    rows = thetas[:, some].reshape(chains * len(some), -1)
    with precision_of(density):
        run = density.compiled(_predictions, in_axes=(0, None))
        numbers = over_draws(lambda t: run(t, data), (rows,), rows_at_once(density, (data.args, data.targets)))
    return effective_sizes(np.asarray(numbers, np.float64).reshape(chains, len(some), -1))


def _predictions(density: Density, theta: jax.Array, data: Data) -> jax.Array:
    with density.open(theta, data) as model:
        terms = model.log_probs(data)
        if density.own_log_likelihood is not None:
            parts = [terms]
        else:
            distribution = model.distribution(data)
            try:
                parts = [class_log_probs(distribution)]
            except ValueError:  # no classes
                parts = outputs_of(distribution)[0]
    each = jnp.concatenate([_some(part) for part in parts])
    return jnp.append(_some(each), jnp.sum(terms).astype(each.dtype))


def _some(x: jax.Array) -> jax.Array:
    flat = jnp.ravel(x)
    index = np.unique(np.linspace(0, flat.size - 1, min(flat.size, _NUMBERS)).astype(int))
    return flat[index]
