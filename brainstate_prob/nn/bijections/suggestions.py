"""Suggestions for arguments passed as a transform that are not one."""

from __future__ import annotations

from typing import Any

from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform as NumPyroTransform

from brainstate_prob.nn.bijections.base import Transform
from brainstate_prob.nn.bijections.support import transform_for

__all__ = ['suggestion_for']

# By the name of a TFP bijector, a JAX function or a word.
_BY_NAME = {
    'exp': 'nn.PositiveT()',
    'log': 'nn.PositiveT()',
    'positive': 'nn.PositiveT()',
    'softplus': 'nn.SoftplusT()',
    'sigmoid': 'nn.SigmoidT(lower, upper)',
    'expit': 'nn.SigmoidT(lower, upper)',
    'tanh': 'nn.TanhT(lower, upper)',
    'softsign': 'nn.SoftsignT(lower, upper)',
    'identity': 'nn.IdentityT()',
    'affine': 'nn.AffineT(scale, shift)',
    'ordered': 'nn.OrderedT()',
    'stickbreaking': 'nn.SimplexT()',
    'compose': 'nn.ChainT(first, second, ...)',
    'shift': 'nn.AffineT(scale, shift)',
    'scale': 'nn.AffineT(scale, shift)',
    'ascending': 'nn.OrderedT()',
    'softmaxcentered': 'nn.SimplexT()',
    'softmax': 'nn.SimplexT()',
    'iteratedsigmoidcentered': 'nn.SimplexT()',
    'chain': 'nn.ChainT(first, second, ...)',
    'relu': 'nn.SoftplusT()',
    'abs': 'nn.PositiveT()',
    'square': 'nn.PositiveT()',
    'clip': 'nn.SigmoidT(lower, upper)',
}


def suggestion_for(t: Any) -> str:
    """A description of ``t``, and the transform to use instead.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> suggestion_for(nn.SoftplusT)
    'got the class SoftplusT. Give an instance: t=nn.SoftplusT().'
    """
    if isinstance(t, type):
        name = t.__name__
        own = (
            f' Give an instance: t=nn.{name}({"" if _without_arguments(t) else "..."}).'
            if issubclass(t, Transform)
            else ''
        )
        return f'got the class {name}.{own}'
    if isinstance(t, constraints.Constraint):
        return f'got the constraint {t!r}. {_reaches(t)}'
    if isinstance(t, NumPyroTransform):
        name = type(t).__name__
        known = _BY_NAME.get(name.removesuffix('Transform').lower())
        return f"got NumPyro's {name}. {f'Write t={known}.' if known else _reaches(t.codomain)}"
    bijector = callable(getattr(t, 'forward_log_det_jacobian', None))
    called: str | None = (
        getattr(t, '__name__', None) if callable(t) and not bijector else t if isinstance(t, str) else type(t).__name__
    )
    known = _BY_NAME.get(str(called).lower())
    write = f' Write t={known}.' if known else ''
    if bijector:
        return f'got {called}, a bijector of another library.{write or " Take the one of nn with the same formula."}'
    if callable(t):
        return f'got the function {called}, which has no inverse and no log-determinant.{write}'
    return f'got {t!r}.{write}'


def _without_arguments(cls: type) -> bool:
    try:
        cls()
    except TypeError:
        return False
    return True


def _reaches(constraint: Any) -> str:
    try:
        return f'Write t=nn.{transform_for(constraint)!r}.'
    except NotImplementedError as error:
        return str(error)
