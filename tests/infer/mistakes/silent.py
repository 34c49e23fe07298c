"""Mistakes that leave no trace in a program: it runs, and its numbers are those of another model."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from brainstate_prob.infer import ModelWarning
from tests.infer.mistakes.row import ALL, Mistake

X = np.linspace(-1.0, 1.0, 8, dtype='f4')
HEIGHTS = 3.0 + 1.5 * np.random.default_rng(0).standard_normal(8).astype('f4')
FROM_ONE = np.repeat([1, 2, 3], 2)
LABELS = ('used as an index along an axis of 3 entries', 'abels count from 0')


class Groups(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 10.0))

    def __call__(self, i):
        return dist.Normal(self.g.value()[i], 1.0)


class Changepoint(nn.Module):
    def __init__(self, step=lambda x, tau: x < tau):
        super().__init__()
        self.tau = nn.Param(0.3, reg=dist.Normal(0.0, 1.0))
        self.m = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))
        self.step = step

    def __call__(self, x):
        low, high = self.m.value()
        return dist.Normal(jnp.where(self.step(x, self.tau.value()), low, high), 1.0)


class Slope(nn.Module):
    def __init__(self, reg=None):
        super().__init__()
        self.a = nn.Param(0.0, reg=reg)

    def __call__(self, x):
        return dist.Bernoulli(logits=self.a.value() * x)


class Rate(Slope):
    def __call__(self, t):
        return dist.Normal(self.a.value() * u.get_magnitude(t), 1.0)


class Heavy(Slope):
    def __init__(self):
        super().__init__(dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.StudentT(0.8, self.a.value() * x, 0.1)


class Hierarchy(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 10.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(3.0))
        self.th = nn.Param(jnp.zeros(8), reg=nn.GaussianReg(self.mu, self.tau))

    def __call__(self):
        return dist.Normal(self.th.value(), 1.0)


def groups(i=FROM_ONE - 1, **options):
    return infer.Posterior(Groups(), i, np.zeros(len(i), 'f4'), **options)


def square(total=jnp.sum):
    def score(m, x, y):
        return total(dist.Normal(m.a.value() * x, 0.1).log_prob(y))

    return lambda: infer.Posterior(Slope(dist.Normal(0.0, 1.0)), X[:, None], X, log_likelihood=score)


def rate(t=X * u.ms):
    return infer.Posterior(Rate(dist.Normal(0.0, 1.0)), t, X)


BY_GRADIENT = tuple(way for way in ALL if way not in ('elliptical_slice', 'mc_dropout', 'smc'))
CONVERGED = {'optimizer': 'lbfgs', 'num_steps': 500}

ROWS = [
    Mistake('labels from one', lambda: groups(FROM_ONE), (r'inputs\[0\], with values from 1 to 3', *LABELS)),
    Mistake('a label for each number of a Param', lambda: groups(FROM_ONE * 7), ('from 7 to 21', *LABELS)),
    Mistake('labels far below zero', lambda: groups(FROM_ONE - 5), ('from -4 to -2', *LABELS)),
    Mistake(
        'labels from one in a log-likelihood',
        lambda: groups(
            FROM_ONE, log_likelihood=lambda m, i, y: dist.Normal(jnp.exp(m.g.value())[i], 1.0).log_prob(y).sum()
        ),
        (r'inputs\[0\], with values from 1 to 3', *LABELS),
    ),
    Mistake(
        'labels from one in a loop',
        lambda: groups(
            FROM_ONE, likelihood=lambda m, i: dist.Normal(jax.lax.map(lambda k: m.g.value()[k], i), 1.0)
        ),
        (r'inputs\[0\], with values from 1 to 3', *LABELS),
    ),
    Mistake(
        'symbols from one in the scan of a log-likelihood',
        lambda: infer.Posterior(
            Groups(),
            targets=FROM_ONE,
            log_likelihood=lambda m, y: jax.lax.scan(lambda a, k: (0.5 * a + m.g.value()[k], None), 0.0, y)[0],
        ),
        ('targets, with values from 1 to 3', *LABELS),
    ),
    Mistake(
        'labels from one that a likelihood closes over',
        lambda: groups(likelihood=lambda m, _: dist.Normal(m.g.value()[jnp.asarray(FROM_ONE)], 1.0)),
        ('closes over, with values from 1 to 3', *LABELS),
    ),
    Mistake(
        'a group that was not fitted', groups, ('from 2 to 3', *LABELS, 'not fitted'), ValueError, ('laplace',),
        then=lambda fit: fit.predict(np.array([2, 3]), kind='mean'),
    ),
    *(
        Mistake(
            f'a parameter in a {name}', lambda step=step: infer.Posterior(Changepoint(step), X, X),
            ("Param 'tau' only through steps", 'gradient is zero', 'sigmoid'), ModelWarning, ways, warns=True,
        )
        for name, step, ways in (
            ('comparison', lambda x, tau: x < tau, BY_GRADIENT),
            ('rounding', lambda x, tau: jnp.round(4 * (x - tau)) * 0.25 < 0, ('map',)),
            ('whole number', lambda x, tau: (4 * tau).astype(int) < 4 * x, ('nuts',)),
            ('constant', lambda x, tau: jax.lax.stop_gradient(tau) * x > 0, ('svi',)),
        )
    ),
    *(
        Mistake(
            f'predictions in a column and targets in a row, {name}', square(total),
            ('each of the 8 targets', '8 x 8 terms', r'\[:, 0\]'), ModelWarning, ways, warns=True,
        )
        for name, total, ways in (
            ('summed', jnp.sum, ('map', 'nuts', 'elliptical_slice')),
            ('summed over targets', lambda x: x.sum(1), ('map',)),
            ('summed over rows', lambda x: x.sum(0), ('map',)),
            ('in the mean', lambda x: x.mean(1).sum(), ('map',)),
            ('by an inner product', lambda x: x.ravel() @ jnp.ones(x.size), ('map',)),
            ('in a scan', lambda x: jax.lax.scan(lambda c, row: (c + row.sum(), None), 0.0, x)[0], ('laplace',)),
        )
    ),
    Mistake(
        'classes that the inputs separate', lambda: infer.Posterior(Slope(), X, (X > 0).astype(int)),
        ("mode of Param 'a' lies at infinity", 'prior', 'separate'), infer.ConvergenceWarning, ('map',), CONVERGED,
        warns=True,
    ),
    Mistake(
        'the joint mode of a hierarchy', lambda: infer.Posterior(Hierarchy(), targets=HEIGHTS),
        ("mode of Param 'tau', the scale of 'th', lies at zero", r'infer\.nuts'), infer.ConvergenceWarning,
        ('map',), CONVERGED, warns=True,
    ),
    *(
        Mistake(
            f'inputs in another dimension: {name}', rate, words, u.UnitMismatchError, ('laplace',),
            then=lambda fit, new=new: fit.predict(new, kind='mean'),
        )
        for name, new, words in (
            ('a voltage', X * u.mV, (r'inputs\[0\] was fitted in ms', 'mV cannot be converted')),
            ('plain numbers', X, (r'inputs\[0\] was fitted in ms', 'got plain numbers', 'Multiply')),
        )
    ),
    Mistake(
        'a unit where there was none', lambda: rate(X), (r'inputs\[0\] was fitted as plain numbers', 'ms', 'Divide'),
        u.UnitMismatchError, ('laplace',), then=lambda fit: fit.predict(X * u.ms, kind='mean'),
    ),
    Mistake(
        'the mean of a law that has none', lambda: infer.Posterior(Heavy(), X, X), ('has no mean', 'StudentT'),
        ValueError, ('laplace',), then=lambda fit: fit.predict(kind='mean'),
    ),
]  # fmt: skip
