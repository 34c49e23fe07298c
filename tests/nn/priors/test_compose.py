"""NumPyro distributions as priors, chains, and priors that users write."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro.distributions import constraints

from brainstate_prob import ParamState, graph
from brainstate_prob.nn import priors as P
from brainstate_prob.nn.param import Param

# a distribution, a value, values outside, whether it is grouped with others of its class
DISTRIBUTIONS = {
    'Normal': (dist.Normal(1.0, 2.0), np.array([0.0, 3.0]), [], True),
    'Normal, arrays': (dist.Normal(np.zeros(2), np.ones(2)), np.array([0.0, 3.0]), [], True),
    'Normal, expanded': (dist.Normal(1.0, 2.0).expand([2]), np.array([0.0, 3.0]), [], True),
    'Gamma': (dist.Gamma(2.0, 3.0), np.array([0.5, 3.0]), [-1.0, 0.0], True),
    'HalfNormal': (dist.HalfNormal(2.0), np.array([0.5, 3.0]), [-1.0], True),
    'HalfCauchy': (dist.HalfCauchy(2.0), np.array([0.5, 3.0]), [-1.0], True),
    'Uniform': (dist.Uniform(0.0, 2.0), np.array([0.5, 1.0]), [-1.0, 3.0], True),
    'Beta': (dist.Beta(2.0, 3.0), np.array([0.5, 0.1]), [-1.0, 3.0], True),
    'Laplace': (dist.Laplace(0.0, 2.0), np.array([0.5, 0.1]), [], True),
    'Weibull': (dist.Weibull(2.0, 3.0), np.array([0.5, 0.1]), [-1.0], True),
    'VonMises': (dist.VonMises(0.0, 2.0), np.array([0.5, 0.1]), [], True),
    'TruncatedNormal': (dist.TruncatedNormal(0.0, 1.0, low=0.0), np.array([0.5, 0.1]), [-1.0], False),
    'independent': (dist.Normal(np.zeros(2), 1.0).to_event(1), np.ones((3, 2)), [], False),
    'MultivariateNormal': (dist.MultivariateNormal(np.zeros(2), np.eye(2) + 0.3), np.ones((3, 2)), [], False),
    'Dirichlet': (dist.Dirichlet(np.array([1.0, 2.0])), np.array([[0.3, 0.7]]), [np.array([0.3, 0.3])], False),
    'mixture': (
        dist.MixtureSameFamily(dist.Categorical(np.array([0.3, 0.7])), dist.Normal(np.array([0.0, 5.0]), 1.0)),
        np.array([0.3, 0.7]),
        [],
        False,
    ),
    'transformed': (
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform()),
        np.array([0.3, 0.7]),
        [-1.0],
        False,
    ),
}
distributions = pytest.mark.parametrize('name', DISTRIBUTIONS)


@distributions
def test_a_numpyro_distribution_as_prior(name):
    d, value, outside, grouped = DISTRIBUTIONS[name]
    reg = P.as_regularization(d)
    assert isinstance(reg, P.Prior)
    np.testing.assert_allclose(reg.log_prob(value), d.log_prob(value), rtol=1e-5)
    np.testing.assert_allclose(reg.loss(value), -np.sum(d.log_prob(value)), rtol=1e-5)
    np.testing.assert_allclose(P.Prior(d, weight=2.0).loss(value), 2 * reg.loss(value), rtol=1e-6)
    assert reg.event_dim == d.event_dim
    assert repr(reg.support) == repr(d.support)
    assert (reg.family_key() == (type(d) if 'expanded' not in name else dist.Normal,)) == grouped
    assert (reg.family_key() is not None) == grouped
    for bad in outside:
        x = bad if np.ndim(bad) else np.full(np.shape(value), bad)
        loss, grad = jax.value_and_grad(reg.loss)(jnp.asarray(x, float))
        assert loss == np.inf
        assert not np.isnan(grad).any()
    shape = np.shape(value)
    assert reg.sample_init(shape, key=jax.random.PRNGKey(0)).shape == shape
    np.testing.assert_array_equal(
        reg.sample_init(shape, key=jax.random.PRNGKey(0)),
        d.expand(shape[: len(shape) - d.event_dim]).sample(jax.random.PRNGKey(0)),
    )
    reset = reg.reset_value(shape)
    assert reset.shape == shape
    assert np.isfinite(reg.loss(reset))
    assert np.isfinite(reg.loss(reg.reset_value()))
    if grouped:
        stacked = {k: jnp.broadcast_to(v, shape) for k, v in reg.hyper_values().items()}
        got = reg.family_log_prob(stacked, jnp.asarray(value))
        np.testing.assert_allclose(got, d.log_prob(value), rtol=1e-5)


@distributions
def test_priors_built_alike_are_alike(name):
    d, value, _, _ = DISTRIBUTIONS[name]
    reg, other = P.Prior(d), P.Prior(pickle.loads(pickle.dumps(d)))
    assert graph.graphdef(reg) == graph.graphdef(other)
    assert repr(reg) == repr(other)
    assert '0x' not in repr(reg)
    twin = pickle.loads(pickle.dumps(reg))
    np.testing.assert_allclose(twin.loss(value), reg.loss(value))
    assert graph.graphdef(P.Prior(dist.Normal(0.0, 1.0))) != graph.graphdef(P.Prior(dist.Normal(0.0, 2.0)))


def test_regularizations_and_distributions_share_families():
    assert P.Prior(dist.Normal(0.0, 1.0)).family_key() == P.GaussianReg().family_key()
    assert set(P.Prior(dist.Normal(0.0, 1.0)).hyper_values()) == set(P.GaussianReg().hyper_values())
    assert set(P.Prior(dist.StudentT(3.0)).hyper_values()) == set(P.StudentTReg().hyper_values())


@pytest.mark.parametrize('value', [np.zeros(3), np.zeros((2, 3)), 0.0])
def test_a_batch_that_does_not_fit_the_value(value):
    with pytest.raises(ValueError, match=r'is about values of shape \(2,\); the value has shape'):
        P.Prior(dist.Normal(np.zeros(2), 1.0)).loss(value)
    with pytest.raises(ValueError, match='is about values'):
        P.Prior(dist.Normal(np.zeros(2), 1.0)).sample_init(np.shape(value))


@pytest.mark.parametrize(
    'bad',
    [
        dist.Poisson(1.0),
        dist.Bernoulli(0.5),
        dist.Categorical(np.ones(3) / 3),
        dist.Poisson(1.0).expand([2]).to_event(1),
    ],
)
def test_discrete_distributions_are_refused(bad):
    with pytest.raises(TypeError, match='is discrete, but parameters are real'):
        P.as_regularization(bad)


@pytest.mark.parametrize('bad', [1.0, 'L2', P.L2Reg, dist.Normal, lambda x: x, [P.L2Reg()]])
def test_what_is_no_prior(bad):
    with pytest.raises(TypeError, match=r'is not a prior\. Allowed: a Regularization .* NumPyro distribution'):
        P.as_regularization(bad)


def test_as_regularization_keeps_what_is_one():
    reg = P.L2Reg()
    assert P.as_regularization(reg) is reg
    assert P.as_regularization(None) is None


def test_heavy_tails_of_a_numpyro_prior_do_not_overflow():
    assert P.Prior(dist.Cauchy(0.0, 1.0)).loss(1e30) == pytest.approx(np.log(np.pi) + 60 * np.log(10), rel=1e-5)


class TestChain:
    members = (P.L1Reg(0.01), P.L2Reg(0.001), P.UniformReg(weight=1.0, lower=-1.0, upper=1.0))
    value = jnp.array([0.5, -0.3, 0.8])

    def test_the_page(self):
        chain = P.ChainedReg(*self.members, weight=1.0)
        parts = sum(reg.loss(self.value) for reg in self.members)
        np.testing.assert_allclose(chain.loss(self.value), parts, rtol=1e-6)
        np.testing.assert_allclose(P.ChainedReg(*self.members, weight=2.0).loss(self.value), 2 * parts, rtol=1e-6)
        assert chain.regularizations == self.members
        assert isinstance(chain.regularizations, tuple)
        np.testing.assert_array_equal(
            chain.sample_init(4, key=jax.random.PRNGKey(0)), self.members[0].sample_init(4, key=jax.random.PRNGKey(0))
        )
        assert chain.reset_value((2,)).shape == (2,)

    def test_empty(self):
        assert P.ChainedReg().loss(self.value) == 0
        np.testing.assert_array_equal(P.ChainedReg().sample_init((2,)), np.zeros(2))
        np.testing.assert_array_equal(P.ChainedReg().reset_value((2,)), np.zeros(2))
        assert P.ChainedReg().reset_value() == 0
        assert P.ChainedReg().support is constraints.real

    def test_keys_are_stable_and_the_weight_is_trained(self):
        chain = P.ChainedReg(P.L1Reg(), P.GaussianReg(0.0, 2.0, fit_hyper=True), weight=1.5, fit_hyper=True)
        assert list(chain.states(ParamState)) == [
            ('regularizations', 1, 'mean', 'val'),
            ('regularizations', 1, 'std', 'val'),
            ('weight', 'val'),
        ]
        np.testing.assert_allclose(chain.weight.value(), 1.5, rtol=1e-6)
        assert not P.ChainedReg(P.L1Reg(), fit_hyper=False).states()
        p = Param(np.ones(2), reg=chain)
        assert ('reg', 'weight', 'val') in p.states()

    def test_members_are_checked(self):
        for bad in ([P.L1Reg()], 'x', None, 1.0):
            with pytest.raises(TypeError, match=r'not a prior|is None'):
                P.ChainedReg(P.L1Reg(), bad)
        with pytest.raises(ValueError, match='weight must be >= 0'):
            P.ChainedReg(weight=-1.0)
        with pytest.raises(ValueError, match='weight must be one number'):
            P.ChainedReg(weight=np.ones(2))

    def test_distributions_are_members(self):
        chain = P.ChainedReg(dist.Normal(0.0, 1.0), dist.Gamma(2.0, 1.0))
        expected = -dist.Normal(0.0, 1.0).log_prob(0.5) - dist.Gamma(2.0, 1.0).log_prob(0.5)
        np.testing.assert_allclose(chain.loss(0.5), expected, rtol=1e-6)
        assert chain.support is constraints.positive
        assert chain.loss(-1.0) == np.inf
        assert not chain.proper
        both = P.ChainedReg(dist.Gamma(2.0, 1.0), P.LogUniformReg(lower=2.0, upper=3.0))
        assert (both.support.lower_bound, both.support.upper_bound) == (2.0, 3.0)
        assert P.ChainedReg(P.L1Reg(), P.DirichletReg()).event_dim == 1
        assert P.ChainedReg(weight=0.0).loss(1.0) == 0

    def test_copies_and_words(self):
        chain = P.ChainedReg(*self.members, weight=2.0)
        for twin in (pickle.loads(pickle.dumps(chain)), graph.clone(chain), eval(repr(chain), vars(P))):
            assert repr(twin) == repr(chain)
            assert twin.loss(self.value) == chain.loss(self.value)


def test_a_prior_of_one_s_own():
    class Ridge(P.Regularization):
        def loss(self, value):
            return jnp.sum(jnp.square(value))

    p = Param([3.0, 4.0], reg=Ridge())
    assert p.reg_loss() == 25
    assert p.reg.family_key() is None
    with pytest.raises(NotImplementedError, match='Ridge'):
        p.reg.log_prob(1.0)
    with pytest.raises(NotImplementedError, match='Ridge'):
        p.reg.sample_init(2)

    class LogisticReg(P.DistributionReg):
        numpyro_class = dist.Logistic
        hypers = {'scale': P.base.Hyper('scale', 'value', 'positive')}
        fixed = {'loc': 0.0}

        def __init__(self, scale=1.0, fit_hyper=False):
            super().__init__(fit_hyper)
            self._set(fit_hyper, {'scale': scale})

    reg = LogisticReg(2.0)
    np.testing.assert_allclose(reg.loss(1.5), -st.logistic(0, 2).logpdf(1.5), rtol=1e-6)
    assert reg.sample_init(3).shape == (3,)
    assert list(LogisticReg(2.0, fit_hyper=True).states()) == [('scale', 'val')]
