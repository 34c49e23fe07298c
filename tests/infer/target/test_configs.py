"""Config objects that only predictions, or only training mode, read: a changed one is seen by what comes after."""

import argparse
import collections
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer.autoguide import AutoNormal

from brainstate_prob import environ, infer, nn
from brainstate_prob.infer.density import log_density

X = np.linspace(0.5, 1.0, 4, dtype='f4')
Y = 2 * X
QUIET = {'progress': False}


@dataclasses.dataclass
class Config:
    scale: float = 1.0
    inner: object = None

    @property
    def doubled(self):
        return 2 * self.scale


class Slotted:
    __slots__ = ('__hidden', 'scale')

    def scaled(self):
        return self.scale


@dataclasses.dataclass(unsafe_hash=True)
class Hashable:
    scale: float = 1.0


class Node:
    """An object that refers to itself."""

    def __init__(self):
        self.scale, self.me = 1.0, self


def first(x):
    return x


def second(x):
    return 2 * x


a_dict, a_list, an_array, objects = {'scale': 1.0}, [1.0], np.ones(2), np.array([{'scale': 1.0}], object)
config, nested, slotted, namespace = Config(), Config(inner=[{'deep': Config()}]), Slotted(), types.SimpleNamespace()
hashable, node, a_set, laws = Hashable(), Node(), set(), {'now': first}
arguments, by_default, queue = argparse.Namespace(scale=1.0), collections.defaultdict(float), collections.deque([1.0])
a_long_list, pair, of_default = [1.0] * 5000, (Config(), 1), Config()


class OfAClass:
    table = {'scale': 1.0}


def set_law(value):
    laws['now'] = first if value == 1.0 else second


def rebind(value):
    globals()['config'] = Config(value)


CONFIGS = {
    'a dict': (lambda v: a_dict.update(scale=v), lambda: a_dict['scale']),
    'a list': (lambda v: a_list.__setitem__(0, v), lambda: a_list[0]),
    'an array in place': (lambda v: an_array.__setitem__(0, v), lambda: float(an_array[0])),
    'an array of objects': (lambda v: objects[0].update(scale=v), lambda: objects[0]['scale']),
    'an object': (lambda v: setattr(config, 'scale', v), lambda: config.scale),
    'another object of the name': (rebind, lambda: config.scale),
    'a property': (lambda v: setattr(config, 'scale', v / 2), lambda: config.doubled),
    'an object in a list in an object': (
        lambda v: setattr(nested.inner[0]['deep'], 'scale', v),
        lambda: nested.inner[0]['deep'].scale,
    ),
    'an object with slots': (lambda v: setattr(slotted, 'scale', v), lambda: slotted.scaled()),
    'a namespace': (lambda v: setattr(namespace, 'scale', v), lambda: namespace.scale),
    'arguments of a program': (lambda v: setattr(arguments, 'scale', v), lambda: arguments.scale),
    'an object that is hashed by value': (lambda v: setattr(hashable, 'scale', v), lambda: hashable.scale),
    'an object that refers to itself': (lambda v: setattr(node.me, 'scale', v), lambda: node.me.me.scale),
    'a set': (lambda v: (a_set.clear(), a_set.add(v)), lambda: max(a_set)),
    'a defaultdict': (lambda v: by_default.update(scale=v), lambda: by_default['scale']),
    'a deque': (lambda v: queue.__setitem__(0, v), lambda: queue[0]),
    'a long list': (lambda v: a_long_list.__setitem__(7, v), lambda: a_long_list[7]),
    'an object in a tuple': (lambda v: setattr(pair[0], 'scale', v), lambda: pair[0].scale),
    'a function in a dict': (set_law, lambda: laws['now'](1.0)),
    'a dict of a class': (lambda v: OfAClass.table.update(scale=v), lambda: OfAClass.table['scale']),
    'a default': (lambda v: setattr(of_default, 'scale', v), lambda c=of_default: c.scale),
    'a closure': (lambda v: a_dict.update(scale=v), (lambda d: lambda: d['scale'])(a_dict)),
    'a partial': (lambda v: setattr(hashable, 'scale', v), functools.partial(getattr, hashable, 'scale')),
    'a bound method': (lambda v: setattr(slotted, 'scale', v), slotted.scaled),
}


class Law(dist.Normal):
    """A normal whose mean, which only predictions ask for, is scaled by a config."""

    read = None

    @property
    def mean(self):
        return self.loc * type(self).read()


