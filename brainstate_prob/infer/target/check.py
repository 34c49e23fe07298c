"""Checks of a posterior before it is fitted: problems that would make the fit fail or mislead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import dotted, find_states
from brainstate_prob.infer.density.classes import precision_of, predicted
from brainstate_prob.infer.density.log_density import Density, find_entries
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.report import Finding, Report
from brainstate_prob.infer.table import Table
from brainstate_prob.infer.target.forgotten import listed, some_priors_message
from brainstate_prob.infer.target.gradients import loop_message, stepped_messages
from brainstate_prob.infer.target.pairs import squared_messages
from brainstate_prob.infer.target.prior_points import prior_points
from brainstate_prob.infer.target.probe import Probe, Reach, probe, unread_inputs
from brainstate_prob.infer.target.start import non_finite_term, to_key
from brainstate_prob.nn.summary import described_prior

if TYPE_CHECKING:
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['check']

_NEIGHBOURS = 16  # points around the start, within the radius of initial points of NUTS chains
_TINY = 8  # points that differ in the last digits
_PRIOR_DRAWS = 32
_BELOW = 4.0  # a log prior below that of all these draws is more than 3.5 standard deviations out for a normal prior
_REJECTED_SHARE = 0.15  # the share of points around a start at which a sampler can reject without problems
_NOISE = 0.1  # error of a log density that affects acceptance probabilities
_SPREAD = 1e3  # ratio of scales beyond which gradients are badly conditioned


def check(posterior: Posterior, seed: Any = 0) -> Report:
    """See `Posterior.check`."""
    density, data = posterior.density, posterior.data
    jacobian = all(e.t.has_density for e in density.entries)
    rng, title = np.random.default_rng(_seed_of(seed)), f'Posterior of {type(posterior.model).__name__}'
    if (loop := loop_message(posterior)) is not None:
        return Report(title, (Finding('error', loop),))
    with precision_of(density):
        start = np.asarray(posterior.theta)
        near = _around(start, np.ones(len(start)), rng, _NEIGHBOURS)
        near[0] = start
        tiny = _around(start, 4 * np.finfo(start.dtype).eps * np.maximum(np.abs(start), 0.1), rng, _TINY)
        drawn, excuse = _prior_draws(density, rng, start, data.states)
        points = np.concatenate([near, tiny, drawn])
        probed, reach = probe(density, points, np.arange(len(points)) >= _NEIGHBOURS + _TINY, data, jacobian)
    at = jax.tree.map(lambda x: x[:_NEIGHBOURS], probed)
    findings = list(_start(posterior, jnp.asarray(start), at, jacobian))
    starts = not findings or findings[0].kind != 'error'  # after an error the other checks cannot run
    findings += [
        *_unused(posterior, at),
        *_unread(posterior, start),
        *_inputs(posterior),
        *_gradients(posterior, at),
        *(_rounding(density, probed, tiny - start.astype(np.float64)) if starts else ()),
        *(_priors(posterior, probed, reach, excuse) if starts else ()),
        *_ways_to_fit(posterior),
    ]
    return Report(title, tuple(findings), _table(posterior, at))


def _seed_of(seed: Any) -> Any:
    """A NumPy seed from an int or a random key."""
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        return abs(int(seed))
    return np.ravel(jax.random.key_data(to_key(seed))).tolist()


def _around(start: np.ndarray, size: np.ndarray, rng: np.random.Generator, num: int) -> np.ndarray:
    """``start`` plus Uniform(-size, size)."""
    return (start + size * rng.uniform(-1.0, 1.0, (num, len(start)))).astype(start.dtype)


def _prior_draws(density: Density, rng: np.random.Generator, start: np.ndarray, states: tuple) -> tuple:
    """Draws from the priors; where that fails, copies of the start and the reason."""
    nowhere = np.broadcast_to(start, (_PRIOR_DRAWS, len(start)))
    if not any(e.reg is not None for e in density.entries):
        return nowhere, 'there are none'
    try:
        return prior_points(density, _PRIOR_DRAWS, rng, start, states), None
    except (NotImplementedError, TypeError, ValueError) as error:
        return nowhere, str(error)


def _start(posterior: Posterior, start: jax.Array, near: Probe, jacobian: bool) -> Iterator[Finding]:
    density = posterior.density
    fine = np.isfinite(near.log_density)
    if not fine[0]:
        yield Finding('error', non_finite_term(posterior.target, start, jacobian))
    elif not np.isfinite(near.gradient[0]).all():
        yield Finding(
            'error',
            f'The gradient is not finite at the start, for {_named(density, ~np.isfinite(near.gradient[0]))}: avoid '
            'sqrt, norm or log at zero in the model, or start elsewhere (param.set_value).',
        )
    bad = ~fine | ~np.isfinite(near.gradient).all(axis=1)
    if fine[0] and bad[1:].any():
        where = ~np.isfinite(near.gradient).all(axis=0)
        names = f', of {_named(density, where)}' if where.any() else ''
        yield Finding(
            'warning' if bad[1:].sum() > _REJECTED_SHARE * _NEIGHBOURS else 'note',
            f'At {int(bad[1:].sum())} of {_NEIGHBOURS - 1} points near the start (theta plus Uniform(-1, 1)) the log '
            f'density or its gradient{names} is not finite: samplers will reject these. Constrain what must stay '
            'positive by a transform, or start elsewhere.',
        )
    outside = int((near.num_outside > 0).sum())
    if outside:
        yield Finding(
            'warning',
            f"At {outside} of {_NEIGHBOURS} points near the start some targets lie outside the likelihood's support, "
            'which depends on the parameters: beyond its edge the density is 0, and gradients do not show the edge. '
            'Use a likelihood whose support is fixed, or a transform that keeps the targets inside.',
        )


def _unused(posterior: Posterior, near: Probe) -> Iterator[Finding]:
    """Params that neither the likelihood nor another prior depends on, and priors that are never scored."""
    density, steps = posterior.density, posterior.inspection.without_gradient
    yield from (Finding('warning', text) for text in stepped_messages(posterior) + squared_messages(posterior))
    fine = np.isfinite(near.likelihood_gradient).all(axis=1)
    if fine.any():
        flat = (near.likelihood_gradient[fine] == 0).all(axis=0)
        hypers = {state for e in density.entries if e.reg is not None for state in find_states(e.reg).values()}
        where = columns_of(density)
        for e in density.entries:
            columns = where[e.name]
            if e.state in hypers or e.name in steps or not flat[columns].any():
                continue
            if flat[columns].all():
                kind = 'error' if e.reg is None else 'warning'
                follows = 'and it has no prior: its posterior is improper' if e.reg is None else 'only its prior does'
                yield Finding(
                    kind,
                    f'The likelihood does not depend on {e.name!r} (its gradient is 0 at {int(fine.sum())} points), '
                    f'{follows}. Use it in the model, or make it nn.Const.',
                )
            else:
                yield Finding(
                    'note',
                    f'The likelihood does not depend on {int(flat[columns].sum())} of the {len(columns)} numbers of '
                    f'{e.name!r} near the start (groups without observations, or saturated units).',
                )
    for path, param in posterior.model.named_param_modules():
        if param.reg is not None and not param.fit:
            yield Finding(
                'warning', f'{dotted(path)!r} has a prior that is never used, since it is not fitted. Drop reg=.'
            )
    flat_priors = some_priors_message(posterior)
    if flat_priors is not None:
        yield Finding('note', flat_priors)


def _unread(posterior: Posterior, start: np.ndarray) -> Iterator[Finding]:
    """Inputs that the likelihood never reads, and one prediction for all targets."""
    for name in unread_inputs(posterior.density, start, posterior.data):
        yield Finding('warning', f'The likelihood never reads {name}. Drop it, or use it in the model.')
    if posterior.log_likelihood_function is not None or posterior.num_observations < 2:
        return
    if posterior.arrays.keys() - {'targets'}:
        distribution = predicted(posterior.density, start, posterior.data)
        # A joint distribution of all targets, such as a Gaussian process, has an event dimension instead.
        if np.prod(distribution.batch_shape) == 1 and np.ndim(posterior.data.targets) > len(distribution.event_shape):
            yield Finding(
                'warning',
                f'There are inputs, but the model predicts one {distribution.name} for all '
                f'{posterior.num_observations} targets.',
            )


def _inputs(posterior: Posterior) -> Iterator[Finding]:
    """Columns of inputs whose scales are bad for gradients or for float32."""
    for name, array in posterior.arrays.items():
        x = np.asarray(u.get_magnitude(array))
        if name == 'targets' or x.dtype.kind != 'f' or x.ndim == 0 or len(x) < 2:
            continue
        columns = x.reshape(len(x), -1).astype(np.float64)
        mean, sd = columns.mean(axis=0), columns.std(axis=0)
        varies = sd > 1e-6 * np.abs(mean)
        if not varies.any():
            continue
        off = np.where(varies, np.abs(mean) / np.where(varies, sd, 1), 0)
        worst = int(np.argmax(off))
        if off[worst] > 100:
            yield Finding(
                'warning',
                f'Column {worst} of {name} has mean {mean[worst]:.3g} and standard deviation {sd[worst]:.2g}: its '
                'slope and the intercept are almost the same direction. Subtract the mean.',
            )
        scales = np.where(varies, sd, np.nan)
        low, high = int(np.nanargmin(scales)), int(np.nanargmax(scales))
        if scales[high] > _SPREAD * scales[low]:
            yield Finding(
                'warning',
                f'The columns of {name} have very different scales (standard deviation {scales[low]:.2g} of column '
                f'{low}, {scales[high]:.2g} of column {high}): divide each by its own.',
            )


def _gradients(posterior: Posterior, near: Probe) -> Iterator[Finding]:
    gradient = near.gradient[0]
    if not np.isfinite(gradient).all() or len(gradient) < 2:
        return
    size = np.abs(gradient.astype(np.float64))
    low, high = np.median(size), int(np.argmax(size))
    if low > 0 and size[high] > _SPREAD * 10 * low:
        where = np.arange(len(size)) == high
        yield Finding(
            'warning',
            f'The gradient of {_named(posterior.density, where)} is {size[high] / low:.1g} times the typical one '
            f'({size[high]:.2g} against {low:.2g}): put inputs and parameters on scales near 1, or give the Param a '
            'transform with that scale, AffineT say.',
        )


def _rounding(density: Density, probed: Probe, steps: np.ndarray) -> Iterator[Finding]:
    """Rounding noise of the log density: the residual of tiny steps after the linear term is subtracted."""
    values = probed.log_density.astype(np.float64)
    left = values[_NEIGHBOURS : _NEIGHBOURS + _TINY] - values[0] - steps @ probed.gradient[0].astype(np.float64)
    noise = float(np.sqrt(np.mean(left**2)))
    jump, last_digits = np.abs(left).max(), float(jnp.finfo(density.dtype).eps) * abs(values[0])
    unmoved = np.sum(np.abs(left) < 0.01 * jump)
    if noise > _NOISE and unmoved >= 2 and jump > 100 * last_digits:  # rounding would change all of them
        yield Finding(
            'warning',
            f'The log density jumps by {jump:.3g} between points that differ from the start in their last digits: the '
            'start lies at a step of the model (a comparison, a rounding). Start elsewhere (param.set_value), or make '
            'the step smooth.',
        )
    elif noise > _NOISE:
        fix = 'work under jax.enable_x64(True), or ' if density.dtype != jnp.float64 else ''
        yield Finding(
            'warning',
            f'The log density ({values[0]:.4g}) has a rounding noise of {noise:.2g} in {density.dtype}: '
            f'samplers and optimizers cannot see differences below that. To reduce it, {fix}subtract large offsets '
            'from inputs and targets.',
        )


def _priors(posterior: Posterior, probed: Probe, reach: Reach, excuse: str | None) -> Iterator[Finding]:
    """Starts far out in their prior, and targets that no draw of the prior predicts."""
    density = posterior.density
    scored = [e for e in density.entries if e.reg is not None]
    if excuse is not None:
        if scored:
            yield Finding('note', f'The priors were not drawn from: {excuse}')
        return
    for e in scored:
        here, drawn = probed.prior[e.name][0], probed.prior[e.name][_NEIGHBOURS + _TINY :]
        if here < drawn.min() - _BELOW:
            yield Finding(
                'warning',
                f'The start of {e.name!r} is far out in its prior: log density {here:.4g}, of {_PRIOR_DRAWS} draws '
                f'from it the lowest has {drawn.min():.4g}. Start at a likely value (param.init_from_prior), or check '
                'its unit.',
            )
    if len(scored) < len(density.entries) or posterior.data.targets is None or posterior.num_observations < 2:
        return
    targets = np.asarray(posterior.data.targets, np.float64)
    outside = np.mean((targets < reach.lower) | (targets > reach.upper))
    if outside > 0.5:
        yield Finding(
            'warning',
            f'{100 * outside:.0f} % of the targets lie outside all of {_PRIOR_DRAWS} draws of what the priors predict '
            f'(targets around {np.mean(targets):.3g}, predictions around '
            f'{np.median(probed.level[_NEIGHBOURS + _TINY :]):.3g}): prior and data are in conflict. Check units and '
            'scales, or widen the priors.',
        )


def _ways_to_fit(posterior: Posterior) -> Iterator[Finding]:
    try:
        posterior.sampling_target(False)
    except ValueError as error:
        yield Finding('note', f'Only MAP can fit this posterior. {error}')


def _table(posterior: Posterior, near: Probe) -> Table:
    """One row for each parameter: shape, unit, prior, and size of the likelihood's gradient."""
    density, columns = posterior.density, columns_of(posterior.density)
    entries = density.entries

    def size(name: str) -> float:
        return float(np.sqrt(np.mean(near.likelihood_gradient[0][columns[name]].astype(np.float64) ** 2)))

    return Table(
        f'{density.size} numbers, {posterior.num_observations} observations, log density '
        f'{near.log_density[0]:.6g} at the start',
        tuple(e.name for e in entries),
        {
            'shape': np.array([str(e.value_shape) for e in entries]),
            'unit': np.array(['-' if e.unit.is_unitless else str(e.unit) for e in entries]),
            'prior': np.array([_prior(e.param, posterior.model) for e in find_entries(posterior.model)]),
            'gradient': np.array([size(e.name) for e in entries]),
        },
    )


def _prior(param: Any, model: Any) -> str:
    text = '-' if param is None or param.reg is None else described_prior(param, model)
    return text[len('Prior(') : -1] if text.startswith('Prior(') else text


def _named(density: Any, where: np.ndarray) -> str:
    """The names of the parameters whose entries of the flat vector are in ``where``."""
    return listed([name for name, columns in columns_of(density).items() if where[columns].any()])
