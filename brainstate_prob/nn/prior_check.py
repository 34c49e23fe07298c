"""Check that the shape and the support of a prior fit a Param."""

from __future__ import annotations

import warnings

from brainstate_prob.core.calls import users_line
from brainstate_prob.core.units import u
from brainstate_prob.nn.bijections import Transform, transform_for
from brainstate_prob.nn.priors import Regularization
from brainstate_prob.nn.supports import is_known, is_narrower

__all__ = ['check_prior']


def check_prior(
    label: str,
    reg: Regularization,
    t: Transform,
    numeric: Transform,
    shape: tuple[int, ...],
    unit: u.Unit,
    on_theta: bool,
) -> None:
    """Refuse a prior whose shape or support does not fit, and warn of a narrower support.

    Parameters
    ----------
    label
        The Param, for messages.
    reg, t, numeric
        Its prior, its transform, and the transform of plain numbers in the Param's unit.
    shape, unit
        Of the quantity that the prior scores: the value, or theta.
    on_theta
        Whether the prior scores theta.
    """
    try:
        reg.check_shape(shape, unit)
    except ValueError as error:
        raise ValueError(f'{label}, a value of shape {shape}: {error}') from None
    support = reg.support if on_theta else reg.support_in(unit)
    reached = numeric.domain if on_theta else numeric.codomain
    if not is_narrower(support, reached):
        return
    mismatch = f'{label}: the prior {reg!r} has support {support}'
    if not (is_known(support) and is_known(reached)):
        raise ValueError(
            f'{mismatch}, and {t!r} is not known to stay within it: values outside it would count as if they were '
            'possible. No transform of this library reaches it. Build such a value in the model from Params over real '
            'numbers, e.g. a correlation from its partial correlations.'
        )
    if on_theta:
        raise ValueError(
            f"{mismatch}, but prior_on='unconstrained' scores theta, which may be any value of {reached}. Use "
            "prior_on='value', or a prior over the whole line."
        )
    try:
        advice = f'Use t={transform_for(support)!r}, or t=None to choose it automatically.'
    except (TypeError, ValueError, NotImplementedError):
        advice = 'Choose a transform onto the support.'
    warnings.warn(
        f'{mismatch}, narrower than the codomain {reached} of {t!r}: values outside it have density 0. {advice}',
        stacklevel=users_line(),
    )
