"""What a log density does not show when it is traced: predictions, draws, training mode, schedules, callbacks."""

import functools
import pickle
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import environ, infer, nn
from brainstate_prob.infer import ModelWarning

X = np.linspace(0.0, 1.0, 8, dtype='f4')
Y = 2 * X + np.float32(0.1)
QUIET = {'progress': False}
C = 1.0


class Slope(nn.Module):
    def __init__(self, reg=dist.Normal(0.0, 1.0)):  # noqa: B008
        super().__init__()
        self.a = nn.Param(1.0, reg=reg)

    def __call__(self, x):
        return dist.Normal(self.a.value() * x, 0.5)


class ByShape(Slope):
    """Another mean where one row is asked for."""

    def __call__(self, x):
        return dist.Normal(self.a.value() * x * 0 + C if x.shape[0] == 1 else self.a.value() * x, 0.5)


class Constant(dist.Normal):
    """A distribution of the user's own, whose draws read a global."""

    def sample(self, key, sample_shape=()):
        return jnp.zeros(sample_shape + self.batch_shape) + C


class OwnLaw(Slope):
    def __call__(self, x):
        return Constant(self.a.value() * x, 0.5)


class InTraining(Slope):
    def __call__(self, x):
        return dist.Normal(self.a.value() * x * (C if environ.get('fit', False) else 1.0), 0.5)


def trained():
    posterior = infer.Posterior(InTraining(), X, Y)
    with environ.context(fit=True):
        return float(infer.map(posterior, **QUIET).estimate['a'])


class Schedule:
    def __call__(self, step):
        return C


class Config:
    @property
    def rate(self):
        return C


schedule, config = Schedule(), Config()
package = types.ModuleType('package_of_a_user')
package.config = types.ModuleType('package_of_a_user.config')
sys.modules |= {package.__name__: package, package.config.__name__: package.config}


def moved(learning_rate):
    fit = infer.map(infer.Posterior(Slope(), X, Y), optimizer=optax.sgd(learning_rate), num_steps=5, **QUIET)
    return float(fit.estimate['a'] - 1.0)


FOLLOWS = {
    'a branch on the shape': lambda: np.mean(
        infer.map(infer.Posterior(ByShape(), X, Y), **QUIET).predict(X[:1], kind='mean')
    ),
    'the draws of a distribution': lambda: np.mean(infer.map(infer.Posterior(OwnLaw(), X, Y), **QUIET).predict(X)),
    'the draws of a prior': lambda: np.mean(
        infer.sample_prior(infer.Posterior(Slope(Constant(0.0, 1.0)), X, Y), 3).draws['a']
    ),
    'training mode': trained,
    'a schedule that is an object': lambda: moved(schedule),
    'a schedule that reads a property': lambda: moved(lambda step: config.rate),
    'a schedule that reads a nested module': lambda: moved(lambda step: package.config.C),
}


@pytest.mark.parametrize('name', FOLLOWS)
def test_what_reads_a_global_follows_it(name, monkeypatch):
    found = []
    for value in (0.0625, 0.125, 0.0625):
        monkeypatch.setitem(globals(), 'C', value)
        package.config.C = value
        found.append(float(FOLLOWS[name]()))
    assert found[0] == found[2] != found[1]
    if 'draws' in name or 'shape' in name:
        np.testing.assert_allclose(found, [0.0625, 0.125, 0.0625], rtol=1e-6)
    if name == 'training mode':  # the mode of a normal slope in closed form
        exact = [c * (X @ Y) / (c**2 * X @ X + 0.25) for c in (0.0625, 0.125)]
        np.testing.assert_allclose(found[:2], exact, rtol=1e-3)


COUNTS = {'calls': 0}


class Counted(Slope):
    calls = 0

    def __call__(self, x):
        COUNTS['calls'] += 1
        Counted.calls += 1
        return super().__call__(x)


def test_counters_in_a_model_are_no_change_of_it():
    first = infer.Posterior(Counted(), X, Y)
    first.log_density()
    assert infer.Posterior(Counted(), X, Y + 1).density is first.density


def doubled(x):
    return 2 * np.asarray(x)


