"""Guides: NumPyro's families by name or class, and custom guides, over the flat theta or over named sites."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import autoguide, init_to_median, init_to_uniform, init_to_value
from numpyro.primitives import Messenger

from brainstate_prob.core.calls import nearest
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.variational.numpyro_modules import bind_submodules

bind_submodules()

__all__ = ['GUIDES', 'check_guide', 'flat_model', 'make_guide', 'start_of']

_DEFAULT_STARTS = (init_to_uniform, init_to_median)


class _AroundStart:
    """A normalizing flow followed by a shift and scale, so that it is centred at the start instead of zero."""

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


class _ByGroup:
    """A normal for each entry of the first axis that all parameters share (a group's own ones are correlated).

    Parameters
    ----------
    places
        Shape (groups, numbers of each): where a group's numbers lie in theta.
    """

    def __init__(self, model: Callable, *, places: np.ndarray, **settings: Any):
        super().__init__(model, batch_ndim=1, **settings)  # type: ignore[call-arg]
        self._places = places

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        autoguide.AutoContinuous._setup_prototype(self, *args, **kwargs)
        self._batch_shape, self._event_shape = (self._places.shape[0],), (self._places.shape[1],)
        self._init_latent: Any = self._init_latent[self._places.ravel()]  # in the order of the groups

    def _get_reshape_transform(self) -> Any:
        rows: Any = super()._get_reshape_transform()  # type: ignore[misc]
        order = dist.transforms.PermuteTransform(np.argsort(self._places.ravel()))
        return dist.transforms.ComposeTransform([rows, order])


class _AutoGroupedFull(_ByGroup, autoguide.AutoBatchedMultivariateNormal):
    pass


class _AutoGroupedLowRank(_ByGroup, autoguide.AutoBatchedLowRankMultivariateNormal):
    pass


GUIDES: dict[str, type] = {
    'diagonal': autoguide.AutoNormal,
    'full': autoguide.AutoMultivariateNormal,
    'low_rank': autoguide.AutoLowRankMultivariateNormal,
    'batched_full': _AutoGroupedFull,
    'batched_low_rank': _AutoGroupedLowRank,
    'laplace': autoguide.AutoLaplaceApproximation,
    'delta': autoguide.AutoDelta,
    'iaf': _AutoIAF,
    'bnaf': _AutoBNAF,
    'dais': autoguide.AutoDAIS,
}

_POINTS = ('laplace', 'delta')  # these are initialized as a point mass

# Alternatives to the classes of NumPyro's other families.
_ALTERNATIVES: dict[type, str] = {
    autoguide.AutoSemiDAIS: (
        'AutoSemiDAIS is for local latent variables in a subsampled plate; the parameters here are all global. Use '
        "guide='dais', or AutoSurrogateLikelihoodDAIS with minibatches."
    ),
    autoguide.AutoSurrogateLikelihoodDAIS: (
        'AutoSurrogateLikelihoodDAIS needs a surrogate model of theta: '
        'guide=lambda model: AutoSurrogateLikelihoodDAIS(model, surrogate).'
    ),
    autoguide.AutoGuideList: (
        "AutoGuideList needs its parts. Pass a function, over sites named by the parameters' paths: sites=True, "
        "guide=f with f(model) returning a list guide to which AutoNormal(block(model, hide=['scale'])) and others "
        'were appended.'
    ),
    autoguide.AutoBatchedMultivariateNormal: "Pass it by its name, guide='batched_full'.",
    autoguide.AutoBatchedLowRankMultivariateNormal: "Pass it by its name, guide='batched_low_rank'.",
}


def check_guide(
    guide: Any, init_scale: float | None, density: Density, minibatches: bool, sites: bool = False
) -> Callable:
    """The guide as a function of the model.

    Raises
    ------
    ValueError
        For what is no guide, or one that does not go with so few parameters or with minibatches.
    """
    named = isinstance(guide, str)
    if init_scale is not None and not (named and guide not in _POINTS and init_scale > 0):
        raise ValueError(
            f'init_scale is a positive number for guides by name that have a width, got {init_scale!r} for {guide!r}. '
            'For a guide of your own write it into that: lambda model: AutoNormal(model, init_scale=0.01).'
        )
    if named and guide not in GUIDES:
        raise ValueError(
            f'guide must be one of {list(GUIDES)}, a NumPyro autoguide class or a function of the model, got {guide!r}.'
            f'{" " + nearest(guide, GUIDES)}'.rstrip()
        )
    if isinstance(guide, autoguide.AutoGuide):
        if not sites:
            raise ValueError(
                f'{type(guide).__name__} was built for another model; here the model is one flat theta. Pass '
                f'the class, or a function of the model: guide=lambda model: {type(guide).__name__}(model, ...). Or, '
                'if it was built for infer.to_numpyro(model), set sites=True.'
            )
        return functools.partial(_copy_of, guide)
    family: Any = GUIDES[guide] if named else guide
    if not callable(family):
        raise ValueError(
            f'guide must be a name, a NumPyro autoguide class or a function of the model, got {type(guide).__name__}.'
        )
    if family in _ALTERNATIVES:
        raise ValueError(f'{_ALTERNATIVES[family]}')
    kind = family if isinstance(family, type) else object
    if issubclass(kind, autoguide.AutoIAFNormal | autoguide.AutoBNAFNormal) and density.size == 1:
        raise ValueError(
            f"guide={guide!r} is a flow between several dimensions; the model has one. Use guide='diagonal'."
        )
    if issubclass(kind, autoguide.AutoDAIS) and minibatches:
        raise ValueError(
            "guide='dais' moves along the gradient of the whole log density, which minibatches do not give. Drop "
            "them, or use guide='full'."
        )
    settings: dict[str, Any] = {}
    if issubclass(kind, _ByGroup):
        settings['places'] = _places_by_group(density, guide)
    if named and guide not in _POINTS:
        settings['init_scale'] = 0.1 if init_scale is None else float(init_scale)
    return functools.partial(family, **settings) if settings else family


def _copy_of(guide: Any, model: Callable) -> Any:
    """A copy, since a guide caches its setup, which here contains traced values."""
    return copy.deepcopy(guide)


def _places_by_group(density: Density, guide: str) -> np.ndarray:
    """The positions of each group in theta, if all parameters share a first axis."""
    lengths = {e.name: e.shape[0] if e.shape else 0 for e in density.entries}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(
            f'guide={guide!r} has one normal for each entry of the first axis, which all parameters must share; here '
            f"they have lengths {lengths} (0: a scalar). Use guide='low_rank' or 'full'."
        )
    groups = next(iter(lengths.values()))
    return np.concatenate([where.reshape(groups, -1) for where in columns_of(density).values()], axis=1)


def flat_model(density: Density) -> Callable:
    """The posterior as a NumPyro model ``model(data)`` with the one site ``'theta'``."""

    def model(data: Data) -> None:
        theta = numpyro.sample('theta', dist.ImproperUniform(constraints.real_vector, (), (density.size,)))
        numpyro.factor('log_density', density.log_density(theta.astype(density.dtype), data))

    return model


def start_of(made: Any, values: dict[str, jax.Array]) -> None:
    """Initialize an autoguide, or each part of a list, at ``values``, unless it has its own initialization."""
    for part in getattr(made, '_guides', ()):
        start_of(part, values)
    if isinstance(made, autoguide.AutoGuide) and made.init_loc_fn in _DEFAULT_STARTS:
        made.init_loc_fn = init_to_value(values=values)


class _StatementError(Exception):
    """A function contains NumPyro statements."""


class _Statements(Messenger):
    def process_message(self, msg: dict[str, Any]) -> None:
        raise _StatementError


def _guide_from(guide: Callable, model: Callable, args: tuple, kwargs: dict) -> Any:
    """The guide returned by the function for the model, or the function if it is a guide itself."""
    try:
        with _Statements():
            return guide(model)
    except _StatementError:
        return guide
    except (TypeError, AttributeError) as error:  # a guide called with the model as its inputs
        try:
            handlers.trace(handlers.seed(guide, jax.random.key(0))).get_trace(*args, **kwargs)
        except Exception as second:
            name = getattr(guide, '__name__', type(guide).__name__)
            raise TypeError(
                f'guide={name} is neither a function of the model that returns a guide, guide(model), nor a guide '
                "function of the data. That is called as NumPyro does: guide(data), where it samples 'theta', the "
                'parameters as one flat vector; with sites=True guide(*inputs, targets=...), where it samples the '
                f'parameters by their paths. Called with the model: {error}. Called with the data: {second}'
            ) from error
        return guide


def make_guide(guide: Callable, model: Callable, values: dict[str, jax.Array], args: tuple, kwargs: dict) -> Callable:
    """The guide of ``model``; an autoguide begins at ``values``, by site.

    Raises
    ------
    TypeError
        If the function returns no guide.
    ValueError
        If a guide of the user's own does not sample the sites.
    """
    made = _guide_from(guide, model, args, kwargs)
    start_of(made, values)
    if isinstance(made, autoguide.AutoGuide) and not isinstance(made, autoguide.AutoGuideList):
        return made
    if not callable(made):
        raise ValueError(
            f'The guide function returned {type(made).__name__}; it must return a guide: a NumPyro autoguide or a '
            "function of the data that samples 'theta' (with sites=True: the parameters)."
        )
    trace = handlers.trace(handlers.seed(made, jax.random.key(0))).get_trace(*args, **kwargs)
    drawn = {
        name: jnp.shape(site['value'])
        for name, site in trace.items()
        if site['type'] == 'sample' and not site['infer'].get('is_auxiliary', False)
    }
    wanted = {name: jnp.shape(value) for name, value in values.items()}
    if drawn != wanted:
        what = (
            f"one site 'theta' of shape {wanted['theta']}, the parameters as one flat vector (for sites named by the "
            'parameters, of their constrained values, set sites=True)'
            if set(wanted) == {'theta'}
            else f'the sites {wanted} (name: shape)'
        )
        raise ValueError(f'The guide must sample {what}; it samples {drawn}.')
    return made
