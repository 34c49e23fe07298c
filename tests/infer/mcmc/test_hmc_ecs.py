"""Energy-conserving subsampling against a conjugate posterior in closed form; its estimate against plain NumPy."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.mcmc.hmc_ecs import _estimate, _Reference, _reference
from tests.support.rich_model import compilations

COUNTS = {'calls': 0}
NUM = 2000
QUICK = {'batch_size': 50, 'num_warmup': 150, 'num_samples': 400, 'num_chains': 2, 'progress': False}


class Rate(nn.Module):
    """Counts over durations that differ: Gamma prior, Gamma posterior, and a likelihood not quadratic in theta."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Param(2.0 * u.Hz, t=nn.ExpT(0.0 * u.Hz), reg=nn.GammaReg(alpha=2.0, beta=1.0 / u.Hz))

    def __call__(self, duration):
        COUNTS['calls'] += 1
        return dist.Poisson(self.rate.value() / u.Hz * duration)


def counts(seed=0):
    rng = np.random.default_rng(seed)
    duration = rng.uniform(0.01, 0.6, NUM)
    y = rng.poisson(3.0 * duration)
    return infer.Posterior(Rate(), jnp.asarray(duration), jnp.asarray(y)), duration, y


def test_the_posterior_is_that_in_closed_form_and_a_second_fit_compiles_nothing():
    posterior, duration, y = counts()
    fit = infer.hmc_ecs(posterior, **QUICK | {'num_samples': 2000})
    calls = COUNTS['calls']
    with compilations() as compiled:
        other = infer.hmc_ecs(counts(5)[0], **QUICK | {'seed': 3, 'num_warmup': 40, 'num_samples': 60, 'thinning': 2})
    assert compiled == [] and COUNTS['calls'] == calls + 1  # the trace of the new posterior
    assert other.draws['rate'].shape == (2, 30)
    exact = dist.Gamma(2.0 + y.sum(), 1.0 + duration.sum())
    rate = u.get_magnitude(fit.draws['rate'].to(u.Hz))
    assert fit.draws['rate'].unit == u.Hz
    # At least 800 effective draws: 5 standard errors of mean and sd, once in 10^6 runs.
    sd = float(np.sqrt(exact.variance))
    assert abs(rate.mean() - float(exact.mean)) < 5 / np.sqrt(800) * sd
    assert abs(rate.std() / sd - 1) < 5 / np.sqrt(2 * 800)
    assert fit.info['variance'] < 0.1 and fit.info['exchange_rate'] > 0.5 and fit.info['warnings'] == []
    assert np.unique(fit.stats['variance']).size > 100  # other subsamples, other estimates


def test_the_estimate_is_that_of_the_paper(x64):
    """Theta is the log of the rate: l_i = y_i (theta + log d_i) - exp(theta) d_i - log y_i!, expanded by hand."""
    posterior, duration, y = counts()
    at = _reference(posterior.target, jnp.log(jnp.array([2.5])), jax.random.split(jax.random.key(0), 1))
    index = np.random.default_rng(1).integers(0, NUM, 50)
    theta, ref = np.log(3.3), np.log(2.5)
    found, variance = _estimate(posterior.density, jnp.array([theta]), jnp.asarray(index), posterior.data, at)
    log_factorial = np.array([np.sum(np.log(np.arange(1, n + 1))) for n in y])
    each = y * (theta + np.log(duration)) - np.exp(theta) * duration - log_factorial
    d = theta - ref
    expanded = y * (ref + np.log(duration)) - np.exp(ref) * duration - log_factorial
    expanded = expanded + (y - np.exp(ref) * duration) * d - np.exp(ref) * duration * d**2 / 2
    rest = (each - expanded)[index]
    expected_variance = NUM**2 / 50 * rest.var()
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-8)
    np.testing.assert_allclose(found, expanded.sum() + NUM * rest.mean() - expected_variance / 2, rtol=1e-8)
    assert expected_variance > 0.1


def test_many_observations_do_not_overflow():
    """Their number squared is no 32-bit int."""
    posterior = infer.Posterior(Rate(), jnp.full(100_000, 0.5), jnp.ones(100_000, int))
    nothing = jnp.zeros(1)
    at = _Reference(nothing, jnp.zeros(()), nothing, jnp.zeros((1, 1)), jnp.ones((1, 1)))
    total, variance = _estimate(posterior.density, jnp.array([0.3]), jnp.arange(10), posterior.data, at)
    assert np.isfinite(total) and variance == pytest.approx(0.0, abs=1e-3)  # all alike


