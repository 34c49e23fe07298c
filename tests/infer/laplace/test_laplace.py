"""Laplace: the closed form, the exact Hessian, real posteriors, predictions, what is refused, no recompilation."""

import contextlib
import json

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

from brainstate_prob import infer, nn
from tests.support.reference_models import reference_of, reference_posterior
from tests.support.rich_model import compilations

QUIET = {'progress': False}


class Line(nn.Module):
    def __init__(self, noise=0.5):
        super().__init__()
        zero = jnp.zeros(2, jnp.result_type(float))
        self.w = nn.Param(zero, reg=dist.Normal(0.0, 1.5))
        self.c = nn.Param(zero[0], reg=dist.Normal(1.0, 3.0))
        self.noise = noise

    def __call__(self, x):
        return dist.Normal(x @ self.w.value() + self.c.value(), self.noise)


X = np.random.default_rng(0).normal(size=(12, 2))
Y = X @ [1.0, -2.0] + 0.7 + 0.5 * np.random.default_rng(1).normal(size=12)
FULL = np.c_[np.ones(12), X]  # in the order of theta: c, w


def line(noise=0.5):
    return infer.Posterior(Line(noise), jnp.asarray(X, float), jnp.asarray(Y, float))


def exact():
    """Mean and covariance of (c, w), and the log evidence, of the conjugate model."""
    prior, mean = np.diag([9.0, 2.25, 2.25]), np.array([1.0, 0.0, 0.0])
    precision = FULL.T @ FULL / 0.25 + np.linalg.inv(prior)
    covariance = np.linalg.inv(precision)
    centre = covariance @ (FULL.T @ Y / 0.25 + np.linalg.solve(prior, mean))
    evidence = stats.multivariate_normal(FULL @ mean, FULL @ prior @ FULL.T + 0.25 * np.eye(12)).logpdf(Y)
    return centre, covariance, evidence


# The closed form

EXACT = [
    {'structure': 'full'},
    {'structure': 'full', 'curvature': 'ggn'},
    {'structure': 'low_rank', 'rank': 3},
    {'structure': 'low_rank', 'rank': 3, 'curvature': 'ggn'},
]


@pytest.mark.parametrize('x64', [False, True], ids=['float32', 'float64'])
@pytest.mark.parametrize('kwargs', EXACT, ids=lambda k: '-'.join(map(str, k.values())))
def test_a_gaussian_posterior_is_found_exactly(kwargs, x64):
    centre, covariance, evidence = exact()
    tol = 1e-9 if x64 else 2e-5
    with jax.enable_x64(True) if x64 else contextlib.nullcontext():
        fit = infer.laplace(line(), **kwargs, **QUIET)
    assert fit.mode_theta.dtype == (np.float64 if x64 else np.float32)
    np.testing.assert_allclose(np.r_[fit.mode['c'], fit.mode['w']], centre, rtol=tol, atol=tol)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=tol, atol=tol)
    assert fit.log_marginal_likelihood == pytest.approx(evidence, rel=tol)
    assert fit.info['distance'] < 1e-3 and fit.info['warnings'] == []


def test_diagonal_and_kfac_have_the_parts_of_the_precision_that_they_keep():
    precision = np.linalg.inv(exact()[1])
    diagonal = infer.laplace(line(), structure='diagonal', **QUIET)
    np.testing.assert_allclose(diagonal.covariance, np.diag(1 / np.diag(precision)), rtol=1e-5)
    blocks = infer.laplace(line(), structure='kronecker', **QUIET)
    want = precision.copy()
    want[0, 1:] = want[1:, 0] = 0.0  # a block a Param
    np.testing.assert_allclose(np.linalg.inv(blocks.covariance), want, rtol=1e-4, atol=1e-4)
    assert blocks.info['curvature'] == 'ggn'


