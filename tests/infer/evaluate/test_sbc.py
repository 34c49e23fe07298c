"""Simulation-based calibration: right fits pass, wrong ones are caught, and the test has the level it says."""

import functools

import brainunit as u
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.evaluate.sbc import SBC
from brainstate_prob.infer.evaluate.uniformity import ecdf_band, uniformity_p_value
from tests.support.rich_model import compilations

# Uniformity


def test_the_test_of_uniformity_has_its_level_and_sees_what_is_not():
    rng = np.random.default_rng(1)
    found = np.array([uniformity_p_value(rng.integers(0, 50, size=80), 50) for _ in range(1000)])
    for level in (0.05, 0.2):  # four standard errors: a false alarm once in 16 000 seeds, and the seed is fixed
        assert abs(np.mean(found <= level) - level) < 4 * np.sqrt(level * (1 - level) / 1000) + 0.01  # ties
    shapes = {'low': stats.beta(1, 2), 'wide': stats.beta(3, 3), 'narrow': stats.beta(0.5, 0.5)}
    for law in shapes.values():
        assert uniformity_p_value((law.rvs(200, random_state=rng) * 50).astype(int), 50) < 1e-3


def test_the_band_holds_a_uniform_one_everywhere_as_often_as_it_says():
    points, lower, upper = ecdf_band(60, 40, prob=0.9)
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(2000):
        share = np.bincount(rng.integers(0, 40, size=60), minlength=40).cumsum()[:-1] / 60
        inside += ((lower - 1e-9 <= share) & (share <= upper + 1e-9)).all()
    assert 0.87 < inside / 2000 < 0.95  # discrete: a little above 0.9, four standard errors of 0.007
    assert points[0] == 1 / 40 and (lower <= points).all() and (points <= upper).all()


# Models and fits

nuts = functools.partial(infer.nuts, num_warmup=150, num_samples=250, num_chains=1, progress=False)
# Each test by the smallest p-value of a model's numbers: below 1e-3 once in 1000 seeds, and the seeds are fixed.
LEVEL = 1e-3


class Hierarchical(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0 * u.ms, reg=dist.Normal(0.0, 1.0))
        self.tau = nn.Param(1.0 * u.ms, t=nn.ExpT(0.0 * u.ms), reg=dist.HalfNormal(1.0))
        self.theta = nn.Param(jnp.zeros(4) * u.ms, reg=nn.GaussianReg(self.mu, self.tau), dims=('group',))

    def __call__(self):
        return infer.of_quantities(dist.Normal, self.theta.value(), 1.0 * u.ms)


class PoissonRegression(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 0.7))
        self.rate = nn.Param(3.0, t=nn.SoftplusT(), reg=dist.Gamma(3.0, 1.0))

    def __call__(self, x):
        return dist.Poisson(self.rate.value() * jnp.exp(x @ self.w.value()))


class SimplexMixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Param(jnp.ones(3) / 3, t=nn.SimplexT(), reg=dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
        self.place = nn.Const(jnp.array([-2.0, 0.0, 2.0]))

    def __call__(self):
        return dist.MixtureSameFamily(dist.Categorical(self.weights.value()), dist.Normal(self.place.value(), 0.7))


X = np.random.default_rng(0).normal(size=(10, 2)).astype('f4')
MODELS = {
    'hierarchical normal': lambda: infer.Posterior(Hierarchical(), targets=jnp.zeros(4) * u.ms),
    'Poisson regression': lambda: infer.Posterior(PoissonRegression(), X, jnp.zeros(10, int)),
    'simplex mixture': lambda: infer.Posterior(SimplexMixture(), targets=jnp.zeros(12)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_nuts_is_calibrated(name):
    result = infer.sbc(MODELS[name](), nuts, num_simulations=100, num_draws=49, progress=False)
    assert result.p_value > LEVEL, result.summary()
    assert result.num_simulations == 100 and 'ranks are uniform (p = ' in repr(result)


class ForgottenJacobian(nn.ExpT):
    """Wrong on purpose: the log-determinant of the identity."""

    def log_abs_det_jacobian(self, x, y):
        return jnp.zeros_like(x)


class Spread(nn.Module):
    def __init__(self, t):
        super().__init__()
        self.sd = nn.Param(1.0, t=t, reg=dist.LogNormal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(0.0, self.sd.value())


@pytest.mark.parametrize(
    't', [pytest.param(nn.ExpT(), id='right', marks=pytest.mark.slow), pytest.param(ForgottenJacobian(), id='wrong')]
)
def test_a_wrong_log_determinant_is_caught(t):
    posterior = infer.Posterior(Spread(t), targets=jnp.zeros(1))
    result = infer.sbc(posterior, nuts, num_simulations=80, num_draws=49, progress=False)
    if isinstance(t, ForgottenJacobian):
        assert result.p_value < LEVEL and 'not uniform, posteriors lie too low' in repr(result)
    else:
        assert result.p_value > LEVEL


class Conjugate(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


def exact(posterior, seed, shrink=1.0):
    """Draws of the known posterior, or of one that is too narrow."""
    y = np.asarray(posterior.data.targets)
    noise = np.random.default_rng(seed).normal(size=(1, 200, 2)) * shrink
    return infer.Fit(posterior.target, (y / 2 + noise * np.sqrt(0.5)).astype('f4'), method='exact')


@pytest.fixture(scope='module')
def conjugate():
    return infer.Posterior(Conjugate(), targets=jnp.zeros(2))


def test_any_way_to_fit_can_be_tested(conjugate):
    right = infer.sbc(conjugate, exact, num_simulations=200, progress=False)
    narrow = infer.sbc(
        conjugate, functools.partial(exact, shrink=0.5), num_simulations=200, num_draws=50, progress=False
    )
    assert right.p_value > LEVEL and right.ranks['mu'].shape == (200, 2) and right.ranks['mu'].max() <= 99
    assert list(right.p_values) == ['mu[0]', 'mu[1]', 'log_likelihood']
    assert narrow.p_value < LEVEL and 'too narrow' in repr(narrow)
    table = narrow.summary()
    assert table['spread', 'mu[0]'] > 1.1 and table['p_value', 'mu[0]'] == narrow.p_values['mu[0]']


def test_simulations_share_their_programs(conjugate):
    infer.sbc(conjugate, exact, num_simulations=2, progress=False)
    with compilations() as events:
        infer.sbc(conjugate, exact, num_simulations=2, seed=3, progress=False)
    assert not events


def test_the_plot_shows_ranks_and_band():
    import matplotlib.pyplot as plt

    ranks = np.random.default_rng(0).integers(0, 20, size=(100, 2))
    result = SBC({'a': ranks}, 19, {'a': ['a[0]', 'a[1]']})
    ax = result.plot_ecdf(['a[1]'])
    x, y = ax.lines[0].get_data()
    assert len(ax.lines) == 1 and len(ax.collections) == 1
    assert y[4] == pytest.approx(np.mean(ranks[:, 1] < 5) - x[4])
    with pytest.raises(KeyError, match=r"no ranks of \['b'\]; there are \['a\[0\]'"):
        result.plot_ecdf(['b'])
    plt.close('all')


def test_fits_that_warn_are_counted(conjugate):
    import warnings

    def warns(posterior, seed):
        warnings.warn('careful', stacklevel=1)
        return exact(posterior, seed)

    assert '3 fits warned' in repr(infer.sbc(conjugate, warns, num_simulations=3, progress=False))


class Flat(Conjugate):
    def __init__(self):
        super().__init__()
        self.flat = nn.Param(0.0)


@pytest.mark.parametrize(
    ('make', 'match'),
    [
        (lambda c: infer.sbc(infer.Posterior(Flat(), targets=jnp.zeros(2)), exact), "'flat' has no prior"),
        (lambda c: infer.sbc(c, exact, num_draws=500, num_simulations=1, progress=False), 'the fit has 200'),
        (lambda c: infer.sbc(c, exact, num_simulations=0), 'num_simulations .*at least 1, got 0'),
        (
            lambda c: infer.sbc(infer.Posterior(Conjugate(), log_likelihood=lambda m: m.mu.value().sum()), exact),
            'simulates targets from the likelihood',
        ),
    ],
)
def test_bad_input_says_what_is_wrong(conjugate, make, match):
    with pytest.raises(ValueError, match=match):
        make(conjugate)
