"""A few draws from the priors with NumPy, for checks, without compiling the common families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

from brainstate_prob.core import StateTrace
from brainstate_prob.core.quantities import split_unit
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.prior_draws import independent_parts
from brainstate_prob.infer.density.variables import columns_of

__all__ = ['prior_points']

_DRAWS_PER_KEPT = 4  # draws for each one kept: those outside the transform's codomain are rejected

# NumPy draws by NumPyro class. JAX's samplers take seconds to compile (Gamma: several).
_DRAW: dict[type, Callable[[np.random.Generator, Any, tuple[int, ...]], np.ndarray]] = {
    dist.Normal: lambda rng, d, shape: rng.normal(d.loc, d.scale, shape),
    dist.HalfNormal: lambda rng, d, shape: np.abs(rng.normal(0.0, d.scale, shape)),
    dist.LogNormal: lambda rng, d, shape: rng.lognormal(d.loc, d.scale, shape),
    dist.Uniform: lambda rng, d, shape: rng.uniform(d.low, d.high, shape),
    dist.Exponential: lambda rng, d, shape: rng.exponential(1 / np.asarray(d.rate), shape),
    dist.Gamma: lambda rng, d, shape: rng.gamma(d.concentration, 1 / np.asarray(d.rate), shape),
    dist.InverseGamma: lambda rng, d, shape: 1 / rng.gamma(d.concentration, 1 / np.asarray(d.rate), shape),
    dist.Beta: lambda rng, d, shape: rng.beta(d.concentration1, d.concentration0, shape),
    dist.Cauchy: lambda rng, d, shape: d.loc + d.scale * rng.standard_cauchy(shape),
    dist.HalfCauchy: lambda rng, d, shape: np.abs(d.scale * rng.standard_cauchy(shape)),
    dist.StudentT: lambda rng, d, shape: d.loc + d.scale * rng.standard_t(d.df, shape),
    dist.Laplace: lambda rng, d, shape: rng.laplace(d.loc, d.scale, shape),
}


def prior_points(density: Density, num: int, rng: np.random.Generator, start: np.ndarray, states: tuple) -> np.ndarray:
    """Draws of the flat theta from the priors, (num, size); parameters without a prior stay at ``start``.

    They suffice to judge how far out a start is and what the priors predict; `prior_thetas` is exact.

    Raises
    ------
    ValueError
        Where a prior hardly ever lies in its transform's codomain.
    NotImplementedError, TypeError
        For a prior that cannot be drawn from.
    """
    scored = [e for part in independent_parts([e for e in density.entries if e.reg is not None]) for e in part]
    by_state = {e.state: e for e in scored}
    with StateTrace() as trace:
        density._bind_others(trace, states)
        columns = columns_of(density)
        thetas = {
            e.name: np.broadcast_to(start[columns[e.name]].reshape(e.shape), (num, *e.shape)) for e in density.entries
        }
        for e in scored:
            above = [by_state[s] for s in find_states(e.reg).values() if s in by_state]
            if not above:
                thetas[e.name] = _inside(e, _drawn(e, _DRAWS_PER_KEPT * num, rng), num)
                continue
            children = []
            for i in range(num):  # with the hyper-parameters of this draw
                for other in above:
                    trace.bind(other.state, thetas[other.name][i])
                children.append(_inside(e, _drawn(e, 2 * _DRAWS_PER_KEPT, rng), 1)[0])
            thetas[e.name] = np.stack(children)
    rows = np.empty((num, density.size), density.dtype)
    for name, where in columns.items():
        rows[:, where] = thetas[name].reshape(num, -1)
    return rows


def _drawn(e: Entry, num: int, rng: np.random.Generator) -> Any:
    """Prior draws in the unit of the parameter, (num, ...); of theta where the prior is on theta."""
    reg = e.reg
    assert reg is not None
    shape = (num, *(e.shape if e.on_theta else e.value_shape))
    try:
        distribution = reg.distribution
    except NotImplementedError:
        distribution = None
    draw = _DRAW.get(type(distribution))
    if draw is not None:
        value: Any = draw(rng, distribution, shape)
        if reg.unit is not None and not e.on_theta:
            value = u.Quantity(value, unit=reg.unit)
    else:
        value = reg.sample_init(shape, key=jax.random.key(int(rng.integers(2**31)), impl='unsafe_rbg'))
    if isinstance(value, u.Quantity):
        value, _ = split_unit(value, e.name, e.unit)
    return np.asarray(value, e.dtype)


def _inside(e: Entry, values: np.ndarray, num: int) -> np.ndarray:
    """``num`` draws within the transform's codomain, as theta."""
    if e.on_theta:
        return values[:num]
    num_values = len(values)
    with np.errstate(all='ignore'):
        thetas, good = np.asarray(e.t._inv(values), e.dtype), np.asarray(e.t._in(values))
    if e.t.event_rank == 0 and e.reg is not None and e.reg.family_key() is not None:
        good = good & np.isfinite(thetas)  # each number separately
    else:
        whole = good.reshape(num_values, -1).all(axis=1) & np.isfinite(thetas).reshape(num_values, -1).all(axis=1)
        good = np.broadcast_to(whole.reshape(-1, *[1] * (thetas.ndim - 1)), thetas.shape)
    count = good.sum(axis=0)
    if (count == 0).any():
        raise ValueError(
            f'of {num_values} draws from the prior {e.reg!r} of {e.name!r} none lay in the codomain {e.t.codomain} of '
            'its transform.'
        )
    order = np.argsort(~good, axis=0, kind='stable')  # draws inside come first
    index = np.arange(num).reshape(-1, *[1] * (thetas.ndim - 1)) % count
    return np.take_along_axis(np.take_along_axis(thetas, order, axis=0), index, axis=0)
