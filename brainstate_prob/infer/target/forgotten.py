"""Messages about missing priors and missing data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from brainstate_prob.nn.module import Module
from brainstate_prob.nn.supports import bounds, is_known

if TYPE_CHECKING:
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['listed', 'no_data_message', 'no_priors_message', 'some_priors_message']

_FLAT = 'dist.ImproperUniform(dist.constraints.real, (), ())'


def _improper(posterior: Posterior) -> list[str]:
    """The parameters without a prior and with an unbounded support: their flat density is improper."""
    return [e.name for e in posterior.entries if e.reg is None and _is_unbounded(e.t.codomain)]


def _is_unbounded(codomain: Any) -> bool:
    return is_known(codomain) and not all(np.isfinite(bound).all() for bound in bounds(codomain))


def listed(names: list[str], most: int = 5) -> str:
    """A list of names for a message, shortened if long."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(repr(n) for n in names[:most]) + more


def _is_own_density(posterior: Posterior) -> bool:
    """Whether ``log_likelihood=`` is the whole density, which may include the priors."""
    return posterior.log_likelihood_function is not None and posterior.data.targets is None


def no_priors_message(posterior: Posterior) -> str | None:
    """A message if no parameter has a prior and some need one; None otherwise."""
    names = _improper(posterior)
    if not names or any(e.reg is not None for e in posterior.entries) or _is_own_density(posterior):
        return None
    return (
        f'No parameter of the model has a prior, and without one {listed(names)} {_are(names)} flat on an unbounded '
        'range, so that the posterior is improper unless the data determine every parameter. Give priors: '
        'nn.Param(start, reg=dist.Normal(0.0, 1.0)), or nn.with_prior(model, {...: dist.Normal(0.0, 1.0)}) for a whole '
        f'network. If flat is meant, say it: reg={_FLAT}.'
    )


def some_priors_message(posterior: Posterior) -> str | None:
    """A message about parameters with an improper flat prior among others with priors; None otherwise."""
    names = _improper(posterior)
    if not names or _is_own_density(posterior):
        return None
    return f'No prior: {listed(names)}. Flat ones are improper; samplers need the data to determine them.'


def _are(names: list[str]) -> str:
    return 'is' if len(names) == 1 else 'are'


def no_data_message(posterior: Posterior) -> str | None:
    """A message if the model predicts targets but the posterior has none; None otherwise.

    A Module without a call, with parameters and priors only, is an intended prior.
    """
    cls, data = type(posterior.model), posterior.data
    predicts = cls.__call__ is not Module.__call__ or cls.update is not Module.update
    if not predicts or data.targets is not None or posterior.log_likelihood_function is not None:
        return None
    return (
        f'The Posterior has no targets, so that {cls.__name__} is never called and only the priors are fitted. Write '
        'infer.Posterior(model, inputs, targets), or infer.Posterior(model, targets=targets) without inputs. Draws of '
        'the priors themselves are infer.sample_prior(model).'
    )
