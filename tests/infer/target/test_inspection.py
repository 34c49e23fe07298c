"""The door: what a model reads is fitted or refused, what is compiled follows what the model computes."""

import collections
import dataclasses
import functools
import re
import types
import warnings
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import environ, graph, infer, nn, transform
from brainstate_prob.infer import ModelWarning
from brainstate_prob.infer.density.log_density import Density

X = jnp.linspace(-1.0, 1.0, 20)
Y = 2.0 * X + 0.1
PRIOR = dist.Normal(0.0, 10.0)


def truth(b, s=0.5):
    """The log density of a slope ``b`` in plain NumPyro."""
    return float(PRIOR.log_prob(b) + dist.Normal(b * X, s).log_prob(Y).sum())


def density_is_right(posterior):
    """At the model's own value and elsewhere, and the gradient."""
    for b in (1.5, -0.3):
        np.testing.assert_allclose(posterior.log_density(jnp.array([b])), truth(b), rtol=1e-5)
    slope = jax.grad(lambda t: posterior.density.log_density(t, posterior.data))(jnp.array([1.5]))
    exact = jax.grad(lambda b: PRIOR.log_prob(b) + dist.Normal(b * X, 0.5).log_prob(Y).sum())(1.5)
    np.testing.assert_allclose(slope[0], exact, rtol=1e-4)


def slope():
    return nn.Param(1.5, reg=PRIOR)


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = slope()

    def line(self, x):
        return self.b.value() * x

    def __call__(self, x):
        return dist.Normal(self.line(x), 0.5)


# What is compiled


class Lab:
    sigma = 0.5

    def likelihood(self, model, x):
        return dist.Normal(model.line(x), self.sigma)


class Patched(Slope):
    pass


class WithArray(Slope):
    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma

    def __call__(self, x):
        return dist.Normal(self.line(x), self.sigma)


class OfAClass(Slope):
    sigma = 0.5

    def __call__(self, x):
        return dist.Normal(self.line(x), self.sigma)


class Prior(Slope):
    """A prior, a transform's bound and ``precompute`` that read a global."""

    def __init__(self):
        super().__init__()
        self.a = nn.Param(1.0, precompute=lambda value: SIGMA * value)

    def __call__(self, x):
        return dist.Normal(self.line(x), self.a.value())


SIGMA = 0.5
lab, namespace, array, cell = Lab(), types.SimpleNamespace(s=0.5), np.array(0.5), [0.5]


def set_all(value):
    global SIGMA
    SIGMA = lab.sigma = namespace.s = OfAClass.sigma = cell[0] = value
    array[...] = value
    Patched.__call__ = lambda self, x: dist.Normal(self.line(x), value)


def executed():
    scope = {'dist': dist, 'S': SIGMA}
    exec('def f(m, x):\n    return dist.Normal(m.line(x), S)', scope)
    return scope['f']


def helper():
    return SIGMA


@jax.custom_jvp
def with_rule(x):
    return x


with_rule.defjvp(lambda x, dx: (x[0], dx[0]))

CHANGED = {
    'a global': lambda: infer.Posterior(Slope(), X, Y, likelihood=lambda m, x: dist.Normal(m.line(x), SIGMA)),
    'a global of a helper': lambda: infer.Posterior(
        Slope(), X, Y, likelihood=lambda m, x: dist.Normal(m.line(x), helper())
    ),
    'the object of a method': lambda: infer.Posterior(Slope(), X, Y, likelihood=lab.likelihood),
    'a namespace in a closure': lambda: infer.Posterior(
        Slope(), X, Y, likelihood=(lambda c: lambda m, x: dist.Normal(m.line(x), c.s))(namespace)
    ),
    'a list': lambda: infer.Posterior(Slope(), X, Y, likelihood=lambda m, x: dist.Normal(m.line(x), cell[0])),
    'an array of the model': lambda: infer.Posterior(WithArray(array), X, Y),
    'an attribute of the class': lambda: infer.Posterior(OfAClass(), X, Y),
    'a method that is replaced': lambda: infer.Posterior(Patched(), X, Y),
    'functions made by exec': lambda: infer.Posterior(Slope(), X, Y, likelihood=executed()),
    'log_likelihood=': lambda: infer.Posterior(
        Slope(), X, Y, log_likelihood=lambda m, x, y: dist.Normal(m.line(x), SIGMA).log_prob(y)
    ),
    'a rule of derivatives': lambda: infer.Posterior(
        Slope(), X, Y, likelihood=lambda m, x: dist.Normal(with_rule(m.line(x)), SIGMA)
    ),
}


