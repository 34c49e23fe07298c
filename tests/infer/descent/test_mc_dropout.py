"""MC dropout: masks by their probabilities, one set a draw for all that follows from it, training in closed form."""

import itertools

import brainunit as u
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

from brainstate_prob import environ, infer, nn
from tests.support.rich_model import compilations

KEEP = 0.75


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.array([1.0, 2.0, 4.0]))
        self.drop = nn.Dropout(KEEP)

    def __call__(self, x):
        return dist.Normal(self.drop(x) @ self.w.value(), 0.5)


X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * np.array([1.0, 0.5, 2.0], np.float32)
Y = (X @ np.array([1.0, 2.0, 4.0]) + 0.5 * np.random.default_rng(1).normal(size=50)).astype(np.float32)


def untrained(num_draws, **kwargs):
    posterior = infer.Posterior(Dropped(), X, Y)
    here = infer.Fit(posterior.target, posterior.theta[None, None], method='by hand')
    return infer.mc_dropout(posterior, init=here, num_draws=num_draws, progress=False, **kwargs)


def test_predictions_have_the_masks_probabilities():
    fit = untrained(2000)
    found = fit.predict(np.ones((2, 3), np.float32), kind='mean') * KEEP
    kept = np.round(found).astype(int)
    np.testing.assert_allclose(found, kept, atol=1e-4)  # 1, 2 and 4 kept or not: all numbers from 0 to 7
    for row in range(2):
        counts = np.bincount(kept[:, row], minlength=8)
        bits = np.array([[i >> b & 1 for b in range(3)] for i in range(8)]).sum(1)
        expected = 2000 * KEEP**bits * (1 - KEEP) ** (3 - bits)
        assert stats.chisquare(counts, expected).pvalue > 1e-5  # false alarm: one in 100,000 for each row
    assert abs(np.corrcoef(kept.T)[0, 1]) < 5 / np.sqrt(2000)  # each row has masks of its own


def test_all_that_follows_from_a_draw_has_its_masks():
    fit = untrained(20)
    means = fit.predict(kind='mean')
    np.testing.assert_array_equal(fit.predict(kind='mean', seed=7), means)  # the masks belong to the draw
    np.testing.assert_allclose(fit.evaluate(lambda model, x: model(x).mean, X), means, rtol=1e-5)
    np.testing.assert_allclose(fit.log_likelihood()[0], stats.norm.logpdf(Y, means, 0.5), rtol=1e-4, atol=1e-4)
    with environ.context(fit=False):
        np.testing.assert_array_equal(fit.predict(kind='mean'), means)
    assert len(np.unique(means[:, 0])) > 4
    assert not np.array_equal(untrained(20, seed=1).predict(kind='mean'), means)
    drawn = fit.predict(num_draws=20, seed=3) - means
    assert abs(drawn.std() / 0.5 - 1) < 5 * np.sqrt(0.5 / 1000)  # the noise of the targets, beside that of the masks


def test_training_with_dropout_is_ridge_regression():
    """The mean loss over masks is that of least squares with penalty (1 - p) / p * diag(X'X) (Wager et al. 2013)."""
    posterior = infer.Posterior(Dropped(), X, Y)
    optimizer = optax.adam(optax.exponential_decay(0.1, 500, 0.2))
    fit = infer.mc_dropout(posterior, optimizer=optimizer, num_steps=3000, num_draws=5, progress=False)
    exact = X.astype(float)
    gram = exact.T @ exact
    want = np.linalg.solve(gram + (1 - KEEP) / KEEP * np.diag(np.diag(gram)), exact.T @ Y)
    np.testing.assert_allclose(fit.estimate['w'], want, atol=0.08)
    assert np.abs(want - [1, 2, 4]).max() > 0.5  # where without dropout it would be
    assert fit.info['trained_by'] == 'map' and fit.history['loss'].shape == (3000,)


def test_members_of_an_ensemble_share_the_draws():
    posterior = infer.Posterior(Dropped(), X, Y)
    trained = infer.Fit(posterior.target, np.eye(3, dtype=np.float32)[None], method='by hand')
    fit = infer.mc_dropout(posterior, init=trained, num_draws=9, progress=False)
    np.testing.assert_array_equal(fit.draws['w'][0], np.repeat(trained.draws['w'][0], 3, axis=0))
    assert len(np.unique(fit.predict(kind='mean')[:, 0])) > 3


def test_a_second_fit_compiles_nothing():
    def run(x, y, seed, steps, num_draws):
        posterior = infer.Posterior(Dropped(), x, y)
        fit = infer.mc_dropout(posterior, num_draws=num_draws, num_steps=steps, seed=seed, progress=False)
        assert fit.predict(X[:4]).shape == (num_draws, 4)

    run(X, Y, 0, 20, 8)
    with compilations() as events:
        run(X + 1.0, Y - 1.0, 1, 30, 300)
    assert not events


