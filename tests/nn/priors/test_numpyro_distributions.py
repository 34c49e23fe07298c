"""Every distribution of NumPyro as a prior: with the right density on its whole support, or refused in words."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints
from numpyro.distributions import transforms as T

from brainstate_prob import nn
from brainstate_prob.nn.supports import is_narrower
from tests.nn.priors.numpyro_cases import EXAMPLES

# What is refused whatever the transform, and by which words; all other names are priors.
DISCRETE = (
    *('BernoulliLogits', 'BernoulliProbs', 'BetaBinomial', 'BetaNegativeBinomial', 'BinomialLogits', 'BinomialProbs'),
    *('CategoricalLogits', 'CategoricalProbs', 'DirichletMultinomial', 'DiscreteUniform', 'GammaPoisson'),
    *('GeometricLogits', 'GeometricProbs', 'HurdlePoisson', 'MultinomialLogits', 'MultinomialProbs'),
    *('NegativeBinomial2', 'NegativeBinomialLogits', 'NegativeBinomialProbs', 'OrderedLogistic', 'Poisson'),
    *('ZeroInflatedLogits', 'ZeroInflatedPoisson', 'ZeroInflatedProbs'),
)
REFUSED = {
    **dict.fromkeys(DISCRETE, 'is discrete, but parameters are real numbers'),
    **dict.fromkeys(('HurdleGamma', 'HurdleLogNormal', 'HurdleLogits', 'HurdleProbs'), 'gives the value 0 a probab'),
    **dict.fromkeys(
        ('IntervalCensoredDistribution', 'LeftCensoredDistribution', 'RightCensoredDistribution'),
        'likelihood of censored',
    ),
    'Delta': r'is a point, not a density. Use nn.Const',
    'Unit': 'is a factor without a value',
}
WITHOUT_TRANSFORM = (
    *('InverseWishart', 'InverseWishartCholesky', 'LKJ', 'LKJCholesky', 'Wishart', 'WishartCholesky'),
    'ZeroSumNormal',
)
SPHERE = 'ProjectedNormal'  # for whose support NumPyro has no transform
PRIORS = [name for name in EXAMPLES if name not in (*REFUSED, *WITHOUT_TRANSFORM, SPHERE)]


def start(name):
    make, shape = EXAMPLES[name]
    d = make()
    support = None if name in REFUSED else d.support
    value = jnp.zeros(shape) if support is None else jnp.asarray(support.feasible_like(jnp.zeros(shape)), float)
    return d, jnp.broadcast_to(value, shape)


def test_no_distribution_is_forgotten():
    known = {
        name
        for name, x in vars(dist).items()
        if inspect.isclass(x) and issubclass(x, dist.Distribution) and x is not dist.Distribution
    }
    assert known <= set(EXAMPLES)


@pytest.mark.parametrize('name', PRIORS)
def test_the_density_of_theta_is_that_of_numpyro(name, x64):
    d, value = start(name)
    param = nn.Param(value, t=None, reg=d)
    # Interior of every case: two standard deviations of theta and more are reached.
    theta = jnp.asarray(np.random.default_rng(0).normal(size=param.val.value.shape) * 1.5)
    param.val.value = theta
    ours = param.log_prior() + param.log_abs_det_jacobian()

    bijection = biject_to(d.support)

    def numpyros(theta):
        return bijection.inv(param.t.forward(theta))

    v, z = param.t.forward(theta), numpyros(theta)
    jacobian = jax.jacfwd(numpyros)(theta).reshape(theta.size, theta.size)
    change = np.linalg.slogdet(np.asarray(jacobian))[1]
    expected = jnp.sum(d.log_prob(v)) + jnp.sum(bijection.log_abs_det_jacobian(z, v)) + change
    assert np.isfinite(expected)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


def test_on_the_sphere_the_length_is_normal(x64):
    d, value = start(SPHERE)
    param = nn.Param(value, t=None, reg=d)
    assert param.t == nn.UnitVectorT()
    param.val.value = theta = jnp.array([[0.3, -1.0, 2.0], [1.0, 1.0, 0.1]])
    unit = theta / jnp.linalg.norm(theta, axis=-1, keepdims=True)
    expected = jnp.sum(d.log_prob(unit)) - jnp.sum(theta**2) / 2
    np.testing.assert_allclose(param.log_prior() + param.log_abs_det_jacobian(), expected, rtol=1e-9)


@pytest.mark.parametrize('name', PRIORS)
def test_the_chosen_transform_fills_the_support(name, x64):
    d, value = start(name)
    param = nn.Param(value, t=None, reg=d)
    assert not is_narrower(d.support, param.t.codomain)
    for scale in (0.1, 1.0, 3.0):  # and every value of the support has a theta
        bijection = biject_to(d.support)
        z = jnp.asarray(np.random.default_rng(1).normal(size=bijection.inverse_shape(value.shape)) * scale)
        v = bijection(z)
        param.set_value(v)
        np.testing.assert_allclose(param.value(), v, rtol=1e-7, atol=1e-12)
    narrow = any(np.isfinite(end) for end in np.ravel(param.t.bounds)) or param.t.event_rank
    if narrow:  # the whole line is told
        with pytest.warns(UserWarning, match='narrower than the codomain'):
            nn.Param(value, reg=d)


@pytest.mark.parametrize('name', REFUSED)
@pytest.mark.parametrize('t', [None, nn.IdentityT(), nn.PositiveT()])
def test_what_is_no_density_is_refused(name, t):
    d, value = start(name)
    with pytest.raises(TypeError, match=REFUSED[name]):
        nn.Param(value + 1.0, t=t, reg=d)
    for around in (lambda d: d.expand((3,)), lambda d: d.mask(True), lambda d: d.expand((3,)).to_event(1)):
        if name != 'Unit':
            with pytest.raises(TypeError, match=REFUSED[name]):
                nn.Prior(around(d))


@pytest.mark.parametrize('name', WITHOUT_TRANSFORM)
def test_a_support_without_a_transform_is_refused(name):
    make, shape = EXAMPLES[name]
    value = jnp.eye(3) if shape == (3, 3) else jnp.zeros(shape)
    with pytest.raises(NotImplementedError, match=r'Param: the prior Prior\(.*No transform reaches the support'):
        nn.Param(value, t=None, reg=make())
    for t in (nn.IdentityT(), nn.SigmoidT(-2.0, 2.0), nn.UnitVectorT()):
        with pytest.raises(ValueError, match='is not known to stay within it'), np.errstate(all='ignore'):
            nn.Param(jnp.full(shape, 3**-0.5), t=t, reg=make())
    nn.Const(value, reg=make())  # not counted, so not refused


class _Correlations(nn.Transform):
    """A transform of the user's whose values are Cholesky factors of correlation matrices, as it says."""

    event_rank = 2

    def _forward(self, x):
        return x

    def _inverse(self, y):
        return y

    def _log_det(self, x):
        return jnp.zeros(x.shape[:-2], x.dtype)

    @property
    def codomain(self):
        return constraints.corr_cholesky