@pytest.mark.parametrize('name', CHANGED)
def test_a_new_posterior_computes_what_is_now(name):
    for sigma in (0.5, 0.1, 0.5):
        set_all(sigma)
        np.testing.assert_allclose(CHANGED[name]().log_density(), truth(1.5, sigma), rtol=1e-5)


@pytest.mark.parametrize('name', CHANGED)
def test_an_equal_posterior_compiles_nothing(name):
    set_all(0.5)
    assert CHANGED[name]().density is CHANGED[name]().density


@pytest.mark.parametrize('name', CHANGED)
def test_a_posterior_is_of_one_density(name):
    """What was made before a change refuses to compile what comes after; what is compiled stays as it was."""
    set_all(0.5)
    posterior = CHANGED[name]()
    before = float(posterior.log_density())
    set_all(0.1)
    try:
        assert float(posterior.log_density()) == before
        try:  # a program that was compiled before, a copy of the array, another function: the density that it was
            likelihood = float(posterior.log_likelihood().sum())
        except ValueError as error:
            said = str(error)
        else:
            said = 'computed'
            np.testing.assert_allclose(likelihood, truth(1.5) - PRIOR.log_prob(1.5), rtol=1e-5)
        as_before = name in ('an array of the model', 'functions made by exec', 'log_likelihood=')
        assert as_before or re.search('has changed since this Posterior was made.*Make a new Posterior', said)
        np.testing.assert_allclose(CHANGED[name]().log_density(), truth(1.5, 0.1), rtol=1e-5)
    finally:
        set_all(0.5)


def test_precompute_and_rules_follow_what_they_read():
    set_all(0.5)
    first = float(infer.Posterior(Prior(), X, Y).log_density())
    set_all(0.25)
    second = float(infer.Posterior(Prior(), X, Y).log_density())
    set_all(0.5)
    np.testing.assert_allclose([first, second], [truth(1.5, 0.5), truth(1.5, 0.25)], rtol=1e-5)


class Scaled(nn.Transform):
    """A transform of the user's own, value = SIGMA * theta."""

    def _forward(self, x):
        return SIGMA * x

    def _inverse(self, y):
        return y / SIGMA

    def _log_det(self, x):
        return jnp.broadcast_to(jnp.log(SIGMA), jnp.shape(x))


class OwnPrior(nn.Regularization):
    """A penalty of the user's own."""

    def loss(self, value):
        return jnp.sum(value**2) / SIGMA


class OwnParts(nn.Module):
    def __init__(self, t=None, reg=None):
        super().__init__()
        self.b = nn.Param(1.0, **({} if t is None else {'t': t}), reg=reg)

    def __call__(self, x):
        return dist.Normal(self.b.value() * x, 1.0)


@pytest.mark.parametrize(
    ('make', 'exact'),
    [
        (lambda: OwnParts(t=Scaled()), lambda s: np.log(s)),
        (lambda: OwnParts(reg=OwnPrior()), lambda s: -1.0 / s),
    ],
    ids=['transform', 'regularization'],
)
def test_transforms_and_priors_follow_what_they_read(make, exact):
    likelihood = float(dist.Normal(X, 1.0).log_prob(Y).sum())
    try:
        for sigma in (0.5, 0.25, 0.5):
            set_all(sigma)
            np.testing.assert_allclose(
                infer.Posterior(make(), X, Y).log_density(), likelihood + exact(sigma), rtol=1e-5
            )
    finally:
        set_all(0.5)