def test_the_draws_are_those_of_the_gaussian():
    centre, covariance, _ = exact()
    fit = infer.laplace(line(), num_draws=20000, seed=3, **QUIET)
    rows = fit.rows.astype(np.float64)
    # 20000 draws: standard errors 0.7 % of an sd for means, 0.5 % for sds; bounds of 5 of them
    assert np.abs((rows.mean(0) - centre) / np.sqrt(np.diag(covariance))).max() < 0.035
    np.testing.assert_allclose(np.cov(rows.T), covariance, rtol=0.05, atol=1e-3)
    want = stats.multivariate_normal(fit.mode_theta, fit.covariance).logpdf(rows)
    np.testing.assert_allclose(fit.stats['log_q'][0], want, atol=2e-3)
    lp = fit.stats['lp'][0].astype(np.float64)
    np.testing.assert_allclose(lp - want, fit.log_marginal_likelihood, atol=5e-3)  # the posterior is this Gaussian
    few = infer.laplace(line(), num_draws=7, seed=3, **QUIET)
    np.testing.assert_array_equal(few.rows, fit.rows[:7])
    assert not np.array_equal(infer.laplace(line(), num_draws=7, seed=jax.random.key(4), **QUIET).rows, few.rows)


# Transforms, priors that are not Gaussian, several likelihoods: the Hessian of the plain formula


class Counts(nn.Module):
    """Poisson counts of a mixture of rates: softplus, log and stick-breaking transforms, units, no Gaussian prior."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Param(jnp.asarray(2.0) * u.Hz, t=nn.SoftplusT(), reg=dist.Gamma(3.0, 1.0))
        self.mix = nn.Param(jnp.array([0.2, 0.3, 0.5]), t=nn.SimplexT(), reg=dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
        self.slope = nn.Param(jnp.zeros((), jnp.result_type(float)), reg=dist.StudentT(4.0, 0.0, 1.0))

    def __call__(self, x, basis):
        rate = u.get_magnitude(self.gain.value()) * (basis @ self.mix.value())
        return dist.Poisson(rate * jnp.exp(self.slope.value() * x))


def counts_data():
    rng = np.random.default_rng(2)
    return rng.normal(size=30), rng.uniform(0.5, 2.0, (30, 3)), rng.poisson(2.0, 30)


def plain_log_density(theta, x, basis, y):
    """Of (gain, mix, slope) as `Counts` defines it, written out."""
    gain, z, slope = jnp.logaddexp(0.0, theta[0]), jax.nn.sigmoid(theta[1:3]), theta[3]
    mix = jnp.array([z[0], (1 - z[0]) * z[1], (1 - z[0]) * (1 - z[1])])
    log_det = -jnp.logaddexp(0.0, -theta[0]) + jnp.log(z * (1 - z)).sum() + jnp.log(1 - z[0])
    rate = gain * (basis @ mix) * jnp.exp(slope * x)
    prior = 2 * jnp.log(gain) - gain - special.gammaln(3.0)
    prior += (jnp.array([1.0, 2.0, 3.0]) * jnp.log(mix)).sum() + special.gammaln(9.0) - special.gammaln([2, 3, 4]).sum()
    prior += -2.5 * jnp.log1p(slope**2 / 4) + special.gammaln(2.5) - special.gammaln(2.0) - 0.5 * np.log(4 * np.pi)
    return (y * jnp.log(rate) - rate - special.gammaln(y + 1.0)).sum() + prior + log_det


def test_the_curvature_is_that_of_the_whole_log_density_of_theta(x64):
    x, basis, y = counts_data()
    posterior = infer.Posterior(Counts(), (jnp.asarray(x), jnp.asarray(basis)), jnp.asarray(y))
    fit = infer.laplace(posterior, **QUIET)
    order = np.r_[fit.columns['gain'], fit.columns['mix'], fit.columns['slope']]
    theta = fit.mode_theta[order]
    np.testing.assert_allclose(jax.grad(plain_log_density)(theta, x, basis, y), 0.0, atol=1e-5)
    hessian = -jax.hessian(plain_log_density)(theta, x, basis, y)
    np.testing.assert_allclose(fit.covariance[np.ix_(order, order)], np.linalg.inv(hessian), rtol=1e-7)
    value = plain_log_density(theta, x, basis, y)
    evidence = value + 2 * np.log(2 * np.pi) - np.linalg.slogdet(hessian)[1] / 2
    assert fit.log_marginal_likelihood == pytest.approx(float(evidence), rel=1e-9)
    assert fit.mode['gain'].unit == u.Hz and fit.draws['gain'].unit == u.Hz
    np.testing.assert_allclose(fit.draws['mix'].sum(-1), 1.0, rtol=1e-9)
    # Gauss-Newton: J' F J with F = 1 / rate, plus the exact curvature of the rest
    ggn = infer.laplace(posterior, curvature='ggn', **QUIET)

    def rates(t):
        return posterior.density.evaluate(lambda m, *a: m(*a).rate, t, posterior.data, posterior.data.args)

    jac, rate = jax.jacobian(rates)(fit.mode_theta), rates(fit.mode_theta)
    rest = jax.hessian(lambda t: -posterior.density.log_density(t, posterior.data._replace(targets=None)))
    want = jac.T @ (jac / rate[:, None]) + rest(fit.mode_theta)
    np.testing.assert_allclose(np.linalg.inv(ggn.covariance), want, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ggn.mode_theta, fit.mode_theta, atol=1e-7)
    assert ggn.info['information'] == 'expected' and fit.info['information'] is None


class Groups(nn.Module):
    """A hierarchy, centred or not: the scale's prior keeps the centred mode from infinity."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Param(1.0, t=nn.ExpT(), reg=dist.LogNormal(0.0, 0.3))
        self.effect = nn.Param(jnp.zeros(4), reg=nn.GaussianReg(0.0, std=self.scale))

    def __call__(self):
        return dist.Normal(self.effect.value(), 1.0)


