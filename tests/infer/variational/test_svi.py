"""SVI: guides by name and of one's own against a known posterior; minibatches; nothing compiled twice; refusals."""

import functools
import subprocess
import sys

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import autoguide

from brainstate_prob import infer, nn
from tests.conftest import REPO
from tests.support.rich_model import compilations
from tests.support.slow_rows import slow_rows

# Guides of tests are far from the posterior on purpose; `test_guides` is about what k-hat says.
pytestmark = pytest.mark.filterwarnings('ignore:k-hat')

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
X[:, 1] += 0.8 * X[:, 0]
Y = X @ np.array([1.0, -2.0, 0.5], np.float32) + np.random.default_rng(1).normal(size=60).astype(np.float32)


class Line(nn.Module):
    """Normal prior and noise of sd 1: the posterior is known."""

    def __init__(self, size=3):
        super().__init__()
        self.w = nn.Param(jnp.zeros(size), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


PRECISION = X.T @ X + np.eye(3)
MEAN, COVARIANCE = np.linalg.solve(PRECISION, X.T @ Y), np.linalg.inv(PRECISION)
# The evidence: what the ELBO of an exact guide is.
EVIDENCE = float(dist.MultivariateNormal(np.zeros(60), X @ X.T + np.eye(60)).log_prob(Y))


def posterior():
    return infer.Posterior(Line(), X, Y)


def fit_svi(guide='diagonal', **settings):
    settings = {'num_steps': 3000, 'num_draws': 4000, 'progress': False} | settings
    return infer.svi(posterior(), guide=guide, **settings)


# Guides


def own_guide(model):
    """A guide function: full-rank by hand."""

    def guide(data):
        loc = numpyro.param('loc', jnp.zeros(3))
        tril = numpyro.param('tril', 0.1 * jnp.eye(3), constraint=dist.constraints.lower_cholesky)
        numpyro.sample('theta', dist.MultivariateNormal(loc, scale_tril=tril))

    return guide


LOW_RANK = functools.partial(autoguide.AutoLowRankMultivariateNormal, rank=3)
EXACT = ['full', 'laplace', 'iaf', 'bnaf', autoguide.AutoMultivariateNormal, own_guide, LOW_RANK]


@pytest.mark.parametrize(
    'guide',
    slow_rows(EXACT, ['iaf', 'bnaf', LOW_RANK]),
    ids=lambda g: g if isinstance(g, str) else getattr(g, '__name__', 'partial'),
)
def test_guides_that_can_be_exact_are(guide):
    fit = fit_svi(guide)
    w = fit.draws['w'][0]
    # 4000 draws: five standard errors are 0.08 sd for the mean, 5.6 % for the sd; the rest is for the optimizer.
    assert (np.abs(w.mean(axis=0) - MEAN) / np.sqrt(np.diag(COVARIANCE)) < 0.15).all()
    np.testing.assert_allclose(w.std(axis=0), np.sqrt(np.diag(COVARIANCE)), rtol=0.12)
    np.testing.assert_allclose(
        np.corrcoef(w.T)[0, 1], COVARIANCE[0, 1] / np.sqrt(COVARIANCE[0, 0] * COVARIANCE[1, 1]), atol=0.1
    )
    assert fit.stats['lp'].shape == fit.stats['log_q'].shape == (1, 4000)
    # Of an exact guide lp - log_q is the log evidence at every draw.
    ratio = fit.stats['lp'] - fit.stats['log_q']
    assert abs(ratio.mean() - EVIDENCE) < 0.1 and ratio.std() < 0.3


@pytest.mark.parametrize('guide', ['diagonal'])
def test_mean_field_has_the_diagonal_of_the_precision(guide):
    fit = fit_svi(guide)
    w = fit.draws['w'][0]
    np.testing.assert_allclose(w.std(axis=0), 1 / np.sqrt(np.diag(PRECISION)), rtol=0.08)
    gap = 0.5 * (
        np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1]
    )  # KL of the best independent normal
    assert fit.info['elbo'] == pytest.approx(EVIDENCE - gap, abs=0.3)


@pytest.mark.slow
def test_low_rank_and_dais_are_between():
    for guide in ('low_rank', 'dais'):
        fit = fit_svi(guide)
        assert (np.abs(fit.draws['w'].mean(axis=(0, 1)) - MEAN) / np.sqrt(np.diag(COVARIANCE)) < 0.2).all()
        assert EVIDENCE - 0.6 < fit.info['elbo'] < EVIDENCE + 0.2


def test_delta_is_the_mode_and_one_point():
    fit = fit_svi('delta')
    assert fit.thetas.shape == (1, 1, 3) and fit.stats == {}
    np.testing.assert_allclose(fit.thetas[0, 0], MEAN, atol=1e-3)


