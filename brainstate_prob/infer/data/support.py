"""Observations outside of the support of their distribution.

A fixed support is compared with the observations once, before a fit. If its bounds may depend on parameters, every
evaluation of the log density compares them: it is minus infinity outside, with a finite gradient. NumPyro does so for
distributions that validate their arguments, but not for shifted ones (whose formula gives NaN below the shift), nor
for those rebuilt by a transformation such as vmap.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob.core.calls import users_line
from brainstate_prob.core.program import depends_on
from brainstate_prob.infer.data.precision import PrecisionWarning, of_large_integers

if TYPE_CHECKING:
    from brainstate_prob.infer.data.arrays import Data
    from brainstate_prob.infer.density.log_density import Density
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = [
    'Bounded',
    'bounds_move',
    'bounds_of',
    'bounds_differ',
    'log_prob_inside',
    'outside_of',
    'refuse_impossible',
]


def log_prob_inside(d: dist.Distribution, value: Any) -> jax.Array:
    """``d.log_prob(value)``; minus infinity outside of a support that may depend on parameters."""
    if not bounds_of(d):
        return d.log_prob(value)
    if isinstance(d, dist.MaskedDistribution) and not isinstance(d._mask, bool):
        return jnp.where(d._mask, log_prob_inside(d.base_dist, value), 0.0)
    if isinstance(d, dist.MaskedDistribution):
        return log_prob_inside(d.base_dist, value) if d._mask else d.log_prob(value)
    if isinstance(d, dist.ExpandedDistribution):
        batch = jnp.shape(value)[: jnp.ndim(value) - d.event_dim]
        return jnp.broadcast_to(log_prob_inside(d.base_dist, value), jnp.broadcast_shapes(d.batch_shape, batch))
    if isinstance(d, dist.Independent):
        each = log_prob_inside(d.base_dist, value)
        return jnp.sum(each, axis=tuple(range(each.ndim - d.reinterpreted_batch_ndims, each.ndim)))
    if isinstance(d, dist.MixtureGeneral):
        parts = jnp.stack([log_prob_inside(c, value) for c in d.component_distributions], axis=-1)
        return jax.nn.logsumexp(jax.nn.log_softmax(d.mixing_distribution.logits) + parts, axis=-1)
    outside = outside_of(d, value)
    # A point inside is used instead, so that the formula outside contributes no NaN to the gradient.
    inside = jnp.where(jnp.expand_dims(outside, tuple(range(-d.event_dim, 0))), _inner(d, value), value)
    return jnp.where(outside, -jnp.inf, d.log_prob(inside))


class Bounded(dist.Distribution):
    """A distribution with `log_prob_inside` as log density, for NumPyro's models."""

    pytree_data_fields = ('base_dist',)

    def __init__(self, base_dist: dist.Distribution):
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape)

    @property
    def support(self) -> Any:
        """See the distribution."""
        return self.base_dist.support

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """See the distribution."""
        return self.base_dist.sample(key, sample_shape)

    def log_prob(self, value: Any) -> jax.Array:
        """The log density; minus infinity outside of the support."""
        return log_prob_inside(self.base_dist, value)


def outside_of(d: dist.Distribution, value: Any) -> jax.Array:
    """Whether each observation lies outside of the support; masked ones do not count."""
    if isinstance(d, dist.MaskedDistribution):
        return outside_of(d.base_dist, value) & jnp.asarray(d._mask, bool)
    if isinstance(d, dist.ExpandedDistribution):
        return outside_of(d.base_dist, value)
    if isinstance(d, dist.Independent):
        each = outside_of(d.base_dist, value)
        return jnp.any(each, axis=tuple(range(each.ndim - d.reinterpreted_batch_ndims, each.ndim)))
    if isinstance(d, dist.MixtureGeneral):
        return jnp.all(jnp.stack([outside_of(c, value) for c in d.component_distributions]), axis=0)
    if isinstance(d, dist.TransformedDistribution):
        return _outside_of_image(d, value)
    support = _support(d)
    return (
        jnp.zeros(jnp.shape(value)[: jnp.ndim(value) - d.event_dim], bool)
        if support is None
        else jnp.logical_not(support(value))
    )