class Predicted(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.a = nn.Param(1.0)
        self.law = type('LawOf', (Law,), {'read': staticmethod(read), '__module__': __name__})

    def __call__(self, x):
        return self.law(self.a.value() * x, 0.5)


class Trained(nn.Module):
    """The gradient of the parameter at 1 is that of a slope whose data a config scales in training mode."""

    def __init__(self, read):
        super().__init__()
        self.a = nn.Param(1.0)
        self.read = read

    def __call__(self, x):
        return dist.Normal(self.a.value() * x * (self.read() if environ.get('fit', False) else 1.0), 0.5)


def predicted(posterior):
    fit = infer.Fit(posterior.target, jnp.ones((1, 1, 1)), method='by hand')
    return float(fit.predict(kind='mean')[0, 0] / X[0])


def trained(posterior):
    """What the config scaled by, from the step of one gradient descent."""
    with environ.context(fit=True):
        fit = infer.map(posterior, optimizer=optax.sgd(1e-3), num_steps=1, **QUIET)
    gradient = (float(fit.estimate['a']) - 1.0) / 1e-3  # 4 s (2 - s) x'x
    return 1 - np.sqrt(1 - gradient / (4 * float(X @ X)))


@pytest.fixture
def changing():
    """Sets a config, and all of them back at the end."""
    for change, _ in CONFIGS.values():
        change(1.0)
    globals()['config'].scale = 1.0
    yield
    for change, _ in CONFIGS.values():
        change(1.0)


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.usefixtures('changing')
def test_predictions_follow_a_config(name):
    change, read = CONFIGS[name]
    model = Predicted(read)
    change(1.0)
    old = infer.Posterior(model, X, Y)
    np.testing.assert_allclose(predicted(old), 1.0, rtol=1e-6)
    change(2.0)
    np.testing.assert_allclose(predicted(infer.Posterior(model, X, Y)), 2.0, rtol=1e-6)
    np.testing.assert_allclose(predicted(old), 2.0, rtol=1e-6)


@pytest.mark.parametrize('name', ['a dict', 'an array in place', 'an object', 'an object with slots', 'a closure'])
@pytest.mark.usefixtures('changing')
def test_training_mode_follows_a_config(name):
    change, read = CONFIGS[name]
    change(0.5)
    old = infer.Posterior(Trained(read), X, Y)
    np.testing.assert_allclose(trained(old), 0.5, rtol=1e-3)
    change(0.75)
    np.testing.assert_allclose(trained(infer.Posterior(Trained(read), X, Y)), 0.75, rtol=1e-3)
    np.testing.assert_allclose(trained(old), 0.75, rtol=1e-3)


# Functions of the user's inside optimizers, guides, transforms, priors and precompute

SCALE = 1.0


def set_scale(value):
    globals()['SCALE'] = value


READERS = {
    'a global': (set_scale, lambda: SCALE),
    'an attribute': (lambda v: setattr(nested.inner[0]['deep'], 'scale', v), lambda: nested.inner[0]['deep'].scale),
    'a slot': (lambda v: setattr(slotted, 'scale', v), lambda: slotted.scale),
    'an array in place': (lambda v: an_array.__setitem__(0, v), lambda: float(an_array[0])),
}


class Scaled(nn.Transform):
    read = None  # a subclass has its own

    def _forward(self, x):
        return self.read() * x

    def _inverse(self, y):
        return y / self.read()

    def _log_det(self, x):
        return jnp.broadcast_to(jnp.log(self.read()), jnp.shape(x))


class Penalty(nn.Regularization):
    def __init__(self, read):
        super().__init__()
        self.read = read

    def loss(self, value):
        return self.read() * jnp.sum(value**2)


class Slope(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.a = nn.Param(1.0, **{'reg': dist.Normal(0.0, 10.0), **options})

    def __call__(self, x):
        return dist.Normal(self.a.value() * x, 0.5)


class Guide:
    """A guide that is an object."""

    def __init__(self, read):
        self.read = read

    def __call__(self, model):
        return AutoNormal(model, init_scale=0.1 * self.read())


def by_hand(read):
    """A guide of plain NumPyro."""

    def guide(data):
        loc = numpyro.param('loc', jnp.ones(1))
        numpyro.sample('theta', dist.Normal(loc, 0.1 * read()).to_event(1))

    return lambda model: guide


def descended(model, optimizer=None):
    fit = infer.map(infer.Posterior(model, X, Y), optimizer=optimizer or optax.sgd(1e-2), num_steps=2, **QUIET)
    return fit.estimate['a']


GUIDES = [
    ('a guide', 'a global'),
    ('a guide', 'an attribute'),
    ('a guide that is an object', 'an array in place'),
    pytest.param('a guide of plain NumPyro', 'a slot', marks=pytest.mark.slow),
]


def guided(guide):
    return infer.svi(infer.Posterior(Slope(), X, Y), guide=guide, num_steps=2, num_draws=5, **QUIET).draws['a']


PARTS = {
    'a schedule': lambda read: descended(Slope(), optax.sgd(lambda step: 1e-2 * read())),
    'a part of an optimizer': lambda read: descended(
        Slope(), optax.chain(optax.stateless(lambda g, _: g * read()), optax.sgd(1e-2))
    ),
    'a transform': lambda read: descended(
        Slope(t=type('ScaledBy', (Scaled,), {'read': staticmethod(read), '__module__': __name__})())
    ),
    'a regularization': lambda read: descended(Slope(reg=Penalty(read))),
    'precompute': lambda read: descended(Slope(precompute=lambda value: value * read())),
    'a guide': lambda read: guided(lambda model: AutoNormal(model, init_scale=0.1 * read())),
    'a guide that is an object': lambda read: guided(Guide(read)),
    'a guide of plain NumPyro': lambda read: guided(by_hand(read)),
}


# Two steps are too few to fit anything. A guide compiles for seconds: each with one reader, or two.
@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize(('part', 'reader'), [*((p, r) for p in PARTS for r in READERS if 'guide' not in p), *GUIDES])
def test_what_a_part_reads_is_what_it_is_now(part, reader):
    change, read = READERS[reader]
    found = []
    try:
        for value in (1.0, 0.5):
            change(value)
            found.append(np.asarray(PARTS[part](read)))
        jax.clear_caches()
        log_density._densities.clear()
        fresh = np.asarray(PARTS[part](read))
    finally:
        change(1.0)
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(found[1], fresh)
