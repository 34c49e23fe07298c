"""Guides of every kind: NumPyro's all accounted for, by group, over sites; the stop by R-hat; k-hat against ArviZ."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.handlers import block
from numpyro.infer import autoguide

from brainstate_prob import infer, nn
from brainstate_prob.infer.diagnostics.psis import k_hat_limit, pareto_k
from brainstate_prob.infer.results.arviz_io import import_arviz, is_old
from brainstate_prob.infer.variational.guides import _ALTERNATIVES, GUIDES
from brainstate_prob.infer.variational.stationarity import r_hat_of
from tests.infer.variational.test_svi import COVARIANCE, EVIDENCE, MEAN, Line, X, Y, fit_svi, posterior
from tests.support.rich_model import compilations

SD = np.sqrt(np.diag(COVARIANCE))


def test_every_guide_of_numpyro_is_a_name_or_refused_with_what_to_write():
    # AutoDiagonalNormal is AutoNormal over one vector: the same guide as 'diagonal', taken as a class.
    bases = {autoguide.AutoGuide, autoguide.AutoContinuous, autoguide.AutoDiagonalNormal}
    families = {getattr(autoguide, name) for name in autoguide.__all__} - bases
    named = {base for family in GUIDES.values() for base in family.__mro__} & families
    assert families == named | set(_ALTERNATIVES)
    for family in _ALTERNATIVES:
        with pytest.raises(ValueError, match='guide=|sites=True'):
            infer.svi(posterior(), guide=family, progress=False)


# By group


class Groups(nn.Module):
    """Five subjects, each with two correlated numbers: the posterior has one block a subject."""

    def __init__(self):
        super().__init__()
        self.a = nn.Param(jnp.zeros(5), reg=dist.Normal(0.0, 1.0))
        self.b = nn.Param(jnp.zeros((5, 1)), t=nn.ChainT(nn.AffineT(2.0, 1.0)), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x[:, :, 0] * self.a.value()[:, None] + x[:, :, 1] * self.b.value(), 1.0)


def grouped():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 8, 2)).astype(np.float32)
    x[..., 1] += x[..., 0]
    return infer.Posterior(Groups(), x, rng.normal(size=(5, 8)).astype(np.float32)), x


@pytest.mark.filterwarnings('ignore:k-hat')
@pytest.mark.parametrize('guide', ['batched_full', pytest.param('batched_low_rank', marks=pytest.mark.slow)])
def test_batched_guides_have_a_block_for_each_group(guide):
    group, x = grouped()
    fit = infer.svi(group, guide=guide, num_steps=3000, num_draws=4000, progress=False)
    draws = np.stack([fit.magnitudes['a'][0], fit.magnitudes['b'][0, ..., 0]], axis=-1)
    for i in range(5):
        exact = np.linalg.inv(x[i].T @ x[i] + np.eye(2))
        # sd of 4000 draws: 1.1 %, the rest is for the optimizer. In two dimensions rank 1 can be exact too.
        np.testing.assert_allclose(draws[:, i].std(axis=0), np.sqrt(np.diag(exact)), rtol=0.12)
        correlation = exact[0, 1] / np.sqrt(exact[0, 0] * exact[1, 1])
        np.testing.assert_allclose(np.corrcoef(draws[:, i].T)[0, 1], correlation, atol=0.1)
    other = np.corrcoef(draws[:, 0, 0], draws[:, 1, 1])[0, 1]
    assert abs(other) < 0.08  # independent of other groups: five standard errors


def test_batched_guides_need_one_first_axis():
    class Mixed(Groups):
        def __init__(self):
            super().__init__()
            self.c = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

        def __call__(self, x):
            return dist.Normal(super().__call__(x).loc + self.c.value(), 1.0)

    x = grouped()[1]
    with pytest.raises(ValueError, match=r"'batched_low_rank'.*{'a': 5, 'b': 5, 'c': 0}"):
        infer.svi(infer.Posterior(Mixed(), x, x[..., 0]), guide='batched_low_rank', progress=False)


# Over sites


class Two(nn.Module):
    """A positive scale, a horseshoe, and a level that depends on another: every kind of site."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Param(1.0, t=nn.SoftplusT(0.0), reg=dist.HalfNormal(2.0))
        self.sparse = nn.Param(jnp.zeros(2), reg=nn.HorseshoeReg())
        self.level = nn.Param(0.5, reg=nn.GaussianReg(0.0, self.scale))
        self.offset = nn.Param(1.0, fit=False)

    def __call__(self, x):
        return dist.Normal(x @ self.sparse.value() + self.level.value() + self.offset.value(), self.scale.value())