RATE = 1.0


@jax.custom_jvp
def scaled_rule(x):
    return x


scaled_rule.defjvp(lambda x, dx: (x[0], RATE * dx[0]))


def test_a_derivative_rule_that_reads_a_global_is_part_of_the_key(monkeypatch):
    def gradient():
        posterior = infer.Posterior(Slope(), X, Y, likelihood=lambda m, x: dist.Normal(scaled_rule(m.line(x)), 0.5))
        run = posterior.density.compiled(Density.value_and_grad)
        return float(run(jnp.array([1.5]), posterior.data)[1][0] + 1.5 / 100)

    first = gradient()
    monkeypatch.setitem(globals(), 'RATE', 2.0)
    np.testing.assert_allclose(gradient(), 2 * first, rtol=1e-5)


LEARNING_RATE = 0.0


def test_an_optimizer_that_reads_a_global_is_compiled_anew(monkeypatch):
    def moved():
        optimizer = optax.sgd(lambda step: LEARNING_RATE)
        fit = infer.map(infer.Posterior(Slope(), X, Y), optimizer=optimizer, num_steps=3, progress=False)
        return float(fit.estimate['b']) != 1.5

    assert not moved()
    monkeypatch.setitem(globals(), 'LEARNING_RATE', 1e-3)
    assert moved()


def test_a_function_that_is_evaluated_is_the_present_one(monkeypatch):
    posterior = infer.Posterior(Slope(), X, Y)
    fit = infer.Fit(posterior.target, jnp.ones((1, 2, 1)), method='by hand')
    monkeypatch.setitem(globals(), 'SIGMA', 2.0)
    assert fit.evaluate(lambda m: SIGMA * m.b.value()).tolist() == [2.0, 2.0]
    monkeypatch.setitem(globals(), 'SIGMA', 3.0)
    assert fit.evaluate(lambda m: SIGMA * m.b.value()).tolist() == [3.0, 3.0]
    assert fit.evaluate(lambda m: {'a': SIGMA * m.b.value()})['a'].tolist() == [3.0, 3.0]
    monkeypatch.setattr(Slope, 'line', lambda self, x: 5.0 * x)
    with pytest.raises(ValueError, match='has changed since this Posterior was made'):
        fit.evaluate(lambda m, x: m.line(x), 2.0)


def test_order_of_a_dict_is_that_of_the_model():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = {'shift': slope(), 'factor': nn.Const(2.0)}

        def __call__(self, x):
            for name, param in self.steps.items():
                x = x + param.value() if name == 'shift' else x * param.value()
            return dist.Normal(x, 0.5)

    exact = PRIOR.log_prob(1.5) + dist.Normal(2.0 * (X + 1.5), 0.5).log_prob(Y).sum()
    np.testing.assert_allclose(infer.Posterior(Layers(), X, Y).log_density(), exact, rtol=1e-5)


# What is read


@dataclasses.dataclass
class Settings:
    b: Any
    other: int = 1


