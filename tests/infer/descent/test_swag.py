"""SWAG: moments and draws against NumPy, the path against NumPy's, the known law of SGD on a normal posterior."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy.linalg import solve_discrete_lyapunov

from brainstate_prob import infer, nn, random
from brainstate_prob.infer.descent.swag import collect, draw_from, no_moments
from tests.support.rich_model import compilations

# Paths here are short, and most see all data, without noise: that this is told is a test of its own (test_spread.py).
pytestmark = pytest.mark.filterwarnings('ignore:The draws of SWAG')


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


X = np.asarray(jax.random.normal(jax.random.key(1), (60, 2)) * jnp.array([1.0, 0.5]))
Y = np.asarray(X @ np.array([1.0, -2.0]) + jax.random.normal(jax.random.key(2), (60,)), np.float32)
PRECISION = np.asarray(X, float).T @ X + np.eye(2)
MEAN = np.linalg.solve(PRECISION, np.asarray(X, float).T @ Y)


def moments_of(path, rank):
    moments = no_moments(jnp.zeros(path.shape[1]), rank)
    step = jax.jit(collect)
    for theta in path:
        moments = step(moments, theta)
    return moments


@pytest.mark.parametrize('number, rank', [(2, 5), (5, 5), (13, 5), (9, 1)])
def test_moments_are_those_of_the_path(number, rank):
    path = np.random.default_rng(0).normal(size=(number, 3)).astype(np.float32) + 1000.0  # float32 would cancel
    moments = moments_of(path, rank)
    exact = path.astype(float)
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.squares / number, exact.var(0), rtol=2e-3, atol=1e-6)
    deviations = np.stack([exact[i] - exact[: i + 1].mean(0) for i in range(number)])[-rank:]
    found = np.asarray(moments.deviations)
    np.testing.assert_allclose(found.T @ found, deviations.T @ deviations, rtol=1e-2, atol=1e-2)
    assert moments.number == number and found.shape == (rank, 3)


@pytest.mark.parametrize('number, rank, scale', [(4, 10, 1.0), (12, 10, 2.0)])
def test_draws_have_the_covariance_of_the_paper(number, rank, scale):
    path = np.random.default_rng(1).normal(size=(number, 3)) @ np.array([[1.0, 0.8, 0], [0, 1.0, 0], [0, 0, 0.1]])
    moments = moments_of(path, rank)
    deviations = np.asarray(moments.deviations)
    kept = min(number, rank)
    covariance = scale * 0.5 * (np.diag(path.var(0)) + deviations.T @ deviations / (kept - 1))
    draws = jax.vmap(lambda key: draw_from(moments, key, jnp.float32(scale)))(
        jax.random.split(jax.random.key(0), 20000)
    )
    z = (np.asarray(draws, float) - path.mean(0)) / np.sqrt(np.diag(covariance))
    # Standard errors 0.007 of means and correlations, 0.01 of variances: 5 of them, nine numbers, one run in 10^5
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(20000)
    expected = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(z.T @ z / 20000, expected, atol=5 * np.sqrt(2 / 20000))


def test_the_path_is_that_of_sgd_on_the_loss_of_one_observation():
    start = np.array([3.0, 1.0])
    run = {'optimizer': optax.sgd(0.3, momentum=0.5), 'num_steps': 60, 'snapshot_every': 7, 'rank': 3}
    posterior = infer.Posterior(Line(), X, Y)
    fit = infer.swag(posterior, init=jnp.asarray(start), num_draws=5000, **run, progress=False)
    theta, v, path = start, np.zeros(2), []
    for t in range(60):
        v = 0.5 * v + PRECISION @ (theta - MEAN) / 60
        theta = theta - 0.3 * v
        if (t + 1) % 7 == 0:
            path.append(theta)
    path = np.array(path)
    assert (fit.info['num_snapshots'], fit.info['rank']) == (8, 3)
    draws = np.asarray(fit.draws['w'], float)[0]
    deviations = np.stack([path[i] - path[: i + 1].mean(0) for i in range(8)])[-3:]
    covariance = 0.5 * (np.diag(path.var(0)) + deviations.T @ deviations / 2)
    scale = np.sqrt(np.diag(covariance))
    z = (draws - path.mean(0)) / scale
    # 5 standard errors of means and products, five numbers: one run in 300,000
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(5000)
    np.testing.assert_allclose(z.T @ z / 5000, covariance / np.outer(scale, scale), atol=5 * np.sqrt(2 / 5000))
    mean = infer.swag(posterior, init=jnp.asarray(start), num_draws=2, scale=0.0, **run, progress=False)
    np.testing.assert_allclose(mean.draws['w'][0], np.tile(path.mean(0), (2, 1)), rtol=1e-5)  # no spread: the mean


def test_the_spread_is_that_of_sgd_with_independent_batches():
    """At a constant rate SGD on a quadratic is a linear recursion, whose stationary covariance is known."""
    rate, size, num, steps = 0.3, 4, 60, 2000
    rows = np.random.default_rng(0).integers(num, size=(steps, size))
    fit = infer.swag(
        infer.Posterior(Line(), X, Y),
        init=jnp.asarray(MEAN),
        optimizer=optax.sgd(rate),
        batches=((X[r], Y[r]) for r in rows),
        num_observations=num,
        num_steps=steps,
        snapshot_every=2,
        rank=300,
        num_draws=4000,
        progress=False,
    )
    gradients = (np.asarray(X, float) @ MEAN - Y)[:, None] * X  # of each observation's loss
    noise = np.cov(gradients.T, bias=True) / size
    expected = solve_discrete_lyapunov(np.eye(2) - rate * PRECISION / num, rate**2 * noise)
    draws = np.asarray(fit.draws['w'], float)[0]
    # About 300 independent points: the variances' standard error is 8 %, that of the low-rank half 12 %
    np.testing.assert_allclose(draws.var(0), np.diag(expected), rtol=0.4)
    assert np.abs((draws.mean(0) - MEAN) / np.sqrt(np.diag(expected))).max() < 5 / np.sqrt(300)
    assert fit.info['scale'] == 15.0 and fit.history['loss'].shape == (steps,)


def small(x=X, y=Y, **kwargs):
    options = {'num_steps': 40, 'snapshot_every': 5, 'num_draws': 8, 'init': jnp.ones(2), 'progress': False}
    return infer.swag(infer.Posterior(Line(), x, y), **options | kwargs)


def test_it_starts_from_a_fit_or_looks_for_the_mode():
    posterior = infer.Posterior(Line(), X, Y)
    mode = infer.map(posterior, jacobian=True, progress=False)
    still = {'optimizer': optax.sgd(1e-8), 'num_steps': 4, 'snapshot_every': 2, 'num_draws': 3, 'progress': False}
    for init in (mode, 'map'):
        fit = infer.swag(posterior, init=init, **still)
        np.testing.assert_allclose(fit.draws['w'][0, 0], MEAN, rtol=1e-3)


def test_a_second_fit_compiles_nothing_and_more_draws_keep_the_first():
    first = small(batch_size=10)
    with compilations() as events:
        small(X + 1.0, Y - 1.0, batch_size=10, num_steps=60, num_draws=300, seed=4)
        more = small(batch_size=10, num_draws=300)
    assert not events
    np.testing.assert_array_equal(more.thetas[:, :8], first.thetas)


@pytest.mark.parametrize('kwargs', [{'batch_size': 10}, {'batches': [(X, Y)], 'num_observations': 60}])
def test_a_fit_that_was_interrupted_goes_on_to_the_same_draws(kwargs, tmp_path):
    class Killed(BaseException):  # nothing is saved at it
        pass

    def kill(progress):
        if progress.step >= 21:
            raise Killed

    whole, path = small(**kwargs), tmp_path / 'run.ckpt'
    with pytest.raises(Killed):
        small(**kwargs, checkpoint=path, checkpoint_every=7, callbacks=kill)
    resumed = small(**kwargs, checkpoint=path, checkpoint_every=7)
    np.testing.assert_array_equal(resumed.thetas, whole.thetas)
    np.testing.assert_array_equal(resumed.history['loss'], whole.history['loss'])
    with pytest.raises(ValueError, match='the checkpoint of another run'):
        small(**kwargs, checkpoint=path, seed=1)


def test_the_learning_rate_by_the_curvature():
    fit = small()
    assert fit.info['learning_rate'] == pytest.approx(0.02 * 60 / np.linalg.eigvalsh(PRECISION)[-1], rel=0.02)
    assert 'learning_rate' not in small(optimizer=optax.sgd(1e-2)).info
    steep = small(1000.0 * X, Y)  # a rate that is stable whatever the scale
    assert np.isfinite(steep.thetas).all() and steep.history['loss'][-1] < steep.history['loss'][0]


def test_units_and_a_horseshoe_are_taken_along():
    class Wait(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(20.0 * u.ms, t=nn.SoftplusT(0.0 * u.ms), reg=nn.GammaReg(alpha=2.0, beta=0.1 / u.ms))
            self.sparse = nn.Param(jnp.array([0.1, -0.2]), reg=nn.HorseshoeReg(tau=0.5))

        def __call__(self):
            rate = 1.0 / (self.tau.value() / u.ms + self.sparse.value().sum() ** 2)
            return infer.with_unit(dist.Exponential(rate), u.ms)

    posterior = infer.Posterior(Wait(), targets=jnp.array([10.0, 20.0, 30.0]) * u.ms)
    fit = infer.swag(posterior, init='model', num_steps=40, snapshot_every=5, num_draws=6, progress=False)
    assert fit.draws['tau'].unit == u.ms and (fit.draws['tau'].mantissa > 0).all()
    assert fit.draws['sparse'].shape == (1, 6, 2) and fit.predict().unit == u.ms


class Dropped(Line):
    def __call__(self, x):
        return dist.Normal((x * random.bernoulli(0.5, size=x.shape)) @ self.w.value(), 1.0)


REFUSED = [
    ({'num_steps': 9}, ValueError, 'give 1 snapshots; a covariance needs two'),
    ({'rank': 0}, ValueError, 'rank must be an int of at least 1'),
    ({'scale': -1.0}, ValueError, 'scale must be a number of at least 0'),
    ({'optimizer': 'lbfgs'}, ValueError, 'an optax optimizer such as'),
    ({'optimizer': 3}, ValueError, 'must be an optax optimizer'),
    ({'init': 'here'}, ValueError, "init must be one of .* got 'here'"),
    ({'init': 'map', 'batches': [(X, Y)], 'num_observations': 60}, ValueError, 'give init='),
    ({'batches': [(X, Y)]}, ValueError, 'batches= needs num_observations='),
    ({'optimizer': optax.sgd(1e6)}, ValueError, 'The loss became'),
]


@pytest.mark.parametrize('kwargs, error, message', REFUSED)
def test_what_is_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        small(**kwargs)


def test_random_models_are_refused():
    with pytest.raises(ValueError, match='draws random numbers when it is called'):
        infer.swag(infer.Posterior(Dropped(), X, Y), progress=False)
