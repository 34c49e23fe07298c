"""Predictive comparison of models by ArviZ: leave-one-out, WAIC, and their table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.infer.results.arviz_io import import_arviz, mask_of
from brainstate_prob.infer.results.observations import refuse_joint, refuse_single

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['compare', 'loo', 'waic']


def _data(fit: Fit, what: str) -> Any:
    if fit.num_chains * fit.num_draws < 2:
        raise ValueError(f'{what} needs draws of the posterior; {fit.method!r} gives one point. Use nuts, say.')
    fit.refuse_other_data(what)
    if fit.posterior is not None and fit.posterior.data.targets is not None:
        refuse_joint(fit, fit.posterior.data, what)
        refuse_single(fit, fit.posterior.data, what)
        mask = mask_of(fit)
        if mask is not None and mask.sum() < 2:
            raise ValueError(
                f'{what} leaves out one observation after another, but of the {mask.size} the mask of the predicted '
                f'distribution leaves {mask.sum()}.'
            )
    data = fit.to_arviz(log_likelihood=True, posterior_predictive=False)
    if not hasattr(data, 'log_likelihood') and 'log_likelihood' not in getattr(data, 'children', ()):
        raise ValueError(f'{what} needs the log-likelihood of each observation, but this posterior has no targets.')
    return data


def loo(fit: Fit, what: str = 'loo', **kwargs: Any) -> Any:
    """See `Fit.loo`."""
    return import_arviz().loo(_data(fit, what), **kwargs)


def waic(fit: Fit, **kwargs: Any) -> Any:
    """See `Fit.waic`."""
    arviz = import_arviz()
    if not hasattr(arviz, 'waic'):
        raise NotImplementedError(
            f'ArviZ {arviz.__version__} has removed WAIC, since leave-one-out is more reliable: use fit.loo().'
        )
    return arviz.waic(_data(fit, 'waic'), **kwargs)


def compare(fits: Mapping[str, Fit], **kwargs: Any) -> Any:
    """Compare models of the same targets by leave-one-out, the best first.

    Parameters
    ----------
    fits
        By name.
    **kwargs
        For ``arviz.compare``.

    Returns
    -------
    pandas.DataFrame
        The table of ArviZ: ``elpd_loo`` (1.x: ``elpd``), its difference from the best, standard errors, weights.

    Raises
    ------
    ValueError
        For fits of different numbers of observations, or with different masks.
    """
    if len(fits) < 2:
        raise ValueError(f'compare takes at least two fits by name, got {list(fits)}.')
    sizes = {name: fit.posterior_for('compare').num_observations for name, fit in fits.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f'Only fits of the same targets can be compared; the numbers of observations are {sizes}.')
    masks: dict[str, Any] = {name: mask_of(fit) for name, fit in fits.items()}
    first = next(iter(masks.values()))
    if any((first is None) != (m is None) or (m is not None and not np.array_equal(first, m)) for m in masks.values()):
        counts = {name: size if masks[name] is None else int(masks[name].sum()) for name, size in sizes.items()}
        raise ValueError(
            'Only fits of the same targets can be compared; the masks of the predicted distributions leave others in '
            f'({counts} of {max(sizes.values())}). Mask the same ones in all models.'
        )
    data = {name: _data(fit, 'compare') for name, fit in fits.items()}
    with warnings.catch_warnings():
        # ArviZ 0.23 uses a call that pandas 3.1 deprecates.
        warnings.filterwarnings('ignore', message='The inplace keyword', category=DeprecationWarning)
        return import_arviz().compare(data, **kwargs)