def two(offset=1.0):
    model = Two()
    model.offset.set_value(jnp.asarray(offset))
    return infer.Posterior(model, X[:, :2], Y)


def parts(model):
    """Two parts: normal for all but the scale, which is a point."""
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoNormal(block(model, hide=['scale', 'sparse'])))
    guide.append(autoguide.AutoDelta(block(model, expose=['scale'])))
    return guide


def by_hand(model):
    def guide(x, targets=None):
        assert targets.shape == (60,) and x.shape == (60, 3)
        loc = numpyro.param('loc', jnp.zeros(3))
        tril = numpyro.param('tril', 0.1 * jnp.eye(3), constraint=dist.constraints.lower_cholesky)
        numpyro.sample('w', dist.MultivariateNormal(loc, scale_tril=tril))

    return guide


def test_a_guide_function_over_sites_is_called_as_the_model():
    fit = fit_svi(by_hand, sites=True)
    w = fit.draws['w'][0]
    assert (np.abs(w.mean(axis=0) - MEAN) / SD < 0.15).all()
    ratio = fit.stats['lp'] - fit.stats['log_q']
    assert abs(ratio.mean() - EVIDENCE) < 0.1 and ratio.std() < 0.3


def test_an_autoguide_built_for_the_numpyro_model_is_used_as_it_is():
    guide = autoguide.AutoMultivariateNormal(infer.to_numpyro(Line()), init_scale=0.05)
    fit = fit_svi(guide, sites=True)
    np.testing.assert_allclose(fit.draws['w'][0].std(axis=0), SD, rtol=0.12)
    assert guide.prototype_trace is None  # it was copied, and holds no tracer
    by_class = fit_svi(functools.partial(autoguide.AutoMultivariateNormal, init_scale=0.05), sites=True)
    np.testing.assert_allclose(by_class.thetas, fit.thetas, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings('ignore:k-hat')
def test_a_list_of_guides_by_path():
    fit = infer.svi(two(), guide=parts, sites=True, num_steps=2000, num_draws=200, progress=False)
    assert np.ptp(fit.magnitudes['scale']) == 0 and np.ptp(fit.magnitudes['level']) > 0
    assert set(fit.draws) == {'level', 'scale', 'sparse'} and fit.density.noncentered == ()
    np.testing.assert_allclose(fit.estimate['sparse'], MEAN[:2], atol=0.4)  # as the regression without the third input


@pytest.mark.filterwarnings('ignore:k-hat')
def test_densities_over_sites_are_those_of_theta():
    """The same guide in both spaces: independent normals of theta, transforms and scale mixtures included."""
    settings = {'num_steps': 1, 'optimizer': optax.sgd(0.0), 'num_draws': 500, 'progress': False, 'noncentered': False}
    flat = infer.svi(two(), guide='diagonal', **settings)
    sites = infer.svi(two(), guide=autoguide.AutoNormal, sites=True, **settings)
    for fit in (flat, sites):
        np.testing.assert_allclose(fit.thetas.std(axis=1), 0.1, rtol=0.2)
        normal = dist.Normal(two().start(fit.density), 0.1)
        np.testing.assert_allclose(fit.stats['log_q'], normal.log_prob(fit.thetas).sum(-1), rtol=1e-3, atol=5e-3)


@pytest.mark.filterwarnings('ignore:k-hat')
def test_states_are_data_of_a_guide_over_sites():
    settings = {'guide': parts, 'sites': True, 'num_steps': 400, 'num_draws': 5, 'progress': False}
    one = infer.svi(two(1.0), **settings)
    with compilations() as compiled:
        other = infer.svi(two(2.0), **settings)
    assert compiled == []
    assert one.history['elbo'][0] != other.history['elbo'][0]  # the offset is no constant of the program


@pytest.mark.slow
def test_minibatches_over_sites():
    fit = fit_svi(autoguide.AutoMultivariateNormal, sites=True, batch_size=10, num_steps=6000, num_particles=4)
    np.testing.assert_allclose(fit.draws['w'][0].std(axis=0), SD, rtol=0.25)  # sqrt(6) wider without the N/B factor


@pytest.mark.slow
def test_annealed_guides_with_a_surrogate_take_minibatches():
    def surrogate():
        theta = numpyro.sample('theta', dist.ImproperUniform(dist.constraints.real_vector, (), (3,)))
        weights = numpyro.param('omega', jnp.full(20, 3.0), constraint=dist.constraints.positive)
        fit = dist.Normal(X[:20] @ theta, 1.0).log_prob(Y[:20])
        numpyro.factor('surrogate', jnp.sum(weights * fit) - 0.5 * jnp.sum(theta**2))

    def guide(model):
        return autoguide.AutoSurrogateLikelihoodDAIS(model, surrogate, K=2)

    fit = fit_svi(guide, batch_size=10, num_steps=2000)
    assert (np.abs(fit.draws['w'][0].mean(axis=0) - MEAN) / SD < 0.6).all()


# Stopping


def test_it_stops_when_the_guide_no_longer_drifts():
    """From far away it takes longer; what comes out is nearer to the best guide than a last iterate."""

    def stopped(start, **settings):
        model = Line()
        model.w.set_value(jnp.full(3, start))
        return infer.svi(
            infer.Posterior(model, X, Y),
            guide='full',
            r_hat=1.05,
            num_steps=20_000,
            num_draws=4000,
            progress=False,
            **settings,
        )

    near = stopped(0.0)
    with compilations() as compiled:
        far = stopped(10.0, seed=1)
    assert compiled == []
    assert near.info['stopped'] == far.info['stopped'] == 'converged'
    assert near.info['num_steps'] < far.info['num_steps'] < 20_000
    assert near.info['r_hat'] < 1.05 and near.info['converged']
    for fit in (near, far):
        loc = fit.guide_params['auto_loc']
        assert (np.abs(loc - MEAN) / SD < 0.1).all()
        np.testing.assert_allclose(fit.draws['w'][0].std(axis=0), SD, rtol=0.12)


@pytest.mark.filterwarnings('ignore:k-hat')
def test_it_says_that_it_did_not_converge():
    with pytest.warns(infer.ConvergenceWarning, match=r'SVI stopped after 900 steps before it converged: R-hat .* is '):
        fit = fit_svi(r_hat=1.0001, num_steps=900)
    assert not fit.info['converged'] and fit.info['stopped'] == 'num_steps'


def test_r_hat_of_windows_is_that_of_the_two_halves():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3)) + np.linspace(0, [0, 1, 3], 2000)
    windows = [(w.mean(0), ((w - w.mean(0)) ** 2).sum(0)) for w in x.reshape(10, 200, 3)]
    found, mean = r_hat_of(windows)
    halves = x[1200:1600], x[1600:]  # the last two quarters, whole windows: 2 of 10 each
    within = np.mean([h.var(0, ddof=1) for h in halves], axis=0)
    between = 400 * np.var([h.mean(0) for h in halves], axis=0, ddof=1)
    expected = np.sqrt((399 / 400 * within + between / 400) / within)
    assert found == pytest.approx(expected.max()) and expected.max() > 1.05
    np.testing.assert_allclose(mean, x[1200:].mean(0))
    assert r_hat_of(windows[:3]) == (np.inf, None)
    assert r_hat_of([(np.zeros(2), np.zeros(2))] * 4)[0] == 1.0