class Callback(Slope):
    def __call__(self, x):
        twice = jax.pure_callback(doubled, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return dist.Normal(self.a.value() * twice, 0.5)


def test_a_model_that_calls_back_into_python_is_fitted():
    fit = infer.map(infer.Posterior(Callback(), X, Y), optimizer=optax.adam(0.1), num_steps=300, **QUIET)
    np.testing.assert_allclose(fit.estimate['a'], 2 * (X @ Y) / (4 * X @ X + 0.25), rtol=1e-2)


class Cached(Slope):
    @functools.cached_property
    def twice(self):
        return 2 * self.a.value()

    def __call__(self, x):
        return dist.Normal(self.twice * x, 0.5)


class Jitted(Slope):
    def __init__(self):
        super().__init__()
        self.f = jax.jit(lambda x: self.a.value() * x)

    def __call__(self, x):
        return dist.Normal(self.f(x), 0.5)


@pytest.mark.parametrize('model', [Cached, Jitted])
def test_a_value_of_an_earlier_call_is_told(model):
    with pytest.raises(TypeError, match=r'kept from an earlier call.*transform\.jit'):
        infer.Posterior(model(), X, Y)


class EqualPaths(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = {1: nn.Param(1.0), '1': nn.Param(2.0)}

    def __call__(self, x):
        return dist.Normal(self.w[1].value() * x + self.w['1'].value(), 0.5)


def test_two_parameters_of_one_path_are_refused():
    with pytest.raises(ValueError, match=r"Two parameters have the path 'w.1'"):
        infer.Posterior(EqualPaths(), X, Y)


class Conjugate(nn.Module):
    """The noise scales the prior of the slope."""

    def __init__(self, prior):
        super().__init__()
        self.s = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))
        self.a = nn.Param(0.7, reg=prior(self.s))

    def __call__(self, x):
        return dist.Normal(self.a.value() * x, self.s.value())


def test_a_frozen_number_is_told_where_the_parameter_is_used_otherwise():
    with pytest.warns(ModelWarning, match=r"prior of Param 'a' was built with the number that Param 's' had"):
        infer.map(infer.Posterior(Conjugate(lambda s: dist.Normal(0.0, s.value())), X, Y), num_steps=2, tol=1.0)
    for prior in (lambda s: nn.GaussianReg(0.0, s), lambda s: dist.Normal(0.0, float(s.value()))):
        assert infer.Posterior(Conjugate(prior), X, Y).inspection.frozen == ()


class Factor(Slope):
    def __call__(self, x):
        if environ.get('fit', False):
            numpyro.factor('soft', -(self.a.value() ** 2))
        return super().__call__(x)


def test_a_statement_of_training_mode_is_refused_there():
    posterior = infer.Posterior(Factor(), X, Y)
    with environ.context(fit=True), pytest.raises(ValueError, match=r"numpyro\.factor\('soft'"):
        infer.map(posterior, **QUIET)


def test_a_statement_in_precompute_is_refused():
    model = Slope()
    model.a = nn.Param(1.0, reg=dist.Normal(0.0, 1.0), precompute=lambda a: (numpyro.factor('soft', -a), a)[1])
    with pytest.raises(ValueError, match=r"numpyro\.factor\('soft'"):
        infer.Posterior(model, X, Y)


def test_priors_draw_the_same_in_another_process(tmp_path):
    prior = nn.Param(jnp.zeros(2), reg=dist.Normal(1.0, 2.0)).reg
    (tmp_path / 'prior.pkl').write_bytes(pickle.dumps(prior))
    script = (
        'import pickle, sys, jax, numpy as np\n'
        "reg = pickle.load(open(sys.argv[1], 'rb'))\n"
        'print(np.asarray(reg.sample_init((2,), key=jax.random.key(0))).tolist(), reg.distribution.batch_shape)'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, str(tmp_path / 'prior.pkl')], capture_output=True, text=True, check=True
    )
    here = np.asarray(prior.sample_init((2,), key=jax.random.key(0))).tolist()
    assert done.stdout.strip().splitlines()[-1] == f'{here} ()'
