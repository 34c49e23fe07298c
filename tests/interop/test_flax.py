"""Flax NNX modules as models."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import environ, infer, interop, nn
from tests.interop.cases import GROUP, X, Y, glm_density, hierarchy_density, network_density, same_density

nnx = pytest.importorskip('flax.nnx')
pytestmark = pytest.mark.usefixtures('x64')


@pytest.fixture
def _single(x64):
    """Flax keeps running statistics in single precision, and JAX warns where it writes doubles into them."""
    with jax.enable_x64(False):
        yield


class Linear(nnx.Module):
    def __init__(self, seed=0):
        self.w = nnx.Param(jnp.asarray(np.random.default_rng(seed).normal(size=2)))
        self.b = nnx.Param(jnp.zeros(()))
        self.sigma = nnx.Param(jnp.ones(()))
        self.offset = jnp.zeros(2)

    def __call__(self, x):
        return (x - self.offset) @ self.w[...] + self.b[...]


class Hierarchy(nnx.Module):
    def __init__(self):
        self.mu, self.tau = nnx.Param(jnp.zeros(())), nnx.Param(jnp.ones(()))
        self.effect, self.slope = nnx.Param(jnp.zeros(4)), nnx.Param(jnp.zeros(()))


class Network(nnx.Module):
    def __init__(self, seed=0, width=3):
        rngs = nnx.Rngs(seed)
        kwargs = {'rngs': rngs, 'param_dtype': jnp.float64}
        self.layers = nnx.List([nnx.Linear(2, width, **kwargs), nnx.Linear(width, 1, **kwargs)])

    def __call__(self, x):
        return self.layers[1](jnp.tanh(self.layers[0](x)))[:, 0]


class Noisy(nnx.Module):
    def __init__(self, rate=0.5):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs, momentum=0.9)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.first(x))).sum(-1)


def likelihood(m, x):
    return dist.Normal(m(x), 0.5)


def test_regression_has_the_density_of_the_formula():
    priors = {'sigma': nn.ParamSpec(t=nn.SoftplusT(0.0)), ...: dist.Normal(0.0, 1.0)}
    posterior = infer.Posterior(
        interop.wrap(Linear(), priors), X, Y, likelihood=lambda m, x: dist.Normal(m(x), m.sigma[...])
    )
    same_density(posterior, ['b', 'sigma', 'w'], glm_density, positive=['sigma'])


def test_network_has_the_density_of_the_formula():
    model, report = interop.wrap(Network(), {nnx.Linear: dist.Normal(0.0, 1.0)}, return_report=True)
    names = ['layers.0.kernel', 'layers.0.bias', 'layers.1.kernel', 'layers.1.bias']
    assert sorted(report.attached) == sorted(names) and report.kept == []
    same_density(infer.Posterior(model, X, Y, likelihood=likelihood), names, network_density)


def test_hierarchy_has_the_density_of_the_formula():
    tau = nn.ParamSpec(t=nn.SoftplusT(0.0), reg=dist.HalfNormal(1.0))
    model = interop.wrap(Hierarchy(), {'tau': tau, 'mu': dist.Normal(), 'slope': dist.Normal()})

    def log_likelihood(m, x, group, y):
        effect = m.effect[...]
        prior = dist.Normal(m.mu[...], m.tau[...]).log_prob(effect).sum() / len(y)
        return dist.Normal(effect[group] + m.slope[...] * x[:, 0], 0.5).log_prob(y) + prior

    posterior = infer.Posterior(model, (X, GROUP), Y, log_likelihood=log_likelihood)
    same_density(posterior, ['mu', 'tau', 'effect', 'slope'], hierarchy_density, positive=['tau'])


def test_models_of_one_structure_share_programs():
    first, second, wider = (
        infer.Posterior(model, X, Y, likelihood=likelihood) for model in (Network(0), Network(1), Network(0, width=4))
    )
    assert first.density is second.density
    assert first.density is not wider.density


def test_estimate_is_written_back():
    model = Network()
    before = model.layers[0].kernel[...]
    fit = infer.map(infer.Posterior(model, X, Y, likelihood=likelihood), num_steps=20, optimizer='adam', progress=False)
    np.testing.assert_array_equal(model.layers[0].kernel[...], before)
    assert fit.assign_to(model) is model
    np.testing.assert_array_equal(model.layers[0].kernel[...], fit.estimate['layers.0.kernel'])
    np.testing.assert_allclose(fit.evaluate(lambda m, x: m(x), X)[0], model(X), rtol=1e-6)
    with pytest.raises(ValueError, match=r'they differ in layers\.0\.bias, layers\.0\.kernel'):
        fit.assign_to(Network(width=4))


@pytest.mark.usefixtures('_single')
def test_running_statistics_and_dropout_follow_the_setting_fit():
    model = Noisy()
    with environ.context(fit=True):
        posterior = infer.Posterior(model, X, Y, likelihood=likelihood)
        fit = infer.map(posterior, num_steps=200, optimizer='adam', progress=False)
    assert infer.Posterior(Noisy(0.1), X, Y, likelihood=likelihood).density is not posterior.density
    key = model.dropout.rngs.key[...]
    fit.assign_to(model)
    np.testing.assert_array_equal(model.norm.mean[...], fit.running_statistics['norm.mean'])
    np.testing.assert_allclose(model.norm.mean[...], model.first(X).mean(0), atol=0.1)
    assert jax.random.key_data(key).tolist() == jax.random.key_data(model.dropout.rngs.key[...]).tolist()
    drawn = infer.mc_dropout(posterior, init=fit, num_draws=8, seed=0)
    assert np.std(drawn.evaluate(lambda m, x: m(x), X), axis=0).min() > 0
    model.eval()
    np.testing.assert_allclose(fit.evaluate(lambda m, x: m(x), X)[0], model(X), rtol=1e-5)