# Batches of an iterable


def test_batches_of_an_iterable():
    batches = [(X[i : i + 15], Y[i : i + 15]) for i in range(0, 60, 15)]
    fit = fit_svi('full', batches=batches, num_observations=60, num_steps=1500, num_particles=2)
    np.testing.assert_allclose(fit.draws['w'][0].std(axis=0), SD, rtol=0.25)
    assert fit.info['scale'] == 4.0 and fit.info['batch_size'] == 15 and 'lp' not in fit.stats
    ended = fit_svi('full', batches=iter(batches), num_observations=60, num_steps=100, num_particles=2)
    assert ended.info['stopped'] == 'the batches ended' and ended.info['num_steps'] == 4
    with pytest.raises(ValueError, match='needs num_observations='):
        fit_svi(batches=batches)


# k-hat


TAILS = {
    'light': lambda rng: rng.normal(size=2000),
    'heavy': lambda rng: 0.9 * rng.exponential(size=2000),
    'bounded': lambda rng: rng.uniform(size=500),
    'few': lambda rng: rng.normal(size=100),
    'very heavy': lambda rng: 30 * rng.normal(size=1000),
    'far below': lambda rng: rng.normal(size=1000) - 1e5,
}


def arviz_k(log_weights):
    """The shape, and how near ours must be: ArviZ 1.x takes minus the log weights, cuts the tail elsewhere."""
    arviz = import_arviz()
    if is_old(arviz):
        return pytest.approx(float(arviz.psislw(log_weights.copy())[1]), rel=1e-6, abs=1e-9)
    from arviz_stats.base import array_stats

    return pytest.approx(float(array_stats.psislw(-log_weights)[1]), rel=0.015, abs=0.01)


