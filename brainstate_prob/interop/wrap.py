"""wrap: a model of another library as a Module, with priors and transforms selected by filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brainstate_prob.core import State
from brainstate_prob.interop.brainstate import BrainstateModel
from brainstate_prob.interop.flax import FlaxModel
from brainstate_prob.interop.foreign import Foreign
from brainstate_prob.interop.trees import EquinoxModel, FunctionModel, StatefulEquinoxModel
from brainstate_prob.nn.adoption import adopts
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.with_prior import PriorReport, warn_of_unmatched, with_prior

__all__ = ['wrap']

_KINDS: tuple[type[Foreign], ...] = (
    FlaxModel,
    BrainstateModel,
    EquinoxModel,
    StatefulEquinoxModel,
    FunctionModel,
)


@adopts
def _wrapped(model: Any) -> Foreign | None:
    return next((module for kind in _KINDS if (module := kind.of(model)) is not None), None)


def wrap(
    model: Any, priors: Mapping[Any, Any] | None = None, *, replace: bool = False, return_report: bool = False
) -> Any:
    """A model of another library as a Module, with priors and transforms for its arrays.

    Parameters
    ----------
    model
        A Flax NNX module, an Equinox module (with state: the pair that ``eqx.nn.make_with_state`` gives), a
        brainstate module, or a pair ``(function, parameters)`` of a function ``f(parameters, *inputs)`` and a pytree.
        It stays as it is.
    priors
        Filters and priors as of `brainstate_prob.nn.with_prior`. Paths are those of the model
        (``'layers.0.kernel'``), and a filter may be a class of its layers (``nnx.Linear``).
    replace
        Whether a parameter that brings a prior along (a ``brainstate.nn.Param``) gets the new one.
    return_report
        Also return which parameters got what, and which filters matched nothing.

    Returns
    -------
    Module or (Module, PriorReport)
        ``likelihood`` and ``log_likelihood`` of a Posterior get the model of its own library, with the values that
        are evaluated.

    Raises
    ------
    TypeError
        For what is no model of these.

    Warns
    -----
    UserWarning
        For a filter that matches nothing.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, interop
    >>> def line(params, x):
    ...     return params['slope'] * x + params['intercept']
    >>> model = interop.wrap((line, {'slope': 0.5, 'intercept': 0.0}), {...: dist.Normal(0.0, 1.0)})
    >>> x = jnp.array([0.0, 1.0, 2.0])
    >>> posterior = infer.Posterior(model, x, 2 * x, likelihood=lambda m, x: dist.Normal(m(x), 1.0))
    >>> posterior.names
    ['intercept', 'slope']
    """
    module = _wrapped(model)
    if module is None:
        why = 'It is one of this library already: use nn.with_prior.' if isinstance(model, Module) else _ALLOWED
        raise TypeError(f'wrap takes a model of another library, got {type(model).__name__}. {why}')
    if priors is None:
        priors = {}
    filters = {_filter(key, module, model): key for key in priors}
    keyed = {new: priors[key] for new, key in filters.items()}
    made, report = with_prior(module, keyed, replace=replace, return_report=True)
    report = PriorReport(report.attached, report.kept, [filters.get(key, key) for key in report.unmatched])
    if not return_report:
        warn_of_unmatched(report, 'wrap')
    return (made, report) if return_report else made


_ALLOWED = (
    'It takes a Flax NNX module, an Equinox module, a brainstate module, or a pair (function, parameters) with '
    'function(parameters, *inputs); of a Flax Linen module that is (module.apply, variables).'
)


def _filter(key: Any, module: Foreign, model: Any) -> Any:
    """The filter on paths that a class of the model's own layers stands for; any other filter as it is."""
    if not isinstance(key, type) or issubclass(key, State | Module):
        return key
    places = module.places_of(model, key)
    return lambda path, state: any(path[: len(place)] == place for place in places)
