"""Sequential Monte Carlo against closed forms: posterior, evidence, and the weights of two modes far apart."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.mcmc.smc import _prior_particles, _systematic
from tests.support.rich_model import compilations

COUNTS = {'calls': 0}
SETTINGS = {'num_particles': 512, 'num_moves': 2, 'max_tree_depth': 3, 'progress': False}


class Line(nn.Module):
    """Linear in two parameters, one with a unit: posterior and evidence are Gaussian."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.0, reg=dist.Normal(0.0, 2.0))
        self.level = nn.Param(1.0 * u.mV, reg=nn.GaussianReg(1.0 * u.mV, 3.0 * u.mV))

    def __call__(self, x):
        COUNTS['calls'] += 1
        return dist.Normal(self.slope.value() * x + self.level.value() / u.mV, 0.5)


X = np.linspace(-1.0, 2.0, 6)


def line(seed=0):
    y = 1.5 * X - 1.0 + 0.5 * np.random.default_rng(seed).normal(size=6)
    return infer.Posterior(Line(), jnp.asarray(X), jnp.asarray(y)), y


def closed_form(y):
    design, prior, loc = np.stack([X, np.ones(6)], axis=1), np.diag([4.0, 9.0]), np.array([0.0, 1.0])
    cov = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / 0.25)
    mean = cov @ (np.linalg.solve(prior, loc) + design.T @ y / 0.25)
    marginal = design @ prior @ design.T + 0.25 * np.eye(6)
    r = y - design @ loc
    log_evidence = -0.5 * (r @ np.linalg.solve(marginal, r) + np.linalg.slogdet(2 * np.pi * marginal)[1])
    return mean, cov, log_evidence


def test_posterior_and_evidence_are_those_in_closed_form_and_a_second_fit_compiles_nothing():
    """Eight runs: the evidence is unbiased, and its error as told is about what the runs show."""
    posterior, y = line()
    fits = [infer.smc(posterior, **SETTINGS)]
    calls = COUNTS['calls']
    with compilations() as compiled:
        other = infer.smc(line(seed=9)[0], **SETTINGS | {'num_moves': 3, 'seed': 1, 'target_ess': 0.7})
    assert compiled == [] and COUNTS['calls'] == calls + 1  # the trace of the new posterior
    assert other.info['num_stages'] > fits[0].info['num_stages'] > 2
    fits += [infer.smc(posterior, **SETTINGS | {'seed': seed}) for seed in range(1, 8)]
    mean, cov, log_evidence = closed_form(y)
    found = np.array([fit.info['log_evidence'] for fit in fits])
    told = np.mean([fit.info['log_evidence_error'] for fit in fits])
    # The mean of eight lies within 5 standard errors but once in 10^6 runs.
    assert abs(found.mean() - log_evidence) < 5 * told / np.sqrt(8)
    # Eight runs show an error up to half again or half as large as it is, 19 times of 20; the seeds are fixed.
    assert 0.4 * told < found.std(ddof=1) < 1.5 * told < 0.3
    assert fits[0].draws['level'].unit == u.mV
    values = np.stack([[f.draws['slope'][0], u.get_magnitude(f.draws['level'][0])] for f in fits])
    values = values.transpose(1, 0, 2).reshape(2, -1)
    sd = np.sqrt(np.diag(cov))
    # 4096 particles, of which at least 1000 count: 5 standard errors.
    assert np.all(np.abs(values.mean(1) - mean) < 5 / np.sqrt(1000) * sd)
    assert np.all(np.abs(np.cov(values) - cov) < 5 * np.sqrt(2 / 1000) * np.outer(sd, sd))
    fit = fits[0]
    assert fit.thetas.shape == (1, 512, 2) and not fit.is_markov and fit.info['warnings'] == []
    assert np.all(np.diff(fit.history['temperature']) > 0) and fit.history['temperature'][-1] == 1
    assert np.all(fit.history['ess'][:-1] > 0.49 * 512) and fit.history['log_evidence'][-1] == found[0]
    np.testing.assert_allclose(fit.stats['lp'][0, 0], posterior.log_density(fit.thetas[0, 0]), rtol=1e-5)
    np.testing.assert_array_equal(infer.smc(posterior, **SETTINGS).thetas, fit.thetas)


class Ring(nn.Module):
    """Two modes, 40 standard deviations apart, whose weights are those that the prior gives them."""

    def __init__(self):
        super().__init__()
        self.x = nn.Param(0.5, reg=dist.Normal(0.7, 2.0))

    def __call__(self):
        return dist.Normal(jnp.abs(self.x.value()), 0.1)


