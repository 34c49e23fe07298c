"""The stream: seeds, keys of both kinds, order of splits, isolation, threads, pickling; and what selects."""

import copy
import pickle
import subprocess
import sys
import threading

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import environ, random
from brainstate_prob.core import State, StateTrace
from brainstate_prob.random import DEFAULT, RandomState

KEYS = [
    0,
    np.int64(3),
    jnp.array(2),
    jax.random.PRNGKey(1),
    np.asarray(jax.random.PRNGKey(1)),
    jax.random.key(1),
    jax.random.key(1, impl='rbg'),
    State(jax.random.PRNGKey(4)),
]


def same(a, b):
    data = lambda k: np.asarray(jax.random.key_data(k) if jnp.issubdtype(k.dtype, jax.dtypes.prng_key) else k)
    return np.array_equal(data(a), data(b))


@pytest.mark.parametrize('key', KEYS)
def test_the_first_half_of_a_split_stays_and_the_second_draws(key):
    rng = RandomState(key)
    kept, sub = jax.random.split(rng.get_key())
    np.testing.assert_array_equal(rng.randn(3), jax.random.normal(sub, (3,)))
    assert same(rng.value, kept)


def test_split_key():
    rng, keys = RandomState(0), jax.random.split(jax.random.PRNGKey(0), 4)
    assert same(rng.split_key(3), keys[1:])
    assert same(rng.get_key(), keys[0])
    assert rng.split_key(0).shape == (0, 2)
    for bad in (-1, 1.5, True):
        with pytest.raises(ValueError, match='number of keys'):
            rng.split_key(bad)


def test_the_page_s_losses():
    """seed(0) then randn: the figures that the page on constrained parameters prints."""
    random.seed(0)
    w, x, y = random.randn(4, 2) * 0.1, random.randn(16, 4), random.randn(16, 2)

    def loss(params):
        w, g = params
        return jnp.mean((x @ w * jax.nn.softplus(g) - y) ** 2) + 1e-3 * jnp.sum(w**2)

    params, losses = (w, jnp.log(jnp.expm1(1.0))), []
    for _ in range(5):
        value, grad = jax.value_and_grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
        losses.append(round(float(value), 4))
    assert losses == [1.2443, 1.109, 1.0126, 0.9417, 0.8884]


@pytest.mark.parametrize(
    'bad', ['a', 1.5, True, [0, 1], jnp.zeros(2), jnp.zeros(3, jnp.uint32), 2**70, jax.random.split(jax.random.key(0))]
)
def test_what_is_no_seed(bad):
    with pytest.raises((TypeError, ValueError), match=r'seed|One random key'):
        RandomState(bad)
    with pytest.raises((TypeError, ValueError)):
        random.seed(bad)


def test_module_functions_are_the_default_stream():
    random.seed(3)
    assert same(random.get_key(), jax.random.PRNGKey(3))
    assert random.normal.__self__ is DEFAULT
    random.set_key(jax.random.PRNGKey(9))
    assert same(DEFAULT.value, jax.random.PRNGKey(9))
    assert random.default_rng() is DEFAULT
    rng = RandomState(1)
    assert random.default_rng(rng) is rng
    assert same(random.default_rng(1).value, rng.value)
    assert set(random.__all__) <= set(dir(random))


def test_clone_is_independent_and_reproducible():
    one, other = RandomState(0), RandomState(0)
    a, b = one.clone(), other.clone()
    assert same(a.value, b.value)
    assert same(one.value, other.value)
    assert not same(a.value, one.value)


def test_unseeded_streams_differ():
    assert not same(RandomState().value, RandomState().value)


def test_seed_context_restores_also_after_an_exception():
    before = random.get_key()
    with random.seed_context(42) as rng:
        a = random.rand(3)
        assert rng is DEFAULT
    with pytest.raises(ZeroDivisionError), random.seed_context(42):
        1 / (float((random.rand(3) - a).sum()))
    assert same(random.get_key(), before)


def test_writes_are_seen_by_a_trace_and_nothing_stays():
    random.seed(0)
    before = random.get_key()

    def f(x):
        with StateTrace() as trace:
            out = x + random.normal()
        assert list(trace.writes) == [DEFAULT]
        return out

    np.testing.assert_allclose(jax.jit(f)(0.0), RandomState(0).normal())
    assert same(random.get_key(), before)


def test_a_first_use_under_a_trace_leaves_no_tracer():
    rng = RandomState()

    @jax.jit
    def f(x):
        with StateTrace():
            return x + rng.normal()

    first = f(0.0)
    assert not isinstance(rng._stored(), jax.core.Tracer)
    np.testing.assert_allclose(rng.normal(), first)


def test_lanes_differ_and_the_stream_moves_by_one_split():
    rng = RandomState(0)
    kept, lane = rng.split_lanes(rng.value)
    expected_kept, sub = jax.random.split(jax.random.PRNGKey(0))
    assert same(kept, expected_kept)
    keys = jax.vmap(lane)(jnp.arange(3))
    for i in range(3):
        assert same(keys[i], jax.random.fold_in(sub, i))


