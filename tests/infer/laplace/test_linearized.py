"""A network is predicted by its linearization around the mode, which a long NUTS run judges; all scores do the same."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn, random

QUIET = {'progress': False}


class Net(nn.Module):
    def __init__(self, classes=False):
        super().__init__()
        random.seed(1)
        layers = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))
        self.layers = nn.with_prior(layers, {...: dist.Normal(0.0, 1.5)})
        self.classes = classes

    def __call__(self, x):
        f = self.layers(x)[..., 0]
        return dist.Bernoulli(logits=3 * f) if self.classes else dist.Normal(f, 0.2)


def data(num, classes, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2.0, num) * rng.choice([-1, 1], num)
    f = np.sin(2 * x)
    y = rng.random(num) < 1 / (1 + np.exp(-3 * f)) if classes else f + 0.2 * rng.normal(size=num)
    return x.astype('f4')[:, None], y.astype('i4' if classes else 'f4')


@pytest.fixture(scope='module', params=[False, True], ids=['numbers', 'classes'])
def posterior(request):
    return infer.Posterior(Net(request.param), *data(30, request.param, 0))


@pytest.fixture(scope='module')
def reference(posterior):
    """Weights of a network do not mix; the predictions of these chains do."""
    return infer.nuts(posterior, num_warmup=500, num_samples=500, num_chains=2, **QUIET)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('curvature', ['ggn', 'hessian'])
def test_the_default_is_the_one_near_nuts(posterior, reference, curvature):
    if curvature == 'hessian' and not posterior.model.classes:
        pytest.skip('the Hessian of this network is not positive definite at the mode')
    new, y = data(300, posterior.model.classes, 1)
    fit = infer.laplace(posterior, curvature=curvature, **QUIET)

    assert any(text.startswith('Not checked: k-hat') for text in fit.check().notes)  # of another posterior

    def moments(fit, **options):
        drawn = fit.predict(new, kind='mean', **options)
        return np.concatenate([drawn.mean(0), drawn.std(0)])

    def nll(fit, **options):
        return -fit.predict(new, y, kind='log_density', **options).mean()

    exact = moments(reference)
    far, near = (np.abs(moments(fit, linearized=x) - exact).mean() for x in (False, None))
    # Seen: 0.1 against 1.5 for numbers, 0.04 against 0.2 for classes; NUTS itself is off by 0.02.
    assert near < 0.5 * far
    best = nll(reference)
    assert abs(nll(fit) - best) < 0.06 < nll(fit, linearized=False) - best
    assert fit.linearized


@pytest.fixture(scope='module')
def network():
    return infer.laplace(infer.Posterior(Net(), *data(30, False, 0)), curvature='ggn', **QUIET)


@pytest.mark.slow
def test_all_that_judges_a_fit_does_the_same(network):
    new, y = data(80, False, 2)
    options = {'num_draws': 400}
    for linearized in (True, False):
        table = network.score(new, y, linearized=linearized, **options)
        nll = -network.predict(new, y, kind='log_density', linearized=linearized, **options).mean()
        assert table['value', 'nll'] == pytest.approx(nll, rel=1e-5)
    assert str(network.score(new, y)) == str(network.score(new, y, linearized=True))
    assert network.score(new, y)['value', 'rmse'] < network.score(new, y, linearized=False)['value', 'rmse']
    each = network.log_likelihood()
    np.testing.assert_array_equal(each, network.log_likelihood(linearized=True))
    np.testing.assert_allclose(
        np.log(np.exp(each.astype(float)).mean((0, 1))), network.predict(kind='log_density'), rtol=1e-4, atol=1e-4
    )
    group = network.to_arviz()['log_likelihood']
    np.testing.assert_array_equal(np.asarray(group['targets']), each)
    closed = network.predictive(new)  # of the linearized model, exactly
    assert -np.mean(closed.log_prob(y)) == pytest.approx(network.score(new, y)['value', 'nll'], abs=0.03)


def test_what_was_calibrated_is_what_predicts(network):
    x, y = data(60, False, 3)
    new = data(20, False, 4)[0]
    default, drawn = (infer.conformal(network, x, y, linearized=way) for way in (None, False))
    np.testing.assert_array_equal(default.predict(new).upper, default.predict(new, linearized=True).upper)
    np.testing.assert_allclose(
        drawn.predict(new).upper - drawn.quantile, network.predict(new, kind='interval', linearized=False).upper
    )
    with pytest.raises(ValueError, match='calibrated are predictions with linearized=False; with linearized=True'):
        drawn.predict(new, linearized=True)


def test_temperatures_too():
    fit = infer.laplace(infer.Posterior(Net(True), *data(30, True, 0)), curvature='ggn', **QUIET)
    x, y = data(60, True, 3)
    drawn = infer.temperature_scaling(fit, x, y, linearized=False)
    np.testing.assert_array_equal(drawn.predict(x), drawn.predict(x, linearized=False))
    with pytest.raises(ValueError, match='calibrated are predictions with linearized=False'):
        drawn.predict(x, linearized=True)
    assert infer.temperature_scaling(fit, x, y).temperature != drawn.temperature


class Curve(nn.Module):
    """Three numbers and no weights: what is not linear in them is kept."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))
        self.rate = nn.Param(1.0, t=nn.SoftplusT(), reg=dist.HalfNormal(1.0))

    def __call__(self, x):
        return dist.Normal(self.beta.value()[0] + self.beta.value()[1] * jnp.exp(-self.rate.value() * x[:, 0]), 0.3)


def test_draws_are_the_default_elsewhere():
    posterior = infer.Posterior(Curve(), *data(30, False, 0))
    fit = infer.laplace(posterior, **QUIET)
    assert not fit.linearized and infer.laplace(posterior, curvature='ggn', **QUIET).linearized
    mean = fit.predict(kind='mean')
    np.testing.assert_array_equal(mean, fit.predict(kind='mean', linearized=False))
    assert np.abs(mean - fit.predict(kind='mean', linearized=True)).max() > 0.01
    own = infer.Posterior(
        Curve(), *data(30, False, 0), log_likelihood=lambda model, x, y: model(x).log_prob(y)
    )  # no distribution to linearize
    scored = infer.laplace(own, **QUIET)
    assert not scored.linearized and scored.score().rows == ('nll',)
    with pytest.raises(ValueError, match='linearized=True needs the distribution of the targets'):
        scored.score(linearized=True)
    with pytest.raises(TypeError, match="linearized must be True, False or None, got 'yes'"):
        fit.predict(linearized='yes')
