"""Draws from the prior and the prior predictive distribution."""

from __future__ import annotations

from typing import Any

import jax

from brainstate_prob.core.calls import named
from brainstate_prob.infer.density.prior_draws import prior_thetas, refuse_without_prior
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.nn.module import Module

__all__ = ['prior_predictive', 'sample_prior']


@named
def sample_prior(posterior: Posterior | Module, num_draws: int = 1000, *, seed: Any = 0) -> Fit:
    """Draw the parameters from their priors, as a `Fit`.

    Hyper-parameters that are Params are drawn first. A prior with a wider support than its Param's transform is
    truncated to the transform's codomain, as in the posterior.

    Parameters
    ----------
    posterior
        The posterior, or only the model.
    num_draws
        The number of draws.
    seed
        An int or a key. The first draws do not depend on ``num_draws``.

    Returns
    -------
    Fit
        ``draws`` with units and dims, ``summary()``, ``predict()`` (see `prior_predictive`), ``evaluate``, ``save``;
        ``to_arviz()`` has the groups ``prior`` and ``prior_predictive``.

    Raises
    ------
    ValueError
        For a parameter without a prior, or whose prior cannot be normalized, has a weight, or rarely lies in the
        transform's codomain.

    Examples
    --------
    >>> import brainunit as u, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Neuron(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.tau = nn.Param(10.0 * u.ms, t=None, reg=dist.LogNormal(2.0, 0.5))
    >>> draws = infer.sample_prior(Neuron(), 500).draws['tau']
    >>> draws.shape, str(draws.unit)
    ((1, 500), 'ms')
    """
    check_options(sample_prior, locals(), posterior=None)
    if isinstance(posterior, Module):
        posterior = Posterior(posterior)
    if not isinstance(posterior, Posterior):
        raise TypeError(f'sample_prior takes a Posterior or a Module, got {type(posterior).__name__}.')
    density = posterior.density
    for e in density.entries:
        refuse_without_prior(e)
    thetas = prior_thetas(density, num_draws, to_key(seed), posterior.theta, posterior.data.states)
    return Fit(posterior.target, thetas[None], method='prior')


@named
def prior_predictive(posterior: Posterior | Module, num_draws: int = 1000, *, inputs: Any = None, seed: Any = 0) -> Any:
    """Draw targets from the prior predictive distribution.

    Parameters
    ----------
    posterior, num_draws, seed
        As for `sample_prior`; with the same seed the parameters are the same.
    inputs
        As for `Posterior`; default: its own.

    Returns
    -------
    numpy.ndarray or Quantity
        Of shape (num_draws, ...), in the unit of the targets.

    Raises
    ------
    ValueError
        As `sample_prior`, and for a posterior with ``log_likelihood=``, which has no predictions.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> infer.prior_predictive(infer.Posterior(Mean(), targets=jnp.zeros(3)), 100).shape
    (100, 3)
    """
    return sample_prior(posterior, num_draws, seed=seed).predict(inputs, seed=jax.random.fold_in(to_key(seed), 1))
