"""Observations over two devices: what lies where, what is refused, and that nothing sees the rows that fill them up."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh

from brainstate_prob import infer, nn
from brainstate_prob.core.units import u
from brainstate_prob.infer.data.sharding import Padded, devices_of, is_sharded, next_length, on_host
from brainstate_prob.infer.run.chains import Runner
from tests.support.slow_rows import slow_rows

TWO = jax.devices()[:2]


class Scaled(nn.Module):
    """Reads keyword inputs: rows with a unit, a matrix of rows by rows, a vector that is no data, a number."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Param(2.0 / u.ms, reg=dist.Normal(0.0, 1.0))

    def __call__(self, t, mix, shared, shift):
        mean = u.get_magnitude(t * self.slope.value()) + mix.sum(1) * shared.sum() + shift
        # The variance is that of all rows: one more row, whatever its weight, would be seen.
        return infer.with_unit(dist.Normal(mean - mean.mean(), 1.0 + mean.std()), u.mV)


def scaled(num):
    rng = np.random.default_rng(num)
    inputs = {
        't': rng.normal(size=num).astype(np.float32) * u.ms,
        'mix': rng.normal(size=(num, num)).astype(np.float32),
        'shared': np.ones(num + 2, np.float32),
        'shift': np.float32(1.5),
    }
    return infer.Posterior(Scaled(), inputs, rng.normal(size=num).astype(np.float32) * u.mV)


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


def mean(num=6):
    return infer.Posterior(Mean(), targets=np.arange(num, dtype=np.float32))