def test_draws_are_those_of_the_seed_however_the_chains_run():
    posterior, _, _ = counts()
    quick = QUICK | {'num_warmup': 20, 'num_samples': 20, 'seed': 4}
    one = infer.hmc_ecs(posterior, **quick, chain_method='sequential')
    np.testing.assert_array_equal(infer.hmc_ecs(posterior, **quick, chain_method='parallel').thetas, one.thetas)
    thin = infer.hmc_ecs(posterior, **quick, chain_method='sequential', thinning=4)
    np.testing.assert_array_equal(thin.thetas, one.thetas[:, 3::4])


class Slopes(nn.Module):
    """Two numbers of very different scales; rows of several targets each."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 10.0))

    def __call__(self, x):
        mean = (x @ self.slope.value())[:, None] + jnp.array([0.0, 1.0])
        return dist.StudentT(5.0, mean, 0.3)


@pytest.mark.slow
def test_rows_of_several_targets_and_a_dense_mass_matrix():
    """Against the posterior on a grid, in plain NumPy."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 2)) * [1.0, 20.0] + [0.0, 15.0]
    y = (x @ [2.0, 0.1])[:, None] + [0.0, 1.0] + 0.3 * rng.standard_t(5, size=(500, 2))
    posterior = infer.Posterior(Slopes(), jnp.asarray(x), jnp.asarray(y))
    fit = infer.hmc_ecs(posterior, **QUICK | {'mass_matrix': 'full', 'num_samples': 800})
    root = np.linalg.cholesky(np.linalg.inv(x.T @ x) * 0.09)
    best = np.linalg.lstsq(x, (y - [0.0, 1.0]).mean(1), rcond=None)[0]
    points = best + np.stack(np.meshgrid(*[np.linspace(-6, 6, 41)] * 2), axis=-1).reshape(-1, 2) @ root.T
    rest = (y[None] - [0.0, 1.0] - (points @ x.T)[..., None]) / 0.3
    log_density = -3 * np.log1p(rest**2 / 5).sum(axis=(1, 2)) - (points**2).sum(axis=1) / 200
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    mean = weights @ points
    sd = np.sqrt(weights @ (points - mean) ** 2)
    # At least 400 effective draws: 5 standard errors.
    assert np.abs((fit.draws['slope'].mean(axis=(0, 1)) - mean) / sd).max() < 5 / np.sqrt(400)
    assert np.abs(fit.draws['slope'].std(axis=(0, 1)) / sd - 1).max() < 5 / np.sqrt(2 * 400)


def test_an_estimate_that_is_too_noisy_is_told():
    posterior, _, _ = counts()
    far = jnp.log(jnp.array([0.05]))  # the expansion is around a rate that is sixty times too low
    with pytest.warns(infer.ConvergenceWarning, match='variance .* Raise batch_size'):
        infer.hmc_ecs(posterior, **QUICK | {'num_samples': 50, 'init': far})


class Centred(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.x = nn.Param(0.5, reg=dist.Normal(0.0, 1.0), **options)

    def __call__(self, x):
        return dist.Normal(self.x.value() * (x - x.mean()), 1.0)


def test_what_cannot_be_subsampled_is_refused():
    x, y = jnp.linspace(0.0, 1.0, 200), jnp.linspace(0.0, 1.0, 200)
    with pytest.raises(ValueError, match='depends on which others'):
        infer.hmc_ecs(infer.Posterior(Centred(), x, y), **QUICK)
    with pytest.raises(ValueError, match='each of 200 observations.*Return one number'):
        summed = infer.Posterior(
            Centred(), x, y, log_likelihood=lambda m, x, y: -jnp.sum((y - m.x.value() * x) ** 2) / 1e6
        )
        infer.hmc_ecs(summed, **QUICK)
    with pytest.raises(ValueError, match="'x'.*not a bijection"):
        infer.hmc_ecs(infer.Posterior(Centred(t=nn.ClipT(0.0, 1.0)), x, y), **QUICK)


@pytest.mark.parametrize(
    'wrong, error',
    [
        ({'batch_size': 1}, ValueError),
        ({'batch_size': NUM}, ValueError),
        ({'batch_size': 10.0}, ValueError),
        ({'num_blocks': 51}, ValueError),
        ({'mass_matrix': 'low_rank'}, ValueError),
        ({'target_accept': 0}, ValueError),
        ({'num_chains': 0}, ValueError),
        ({'chain_method': 'sideways'}, ValueError),
    ],
)
def test_bad_arguments(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        infer.hmc_ecs(counts()[0], **QUICK | wrong)