def test_the_guide_begins_at_the_models_parameters():
    model = Line()
    model.w.set_value(jnp.array([10.0, -20.0, 30.0]))
    away = infer.Posterior(model, X, Y)
    for guide in ('iaf', 'delta', autoguide.AutoNormal):
        with pytest.warns(infer.ConvergenceWarning, match="disagree about 'w'"):
            fit = infer.svi(away, guide=guide, num_steps=1, optimizer=optax.sgd(0.0), progress=False)
        # sd 0.1 and a flow of random weights before it: within 2 of the start.
        np.testing.assert_allclose(fit.thetas.mean(axis=(0, 1)), [10.0, -20.0, 30.0], atol=0.2)
        assert fit.thetas.std(axis=1).max() < 0.3


def test_init_and_init_scale():
    fit = fit_svi('diagonal', init='map', init_scale=0.01, num_steps=1, optimizer=optax.sgd(0.0))
    np.testing.assert_allclose(fit.draws['w'][0].mean(axis=0), MEAN, atol=2e-3)
    np.testing.assert_allclose(fit.draws['w'][0].std(axis=0), 0.01, rtol=0.1)


# Reproducible


def test_seeds_and_numbers_of_draws():
    settings = {'num_steps': 300}
    one, same, other = (
        fit_svi(seed=1, **settings),
        fit_svi(seed=jax.random.key(1), **settings),
        fit_svi(seed=2, **settings),
    )
    np.testing.assert_array_equal(one.thetas, same.thetas)
    np.testing.assert_array_equal(one.history['elbo'], same.history['elbo'])
    assert not np.array_equal(one.thetas, other.thetas)
    fewer = fit_svi(seed=1, num_draws=1500, **settings)
    np.testing.assert_array_equal(fewer.thetas, one.thetas[:, :1500])
    assert one.history['elbo'].shape == (300,)
    assert set(one.guide_params) == {'theta_auto_loc', 'theta_auto_scale'}


def test_double_precision(x64):
    fit = infer.svi(infer.Posterior(Line(), X.astype(float), Y.astype(float)), guide='full', progress=False)
    assert fit.thetas.dtype == fit.history['elbo'].dtype == np.float64
    assert (np.abs(fit.draws['w'][0].mean(axis=0) - MEAN) / np.sqrt(np.diag(COVARIANCE)) < 0.2).all()


@pytest.mark.filterwarnings('ignore:The parameters of the model are float32')
def test_float32_parameters_under_x64():
    single = posterior()
    with jax.enable_x64(True):
        fit = infer.svi(single, num_steps=5, progress=False)
    assert fit.thetas.dtype == np.float32 and np.isfinite(fit.history['elbo']).all()