@pytest.mark.parametrize('noncentered', [True, False])
def test_hierarchical_params_in_both_forms(noncentered):
    y = np.array([2.0, -1.0, 3.0, 0.5])

    def log_density(t):
        s = t[4]
        effect = t[:4] * jnp.exp(s) if noncentered else t[:4]
        prior = -(t[:4] ** 2).sum() / 2 if noncentered else -(effect**2).sum() / 2 * jnp.exp(-2 * s) - 4 * s
        return -((y - effect) ** 2).sum() / 2 + prior - s**2 / 2 / 0.09

    fit = infer.laplace(infer.Posterior(Groups(), None, jnp.asarray(y)), noncentered=noncentered, **QUIET)
    order = np.r_[fit.columns['effect'], fit.columns['scale']]
    theta = fit.mode_theta[order]
    np.testing.assert_allclose(jax.grad(log_density)(theta), 0.0, atol=1e-3)
    np.testing.assert_allclose(
        fit.covariance[np.ix_(order, order)], np.linalg.inv(-jax.hessian(log_density)(theta)), rtol=1e-3, atol=1e-5
    )


class Strong(nn.Module):
    """Eight groups of many rows, which say more about each than the prior."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 10.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(3.0))
        self.th = nn.Param(jnp.zeros(8), reg=nn.GaussianReg(mean=self.mu, std=self.tau))

    def __call__(self, g):
        return dist.Normal(self.th.value()[g], 1.0)


@pytest.mark.slow
def test_a_hierarchy_with_strong_data_has_the_width_of_its_data():
    """Given tau, of the order of 1, a group has precision 200 + 1 / tau**2, whatever the others."""
    rng, g = np.random.default_rng(0), np.repeat(np.arange(8), 200)
    y = 3 + rng.standard_normal(8)[g] + rng.standard_normal(1600)
    fit = infer.laplace(infer.Posterior(Strong(), g, y.astype('f4')), num_draws=2000, **QUIET)
    np.testing.assert_allclose(fit.draws['th'].std((0, 1)), 1 / np.sqrt(200), rtol=0.08)  # 5 standard errors
    np.testing.assert_allclose(fit.mode['th'], [y[g == i].mean() for i in range(8)], atol=0.03)
    forced = infer.laplace(infer.Posterior(Strong(), g, y.astype('f4')), noncentered=True, **QUIET)
    assert any('k-hat' in text and 'noncentered=False' in text for text in forced.check().problems)


def test_a_horseshoe_is_a_scale_mixture():
    class Sparse(Line):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(jnp.zeros(2), reg=nn.HorseshoeReg(tau=0.5))

    posterior = infer.Posterior(Sparse(), jnp.asarray(X, float), jnp.asarray(Y, float))
    fit = infer.laplace(posterior, **QUIET)
    assert fit.thetas.shape[-1] == 5 and fit.info['distance'] < 0.01
    np.testing.assert_allclose(fit.mode['w'], [1.0, -2.0], atol=0.5)


# Real posteriors: where the Laplace answer lies, as the data's own notes say


class Autoregression(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Param(0.0, reg=dist.Normal(0.0, 10.0))
        self.beta = nn.Param(jnp.zeros(5), reg=dist.Normal(0.0, 10.0))
        self.sigma = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfCauchy(2.5))

    def __call__(self, lags):
        return dist.Normal(self.alpha.value() + lags @ self.beta.value(), self.sigma.value())


class Logistic(nn.Module):
    def __init__(self, size=25):
        super().__init__()
        self.weights = nn.Param(jnp.zeros(size), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Bernoulli(logits=x @ self.weights.value())


def other_posterior(shared_dir, name):
    folder = shared_dir / 'data' / 'posteriors' / name
    data = {k: np.asarray(v) for k, v in json.loads((folder / 'data.json').read_text()).items()}
    if name == 'ar5':
        y = np.asarray(data['y'], np.float32)
        lags = np.stack([y[4 - k : len(y) - 1 - k] for k in range(5)], axis=1)
        return infer.Posterior(Autoregression(), jnp.asarray(lags), jnp.asarray(y[5:]))
    x = np.c_[stats.zscore(data['X_raw'], axis=0), np.ones(len(data['y']))]
    return infer.Posterior(Logistic(), jnp.asarray(x, jnp.float32), jnp.asarray(data['y']))


# name: parameters, bound on |mode - reference mean| / sd, range of sd / reference sd
FIGURES = {
    'linear_regression_corr': (['beta'], (0.0, 0.02), (0.958, 0.971)),
    'kidscore_interaction': (['beta'], (0.0, 0.02), (0.995, 1.005)),
    'ar5': (['alpha', 'beta'], (0.0, 0.02), (0.965, 0.995)),
    'german_credit_logistic': (['weights'], (0.41, 0.425), (0.9505, 0.9865)),
}


@pytest.mark.parametrize('name', FIGURES)
def test_reference_posteriors(shared_dir, name):
    get = other_posterior if name in ('ar5', 'german_credit_logistic') else reference_posterior
    names, (least, most), (low, high) = FIGURES[name]
    fit = infer.laplace(get(shared_dir, name), num_draws=10, **QUIET)
    reference = reference_of(shared_dir, name)
    sds = np.sqrt(np.diag(fit.covariance))
    shift = np.concatenate([np.ravel((fit.mode[n] - reference[n]['mean']) / reference[n]['sd']) for n in names])
    ratio = np.concatenate([np.ravel(sds[fit.columns[n]] / np.ravel(reference[n]['sd'])) for n in names])
    assert least <= np.abs(shift).max() <= most
    assert low <= ratio.min() and ratio.max() <= high


class PlaceCell(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.b = nn.Param(jnp.zeros(size, jnp.result_type(float)))

    def __call__(self, columns):
        return dist.Poisson(jnp.exp(columns @ self.b.value()))


@pytest.mark.parametrize('name', ['log_linear', 'place_field', 'place_field_direction'])
def test_flat_priors_give_the_published_standard_errors(shared_dir, x64, name):
    """From zeros, with the raw columns 1, x, x^2, whose Hessian has condition number 1e13."""
    raw = np.load(shared_dir / 'data' / 'neuro' / 'place_cell.npz')
    reference = json.loads((shared_dir / 'data' / 'neuro' / 'reference.json').read_text())['place_cell'][name]
    x = raw['position'].astype(np.float64)
    columns = [np.ones_like(x), x, x**2, np.r_[np.diff(x) > 0, False].astype(float)]
    columns = np.stack(columns[: len(reference['recomputed_coef'])], 1)
    posterior = infer.Posterior(PlaceCell(columns.shape[1]), jnp.asarray(columns), jnp.asarray(raw['spikes'], float))
    fit = infer.laplace(posterior, num_draws=1, **QUIET)
    np.testing.assert_allclose(fit.mode['b'], reference['recomputed_coef'], rtol=3e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), reference['recomputed_se'], rtol=1e-5)
    with pytest.raises(ValueError, match=r"Param 'b' has no prior, so that the marginal likelihood is only known"):
        _ = fit.log_marginal_likelihood


# Predictions


class Net(nn.Module):
    def __init__(self, outputs=1, hidden=3):
        super().__init__()
        a, b = (
            np.random.default_rng(5).normal(size=(2, hidden)),
            np.random.default_rng(6).normal(size=(hidden, outputs)),
        )
        self.first = nn.Param(jnp.asarray(a, float), reg=dist.Normal(0.0, 1.0))
        self.bias = nn.Param(jnp.zeros(hidden, jnp.result_type(float)), reg=dist.Normal(0.0, 1.0))
        self.last = nn.Param(jnp.asarray(b, float), reg=dist.Normal(0.0, 1.0))

    def forward(self, x):
        return jnp.tanh(x @ self.first.value() + self.bias.value()) @ self.last.value()

    def __call__(self, x):
        return dist.Normal(self.forward(x)[:, 0], 0.3)


def test_linearized_predictions_of_a_network():
    posterior = infer.Posterior(Net(), jnp.asarray(X, float), jnp.asarray(Y, float))
    fit = infer.laplace(posterior, curvature='ggn', num_draws=400, **QUIET)
    new = jnp.asarray(np.random.default_rng(7).normal(size=(5, 2)), float)

    def mean(theta):
        return posterior.density.evaluate(lambda m: m(new).loc, theta, posterior.data, ())

    at_mode, jac = np.asarray(mean(fit.mode_theta)), np.asarray(jax.jacobian(mean)(fit.mode_theta))
    drawn = fit.predict(new, linearized=True, kind='mean')
    np.testing.assert_allclose(drawn, at_mode + (fit.rows - fit.mode_theta) @ jac.T, rtol=1e-3, atol=1e-4)
    closed = fit.predictive(new)
    np.testing.assert_allclose(closed.mean, at_mode, rtol=1e-5)
    np.testing.assert_allclose(closed.variance, 0.09 + np.diag(jac @ fit.covariance @ jac.T), rtol=1e-3)
    np.testing.assert_array_equal(fit.predict(new, kind='mean'), drawn)  # the default of Gauss-Newton curvature
    assert not np.allclose(fit.predict(new, kind='mean', linearized=False), drawn, atol=0.05)
    score = fit.predict(new, jnp.asarray(at_mode), linearized=True, kind='log_density')  # of a mixture of 400 normals
    np.testing.assert_allclose(score, closed.log_prob(at_mode), atol=0.15)  # 400 draws: standard error below 0.04


def test_linear_are_the_natural_coordinates():
    """A log-linear rate is log-linear in each draw, and so the same as without linearization."""
    posterior = infer.Posterior(PlaceCell(2), jnp.asarray(X, float), jnp.asarray(np.round(np.abs(Y))))
    fit = infer.laplace(posterior, num_draws=50, **QUIET)
    new = jnp.asarray(X[:4], float)
    exactly = fit.predict(new, kind='mean')
    np.testing.assert_allclose(fit.predict(new, linearized=True, kind='mean'), exactly, rtol=1e-4)
    assert fit.predict(new, linearized=True).shape == (50, 4)
    with pytest.raises(NotImplementedError, match='no closed form for Poisson; use fit.predict'):
        fit.predictive(new)


class Classes(Net):
    def __init__(self):
        super().__init__(outputs=3)

    def __call__(self, x):
        return dist.Categorical(logits=self.forward(x))


@pytest.mark.slow
def test_probit_probabilities_are_near_the_drawn_ones():
    labels = np.argmax(X @ [[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]], axis=1)
    posterior = infer.Posterior(Classes(), jnp.asarray(X, float), jnp.asarray(labels))
    fit = infer.laplace(posterior, curvature='ggn', num_draws=2000, **QUIET)
    drawn = fit.predict(linearized=True, kind='probabilities')
    closed = np.asarray(fit.predictive().probs)
    np.testing.assert_allclose(closed.sum(-1), 1.0, rtol=1e-5)
    assert np.abs(closed - drawn).max() < 0.06  # the approximation's own error
    sure = fit.predict(kind='probabilities', num_draws=1)
    assert closed.max(-1).mean() < np.asarray(dist.Categorical(logits=np.log(sure)).probs).max(-1).mean() + 0.1


def test_probit_for_two_classes():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    fit = infer.laplace(infer.Posterior(Logistic(3), jnp.asarray(x, float), jnp.asarray(y)), num_draws=4000, **QUIET)
    variance = np.einsum('ni,ij,nj->n', x, fit.covariance, x)
    logits = x @ np.asarray(fit.mode['weights'])
    want = special.expit(logits / np.sqrt(1 + np.pi / 8 * variance))
    np.testing.assert_allclose(fit.predictive().probs, want, rtol=1e-4)
    drawn = fit.predict(linearized=True, kind='mean').mean(0)
    np.testing.assert_allclose(drawn, want, atol=0.02)  # 4000 draws: standard error below 0.004; probit's own 0.01


# Results like any other


def test_results_work_as_those_of_every_fit(tmp_path):
    x, basis, y = counts_data()
    model = Counts()
    posterior = infer.Posterior(model, (jnp.asarray(x, float), jnp.asarray(basis, float)), jnp.asarray(y))
    fit = infer.laplace(posterior, num_draws=200, **QUIET)
    assert fit.draws['mix'].shape == (1, 200, 3) and 'gain' in str(fit.summary())
    fit.save(tmp_path / 'fit.nc')
    again = infer.load(tmp_path / 'fit.nc', posterior)
    np.testing.assert_array_equal(again.thetas, fit.thetas)
    assert type(again) is infer.LaplaceFit and again.predict(num_draws=3).shape == (3, 30)
    fit.assign_to(model, which='mode')
    assert model.gain.value().unit == u.Hz


# Where it starts


def test_the_mode_may_be_given():
    posterior = line()
    found = infer.map(posterior, jacobian=True, tol=1e-7, **QUIET)
    given = infer.laplace(posterior, init=found, **QUIET)
    np.testing.assert_array_equal(given.mode_theta, found.thetas[0, 0])
    np.testing.assert_allclose(given.covariance, exact()[1], rtol=1e-4, atol=1e-6)
    model = Line()
    found.assign_to(model)
    own = infer.laplace(infer.Posterior(model, *posterior.data.args, posterior.data.targets), init='model', **QUIET)
    np.testing.assert_allclose(own.mode_theta, given.mode_theta, rtol=1e-6)
    with pytest.warns(infer.ConvergenceWarning, match=r'The point is .* standard deviations from the mode'):
        infer.laplace(posterior, init='model', **QUIET)


# What is refused


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.level = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.left = nn.Param(0.0)
        self.right = nn.Param(jnp.zeros(2))

    def __call__(self, x):
        return dist.Normal(self.level.value() + self.left.value() + self.right.value()[1] + 0 * x[:, 0], 1.0)


class Saddle(nn.Module):
    def __init__(self):
        super().__init__()
        self.root = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))

    def __call__(self, x):
        return dist.Normal(self.root.value() ** 2 - 1.0 + 0 * x[:, 0], 1.0)


class Clipped(Line):
    def __init__(self):
        super().__init__()
        self.c = nn.Param(0.5, t=nn.ClipT(0.0, 1.0))


class Normalized(Line):
    def __call__(self, x):
        return super().__call__(x - x.mean(0))


class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(5001), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(jnp.sum(self.w.value()) + x[:, 0], 1.0)


def own_density(model, x, y):
    return model(x).log_prob(y)


def cusp(model, x, y):
    return -jnp.sum(jnp.abs(model.w.value()) ** 1.5) + own_density(model, x, y)


REFUSED = [
    (
        Flat,
        {},
        {},
        ValueError,
        r"flat, up to rounding in float32, along 'right' \(most at number [01]\).*Params a prior",
    ),
    (Flat, {}, {'structure': 'diagonal'}, ValueError, r"flat.* along 'right' \(most at number 0\)"),
    (Flat, {}, {'structure': 'low_rank', 'rank': 2}, ValueError, r"flat.* along 'right'"),
    (Saddle, {}, {'init': 'model'}, ValueError, r"not a maximum .* curves upwards along 'root'.*curvature='ggn'"),
    *(
        (
            Line,
            {'log_likelihood': cusp},
            {'init': 'model', 'structure': structure},
            ValueError,
            r"curvature of the log density is not finite along 'w'.*mode lies at infinity",
        )
        for structure in ('full', 'diagonal')
    ),
    (Clipped, {}, {}, ValueError, r"Param 'c': ClipT.* is not a bijection"),
    (
        Normalized,
        {},
        {'structure': 'kronecker'},
        ValueError,
        'for one observation depends on the others.*Use structure=',
    ),
    (Line, {'log_likelihood': own_density}, {'curvature': 'ggn'}, ValueError, 'needs the distribution of the targets'),
    (Line, {}, {'structure': 'banded'}, ValueError, r"structure must be one of \['full', .*got 'banded'"),
    (Line, {}, {'curvature': 'fisher'}, ValueError, r"one of \['hessian', 'ggn'\] or None, got 'fisher'"),
    (
        Line,
        {},
        {'structure': 'kronecker', 'curvature': 'hessian'},
        ValueError,
        "'kronecker' factors the Gauss-Newton matrix",
    ),
    (Line, {}, {'rank': 3}, ValueError, "rank belongs to structure='low_rank', not to 'full'"),
    (Line, {}, {'structure': 'low_rank', 'rank': 0}, ValueError, 'rank must be an int of at least 1, got 0'),
    (Line, {}, {'num_draws': 0}, ValueError, 'num_draws must be an int of at least 1, got 0'),
    (Line, {}, {'params': 'v'}, ValueError, r"'v' matches no parameter; the paths are \['c', 'w'\]"),
    (Line, {}, {'init': 'here'}, ValueError, "init must be one of .*got 'here'"),
    (
        Large,
        {},
        {},
        ValueError,
        r"5001 numbers would take 0.2 GB a copy; the largest is 5000. Use structure='kronecker'",
    ),
]


@pytest.mark.parametrize('model, given, kwargs, error, message', REFUSED)
def test_what_is_refused(model, given, kwargs, error, message):
    posterior = infer.Posterior(model(), jnp.asarray(X, float), jnp.asarray(Y, float), **given)
    with pytest.raises(error, match=message):
        infer.laplace(posterior, **kwargs, **QUIET)


def test_a_mode_of_another_model_is_refused():
    fit = infer.map(infer.Posterior(Saddle(), jnp.asarray(X, float), jnp.asarray(Y, float)), **QUIET)
    with pytest.raises(ValueError, match=r"another model than the posterior: .*'root' is not a parameter"):
        infer.laplace(line(), init=fit, **QUIET)


# A second fit compiles nothing


@pytest.mark.parametrize(
    'kwargs', [{}, {'structure': 'diagonal', 'curvature': 'ggn'}, {'structure': 'low_rank'}, {'structure': 'kronecker'}]
)
def test_a_second_fit_compiles_nothing(kwargs):
    calls = []

    class Counted(Line):
        def __call__(self, x):
            calls.append(1)
            return super().__call__(x)

    def run(shift, seed, num_draws):
        posterior = infer.Posterior(Counted(), jnp.asarray(X + shift, float), jnp.asarray(Y - shift, float))
        fit = infer.laplace(posterior, seed=seed, num_draws=num_draws, **kwargs, **QUIET)
        if not kwargs:
            fit.predict(linearized=True)
            fit.predictive()
        return fit

    first, traced = run(0.0, 0, 60), len(calls)
    for seed, num_draws in enumerate((50, 700, 3000), 1):
        with compilations() as events:
            other = run(0.3 * seed, seed, num_draws)
        assert len(calls) == traced + seed > seed and events == [], f'{num_draws} draws'
        assert other.num_draws == num_draws and not np.allclose(first.covariance, other.covariance)