def test_threads_do_not_take_the_same_key():
    rng, taken = RandomState(0), []

    def work():
        for _ in range(50):
            taken.append(tuple(np.asarray(rng.split_key()).tolist()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(taken)) == 200


@pytest.mark.parametrize('key', [0, jax.random.key(1)])
def test_streams_copy_and_pickle(key):
    rng = RandomState(key, name='mine')
    rng.normal()
    for twin in (copy.deepcopy(rng), pickle.loads(pickle.dumps(rng)), rng.copy()):
        assert same(twin.value, rng.value)
        assert twin.name == 'mine'
        twin.normal()
        assert not same(twin.value, rng.value)


def test_import_starts_no_backend():
    code = (
        'import brainstate_prob.random, jax\n'
        'jax.config.update("jax_num_cpu_devices", 3)\n'
        'assert jax.local_device_count() == 3'
    )
    env = {**__import__('os').environ, 'XLA_FLAGS': ''}
    subprocess.run([sys.executable, '-c', code], check=True, env=env, timeout=120)


# --- what selects ---


def test_rand_and_randn_take_shapes_in_both_ways():
    assert random.rand().shape == random.randn().shape == ()
    assert random.rand(2, 3).shape == random.randn((2, 3)).shape == (2, 3)
    with environ.context(precision=16):
        assert random.rand(2).dtype == random.randn(2).dtype == jnp.float16


def test_randint():
    x = np.asarray(random.randint(2, 5, size=500))
    assert set(x.tolist()) == {2, 3, 4}
    assert set(np.asarray(random.randint(2, size=100)).tolist()) == {0, 1}
    assert random.randint(jnp.array([1, 10]), 20).shape == (2,)
    with pytest.raises(ValueError, match='low must be less'):
        random.randint(5, 2)
    with pytest.raises(TypeError, match='integer'):
        random.randint(1.5)


def test_choice():
    assert random.choice(5).shape == ()
    x = random.choice(jnp.array([1.0, 2.0, 3.0]) * u.mV, size=(2, 4), p=[0.0, 0.0, 1.0])
    assert x.unit == u.mV
    np.testing.assert_array_equal(x.mantissa, 3 * np.ones((2, 4)))
    assert sorted(random.choice(5, 5, replace=False).tolist()) == [0, 1, 2, 3, 4]
    assert random.choice(jnp.zeros((3, 7)), 2, axis=1).shape == (3, 2)
    for bad in ([0.5, 0.6], [-1.0, 2.0]):
        with pytest.raises(ValueError, match='sum to 1'):
            random.choice(2, p=bad)
    with pytest.raises(ValueError):
        random.choice(2, 3, replace=False)


def test_permutation_and_shuffle():
    x = jnp.arange(12.0).reshape(4, 3) * u.ms
    for y in (random.permutation(x), random.shuffle(x)):
        assert y.unit == u.ms
        assert sorted(y.mantissa[:, 0].tolist()) == [0, 3, 6, 9]
        np.testing.assert_array_equal(y.mantissa[:, 1], y.mantissa[:, 0] + 1)
    assert sorted(random.permutation(5).tolist()) == list(range(5))


def test_categorical_orthogonal_ball():
    logits = jnp.log(jnp.array([[1e-9, 1.0], [1.0, 1e-9]]))
    np.testing.assert_array_equal(random.categorical(logits), [1, 0])
    assert random.categorical(logits, size=(5, 2)).shape == (5, 2)
    q = random.orthogonal(3, size=2)
    np.testing.assert_allclose(q @ jnp.swapaxes(q, -1, -2), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-5)
    assert float(jnp.linalg.norm(random.ball(3, size=50), axis=-1).max()) <= 1


# --- under the transforms ---


def test_a_jitted_function_draws_what_the_eager_one_draws_and_moves_the_stream():
    from brainstate_prob import transform

    def draw():
        return random.randn(3) + random.rand(3)

    random.seed(0)
    eager = [draw(), draw()]
    kept = random.get_key()
    random.seed(0)
    jitted = transform.jit(draw)
    np.testing.assert_allclose([jitted(), jitted()], eager, rtol=1e-6)
    assert same(random.get_key(), kept)


def test_each_lane_of_a_mapped_function_draws_its_own_numbers():
    from brainstate_prob import transform

    random.seed(0)
    lanes = transform.vmap(lambda i: i + random.normal())(jnp.zeros(4))
    kept, sub = jax.random.split(jax.random.PRNGKey(0))
    expected = [RandomState(jax.random.fold_in(sub, i)).normal() for i in range(4)]
    np.testing.assert_allclose(lanes, expected, rtol=1e-6)
    assert same(random.get_key(), kept)