def _outside_of_image(d: dist.TransformedDistribution, value: Any) -> jax.Array:
    """Whether each value is outside of the image of the base support; NumPyro's support is only the last codomain."""
    outside = jnp.zeros((), bool)
    for transform in reversed(d.transforms):
        outside = _any_of(jnp.logical_not(transform.codomain(value)), d, value) | outside
        value = transform.inv(value)
    return _any_of(outside_of(d.base_dist, value), d, value) | outside


def _any_of(outside: jax.Array, d: dist.Distribution, value: Any) -> jax.Array:
    """One bool per event of ``d``, from one per number for elementwise transforms."""
    batch = jnp.ndim(value) - d.event_dim
    return jnp.any(outside, axis=tuple(range(batch, outside.ndim))) if outside.ndim > batch else outside


def _inner(d: dist.Distribution, value: Any) -> Any:
    """A point of the support for each observation."""
    if isinstance(d, dist.TransformedDistribution):
        inner = value
        for transform in reversed(d.transforms):
            inner = transform.inv(inner)
        inner = _inner(d.base_dist, jnp.zeros_like(inner))
        for transform in d.transforms:
            inner = transform(inner)
        return jax.lax.stop_gradient(inner)
    try:
        return jax.lax.stop_gradient(d.support.feasible_like(value))
    except (NotImplementedError, AttributeError):
        return value


def _support(d: dist.Distribution) -> Any:
    """The support; None if a distribution does not state it."""
    try:
        support = d.support
    except NotImplementedError:
        return None
    return None if support is None or support is dist.constraints.dependent else support


def bounds_of(d: dist.Distribution) -> list:
    """The bounds of the support that may depend on parameters: real and computed numbers."""
    if isinstance(d, dist.MaskedDistribution | dist.ExpandedDistribution | dist.Independent):
        return bounds_of(d.base_dist)
    if isinstance(d, dist.MixtureGeneral):
        return [x for c in d.component_distributions for x in bounds_of(c)]
    bounds = _computed(_support(d))
    if isinstance(d, dist.TransformedDistribution) and not _is_everything(d.base_dist, d.transforms):
        bounds = [*bounds, *_computed(d.transforms), *bounds_of(d.base_dist)]
    return bounds


def _computed(tree: Any) -> list:
    return [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)]


def _is_everything(base: dist.Distribution, transforms: Any) -> bool:
    """Whether base and transforms except the last reach all reals, so that only the last bounds the image."""
    real = dist.constraints.real
    steps = [_support(base), *(t.codomain for t in transforms[:-1])]
    return all(getattr(c, 'base_constraint', c) in (real, dist.constraints.real_vector) for c in steps)


def bounds_differ(density: Density, theta: jax.Array, other: jax.Array, data: Data) -> jax.Array:
    """Whether the bounds of the support differ between two points."""
    with density.open(theta, data) as model:
        here = bounds_of(model.distribution(data))
    with density.open(other, data) as model:
        there = bounds_of(model.distribution(data))
    return jnp.any(jnp.stack([jnp.any(a != b) for a, b in zip(here, there, strict=True)] or [jnp.zeros((), bool)]))


def bounds_move(density: Density, data: Data) -> bool:
    """Whether the support of the targets depends on parameters, as that of Uniform(0, a) does."""
    if density.own_log_likelihood is not None or data.targets is None:
        return False

    def bounds(theta: jax.Array, data: Data) -> list:
        with density.open(theta, data) as model:
            return bounds_of(model.distribution(data))

    def look() -> bool:
        program = jax.make_jaxpr(bounds)(jax.ShapeDtypeStruct((density.size,), density.dtype), data)
        return 0 in depends_on(program, range(len(program.jaxpr.outvars)))

    leaves, tree = jax.tree.flatten(data)
    return density.kept((bounds_move, tree, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)), look)