@pytest.mark.slow
def test_both_of_two_modes_are_found_with_their_weights(x64):
    posterior = infer.Posterior(Ring(), targets=jnp.array([2.0]))
    fit = infer.smc(posterior, **SETTINGS | {'num_particles': 1024})
    assert fit.thetas.dtype == np.float64
    right = np.exp(-0.5 * ((2.0 - 0.7) / 2) ** 2)
    wrong = np.exp(-0.5 * ((-2.0 - 0.7) / 2) ** 2)
    weight = right / (right + wrong)
    share = float((fit.draws['x'] > 0).mean())
    # Of 1024 particles at least 250 are independent in this: 5 standard errors.
    assert abs(share - weight) < 5 * np.sqrt(weight * (1 - weight) / 250)
    assert abs(np.abs(fit.draws['x']).std() - 0.1) < 0.02
    with pytest.warns(infer.ConvergenceWarning):
        chain = infer.nuts(posterior, num_warmup=200, num_samples=100, num_chains=2, progress=False)
    assert set((chain.draws['x'] > 0).mean(axis=1)) <= {0.0, 1.0}  # a chain sees one mode


class Hierarchy(nn.Module):
    """Everything that has coordinates of its own: a fitted scale (non-centred), a horseshoe, a simplex, a bound."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.LogNormal(0.0, 0.5))
        self.effect = nn.Param(jnp.zeros(2), reg=nn.GaussianReg(1.0, self.scale))
        self.sparse = nn.Param(jnp.zeros(2), reg=nn.HorseshoeReg())
        self.share = nn.Param(jnp.full(3, 1 / 3), t=nn.SimplexT(), reg=dist.Dirichlet(jnp.ones(3)))

    def __call__(self):
        return dist.Normal(self.effect.value()[:1] + 0 * self.sparse.value()[:1] + 0 * self.share.value()[:1], 1e3)


def test_particles_begin_as_draws_of_the_prior_in_their_own_coordinates():
    posterior = infer.Posterior(Hierarchy(), targets=jnp.zeros(1))
    target = posterior.sampling_target(True)
    thetas = _prior_particles(target, 512, jax.random.key(0))
    draws = infer.Fit(target, thetas[None], method='prior').draws
    assert target.density.noncentered == ('effect',)
    # 512 draws: the share below a quantile within 5 * 0.5 / sqrt(512) = 0.11 of its probability.
    for name, column, prior in (
        ('scale', np.s_[...], lambda key: dist.LogNormal(0.0, 0.5).sample(key, (20000,))),
        ('share', np.s_[..., 0], lambda key: dist.Beta(1.0, 2.0).sample(key, (20000,))),
        ('sparse', np.s_[..., 0], _horseshoe),
        ('effect', np.s_[..., 0], _effect),
    ):
        found, expected = np.asarray(draws[name])[column], prior(jax.random.key(1))
        for p in (0.1, 0.5, 0.9):
            assert abs((found < np.quantile(expected, p)).mean() - p) < 0.11, name


def _horseshoe(key):
    one, two = jax.random.split(key)
    return jax.random.normal(one, (20000,)) * dist.HalfCauchy(1.0).sample(two, (20000,))


def _effect(key):
    one, two = jax.random.split(key)
    return 1.0 + jax.random.normal(one, (20000,)) * dist.LogNormal(0.0, 0.5).sample(two, (20000,))


def test_where_most_of_the_prior_has_no_likelihood_the_rest_goes_on():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))

    def above(level):
        return infer.Posterior(Mean(), log_likelihood=lambda m: jnp.where(m.mu.value() > level, 0.0, -jnp.inf))

    fit = infer.smc(above(1.0), **SETTINGS)
    assert fit.draws['mu'].min() > 1.0
    # P(mu > 1) = 0.1587: the share of 512 has a standard error of 0.016, 10 % of it.
    assert abs(fit.info['log_evidence'] - np.log(0.158655)) < 5 * 0.102
    with pytest.raises(ValueError, match='zero or not finite at all of 512'):
        infer.smc(above(50.0), **SETTINGS)


def test_particles_go_on_as_often_as_their_weights_say():
    weights = jnp.array([0.0, 0.5, 0.25, 0.0, 0.25, 0.0, 0.0, 0.0])
    for seed in range(5):
        chosen = np.asarray(_systematic(jax.random.key(seed), weights))
        assert np.bincount(chosen, minlength=8).tolist() == [0, 4, 2, 0, 2, 0, 0, 0]


class One(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.x = nn.Param(0.5, **options)

    def __call__(self):
        return dist.Normal(self.x.value(), 1.0)


@pytest.mark.parametrize(
    'options, message',
    [
        ({}, "'x' has no prior"),
        ({'reg': nn.GaussianReg(0.0, 1.0, weight=2.0)}, "'x'.*weight"),
        ({'t': nn.ClipT(0.0, 1.0)}, "'x'.*not a bijection"),
    ],
)
def test_what_has_no_proper_prior_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        infer.smc(infer.Posterior(One(**options), targets=jnp.zeros(1)), progress=False)


@pytest.mark.parametrize(
    'wrong, error',
    [
        ({'num_particles': 1}, ValueError),
        ({'num_moves': 0}, ValueError),
        ({'target_ess': 1.0}, ValueError),
        ({'max_tree_depth': 2.0}, ValueError),
    ],
)
def test_bad_arguments(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        infer.smc(line()[0], **wrong)