@pytest.mark.parametrize('num', [2, 5, 8])
def test_any_number_of_rows_and_every_kind_of_input(num):
    one = scaled(num)
    two = one.shard(2)
    np.testing.assert_allclose(two.log_density(), one.log_density(), rtol=1e-5)
    np.testing.assert_allclose(two.log_likelihood(), one.log_likelihood(), rtol=1e-5)
    assert (two.num_observations, two.targets_unit) == (num, u.mV)
    for name, array in one.arrays.items():
        assert u.get_unit(two.arrays[name]) == u.get_unit(array)
        np.testing.assert_array_equal(u.get_magnitude(two.arrays[name]), u.get_magnitude(array))
    rows = two.data.targets, two.data.kwargs['t'], two.data.kwargs['mix']
    for x in rows:
        held = u.get_magnitude(x.value if num % 2 else x)
        assert [s.data.shape[0] for s in held.addressable_shards] == [-(-num // 2)] * 2
    for x in (two.data.kwargs['shared'], two.data.kwargs['shift'], two.data.scale):
        assert x.sharding.is_fully_replicated and len(x.sharding.device_set) == 2
    assert is_sharded(two.data) and not is_sharded(one.data)


def test_sharded_again_and_back_to_one_device():
    posterior = mean(5)
    for other in (posterior.shard(2).shard(2), posterior.shard(2).shard(TWO[:1])):
        np.testing.assert_array_equal(other.data.targets, np.arange(5))
        np.testing.assert_allclose(other.log_density(), posterior.log_density(), rtol=1e-6)
    assert not is_sharded(posterior.data)  # the posterior itself stays as it is


def test_padded_rows_are_outside_an_array_and_inside_compiled_functions_no_more():
    targets = mean(5).shard(2).data.targets
    assert isinstance(targets, Padded) and targets.value.shape == (6,)
    assert (targets.shape, targets.ndim, targets.size, len(targets)) == ((5,), 1, 5, 5)
    np.testing.assert_array_equal(targets, np.arange(5))
    np.testing.assert_array_equal(jnp.asarray(targets) + 0, np.arange(5))
    np.testing.assert_array_equal(targets[1:3], [1, 2])
    seen = []
    jax.jit(lambda x: seen.append(x))(targets)
    assert isinstance(seen[0], jax.core.Tracer) and seen[0].shape == (5,)
    assert jax.tree.map(lambda x: x, targets).num == 5


@pytest.mark.parametrize(
    ('devices', 'axis'),
    [
        (None, None),
        (2, 'rows'),
        (TWO, None),
        (Mesh(np.array(TWO), ('i',)), None),
        (Mesh(np.array(TWO).reshape(1, 2), ('i', 'j')), 'j'),
        (jax.make_mesh((2,), ('i',), axis_types=(AxisType.Explicit,), devices=TWO), None),
    ],
)
def test_ways_to_say_which_devices(devices, axis):
    sharded = mean().shard(devices, axis=axis)
    assert len(sharded.data.targets.sharding.device_set) == (jax.device_count() if devices is None else 2)
    np.testing.assert_allclose(sharded.log_density(), mean().log_density(), rtol=1e-6)


def test_a_fit_over_devices_predicts_reports_and_is_kept(tmp_path):
    posterior = mean(5).shard(2)
    fit = infer.map(posterior, progress=False)
    np.testing.assert_allclose(fit.draws['mu'], 10 / 6, rtol=1e-4)
    assert fit.predict(kind='mean', batch_size=2).shape == (1, 5)
    np.testing.assert_array_equal(fit.to_arviz().observed_data['targets'], np.arange(5))
    assert posterior.check().ok
    fit.save(tmp_path / 'fit.nc')
    np.testing.assert_array_equal(infer.load(tmp_path / 'fit.nc', mean(5)).thetas, fit.thetas)
    options = {'optimizer': 'adam', 'num_steps': 20, 'checkpoint': tmp_path / 'run', 'progress': False}
    first = infer.map(posterior, **options)
    options['num_steps'] = 40
    np.testing.assert_array_equal(infer.map(posterior, **options).history['loss'][:20], first.history['loss'])


WAYS = {
    'svi': lambda p: infer.svi(p, num_steps=10, num_draws=4, progress=False),
    'sgmcmc': lambda p: infer.sgmcmc(
        p, step_size=1e-3, num_warmup=3, num_samples=6, num_chains=2, batch_size=2, progress=False
    ),
    'ensemble': lambda p: infer.ensemble(p, num_members=2, num_steps=10, progress=False),
    'swag': lambda p: infer.swag(p, num_steps=20, snapshot_every=5, num_draws=4, batch_size=2, progress=False),
    'elliptical_slice': lambda p: infer.elliptical_slice(p, num_warmup=2, num_samples=4, num_chains=2, progress=False),
    'barker': lambda p: infer.barker(p, num_warmup=2, num_samples=4, num_chains=2, progress=False),
    'hmc_ecs': lambda p: infer.hmc_ecs(
        p, batch_size=2, num_blocks=2, num_warmup=2, num_samples=4, num_chains=2, progress=False
    ),
    'smc': lambda p: infer.smc(p, num_particles=8, num_moves=1, max_tree_depth=2, progress=False),
}
if importlib.util.find_spec('blackjax') is not None:
    few = {'num_warmup': 4, 'num_samples': 4, 'progress': False}
    WAYS |= {
        'chees': lambda p: infer.chees(p, num_chains=4, **few),
        'meads': lambda p: infer.meads(p, num_chains=8, **few),
        'pathfinder': lambda p: infer.pathfinder(p, num_paths=2, num_draws=25, progress=False),
    }


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('way', slow_rows(WAYS, list(WAYS)[2:]))
def test_further_ways_to_fit(way):
    """Few steps, in single precision: sums of five rows differ by rounding."""
    np.testing.assert_allclose(WAYS[way](mean(5).shard(2)).thetas, WAYS[way](mean(5)).thetas, rtol=1e-4, atol=1e-5)


def chains(posterior, **kwargs):
    return infer.nuts(posterior, num_warmup=2, num_samples=2, num_chains=2, progress=False, **kwargs)


REFUSED = [
    (lambda: mean().shard(99), r'devices=99, but there are \d+: .*xla_force_host_platform_device_count'),
    (lambda: mean().shard(0), 'devices=0, but there are'),
    (lambda: mean().shard([]), 'takes devices such as jax.devices'),
    (lambda: mean().shard('cpu'), 'takes devices such as jax.devices'),
    (lambda: mean().shard([TWO[0]] * 2), 'has a device twice'),
    (lambda: mean(1).shard(2), '1 observations cannot be spread over 2 devices. Use at most 1'),
    (lambda: infer.Posterior(Mean()).shard(2), 'there are no targets'),
    (lambda: infer.Posterior(Mean(), targets=1.0).shard(2), 'there are no targets with one'),
    (lambda: mean().shard(Mesh(np.array(TWO), ('i',)), axis='j'), r"axis must be one of the axes \['i'\]"),
    (lambda: mean().shard(Mesh(np.array(TWO).reshape(1, 2), ('i', 'j'))), r"axes \['i', 'j'\]: say by axis="),
    (lambda: chains(mean(), devices=99), 'devices=99, but there are'),
    (lambda: chains(mean().shard(2), devices=2), 'spread over devices .*leave devices= out'),
    (lambda: chains(mean().shard(2), chain_method='parallel'), 'spread over devices .*leave devices= out'),
    (lambda: chains(mean().shard(2), backend='nutpie'), 'calls the density from its own threads'),
    (lambda: infer.ensemble(mean().shard(2), devices=2, progress=False), 'leave devices= out'),
]


@pytest.mark.parametrize(('run', 'message'), REFUSED, ids=[m[:40] for _, m in REFUSED])
def test_what_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def stretch(theta, y):
    """A state's ascent of a normal's log density; the compiler may divide by its scale or multiply with the inverse."""

    def log_density(theta):
        scale = jnp.exp(theta[1:])
        return jnp.sum(-0.5 * ((y - theta[0]) / scale) ** 2 - jnp.log(scale))

    def step(_, loop):
        value, grad = jax.value_and_grad(log_density)(loop[0])
        return loop[0] + 1e-3 * grad, loop[1] + value

    return lax.fori_loop(0, len(y), step, (theta, jnp.zeros((), theta.dtype)))


@pytest.mark.parametrize('wide', [False, True])
def test_states_over_devices_of_a_cpu_advance_as_on_one_bit_for_bit(wide):
    with jax.enable_x64(wide):
        theta, y = jax.random.normal(jax.random.key(0), (6, 2)), jnp.linspace(-1.0, 2.0, 61)
        found = []
        for method, devices in (('sequential', None), ('parallel', None), ('parallel', 1), ('parallel', 2)):
            runner = Runner(lambda _, __, build, **kwargs: jax.jit(build(), **kwargs), 0, stretch, method, devices, 6)
            runner.take(theta)
            found.append((*runner.step(y), np.asarray(runner.state())))
    for other in found[1:]:
        for x, one in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(x, one)
    assert len(np.unique(found[0][0])) == 6


def test_small_helpers():
    assert devices_of(None) is None
    assert devices_of(2) == devices_of(Mesh(np.array(TWO), ('i',))) == tuple(TWO)
    assert next_length(10, 0.1, 1.0, 80) == 80 and next_length(10, 0.1, 1.0, 10**6) == 100
    assert next_length(10, 100.0, 1.0, 80) == 1
    np.testing.assert_array_equal(on_host({'a': jnp.ones(2)})['a'], [1, 1])
