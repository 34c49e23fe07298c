"""Mistakes that were met with the words of another library: JAX's, NumPy's, NumPyro's or brainunit's."""

from __future__ import annotations

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from brainstate_prob import infer, nn
from tests.infer.mistakes.model import Line, X, Y, posterior
from tests.infer.mistakes.row import ALL, Mistake


class EachRow(nn.Module):
    """A latent number for each row."""

    def __init__(self):
        super().__init__()
        self.z = nn.Param(jnp.zeros(len(X)), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.z.value() * x, 1.0)


class Columns(nn.Module):
    """A line of four columns."""

    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(4), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


class FixedPoint(Line):
    """What a solver finds, in as many steps as it takes."""

    def __call__(self, x):
        def step(point):
            return jnp.tanh(self.b.value() * point[0] + x), point[1] + 1

        return dist.Normal(jax.lax.while_loop(lambda point: point[1] < 20, step, (jnp.zeros(len(x)), 0))[0], 1.0)


class Checkpointed(Line):
    """A part of the model under JAX's transformation, made once."""

    def __init__(self):
        super().__init__()
        self.part = jax.checkpoint(lambda x: self.b.value() * x)

    def __call__(self, x):
        return dist.Normal(self.part(x), 1.0)


class Angles(Line):
    def __call__(self, x):
        return dist.VonMises(self.b.value(), 2.0)


class Kept(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, scale))

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


def fill(self, x):
    mean = np.zeros(len(X))
    mean[0] = self.b.value()
    return dist.Normal(mean, 1.0)


def in_a_scan(self, x):
    scan(lambda carry, t: (numpyro.sample('hidden', dist.Normal(carry, 1.0)), t), 0.0, x)
    return dist.Normal(self.b.value() * x, 1.0)


def with_units(log_likelihood):
    """Targets in mV, and a log-likelihood that computes with quantities."""
    return lambda: infer.Posterior(Line(), X, Y * u.mV, log_likelihood=log_likelihood)


settings = {'sd': 0.1}


def reads_a_global(m, x):
    return dist.Normal(m.b.value() * x, settings['sd'])


def changed(fit):
    settings['sd'] = 0.5
    try:
        fit.predict(X)
    finally:
        settings['sd'] = 0.1


def no_guide(x, targets):
    numpyro.sample('b', dist.Normal(settings['no such entry'], 1.0))


def samples_b(*args, **kwargs):
    numpyro.sample('b', dist.Normal(numpyro.param('loc', 1.0), 0.1))


MAGNITUDES = (r'log_likelihood= gets the targets as plain numbers, their magnitudes in mV', r'targets \* u\.mV')
A_STATE = ('a State in place of the value that it holds', r'Write self\.b\.value\(\)')
EACH = (r"Param 'z' has one number for each of the 8 rows that were fitted",)

