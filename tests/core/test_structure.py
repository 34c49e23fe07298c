"""Keys by structure: equal for what is built alike, and for nothing that tracing would see as different."""

import functools
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainstate_prob.core.structure import Cache, structural_key

SCALE = 1.0
TABLE = np.array([1.0, 2.0])
CONFIG = types.SimpleNamespace(rate=1.0)


class Settings:
    rate = 1.0


class Schedule:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate


def made(source):
    """A function made by ``exec``, whose code does not tell which globals it has."""
    scope = {'jnp': jnp, **source}
    exec('def f(x):\n    return S * x', scope)
    return scope['f']


def of_global(x):
    return SCALE * x


def of_another(x):
    return of_global(x) + 1.0


SAME = {
    'closures': lambda: functools.reduce(lambda f, _: lambda x: f(x), range(2), lambda x: x),
    'a closure over a number': lambda: (lambda a: lambda x: a * x)(2.0),
    'an optimizer': lambda: optax.adam(1e-2),
    'an optimizer with a schedule': lambda: optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
    'a closure over an array': lambda: (lambda a: lambda x: a * x)(np.ones(3)),
    'nested containers': lambda: {'a': [1, (2.0, None)], 'b': jnp.zeros(2)},
    'a function of globals': lambda: of_another,
    'a partial': lambda: functools.partial(of_global, x=1.0),
}


@pytest.mark.parametrize('name', SAME)
def test_what_is_built_alike_is_equal(name):
    assert structural_key(SAME[name]()) == structural_key(SAME[name]())
    assert hash(structural_key(SAME[name]())) == hash(structural_key(SAME[name]()))


def set_scale(value):
    global SCALE
    SCALE = value


schedule = Schedule(1.0)
# What is changed, how, and the function whose key must then be another.
CHANGES = {
    'a global': (set_scale, lambda: of_global),
    'a global of a function that is called': (set_scale, lambda: of_another),
    'an array in place': (lambda v: TABLE.__setitem__(0, v), lambda: lambda x: TABLE * x),
    'an attribute of a global': (lambda v: setattr(CONFIG, 'rate', v), lambda: lambda x: CONFIG.rate * x),
    'an attribute of a class': (lambda v: setattr(Settings, 'rate', v), lambda: lambda x: Settings.rate * x),
    'an attribute of a callable object': (lambda v: setattr(schedule, 'rate', v), lambda: schedule),
    'the object of a bound method': (lambda v: setattr(schedule, 'rate', v), lambda: schedule.__call__),
    'what an optimizer reads': (set_scale, lambda: optax.adam(lambda step: SCALE)),
    'an attribute of a function': (lambda v: setattr(of_global, 'rate', v), lambda: of_global),
    'the argument of a partial': (lambda v: setattr(schedule, 'rate', v), lambda: functools.partial(max, schedule)),
}


@pytest.mark.parametrize('name', CHANGES)
def test_what_is_changed_is_another(name):
    change, build = CHANGES[name]
    change(1.0)
    before = structural_key(build())
    assert structural_key(build()) == before
    change(2.0)
    assert structural_key(build()) != before
    change(1.0)
    assert structural_key(build()) == before


DIFFERENT = {
    'exec with other globals': (made({'S': 1.0}), made({'S': 2.0})),
    'a number and its like': (1, 1.0),
    'a boolean and a number': (True, 1),
    'defaults': ((lambda x, a=1.0: a * x), (lambda x, a=2.0: a * x)),
    'keyword defaults': ((lambda x, *, a=1.0: a * x), (lambda x, *, a=2.0: a * x)),
    'dtypes': (np.ones(2, np.float32), np.ones(2, np.float64)),
    'shapes': (np.ones((2, 1)), np.ones((1, 2))),
    'objects without a comparison': (object(), object()),
    'the order of a dict': ({'a': 1, 'b': 2}, {'b': 2, 'a': 1}),
}


@pytest.mark.parametrize('name', DIFFERENT)
def test_what_differs_is_not_equal(name):
    a, b = DIFFERENT[name]
    assert structural_key(a) != structural_key(b)


def test_a_function_that_calls_itself_has_a_key():
    def build():
        def f(n):
            return 1 if n == 0 else n * f(n - 1)

        return f

    assert structural_key(build()) == structural_key(build())


def test_nan_equals_itself():
    assert structural_key(float('nan')) == structural_key(float('nan'))


def test_a_cache_drops_the_oldest_and_what_it_is_told_to():
    cache = Cache(size=2)
    values = [cache.get(i, object) for i in range(3)]
    assert cache.get(2, object) is values[2]
    assert cache.get(0, object) is not values[0]
    cache.drop(values[2])
    assert cache.get(2, object) is not values[2]