def test_it_is_saved_with_its_masks(tmp_path):
    fit = untrained(6)
    fit.save(tmp_path / 'fit.nc')
    again = infer.load(tmp_path / 'fit.nc', infer.Posterior(Dropped(), X, Y))
    np.testing.assert_array_equal(again.predict(kind='mean'), fit.predict(kind='mean'))
    np.testing.assert_array_equal(again.thetas, fit.thetas)
    model = Dropped()
    again.assign_to(model)
    np.testing.assert_array_equal(model.w.value(), fit.draws['w'][0, 0])
    data = again.to_arviz()
    assert data['log_likelihood'].sizes['draw'] == 6


def test_units_are_taken_along():
    class Wait(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(20.0 * u.ms, t=nn.SoftplusT(0.0 * u.ms))
            self.drop = nn.Dropout(0.5)

        def __call__(self, x):
            rate = 1.0 / (0.1 + self.drop(x) * (self.tau.value() / u.ms))
            return infer.with_unit(dist.Exponential(rate), u.ms)

    posterior = infer.Posterior(Wait(), jnp.ones(3), jnp.array([10.0, 20.0, 30.0]) * u.ms)
    fit = infer.mc_dropout(posterior, num_draws=4, num_steps=5, progress=False)
    assert fit.draws['tau'].unit == u.ms and fit.predict().unit == u.ms
    means = np.unique(np.round(np.asarray(fit.predict(kind='mean').mantissa), 1))
    assert len(means) == 2 and means[0] == pytest.approx(0.1, abs=0.05)  # dropped and kept


class Normed(Dropped):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm0d((3,))

    def __call__(self, x):
        return super().__call__(self.norm(x))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(3))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 0.5)


def test_running_statistics_are_those_that_were_trained(tmp_path):
    """Each mask keeps or drops inputs that are normalized by the running mean and variance, whatever rows are asked."""
    posterior = infer.Posterior(Normed(), X + 3.0, Y)
    optimizer = optax.adam(0.1)
    with environ.context(fit=True):
        trained = infer.map(posterior, optimizer=optimizer, num_steps=300, progress=False)
    own = infer.mc_dropout(posterior, optimizer=optimizer, num_steps=300, num_draws=20, progress=False)
    fit = infer.mc_dropout(posterior, init=trained, num_draws=20, progress=False)
    for found in (own, fit):
        np.testing.assert_array_equal(
            found.running_statistics['norm.running_mean'], trained.running_statistics['norm.running_mean']
        )
    statistics = {k.rpartition('.')[2]: np.asarray(v, float).ravel() for k, v in fit.running_statistics.items()}
    np.testing.assert_allclose(statistics['running_mean'], (1 - 0.99**300) * (X + 3.0).mean(0), rtol=1e-3)
    one = X[:1] + 3.0
    normal = (one - statistics['running_mean']) / np.sqrt(statistics['running_var'] + 1e-5)
    weight = np.asarray(fit.draws['w'][0, 0], float)
    scale, shift = (np.asarray(fit.estimate[f'norm.weight.{n}']).ravel() for n in ('scale', 'bias'))
    terms = (normal[0] * scale + shift) * weight / KEEP
    possible = [
        sum(t for t, kept in zip(terms, mask, strict=True) if kept) for mask in itertools.product((0, 1), repeat=3)
    ]
    means = fit.predict(one, kind='mean')[:, 0]
    assert all(np.abs(np.asarray(possible) - m).min() < 1e-3 for m in means) and len(np.unique(means)) > 2
    np.testing.assert_allclose(fit.predict(np.concatenate([one, one + 9]), kind='mean').shape, (20, 2))
    fit.save(tmp_path / 'fit.nc')
    again = infer.load(tmp_path / 'fit.nc', posterior)
    np.testing.assert_array_equal(again.predict(one, kind='mean')[:, 0], means)


@pytest.mark.parametrize(
    'model, kwargs, error, message',
    [
        (Plain, {}, ValueError, 'there is no dropout. Add nn.Dropout'),
        (Dropped, {'num_draws': 0}, ValueError, 'num_draws must be an int of at least 1'),
        (Dropped, {'init': 3}, ValueError, "init must be 'model', 'map', .* got 3"),
        (Dropped, {'optimizer': 'lbfgs'}, ValueError, 'which L-BFGS cannot follow'),
    ],
)
def test_what_is_refused(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        infer.mc_dropout(infer.Posterior(model(), X, Y), **{'num_steps': 3, 'progress': False} | kwargs)


def test_samplers_take_the_model_without_its_dropout():
    posterior = infer.Posterior(nn.with_prior(Dropped(), {...: dist.Normal(0.0, 10.0)}), X, Y)
    fit = infer.sgmcmc(posterior, num_warmup=5, num_samples=5, num_chains=2, progress=False)
    assert np.isfinite(fit.thetas).all()
    with environ.context(fit=True), pytest.raises(ValueError, match='draws random numbers'):
        infer.sgmcmc(posterior, progress=False)
