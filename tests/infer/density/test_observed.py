"""What a model says about its observations: supports that move, masks, and log densities of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.data.support import bounds_of, log_prob_inside, outside_of

T = dist.transforms
HALF = jnp.array([True, False])
INF = np.inf


def scalar(d, *args):
    return lambda *points: [d(*args).logpdf(p) for p in points]


# By name: the law by its parameter t, the observations, and their log densities at t = 2 by scipy.
MOVING = {
    'uniform': (lambda t: dist.Uniform(0.0, t), [1.0, 3.0, -1.0], stats.uniform(0, 2).logpdf),
    'pareto': (lambda t: dist.Pareto(t, 3.0), [1.0, 3.0], stats.pareto(3, scale=2).logpdf),
    'truncated above': (lambda t: dist.TruncatedNormal(0.0, 1.0, high=t), [1.0, 3.0], stats.truncnorm(-INF, 2).logpdf),
    'truncated below': (lambda t: dist.TruncatedNormal(0.0, 1.0, low=t), [1.0, 3.0], stats.truncnorm(2, INF).logpdf),
    'truncated on both sides': (
        lambda t: dist.TruncatedNormal(0.0, 1.0, low=-t, high=t), [-3.0, 1.0, 3.0], stats.truncnorm(-2, 2).logpdf,
    ),
    'shifted exponential': (
        lambda t: dist.TransformedDistribution(dist.Exponential(1.0), [T.AffineTransform(t, 1.0)]),
        [1.0, 3.0], stats.expon(2).logpdf,
    ),
    'shifted log-normal': (
        lambda t: dist.TransformedDistribution(dist.LogNormal(0.0, 1.0), [T.AffineTransform(t, 1.0)]),
        [1.0, 3.0], stats.lognorm(1.0, loc=2).logpdf,
    ),
    'scaled beta': (
        lambda t: dist.TransformedDistribution(dist.Beta(2.0, 2.0), [T.AffineTransform(0.0, t)]),
        [1.5, 3.0], stats.beta(2, 2, scale=2).logpdf,
    ),
    'log-uniform': (lambda t: dist.LogUniform(1.0, t), [1.5, 3.0], stats.loguniform(1, 2).logpdf),
    'without validation': (
        lambda t: dist.Uniform(0.0, t, validate_args=False), [1.0, 3.0], stats.uniform(0, 2).logpdf,
    ),
    'expanded': (lambda t: dist.Uniform(0.0, t).expand([2]), [1.0, 3.0], stats.uniform(0, 2).logpdf),
    'masked': (lambda t: dist.Uniform(0.0, t).expand([2]).mask(HALF), [1.0, 3.0], lambda y: [-np.log(2), 0.0]),
    'masked, outside': (lambda t: dist.Uniform(0.0, t).expand([2]).mask(~HALF), [1.0, 3.0], lambda y: [0.0, -INF]),
    'masked by False': (lambda t: dist.Uniform(0.0, t).expand([2]).mask(False), [1.0, 3.0], lambda y: [0.0, 0.0]),
    'masked by True': (lambda t: dist.Uniform(0.0, t).mask(True), [1.0, 3.0], stats.uniform(0, 2).logpdf),
    'event': (lambda t: dist.Uniform(0.0, t).expand([2]).to_event(1), [1.0, 3.0], lambda y: -INF),
    'event, inside': (lambda t: dist.Uniform(0.0, t).expand([2]).to_event(1), [1.0, 1.5], lambda y: -2 * np.log(2)),
    'masked event': (
        lambda t: dist.Uniform(0.0, t).expand([2]).mask(HALF).to_event(1), [1.0, 3.0], lambda y: -np.log(2),
    ),
    'mixture': (
        lambda t: dist.MixtureGeneral(
            dist.Categorical(jnp.array([0.25, 0.75])), [dist.Uniform(0.0, t / 2), dist.Uniform(0.0, t)]
        ),
        [0.5, 1.5, 3.0], lambda y: np.log([0.25 + 0.375, 0.375, np.nextafter(0, 1)]) + [0.0, 0.0, -INF],
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', MOVING)
def test_density_is_zero_outside_of_a_support_that_moves(name):
    law, y, truth = MOVING[name]
    y = jnp.array(y)

    def total(t):
        return jnp.where(jnp.isfinite(x := log_prob_inside(law(t), y)), x, 0.0).sum(), x

    (_, found), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(2.0)
    np.testing.assert_allclose(found, truth(np.asarray(y)), rtol=1e-5)
    if 'masked' not in name:
        np.testing.assert_array_equal(np.isneginf(found), outside_of(law(2.0), y))
    assert np.isfinite(slope)


FIXED = {
    'normal': (lambda t: dist.Normal(t, 1.0), [0.0, 1.0]),
    'gamma': (lambda t: dist.Gamma(t, 1.0), [0.5, 1.0]),
    'beta': (lambda t: dist.Beta(t, 2.0), [0.5, 0.3]),
    'poisson': (lambda t: dist.Poisson(t), [0, 3]),
    'binomial of counts': (lambda t: dist.Binomial(jnp.array([2, 3]), t / 4), [1, 3]),
    'log-normal': (lambda t: dist.LogNormal(t, 1.0), [0.5, 1.0]),
    'scaled normal': (
        lambda t: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [T.AffineTransform(t, 2.0)]), [0.5, 1.0],
    ),
    'zero-inflated': (lambda t: dist.ZeroInflatedPoisson(0.3, t), [0, 3]),
    'mixture': (
        lambda t: dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(t * jnp.arange(2.0), 1.0)),
        [0.5, 1.0],
    ),
    'vectors': (lambda t: dist.MultivariateNormal(t * jnp.ones(2), jnp.eye(2)), [0.5, 1.0]),
    'delta': (lambda t: dist.Delta(t), [2.0, 2.0]),
}  # fmt: skip


@pytest.mark.parametrize('name', FIXED)
def test_a_fixed_support_costs_nothing(name):
    law, y = FIXED[name]
    y = jnp.array(y)
    assert bounds_of(law(jnp.array(2.0))) == []
    ours, theirs = jax.make_jaxpr(lambda t: log_prob_inside(law(t), y)), jax.make_jaxpr(lambda t: law(t).log_prob(y))
    assert str(ours(2.0)) == str(theirs(2.0))
    assert not outside_of(law(2.0), y).any()


class Top(nn.Module):
    """Observations that are uniform below theta."""

    def __init__(self, value):
        super().__init__()
        self.theta = nn.Param(value, t=nn.ExpT(0.0), reg=dist.LogNormal(0.0, 2.0))

    def __call__(self, mask=None):
        d = dist.Uniform(0.0, self.theta.value())
        return d if mask is None else d.mask(mask)


def test_a_support_that_moves_is_a_matter_of_the_start():
    posterior = infer.Posterior(Top(2.0), targets=jnp.array([1.0, 3.0]))
    assert posterior.log_density() == -jnp.inf
    np.testing.assert_allclose(posterior.log_likelihood(), [-np.log(2), -np.inf], rtol=1e-6)
    with pytest.raises(ValueError, match=r'not finite at the start.*-inf.*1 observations, the first at \(1,\)'):
        infer.map(posterior, progress=False)
    theta = posterior.unconstrain({'theta': 4.0})
    np.testing.assert_allclose(posterior.log_likelihood(theta), [-np.log(4)] * 2, rtol=1e-6)


def test_masked_observations_do_not_count():
    y, mask = jnp.array([1.0, -1.0]), jnp.array([True, False])
    np.testing.assert_allclose(infer.Posterior(Top(2.0), mask, y).log_likelihood(), [-np.log(2), 0.0], rtol=1e-6)

    def gamma(model, mask):
        return dist.Gamma(model.theta.value(), 1.0).mask(mask)

    posterior = infer.Posterior(Top(2.0), mask, y, likelihood=gamma)
    np.testing.assert_allclose(posterior.log_likelihood(), [stats.gamma(2).logpdf(1.0), 0.0], rtol=1e-5)
    with pytest.raises(ValueError, match='1 of the targets have probability zero under the likelihood, whatever'):
        infer.Posterior(Top(2.0), ~mask, y, likelihood=gamma)


def test_a_bound_that_is_a_constant_is_told_from_one_that_moves():
    def cut(model):
        return dist.TruncatedNormal(model.theta.value(), 1.0, low=jnp.zeros(2) + 0.5)

    with pytest.raises(ValueError, match='1 of the targets have probability zero .* whatever the parameters'):
        infer.Posterior(Top(2.0), targets=jnp.array([1.0, 0.2]), likelihood=cut)


# Log densities of one's own

X = jnp.arange(4.0)
OWN = {
    'a sum': (X, lambda m, x, y: jnp.sum(-m.theta.value() * (x - y) ** 2), ()),
    'one a target': (X, lambda m, x, y: -m.theta.value() * (x - y) ** 2, (4,)),
    'one a vector': (jnp.ones((4, 2)), lambda m, x, y: -m.theta.value() * jnp.sum(y, 1), (4,)),
    'one an entry of vectors': (jnp.ones((4, 2)), lambda m, x, y: -m.theta.value() * y, (4, 2)),
    'a NumPy number': (X, lambda m, x, y: np.float32(0.5), ()),
}


@pytest.mark.parametrize('name', OWN)
def test_shapes_of_a_log_likelihood(name):
    y, function, shape = OWN[name]
    assert infer.Posterior(Top(2.0), X, y, log_likelihood=function).log_likelihood().shape == shape


@pytest.mark.parametrize(('shape', 'inputs'), [((), None), ((3,), None), ((4,), jnp.ones((4, 4))), ((3,), X)])
def test_without_targets_a_log_likelihood_has_one_axis(shape, inputs):
    posterior = infer.Posterior(Top(2.0), inputs, log_likelihood=lambda m, *x: m.theta.value() * jnp.ones(shape))
    assert posterior.log_likelihood().shape == shape


def test_complex_targets_of_a_log_likelihood():
    y = np.array([1 + 1j, 2.0])
    posterior = infer.Posterior(Top(2.0), targets=y, log_likelihood=lambda m, y: -m.theta.value() * jnp.abs(y) ** 2)
    np.testing.assert_allclose(posterior.log_likelihood(), [-4.0, -8.0], rtol=1e-6)


def test_the_shape_is_checked_again_with_other_data():
    posterior = infer.Posterior(
        Top(2.0), X, X, log_likelihood=lambda m, x, y: dist.Normal(x, m.theta.value()).log_prob(y)
    )
    fit = infer.map(posterior, progress=False)
    with pytest.raises(ValueError, match=r'shape \(3, 3\) for targets of shape \(3, 1\)'):
        fit.predict(X[:3], X[:3, None], kind='log_density')
    with pytest.raises(ValueError, match=r'shape \(2, 2\) for targets of shape \(2, 1\)'):
        infer.map(
            posterior, batches=[(X[:2], X[:2, None])], num_observations=2, optimizer='adam', num_steps=2, progress=False
        )


def test_the_same_density_in_numpyro():
    import numpyro

    def shifted(model):
        return dist.TransformedDistribution(dist.LogNormal(0.0, 1.0), [T.AffineTransform(model.theta.value(), 1.0)])

    posterior = infer.Posterior(Top(2.0), targets=jnp.array([1.0, 3.0]), likelihood=shifted)
    theirs = infer.to_numpyro(posterior.model, likelihood=shifted)
    for value in (2.0, 0.5):
        found, _ = numpyro.infer.util.log_density(theirs, (), {'targets': posterior.data.targets}, {'theta': value})
        ours = posterior.log_density(posterior.unconstrain({'theta': value}), jacobian=False)
        np.testing.assert_allclose(found, ours, rtol=1e-5)
        assert np.isneginf(ours) == (value > 1)


def test_a_matrix_of_distances_admits_no_matrix_of_densities():
    distances, y = jnp.abs(X[:, None] - X), X / 2
    theirs = [stats.norm(2.0 * x, 0.5).logpdf(x / 2) for x in np.arange(4.0)]

    def each(m, d, y):
        return dist.Normal(m.theta.value() * X, 0.5).log_prob(y)

    found = infer.Posterior(Top(2.0), (distances, y), log_likelihood=each)
    np.testing.assert_allclose(found.log_likelihood(), theirs, rtol=1e-5)
    with pytest.raises(ValueError, match=r'shape \(4, 4\), and there are no targets'):
        infer.Posterior(Top(2.0), (distances, y), log_likelihood=lambda m, d, y: each(m, d, y[:, None]))


ONE, ROW, COLUMN = (1,), (1, 3), (4, 1)
SERVED = {
    'a scalar': ((), (4,), False), 'all': ((4,), (4,), False), 'one of one': (ONE, ONE, False),
    'a column of a column': (COLUMN, COLUMN, False), 'a row': ((3,), (4, 3), False), 'a table': ((4, 3), (4, 3), False),
    'one of four': (ONE, (4,), True), 'a row with an axis': (ROW, (4, 3), True), 'a column': (COLUMN, (4, 3), True),
    'one of a table': ((1, 1), (4, 3), True), 'the last axis': (ONE, (4, 3), True),
}  # fmt: skip


@pytest.mark.parametrize('event', [False, True], ids=['numbers', 'vectors'])
@pytest.mark.parametrize('name', SERVED)
def test_an_axis_of_length_one_does_not_serve_a_longer_one(name, event):
    batch, shape, refused = SERVED[name]
    end = (2,) if event else ()
    y = np.random.default_rng(0).normal(size=shape + end)

    def law(m):
        d = dist.Normal(m.theta.value() * jnp.ones(batch + end), 1.0)
        return d.to_event(1) if event else d

    if refused:
        with pytest.raises(ValueError, match=r'axis of length 1 .*mean\[0\].*broadcast_to'):
            infer.Posterior(Top(2.0), targets=y, likelihood=law)
    else:
        truth = stats.norm(2.0, 1.0).logpdf(y)
        found = infer.Posterior(Top(2.0), targets=y, likelihood=law).log_likelihood()
        np.testing.assert_allclose(found, truth.sum(-1) if event else truth, rtol=1e-4)


def test_a_log_likelihood_may_be_infinite_at_the_start():
    y = jnp.array([0.0, 0.5])

    def beta(m, y):  # infinite at 0 below 1
        return (m.theta.value() - 1) * jnp.log(y)

    posterior = infer.Posterior(Top(0.5), targets=y, log_likelihood=beta)
    assert np.isposinf(posterior.log_likelihood()[0])
    np.testing.assert_allclose(posterior.log_likelihood()[1], -0.5 * np.log(0.5), rtol=1e-6)


LABELS = {
    'categorical': lambda a: dist.Categorical(logits=a * jnp.ones((4, 3))),
    'categorical by probability': lambda a: dist.Categorical(probs=jnp.exp(0 * a) * jnp.ones((4, 3)) / 3),
    'ordered': lambda a: dist.OrderedLogistic(a * X, jnp.array([0.0, 1.0])),
    'expanded': lambda a: dist.Categorical(logits=a * jnp.ones(3)).expand([4]),
    'joint': lambda a: dist.Categorical(logits=a * jnp.ones((4, 3))).to_event(1),
}


@pytest.mark.parametrize('dtype', [float, bool, np.float16])
@pytest.mark.parametrize('name', LABELS)
def test_labels_are_integers(name, dtype):
    y = np.array([0, 1, 1, 0])

    def law(m):
        return LABELS[name](m.theta.value())

    with pytest.raises(TypeError, match=rf'whole numbers .*targets are {"bool" if dtype is bool else "float"}.*astype'):
        infer.Posterior(Top(2.0), targets=y.astype(dtype), likelihood=law)
    found = infer.Posterior(Top(2.0), targets=y, likelihood=law).log_likelihood().sum()
    if name != 'ordered':
        np.testing.assert_allclose(found, -4 * np.log(3), rtol=1e-5)
