"""Mistakes in what is asked of a fit: scores, comparisons and predictions that its likelihood does not give."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from brainstate_prob import infer, nn, random
from tests.infer.mistakes.row import Mistake

X = np.linspace(0.0, 3.0, 12).astype('f4')
Y = np.sin(X).astype('f4')
NEW = np.linspace(3.0, 4.0, 5).astype('f4')

SEVERAL = ('map', 'laplace', 'nuts', 'ensemble')
WITH_DRAWS = ('laplace', 'nuts', 'ensemble')
ONE = ('laplace',)  # where the way to fit makes no difference


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.mean.value() * x, 1.0)


class Process(Line):
    def __call__(self, x):
        kernel = jnp.exp(-0.5 * (x[:, None] - x) ** 2) + 0.1 * jnp.eye(len(x))
        return dist.MultivariateNormal(self.mean.value() * jnp.ones_like(x), kernel)


class Walk(Line):
    def __call__(self, x):
        return dist.GaussianRandomWalk(jnp.exp(self.mean.value()), num_steps=len(x))


class Masked(Line):
    """Of which ``keep`` observations count."""

    keep = 6

    def __call__(self, x):
        return super().__call__(x).mask(jnp.arange(len(x)) < self.keep)


class AlmostNothing(Masked):
    keep = 1


class Event(Line):
    def __call__(self, x):
        return super().__call__(x).to_event(1)


class Coin(Line):
    def __call__(self, x):
        return dist.Bernoulli(logits=self.mean.value() * x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        random.seed(0)
        layers = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        self.layers = nn.with_prior(layers, {...: dist.Normal(0.0, 1.0)})

    def __call__(self, x):
        return dist.Normal(self.layers(x[:, None])[:, 0], 0.1)


def summed(model, x, y):
    return model(x).log_prob(y).sum()


def each(model, x, y):
    return model(x).log_prob(y)


@functools.cache
def made(model, targets=None, **kwargs):
    return infer.Posterior(model(), X, Y if targets is None else np.asarray(targets), **kwargs)


@functools.cache
def one():
    return infer.Posterior(Line(), X[:1], Y[:1])


process, walk, event, line, net = (functools.partial(made, model) for model in (Process, Walk, Event, Line, Net))
total = functools.partial(made, Line, log_likelihood=summed)
own = functools.partial(made, Line, log_likelihood=each)
coin = functools.partial(made, Coin, tuple(np.arange(12) % 2))

NOT_POINTWISE = ('needs the log density of each observation',)
JOINT = {
    'a Gaussian process': (process, ('a joint MultivariateNormal of all 12', 'fit.log_likelihood')),
    'a random walk': (walk, ('a joint GaussianRandomWalk of all 12', 'each given the others')),
    'one event': (event, (r'one event of Normal, shape \(12,\)', r'Leave out .to_event\(1\)')),
    'a log-likelihood that is summed': (total, ('log_likelihood= .* returns one number for all 12', 'without the sum')),
}
TERMS = {
    'scored': (lambda fit: fit.score(), SEVERAL),
    'asked for log densities': (lambda fit: fit.predict(kind='log_density'), SEVERAL),
    'left out one by one': (lambda fit: fit.loo(), WITH_DRAWS),
    'compared': (lambda fit: infer.compare({'a': fit, 'b': fit}), WITH_DRAWS),
    "given to ArviZ's comparisons": (
        lambda fit: fit.to_arviz(log_likelihood=True, posterior_predictive=False),
        WITH_DRAWS,
    ),
    'plotted by its k-hats': (lambda fit: fit.plot_khat(), ONE),
    'plotted by its LOO-PIT': (lambda fit: fit.plot_loo_pit(), ONE),
}
NEW_INPUTS = {
    'draws': lambda fit: fit.predict(NEW),
    'a mean': lambda fit: fit.predict(NEW, kind='mean'),
    'an interval at one input': lambda fit: fit.predict(NEW[:1], kind='interval'),
    'batches': lambda fit: fit.predict(NEW, batch_size=2),
    'conformal intervals': lambda fit: infer.conformal(fit, NEW, np.sin(NEW), prob=0.5),
}


def swag(name, *words, **options):
    options = {'num_steps': 40, 'snapshot_every': 5, 'num_draws': 8, 'init': 'map'} | options
    warning = infer.ConvergenceWarning
    return Mistake(f'SWAG with {name}', line, words, warning, ('swag',), options, warns=True)


def asked(name, make, then, *words, ways=ONE, error=(ValueError, TypeError)):
    return Mistake(name, make, words, error, ways, then=then)


ROWS = [
    *(
        Mistake(f'{likelihood} {use}', make, NOT_POINTWISE + words, ValueError, ways, then=then)
        for likelihood, (make, words) in JOINT.items()
        for use, (then, ways) in TERMS.items()
    ),
    *(
        asked(
            f'{name} of {likelihood} at new inputs',
            make,
            then,
            f'joint {law} of all 12 targets',
            'without the targets that were fitted',
            'fit.evaluate',
            ways=SEVERAL if name != 'batches' else ONE,
        )
        for likelihood, make, law in (
            ('a Gaussian process', process, 'MultivariateNormal'),
            ('a random walk', walk, 'GaussianRandomWalk'),
        )
        for name, then in NEW_INPUTS.items()
    ),
    asked(
        'a Gaussian process a few rows at a time',
        process,
        lambda fit: fit.predict(batch_size=4),
        'joint MultivariateNormal',
        'Leave batch_size out',
        ways=SEVERAL,
    ),
    asked('one observation left out', one, lambda fit: fit.loo(), 'loo leaves out', r'only one: .*shape \(1,\)'),
    asked(
        'one observation that a mask leaves',
        functools.partial(made, AlmostNothing),
        lambda fit: fit.loo(),
        'leaves out one observation after another',
        r'of the 12 the mask .* leaves 1',
    ),
    asked(
        'a model of all targets beside one of some',
        line,
        lambda fit: infer.compare({'all': fit, 'some': infer.laplace(made(Masked), progress=False)}),
        'masks .* leave others in',
        "'all': 12, 'some': 6",
        'Mask the same ones',
    ),
    asked('a point left out', line, lambda fit: fit.loo(), "needs draws .* 'map' gives one point", ways=('map',)),
    asked(
        'a mode linearized without a distribution',
        own,
        lambda fit: fit.predict(NEW, np.sin(NEW), kind='log_density', linearized=True),
        'linearized=True needs the distribution of the targets',
        'likelihood=f',
    ),
    asked('linearized by a word', line, lambda fit: fit.score(linearized='yes'), "True, False or None, got 'yes'"),
    asked(
        'predictions of another kind than were calibrated',
        line,
        lambda fit: infer.conformal(fit, X, Y, prob=0.5, linearized=False).predict(NEW, linearized=True),
        'calibrated are predictions with linearized=False',
        'Calibrate with linearized=True',
    ),
    asked('draws of a log-likelihood', own, lambda fit: fit.predict(), 'does not define how to draw targets'),
    asked('an interval of classes', coin, lambda fit: infer.conformal(fit, X, Y > 0, method='quantile'), 'are classes'),
    asked('temperatures of numbers', line, lambda fit: infer.temperature_scaling(fit, X, Y), 'predicts Normal'),
    asked('new inputs scored without targets', line, lambda fit: fit.score(NEW), 'give targets='),
    swag('all data', r'batch_size \(of 12\)', 'are overconfident'),
    swag('a tiny rate', 'larger learning rate', r'now 3', batch_size=3, optimizer=optax.sgd(1e-6)),
    swag('a tiny rate, one observation a step', 'stays constant', batch_size=1, optimizer=optax.sgd(1e-6)),
    swag('half of the data', 'rate above', r'\(now 6\)', batch_size=6),
    swag('Adam on all data', 'batch_size', optimizer=optax.adam(1e-6)),
    swag('a scale of nearly nothing', 'scale=1e-08 makes them so', batch_size=1, scale=1e-8),
    Mistake(
        'a network whose predictions differ from chain to chain',
        net,
        ('R-hat of the predictions of this network', 'have not mixed', 'num_warmup'),
        infer.ConvergenceWarning,
        ('sgmcmc',),
        {'init': 'prior', 'step_size': 1e-8, 'num_warmup': 1, 'num_samples': 120, 'num_chains': 3},
        warns=True,
    ),
    Mistake(
        'a regression whose slope differs from chain to chain',
        line,
        ("R-hat of 'mean'",),
        infer.ConvergenceWarning,
        ('sgmcmc',),
        {'init': 'prior', 'step_size': 1e-8, 'num_warmup': 1, 'num_samples': 120, 'num_chains': 3},
        warns=True,
    ),
]
