"""Which hierarchical parameters are moved non-centred: their prior is location + scale * standard, with a fitted part.

Where the data say little about such a parameter, it makes a funnel with its scale, in which samplers get stuck; its
standardized value does not. Where they say much, the standardized value is tied to location and scale, and the
parameter itself is not. `infer.target.parameterization` chooses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob.core.filters import to_predicate
from brainstate_prob.graph.walk import dotted, find_states
from brainstate_prob.nn.bijections import ExpT, IdentityT
from brainstate_prob.nn.priors import L1Reg, L2Reg, Regularization
from brainstate_prob.nn.priors.base import DistributionReg

if TYPE_CHECKING:
    from brainstate_prob.infer.density.blocks import Entry
    from brainstate_prob.infer.density.log_density import Density

__all__ = [
    'StandardForm',
    'able_entries',
    'chosen',
    'depth_of',
    'described',
    'is_auto',
    'is_hierarchical',
    'named',
    'places_of',
    'standard_form',
]


_SOME = re.compile(r'(.*)\[([0-9, ]+)\]')


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


def able_entries(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that can be non-centred."""
    fitted = {e.state for e in entries}
    return [e for e in entries if is_hierarchical(e, fitted)]


def named(entry: Entry, standardized: Any) -> str | None:
    """How the choice for one entry is written: its name, ``name[0, 3]`` where some numbers only, None where none.

    Parameters
    ----------
    standardized
        A mask of its numbers.
    """
    places = [int(i) for i in np.flatnonzero(np.asarray(standardized))]
    if len(places) == entry.size:
        return entry.name
    return f'{entry.name}[{", ".join(map(str, places))}]' if places else None


def places_of(noncentered: Iterable[str]) -> dict[str, tuple[int, ...] | None]:
    """By name, the flat positions of the non-centred numbers; None for all: the inverse of `named`."""
    found: dict[str, tuple[int, ...] | None] = {}
    for text in noncentered:
        some = _SOME.fullmatch(text)
        found[some[1] if some else text] = tuple(int(i) for i in some[2].split(',')) if some else None
    return found


def is_auto(noncentered: Any) -> bool:
    """Whether ``noncentered=`` leaves the form of hierarchical parameters to the data."""
    return isinstance(noncentered, str) and noncentered == 'auto'


def described(density: Density) -> dict[str, str]:
    """By path of each hierarchical parameter, in which form it is moved: what ``fit.info['noncentered']`` has."""
    standardized, found = places_of(density.noncentered), {}
    for e in able_entries(density.entries):
        places = standardized.get(e.name, ())
        if places is None:
            found[e.name] = 'non-centred'
        else:
            found[e.name] = f'{len(places)} of {e.size} non-centred' if places else 'centred'
    return found


def chosen(entries: list[Entry], which: Any) -> tuple[str, ...]:
    """The names of the entries that ``which`` selects among those that can be non-centred.

    Parameters
    ----------
    which
        True (all), False (none), a dotted path or a list of them, or a filter of (path, Param). ``path[0, 3]`` selects
        some numbers, by their flat positions.

    Raises
    ------
    ValueError
        Where a path is given of a parameter that cannot be non-centred, or a position that it does not have.
    """
    able = able_entries(entries)
    if which is True or which is False:
        return tuple(e.name for e in able) if which else ()
    names = [which] if isinstance(which, str) else which
    if isinstance(names, list | tuple | set | frozenset) and names and all(isinstance(n, str) for n in names):
        return _by_names(able, list(names))
    try:
        accepts = to_predicate(which)
    except TypeError:
        raise ValueError(
            f"noncentered must be 'auto', True, False, a dotted path, a list of these or a filter f(path, param), got "
            f'{which!r}.'
        ) from None
    return tuple(e.name for e in able if accepts(e.path, e.param))


def _by_names(able: list[Entry], names: list[str]) -> tuple[str, ...]:
    asked, by_name = places_of(names), {e.name: e for e in able}
    unable = [name for name in asked if name not in by_name]
    if unable:
        raise ValueError(
            f'noncentered names {unable[0]!r}, which cannot be non-centred: that takes a prior with a location and '
            'a scale (normal, Student-t, Laplace, Cauchy, logistic; log-normal under ExpT) of which one is a '
            f'fitted Param, and no other transform. There are {[e.name for e in able]}.'
        )
    found = []
    for e in able:
        places = asked.get(e.name, ())
        if places and max(places) >= e.size:
            raise ValueError(f'noncentered names number {max(places)} of {e.name!r}, which has {e.size}.')
        mask = np.zeros(e.size, bool)
        mask[slice(None) if places is None else list(places)] = True
        found.append(named(e, mask))
    return tuple(name for name in found if name)


def depth_of(entry: Entry, entries: list[Entry]) -> int:
    """How many levels of fitted priors lie above an entry: what a prior reads has a smaller depth."""
    by_state = {e.state: e for e in entries if e.param is not None}

    def depth(one: Entry, below: tuple[Entry, ...]) -> int:
        if one in below:
            raise ValueError(f'The prior of Param {dotted(one.path)!r} reads, through others, itself. Break the cycle.')
        above = [] if one.reg is None else [by_state[s] for s in find_states(one.reg).values() if s in by_state]
        return 1 + max(depth(a, (*below, one)) for a in above) if above else 0

    return depth(entry, ())
