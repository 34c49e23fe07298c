"""Transforms in NumPyro: a site with this support has theta as its unconstrained value."""

import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import Transform as NumPyroTransform

from brainstate_prob.nn.bijections.base import Transform

__all__ = ['NumPyroParamTransform', 'ParamSupport', 'to_numpyro_transform']


def _plain(transform):
    if not isinstance(transform, Transform):
        raise TypeError(f'Expected a brainstate_prob Transform; got {transform!r}.')
    return transform.with_unit(transform.unit)


class ParamSupport(constraints.Constraint):
    """The values of a transform, as numbers in its own unit; NumPyro's `biject_to` gives that transform back.

    Examples
    --------
    >>> from numpyro.distributions import biject_to
    >>> from brainstate_prob.nn.bijections import SoftplusT
    >>> round(float(biject_to(ParamSupport(SoftplusT()))(0.0)), 4)
    0.6931
    """

    def __init__(self, transform):
        self.transform = _plain(transform)

    @property
    def event_dim(self):
        """The event rank of the transform."""
        return self.transform.event_rank

    def __call__(self, x):
        """Whether each event is a value of the transform."""
        return self.transform.contains(x)

    def __repr__(self):
        return f'ParamSupport({self.transform!r})'

    def feasible_like(self, prototype):
        """Return a value of the shape of `prototype`."""
        dtype = jnp.result_type(float, prototype)
        theta = jnp.ones(self.transform.inverse_shape(jnp.shape(prototype)), dtype)
        return self.transform.forward(theta)

    def tree_flatten(self):
        """Children and static part, as NumPyro expects them."""
        return (self.transform,), (('transform',), {})

    def eq(self, other, static=False):
        """Whether both are the values of equal transforms."""
        return isinstance(other, ParamSupport) and self.transform == other.transform


class NumPyroParamTransform(NumPyroTransform):
    """A transform of this library with NumPyro's interface."""

    def __init__(self, transform):
        self.transform = _plain(transform)

    @property
    def domain(self):
        """The domain of theta."""
        return self.transform.domain

    @property
    def codomain(self):
        """The range of the value."""
        return ParamSupport(self.transform)

    def __call__(self, x):
        """Map theta to the value."""
        return self.transform.forward(x)

    def _inverse(self, y):
        return self.transform.inverse(y)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Log-determinant, one per event."""
        return self.transform.log_abs_det_jacobian(x, y)

    def forward_shape(self, shape):
        """Shape of the value."""
        return self.transform.forward_shape(shape)

    def inverse_shape(self, shape):
        """Shape of theta."""
        return self.transform.inverse_shape(shape)

    def tree_flatten(self):
        """Children and static part, as NumPyro expects them."""
        return (self.transform,), (('transform',), {})

    def eq(self, other, static=False):
        """Whether both wrap equal transforms."""
        return isinstance(other, NumPyroParamTransform) and self.transform == other.transform


def to_numpyro_transform(transform) -> NumPyroParamTransform:
    """Return a transform as a NumPyro one, on numbers in its own unit."""
    return NumPyroParamTransform(transform)


@biject_to.register(ParamSupport)
def _biject_to_param(support):
    return NumPyroParamTransform(support.transform)
