"""Stochastic-gradient MCMC: the exact stationary law of the steps, posteriors in closed form, cycles, resuming."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy.linalg import solve_discrete_lyapunov

from brainstate_prob import infer, nn
from brainstate_prob.infer.run.chains import Runner
from tests.support.rich_model import compilations

# Runs here are short, and laws are compared over all chains; that chains which disagree are told is a test of its own.
pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')


class Line(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.w = nn.Param(jnp.zeros(size), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


def line_data(num=60, scales=(1.0, 0.5)):
    x = jax.random.normal(jax.random.key(1), (num, len(scales))) * jnp.array(scales)
    x = x.at[:, 0].add(0.5 * x[:, 1])
    return np.asarray(x), np.asarray(x[:, 0] - 2.0 * x[:, 1] + jax.random.normal(jax.random.key(2), (num,)))


X, Y = line_data()
PRECISION = np.asarray(X, float).T @ X + np.eye(2)
MEAN = np.linalg.solve(PRECISION, np.asarray(X, float).T @ Y)
CHAINS = 32  # in all tests: one number, few programs
RUN = {'num_warmup': 300, 'num_samples': 600, 'num_chains': CHAINS, 'progress': False}


def thinned(thinning, kept=RUN['num_samples']):
    return RUN | {'thinning': thinning, 'num_samples': kept * thinning}


def stationary_covariance(method, eps, friction=0.1, precision=PRECISION):
    """Of the position under the noisy linear recursion that the steps are for a normal posterior."""
    eye, size = np.eye(len(precision)), len(precision)
    if method == 'sgld':
        return solve_discrete_lyapunov(eye - eps * precision, 2 * eps * eye)
    keep = (1 - friction) * eye
    step = np.block([[eye - eps * precision, keep], [-eps * precision, keep]])
    noise = 2 * friction * eps * np.kron(np.ones((2, 2)), eye)
    return solve_discrete_lyapunov(step, noise)[:size, :size]


def check_moments(w, mean, covariance, slack=0.0):
    """Mean and covariance of draws (chains, draws, size), by the spread between independent chains.

    Student's t with 31 degrees of freedom exceeds 6.5 three times in ten million; five numbers are compared: a false
    alarm in about one run of 600,000.
    """
    w = np.asarray(w, float)
    scale = np.sqrt(np.diag(covariance))
    z = (w - mean) / scale
    found = [z.mean(1)] + [(z[..., [i]] * z[..., i:]).mean(1) for i in range(w.shape[-1])]
    correlation = covariance / np.outer(scale, scale)
    expected = [np.zeros(w.shape[-1])] + [correlation[i, i:] for i in range(w.shape[-1])]
    for a, b in zip(found, expected, strict=True):
        error = a.std(0, ddof=1) / np.sqrt(len(a))
        np.testing.assert_array_less(np.abs(a.mean(0) - b), 6.5 * error + slack)


@pytest.mark.parametrize('method, eps', [('sgld', 0.01), ('sgld', 0.002), ('sghmc', 0.005), ('sghmc', 0.0005)])
def test_full_data_steps_have_their_exact_stationary_law(method, eps):
    posterior = infer.Posterior(Line(), X, Y)
    fit = infer.sgmcmc(posterior, method=method, step_size=eps, **thinned(3))
    covariance = stationary_covariance(method, eps)
    check_moments(fit.draws['w'], MEAN, covariance)
    bias = np.diag(covariance) / np.diag(np.linalg.inv(PRECISION))
    assert bias.max() > 1.1 or eps < 0.01  # the largest step is off by more than a tenth, and the test sees that


@pytest.mark.parametrize(
    'method, eps, source', [('sgld', 5e-4, 'arrays'), ('sghmc', 2e-5, 'arrays'), ('sghmc', 2e-5, 'iterable')]
)
def test_minibatches_have_the_posterior_at_small_steps(method, eps, source):
    posterior = infer.Posterior(Line(), X, Y)
    batches = [(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40)]
    where = {'batch_size': 20} if source == 'arrays' else {'batches': batches, 'num_observations': 60}
    many = source == 'arrays'
    run = thinned(15, 200) if many else thinned(5, 150)
    fit = infer.sgmcmc(posterior, method=method, step_size=eps, init=jnp.asarray(MEAN), **run, **where)
    # Beside the sampling error: the step's own bias, below 2 %, and that of the gradient's noise, as much.
    check_moments(fit.draws['w'], MEAN, np.linalg.inv(PRECISION), slack=0.05 if many else 0.2)
    assert (fit.info['scale'], fit.info['batch_size'], fit.info['num_observations']) == (3.0, 20, 60)
    assert fit.is_markov and fit.thetas.shape == (CHAINS, run['num_samples'] // run['thinning'], 2)


@pytest.mark.parametrize('method', ['sgld', 'sghmc'])
@pytest.mark.parametrize('batch_size', [None, 20])
def test_the_step_size_by_the_curvature(method, batch_size):
    posterior = infer.Posterior(Line(), X, Y)
    run = thinned(40 if batch_size else 5, 200) | {'init': jnp.asarray(MEAN)}
    fit = infer.sgmcmc(posterior, method=method, batch_size=batch_size, **run)
    share = 1.0 if batch_size is None else (1.0 if method == 'sgld' else 0.1) / 3
    assert fit.info['step_size'] == pytest.approx(0.2 * share / np.linalg.eigvalsh(PRECISION)[-1], rel=0.02)
    # Variances are too large by at most a tenth for the step and a tenth for the noise.
    check_moments(fit.draws['w'], MEAN, np.linalg.inv(PRECISION), slack=0.2)


def test_a_step_size_needs_a_curvature():
    model = Line()
    model.w = nn.Param(jnp.zeros(2))
    posterior = infer.Posterior(model, log_likelihood=lambda model: model.w.value().sum())
    with pytest.raises(ValueError, match='curvature .* is 0.0, .* Give step_size'):
        infer.sgmcmc(posterior, progress=False)


def test_the_preconditioner_evens_out_the_scales():
    method, eps = 'sgld', 2e-5
    x = np.asarray(jax.random.normal(jax.random.key(1), (60, 2)) * jnp.array([1.0, 10.0]))
    y = x[:, 0] - x[:, 1]
    precision = np.asarray(x, float).T @ x + np.eye(2)
    covariance = np.linalg.inv(precision)
    mean = covariance @ (np.asarray(x, float).T @ y)
    posterior = infer.Posterior(Line(), x, y)
    run = thinned(20, 200) | {'num_warmup': 2000, 'init': jnp.asarray(mean)}
    fit = infer.sgmcmc(posterior, method=method, step_size=eps, precondition=True, **run)
    check_moments(fit.draws['w'], mean, covariance, slack=0.1)
    plain = infer.sgmcmc(posterior, method=method, step_size=eps, **run)

    def correlation(fit):  # of one draw with the next, in the direction where the posterior is wide
        z = (np.asarray(fit.draws['w'], float) - mean) @ np.linalg.eigh(covariance)[1][:, -1]
        return np.mean(z[:, 1:] * z[:, :-1]) / np.mean(z**2)

    assert correlation(fit) < 0.9 < correlation(plain)


# Cycles


@pytest.mark.parametrize('method', ['cyclical_sgld', 'cyclical'])
def test_cycles_explore_without_noise_and_sample_with_it(method):
    posterior = infer.Posterior(Line(), X, Y)
    eps, explore, kept, friction = 0.004, 40, 5, 0.3
    fit = infer.sgmcmc(
        posterior,
        method=method,
        step_size=eps,
        num_warmup=2 * explore,
        num_samples=2 * kept * 2,
        num_chains=CHAINS,
        num_cycles=2,
        thinning=2,
        friction=friction,
        init=jnp.zeros(2),
        progress=False,
    )
    assert fit.method == ('cyclical_sghmc' if method == 'cyclical' else method) and fit.info['num_cycles'] == 2
    length = explore + 2 * kept
    sizes = 0.5 * eps * (1 + np.cos(np.pi * np.arange(length) / length))
    np.testing.assert_allclose(fit.stats['step_size'][5], np.tile(sizes[explore + 1 :: 2], 2), rtol=1e-5)
    # Up to the first draw the chains are the noise-free recursion, then two noisy steps.
    theta, v = np.zeros(2), np.zeros(2)
    keep = 0.0 if method == 'cyclical_sgld' else 1 - friction
    for t in range(explore + 2):
        v = keep * v + sizes[t] * PRECISION @ (MEAN - theta)
        theta = theta + v
    shift = np.asarray(fit.draws['w'], float)[:, 0] - theta
    strength = 1.0 if method == 'cyclical_sgld' else friction
    per_step = 2 * strength * sizes[explore]
    between = 1.0 if method == 'cyclical_sgld' else (1 + keep) ** 2
    expected = np.sqrt(per_step * (1 + between))  # the pull back within one step is below 1 %
    # 64 normal numbers: their sd is off by 0.4 once in 100,000 runs, and a mean of 32 by 4.5 standard errors
    assert abs(shift.std() / expected - 1) < 0.4 and np.abs(shift.mean(0)).max() < 4.5 * expected / np.sqrt(CHAINS)


def test_a_schedule_is_a_function_of_the_steps_done():
    posterior = infer.Posterior(Line(), X, Y)
    schedule = optax.polynomial_schedule(1e-2, 1e-3, 1.0, 30)
    fit = infer.sgmcmc(
        posterior, method='sgld', step_size=schedule, num_warmup=10, num_samples=30, num_chains=CHAINS, thinning=3,
        progress=False,
    )  # fmt: skip
    expected = [float(schedule(t)) for t in range(12, 40, 3)]
    np.testing.assert_allclose(fit.stats['step_size'], np.tile(expected, (CHAINS, 1)), rtol=1e-5)


# How it runs


def small(**kwargs):
    options = {'step_size': 1e-3, 'num_warmup': 30, 'num_samples': 24, 'num_chains': CHAINS, 'progress': False}
    return infer.sgmcmc(infer.Posterior(Line(), X, Y), **options | kwargs)


def test_chains_are_the_same_however_they_run():
    one = small(batch_size=20)
    for way in ({'chain_method': 'sequential'}, {'devices': 2}):
        other = small(batch_size=20, **way)
        np.testing.assert_allclose(other.thetas, one.thetas, rtol=1e-3, atol=1e-5)  # rounding, along 54 steps
    assert other.info['chains_ran'] == 'on 2 devices'
    assert not np.allclose(one.thetas[0], one.thetas[1])
    np.testing.assert_array_equal(small(batch_size=20).thetas, one.thetas)
    assert not np.array_equal(small(batch_size=20, seed=1).thetas, one.thetas)


def test_a_second_run_compiles_nothing():
    def run(posterior, **kwargs):
        infer.sgmcmc(posterior, **kwargs, num_chains=CHAINS, batch_size=20, progress=False)

    first, second = infer.Posterior(Line(), X, Y), infer.Posterior(Line(), X + 1.0, Y - 1.0)  # each traces once
    run(first, step_size=1e-4, num_warmup=10, num_samples=10)
    with compilations() as events:
        run(second, step_size=2e-4, num_warmup=70, num_samples=30, thinning=4, seed=5, friction=0.2)
    assert not events


@pytest.mark.parametrize(
    'kwargs',
    [
        {'batch_size': 20, 'thinning': 3},
        {'method': 'cyclical', 'num_cycles': 3, 'num_warmup': 60},
        {'batches': [(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40)], 'num_observations': 60},
    ],
    ids=['thinned', 'cycles', 'batches'],
)
def test_a_run_that_was_interrupted_goes_on_to_the_same_draws(kwargs, tmp_path, monkeypatch):
    whole, path = small(**kwargs), tmp_path / 'run.ckpt'
    real, calls = Runner.step, []

    def killed(self, *args):
        calls.append(1)
        if len(calls) > (6 if 'batches' not in kwargs else 45):
            raise SystemExit
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, 'step', killed)
        with pytest.raises(SystemExit):
            small(**kwargs, checkpoint=path, checkpoint_every=7)
    resumed = small(**kwargs, checkpoint=path, checkpoint_every=7)
    np.testing.assert_array_equal(resumed.thetas, whole.thetas)
    np.testing.assert_array_equal(resumed.stats['step_size'], whole.stats['step_size'])
    with pytest.raises(ValueError, match='the checkpoint of another run: .*seed'):
        small(**kwargs, checkpoint=path, seed=9)
    if 'method' not in kwargs:  # without cycles a finished run may be asked for more draws
        more = small(**kwargs, checkpoint=path, num_samples=30)
        np.testing.assert_array_equal(more.thetas, small(**kwargs, num_samples=30).thetas)


@pytest.mark.slow
def test_double_precision(x64):
    class Double(Line):
        def __init__(self):
            nn.Module.__init__(self)
            self.w = nn.Param(np.zeros(2), reg=dist.Normal(0.0, 1.0))

    posterior = infer.Posterior(Double(), X.astype(float), Y.astype(float))
    fit = infer.sgmcmc(posterior, num_warmup=20, num_samples=20, num_chains=2, batch_size=20, progress=False)
    assert fit.thetas.dtype == np.float64 and np.isfinite(fit.thetas).all()
    path = infer.swag(posterior, init='model', num_steps=20, snapshot_every=5, num_draws=3, progress=False)
    members = infer.ensemble(posterior, num_members=2, num_steps=20, batch_size=20, progress=False)
    assert path.thetas.dtype == members.thetas.dtype == np.float64


def test_units_and_transforms():
    class Wait(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(20.0 * u.ms, t=nn.SoftplusT(0.0 * u.ms), reg=nn.GammaReg(alpha=2.0, beta=0.1 / u.ms))

        def __call__(self):
            return infer.of_quantities(dist.Exponential, 1.0 / self.tau.value())

    posterior = infer.Posterior(Wait(), targets=jnp.array([10.0, 20.0, 30.0]) * u.ms)
    fit = infer.sgmcmc(posterior, step_size=0.05, num_samples=50, num_chains=2, progress=False)
    assert fit.draws['tau'].unit == u.ms and (fit.draws['tau'].mantissa > 0).all()
    assert fit.predict(num_draws=4).unit == u.ms


class Dropped(Line):
    def __call__(self, x):
        from brainstate_prob import random

        return dist.Normal((x * random.bernoulli(0.5, size=x.shape)) @ self.w.value(), 1.0)


REFUSED = [
    ({'method': 'hmc'}, ValueError, r"method must be one of \['sgld', .*got 'hmc'"),
    ({'step_size': 0.0}, ValueError, 'step_size must be a positive number or a function'),
    ({'friction': 1.0}, ValueError, 'friction must be a number between 0 and 1'),
    ({'num_samples': 0}, ValueError, 'num_samples must be an int of at least 1'),
    ({'num_warmup': -1}, ValueError, 'num_warmup must be an int of at least 0'),
    ({'num_warmup': 0, 'precondition': True}, ValueError, 'precondition=True is learned in the warm-up'),
    ({'method': 'cyclical', 'num_samples': 10}, ValueError, 'num_samples=10 must be a multiple of num_cycles=4'),
    ({'method': 'cyclical', 'num_samples': 12, 'thinning': 2}, ValueError, r'multiple of num_cycles=4 \* thinning=2'),
    ({'thinning': 25}, ValueError, 'thinning=25 keeps none of num_samples=24 draws'),
    ({'devices': 3}, ValueError, r'devices=3, but there are 2: .*xla_force_host_platform_device_count'),
    ({'batches': [(X, Y)]}, ValueError, 'batches= needs num_observations='),
    (
        {'batches': iter([(X, Y)]), 'num_observations': 60},
        ValueError,
        'batches ended before the first draw, after 1 steps',
    ),
    ({'batch_size': 61}, ValueError, 'from 1 to the number of observations 60'),
    ({'step_size': 1e3}, ValueError, 'became non-finite within step'),
]


@pytest.mark.parametrize('kwargs, error, message', REFUSED)
def test_what_is_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        small(**kwargs)


def test_random_models_and_clipped_parameters_are_refused():
    with pytest.raises(ValueError, match='draws random numbers when it is called'):
        infer.sgmcmc(infer.Posterior(Dropped(), X, Y), progress=False)
    model = Line()
    model.w = nn.Param(jnp.zeros(2), t=nn.ClipT(-1.0, 1.0))
    with pytest.raises(ValueError, match=r"Param 'w': .*ClipT"):
        infer.sgmcmc(infer.Posterior(model, X, Y), progress=False)


def test_chains_that_do_not_meet_are_told():
    apart = np.repeat([[-3.0], [3.0]], 2, axis=1).astype(np.float32)
    settings = {'step_size': 1e-9, 'num_warmup': 1, 'num_samples': 400, 'num_chains': 2, 'progress': False}
    with pytest.warns(infer.ConvergenceWarning, match=r"R-hat of 'w\[.\]' is .*have not mixed"):
        fit = infer.sgmcmc(infer.Posterior(Line(), X, Y), init=apart, **settings)
    assert len([text for text in fit.check().problems if 'R-hat' in text]) == 1
