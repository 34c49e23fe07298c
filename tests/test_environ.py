"""Settings: scopes, threads, precision, and the key that compiled code is cached under."""

import threading

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import environ


@pytest.fixture(autouse=True)
def _nothing_set():
    for key in list(environ.all()):
        environ.pop(key)
    yield
    for key in list(environ.all()):
        environ.pop(key)


def test_contexts_nest_and_come_back_after_an_exception():
    environ.set(a=1, dt=0.1)
    with environ.context(a=2, b=3) as inside:
        assert inside == {'a': 2, 'b': 3, 'dt': 0.1} == environ.all()
        with pytest.raises(ZeroDivisionError), environ.context(a=4):
            1 / (environ.get('a') - 4)
        assert environ.get('a') == 2
    assert environ.all() == {'a': 1, 'dt': 0.1}
    assert environ.get_dt() == 0.1


def test_a_context_belongs_to_its_thread_and_set_to_all():
    seen = {}

    def look():
        seen.update(environ.all())

    environ.set(a=1)
    with environ.context(b=2):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == {'a': 1}


def test_many_threads_keep_their_own_values():
    wrong = []

    def work(i):
        for _ in range(200):
            with environ.context(who=i):
                environ.set(**{f'k{i}': i})
                if environ.get('who') != i:
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert environ.all() == {f'k{i}': i for i in range(8)}


def test_context_decorates():
    @environ.context(fit=True)
    def f():
        return environ.get('fit')

    assert f() is f() is True


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        (
            lambda: environ.get('fit', desc='whether dropout is active'),
            ["'fit'", 'dropout is active', 'environ.context(fit=True)'],
        ),
        (environ.get_dt, ["'dt'", 'time step', 'dt=0.1 * u.ms']),
        (lambda: environ.get('gain'), ["'gain'", 'environ.context(gain=...)', 'set are: nothing']),
        (lambda: environ.pop('gain'), ["'gain'"]),
    ],
)
def test_a_missing_setting_is_named_with_its_fix(call, words):
    with pytest.raises(KeyError) as e:
        call()
    for word in words:
        assert word in str(e.value)
    assert not str(e.value).startswith('"')


def test_defaults_and_pop():
    assert environ.get('x', default=None) is None
    environ.set(x=3)
    assert environ.pop('x') == 3
    assert environ.pop('x', 5) == 5
    with environ.context(x=1), pytest.raises(KeyError, match='open context'):
        environ.pop('x')


@pytest.mark.parametrize(
    'bad',
    [
        {'precision': 8},
        {'precision': 'float32'},
        {'precision': True},
        {'dt': 0.0},
        {'dt': -1 * u.ms},
        {'dt': 'fast'},
    ],
)
def test_bad_values_are_refused(bad):
    with pytest.raises(ValueError, match='must be'):
        environ.set(**bad)
    with pytest.raises(ValueError, match='must be'), environ.context(**bad):
        pass
    assert environ.all() == {}


def test_types_follow_jax_until_a_precision_is_set(x64):
    assert environ.get_precision() == 64
    assert environ.dftype() == jnp.float64
    assert environ.ditype() == jnp.int64
    with jax.enable_x64(False):
        assert environ.get_precision() == 32
        assert environ.dftype() == jnp.float32
        assert environ.ditype() == jnp.int32


@pytest.mark.parametrize(
    ('precision', 'f', 'i'),
    [
        (16, jnp.float16, jnp.int16),
        ('bf16', jnp.bfloat16, jnp.int16),
        (32, jnp.float32, jnp.int32),
        (64, jnp.float64, jnp.int64),
    ],
)
def test_precision_in_a_context(precision, f, i):
    before = jax.config.jax_enable_x64
    with environ.context(precision=precision):
        assert environ.dftype() == f
        assert environ.ditype() == i
        assert jnp.zeros(2, environ.dftype()).dtype == f
    assert jax.config.jax_enable_x64 == before


def test_setting_64_switches_jax_on_and_nothing_switches_it_off():
    before = jax.config.jax_enable_x64
    try:
        environ.set_precision(64)
        assert jax.config.jax_enable_x64
        assert jnp.zeros(1).dtype == jnp.float64
        environ.set_precision(32)
        assert jax.config.jax_enable_x64
        assert environ.dftype() == jnp.float32
        environ.set(precision=64)
        with jax.enable_x64(False), pytest.raises(RuntimeError, match='jax_enable_x64'):
            environ.dftype()
    finally:
        jax.config.update('jax_enable_x64', before)


def test_static_key_is_empty_when_nothing_is_set():
    assert environ.static_key() == ()


@pytest.mark.parametrize(
    ('one', 'other'),
    [
        ({'fit': True}, {'fit': False}),
        ({'fit': True}, {'fit': 1}),
        ({'n': 1}, {'n': 1.0}),
        ({'dt': 0.1 * u.ms}, {'dt': 0.1 * u.second}),
        ({'dt': 0.1 * u.ms}, {'dt': 0.1}),
        ({'w': np.zeros(2)}, {'w': np.ones(2)}),
        ({'w': jnp.zeros(2)}, {'w': jnp.zeros(2, int)}),
        ({'opts': {'a': 1}}, {'opts': {'a': 2}}),
        ({'opts': [1]}, {'opts': (1,)}),
        ({'f': {1, 2}}, {'f': {1}}),
        ({'a': 1}, {'b': 1}),
    ],
)
def test_static_key_tells_settings_apart_and_knows_equal_ones(one, other):
    def key(settings):
        with environ.context(**settings):
            return environ.static_key()

    hash(key(one))
    assert key(one) == key(one)
    assert key(one) != key(other)


def test_static_key_sees_process_and_context():
    environ.set(fit=False)
    process = environ.static_key()
    with environ.context(fit=True):
        assert environ.static_key() != process
    assert environ.static_key() == process != ()


def test_traced_settings_are_left_out_of_the_key_and_told():
    seen = []

    @jax.jit
    def f(t):
        with environ.context(t=t, fit=True):
            seen.append((environ.static_key(), environ.has_traced()))
            return environ.get('t') * 2

    assert f(3.0) == 6.0
    with environ.context(fit=True):
        assert seen == [(environ.static_key(), True)]
    assert not environ.has_traced()

    @jax.jit
    def g(t):
        environ.set(t=t)

    with pytest.raises(ValueError, match='traced value for t'):
        g(1.0)
    assert environ.all() == {}
