"""Guides for SVI by name: NumPyro's autoguides on a model with one site, the flat theta."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import autoguide, init_to_median, init_to_uniform, init_to_value
from numpyro.infer.util import log_density

from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.numpyro_modules import bind_submodules

bind_submodules()

__all__ = ['GUIDES', 'check_guide', 'flat_model', 'guide_draw', 'make_guide']

_DEFAULT_STARTS = (init_to_uniform, init_to_median)


class _AroundStart:
    """A normalizing flow followed by a shift and scale, so that it begins around the start and not around zero."""

    def __init__(self, model: Callable, *, init_scale: float, **settings: Any):
        super().__init__(model, **settings)  # type: ignore[call-arg]
        self._start_scale = init_scale

    def _get_posterior(self) -> Any:
        flow: Any = super()._get_posterior()  # type: ignore[misc]
        start: Any = self._init_latent  # type: ignore[attr-defined]
        at_start = dist.transforms.IndependentTransform(dist.transforms.AffineTransform(start, self._start_scale), 1)
        return dist.TransformedDistribution(flow, at_start)


class _AutoIAF(_AroundStart, autoguide.AutoIAFNormal):
    pass


class _AutoBNAF(_AroundStart, autoguide.AutoBNAFNormal):
    pass


GUIDES: dict[str, Callable] = {
    'normal': autoguide.AutoNormal,
    'diagonal': autoguide.AutoDiagonalNormal,
    'multivariate': autoguide.AutoMultivariateNormal,
    'low_rank': autoguide.AutoLowRankMultivariateNormal,
    'laplace': autoguide.AutoLaplaceApproximation,
    'delta': autoguide.AutoDelta,
    'iaf': _AutoIAF,
    'bnaf': _AutoBNAF,
    'dais': autoguide.AutoDAIS,
}


_POINTS = ('laplace', 'delta')  # these begin as a point


def check_guide(guide: Any, init_scale: float | None, size: int, batch_size: int | None) -> Callable:
    """The guide as a function of the model.

    Raises
    ------
    ValueError
        For an unknown name, or a guide that does not go with so few parameters or with minibatches.
    TypeError
        For a guide that was built already: its model is another one.
    """
    if init_scale is not None and not (isinstance(guide, str) and guide not in _POINTS and init_scale > 0):
        raise ValueError(
            f'init_scale is a positive number for guides by name that have a width, got {init_scale!r} for {guide!r}. '
            'For a guide of your own write it into that: lambda model: AutoNormal(model, init_scale=0.01).'
        )
    family: Any
    if isinstance(guide, str):
        if guide not in GUIDES:
            raise ValueError(
                f'guide must be one of {list(GUIDES)}, a NumPyro autoguide class or a function of the '
                f'model, got {guide!r}.'
            )
        family, wide = GUIDES[guide], guide not in _POINTS
    else:
        family, wide = guide, False
    if isinstance(guide, autoguide.AutoGuide):
        raise TypeError(
            f'{type(guide).__name__} was built for a model of its own; here the model is one flat theta. Pass '
            f'the class, or a function of the model: guide=lambda model: {type(guide).__name__}(model, ...).'
        )
    if not callable(family):
        raise TypeError(
            f'guide must be a name, a NumPyro autoguide class or a function of the model, got {type(guide).__name__}.'
        )
    is_class = isinstance(family, type)
    if is_class and issubclass(family, autoguide.AutoIAFNormal | autoguide.AutoBNAFNormal) and size == 1:
        raise ValueError(
            f"guide={guide!r} is a flow between several dimensions; the model has one. Use guide='normal'."
        )
    if is_class and issubclass(family, autoguide.AutoDAIS) and batch_size is not None:
        raise ValueError(
            "guide='dais' moves along the gradient of the whole log density, which minibatches do not give. Drop "
            "batch_size, or use guide='multivariate'."
        )
    return functools.partial(family, init_scale=0.1 if init_scale is None else float(init_scale)) if wide else family


def flat_model(density: Density) -> Callable:
    """The posterior as a NumPyro model ``model(data)`` with the one site ``'theta'``."""

    def model(data: Data) -> None:
        theta = numpyro.sample('theta', dist.ImproperUniform(constraints.real_vector, (), (density.size,)))
        numpyro.factor('log_density', density.log_density(theta.astype(density.dtype), data))

    return model


def make_guide(guide: Callable, model: Callable, start: jax.Array, data: Data) -> Callable:
    """The guide of ``model``; an autoguide begins at ``start``, unless it has its own ``init_loc_fn``.

    Raises
    ------
    TypeError
        If the function returns no guide.
    ValueError
        If a guide of the user's own does not sample ``'theta'``.
    """
    made = guide(model)
    if isinstance(made, autoguide.AutoGuide):
        if made.init_loc_fn in _DEFAULT_STARTS:
            made.init_loc_fn = init_to_value(values={'theta': start.astype(jnp.result_type(float))})
        return made
    if not callable(made):
        raise TypeError(
            f'The guide function returned {type(made).__name__}; it must return a guide: a NumPyro autoguide or a '
            "function of the data that samples 'theta'."
        )
    sites = handlers.trace(handlers.seed(made, jax.random.key(0))).get_trace(data)
    drawn = {name: jnp.shape(site['value']) for name, site in sites.items() if site['type'] == 'sample'}
    if drawn.get('theta') != start.shape:
        raise ValueError(
            f"The guide must sample one site 'theta' of shape {start.shape}, the parameters as one flat vector; "
            f'it samples {drawn}.'
        )
    return made


def guide_draw(guide: Any, params: dict, key: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
    """One draw of theta and the guide's log density there (with that of auxiliary variables, where it has some)."""
    if isinstance(guide, autoguide.AutoLaplaceApproximation):
        normal = guide.get_posterior(params)
        theta = normal.sample(key)
        return theta, normal.log_prob(theta)
    log_q, sites = log_density(handlers.seed(guide, key), (data,), {}, params)
    return sites['theta']['value'], log_q
