"""Slips in writing a model: parentheses that are missing, the wrong order, Params outside the module tree."""

from __future__ import annotations

import collections
import types

import jax.numpy as jnp
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from tests.infer.mistakes.model import NOT_FITTED, Line, Plain, X, Y, plus, posterior
from tests.infer.mistakes.row import Mistake


class Slots:
    """An object without a dict of attributes."""

    __slots__ = ('p', 'unset')

    def __init__(self):
        self.p = nn.Param(1.0)


class Law(dist.Distribution):
    """A user's own distribution, whose author did not say where its values lie."""

    def __init__(self):
        super().__init__((), ())

    def log_prob(self, value):
        return -(value**2)


class Dependent(Law):
    """One whose author left it open."""

    support = dist.constraints.dependent


class Above(Law):
    """One whose author forgot the bound."""

    support = dist.constraints.greater_than


class Holder(nn.Module):
    """A model without parameters of its own."""

    def __init__(self, o):
        super().__init__()
        self.o = o

    def __call__(self, x):
        return dist.Normal(x, 1.0)


def hidden(make):
    return lambda: infer.Posterior(Holder(make()), X, Y)


def holding(make, get):
    """A model with a parameter of its own, which reads another one outside the module tree."""
    return lambda: posterior(plus(lambda self: get(self.o)), o=make())


def slip(call):
    """A likelihood in which a parameter is written without its parentheses."""
    return lambda: posterior(likelihood=call)


NOT_CALLED = ('a method in place of the value', 'parentheses', r'm\.b\.value\(\)')
SWAPPED = ('of an array|an array as a function', 'the model comes first', 'lambda m, x')
HIDDEN = ('no trainable parameters', 'outside the module tree', 'attribute of the model')

ROWS = [
    # Read and not fitted
    Mistake(
        'a Param in a read-only mapping',
        holding(lambda: types.MappingProxyType({'p': nn.Param(1.0)}), lambda o: o['p']),
        (*NOT_FITTED, r"the model\.o\['p'\]"),
    ),
    Mistake(
        'a Param in a UserDict',
        holding(lambda: collections.UserDict(p=nn.Param(1.0)), lambda o: o['p']),
        (*NOT_FITTED, r"the model\.o\['p'\]"),
    ),
    Mistake(
        'a Param in a ChainMap',
        holding(lambda: collections.ChainMap({}, {'p': nn.Param(1.0)}), lambda o: o['p']),
        (*NOT_FITTED, r"the model\.o\['p'\]"),
    ),
    Mistake(
        'a Param in a UserList',
        holding(lambda: collections.UserList([nn.Param(1.0)]), lambda o: o[0]),
        (*NOT_FITTED, r'the model\.o\[0\]'),
    ),
    Mistake('a Param in slots', holding(Slots, lambda o: o.p), (*NOT_FITTED, r'the model\.o\.p')),
    # No parameters that are found
    Mistake(
        'all Params in a read-only mapping',
        hidden(lambda: types.MappingProxyType({'p': nn.Param(1.0)})),
        (*HIDDEN, r"the model\.o\['p'\]"),
    ),
    Mistake(
        'all Params in a UserDict', hidden(lambda: collections.UserDict(p=nn.Param(1.0))), (*HIDDEN, r"\.o\['p'\]")
    ),
    Mistake(
        'all Params in a ChainMap', hidden(lambda: collections.ChainMap({'p': nn.Param(1.0)})), (*HIDDEN, r"\.o\['p'\]")
    ),
    Mistake('all Params in a UserList', hidden(lambda: collections.UserList([nn.Param(1.0)])), (*HIDDEN, r'\.o\[0\]')),
    Mistake('all Params in slots', hidden(Slots), (*HIDDEN, r'the model\.o\.p')),
    Mistake('all Params in a set', hidden(lambda: {nn.Param(1.0)}), (*HIDDEN, r'the model\.o')),
    Mistake('all Params in a plain object', hidden(Plain), (*HIDDEN, r'the model\.o\.p')),
    # Priors that say nothing of their values
    Mistake(
        'a prior without support',
        lambda: nn.Param(1.0, reg=Law()),
        (r'Law\(\) does not say where its values lie', r'support = dist\.constraints\.real'),
    ),
    Mistake(
        'a prior of dependent support',
        lambda: nn.Param(1.0, reg=Dependent()),
        ('does not say where its values lie', r'dist\.constraints'),
    ),
    Mistake(
        'a prior whose support is a class',
        lambda: nn.Param(1.0, reg=Above()),
        ('does not say where its values lie', r'dist\.constraints'),
    ),
    # Parentheses that are missing
    Mistake('a value without parentheses', slip(lambda m, x: dist.Normal(m.b.value * x, 1.0)), NOT_CALLED),
    Mistake('on the right', slip(lambda m, x: dist.Normal(x * m.b.value, 1.0)), NOT_CALLED),
    Mistake('a sign before it', slip(lambda m, x: dist.Normal(-m.b.value, 1.0)), NOT_CALLED),
    Mistake('a power of it', slip(lambda m, x: dist.Normal(m.b.value**2, 1.0)), NOT_CALLED),
    Mistake('a function of it', slip(lambda m, x: dist.Normal(jnp.exp(m.b.value), 1.0)), NOT_CALLED),
    Mistake('an entry of it', slip(lambda m, x: dist.Normal(m.b.value[0], 1.0)), NOT_CALLED),
    Mistake('a comparison of it', slip(lambda m, x: dist.Normal(jnp.where(m.b.value > 0, x, 0), 1.0)), NOT_CALLED),
    Mistake('its sum', slip(lambda m, x: dist.Normal(m.b.value.sum(), 1.0)), NOT_CALLED),
    Mistake('as a scale', slip(lambda m, x: dist.Normal(x, m.b.value)), NOT_CALLED),
    Mistake(
        'as a mean',
        slip(lambda m, x: dist.Normal(m.b.value, 1.0)),
        ('a method in place of the value', 'parentheses', r'param\.value\(\)'),
    ),
    # Functions that are none, or take the model elsewhere
    Mistake(
        'a class as likelihood',
        slip(dist.Normal),
        ('likelihood must be a function', r'the class dist\.Normal', r'likelihood=lambda m, x: dist\.Normal'),
    ),
    Mistake(
        'a distribution as likelihood',
        slip(dist.Normal(0.0, 1.0)),
        (r'a distribution \(Normal\)', r'likelihood=lambda m, x: dist\.Normal'),
    ),
    Mistake(
        'a distribution as log-likelihood',
        lambda: infer.Posterior(Line(), X, Y, log_likelihood=dist.Normal(0.0, 1.0)),
        (r'a distribution \(Normal\)', r'log_likelihood=lambda m, x, targets: .*log_prob\(targets\)'),
    ),
    Mistake('a word as likelihood', slip('normal'), ('likelihood must be a function', 'got str', 'lambda m, x')),
    Mistake('the model as the second argument', slip(lambda x, m: m(x)), SWAPPED),
    Mistake(
        'attributes of the second argument', slip(lambda x, m: dist.Normal(m.b.value() * x, 1.0)), (*SWAPPED, "'b'")
    ),
    Mistake(
        'the model as the second argument of a log-likelihood',
        lambda: infer.Posterior(Line(), X, Y, log_likelihood=lambda x, m, y: m(x).log_prob(y)),
        SWAPPED,
    ),
]
