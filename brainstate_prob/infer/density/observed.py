"""What a model says about its observations: a distribution of the targets, or their log density; kinds and shapes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from brainstate_prob.core import State
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import Node
from brainstate_prob.infer.data.quantities import (
    InUnit,
    QuantityDistribution,
    kind_of,
    magnitudes_in,
    refuse_quantities,
)
from brainstate_prob.infer.data.support import log_prob_inside
from brainstate_prob.infer.words import what_is_no_distribution

__all__ = [
    'checked_batch_shape',
    'checked_distribution',
    'checked_log_likelihood',
    'checked_log_prob',
    'expanded_to',
]


def checked_distribution(out: Any, targets: Any = None, unit: InUnit | None = None) -> dist.Distribution:
    """``out``, if it is a NumPyro distribution; one of quantities as that of magnitudes in the targets' unit.

    Raises
    ------
    TypeError
        Otherwise, saying what to return.
    brainunit.UnitMismatchError
        For quantities of another dimension than that of the targets.
    """
    if isinstance(out, QuantityDistribution):
        if unit is not None:
            return magnitudes_in(out, unit.unit)
        if targets is not None and not out.unit.is_unitless:
            raise u.UnitMismatchError(
                f'The model predicts quantities in {out.unit}, but the targets are plain numbers. Multiply them by '
                'their unit.'
            )
        return out.distribution
    if not isinstance(out, dist.Distribution):
        raise TypeError(what_is_no_distribution(out, kind_of(out)))
    refuse_quantities(out)
    return out


def checked_log_prob(distribution: dist.Distribution, targets: Any) -> jax.Array:
    """``distribution.log_prob(targets)``, if the shapes agree: see `checked_batch_shape`.

    Outside of a support that may depend on parameters it is minus infinity.
    """
    batch = checked_batch_shape(distribution, targets)
    if jnp.iscomplexobj(targets):
        _refuse_complex(distribution)
    try:
        log_prob = log_prob_inside(distribution, targets)
    except TypeError as error:
        _refuse_dtype(distribution, targets, error)
        raise
    if jnp.shape(log_prob) not in (batch, distribution.batch_shape):
        raise ValueError(
            f'{type(distribution).__name__}.log_prob gave shape {jnp.shape(log_prob)} for targets of shape '
            f'{jnp.shape(targets)}, but has one log density for each entry of shape {batch}.'
        )
    return jnp.broadcast_to(log_prob, batch)


def _refuse_dtype(distribution: dist.Distribution, targets: Any, error: TypeError) -> None:
    """Say which dtype the targets of a law of labels or counts have, where that is why it cannot score them."""
    dtype = jnp.result_type(targets)
    if ('integer' in str(error) or 'dtype bool' in str(error)) and (
        dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.floating)
    ):
        raise TypeError(
            f'{type(distribution).__name__} is a distribution of whole numbers in an integer dtype (labels 0, 1, 2, '
            f'...), but the targets are {dtype}. Give y.astype(int), after rounding where they are not whole.'
        ) from error


def _refuse_complex(distribution: dist.Distribution) -> None:
    try:
        draw = jax.eval_shape(distribution.sample, jax.random.key(0))
    except NotImplementedError:
        return
    if not jnp.issubdtype(draw.dtype, jnp.complexfloating):
        raise TypeError(
            f'The targets are complex, but {type(distribution).__name__} is a distribution of real numbers. Score '
            'jnp.real(y) and jnp.imag(y), stacked as targets of one more axis, or pass log_likelihood=f.'
        )


def checked_log_likelihood(out: Any, targets: Any) -> jax.Array:
    """What ``log_likelihood=`` returned: the log density of each observation, or their sum.

    Its shape is () or a leading part of the targets' shape: all of it, or without the axes of the observed vectors.
    Without targets it is () or has one axis: of a matrix, as two vectors that broadcast give it, nothing says which
    axis is that of the observations.

    Raises
    ------
    TypeError
        For anything but real floating numbers.
    ValueError
        For another shape.
    """
    number = 'Return one real number (the sum over the observations), or one for each observation'
    if isinstance(out, dist.Distribution):
        raise TypeError(
            f'log_likelihood= returned a distribution ({type(out).__name__}). Return its log density, '
            'd.log_prob(targets), or pass the function as likelihood=.'
        )
    if out is None:
        raise TypeError(f'log_likelihood= returned None. {number}; does it end with a return?')
    if isinstance(out, u.Quantity):
        raise TypeError(
            f'log_likelihood= returned a Quantity in {out.unit}, but a log density is a plain number. Divide '
            'quantities by a unit before they enter a density: mean / u.mV.'
        )
    if isinstance(out, Node | State):
        raise TypeError(f'log_likelihood= returned a {type(out).__name__}. {number}; of a Param take param.value().')
    try:
        kind = jnp.result_type(out)
    except (TypeError, ValueError):
        kind = None
    if kind is None or isinstance(out, list | tuple | dict | str):
        raise TypeError(f'log_likelihood= returned a {type(out).__name__}. {number}, as an array (jnp.stack).')
    if not jnp.issubdtype(kind, jnp.floating):
        raise TypeError(f'log_likelihood= returned numbers of dtype {kind}. {number}: floating, not complex or int.')
    array = jnp.asarray(out)
    allowed = _leading(targets) if targets is not None else None
    if allowed is not None and array.shape not in allowed:
        raise ValueError(
            f'log_likelihood= returned shape {array.shape} for targets of shape {jnp.shape(targets)}. {number}: '
            f'shape {" or ".join(str(shape) for shape in allowed)}. A prediction of shape (N,) and targets of shape '
            '(N, 1) broadcast to (N, N): score targets[:, 0].'
        )
    if allowed is None and array.ndim > 1:
        raise ValueError(
            f'log_likelihood= returned shape {array.shape}, and there are no targets of this shape. {number}: sum it '
            'over all axes but that of the observations, or give the observations as targets=. A prediction of shape '
            '(N, 1) and observations of shape (N,) broadcast to (N, N).'
        )
    return array


def _leading(x: Any) -> list[tuple[int, ...]]:
    shape = jnp.shape(x)
    return [shape[:i] for i in range(len(shape) + 1)]


def expanded_to(distribution: dist.Distribution, targets: Any) -> dist.Distribution:
    """The distribution of all targets, where it may be that of each."""
    return distribution.expand(checked_batch_shape(distribution, targets))


def checked_batch_shape(distribution: dist.Distribution, targets: Any) -> tuple[int, ...]:
    """The targets' batch shape, if the distribution has it and does not broadcast them.

    Leading axes may be missing in the distribution, all of them for a scalar prediction. An axis of length 1 does not
    stand for a longer one.

    Raises
    ------
    ValueError
        Where the shapes differ: broadcasting would score every target against every prediction.
    """
    shape = jnp.shape(targets)
    event = len(distribution.event_shape)
    batch = shape[: len(shape) - event] if event else shape
    try:
        fits = jnp.broadcast_shapes(distribution.batch_shape, batch) == batch
    except ValueError:
        fits = False
    own = distribution.batch_shape
    if fits and own and any(n == 1 != m for n, m in zip(own[::-1], batch[::-1], strict=False)):
        raise ValueError(
            f'The model predicts targets of shape {own + distribution.event_shape}, the targets have shape {shape}: an '
            'axis of length 1 would serve all entries of a longer one, as where one row of the inputs was taken for '
            'all. A prediction that is meant for all has no such axis (mean[0], jnp.reshape(mean, ())), or the shape '
            'of the targets (jnp.broadcast_to(mean, targets.shape)).'
        )
    if not fits or (event and shape[len(shape) - event :] != distribution.event_shape):
        raise ValueError(
            f'The model predicts targets of shape {distribution.batch_shape + distribution.event_shape}, the targets '
            f'have shape {shape}. They must agree (a scalar prediction may serve all). Reshape the prediction or the '
            'targets, e.g. x[:, 0] in place of x.'
        )
    return batch