@pytest.mark.parametrize('name', TAILS)
def test_the_tails_shape_is_arvizs(name):
    x = TAILS[name](np.random.default_rng(0))
    assert pareto_k(x) == arviz_k(x)


def test_the_tails_shape_where_there_is_none():
    assert pareto_k(np.zeros(500)) == 0.0
    assert pareto_k(np.r_[np.zeros(499), 1.0]) == np.inf
    assert pareto_k(np.full(500, np.nan)) == np.inf
    assert k_hat_limit(1000) == pytest.approx(2 / 3) and k_hat_limit(100_000) == 0.7


def test_a_good_guide_is_quiet_and_a_bad_one_is_named():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        good = fit_svi('full', num_draws=1000)
    assert good.info['k_hat'] == infer.k_hat(good) < 0.5 and good.info['warnings'] == []
    with pytest.warns(infer.ConvergenceWarning, match=r"k-hat of the guide 'diagonal' is .*infer.nuts") as caught:
        bad = fit_svi('diagonal', num_steps=10)
    assert caught[0].filename == __file__.replace('test_guides', 'test_svi')  # where the user called
    assert bad.info['k_hat'] > 0.7 and bad.info['warnings'] == [str(caught[0].message)]


def test_k_hat_of_minibatch_fits_sees_all_data():
    fit = fit_svi('full', batch_size=10, num_particles=4, num_steps=600, num_draws=1000)
    assert 'k_hat' not in fit.info
    lp = jax.vmap(lambda t: fit.density.log_density(t, fit.posterior.data))(fit.thetas[0])
    assert infer.k_hat(fit) == pytest.approx(pareto_k(np.float64(lp) - fit.stats['log_q'][0]), abs=0.05)


def test_k_hat_needs_a_guides_density():
    with pytest.raises(ValueError, match=r"stats\['log_q'\], which a fit by 'map'"):
        infer.k_hat(infer.Fit(posterior().target, np.zeros((1, 500, 3)), method='map'))
    with pytest.warns(infer.ConvergenceWarning, match='k-hat'):
        fit = fit_svi(num_steps=5, num_draws=50)
    with pytest.raises(ValueError, match='at least 100 draws, got 50'):
        infer.k_hat(fit)


# Refusals

REFUSED = [
    ({'guide': 'diagonal', 'sites': True}, ValueError, 'sites=True is for a guide of your own'),
    (
        {'guide': lambda model: lambda x, targets: None, 'sites': True},
        ValueError,
        r"the sites {'w': \(3,\)}.*samples {}",
    ),
    ({'guide': autoguide.AutoNormal(infer.to_numpyro(Line()))}, ValueError, r'to_numpyro\(model\), set sites=True'),
    ({'r_hat': 1.0}, ValueError, 'r_hat must be a number above 1'),
    ({'batch_size': 5, 'batches': []}, ValueError, 'not both'),
    ({'guide': autoguide.AutoDAIS, 'batches': [(X, Y)], 'num_observations': 60}, ValueError, 'Drop them'),
]


@pytest.mark.parametrize(('settings', 'error', 'message'), REFUSED, ids=range(len(REFUSED)))
def test_bad_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        fit_svi(**settings)


def test_values_that_many_thetas_share_have_no_guide_over_sites():
    class Direction(nn.Module):
        def __init__(self):
            super().__init__()
            self.d = nn.Param(jnp.array([1.0, 0.0]), t=nn.UnitVectorT())

    with pytest.raises(ValueError, match=r"'d': many thetas have the same value"):
        infer.svi(infer.Posterior(Direction()), guide=autoguide.AutoNormal, sites=True, progress=False)
