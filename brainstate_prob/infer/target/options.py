"""Checks of the options of the ways to fit and of results, before anything is computed.

An option has the same meaning everywhere, so there is one rule for each name. The ValueError for a wrong value says
what is allowed and what was given.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.data.sharding import devices_of
from brainstate_prob.infer.rules import (
    Rule,
    choice,
    count,
    file_to_write,
    flag,
    functions,
    iterable,
    not_negative,
    number,
    positive,
    probability,
    refuse,
    seed,
    share,
    step_size,
)
from brainstate_prob.infer.target.gradients import BY_WEIGHTS, WITHOUT_GRADIENTS, loop_message
from brainstate_prob.infer.target.inspection import issue_model_warnings
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.words import what_is_no_posterior
from brainstate_prob.nn.module import Module

__all__ = ['RULES', 'check_options', 'check_saving', 'check_thinning']

_WORDS_OF_INIT = choice('model', 'map', 'pathfinder', 'prior')


def init(name: str, value: Any) -> None:
    """Check a string; fits, arrays and functions are checked where they are used."""
    if isinstance(value, str):
        _WORDS_OF_INIT(name, value)
    elif not _may_be_a_start(value):
        allowed = (
            "'model', 'map', 'pathfinder', 'prior', a Fit, values by path ({'scale': 1.5}), an array of theta or a "
            'function that builds the model'
        )
        raise refuse(name, allowed, value)


def _may_be_a_start(value: Any) -> bool:
    if isinstance(value, bool | int | float | Module):
        return False
    if hasattr(value, 'thetas') or callable(value) or isinstance(value, Mapping):
        return True
    try:
        return jnp.issubdtype(np.asarray(value).dtype, jnp.number)
    except (TypeError, ValueError):  # a quantity, or rows of unequal lengths
        return False


def posterior(name: str, value: Any) -> None:
    """A Posterior.

    Raises
    ------
    TypeError
        With what to write in place of what was given.
    """
    if not isinstance(value, Posterior):
        raise TypeError(what_is_no_posterior(value))


# Rules by option name. None is allowed where it is the default.
RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            'num_samples',
            'num_chains',
            'num_steps',
            'num_starts',
            'num_members',
            'num_moves',
            'num_paths',
            'num_elbo_draws',
            'num_blocks',
            'num_cycles',
            'num_draws',
            'num_simulations',
            'num_observations',
            'thinning',
            'rank',
            'snapshot_every',
            'batch_size',
            'draws_at_once',
            'bins',
        ),
        count(),
    ),
    'num_warmup': count(0),
    'num_particles': count(),
    'max_tree_depth': count(most=30),
    'prior': count(0),
    **dict.fromkeys(('target_accept', 'target_ess', 'friction'), share),
    **dict.fromkeys(('init_scale', 'energy_variance'), positive),
    **dict.fromkeys(('tol', 'scale'), not_negative),
    'r_hat': number('a number above 1', lambda x: x > 1),
    'prob': probability,
    'step_size': step_size,
    **dict.fromkeys(
        ('progress', 'jacobian', 'bootstrap', 'precondition', 'sites', 'log_likelihood', 'posterior_predictive'), flag
    ),
    'seed': seed,
    'chain_method': choice('vectorized', 'sequential', 'parallel', none=True),
    'devices': lambda name, value: devices_of(value),
    'callbacks': functions,
    'batches': iterable,
    'init': init,
    'posterior': posterior,
}


def check_options(function: Callable, given: Mapping[str, Any], **rules: Rule | None) -> None:
    """Check the arguments of the calling function by `RULES` and its own ``rules``; its first statement.

    Parameters
    ----------
    function
        Whose defaults say where None is allowed.
    given
        Its arguments by name: ``locals()``.
    **rules
        What an argument allows here; None for one that is checked elsewhere.

    Raises
    ------
    ValueError
        For a wrong value, or options that do not go together.
    TypeError
        For a ``posterior`` that is none.

    Examples
    --------
    >>> def draw(num_samples=100, method='fast'):
    ...     check_options(draw, locals(), method=choice('fast', 'slow'))
    >>> draw(1.5)
    Traceback (most recent call last):
    ...
    ValueError: num_samples must be an int of at least 1, got 1.5.
    >>> draw(method='fest')
    Traceback (most recent call last):
    ...
    ValueError: method must be one of ['fast', 'slow'], got 'fest'. Did you mean 'fast'?
    """
    defaults = _defaults(function)
    for name, value in given.items():
        rule = rules[name] if name in rules else RULES.get(name)
        if rule is not None and name in defaults and not (value is None and defaults[name] is None):
            rule(name, value)
    if 'checkpoint' in defaults:
        check_saving(given['checkpoint'], given['checkpoint_every'])
    # Ways to fit only: simulations and draws of the prior have their own checks.
    if isinstance(given.get('posterior'), Posterior) and 'posterior' not in rules and 'num_simulations' not in given:
        _refuse_without_targets(given)
        in_batches = given.get('batches') is not None
        if function.__name__ not in WITHOUT_GRADIENTS and (loop := loop_message(given['posterior'])):
            raise ValueError(loop)
        issue_model_warnings(
            given['posterior'],
            accepts_improper=function.__name__ in _ACCEPT_IMPROPER,
            in_batches=in_batches,
            by_gradient=function.__name__ not in BY_WEIGHTS,
        )


# Ways to fit that do not notice an improper posterior. MAP without priors is maximum
# likelihood; Laplace checks the curvature, SMC and elliptical slices the prior.
_ACCEPT_IMPROPER = frozenset({'nuts', 'chees', 'meads', 'mclmc', 'barker', 'sgmcmc', 'hmc_ecs', 'svi', 'pathfinder'})


def _refuse_without_targets(given: Mapping[str, Any]) -> None:
    """Refuse inputs or a likelihood without targets: the fit would return the prior."""
    fitted, data = given['posterior'], given['posterior'].data
    predicts = data.args or data.kwargs or fitted.likelihood is not None
    scored = data.targets is not None or fitted.log_likelihood_function is not None or given.get('batches') is not None
    if predicts and not scored:
        raise ValueError(
            'The Posterior has no targets, so that only the priors would be fitted. Write infer.Posterior(model, '
            'inputs, targets). Draws of the priors alone are infer.sample_prior(model).'
        )


@functools.cache
def _defaults(function: Callable) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def check_saving(checkpoint: Any, checkpoint_every: Any) -> None:
    """Refuse a checkpoint that cannot be written, and ``checkpoint_every=`` without one.

    Raises
    ------
    ValueError, FileNotFoundError, PermissionError
        As `file_to_write`.
    """
    if checkpoint_every is not None:
        count()('checkpoint_every', checkpoint_every)
        if checkpoint is None:
            raise ValueError(f'checkpoint_every={checkpoint_every} needs checkpoint=path, the file to write to.')
    if checkpoint is not None:
        file_to_write('checkpoint', checkpoint)


def check_thinning(thinning: int, num_samples: int) -> None:
    """Refuse a thinning that keeps no draw."""
    if thinning > num_samples:
        raise ValueError(f'thinning={thinning} keeps none of num_samples={num_samples} draws. Lower it.')