def refuse_impossible(density: Density, theta: jax.Array, data: Data, which: str = 'the targets') -> None:
    """Evaluate once: check shapes and types, and that no observation is impossible for all parameters.

    If the support depends on a parameter, observations outside of it depend on where a fit starts.

    Raises
    ------
    ValueError
        If targets lie outside of a fixed support, or a log-likelihood is NaN or +inf wherever it is evaluated.
    """
    if density.own_log_likelihood is not None:
        _refuse_never_a_density(density, theta, data)
        return
    outside = int(density.compiled(type(density).num_outside)(theta, data))
    if not outside:
        return
    run = density.compiled(bounds_differ)
    if not any(bool(run(theta, other, data)) for other in _elsewhere(theta)):
        raise ValueError(_impossible(outside, which, _law(density, theta, data)))


def _impossible(number: int, which: str, law: Law) -> str:
    head = f'{number} of {which} have probability zero under the likelihood, whatever the parameters'
    if isinstance(law.support, type(dist.constraints.circular)):
        return (
            f'{head}: the angles of {law.name} lie between -pi and pi. Wrap others, phases between 0 and 2 pi, say: '
            '(x + jnp.pi) % (2 * jnp.pi) - jnp.pi.'
        )
    return f'{head} (negative counts, say). Check the targets or choose another distribution.'


class Law(NamedTuple):
    """The name and support (None if unknown) of the predicted distribution."""

    name: str
    support: Any


def _law(density: Density, theta: jax.Array, data: Data) -> Law:
    laws = []

    def look(theta: jax.Array, data: Data) -> None:
        with density.open(theta, data) as model:
            d = model.distribution(data)
        while isinstance(d, dist.MaskedDistribution | dist.ExpandedDistribution | dist.Independent):
            d = d.base_dist
        laws.append(Law(type(d).__name__, _support(d)))

    jax.eval_shape(look, theta, data)
    return laws[0]


def _elsewhere(theta: jax.Array) -> list[jax.Array]:
    """Points near to and far from the start."""
    rng = np.random.default_rng(0)
    return [theta + jnp.asarray(scale * rng.standard_normal(theta.shape), theta.dtype) for scale in (0.1, 1.0, 3.0)]


def _refuse_never_a_density(density: Density, theta: jax.Array, data: Data) -> None:
    """Refuse ``log_likelihood=`` that is NaN, or plus infinity, wherever it is evaluated."""
    run = density.compiled(type(density).pointwise)
    here = run(theta, data)
    _refuse_everywhere(jnp.isnan(here), 'NaN', jnp.isnan, run, theta, data)
    _refuse_everywhere(jnp.isposinf(here), '+inf', jnp.isposinf, run, theta, data)


_CAUSES = {
    'NaN': 'Look for logarithms and roots of negative numbers and for 0/0 in it; where an observation is impossible it '
    'is -jnp.inf.',
    '+inf': 'Look for divisions by zero, for -jnp.log(0) and for a wrong sign in it: what is observed has a finite '
    'density, and where an observation is impossible the log density is -jnp.inf.',
}


def _refuse_everywhere(bad: jax.Array, what: str, test: Any, run: Any, theta: jax.Array, data: Data) -> None:
    if not bad.any():
        return
    for other in _elsewhere(theta):
        bad = bad & test(run(other, data))
    if bad.any():
        where = f'{int(bad.sum())} of {bad.size} observations, the first at {_first(bad)}' if bad.ndim else 'their sum'
        raise ValueError(
            f'log_likelihood= is {what} for {where}, at the start and wherever else it was evaluated. {_CAUSES[what]}'
        )


def warn_of_large_integers(posterior: Posterior, targets: Any) -> None:
    """Warn of integer targets that become equal under a distribution of real numbers."""
    text = None if targets is None else of_large_integers(targets, 'targets')
    if text is not None and not _is_of_integers(posterior.density, posterior.theta, posterior.data):
        warnings.warn(text, PrecisionWarning, stacklevel=users_line())


def _is_of_integers(density: Density, theta: jax.Array, data: Data) -> bool:
    """Whether the model predicts counts or labels; unknown for ``log_likelihood=``."""
    if density.own_log_likelihood is not None:
        return False
    support = _law(density, theta, data).support
    return support is not None and bool(support.is_discrete)


def _first(bad: jax.Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(np.asarray(bad))[0])