def test_units_stay():
    class Decay(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(10.0 * u.ms, t=nn.SoftplusT(0.0 * u.ms), reg=dist.LogNormal(2.0, 0.5))

        def __call__(self, t):
            return dist.Normal(jnp.exp(u.get_magnitude(-t / self.tau.value())), 0.1)

    t = jnp.linspace(0.0, 0.04, 20) * u.second
    fit = infer.svi(infer.Posterior(Decay(), t, jnp.exp(-t / (15 * u.ms))), num_steps=2000, progress=False)
    assert fit.draws['tau'].unit == u.ms and abs(fit.estimate['tau'] - 15 * u.ms) < 2 * u.ms
    assert fit.info['k_hat'] < 0.7


def test_minibatches_fit_the_whole_posterior():
    """The N/B factor: without it the sd would be larger by sqrt(6)."""
    fit = fit_svi('full', batch_size=10, num_steps=6000, num_particles=4)
    w = fit.draws['w'][0]
    assert (np.abs(w.mean(axis=0) - MEAN) / np.sqrt(np.diag(COVARIANCE)) < 0.3).all()
    np.testing.assert_allclose(w.std(axis=0), np.sqrt(np.diag(COVARIANCE)), rtol=0.25)
    assert set(fit.stats) == {'log_q'}


def test_more_particles_make_the_elbo_steadier():
    noise = [fit_svi(num_particles=n).history['elbo'][-500:].std() for n in (1, 10)]
    assert noise[1] < 0.6 * noise[0]  # sqrt(10) times smaller


@pytest.mark.parametrize('settings', [{}, {'guide': 'full', 'batch_size': 5, 'optimizer': 'adam'}], ids=str)
def test_a_second_fit_traces_and_compiles_nothing(settings):
    traces = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

        def __call__(self, x):
            traces.append(x)
            return dist.Normal(x @ self.w.value(), 1.0)

    def run(seed, **lengths):
        x = jax.random.normal(jax.random.key(seed), (20, 2))
        own = {**settings, 'optimizer': optax.adam(1e-2)} if 'optimizer' in settings else settings  # written anew
        return infer.svi(infer.Posterior(Counted(), x, x[:, 0]), seed=seed, progress=False, **own, **lengths)

    with compilations() as first:
        run(0, num_steps=100)
    assert first and traces
    traces.clear()
    with compilations() as second:
        run(1, num_steps=730, num_draws=1700)
    assert len(traces) == 1  # that of the new posterior
    assert second == []


def test_numpyro_is_whole_after_a_lazy_import():
    """As ArviZ 1.x imports it: lazily, before anyone else."""
    code = """
import importlib.util, sys
spec = importlib.util.find_spec('numpyro')
spec.loader = importlib.util.LazyLoader(spec.loader)
sys.modules['numpyro'] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import numpyro.distributions
import brainstate_prob.infer
import numpyro
numpyro.factor('f', 0.0)
"""
    subprocess.run([sys.executable, '-c', code], check=True, cwd=REPO)


# Refusals

REFUSED = [
    ({'guide': 'gaussian'}, ValueError, r"one of \['diagonal', 'full'.*got 'gaussian'"),
    ({'guide': autoguide.AutoNormal(lambda: None)}, ValueError, r'lambda model: AutoNormal\(model'),
    ({'guide': 3}, ValueError, 'got int'),
    ({'guide': lambda model: None}, ValueError, 'returned NoneType'),
    ({'guide': 'dais', 'batch_size': 5}, ValueError, "'dais'.*Drop them"),
    ({'guide': 'laplace', 'init_scale': 0.1}, ValueError, "init_scale .* for 'laplace'"),
    ({'guide': autoguide.AutoNormal, 'init_scale': 0.1}, ValueError, 'write it into that'),
    ({'init_scale': -1.0}, ValueError, 'positive number'),
    ({'num_steps': 0}, ValueError, 'num_steps must be an int of at least 1, got 0'),
    ({'num_particles': 1.5}, ValueError, 'num_particles'),
    ({'num_draws': True}, ValueError, 'num_draws'),
    ({'batch_size': 61}, ValueError, 'from 1 to the number of observations 60'),
    ({'optimizer': 'adam'}, ValueError, r'optax.adam\(1e-2\)'),
    ({'init': 'mode'}, ValueError, r"\['model', 'map',.*got 'mode'"),
    (
        {'optimizer': optax.sgd(1e6), 'num_steps': 50},
        ValueError,
        r'The ELBO became .* at step \d.*smaller learning rate',
    ),
]


@pytest.mark.parametrize(('settings', 'error', 'message'), REFUSED, ids=range(len(REFUSED)))
def test_bad_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        fit_svi(**settings)


def test_a_guide_function_must_sample_theta():
    def wrong(model):
        return lambda data: numpyro.sample('w', dist.Normal(numpyro.param('loc', jnp.zeros(3)), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"'theta' of shape \(3,\).*it samples {'w': \(3,\)}"):
        fit_svi(wrong, num_steps=2)


@pytest.mark.parametrize('guide', ['iaf', 'bnaf'])
def test_flows_need_two_dimensions(guide):
    with pytest.raises(ValueError, match=f"'{guide}' is a flow.*guide='diagonal'"):
        infer.svi(infer.Posterior(Line(1), X[:, :1], Y), guide=guide, progress=False)


def test_what_cannot_be_moved_freely_is_refused_by_name():
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(0.5, t=nn.ReluT(0.0), reg=dist.Normal(0.0, 1.0))

        def __call__(self):
            return dist.Normal(self.w.value(), 1.0)

    with pytest.raises(ValueError, match=r"'w'.*SoftplusT"):
        infer.svi(infer.Posterior(Clipped(), targets=jnp.zeros(3)), progress=False)


def test_independent_draws_have_no_chain_diagnostics_in_the_summary():
    table = fit_svi(num_steps=200).summary()
    assert 'r_hat' not in table.to_dict()['w[0]']


def test_the_guides_parameters_are_in_the_file(tmp_path):
    for guide in ('iaf', 'full'):
        fit = fit_svi(guide, num_steps=5, num_draws=5)
        fit.save(tmp_path / 'fit.nc')
        for read in (infer.load(tmp_path / 'fit.nc'), infer.load(tmp_path / 'fit.nc', posterior())):
            jax.tree.map(np.testing.assert_array_equal, read.guide_params, fit.guide_params)
            assert jax.tree.structure(read.guide_params) == jax.tree.structure(fit.guide_params)
