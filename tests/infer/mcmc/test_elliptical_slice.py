"""Elliptical slice sampling against Gaussian posteriors in closed form; which priors it takes and refuses."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.diagnostics.ess import effective_sizes
from brainstate_prob.infer.mcmc.gaussian_prior import gaussian_prior
from tests.support.rich_model import compilations

# Most runs here are too short to converge; that the long one is quiet is asserted.
pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')

COUNTS = {'calls': 0}
X = np.linspace(0.0, 1.0, 4)
COV = np.exp(-0.5 * ((X[:, None] - X) / 0.4) ** 2) + 1e-4 * np.eye(4)


class Latent(nn.Module):
    """A Gaussian process of four points (dependent prior), an offset (elementwise prior), both linear in the data."""

    def __init__(self):
        super().__init__()
        self.f = nn.Param(jnp.ones(4), reg=dist.MultivariateNormal(jnp.full(4, 0.5), jnp.asarray(COV)))
        self.offset = nn.Param(10.0 * u.ms, reg=nn.GaussianReg(12.0 * u.ms, 2.0 * u.ms))

    def __call__(self, noise):
        COUNTS['calls'] += 1
        return dist.Normal(self.f.value() + self.offset.value() / u.ms, noise)


def latent(targets=(9.0, 10.0, 11.0, 10.5), noise=0.8):
    return infer.Posterior(Latent(), jnp.full(4, noise), jnp.array(targets))


def closed_form(targets, noise):
    """Mean and covariance of (f, offset)."""
    prior = np.zeros((5, 5))
    prior[:4, :4], prior[4, 4] = COV, 4.0
    loc = np.append(np.full(4, 0.5), 12.0)
    design = np.hstack([np.eye(4), np.ones((4, 1))])
    precision = np.linalg.inv(prior) + design.T @ design / noise**2
    cov = np.linalg.inv(precision)
    return cov @ (np.linalg.solve(prior, loc) + design.T @ np.asarray(targets) / noise**2), cov


def test_the_posterior_is_that_in_closed_form_and_a_second_fit_compiles_nothing():
    settings = {'num_warmup': 200, 'num_samples': 4000, 'num_chains': 4, 'progress': False}
    fit = infer.elliptical_slice(latent(), **settings)
    calls = COUNTS['calls']
    with compilations() as compiled:
        again = infer.elliptical_slice(
            latent((8.0, 9.0, 9.0, 9.5), 0.5), **settings | {'seed': 3, 'num_samples': 300, 'num_warmup': 70}
        )
    assert compiled == [] and COUNTS['calls'] == calls + 1  # the trace of the new posterior
    assert again.draws['f'].shape == (4, 300, 4)
    assert fit.draws['offset'].unit == u.ms
    values = np.concatenate([fit.draws['f'], u.get_magnitude(fit.draws['offset'])[..., None]], axis=-1).reshape(-1, 5)
    mean, cov = closed_form((9.0, 10.0, 11.0, 10.5), 0.8)
    sd = np.sqrt(np.diag(cov))
    # At least 800 effective draws each (tested): a mean is off by 5 / sqrt(800) sd once in 10^6 runs, a covariance by
    # 5 * sqrt(2 / 800) likewise; the seed is fixed.
    assert min(effective_sizes(fit.thetas)['ess_bulk']) > 800
    assert np.all(np.abs(values.mean(0) - mean) < 5 / np.sqrt(800) * sd)
    assert np.all(np.abs(np.cov(values.T) - cov) < 5 * np.sqrt(2 / 800) * np.outer(sd, sd))
    lp = [float(latent().log_density(theta)) for theta in fit.thetas[0, :3]]
    np.testing.assert_allclose(fit.stats['lp'][0, :3], lp, rtol=1e-5)
    assert (fit.stats['n_steps'] >= 1).all() and fit.is_markov and fit.info['warnings'] == []


def test_draws_are_those_of_the_seed_and_of_the_chain():
    few = {'num_warmup': 5, 'num_samples': 20, 'progress': False}
    one = infer.elliptical_slice(latent(), num_chains=2, seed=5, chain_method='sequential', **few)
    same = infer.elliptical_slice(latent(), num_chains=4, seed=jax.random.key(5), chain_method='parallel', **few)
    thin = infer.elliptical_slice(latent(), num_chains=2, seed=5, thinning=5, chain_method='sequential', **few)
    np.testing.assert_array_equal(one.thetas, same.thetas[:2])
    np.testing.assert_array_equal(one.thetas[:, 4::5], thin.thetas)
    np.testing.assert_array_equal(one.stats['n_steps'].reshape(2, 4, 5).sum(2), thin.stats['n_steps'])
    vector = infer.elliptical_slice(latent(), num_chains=2, seed=5, chain_method='vectorized', **few)
    np.testing.assert_allclose(vector.thetas, one.thetas, rtol=1e-3, atol=1e-3)
    assert not np.array_equal(one.thetas, infer.elliptical_slice(latent(), num_chains=2, seed=6, **few).thetas)


# Which priors are Gaussian in theta: t, prior -> mean and sd of theta
GAUSSIAN = {
    'normal': (None, dist.Normal(3.0, 2.0), 3.0, 2.0),
    'far from zero': (None, dist.Normal(1000.0, 0.5), 1000.0, 0.5),
    'penalty': (None, nn.L2Reg(weight=2.0), 0.0, 0.5),
    'weighted': (None, nn.GaussianReg(1.0, 2.0, weight=4.0), 1.0, 1.0),
    'lognormal': (nn.ExpT(0.0), dist.LogNormal(0.3, 0.7), 0.3, 0.7),
    'affine': (nn.AffineT(2.0, 1.0), dist.Normal(3.0, 2.0), 1.0, 1.0),
}
OTHERS = {
    'student': (None, dist.StudentT(100.0, 0.0, 1.0)),
    'laplace': (None, nn.L1Reg()),
    'logistic': (None, dist.Logistic(0.0, 1.0)),
    'flat': (nn.SigmoidT(0.0, 1.0), dist.Uniform(0.0, 1.0)),
    'softplus': (nn.SoftplusT(0.0), dist.LogNormal(0.3, 0.7)),
    'normal under exp': (nn.ExpT(0.0), dist.Normal(0.3, 0.7)),
    'horseshoe': (None, nn.HorseshoeReg()),
}


class One(nn.Module):
    def __init__(self, t, reg, num=3):
        super().__init__()
        self.good = nn.Param(0.5, reg=dist.Normal(0.0, 1.0))
        self.x = nn.Param(jnp.full(num, 0.5), t=t, reg=reg)

    def __call__(self):
        return dist.Normal(self.x.value() + self.good.value(), 1.0)


@pytest.mark.parametrize('name', GAUSSIAN)
def test_gaussian_priors_are_found_whatever_they_are_called(name):
    t, reg, mean, sd = GAUSSIAN[name]
    density = infer.Posterior(One(t, reg), targets=jnp.zeros(3)).density
    found, scales = gaussian_prior(density, infer.Posterior(One(t, reg), targets=jnp.zeros(3)).data.states)
    spread = np.concatenate(scales)
    where = columns_of(density)['x']
    np.testing.assert_allclose(found[where], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(spread[where], sd, rtol=1e-5)


@pytest.mark.parametrize('name', OTHERS)
def test_other_priors_are_refused_by_path(name):
    t, reg = OTHERS[name]
    posterior = infer.Posterior(One(t, reg), targets=jnp.zeros(3))
    with pytest.raises(ValueError, match="'x'.*not Gaussian.*infer.nuts"):
        infer.elliptical_slice(posterior, progress=False)


def test_fitted_hyperparameters_no_prior_and_no_bijection_are_refused():
    scale = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))
    with pytest.raises(ValueError, match="'x'.*depends on.*x.reg.std.*fit=False"):
        infer.elliptical_slice(infer.Posterior(One(None, nn.GaussianReg(0.0, scale)), targets=jnp.zeros(3)))
    with pytest.raises(ValueError, match="'x' has no prior"):
        infer.elliptical_slice(infer.Posterior(One(None, None), targets=jnp.zeros(3)))
    with pytest.raises(ValueError, match='not a bijection'):
        infer.elliptical_slice(infer.Posterior(One(nn.ClipT(0.0, 1.0), None), targets=jnp.zeros(3)))
    fixed = nn.Param(0.5, fit=False)
    density = infer.Posterior(One(None, nn.GaussianReg(0.0, fixed)), targets=jnp.zeros(3))
    assert 0.5 in np.concatenate(gaussian_prior(density.density, density.data.states)[1])


@pytest.mark.parametrize(
    'wrong, error',
    [
        ({'num_samples': 0}, ValueError),
        ({'num_chains': 1.5}, ValueError),
        ({'thinning': 2000}, ValueError),
        ({'init': 'nowhere'}, ValueError),
        ({'chain_method': 'sideways'}, ValueError),
    ],
)
def test_bad_arguments(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        infer.elliptical_slice(latent(), **wrong)


def test_a_likelihood_without_gradient_or_with_zero_probability_is_no_obstacle():
    """A step function: the posterior is the prior above 0.5, whose mean is that of a truncated normal."""

    def step(model):
        return jnp.where(model.mu.value() > 0.5, 0.0, -jnp.inf)

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))

    posterior = infer.Posterior(Mean(), log_likelihood=step)
    fit = infer.elliptical_slice(posterior, num_warmup=50, num_samples=2000, progress=False)
    assert fit.draws['mu'].min() > 0.5
    # Mean 1.141, sd 0.52; at least 1500 effective draws: 5 standard errors.
    assert abs(fit.draws['mu'].mean() - 1.1411) < 5 * 0.52 / np.sqrt(1500)
    never = infer.Posterior(Mean(), log_likelihood=lambda model: jnp.where(model.mu.value() > 50.0, 0.0, -jnp.inf))
    with pytest.raises(ValueError, match='4 of 4 chains found no finite likelihood'):
        infer.elliptical_slice(never, progress=False)


def test_double_precision(x64):
    fit = infer.elliptical_slice(latent(), num_warmup=10, num_samples=10, num_chains=1, progress=False)
    assert fit.thetas.dtype == np.float64 and fit.stats['lp'].dtype == np.float64