def with_attribute(make, read):
    """A model whose slope hangs at ``held``, made by ``make(param)`` and read by ``read(held)``."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.held = make(slope())

        def __call__(self, x):
            return dist.Normal(read(self.held).value() * x, 0.5)

    return Model()


def with_function(make):
    """A model that computes its line by an attribute, a function that ``make(self)`` gives."""

    class Model(Slope):
        def __init__(self):
            super().__init__()
            self.f = make(self)

        def __call__(self, x):
            return dist.Normal(self.f(x), 0.5)

    return Model()


def in_objects(param):
    held = np.empty(1, object)
    held[0] = param
    return held


FITTED = {
    'a list': lambda: with_attribute(lambda p: [p], lambda h: h[0]),
    'a dict': lambda: with_attribute(lambda p: {'b': p}, lambda h: h['b']),
    'a dataclass': lambda: with_attribute(Settings, lambda h: h.b),
    'a namespace': lambda: with_attribute(lambda p: types.SimpleNamespace(b=p), lambda h: h.b),
    'a deque': lambda: with_attribute(lambda p: collections.deque([p]), lambda h: h[0]),
    'a defaultdict': lambda: with_attribute(lambda p: collections.defaultdict(list, b=p), lambda h: h['b']),
    'an array of objects': lambda: with_attribute(in_objects, lambda h: h[0]),
    'a dataclass in a list in a dict': lambda: with_attribute(lambda p: {'a': [Settings(p)]}, lambda h: h['a'][0].b),
    'a bound method': lambda: with_function(lambda self: self.line),
    'a closure': lambda: with_function(lambda self: lambda x: self.b.value() * x),
    'a partial': lambda: with_function(lambda self: functools.partial(Slope.line, self)),
    'a helper under jit': lambda: with_function(lambda self: transform.jit(self.line)),
    'a checkpointed method': lambda: with_function(lambda self: transform.checkpoint(self.line)),
    'a function of a Sequential': lambda: with_function(
        lambda self: nn.Sequential(nn.Identity(), lambda x: self.b.value() * x)
    ),
    'shared': lambda: with_function(lambda self: (lambda b: lambda x: 0.5 * (b.value() + self.b.value()) * x)(self.b)),
}


@pytest.mark.parametrize('name', FITTED)
def test_what_is_read_is_fitted(name):
    density_is_right(infer.Posterior(FITTED[name](), X, Y))


@pytest.mark.parametrize('name', ['a bound method', 'a closure', 'a partial', 'a dataclass', 'an array of objects'])
def test_a_second_model_of_functions_compiles_nothing(name):
    model = FITTED[name]()
    first, second = infer.Posterior(model, X, Y), infer.Posterior(graph.clone(model), X, Y + 1.0)
    assert first.density is second.density


def test_a_likelihood_that_reads_the_outer_model():
    model = Slope()
    posterior = infer.Posterior(model, X, Y, likelihood=lambda m, x: dist.Normal(model.line(x), 0.5))
    density_is_right(posterior)
    fit = infer.map(posterior, progress=False)
    np.testing.assert_allclose(fit.estimate['b'], 2.0, atol=0.05)


def test_a_second_outer_model_is_another():
    def posterior():
        model = Slope()
        return infer.Posterior(model, X, Y, likelihood=lambda m, x: dist.Normal(model.line(x), 0.5))

    for _ in range(2):
        density_is_right(posterior())


def test_a_constant_of_an_outer_model_is_one():
    gain = nn.Const(2.0)
    posterior = infer.Posterior(Slope(), X, Y, likelihood=lambda m, x: dist.Normal(m.line(x) * gain.value() / 2.0, 0.5))
    density_is_right(posterior)


# Any way of attaching: right, or refused


@dataclasses.dataclass
class Plan:
    """How one factor of the slope is attached, and what it is."""

    how: str
    value: float
    sigma: float | None  # of its prior; None: a copy of the first factor


HOWS = (
    'attribute',
    'list',
    'dict',
    'dataclass',
    'namespace',
    'method',
    'closure',
    'partial',
    'module',
    'set',
    'object',
)


class Child(nn.Module):
    def __init__(self, param):
        super().__init__()
        self.p = param

    def read(self):
        return self.p.value()


class Plain:
    def __init__(self, param):
        self.p = param


class Any_(nn.Module):
    """The slope is the product of factors, each attached in its own way."""

    def __init__(self, plans):
        super().__init__()
        self.how = [plan.how for plan in plans]
        self.parts = []
        params = []
        for plan in plans:
            param = params[0] if plan.sigma is None and params else self._param(plan)
            params.append(param)
            self.parts.append(self._attached(param, plan.how))

    @staticmethod
    def _param(plan):
        return nn.Param(plan.value, reg=dist.Normal(0.0, plan.sigma or 1.0))

    def _attached(self, param, how):
        return {
            'attribute': lambda: param,
            'list': lambda: [param],
            'dict': lambda: {'p': param},
            'dataclass': lambda: Settings(param),
            'namespace': lambda: types.SimpleNamespace(p=param),
            'module': lambda: Child(param),
            'method': lambda: (Child(param), param.value),
            'closure': lambda: (param, lambda: param.value()),
            'partial': lambda: (param, functools.partial(nn.Param.value, param)),
            'set': lambda: {param},
            'object': lambda: Plain(param),
        }[how]()

    def __call__(self, x):
        slope = 1.0
        for how, part in zip(self.how, self.parts, strict=True):
            if how in ('method', 'closure', 'partial'):
                slope = slope * part[1]()
            elif how == 'set':
                slope = slope * next(iter(part)).value()
            else:
                held = {'list': lambda p: p[0], 'dict': lambda p: p['p'], 'dataclass': lambda p: p.b}.get(
                    how, lambda p: p if isinstance(p, nn.Param) else p.p
                )(part)
                slope = slope * held.value()
        return dist.Normal(slope * x, 0.5)


plans = st.lists(
    st.builds(Plan, st.sampled_from(HOWS), st.sampled_from([0.5, -1.0, 2.0]), st.sampled_from([None, 1.0, 3.0])),
    min_size=1,
    max_size=4,
)


@hypothesis.given(plans)
@hypothesis.settings(max_examples=40)
def test_random_models_have_the_right_density_or_an_error(plans):
    """The truth is the same model in plain JAX; the model's values are moved, so that no constant passes."""
    kept = [plans[0] if plan.sigma is None else plan for plan in plans]
    hidden = [p for p in kept if all(q.how in ('set', 'object') for q, r in zip(plans, kept, strict=True) if r is p)]
    if hidden:  # in what has no order, or is no part of the tree, and attached in no other way
        with pytest.raises(ValueError, match='not part of the model|no trainable parameters'):
            infer.Posterior(Any_(plans), X, Y)
        return
    posterior = infer.Posterior(Any_(plans), X, Y)
    first = plans[0]
    distinct = [p for i, p in enumerate(plans) if i == 0 or p.sigma is not None]
    assert len(posterior.entries) == len(distinct)
    values = posterior.constrain()
    for shift in (0.0, 0.7):
        slope = np.prod([(first if p.sigma is None else p).value + shift for p in plans])
        prior = sum(dist.Normal(0.0, p.sigma or 1.0).log_prob(p.value + shift) for p in distinct)
        exact = prior + dist.Normal(slope * X, 0.5).log_prob(Y).sum()
        theta = posterior.unconstrain({name: value + shift for name, value in values.items()})
        np.testing.assert_allclose(posterior.log_density(theta), exact, rtol=1e-4)


# What is not used


class Frozen(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.s = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))
        self.b = nn.Param(1.5, reg=prior(self.s))

    def __call__(self, x):
        return dist.Normal(self.b.value() * x, 0.5)


def warned(posterior):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fit = infer.map(posterior, progress=False)
    return [str(w.message) for w in caught if issubclass(w.category, ModelWarning)], fit


def test_a_frozen_hyperparameter_is_told_and_a_fitted_one_not():
    frozen = infer.Posterior(Frozen(lambda s: dist.Normal(0.0, s.value())), X, Y)
    (message,), fit = warned(frozen)
    assert "'s'" in message and 'nn.GaussianReg' in message
    assert not fit.check().ok
    assert any("'s'" in problem for problem in fit.check().problems)
    assert warned(infer.Posterior(Frozen(lambda s: nn.GaussianReg(0.0, s)), X, Y))[0] == []


def test_a_prior_alone_has_nothing_unused():
    assert infer.Posterior(Slope()).inspection.unused == ()


def test_a_model_in_training_mode_is_inspected_as_it_is_used():
    with environ.context(fit=True):
        density_is_right(infer.Posterior(Slope(), X, Y))
