"""Equinox modules as models."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import environ, infer, interop, nn, random
from tests.interop.cases import GROUP, X, Y, glm_density, hierarchy_density, network_density, same_density
from tests.support.rich_model import compilations

eqx = pytest.importorskip('equinox')
pytestmark = pytest.mark.usefixtures('x64')


class Linear(eqx.Module):
    w: jax.Array
    b: jax.Array
    sigma: jax.Array

    def __call__(self, x):
        return x @ self.w + self.b


class Hierarchy(eqx.Module):
    mu: jax.Array
    tau: jax.Array
    effect: jax.Array
    slope: jax.Array


class Noisy(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key, mode='batch'):
        self.first = eqx.nn.Linear(2, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, axis_name='batch', mode=mode)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, state, key):
        h, state = self.norm(self.first(x), state)
        return jnp.sum(self.dropout(h, key=key)), state


def linear(seed=0):
    w = np.random.default_rng(seed).normal(size=2)
    return Linear(jnp.asarray(w), jnp.zeros(()), jnp.ones(()))


def network(seed=0, width=3):
    return eqx.nn.MLP(2, 1, width, 1, activation=jnp.tanh, key=jax.random.key(seed))


def linear_likelihood(m, x):
    return dist.Normal(m(x), m.sigma)


def network_likelihood(m, x):
    return dist.Normal(jax.vmap(m)(x)[:, 0], 0.5)


def noisy_likelihood(m, x):
    keys = jax.random.split(random.split_key(), len(x)) if environ.get('fit') else None
    axes = (0, None, None if keys is None else 0)
    call = jax.vmap(m.model, axis_name='batch', in_axes=axes, out_axes=(0, None))
    out, m.state = call(x, m.state, keys)
    return dist.Normal(out, 0.5)


def test_regression_has_the_density_of_the_formula():
    priors = {'sigma': nn.ParamSpec(t=nn.SoftplusT(0.0)), ...: dist.Normal(0.0, 1.0)}
    posterior = infer.Posterior(interop.wrap(linear(), priors), X, Y, likelihood=linear_likelihood)
    same_density(posterior, ['b', 'sigma', 'w'], glm_density, positive=['sigma'])


def test_network_has_the_density_of_the_formula():
    posterior = infer.Posterior(
        interop.wrap(network(), {eqx.nn.Linear: dist.Normal(0.0, 1.0)}), X, Y, likelihood=network_likelihood
    )
    names = ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    same_density(posterior, names, lambda w1, b1, w2, b2: network_density(w1.T, b1, w2.T, b2))


def test_hierarchy_has_the_density_of_the_formula():
    model = interop.wrap(
        Hierarchy(jnp.zeros(()), jnp.ones(()), jnp.zeros(4), jnp.zeros(())),
        {
            'tau': nn.ParamSpec(t=nn.SoftplusT(0.0), reg=dist.HalfNormal(1.0)),
            'mu': dist.Normal(),
            'slope': dist.Normal(),
        },
    )

    def log_likelihood(m, x, group, y):
        prior = dist.Normal(m.mu, m.tau).log_prob(m.effect).sum() / len(y)
        return dist.Normal(m.effect[group] + m.slope * x[:, 0], 0.5).log_prob(y) + prior

    posterior = infer.Posterior(model, (X, GROUP), Y, log_likelihood=log_likelihood)
    same_density(posterior, ['mu', 'tau', 'effect', 'slope'], hierarchy_density, positive=['tau'])


def test_second_fit_compiles_nothing_and_another_width_is_another_program():
    first, second, third = (
        infer.Posterior(model, X, Y, likelihood=network_likelihood)
        for model in (network(0), network(1), network(1, width=4))
    )
    assert first.density is second.density
    assert first.density is not third.density
    infer.map(first, num_steps=2, optimizer='adam', progress=False)
    with compilations() as events:
        infer.map(second, num_steps=2, optimizer='adam', progress=False)
    assert events == []


def test_estimate_comes_back_in_a_new_module():
    model = network()
    fit = infer.map(infer.Posterior(model, X, Y, likelihood=network_likelihood), optimizer='adam', progress=False)
    new = fit.assign_to(model)
    assert type(new) is type(model)
    np.testing.assert_array_equal(new.layers[0].weight, fit.estimate['layers.0.weight'])
    assert not np.allclose(new.layers[0].weight, model.layers[0].weight)
    means = fit.evaluate(lambda m, x: jax.vmap(m)(x), X)
    np.testing.assert_allclose(means[0], jax.vmap(new)(X), rtol=1e-6)


@pytest.mark.parametrize('mode', ['batch', 'ema'])
def test_running_statistics_and_dropout_follow_the_setting_fit(mode):
    pair = eqx.nn.make_with_state(Noisy)(jax.random.key(0), mode)
    with environ.context(fit=True):
        posterior = infer.Posterior(pair, X, Y, likelihood=noisy_likelihood)
        fit = infer.map(posterior, num_steps=300, optimizer='adam', progress=False)
    model, state = fit.assign_to(pair)
    _, mean, _ = jax.tree.leaves(state)
    held = jax.vmap(model.first)(X)
    np.testing.assert_allclose(mean, fit.running_statistics['state.1.0'])
    np.testing.assert_allclose(mean, held.mean(0), atol=0.2)
    assert np.shape(fit.predict(X, kind='mean')) == (1, 24)
    drawn = infer.mc_dropout(posterior, init=fit, num_draws=8, seed=0)

    def out(m, x):
        return noisy_likelihood(m, x).mean

    assert np.std(drawn.evaluate(out, X), axis=0).min() > 0
    plain = fit.evaluate(out, X)
    np.testing.assert_array_equal(plain, fit.evaluate(out, X))


def test_a_layer_that_is_no_model_of_the_pair_is_refused():
    fit = infer.map(
        infer.Posterior(network(), X, Y, likelihood=network_likelihood), num_steps=2, optimizer='adam', progress=False
    )
    with pytest.raises(TypeError, match='takes the Equinox module that was wrapped, got tuple'):
        fit.assign_to((lambda p: p, {'w': np.ones(2)}))
