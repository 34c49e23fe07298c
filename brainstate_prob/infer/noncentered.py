"""Which hierarchical parameters are moved non-centred: their prior is location + scale * standard, with a fitted part.

Centred, such a parameter makes a funnel with its scale, in which samplers get stuck. Its standardized value does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist

from brainstate_prob.core.filters import to_predicate
from brainstate_prob.graph.walk import find_states
from brainstate_prob.nn.bijections import ExpT, IdentityT
from brainstate_prob.nn.module import dotted
from brainstate_prob.nn.priors import L1Reg, L2Reg, Regularization
from brainstate_prob.nn.priors.base import DistributionReg

if TYPE_CHECKING:
    from brainstate_prob.infer.blocks import Entry

__all__ = ['StandardForm', 'chosen', 'depth_of', 'is_hierarchical', 'standard_form']


class StandardForm(NamedTuple):
    """A prior as location + scale * (a draw of ``kind`` at location 0 and scale 1), of the value or of its logarithm.

    ``split(params)`` gives the location, the scale and the other parameters of ``kind``.
    """

    kind: type[dist.Distribution]
    split: Callable[[dict[str, Any]], tuple[Any, Any, dict[str, Any]]]
    of_log: bool = False


def _named(params: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    rest = {name: value for name, value in params.items() if name not in ('loc', 'scale')}
    return params['loc'], params['scale'], rest


# NumPyro's class of the prior: the standard one.
_DISTRIBUTIONS = {
    **{
        kind: StandardForm(kind, _named)
        for kind in (dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel)
    },
    dist.LogNormal: StandardForm(dist.Normal, _named, of_log=True),
}
# Penalties, where they are densities of their weight too.
_PENALTIES = {
    L1Reg: StandardForm(dist.Laplace, lambda p: (0.0, 1 / p['strength'], {})),
    L2Reg: StandardForm(dist.Normal, lambda p: (0.0, 1 / jnp.sqrt(2 * jnp.asarray(p['strength'])), {})),
}


def standard_form(reg: Regularization | None) -> StandardForm | None:
    """The location-scale form of a prior; None if it has none."""
    if isinstance(reg, DistributionReg) and type(reg)._log_prob is DistributionReg._log_prob:
        one = isinstance(reg.weight, int | float) and reg.weight == 1
        return _DISTRIBUTIONS.get(reg.numpyro_class) if one else None
    if type(reg) in _PENALTIES and getattr(reg, 'normalized', False):
        return _PENALTIES[type(reg)]  # type: ignore[index]
    return None


def is_hierarchical(entry: Entry, fitted: Iterable[Any]) -> bool:
    """Whether ``entry`` can be non-centred: a location-scale prior, some of which is fitted, in theta's own terms.

    Parameters
    ----------
    fitted
        The States that are fitted.
    """
    form = standard_form(entry.reg)
    if form is None or entry.t.event_rank or set(find_states(entry.reg).values()).isdisjoint(fitted):
        return False
    if entry.on_theta:
        return not form.of_log
    if form.of_log:
        return isinstance(entry.t, ExpT) and all(v == 0 for v in entry.t.family_params().values())
    return isinstance(entry.t, IdentityT)


def chosen(entries: list[Entry], which: Any) -> tuple[str, ...]:
    """The names of the entries that ``which`` selects among those that can be non-centred.

    Parameters
    ----------
    which
        True (all), False (none), a dotted path or a list of them, or a filter of (path, Param).

    Raises
    ------
    ValueError
        Where a path is given of a parameter that cannot be non-centred.
    """
    fitted = {e.state for e in entries}
    able = [e for e in entries if is_hierarchical(e, fitted)]
    if which is True or which is False:
        return tuple(e.name for e in able) if which else ()
    names = [which] if isinstance(which, str) else which
    if isinstance(names, list | tuple | set | frozenset) and names and all(isinstance(n, str) for n in names):
        unable = [n for n in names if n not in {e.name for e in able}]
        if unable:
            raise ValueError(
                f'noncentered names {unable[0]!r}, which cannot be non-centred: that takes a prior with a location and '
                'a scale (normal, Student-t, Laplace, Cauchy, logistic; log-normal under ExpT) of which one is a '
                f'fitted Param, and no other transform. There are {[e.name for e in able]}.'
            )
        return tuple(e.name for e in able if e.name in names)
    try:
        accepts = to_predicate(which)
    except TypeError:
        raise ValueError(
            f'noncentered must be True, False, a dotted path, a list of these or a filter f(path, param), got '
            f'{which!r}.'
        ) from None
    return tuple(e.name for e in able if accepts(e.path, e.param))


def depth_of(entry: Entry, entries: list[Entry]) -> int:
    """How many levels of fitted priors lie above an entry: what a prior reads has a smaller depth."""
    by_state = {e.state: e for e in entries if e.param is not None}

    def depth(one: Entry, below: tuple[Entry, ...]) -> int:
        if one in below:
            raise ValueError(f'The prior of Param {dotted(one.path)!r} reads, through others, itself. Break the cycle.')
        above = [] if one.reg is None else [by_state[s] for s in find_states(one.reg).values() if s in by_state]
        return 1 + max(depth(a, (*below, one)) for a in above) if above else 0

    return depth(entry, ())
