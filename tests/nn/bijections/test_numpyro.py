"""Supports of NumPyro distributions find their transform, and NumPyro's unconstrained space of a site is our theta."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import potential_energy

from brainstate_prob.nn.bijections import (
    ChainT,
    ExpT,
    IdentityT,
    NegSoftplusT,
    OrderedT,
    ParamSupport,
    PositiveT,
    SigmoidT,
    SimplexT,
    SoftplusT,
    Transform,
    UnitVectorT,
    to_numpyro_transform,
    transform_for,
)
from tests.nn.bijections.cases import CASES, WITH_DENSITY, ids

SUPPORTS = [
    (dist.Normal().support, IdentityT()),
    (dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)).support, IdentityT()),
    (dist.MatrixNormal(jnp.zeros((2, 2)), jnp.eye(2), jnp.eye(2)).support, IdentityT()),
    (dist.Normal(jnp.zeros((2, 3))).to_event(2).support, IdentityT()),
    (dist.Gamma(2.0).support, PositiveT()),
    (dist.Gamma(jnp.ones(3)).to_event(1).support, PositiveT()),
    (dist.HalfNormal().support, PositiveT()),
    (dist.InverseGamma(2.0).support, PositiveT()),
    (constraints.nonnegative, PositiveT()),
    (constraints.softplus_positive, SoftplusT()),
    (dist.Beta(1.0, 1.0).support, SigmoidT(0.0, 1.0)),
    (dist.Uniform(-1.0, 3.0).support, SigmoidT(-1.0, 3.0)),
    (dist.Uniform(jnp.zeros(2), jnp.ones(2)).support, SigmoidT([0.0, 0.0], [1.0, 1.0])),
    (dist.VonMises(0.0, 1.0).support, SigmoidT(-np.pi, np.pi)),
    (constraints.open_interval(0.0, 2.0), SigmoidT(0.0, 2.0)),
    (dist.Pareto(2.0, 1.0).support, ExpT(2.0)),
    (constraints.greater_than_eq(2.0), ExpT(2.0)),
    (dist.TruncatedNormal(low=1.0).support, ExpT(1.0)),
    (dist.TruncatedNormal(high=1.0).support, NegSoftplusT(1.0)),
    (constraints.less_than_eq(1.0), NegSoftplusT(1.0)),
    (dist.Dirichlet(jnp.ones(3)).support, SimplexT()),
    (constraints.ordered_vector, OrderedT()),
    (constraints.positive_ordered_vector, ChainT(OrderedT(), PositiveT())),
    (dist.ProjectedNormal(jnp.ones(3)).support, UnitVectorT()),
]


@pytest.mark.parametrize(('support', 't'), SUPPORTS, ids=[repr(row[0]) for row in SUPPORTS])
def test_transform_for_a_support(support, t):
    got = transform_for(support)
    assert type(got) is type(t)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(t), strict=True):
        np.testing.assert_allclose(one, other)
    y = got.forward(jnp.array([[0.3, -0.4], [0.1, 0.2]]))
    assert np.all(support(y))


@pytest.mark.parametrize(
    ('support', 'why'),
    [
        (dist.Poisson(1.0).support, 'is discrete'),
        (dist.Bernoulli(0.5).support, 'is discrete'),
        (constraints.lower_cholesky, 'has none here'),
        (constraints.positive_definite, 'has none here'),
        (constraints.corr_matrix, 'has none here'),
        ('positive', 'has none here'),
    ],
    ids=repr,
)
def test_supports_without_one(support, why):
    with pytest.raises(NotImplementedError, match=rf'{why}.*There is one for: real, positive.*Give t= yourself'):
        transform_for(support)


@pytest.mark.parametrize('case', CASES, ids=ids(CASES))
def test_own_support_round_trip(case):
    support = ParamSupport(case.t)
    transform = biject_to(support)
    assert transform == to_numpyro_transform(case.t)
    assert transform_for(support) == case.t
    assert support.event_dim == transform.codomain.event_dim == transform.domain.event_dim == case.t.event_rank
    x = case.theta((2,))
    y = transform(x)
    assert np.all(support(y))
    assert transform.forward_shape(x.shape) == y.shape and transform.inverse_shape(y.shape) == x.shape
    np.testing.assert_array_equal(transform._inverse(y), case.t.inverse(y))
    assert np.all(support(support.feasible_like(y)))
    leaves, tree = jax.tree.flatten((support, transform))
    assert jax.tree.unflatten(tree, leaves) == (support, transform)


@pytest.mark.parametrize('case', WITH_DENSITY, ids=ids(WITH_DENSITY))
def test_potential_energy_of_a_site(case):
    """NumPyro's energy at theta is minus (our log prior plus our log-determinant), with theta as we lay it out."""
    if not case.t.unconstrained:
        pytest.skip('no sampler takes it alone')
    x = case.theta()
    shape = case.t.forward_shape(x.shape)

    def model():
        batch = shape[: len(shape) - case.t.event_rank]
        event = shape[len(shape) - case.t.event_rank :]
        y = numpyro.sample('y', dist.ImproperUniform(ParamSupport(case.t), batch, event))
        numpyro.factor('prior', -jnp.sum(y**2))

    energy = jax.jit(lambda x: potential_energy(model, (), {}, {'y': x}))(x)
    ours = jnp.sum(case.t.forward(x) ** 2) - jnp.sum(case.t.log_abs_det_jacobian(x))
    np.testing.assert_allclose(energy, ours, rtol=1e-4)


def test_a_wrong_argument():
    with pytest.raises(TypeError, match='Expected a brainstate_prob Transform'):
        ParamSupport('positive')


def test_a_transform_of_ones_own():
    """Three members make a transform; everything else follows, TFP's bijector included."""

    class CubeT(Transform):
        """y = x^3 + x."""

        _args = _numbers = ('slope',)

        def __init__(self, slope=1.0):
            self._keep(slope=slope)

        def _forward(self, x, slope):
            return x**3 + slope * x

        def _inverse(self, y, slope):
            p = jnp.sqrt((y / 2) ** 2 + (slope / 3) ** 3)
            return jnp.cbrt(y / 2 + p) + jnp.cbrt(y / 2 - p)

        def _log_det(self, x, slope):
            return jnp.log(3 * x**2 + slope)

    t = CubeT(2.0)
    np.testing.assert_allclose(t.inverse(t.forward(jnp.array([-1.0, 0.5]))), [-1.0, 0.5], rtol=1e-5)
    np.testing.assert_allclose(ChainT(t, PositiveT()).log_abs_det_jacobian(1.0), np.log(5) + 3, rtol=1e-6)
    np.testing.assert_allclose(t.bijector.inverse_log_det_jacobian(jnp.float32(3.0), 0), -np.log(5), rtol=1e-5)
    assert repr(t) == 'CubeT(slope=2.0)' and CubeT(2.0) == t and jax.tree.leaves(t) == [2.0]
