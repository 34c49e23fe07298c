"""Tuning by the marginal likelihood: closed forms and their optimum by SciPy, exact gradients, what is refused."""

import contextlib

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import optimize, stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.laplace.marginal_likelihood import _Evidence
from tests.support.rich_model import compilations

QUIET = {'progress': False, 'num_draws': 50}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5))
Y = X @ (1.7 * RNG.normal(size=5)) + 0.6 * RNG.normal(size=40)


class Ridge(nn.Module):
    def __init__(self, prior=None):
        super().__init__()
        zeros = jnp.zeros(5, jnp.result_type(float))
        std = nn.Param(jnp.ones_like(zeros[0]), t=nn.SoftplusT())
        self.w = nn.Param(zeros, reg=nn.GaussianReg(0.0, std=std) if prior is None else prior)
        self.noise = nn.Param(jnp.ones_like(zeros[0]), t=nn.ExpT())

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), self.noise.value())


def log_evidence(std, noise):
    return stats.multivariate_normal(np.zeros(40), std**2 * X @ X.T + noise**2 * np.eye(40)).logpdf(Y)


def ridge(cls=Ridge, shift=0.0):
    return infer.Posterior(cls(), jnp.asarray(X + shift, float), jnp.asarray(Y - shift, float))


@pytest.mark.parametrize(
    ('x64', 'curvature'),
    [
        pytest.param(False, 'hessian', marks=pytest.mark.slow),
        (False, 'ggn'),
        (True, 'hessian'),
        pytest.param(True, 'ggn', marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else 'float64' if value else 'float32',
)
def test_linear_regression_is_tuned_to_the_optimum_of_its_evidence(x64, curvature):
    best = optimize.minimize(lambda t: -log_evidence(*np.exp(t)), [0.0, 0.0], tol=1e-10)
    with jax.enable_x64(True) if x64 else contextlib.nullcontext():
        fit = infer.marginal_likelihood(ridge(), params='noise', curvature=curvature, **QUIET)
    tol = 1e-5 if x64 else 1e-3
    np.testing.assert_allclose([fit.mode['w.reg.std'], fit.mode['noise']], np.exp(best.x), rtol=tol)
    assert fit.log_marginal_likelihood == pytest.approx(-best.fun, rel=1e-6)
    assert fit.history['log_marginal_likelihood'][-1] == pytest.approx(-best.fun, rel=1e-6)
    assert np.all(np.diff(fit.history['log_marginal_likelihood']) >= -1e-4)
    assert fit.info['tuned'] == ['noise', 'w.reg.std'] and fit.info['warnings'] == []
    assert np.ptp(fit.draws['noise']) == 0 and np.ptp(fit.draws['w']) > 0
    # given the tuned values, the posterior of the rest is the conjugate one
    std, noise = float(fit.mode['w.reg.std']), float(fit.mode['noise'])
    want = np.linalg.inv(X.T @ X / noise**2 + np.eye(5) / std**2)
    # in the coordinates z = w / std
    where = np.ix_(fit.columns['w'], fit.columns['w'])
    np.testing.assert_allclose(fit.covariance[where] * std**2, want, rtol=1e-3, atol=1e-6)


def test_flat_priors_give_the_unbiased_variance(x64):
    """Integrating flat coefficients out is restricted maximum likelihood: RSS / (n - p)."""

    class Flat(Ridge):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(jnp.zeros(5))

    fit = infer.marginal_likelihood(ridge(Flat), params='noise', **QUIET)
    residuals = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]
    assert float(fit.mode['noise']) == pytest.approx(np.sqrt(residuals @ residuals / 35), rel=1e-6)
    with pytest.raises(ValueError, match="Param 'w' has no prior"):
        _ = fit.log_marginal_likelihood


def test_a_prior_of_what_is_tuned_counts_as_a_density_of_its_value(x64):
    class Held(Ridge):
        def __init__(self):
            super().__init__(dist.Normal(0.0, 1.5))
            self.noise = nn.Param(jnp.asarray(1.0), t=nn.ExpT(), reg=dist.Gamma(30.0, 30.0))

    fit = infer.marginal_likelihood(ridge(Held), params='noise', **QUIET)
    best = optimize.minimize_scalar(
        lambda s: -log_evidence(1.5, s) - stats.gamma(30.0, scale=1 / 30.0).logpdf(s),
        bounds=(0.1, 3.0),
        method='bounded',
    )
    assert float(fit.mode['noise']) == pytest.approx(best.x, rel=1e-4)
    assert fit.log_marginal_likelihood == pytest.approx(log_evidence(1.5, float(fit.mode['noise'])), rel=1e-7)


def test_diagonal_precision_is_tuned_on_its_own_evidence(x64):
    def evidence(t):
        std, noise = np.exp(t)
        precision = X.T @ X / noise**2 + np.eye(5) / std**2
        w = np.linalg.solve(precision, X.T @ Y / noise**2)
        value = stats.norm(X @ w, noise).logpdf(Y).sum() + stats.norm(0, std).logpdf(w).sum()
        return value + 2.5 * np.log(2 * np.pi) - np.log(np.diag(precision)).sum() / 2

    best = optimize.minimize(lambda t: -evidence(t), [0.0, 0.0], tol=1e-10)
    fit = infer.marginal_likelihood(ridge(), params='noise', structure='diagonal', **QUIET)
    np.testing.assert_allclose([fit.mode['w.reg.std'], fit.mode['noise']], np.exp(best.x), rtol=1e-5)
    assert fit.log_marginal_likelihood == pytest.approx(-best.fun, rel=1e-8)


def test_units_and_fit_hyper():
    """Group means in mV around their own mean: the spread between groups, less what the noise explains."""

    class Means(nn.Module):
        def __init__(self):
            super().__init__()
            prior = nn.GaussianReg(0.0 * u.mV, std=1.0 * u.mV, fit_hyper=True)
            self.mu = nn.Param(jnp.zeros(4) * u.mV, reg=prior)

        def __call__(self):
            return infer.of_quantities(dist.Normal, self.mu.value(), 1.0 * u.mV)

    y = np.array([3.0, -2.0, 4.0, -1.0])
    fit = infer.marginal_likelihood(infer.Posterior(Means(), targets=jnp.asarray(y) * u.mV), **QUIET)
    assert fit.mode['mu.reg.std'].unit == u.mV
    assert float(fit.mode['mu.reg.mean'] / u.mV) == pytest.approx(y.mean(), abs=1e-3)
    assert float(fit.mode['mu.reg.std'] / u.mV) == pytest.approx(np.sqrt(y.var() - 1), rel=1e-3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        rng, one = np.random.default_rng(3), jnp.asarray(1.0)
        prior = nn.GaussianReg(0.0, std=nn.Param(one, t=nn.ExpT()))
        self.first = nn.Param(jnp.asarray(rng.normal(size=(5, 2))), reg=prior)
        self.last = nn.Param(jnp.asarray(rng.normal(size=2)), reg=dist.Normal(0.0, 2.0))
        self.noise = nn.Param(one, t=nn.SoftplusT())

    def __call__(self, x):
        return dist.Normal(jnp.tanh(x @ self.first.value()) @ self.last.value(), self.noise.value())


@pytest.mark.parametrize(
    ('kind', 'structure'),
    [
        ('hessian', 'full'),
        pytest.param('hessian', 'diagonal', marks=pytest.mark.slow),
        pytest.param('ggn', 'full', marks=pytest.mark.slow),
        ('ggn', 'diagonal'),
    ],
)
def test_the_gradient_goes_through_mode_and_curvature(kind, structure, x64):
    """Against central differences, in a network, where mode and curvature both move."""
    posterior = infer.Posterior(Net(), jnp.asarray(X), jnp.asarray(Y))
    target = posterior.sampling_target(True)
    density = target.density
    columns = columns_of(density)
    tuned = np.sort(np.concatenate([columns['first.reg.std'], columns['noise']]))
    inner = np.setdiff1d(np.arange(density.size), tuned)
    evidence = _Evidence(target, structure, kind, tuned, inner)
    evidence.move(np.asarray(target.start))
    found, theta, numeric = evidence.gradient(), evidence.point.theta.copy(), []
    for column in tuned:
        values = []
        for step in (1e-3, -1e-3):
            moved = theta.copy()
            moved[column] += step
            evidence.move(moved)
            values.append(evidence.value)
        numeric.append((values[0] - values[1]) / 2e-3)
    np.testing.assert_allclose(found, numeric, rtol=2e-3, atol=2e-3)


def test_a_network_is_tuned(x64):
    """Every step of the search improves, and its end is flat and at a mode."""
    posterior = infer.Posterior(Net(), jnp.asarray(X), jnp.asarray(Y))
    fit = infer.marginal_likelihood(posterior, params='noise', curvature='ggn', **QUIET)
    history = fit.history['log_marginal_likelihood']
    assert (np.diff(history) >= 0).all() and history[-1] > history[0] + 5
    assert fit.info['slope'] < 0.01 and fit.info['distance'] < 0.01


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(5), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


REFUSED = [
    (Bare, {}, "nothing to tune: no prior has a hyper-parameter .*fit_hyper=True.*params='sigma'"),
    (Bare, {'params': 'w'}, 'All Params are tuned: there is nothing left to integrate'),
    (Bare, {'params': 'v'}, r"'v' matches no parameter; the paths are \['w'\]"),
    (Bare, {'params': 'w', 'structure': 'kronecker'}, "must be one of \\['full', 'diagonal'\\], got 'kronecker'"),
]


@pytest.mark.parametrize('model, kwargs, message', REFUSED)
def test_what_is_refused(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        infer.marginal_likelihood(ridge(model), **kwargs, **QUIET)


def test_few_steps_end_with_a_warning():
    with pytest.warns(infer.ConvergenceWarning, match='search of 1 steps ended where .* still has the slope'):
        infer.marginal_likelihood(ridge(), params='noise', num_steps=1, **QUIET)


def test_a_second_fit_compiles_nothing():
    infer.marginal_likelihood(ridge(), params='noise', **QUIET)
    with compilations() as events:
        infer.marginal_likelihood(ridge(shift=0.2), params='noise', seed=1, **(QUIET | {'num_draws': 40}))
    assert events == []
