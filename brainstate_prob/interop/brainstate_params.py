"""The transforms and regularizations of ``brainstate.nn.Param`` as those of this library."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from brainstate_prob import nn
from brainstate_prob.core.contents import pieces_of
from brainstate_prob.core.structure import structural_key
from brainstate_prob.interop.foreign import Path, Skeleton
from brainstate_prob.nn.bijections import Transform
from brainstate_prob.nn.priors import Regularization

__all__ = ['LossReg', 'content_key', 'prior_of', 'transform_of']


class LossReg(Regularization):
    """A regularization of brainstate that has no counterpart: its loss, of which nothing is drawn."""

    proper = False

    def __init__(self, reg: Any):
        super().__init__()
        self.skeleton = Skeleton(reg, key=content_key(reg))

    def loss(self, value):
        return jnp.asarray(self.skeleton.value.loss(value))

    def __repr__(self) -> str:
        return f'LossReg({type(self.skeleton.value).__name__})'


def content_key(x: Any, known: Mapping[int, Hashable] | None = None) -> Hashable:
    """A key of what an object and those in it hold; ``known`` has the keys of some by ``id``."""
    known = known or {}

    def key(x: Any) -> Hashable:
        return known[id(x)] if id(x) in known else structural_key(x)

    def is_whole(x: Any) -> bool:
        return (
            id(x) in known
            or isinstance(x, type | functools.partial)
            or hasattr(x, '__code__')
            or hasattr(x, '__wrapped__')
        )

    return frozenset(pieces_of((), x, key, is_whole, {}, ()))


def transform_of(param: Any, path: Path) -> Transform:
    """The transform of this library with the formula of a Param's own.

    Raises
    ------
    NotImplementedError
        Where there is none.
    """
    theta = param.val.value
    try:
        found = _transform(param.t)
        same = bool(np.allclose(found.forward(theta), param.t.forward(theta), rtol=1e-5))
    except (AttributeError, TypeError, ValueError):
        same = False
    if not same:
        raise NotImplementedError(
            f'{".".join(map(str, path))!r}: the transform {param.t!r} of brainstate has no counterpart in '
            'brainstate_prob.nn. Replace it by one that has, e.g. SoftplusT, SigmoidT or AffineT.'
        )
    return found


def _transform(t: Any) -> Transform:
    if type(t).__name__ == 'ChainT':
        return nn.ChainT(*map(_transform, t.transforms))
    kind = getattr(nn, type(t).__name__)
    return kind(**{name: _argument(t, name) for name in kind._args})


def _argument(t: Any, name: str) -> Any:
    """An argument of a transform, which brainstate may keep under another name."""
    if name == 'upper' and not hasattr(t, 'upper'):
        return t.lower + t.width if hasattr(t, 'width') else t.lower
    return getattr(t, {'scale': 'a', 'shift': 'b'}.get(name, name))


def prior_of(param: Any, path: Path) -> Regularization | None:
    """A prior whose loss is that of a Param's regularization up to a constant.

    Raises
    ------
    NotImplementedError
        Where hyper-parameters of the regularization are trained.
    """
    reg = param.reg
    if reg is None:
        return None
    if reg.fit_hyper and reg.states():
        raise NotImplementedError(
            f'{".".join(map(str, path))!r}: the hyper-parameters of {type(reg).__name__}, trained by fit_hyper=True, '
            'do not come over. Make it fit_hyper=False, and give the prior by interop.wrap(model, priors).'
        )
    value = jnp.asarray(param.t.forward(param.val.value))
    try:
        found = _prior(reg)
        ours, theirs = (float(r.loss(value * 0.9)) - float(r.loss(value * 0.8)) for r in (found, reg))
    except (AttributeError, TypeError, ValueError, NotImplementedError):
        return LossReg(reg)
    return found if np.isclose(ours, theirs, rtol=1e-4, atol=1e-6) else LossReg(reg)


def _prior(reg: Any) -> Regularization:
    if type(reg).__name__ == 'GaussianReg':  # whose loss is that of a Gaussian without the half
        return nn.GaussianReg(reg.mean, std=reg.precision**-0.5, weight=2 * reg.weight)
    kind = getattr(nn, type(reg).__name__)
    return kind(**{name: getattr(reg, name) for name in dict.fromkeys([*kind.hypers, 'weight'])})
