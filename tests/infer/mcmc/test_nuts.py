"""NUTS: NumPyro's draws, any way the chains run; nothing compiled twice; starts, statistics and refusals."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.hmc import hmc

from brainstate_prob import infer, nn
from brainstate_prob.infer.mcmc.adaptation import schedule
from brainstate_prob.infer.mcmc.kernel import STATS, Settings, nuts_starts, nuts_step
from brainstate_prob.infer.results.arviz_io import import_arviz
from brainstate_prob.infer.run import chains
from brainstate_prob.infer.run.inference_loop import inference_loop
from brainstate_prob.infer.run.starts import draw_from_prior
from tests.support.reference_models import Regression
from tests.support.rich_model import compilations
from tests.support.slow_rows import slow_rows

# Most runs here are too short to converge; that runs which should be quiet are is asserted where they are.
pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')


def regression(seed=0, num=40, size=3):
    x = jax.random.normal(jax.random.key(seed), (num, size))
    y = x @ jnp.arange(1.0, size + 1) + 0.5 * jax.random.normal(jax.random.key(seed + 1), (num,))
    return infer.Posterior(Regression(size), x, y)


def quick(posterior, **settings):
    settings = {'num_warmup': 150, 'num_samples': 100, 'num_chains': 2, 'progress': False} | settings
    return infer.nuts(posterior, **settings)


# The draws


@pytest.mark.parametrize('mass_matrix', ['diagonal', 'full'])
def test_the_draws_are_those_of_numpyro(x64, mass_matrix):
    """Warm-up told by codes, and NumPyro's own: the same states after every step, through several windows."""
    posterior = regression()
    density, data = posterior.density, posterior.data
    key, theta = jax.random.key(3), posterior.theta + 0.1
    num_warmup, num_samples = 180, 10
    init, sample = hmc(lambda t: -density.log_density(t, data), algo='NUTS')
    state = init(
        theta,
        num_warmup=num_warmup,
        dense_mass=mass_matrix == 'full',
        max_tree_depth=6,
        trajectory_length=None,
        rng_key=key,
    )
    theirs = jax.jit(lambda s: jax.lax.scan(lambda s, _: (sample(s),) * 2, s, length=num_warmup + num_samples))(state)[
        1
    ]

    settings = Settings(mass_matrix=mass_matrix, max_tree_depth=6)
    ours, found = jax.jit(nuts_starts(settings).chain(density))(theta, key, data)
    actions = np.zeros(500, np.int32)
    actions[:num_warmup] = schedule(num_warmup)
    advance = jax.jit(inference_loop(density, nuts_step(density, settings), STATS))
    _, draws, stats = advance(ours, data, actions, num_warmup + num_samples, 1, 0.8)
    total = num_warmup + num_samples
    assert found
    # Rounding grows along a chain: in double precision to 4e-6 at the last of these steps, with one XLA or another.
    np.testing.assert_allclose(draws[:150], theirs.z[:150], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(draws[:total], theirs.z, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(stats['n_steps'][:total], theirs.num_steps)
    # The step size hangs on the last trajectory's acceptance, the most sensitive of all.
    np.testing.assert_allclose(stats['step_size'][:total], theirs.adapt_state.step_size, rtol=1e-4)
    # The energy is a sum of float32 terms that are larger than it; the order of summation is the compiler's.
    np.testing.assert_allclose(stats['energy'][:total], theirs.energy, rtol=1e-5)


@pytest.mark.parametrize('num_warmup', [1, 19, 20, 149, 150, 1000])
def test_the_schedule_is_stans(num_warmup):
    from numpyro.infer.hmc_util import build_adaptation_schedule

    actions = schedule(num_warmup)
    ends = [w.end for w in build_adaptation_schedule(num_warmup)[1:-1]]
    assert len(actions) == num_warmup and actions[-1] == 4
    assert np.flatnonzero(actions == 3).tolist() == ends


def test_a_known_posterior_in_both_precisions():
    """A conjugate normal mean: posterior Normal(8 / 5, 1 / 5)."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(jnp.zeros(()), reg=dist.Normal(0.0, 1.0))

        def __call__(self):
            return dist.Normal(self.mu.value(), 1.0)

    for x64, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(x64):
            posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 2.0, 3.0, 2.0]))
            fit = infer.nuts(posterior, num_warmup=300, num_samples=1500, num_chains=2, progress=False)
            mu = fit.draws['mu']
            assert mu.dtype == dtype and fit.info['warnings'] == []
            # About 1200 effective draws: 5 standard errors of the mean are 0.065, of the sd 0.05.
            assert abs(mu.mean() - 1.6) < 0.065
            assert abs(mu.std() - 5**-0.5) < 0.05


@pytest.mark.filterwarnings('ignore:The parameters of the model are float32')
def test_float32_parameters_under_x64():
    posterior = regression()
    with jax.enable_x64(True):
        fit = quick(posterior)
        assert fit.thetas.dtype == np.float32 and fit.stats['lp'].dtype == np.float64
        assert np.isfinite(fit.thetas).all()


# Ways to run chains


@pytest.fixture(scope='module')
def sequential():
    return quick(regression(), chain_method='sequential', seed=7)


def test_threads_give_the_same_draws_bit_for_bit(sequential):
    fit = quick(regression(), chain_method='parallel', seed=7)
    assert fit.info['chains_ran'].endswith('threads') or fit.info['chains_ran'] == 'in 1 threads'
    np.testing.assert_array_equal(fit.thetas, sequential.thetas)


@pytest.mark.parametrize(
    'how', [{'chain_method': 'vectorized'}, {'devices': True}, {'devices': True, 'chain_method': 'parallel'}]
)
def test_other_ways_give_the_same_chain_up_to_rounding(how, x64):
    """Float64, few steps: later, rounding has grown."""
    if 'devices' in how:
        how = {**how, 'devices': jax.devices()}
    few = {'num_warmup': 15, 'num_samples': 10, 'seed': 7}
    one, other = quick(regression(), chain_method='sequential', **few), quick(regression(), **how, **few)
    np.testing.assert_allclose(other.thetas, one.thetas, rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(other.stats['n_steps'], one.stats['n_steps'])
    if 'devices' in how:
        np.testing.assert_array_equal(other.thetas, one.thetas)
        assert other.info['chains_ran'] == f'on {len(jax.devices())} devices' and len(jax.devices()) > 1


def test_chains_that_the_devices_do_not_divide():
    three, four = (
        quick(regression(), num_chains=n, num_warmup=5, num_samples=5, devices=jax.devices()[:2]) for n in (3, 4)
    )
    assert three.info['chains_ran'] == four.info['chains_ran'] == 'on 2 devices'
    np.testing.assert_array_equal(three.thetas, four.thetas[:3])


def test_a_chain_does_not_depend_on_how_many_there_are(sequential):
    fit = quick(regression(), chain_method='sequential', seed=7, num_chains=1)
    np.testing.assert_array_equal(fit.thetas[0], sequential.thetas[0])


def test_seeds(sequential):
    same = quick(regression(), chain_method='sequential', seed=jax.random.key(7))
    np.testing.assert_array_equal(same.thetas, sequential.thetas)
    assert not np.array_equal(sequential.thetas[0], sequential.thetas[1])
    other = quick(regression(), chain_method='sequential', seed=8)
    assert not np.array_equal(other.thetas, sequential.thetas)


def test_more_samples_begin_with_the_same_draws(sequential):
    longer = quick(regression(), chain_method='sequential', seed=7, num_samples=130)
    np.testing.assert_array_equal(longer.thetas[:, :100], sequential.thetas)


def test_thinning_keeps_every_third_draw(sequential):
    thinned = quick(regression(), chain_method='sequential', seed=7, num_samples=100, thinning=3)
    np.testing.assert_array_equal(thinned.thetas, sequential.thetas[:, 2::3])
    steps = sequential.stats['n_steps'][:, :99].reshape(2, 33, 3)
    np.testing.assert_array_equal(thinned.stats['n_steps'], steps.sum(axis=2))
    np.testing.assert_array_equal(thinned.stats['tree_depth'], np.floor(np.log2(steps[..., 2])) + 1)


def test_the_statistics_have_arviz_names_and_are_true(sequential):
    stats = sequential.stats
    assert set(stats) == {
        'lp', 'energy', 'acceptance_rate', 'step_size', 'n_steps', 'tree_depth', 'diverging',
    }  # fmt: skip
    assert all(v.shape == (2, 100) for v in stats.values())
    posterior = regression()
    lp = [[float(posterior.log_density(t)) for t in chain[:5]] for chain in sequential.thetas]
    np.testing.assert_allclose(stats['lp'][:, :5], lp, rtol=1e-5)
    assert (stats['energy'] > -stats['lp']).all()  # the kinetic energy is positive
    assert (stats['n_steps'] <= 2 ** stats['tree_depth'] - 1).all()
    assert (stats['n_steps'] >= 2 ** (stats['tree_depth'] - 1)).all()
    assert ((stats['acceptance_rate'] > 0) & (stats['acceptance_rate'] <= 1)).all()
    assert (stats['step_size'] == stats['step_size'][:, :1]).all()  # fixed after the warm-up


# Compilation


@pytest.mark.parametrize('how', ['sequential', 'parallel', 'vectorized', 'devices'])
def test_a_second_run_traces_and_compiles_nothing(how):
    way = {'devices': jax.devices()} if how == 'devices' else {'chain_method': how}
    traces = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(0.3, reg=dist.Normal(0.0, 1.0))
            self.tau = nn.Param(1.0, t=nn.ExpT(), reg=dist.HalfNormal(1.0))

        def __call__(self, x):
            traces.append(x)
            return dist.Normal(self.mu.value() * x, self.tau.value())

    def run(seed, **lengths):
        x = jax.random.normal(jax.random.key(seed), (20,))
        posterior = infer.Posterior(Counted(), x, 2 * x + 1)  # another model object, other data of the same shape
        return infer.nuts(posterior, seed=seed, num_chains=2, progress=False, **lengths, **way)

    with compilations() as first:
        run(0, num_warmup=30, num_samples=20)
    assert first  # the listener hears
    assert traces
    traces.clear()
    with compilations() as second:
        run(1, num_warmup=41, num_samples=610, thinning=1)
        run(2, num_warmup=20, num_samples=30, thinning=3, target_accept=0.9)
    assert len(traces) == 2  # one of each new posterior
    assert second == []


# Starts


def test_starts_are_where_they_are_said_to_be():
    posterior = regression()
    mode = infer.map(posterior, jacobian=True, progress=False)
    given = np.arange(12.0).reshape(3, 4) / 10
    keys = (jax.random.split(jax.random.key(0), 3),) * 2

    def starts(init):
        return np.asarray(nuts_starts(Settings()).at(posterior.target, init, keys).theta)

    around = starts('model') - np.asarray(posterior.theta)
    assert (np.abs(around) <= 1).all() and np.abs(around).max() > 0.3 and not np.array_equal(around[0], around[1])
    assert np.abs(starts('map') - mode.thetas[0]).max() <= 0.1
    assert np.abs(starts(mode) - mode.thetas[0]).max() <= 0.1
    np.testing.assert_array_equal(starts(given), given.astype(np.float32))
    np.testing.assert_array_equal(starts(given[0]), np.tile(given[0].astype(np.float32), (3, 1)))
    run = quick(posterior)
    for start in starts(run):
        assert (run.thetas == start).all(axis=2).any()


class Hierarchy(nn.Module):
    """``tau`` is drawn before the parameter whose prior it scales, though its path comes later."""

    def __init__(self):
        super().__init__()
        self.tau = nn.Param(1.0, t=nn.ExpT(), reg=dist.LogNormal(5.0, 0.1))
        self.a = nn.Param(jnp.zeros(50), reg=nn.GaussianReg(0.0, self.tau))
        self.flat = nn.Param(0.25)

    def __call__(self):
        return dist.Normal(self.a.value(), 1.0)


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ModelWarning')  # one parameter keeps its prior
def test_prior_starts_draw_hyper_parameters_first():
    model = Hierarchy()
    drawn = draw_from_prior(model, jax.random.key(0))
    tau, a = float(drawn.tau.value()), np.asarray(drawn.a.value())
    assert 100 < tau < 220 and 0.6 < a.std() / tau < 1.5  # 50 draws: sd within 40 % except once in 1e4
    assert float(drawn.flat.value()) == 0.25 and float(model.tau.value()) == 1.0
    fit = quick(infer.Posterior(model, targets=jnp.zeros(50)), init='prior', num_warmup=2, num_samples=2)
    assert np.isfinite(fit.thetas).all()


class Cliff(nn.Module):
    """The density is not a number beyond 0.01 from the start."""

    def __init__(self, at=0.0):
        super().__init__()
        self.x = nn.Param(at, reg=dist.Normal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(jnp.sqrt(1e-4 - self.x.value() ** 2), 1.0)


def test_starts_are_retried_nearer_until_finite():
    fit = infer.nuts(infer.Posterior(Cliff(), targets=jnp.zeros(3)), num_warmup=1, num_samples=1, progress=False)
    assert (np.abs(fit.thetas) < 0.01).all()


# Where chains run


@pytest.mark.parametrize(
    ('backend', 'method', 'num_chains', 'chosen'),
    [
        ('cpu', None, 4, 'parallel'),
        ('cpu', None, 1, 'sequential'),
        ('cpu', 'vectorized', 4, 'vectorized'),
        ('gpu', None, 4, 'vectorized'),
        ('gpu', None, 1, 'sequential'),
        ('gpu', 'sequential', 4, 'sequential'),
        ('gpu', 'parallel', 1, 'parallel'),
    ],
)
def test_the_way_chains_run_is_chosen_for_the_machine(monkeypatch, backend, method, num_chains, chosen):
    """As on that machine; what runs is reported as ``info['chain_method']`` and ``info['chains_ran']``."""
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
    monkeypatch.setattr(chains, 'num_cores', lambda: 8)
    assert chains.choose_method(method, None, num_chains) == chosen


def test_one_accelerator_does_not_run_chains_in_parallel(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
    with pytest.raises(ValueError, match="there is one.*chain_method='vectorized'"):
        chains.choose_method('parallel', None, 4)


# Refusals


REFUSED = [
    ({'num_chains': 0}, ValueError, 'num_chains must be an int of at least 1, got 0'),
    ({'num_samples': -1}, ValueError, 'num_samples must be an int of at least 1'),
    ({'num_warmup': 0}, ValueError, 'num_warmup must be an int of at least 1'),
    ({'num_warmup': 10.0}, ValueError, 'num_warmup must be an int of at least 1, got 10.0'),
    ({'max_tree_depth': 0}, ValueError, 'max_tree_depth'),
    ({'thinning': 0}, ValueError, 'thinning must be an int of at least 1'),
    ({'thinning': 101}, ValueError, 'keeps none of num_samples=100'),
    ({'target_accept': 1.0}, ValueError, 'between 0 and 1, got 1'),
    ({'mass_matrix': 'dense'}, ValueError, r"mass_matrix must be one of \['diagonal', 'full', 'low_rank'\].*'dense'"),
    ({'backend': 'stan'}, ValueError, r"backend must be one of \['numpyro', 'blackjax', 'nutpie'\].*'stan'"),
    ({'warmup': 'fast'}, ValueError, r"warmup must be one of \['stan', 'gradient'\]"),
    ({'warmup': 'stan', 'mass_matrix': 'low_rank'}, ValueError, "by gradients only.*warmup='gradient'"),
    ({'warmup': 'stan', 'backend': 'nutpie'}, ValueError, "by gradients only.*warmup='gradient'"),
    ({'warmup': 'gradient', 'mass_matrix': 'full'}, ValueError, "no dense mass matrix.*'low_rank'"),
    ({'mass_matrix': 'full', 'backend': 'nutpie'}, ValueError, "no dense mass matrix.*'low_rank'"),
    ({'backend': 'nutpie', 'chain_method': 'vectorized'}, ValueError, 'threads or one after another'),
    ({'chain_method': 'pmap'}, ValueError, r"\['vectorized', 'sequential', 'parallel'\].*'pmap'"),
    ({'devices': []}, ValueError, 'at least one'),
    ({'devices': [0]}, ValueError, r'jax.devices\(\)'),
    ({'devices': jax.devices, 'chain_method': 'vectorized'}, ValueError, 'Drop one of them'),
    ({'init': 'mode'}, ValueError, r"\['model', 'map', 'pathfinder', 'prior'\].*'mode'"),
    ({'init': np.zeros(3)}, ValueError, r'shape \(4,\), or \(2, 4\) for 2 starts.*got \(3,\)'),
    ({'init': np.full(4, np.nan)}, ValueError, 'not finite'),
]


@pytest.mark.parametrize(('settings', 'error', 'message'), REFUSED, ids=range(len(REFUSED)))
def test_bad_arguments(settings, error, message):
    if settings.get('devices') is jax.devices:
        settings = {**settings, 'devices': jax.devices()}
    with pytest.raises(error, match=message):
        quick(regression(), **settings)


def test_what_cannot_be_sampled_is_refused_by_name():
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(0.5, t=nn.ClipT(0.0, 1.0))

        def __call__(self):
            return dist.Normal(self.w.value(), 1.0)

    with pytest.raises(ValueError, match=r"'w'.*SigmoidT"):
        quick(infer.Posterior(Clipped(), targets=jnp.zeros(3)))


def test_a_start_that_is_nowhere_finite_names_the_term():
    with pytest.raises(ValueError, match=r'not finite at the start.*likelihood'):
        posterior = infer.Posterior(Cliff(), targets=jnp.zeros(3))
        quick(posterior, init=np.array([2.0]))


def test_a_fit_of_other_parameters_is_no_start():
    other = infer.map(infer.Posterior(Cliff(), targets=jnp.zeros(3)), num_steps=2, progress=False)
    with pytest.raises(
        ValueError, match="another model than the posterior: 'beta' is missing; 'sigma' is missing; 'x' is not"
    ):
        quick(regression(), init=other)


def test_progress_bars_speak_of_divergences_and_step_size(capsys):
    quick(regression(), progress=True)
    shown = capsys.readouterr().err
    assert 'Warm-up: 100%' in shown and 'Sampling: 100%' in shown and 'divergences=0' in shown and 'step_size=' in shown


@pytest.mark.slow
def test_agreement_with_numpyros_own_driver():
    """The whole way, start and warm-up included: moments agree with `numpyro.infer.MCMC` on the bare potential."""
    posterior = regression()
    density, data = posterior.density, posterior.data
    mcmc = MCMC(
        NUTS(potential_fn=lambda t: -density.log_density(t, data)),
        num_warmup=300,
        num_samples=1500,
        num_chains=1,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1), init_params=posterior.theta)
    theirs = np.asarray(mcmc.get_samples())
    ours = infer.nuts(posterior, num_warmup=300, num_samples=1500, num_chains=1, progress=False).thetas[0]
    # More than 700 effective draws each: a difference of 0.25 sd is 4.7 standard errors; 20 % of the sd, 5.
    assert (np.abs(ours.mean(0) - theirs.mean(0)) / theirs.std(0) < 0.25).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.2)


class Sparse(nn.Module):
    """A horseshoe, which samplers see as a scale mixture, and a unit."""

    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.array([0.1, 1.0, -0.1]), reg=nn.HorseshoeReg(tau=0.5))
        self.noise = nn.Param(500.0 * u.ms, t=nn.ExpT(0.0 * u.ms), reg=dist.LogNormal(6.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), self.noise.value().to_decimal(u.second))


@pytest.mark.parametrize('init', slow_rows(['model', 'map', 'prior'], ['map', 'prior']))
def test_scale_mixtures_and_units(init, tmp_path):
    x = jax.random.normal(jax.random.key(0), (60, 3))
    posterior = infer.Posterior(Sparse(), x, x[:, 1] + 0.5 * jax.random.normal(jax.random.key(1), (60,)))
    fit = quick(posterior, init=init, num_samples=300)
    assert fit.thetas.shape == (2, 300, 7)  # three z, three log lambda, log noise
    assert fit.draws['noise'].unit == u.ms
    assert abs(fit.estimate['noise'] - 500.0 * u.ms) < 100.0 * u.ms
    fit.save(tmp_path / 'fit.nc')
    file = import_arviz().from_netcdf(tmp_path / 'fit.nc')
    assert file['posterior']['noise'].attrs['units'] == 'ms'
    assert infer.load(tmp_path / 'fit.nc', posterior).draws['noise'].unit == u.ms
    np.testing.assert_allclose(fit.estimate['w'], [0.0, 1.0, 0.0], atol=0.25)