def test_a_transform_that_says_the_very_support_is_taken():
    value = jnp.eye(3)
    nn.Param(value, t=_Correlations(), reg=dist.LKJCholesky(3, 2.0))
    nn.Param(value, t=_Correlations(), reg=dist.Normal(0.0, 1.0))  # any set of real numbers is within the line
    with pytest.raises(ValueError, match='is not known to stay within it'):
        nn.Param(value, t=_Correlations(), reg=dist.LKJ(3, 2.0))
    with pytest.raises(ValueError, match='is not known to stay within it'):
        nn.Param(value, t=_Correlations(), reg=dist.HalfNormal(1.0))


# (the prior, what is said): supports that NumPyro reports too large
TOO_LARGE = [
    (
        lambda: dist.TransformedDistribution(dist.Exponential(1.0), T.AffineTransform(1.0, 2.0)),
        'has a base with support Positive.*AffineTransform.loc, scale, domain=constraints.positive',
    ),
    (
        lambda: dist.MixtureGeneral(
            dist.Categorical(jnp.ones(2) / 2), [dist.Uniform(0.0, 1.0), dist.Uniform(1.0, 3.0)]
        ),
        'components of different supports',
    ),
]


@pytest.mark.parametrize('make, words', TOO_LARGE)
def test_supports_that_are_reported_too_large_are_refused(make, words):
    with pytest.raises(TypeError, match=words):
        nn.Param(1.5, t=None, reg=make())


def test_a_shifted_law_with_its_domain_is_right():
    shifted = dist.TransformedDistribution(
        dist.Exponential(1.0), T.AffineTransform(1.0, 2.0, domain=constraints.positive)
    )
    param = nn.Param(1.5, t=None, reg=shifted)
    assert param.t.bounds[0] == 1.0
    np.testing.assert_allclose(param.log_prior(), -(1.5 - 1.0) / 2 - np.log(2.0), rtol=1e-6)


class TestChains:
    def test_an_unknown_member_counts(self):
        with pytest.raises(ValueError, match='is not known to stay within it'):
            nn.Param(jnp.eye(3), reg=nn.ChainedReg(dist.LKJCholesky(3, 1.0), dist.Normal(0.0, 1.0)))
        with pytest.raises(NotImplementedError, match='No transform reaches'):
            nn.Param(
                jnp.ones(3) / 3,
                t=None,
                reg=nn.ChainedReg(dist.Dirichlet(jnp.ones(3)), dist.ProjectedNormal(jnp.ones(3))),
            )

    def test_the_set_within_all_others_is_taken(self):
        simplex = nn.ChainedReg(dist.Gamma(2.0, 1.0), dist.Dirichlet(jnp.ones(3)))
        assert nn.Param(jnp.ones(3) / 3, t=None, reg=simplex).t == nn.SimplexT()
        interval = nn.ChainedReg(dist.Uniform(jnp.array([0.0, 1.0]), 5.0), dist.Uniform(0.5, jnp.array([3.0, 9.0])))
        lower, upper = nn.Param(jnp.array([2.0, 2.0]), t=None, reg=interval).t.bounds
        np.testing.assert_array_equal(lower, [0.5, 1.0])
        np.testing.assert_array_equal(upper, [3.0, 5.0])


class TestOnTheta:
    def test_a_prior_on_theta_lives_on_the_whole_line(self):
        nn.Param(1.0, t=nn.PositiveT(), reg=dist.Normal(0.0, 1.0), prior_on='unconstrained')
        for reg in (dist.HalfNormal(1.0), nn.GammaReg(), dist.Uniform(-5.0, 5.0)):
            with pytest.raises(ValueError, match="prior_on='unconstrained' scores theta.*Use prior_on='value'"):
                nn.Param(2.0, t=nn.PositiveT(), reg=reg, prior_on='unconstrained')

    def test_without_a_transform_it_is_the_identity(self):
        assert nn.Param(1.0, t=None, reg=dist.Normal(), prior_on='unconstrained').t == nn.IdentityT()
