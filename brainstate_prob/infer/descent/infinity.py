"""Modes at infinity: descents that stopped because the density became flat, without a finite mode.

The likelihood of separable classes rises as long as the slope grows; the joint density of a hierarchy grows without
bound where its scale goes to zero and its numbers to their mean. Both descents end with a gradient of zero or at the
limit of precision, and the estimate is meaningless. Only certain cases are reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.data.sharding import on_host
from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noncentered import able_entries
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.nn.supports import bounds, is_known

if TYPE_CHECKING:
    from brainstate_prob.infer.target.target import Target

__all__ = ['modes_at_infinity']

_FAR = 5.0  # in theta: parameters that moved less are not checked
_FARTHER = (1.0, 3.0, 7.0)  # extrapolation beyond the end, relative to the way from the start
_RESOLVED = 64  # units in the last place of the numbers under the scale


def modes_at_infinity(target: Target, start: np.ndarray, end: np.ndarray, jacobian: bool) -> list[str]:
    """Messages about the parameters without a finite mode, after a descent that has converged."""
    collapsed = _collapsed_scales(target, start, end)
    messages = [
        f'The mode of Param {scale!r}, the scale of {group!r}, lies at zero: the joint density of a scale and its '
        'numbers grows without bound where the scale goes to zero and the numbers to one value, and the descent ended '
        f'at the limit of precision ({value:.2g}). The estimates of {scale!r} and {group!r} are meaningless. '
        'Integrate over them (infer.nuts, infer.svi), or use infer.laplace.'
        for scale, (group, value) in collapsed.items()
    ]
    for name in _still_rising(target, start, end, jacobian):
        if name not in collapsed:
            messages.append(
                f'The mode of Param {name!r} lies at infinity: the log density still rises, or is flat to rounding, at '
                'eight times the distance from the start at which the descent ended, with a gradient of zero. Only '
                f'the sign of the estimate has a meaning. Give {name!r} a prior (reg=), or fix it (nn.Const): classes '
                'that the inputs separate without error determine no slope.'
            )
    return messages


def _still_rising(target: Target, start: np.ndarray, end: np.ndarray, jacobian: bool) -> list[str]:
    """The parameters that moved far and along whose direction the density keeps rising."""
    density = target.density
    way = end.astype(np.float64) - start.astype(np.float64)
    far = {name: c for name, c in columns_of(density).items() if np.abs(way[c]).max(initial=0) > _FAR}
    if not far:
        return []
    run = density.compiled(Density.log_density, jacobian=jacobian)

    def value(columns: np.ndarray, factor: float) -> float:
        theta = end.copy()
        theta[columns] += (factor * way[columns]).astype(end.dtype)
        return float(on_host(run(jnp.asarray(theta), target.data)))

    here = value(np.arange(len(end)), 0.0)
    rounding = 4 * float(jnp.finfo(density.dtype).eps) * max(1.0, abs(here))
    return [
        name
        for name, columns in far.items()
        if all(value(columns, factor) >= here - rounding for factor in _FARTHER)
        and value(columns, -0.5) < here - rounding  # otherwise the parameter is unused
    ]


def _is_positive(entry: Entry) -> bool:
    codomain = entry.t.codomain
    return is_known(codomain) and bool(np.all(np.asarray(bounds(codomain)[0]) == 0))


def _collapsed_scales(target: Target, start: np.ndarray, end: np.ndarray) -> dict[str, tuple[str, float]]:
    """The scales of hierarchical priors that have shrunk below rounding, with their group."""
    density = target.density
    groups = able_entries(density.entries)
    if not groups:
        return {}
    constrain = density.compiled(Density.constrain)
    before, after = (
        {k: np.asarray(x, np.float64) for k, x in on_host(constrain(jnp.asarray(t), target.data.states)).items()}
        for t in (start, end)
    )
    eps, collapsed = float(jnp.finfo(density.dtype).eps), {}
    for group in groups:
        hypers = set(find_states(group.reg).values())
        size = _RESOLVED * eps * np.abs(after[group.name]).max()
        for e in density.entries:
            scale = after[e.name]
            if e.state not in hypers or not _is_positive(e):  # a location
                continue
            first = before[e.name].min()
            if scale.max() < eps * first or scale.max() < min(size, 1e-3 * first):
                collapsed[e.name] = group.name, float(scale.max())
    return collapsed
