"""Ensembles: members as fitted one by one, on one device or two, their starts, bootstrap samples, resuming."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import environ, infer, nn, random
from brainstate_prob.core import ParamState
from brainstate_prob.infer.run.starts import member_keys, member_starts
from tests.support.rich_model import compilations


class Net(nn.Module):
    """Weights that a layer would hold, without priors, and a noise with one."""

    def __init__(self, hidden=3):
        super().__init__()
        self.hidden = ParamState({'weight': random.normal(size=(1, hidden)), 'bias': jnp.zeros(hidden)})
        self.out = nn.Param(random.normal(size=hidden), reg=dist.Normal(0.0, 1.0))
        self.sigma = nn.Param(0.5, t=nn.SoftplusT(), reg=dist.LogNormal(-1.0, 0.5))

    def __call__(self, x):
        layer = self.hidden.value
        return dist.Normal(
            jnp.tanh(x[:, None] @ layer['weight'] + layer['bias']) @ self.out.value(), self.sigma.value()
        )


X = np.linspace(-2.0, 2.0, 24, dtype=np.float32)
Y = np.asarray(np.sin(2.0 * X) + 0.1 * np.random.default_rng(0).normal(size=24), np.float32)
KWARGS = {'num_members': 4, 'num_steps': 60, 'progress': False}


def posterior_of(x=X, y=Y):
    random.seed(0)
    return infer.Posterior(Net(), x, y)


@pytest.fixture(scope='module')
def vectorized():
    return infer.ensemble(posterior_of(), batch_size=8, **KWARGS)


def test_members_are_those_fitted_one_by_one(vectorized):
    posterior = posterior_of()
    keys = member_keys(posterior.density, jax.random.key(0), 4)
    starts = member_starts(posterior.target, 'prior', keys, jacobian=False)
    one_by_one = [
        infer.map(posterior, optimizer='adam', num_steps=60, batch_size=8, init=start, seed=key, progress=False)
        for start, key in zip(starts, keys, strict=True)
    ]
    sequential = infer.ensemble(posterior, batch_size=8, chain_method='sequential', **KWARGS)
    assert vectorized.thetas.shape == (1, 4, posterior.density.size) and not vectorized.is_markov
    for i, fit in enumerate(one_by_one):
        np.testing.assert_array_equal(sequential.thetas[0, i], fit.thetas[0, 0])
        np.testing.assert_array_equal(sequential.history[f'loss_{i}'], fit.history['loss'])
        np.testing.assert_allclose(vectorized.thetas[0, i], fit.thetas[0, 0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(vectorized.history[f'loss_{i}'], fit.history['loss'], rtol=1e-4)
    mean = np.mean([fit.history['loss'] for fit in one_by_one], axis=0)
    np.testing.assert_allclose(vectorized.history['loss'], mean, rtol=1e-4)
    assert vectorized.info['losses'] == [vectorized.history[f'loss_{i}'][-1] for i in range(4)]


def test_members_over_two_devices(vectorized):
    fit = infer.ensemble(posterior_of(), batch_size=8, devices=2, **KWARGS)
    assert fit.info['members_ran'] == 'on 2 devices' and vectorized.info['members_ran'] == 'vectorized'
    np.testing.assert_allclose(fit.thetas, vectorized.thetas, rtol=1e-3, atol=1e-4)


def test_a_member_is_the_same_whatever_their_number(vectorized):
    fit = infer.ensemble(posterior_of(), batch_size=8, **KWARGS | {'num_members': 2})
    np.testing.assert_allclose(fit.thetas, vectorized.thetas[:, :2], rtol=1e-3, atol=1e-4)
    assert not np.allclose(vectorized.thetas[0, 0], vectorized.thetas[0, 1])


def test_predictions_are_one_a_member(vectorized):
    means = vectorized.predict(np.zeros(5, np.float32), kind='mean')
    assert means.shape == (4, 5) and (means[:, 0] == means[:, 4]).all()
    assert len(np.unique(means[:, 0])) == 4
    assert vectorized.summary()['mean'].shape[0] == vectorized.density.size


# Starts


def test_members_start_at_prior_draws_and_shuffled_weights():
    posterior = posterior_of()
    keys = member_keys(posterior.density, jax.random.key(3), 100)
    starts = member_starts(posterior.target, 'prior', keys)
    values = jax.vmap(posterior.density.constrain)(starts)
    assert len(np.unique(starts, axis=0)) == 100
    own = np.sort(np.ravel(posterior.constrain()['hidden.weight']))
    np.testing.assert_allclose(np.sort(values['hidden.weight'].reshape(100, -1), axis=1), np.tile(own, (100, 1)))
    assert len(np.unique(np.asarray(values['hidden.weight']).reshape(100, -1), axis=0)) == 6  # all orders of three
    np.testing.assert_array_equal(values['hidden.bias'], 0.0)
    # 300 standard normals: means and variances within 5 standard errors, one run in a million
    assert abs(values['out'].mean()) < 5 / np.sqrt(300) and abs(values['out'].var() - 1) < 5 * np.sqrt(2 / 300)
    assert abs(np.log(values['sigma']).mean() + 1.0) < 5 * 0.5 / np.sqrt(100)


def test_members_may_be_built_anew():
    posterior = posterior_of()
    keys = member_keys(posterior.density, jax.random.key(0), 100)
    before = random.get_key()
    starts = member_starts(posterior.target, Net, keys)
    np.testing.assert_array_equal(random.get_key(), before)
    weights = jax.vmap(posterior.density.constrain)(starts)['hidden.weight']
    assert abs(weights.mean()) < 5 / np.sqrt(300) and abs(weights.var() - 1) < 5 * np.sqrt(2 / 300)
    with pytest.raises(ValueError, match=r"another model .*'out' has shape \(4,\)"):
        member_starts(posterior.target, lambda: Net(4), keys[:1])
    with pytest.raises(TypeError, match='it returned int'):
        member_starts(posterior.target, lambda: 3, keys[:1])


def test_draws_without_density_are_drawn_again():
    class Edge(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))

        def __call__(self):
            return dist.Normal(jnp.sqrt(self.a.value()), 1.0)

    posterior = infer.Posterior(Edge(), targets=jnp.ones(3))
    starts = member_starts(
        posterior.target, 'prior', member_keys(posterior.density, jax.random.key(0), 20), jacobian=False
    )
    assert (starts > 0).all()


# Bootstrap samples


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0)

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


@pytest.mark.parametrize('batch_size', [None, 20])
def test_bootstrap_members_are_means_of_samples_with_replacement(batch_size):
    y = np.random.default_rng(0).normal(size=40).astype(np.float32)
    fit = infer.ensemble(
        infer.Posterior(Mean(), targets=y),
        num_members=300,
        init='model',
        bootstrap=True,
        optimizer=optax.sgd(0.9 / 40 if batch_size is None else optax.exponential_decay(0.9 / 40, 20, 0.5)),
        num_steps=30 if batch_size is None else 200,
        batch_size=batch_size,
        progress=False,
    )
    means = np.asarray(fit.draws['mu'])[0]
    # A bootstrap mean has variance var(y) / N; of 300 of them the sd is known to 4 %: 5 of these, one run in 10^6
    assert abs(means.std() / (y.std() / np.sqrt(40)) - 1) < (0.21 if batch_size is None else 0.3)
    assert abs(means.mean() - y.mean()) < 5 * y.std() / np.sqrt(40 * 300)
    if batch_size is None:  # each is the mean of 40 of the values
        counts = np.round(40 * means, 3)
        assert len(np.unique(counts)) > 250


# How it runs


def test_early_stopping_keeps_the_best_point_of_each_member():
    x, y = X[::2] + 0.05, Y[::2]
    rule = infer.EarlyStopping(patience=2, held_out=(x, y), every=10)
    fit = infer.ensemble(posterior_of(), early_stopping=rule, batch_size=8, **KWARGS | {'num_steps': 400})
    for i in range(4):
        watched = fit.history[f'held_out_loss_{i}']
        own = infer.Posterior(Net(), x, y).log_likelihood(fit.thetas[0, i])
        assert float(-own.mean()) == pytest.approx(watched.min(), rel=1e-4)


# These steps are few on purpose, which is told.
@pytest.mark.filterwarnings('ignore:Members .* stopped after')
def test_a_second_ensemble_compiles_nothing():
    def fit(x, y, seed, steps):
        infer.ensemble(
            posterior_of(x, y), optimizer=optax.adam(1e-2), batch_size=8, seed=seed, **KWARGS | {'num_steps': steps}
        )

    fit(X, Y, 0, 20)
    with compilations() as events:
        fit(X + 1.0, Y - 1.0, 1, 250)
    assert not events


@pytest.mark.parametrize('method', ['vectorized', 'sequential'])
def test_an_ensemble_that_was_interrupted_goes_on_to_the_same_numbers(method, tmp_path):
    class Killed(BaseException):  # nothing is saved at it
        pass

    def kill(progress):
        if progress.step >= 30:
            raise Killed

    run = KWARGS | {'num_steps': 50, 'batch_size': 8, 'chain_method': method}
    whole, path = infer.ensemble(posterior_of(), **run), tmp_path / 'run.ckpt'
    with pytest.raises(Killed):
        infer.ensemble(posterior_of(), **run, checkpoint=path, checkpoint_every=10, callbacks=kill)
    resumed = infer.ensemble(posterior_of(), **run, checkpoint=path, checkpoint_every=10)
    np.testing.assert_array_equal(resumed.thetas, whole.thetas)
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    with pytest.raises(ValueError, match='the checkpoint of another run: .*seed'):
        infer.ensemble(posterior_of(), **run, checkpoint=path, seed=1)


class Wait(nn.Module):
    def __init__(self):
        super().__init__()
        self.spread = nn.Param(5.0 * u.ms, t=nn.ExpT(0.0 * u.ms), reg=dist.LogNormal(1.0, 0.5))
        self.mean = nn.Param(20.0 * u.ms * jnp.ones(3), reg=nn.GaussianReg(20.0 * u.ms, std=self.spread))

    def __call__(self):
        return infer.of_quantities(dist.Normal, self.mean.value(), 1.0 * u.ms)


def test_units_and_hierarchies_are_taken_along():
    posterior = infer.Posterior(Wait(), targets=jnp.array([10.0, 20.0, 30.0]) * u.ms)
    fit = infer.ensemble(posterior, num_members=2, num_steps=20, progress=False)
    assert fit.draws['spread'].unit == u.ms and fit.draws['mean'].shape == (1, 2, 3) and fit.predict().unit == u.ms
    assert fit.draws['spread'].mantissa[0, 0] != fit.draws['spread'].mantissa[0, 1]
    keys = member_keys(posterior.density, jax.random.key(0), 100)
    starts = jax.vmap(posterior.density.constrain)(member_starts(posterior.target, 'prior', keys))
    z = (starts['mean'] - 20.0) / starts['spread'][:, None]  # hyper-parameters are drawn first
    assert abs(z.mean()) < 5 / np.sqrt(300) and abs(z.var() - 1) < 5 * np.sqrt(2 / 300)


class Same(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(1))

    def __call__(self, x):
        return dist.Normal(x * self.w.value(), 1.0)


# These steps are few on purpose, which is told.
@pytest.mark.filterwarnings('ignore:Members .* stopped after')
def test_members_that_would_be_the_same_are_refused():
    posterior = infer.Posterior(Same(), X, Y)
    with pytest.raises(ValueError, match='so all would be equal'):
        infer.ensemble(posterior, **KWARGS)
    for way in ({'bootstrap': True}, {'batch_size': 8}, {'init': jnp.arange(4.0)[:, None]}):
        fit = infer.ensemble(posterior, **KWARGS | {'num_steps': 3}, **way)
        assert len(np.unique(fit.thetas)) == 4


REFUSED = [
    ({'num_members': 0}, ValueError, 'num_members must be an int of at least 1'),
    ({'devices': 4}, ValueError, 'devices=4, but there are 2'),
    ({'devices': 2, 'chain_method': 'sequential'}, ValueError, 'devices= spreads chains over devices'),
    ({'chain_method': 'quick'}, ValueError, 'chain_method must be one of'),
    ({'bootstrap': 1}, ValueError, 'bootstrap must be True or False'),
    ({'optimizer': 'lbfgs', 'batch_size': 8}, ValueError, 'L-BFGS needs the full data'),
    ({'bootstrap': True, 'batches': [(X, Y)], 'num_observations': 24}, ValueError, 'does not go with batches='),
    ({'optimizer': optax.sgd(1e3)}, ValueError, 'The loss of member . became'),
]


@pytest.mark.parametrize('kwargs, error, message', REFUSED)
def test_what_is_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        infer.ensemble(posterior_of(), **KWARGS | kwargs)


# These steps are few on purpose, which is told.
@pytest.mark.filterwarnings('ignore:Members .* stopped after')
def test_each_member_has_its_own_running_statistics():
    class Normed(Net):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm0d((1,))

        def __call__(self, x):
            return super().__call__(self.norm(x[:, None])[:, 0])

    with environ.context(fit=True):
        fit = infer.ensemble(infer.Posterior(Normed(), X, Y), **KWARGS)
    assert fit.has_own_statistics
    for i, mean in enumerate(fit.predict(kind='mean')):
        model = Normed()
        fit.assign_to(model, (0, i))
        with environ.context(fit=False):
            np.testing.assert_allclose(model(jnp.asarray(X)).mean, mean, rtol=1e-4, atol=1e-4)


def far(num_steps, **options):
    """Members that start a hundred standard deviations from the mode of a normal mean."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(100.0)

        def __call__(self):
            return dist.Normal(self.mu.value(), 1.0)

    posterior = infer.Posterior(Mean(), targets=jnp.zeros(4))
    options = {'init': 'model', 'bootstrap': True, 'num_members': 2, 'progress': False} | options
    return infer.ensemble(posterior, optimizer=optax.sgd(0.01), num_steps=num_steps, **options)


def test_members_that_are_still_on_their_way_are_told_at_the_end():
    with pytest.warns(infer.ConvergenceWarning, match=r'Members .0, 1. stopped after 20 steps .*loss still fell'):
        fit = far(20)
    assert any('still fell' in text for text in fit.check().problems)
    fit = far(600)  # a contraction by 0.96 a step
    np.testing.assert_allclose(fit.draws['mu'], 0.0, atol=1e-3)
    assert fit.info['warnings'] == []
