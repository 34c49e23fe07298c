"""NumPyro distributions that can be priors: those with a density over real numbers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

from brainstate_prob.core.units import u
from brainstate_prob.nn.supports import is_narrower

__all__ = ['check_density', 'described']


def check_density(distribution: Any) -> None:
    """Refuse distributions with atoms, and those whose support NumPyro reports too large.

    Raises
    ------
    TypeError
        With the component at fault and what to use instead.
    """
    problem = _problem(distribution)
    if problem:
        raise TypeError(f'{described(distribution)} {problem}')
    for part in _parts(distribution):
        check_density(part)


def _problem(d: Any) -> str | None:
    """Why ``d`` itself cannot be a prior on real numbers, or None."""
    name = type(d).__name__
    units = {str(x.unit) for x in vars(d).values() if isinstance(x, u.Quantity)}
    if units:
        return (
            f'was given quantities in {", ".join(sorted(units))}. NumPyro distributions take plain numbers, which are '
            'read in the unit of the Param; priors such as nn.GaussianReg(mean=..., std=...) take quantities.'
        )
    try:
        support = d.support
    except NotImplementedError:
        support = None
    if not isinstance(support, dist.constraints.Constraint) or support is dist.constraints.dependent:
        return (
            'does not say where its values lie, so it cannot be a prior. Give its class a support, e.g. '
            'support = dist.constraints.real (or positive, unit_interval, ...).'
        )
    discrete = support.is_discrete
    if discrete:
        return (
            'is discrete, but parameters are real numbers. Sum discrete choices out in the likelihood, or relax '
            'them (dist.RelaxedBernoulli, nn.SpikeAndSlabReg).'
        )
    if isinstance(d, dist.Delta):
        return 'is a point, not a density. Use nn.Const for a value that is known.'
    if isinstance(d, dist.Unit):
        return 'is a factor without a value, not a density. Add it to the likelihood.'
    if name.startswith(('Hurdle', 'ZeroInflated')):
        return 'gives the value 0 a probability of its own, so it has no density. Use nn.SpikeAndSlabReg, or its part.'
    if name.endswith('CensoredDistribution'):
        return 'is a likelihood of censored observations, not a density of a parameter. Use the uncensored one.'
    if type(d) is dist.TransformedDistribution and is_narrower(d.base_dist.support, d.transforms[0].domain):
        return (
            f'has a base with support {d.base_dist.support}, but its first transform is defined on '
            f'{d.transforms[0].domain}, so that NumPyro takes its support to be {support}, which is too large. Give '
            'the transform the domain of its base, e.g. AffineTransform(loc, scale, domain=constraints.positive).'
        )
    if isinstance(d, dist.MixtureGeneral) and not _one_support(d):
        return (
            'has components of different supports, of which NumPyro reports one. For a mixture over the union give '
            'dist.MixtureGeneral(..., support=...), where all components have densities on it.'
        )
    return None


def _one_support(mixture: Any) -> bool:
    """Whether all components of a general mixture have the support that it reports."""
    first, *others = (d.support for d in mixture.component_distributions)
    return mixture._support is not None or not any(is_narrower(first, s) or is_narrower(s, first) for s in others)


def _parts(d: Any) -> list[Any]:
    """The components of ``d`` that must be valid priors too."""
    if isinstance(d, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        return [d.base_dist]
    if type(d) in (dist.TransformedDistribution, dist.FoldedDistribution):
        return [d.base_dist]
    if isinstance(d, dist.MixtureGeneral):
        return list(d.component_distributions)
    return [d.component_distribution] if isinstance(d, dist.MixtureSameFamily) else []


def described(d: Any) -> str:
    """The class name and support of a distribution, for messages."""
    parts = []
    for name in getattr(d, 'arg_constraints', {}):
        value = vars(d).get(name)
        if value is not None and not isinstance(value, jax.core.Tracer | u.Quantity):
            array = np.asarray(value)
            text = (
                f'{float(array):.6g}'
                if array.ndim == 0
                else np.array2string(array, precision=4, threshold=6, edgeitems=2, separator=', ')
            )
            parts.append(f'{name}={" ".join(text.split())}')
    if isinstance(d, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        parts = [described(d.base_dist), *parts]
    return f'{type(d).__name__}({", ".join(parts)})'