ROWS = [
    Mistake('a State times a number', lambda: posterior(lambda self, x: dist.Normal(self.b.val * x, 1.0)), A_STATE),
    Mistake('a State on the right', lambda: posterior(lambda self, x: dist.Normal(x * self.b.val, 1.0)), A_STATE),
    Mistake('a sign before a State', lambda: posterior(lambda self, x: dist.Normal(-self.b.val, 1.0)), A_STATE),
    Mistake('a function of a State', lambda: posterior(lambda self, x: dist.Normal(jnp.exp(self.b.val), 1.0)), A_STATE),
    Mistake(
        'a State as a mean',
        lambda: posterior(lambda self, x: dist.Normal(self.b.val, 1.0)),
        ('a State in place of the value', r'param\.value\(\)'),
    ),
    Mistake(
        'a value stored in an array of NumPy',
        lambda: posterior(fill),
        (r'an entry of an array of NumPy \(words\.py, line \d+: mean\[0\] = ', r'jnp\.stack', r'\.at\[i\]\.set'),
    ),
    Mistake(
        'a statement in the body of a scan',
        lambda: posterior(in_a_scan),
        (r"statement numpyro\.sample\('hidden', \.\.\.\)", 'does not count in a Posterior'),
    ),
    Mistake(
        'one column too many',
        lambda: infer.Posterior(Columns(), np.ones((20, 3)), np.zeros(20)),
        (
            r'combines arrays whose shapes do not fit each other, \(3,\) and \(4,\) \(words\.py, line',
            'columns included',
        ),
    ),
    Mistake(
        'other columns in a prediction',
        lambda: infer.Posterior(Columns(), np.ones((20, 4)), np.zeros(20)),
        (r'inputs\[0\] has shape \(5, 3\) where \(20, 4\) was fitted',),
        ways=('map',),
        options={'num_steps': 2},
        then=lambda fit: fit.predict(np.ones((5, 3))),
    ),
    Mistake(
        'a loop whose number of steps is not fixed',
        lambda: infer.Posterior(FixedPoint(), X, Y),
        ('number of steps is not fixed', r'jax\.lax\.scan', 'elliptical_slice'),
        ways=tuple(way for way in ALL if way not in ('elliptical_slice', 'mc_dropout')),
    ),
    Mistake(
        'a part of a model under jax.checkpoint',
        lambda: infer.Posterior(Checkpointed(), X, Y),
        (r'jax\.checkpoint of a function that reads its parameters', r'transform\.checkpoint'),
    ),
    Mistake(
        'phases that are not wrapped',
        lambda: infer.Posterior(Angles(), X, 3.0 + X),
        (r'angles of VonMises lie between -pi and pi', r'\(x \+ jnp\.pi\) % \(2 \* jnp\.pi\) - jnp\.pi'),
    ),
    Mistake(
        'a negative scale',
        lambda: posterior(lambda self, x: dist.Normal(self.b.value() * x, -1.0)),
        (r'gives Normal a scale that it does not take \(words\.py, line \d+', 'must be positive', r'nn\.SoftplusT'),
        ValueError,
    ),
    Mistake(
        'magnitudes less quantities',
        with_units(lambda m, x, y: -0.5 * ((y - m.b.value() * x * u.mV) / u.mV) ** 2),
        MAGNITUDES,
        u.UnitMismatchError,
    ),
    Mistake(
        'magnitudes in a distribution of quantities',
        with_units(lambda m, x, y: infer.of_quantities(dist.Normal, m.b.value() * x * u.mV, u.mV).log_prob(y)),
        MAGNITUDES,
        u.UnitMismatchError,
    ),
    Mistake(
        'predictions for rows without a number',
        lambda: infer.Posterior(EachRow(), X, Y),
        ('cannot be called with these inputs', *EACH, r'fit\.evaluate'),
        ways=('map',),
        then=lambda fit: fit.predict(X[:3]),
    ),
    Mistake(
        'scores of rows without a number',
        lambda: infer.Posterior(EachRow(), X, Y),
        ('cannot be called with these inputs', *EACH),
        ways=('map',),
        then=lambda fit: fit.score(X[:3], Y[:3]),
    ),
    Mistake(
        'batches of rows that have a number each',
        lambda: infer.Posterior(EachRow(), X, Y),
        ('cannot be called with a part of them', *EACH, 'Leave batch_size out'),
        ways=('map', 'sgmcmc'),
        options={'batch_size': 4},
    ),
    Mistake(
        'predictions after a global has changed',
        lambda: posterior(likelihood=reads_a_global),
        ('has changed since', 'undo the change', r'fit\.with_posterior\(posterior\)'),
        ways=('map', 'nuts'),
        then=changed,
    ),
    Mistake(
        'draws for another prior',
        lambda: infer.Posterior(Kept(), targets=Y),
        ('another model', r"the prior of 'mu' is .*scale=5"),
        ways=('map',),
        then=lambda fit: fit.with_posterior(infer.Posterior(Kept(5.0), targets=Y)),
    ),
    Mistake(
        'draws for other parameters',
        lambda: infer.Posterior(Kept(), targets=Y),
        ('another model', "'mu'"),
        ways=('map',),
        then=lambda fit: fit.with_posterior(posterior()),
    ),
    Mistake(
        'draws for a model',
        lambda: infer.Posterior(Kept(), targets=Y),
        ('takes a Posterior', 'got Kept'),
        ways=('map',),
        then=lambda fit: fit.with_posterior(Kept()),
    ),
    Mistake(
        'the evidence of a likelihood that was not fitted',
        lambda: infer.Posterior(Kept(), targets=Y),
        ('log_marginal_likelihood is about the data that were fitted', 'of another likelihood'),
        ways=('laplace',),
        then=lambda fit: (
            fit.with_posterior(
                infer.Posterior(Kept(), targets=Y, likelihood=lambda m: dist.Normal(m.mu.value(), 3.0))
            ).log_marginal_likelihood
        ),
    ),
    Mistake(
        'a guide function of sites over one vector',
        posterior,
        ("must sample one site 'theta'", 'sites=True', "it samples {'b': "),
        ways=('svi',),
        options={'guide': samples_b},
    ),
    Mistake(
        'a function that is no guide',
        posterior,
        ('guide=no_guide is neither a function of the model', 'guide function of the data', 'no such entry'),
        ways=('svi',),
        options={'guide': no_guide, 'sites': True},
    ),
    Mistake(
        'one number as a start',
        posterior,
        ("init must be 'model'", r"values by path \({'scale': 1\.5}\)", r'got 1\.5'),
        ways=tuple(way for way in ALL if way in ('map', 'nuts', 'svi')),
        options={'init': 1.5},
    ),
    Mistake(
        'a layer without bias in the words of another library',
        lambda: nn.Linear(3, 2, False),
        ('got False', 'a layer without bias is b_init=None'),
    ),
    Mistake(
        'a way to fit called with a model and its data',
        lambda: infer.nuts(Line(), X, Y),
        ('nuts takes 1 argument by position', 'Line, ndarray, ndarray', r'infer\.Posterior\(model, inputs, targets\)'),
        TypeError,
    ),
]
