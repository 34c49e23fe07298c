"""What is told of results that look well and are not: of members, modes, guides, joint laws and short chains."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

from brainstate_prob import environ, infer, nn
from brainstate_prob.infer.report import Finding, Report
from tests.support.slow_rows import slow_rows

RNG = np.random.default_rng(0)
Y = np.float32(5 + RNG.normal(size=50))
MODE = Y.sum() / (50 + 1 / 100)
QUIET = {'progress': False}


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 10.0))

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


class Groups(nn.Module):
    """One group of many observations, the others of one, and the spread between them."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(2.0))
        self.effect = nn.Param(jnp.zeros(8), reg=nn.GaussianReg(self.mu, self.tau))

    def __call__(self, group):
        return dist.Normal(self.effect.value()[group], 1.0)


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm0d(2)
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.bn(x) @ self.w.value(), 0.1)


class Rows(nn.Module):
    """Independent rows of correlated numbers, joined by ``to_event``."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.MultivariateNormal(x[:, None] * self.mu.value(), jnp.eye(3)).to_event(1)


MEAN = infer.Posterior(Mean(), targets=Y)


def test_members_that_did_not_converge_are_told():
    with pytest.warns(infer.ConvergenceWarning, match='Members .* stopped after 3 steps'):
        fit = infer.ensemble(MEAN, num_members=2, num_steps=3, **QUIET)
    assert 'Raise num_steps (now 3)' in fit.check().problems[0]
    assert abs(fit.estimate['mu'] - MODE) > 0.5 and not fit.check().ok
    assert sum('Members' in text for text in fit.check().problems) == 1


def test_members_that_converged_are_not_told():
    fit = infer.ensemble(MEAN, num_members=2, num_steps=6000, init='prior', **QUIET)
    np.testing.assert_allclose(fit.estimate['mu'], MODE, atol=0.01)
    assert fit.check().ok


@pytest.mark.parametrize('fit_of', [infer.ensemble, infer.map])
def test_an_interrupted_run_is_told(fit_of):
    fit = fit_of(MEAN, optimizer='adam', num_steps=5000, callbacks=lambda p: True, **QUIET)
    fit.info |= {'stopped': 'interrupted', 'num_steps': 2049200}
    problems = [text for text in fit.check().problems if 'steps' in text]
    assert problems == ['The run was interrupted after 2049200 steps. Run it again, to the end.']


def test_k_hat_of_a_normal_approximation():
    group = np.r_[np.zeros(200, int), np.arange(1, 6)]
    y = np.array([1, 2, -1, 0.5, 0, -2.0])[group] + np.random.default_rng(2).normal(size=205)
    fit = infer.laplace(infer.Posterior(Groups(), group, y.astype('f4')), **QUIET)
    assert infer.k_hat(fit) > 0.7
    assert [text for text in fit.check().problems if 'k-hat of the normal approximation' in text]
    exact = infer.laplace(MEAN, **QUIET)  # whose posterior is normal
    assert exact.check().ok and not exact.check().notes


def test_k_hat_of_a_guide_of_few_draws():
    with pytest.warns(infer.ConvergenceWarning, match='k-hat of the guide'):
        fit = infer.svi(MEAN, num_steps=5, num_draws=50, **QUIET)
    assert fit.num_draws == 50 and abs(fit.estimate['mu'] - MODE) > 1
    with pytest.warns(infer.ConvergenceWarning):
        assert np.array_equal(fit.thetas, infer.svi(MEAN, num_steps=5, num_draws=50, **QUIET).thetas)


@pytest.mark.parametrize('training', slow_rows([True, False], [False]))
def test_the_spread_of_a_network_with_running_statistics(training):
    x = RNG.normal(size=(60, 2)).astype('f4')
    posterior = infer.Posterior(Normalized(), x, x[:, 0])
    options = {'batch_size': 20, 'num_steps': 60, 'snapshot_every': 10, 'num_draws': 20, **QUIET}
    with environ.context(fit=training), pytest.warns(infer.ConvergenceWarning, match='times narrower than'):
        infer.swag(posterior, optimizer=optax.sgd(1e-9), **options)


class TestRowsThatAreJoined:
    x = np.linspace(-1, 1, 6).astype('f4')
    fit = infer.laplace(infer.Posterior(Rows(), x, x[:, None] * np.ones(3, 'f4')), **QUIET)

    def test_new_inputs_are_predicted(self):
        new = np.array([0.5, 2.0], 'f4')
        expected = new[:, None] * self.fit.draws['mu'][0][:, None]
        np.testing.assert_allclose(self.fit.predict(new, kind='mean'), expected, rtol=1e-5)

    def test_what_makes_them_observations(self):
        with pytest.raises(ValueError, match=r'Leave out \.to_event\(1\), so that they are 6 observations'):
            self.fit.loo()


def test_too_few_draws_are_not_ok():
    draws = stats.norm(MODE, 0.14).rvs((2, 10, 1), random_state=0)
    report = infer.Fit(MEAN.target, draws.astype('f4'), method='by hand').check()
    assert not report.ok and not report.problems and 'no problems found' not in repr(report)
    assert 'too little could be looked at' in repr(report) and '2 chains of 10 draws' in report.notes[0]
    assert 'too little' in report._repr_html_()
    assert not Report('x', (Finding('unseen', 'y'),)).ok and Report('x', (Finding('note', 'y'),)).ok


CHAINS = {
    'at different values': np.broadcast_to(np.arange(2.0)[:, None, None], (2, 200, 1)),
    'at one value': np.ones((2, 200, 1)),
}


@pytest.mark.parametrize('where', CHAINS)
def test_chains_that_stand_still(where):
    report = infer.Fit(MEAN.target, CHAINS[where].astype('f4'), method='by hand').check()
    assert any(f"The chains are stuck in 'mu', {where}" in text for text in report.problems)
    assert not any('R-hat' in text or '. .' in text for text in report.problems)


def test_the_base_of_priors_is_no_prior():
    for args in ((), (0.5,), (0.0, 0.5)):
        with pytest.raises(TypeError, match=r'nn\.DistributionReg is the base class.*dist\.Normal'):
            nn.DistributionReg(*args)
