"""ChEES, MEADS and MCLMC against a Gaussian posterior in closed form; nothing compiled twice; refusals."""

import sys

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.diagnostics.ess import effective_sizes
from tests.support.rich_model import compilations
from tests.support.slow_rows import slow_rows

pytestmark = [
    pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning'),
    # One parameter keeps its prior on purpose, as an exact marginal.
    pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ModelWarning'),
]
COUNTS = {'calls': 0}
SAMPLERS = {
    'chees': (infer.chees, {'num_warmup': 200, 'num_samples': 200, 'num_chains': 16}),
    'meads': (infer.meads, {'num_warmup': 500, 'num_samples': 1600, 'num_chains': 16}),
    'mclmc': (infer.mclmc, {'num_warmup': 1000, 'num_samples': 2000, 'num_chains': 8}),
}
X = np.linspace(-1.0, 2.0, 8)


class Line(nn.Module):
    """Slope and level are correlated; a third, positive, is independent of both and keeps its prior."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.0, reg=dist.Normal(0.0, 2.0))
        self.level = nn.Param(1.0 * u.mV, reg=nn.GaussianReg(1.0 * u.mV, 3.0 * u.mV))
        self.free = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.LogNormal(0.0, 0.3))

    def __call__(self, x):
        COUNTS['calls'] += 1
        return dist.Normal(self.slope.value() * x + self.level.value() / u.mV, 0.5)


def line(seed=0):
    y = 1.5 * X - 1.0 + 0.5 * np.random.default_rng(seed).normal(size=8)
    return infer.Posterior(Line(), jnp.asarray(X), jnp.asarray(y)), y


def closed_form(y):
    design, prior = np.stack([X, np.ones(8)], axis=1), np.diag([4.0, 9.0])
    cov = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / 0.25)
    return cov @ (np.linalg.solve(prior, [0.0, 1.0]) + design.T @ y / 0.25), cov


@pytest.mark.parametrize('name', SAMPLERS)
def test_the_posterior_is_that_in_closed_form_and_a_second_fit_compiles_nothing(name):
    sampler, settings = SAMPLERS[name]
    posterior, y = line()
    fit = sampler(posterior, **settings, progress=False)
    calls = COUNTS['calls']
    with compilations() as compiled:
        more = settings | {'num_samples': 50, 'thinning': 2}
        other = sampler(line(3)[0], **more, seed=1, progress=False)
    assert compiled == [] and COUNTS['calls'] == calls + 1  # the trace of the new posterior
    assert other.draws['slope'].shape == (settings['num_chains'], 25)
    assert fit.draws['level'].unit == u.mV and fit.is_markov and fit.method == name
    draws = fit.draws
    values = np.stack([draws['slope'], u.get_magnitude(draws['level']), np.log(draws['free'])]).reshape(3, -1)
    mean, cov = closed_form(y)
    mean, cov = np.append(mean, 0.0), np.block([[cov, np.zeros((2, 1))], [np.zeros((1, 2)), 0.09]])
    sd = np.sqrt(np.diag(cov))
    # At least 300 effective draws (tested): 5 standard errors, once in 10^6 runs. MCLMC's bias is far below that.
    assert effective_sizes(fit.thetas)['ess_bulk'].min() > 300
    assert np.all(np.abs(values.mean(1) - mean) < 5 / np.sqrt(300) * sd)
    assert np.all(np.abs(np.cov(values) - cov) < 5 * np.sqrt(2 / 300) * np.outer(sd, sd))
    np.testing.assert_allclose(fit.stats['lp'][0, 0], posterior.log_density(fit.thetas[0, 0]), rtol=1e-4)
    assert fit.stats['diverging'].dtype == bool and (fit.stats['n_steps'] >= 1).all()
    assert fit.info['step_size'] > 0 and fit.info['warmup_gradients'] > 0


def test_draws_are_those_of_the_seed_and_thinning_keeps_some_of_them():
    settings = SAMPLERS['chees'][1] | {'num_samples': 20, 'progress': False}
    posterior, _ = line()
    one = infer.chees(posterior, **settings, seed=jax.random.key(7))
    np.testing.assert_array_equal(infer.chees(posterior, **settings, seed=7).thetas, one.thetas)
    thin = infer.chees(posterior, **settings, seed=7, thinning=4)
    np.testing.assert_array_equal(thin.thetas, one.thetas[:, 3::4])
    np.testing.assert_array_equal(thin.stats['n_steps'], one.stats['n_steps'].reshape(16, 5, 4).sum(2))
    assert not np.array_equal(infer.chees(posterior, **settings, seed=8).thetas, one.thetas)


class One(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.x = nn.Param(0.5, reg=dist.Normal(0.0, 1.0), **options)

    def __call__(self):
        return dist.Normal(self.x.value(), 1.0)


@pytest.mark.parametrize('name', SAMPLERS)
def test_what_cannot_be_sampled_is_refused(name):
    clipped = infer.Posterior(One(t=nn.ClipT(0.0, 1.0)), targets=jnp.zeros(1))
    with pytest.raises(ValueError, match="'x'.*not a bijection"):
        SAMPLERS[name][0](clipped, progress=False)


@pytest.mark.parametrize(
    'name, wrong, error, message',
    [
        ('chees', {'num_chains': 1}, ValueError, 'num_chains at least 2'),
        ('chees', {'num_warmup': 0}, ValueError, 'num_warmup must be at least 1'),
        ('chees', {'target_accept': 1.0}, ValueError, 'target_accept'),
        ('chees', {'init': 'nowhere'}, ValueError, 'init'),
        ('meads', {'num_chains': 6}, ValueError, 'num_chains.*multiple of 4'),
        ('meads', {'thinning': 0}, ValueError, 'thinning'),
        ('mclmc', {'num_warmup': 10}, ValueError, 'num_warmup.*at least 100'),
        ('mclmc', {'energy_variance': 0.0}, ValueError, 'energy_variance'),
        ('mclmc', {'num_samples': 1.5}, ValueError, 'num_samples'),
    ],
)
def test_bad_arguments(name, wrong, error, message):
    with pytest.raises(error, match=message):
        SAMPLERS[name][0](line()[0], progress=False, **wrong)


def test_mclmc_needs_two_numbers():
    with pytest.raises(ValueError, match='at least two numbers'):
        infer.mclmc(infer.Posterior(One(), targets=jnp.zeros(1)), progress=False)


@pytest.mark.parametrize('name', SAMPLERS)
def test_without_blackjax_the_error_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, 'blackjax', None)
    with pytest.raises(ImportError, match=r'brainstate-prob\[samplers\]'):
        SAMPLERS[name][0](line()[0], progress=False)


@pytest.mark.parametrize('name', slow_rows(SAMPLERS, ['chees', 'mclmc']))
def test_chains_over_devices_are_those_of_one(name, x64):
    """In double precision, for so few steps that rounding, which sums over devices do otherwise, has not grown."""
    sampler, settings = SAMPLERS[name]
    few = settings | {'num_warmup': 100, 'num_samples': 8, 'thinning': 2, 'progress': False}
    posterior, _ = line()
    one, two = sampler(posterior, **few), sampler(posterior, **few, devices=2)
    assert two.info['chains_ran'] == 'vectorized on 2 devices' and one.info['chains_ran'] == 'vectorized'
    np.testing.assert_allclose(two.thetas, one.thetas, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match='12 chains.*evenly over 8 devices|there are 2'):
        sampler(posterior, **few | {'num_chains': 12}, devices=8)
    with pytest.raises(ValueError, match=r'spread over devices \(posterior.shard\)'):
        sampler(posterior.shard(2), **few, devices=2)


def test_the_devices_divide_the_chains():
    with pytest.raises(ValueError, match='9 chains of one program cannot be spread evenly over 2 devices'):
        infer.chees(line()[0], num_chains=9, devices=2, progress=False)
