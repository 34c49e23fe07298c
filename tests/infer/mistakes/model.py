"""Mistakes in a model: what it returns, reads, writes and depends on."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from brainstate_prob import ParamState, infer, nn
from brainstate_prob.infer import ModelWarning
from tests.infer.mistakes.row import ALL, Mistake

X = np.linspace(-1.0, 1.0, 8)
Y = 2.0 * X
MASK = np.array([True] * 6 + [False] * 2)


class Line(nn.Module):
    """A slope, and what a row does with it: ``call(self, x)`` is what the model computes."""

    def __init__(self, call=None, **attributes):
        super().__init__()
        self.b = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))
        self.call = call
        for name, value in attributes.items():
            setattr(self, name, value)

    def __call__(self, x):
        return dist.Normal(self.b.value() * x, 1.0) if self.call is None else self.call(self, x)


class OnTheClass(Line):
    shared = nn.Param(1.0)


class Plain:
    """An object that is no Module."""

    def __init__(self):
        self.p = nn.Param(1.0)


outer, in_a_default = nn.Param(1.0, name='outer'), nn.Param(1.0)
other = Line()


def posterior(call=None, likelihood=None, **attributes):
    return infer.Posterior(Line(call, **attributes), X, Y, likelihood=likelihood)


def plus(param):
    """A call that adds the value of what ``param(self)`` gives."""
    return lambda self, x: dist.Normal(self.b.value() * x + param(self).value(), 1.0)


def statement(make):
    def call(self, x):
        return dist.Normal(self.b.value() * x + make(self.b.value()), 1.0)

    return lambda: posterior(call)


def handled(handler):
    def call(self, x):
        with handler():
            return dist.Normal(self.b.value() * x, 1.0)

    return lambda: posterior(call)


def factor(b):
    numpyro.factor('soft', -100.0 * b**2)
    return 0.0


def plate(b):
    with numpyro.plate('rows', 8, subsample_size=4):
        return 0.0


def creates(self, x):
    return dist.Normal(nn.Linear(1, 1)(x[:, None])[:, 0] + self.b.value(), 1.0)


def writes(self, x):
    self.b.set_value(self.b.value() * 0.5)
    return dist.Normal(self.b.value() * x, 1.0)


def writes_state(self, x):
    self.w.value = self.w.value / 2
    return dist.Normal(self.w.value * x, 1.0)


def in_place(self, x):
    mean = self.b.value() * x
    mean[0] = 0.0
    return dist.Normal(mean, 1.0)


class Frozen(nn.Module):
    """A prior that was built with the number of another parameter."""

    def __init__(self, prior=lambda s: dist.Normal(0.0, s.value())):
        super().__init__()
        self.s = nn.Param(1.0, reg=dist.Normal(1.0, 0.1))
        self.b = nn.Param(1.0, reg=prior(self.s))

    def __call__(self, x):
        return dist.Normal(self.b.value() * x, 1.0)


class Unused(Frozen):
    def __init__(self):
        super().__init__(lambda s: dist.Normal(0.0, 1.0))


def in_double(build, fit=lambda posterior: posterior):
    def make():
        with jax.enable_x64(True):
            return fit(build())

    return make


NOT_FITTED = ('not part of the model', 'constant in every fit', 'nn.Const')
STATES = tuple(way for way in ALL if way not in ('mc_dropout', 'hmc_ecs'))
DRAWN = tuple(way for way in STATES if way not in ('elliptical_slice', 'swag'))

ROWS = [
    Mistake('a class in place of a model', lambda: infer.Posterior(dict), ('takes a Module, got', 'nn.Module')),
    Mistake('no parameters', lambda: infer.Posterior(nn.Module(), X, Y), ('no trainable parameters', 'nn.Param')),
    # Read and not fitted
    Mistake('a Param of the module around', lambda: posterior(plus(lambda self: outer)), (*NOT_FITTED, 'outer')),
    Mistake(
        'a Param of another model',
        lambda: posterior(likelihood=lambda m, x: dist.Normal(m.b.value() * x + other.b.value(), 1.0)),
        (*NOT_FITTED, r'the likelihood: other\.b'),
    ),
    Mistake(
        'a Param in a closure',
        lambda: posterior((lambda p: plus(lambda self: p))(nn.Param(1.0))),
        (*NOT_FITTED, r'the model\.call'),
    ),
    Mistake(
        'a Param in a partial',
        lambda: posterior(functools.partial(lambda p, self, x: plus(lambda _: p)(self, x), nn.Param(1.0))),
        NOT_FITTED,
    ),
    Mistake(
        'a Param in a default',
        lambda: posterior(lambda self, x, p=in_a_default: plus(lambda _: p)(self, x)),
        NOT_FITTED,
    ),
    Mistake(
        'a Param in a set',
        lambda: posterior(plus(lambda self: next(iter(self.s))), s={nn.Param(1.0)}),
        (*NOT_FITTED, r'the model\.s'),
    ),
    Mistake(
        'a Param in an object that is no Module',
        lambda: posterior(plus(lambda self: self.o.p), o=Plain()),
        (*NOT_FITTED, r"'the model\.o\.p'"),
    ),
    Mistake(
        'a Param of the class',
        lambda: infer.Posterior(OnTheClass(plus(lambda self: self.shared)), X, Y),
        (*NOT_FITTED, r'the model\.shared'),
    ),
    Mistake(
        'a method of another object',
        lambda: posterior(lambda self, x: self.f(x), f=other.__call__),
        (*NOT_FITTED, r'the model\.f\.b'),
    ),
    Mistake(
        'a bare ParamState of the module around',
        lambda: posterior(
            (lambda p: lambda self, x: dist.Normal(self.b.value() * x + p.value, 1.0))(ParamState(jnp.ones(())))
        ),
        NOT_FITTED,
    ),
    Mistake(
        'a layer that is made in the call',
        lambda: posterior(creates),
        ('creates 1 new trainable parameter ', '__init__'),
    ),
    Mistake(
        'a Param that is made in the call',
        lambda: posterior(plus(lambda self: nn.Param(1.0))),
        ('creates 1 new trainable parameter ', '__init__'),
    ),
    # Written
    Mistake('a parameter that is written', lambda: posterior(writes), ("writes to its parameter 'b'", 'dropped')),
    Mistake(
        'a bare parameter that is written',
        lambda: posterior(writes_state, w=ParamState(jnp.ones(()))),
        ("writes to its parameter 'w'",),
    ),
    # Statements of NumPyro
    Mistake('numpyro.factor', statement(factor), (r"numpyro\.factor\('soft'", 'log_likelihood=')),
    Mistake(
        'numpyro.sample of a latent',
        statement(lambda b: numpyro.sample('z', dist.Normal(0.0, 1.0))),
        (r"numpyro\.sample\('z'", r'nn\.Param with reg='),
    ),
    Mistake(
        'numpyro.sample of the targets',
        statement(lambda b: numpyro.sample('y', dist.Normal(0.0, 1.0), obs=0.5)),
        (r"numpyro\.sample\('y'", 'return the distribution'),
    ),
    Mistake('numpyro.param', statement(lambda b: numpyro.param('p', 1.0)), (r"numpyro\.param\('p'", r'nn\.Param')),
    Mistake('a subsampled plate', statement(plate), (r"numpyro\.plate\('rows', 8", 'batch_size=')),
    Mistake(
        'handlers.mask',
        handled(lambda: numpyro.handlers.mask(mask=MASK)),
        (r'numpyro\.handlers\.mask', r'distribution\.mask'),
    ),
    Mistake(
        'handlers.scale',
        handled(lambda: numpyro.handlers.scale(scale=2.0)),
        (r'numpyro\.handlers\.scale', 'log_likelihood='),
    ),
    # Values that are looked at, and calls that do not fit
    Mistake(
        "a parameter in Python's if",
        lambda: posterior(lambda self, x: dist.Normal(x if self.b.value() > 0 else -x, 1.0)),
        ("the value of 'b' in Python's if", r'jnp\.where'),
    ),
    Mistake(
        'float() of a parameter',
        lambda: posterior(lambda self, x: dist.Normal(float(self.b.value()) * x, 1.0)),
        (r"the value of 'b' in float\(\)", 'Leave the value as it is'),
    ),
    Mistake(
        'NumPy on a parameter',
        lambda: posterior(lambda self, x: dist.Normal(np.sin(self.b.value()) * x, 1.0)),
        ("the value of 'b' in a function of NumPy", r'jax\.numpy'),
    ),
    Mistake(
        'an index by a parameter',
        lambda: posterior(lambda self, x: dist.Normal([1.0, 2.0][self.b.value().astype(int)] * x, 1.0)),
        ('as a Python int', 'Index arrays of jnp'),
    ),
    Mistake('an assignment in place', lambda: posterior(in_place), ('in place', r'x\.at\[i\]\.set')),
    Mistake(
        'inputs forgotten',
        lambda: infer.Posterior(Line(), targets=Y),
        (r'The model takes \(x\)', 'gives it nothing', 'missing'),
    ),
    Mistake(
        'one input too many', lambda: infer.Posterior(Line(), (X, X), Y), (r'The model takes \(x\)', '2 positional')
    ),
    Mistake(
        'a keyword that is none',
        lambda: infer.Posterior(Line(), {'y': X}, Y),
        (r'takes \(x\)', r"the keywords \['y'\]"),
    ),
    Mistake(
        'a likelihood of the inputs alone',
        lambda: posterior(likelihood=lambda x: dist.Normal(x, 1.0)),
        ('likelihood takes', '2 positional'),
    ),
    Mistake(
        'a list where a tuple is meant',
        lambda: infer.Posterior(Line(lambda self, x: None), [X, X], Y[:2]),
        ('must return a NumPyro distribution',),
    ),
    # Fitted and not used
    Mistake(
        'a frozen hyper-parameter',
        lambda: infer.Posterior(Frozen(), X, Y),
        (r"depends on Param 's'", r'nn\.GaussianReg\(mean=0\.0, std=self\.s\)'),
        ModelWarning,
        STATES,
        warns=True,
    ),
    Mistake(
        'a parameter that nothing reads',
        lambda: infer.Posterior(Unused(), X, Y),
        (r"depends on Param 's'", r'nn\.Const'),
        ModelWarning,
        ('map', 'nuts'),
        warns=True,
    ),
    # Precision
    Mistake(
        'a model of double precision fitted in single',
        in_double(lambda: infer.Posterior(Line(), X, Y)),
        ('double precision', r'jax\.enable_x64'),
    ),
]
