"""Mistakes with minibatches: what is given as batches, and rows that cannot be taken in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import IN_BATCHES, Mistake

NUM = 24
X = np.linspace(-1.0, 1.0, NUM, dtype=np.float32)
Y = np.cumsum(np.sin(7.0 * np.arange(NUM))).astype(np.float32)
GIVEN = [(X[:12], Y[:12]), (X[12:], Y[12:])]
IN_BATCHES_BUT_DROPOUT = tuple(way for way in IN_BATCHES if way not in ('mc_dropout', 'swag'))
BY_GRADIENT = ('map', 'ensemble', 'sgmcmc')


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.drop = nn.Dropout(0.5)

    def __call__(self, x):
        return dist.Normal(self.w.value() * self.drop(x), 1.0)


class Series(Line):
    """A first-order autoregression: each row reads the one before."""

    def __call__(self, y):
        return dist.Normal(self.w.value() * self.drop(jnp.concatenate([jnp.zeros(1), y[:-1]])), 1.0)


class Level(Line):
    """Exponential smoothing: a recursion over the rows."""

    def __call__(self, y):
        def step(level, y):
            return level + jax.nn.sigmoid(self.w.value()) * (y - level), level

        return dist.Normal(jax.lax.scan(step, jnp.zeros(()), y)[1], 1.0)


class Process(Line):
    """A Gaussian process: one joint distribution of all rows."""

    def __call__(self, x):
        kernel = jnp.exp(self.w.value() - 0.5 * (x[:, None] - x[None, :]) ** 2)
        return dist.MultivariateNormal(jnp.zeros(len(x)), kernel + jnp.eye(len(x)))


class Standardized(Line):
    def __call__(self, x):
        return dist.Normal(self.w.value() * (x - x.mean()) / x.std(), 1.0)


class Trend(Line):
    """Time is the place of a row, not an input."""

    def __call__(self, x):
        return dist.Normal(self.w.value() * jnp.arange(len(x)), 1.0)


class Offsets(Line):
    """One parameter a row, without an index."""

    def __init__(self):
        super().__init__()
        self.z = nn.Param(jnp.zeros(NUM), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.w.value() * x + self.z.value(), 1.0)


class History(Line):
    """Spikes by those of the two steps before."""

    def __call__(self, spikes):
        z = jnp.concatenate([jnp.zeros(2), spikes])
        return dist.Bernoulli(logits=self.w.value() * (z[:-2] + z[1:-1]) - 6.0)


class Scaled(Line):
    def __call__(self, x):
        return dist.Normal(self.w.value() * x / x.max(), 1.0)


SPIKES = np.zeros(5000, np.float32)
SPIKES[[3000, 3001, 4500]] = 1.0


def line():
    return infer.Posterior(Line(), X, Y)


def named():
    return infer.Posterior(Line(), {'x': X}, Y)


def joint(score):
    return lambda: infer.Posterior(Line(), X, Y, log_likelihood=score)


def given(batches, num=NUM, **options):
    return {'batches': batches, 'num_observations': num, **options}


PARTS = {'batch_size': 6}
ROWS = [
    # Rows that are not independent
    Mistake(
        'an autoregression in minibatches',
        lambda: infer.Posterior(Series(), Y, Y),
        (
            'batch_size=',
            'log-likelihood of a row depends on which others',
            'that of row',
            'Leave batch_size out',
            'windows',
        ),
        ways=IN_BATCHES_BUT_DROPOUT,
        options=PARTS,
    ),
    Mistake(
        'an autoregression with dropout in minibatches',
        lambda: infer.Posterior(Series(), Y, Y),
        ('batch_size=', 'depends on which others', 'Leave batch_size out', 'windows of a series'),
        ways=('mc_dropout',),
        options=PARTS,
    ),
    Mistake(
        'an autoregression in minibatches of all rows, in random order',
        lambda: infer.Posterior(Series(), Y, Y),
        ('batch_size=', 'depends on which others', 'Leave batch_size out'),
        ways=('map', 'svi'),
        options={'batch_size': NUM},
    ),
    Mistake(
        'an autoregression in batches',
        lambda: infer.Posterior(Series(), Y, Y),
        ('batches=', 'depends on which others', 'Give all rows to the Posterior and leave batches out'),
        ways=IN_BATCHES_BUT_DROPOUT,
        options=given([(Y[:12], Y[:12]), (Y[12:], Y[12:])]),
    ),
    Mistake(
        'an autoregression by subsampling',
        lambda: infer.Posterior(Series(), Y, Y),
        ('batch_size=', 'depends on which others', 'Use infer.nuts'),
        ways=('hmc_ecs',),
        options=PARTS,
    ),
    Mistake(
        'bootstrap samples of an autoregression',
        lambda: infer.Posterior(Series(), Y, Y),
        ('bootstrap=True', 'depends on which others', 'Leave bootstrap'),
        ways=('ensemble',),
        options={'bootstrap': True},
    ),
    Mistake(
        'a recursion over rows in minibatches',
        lambda: infer.Posterior(Level(), Y, Y),
        ('depends on which others', 'Leave batch_size out'),
        ways=BY_GRADIENT,
        options=PARTS,
    ),
    Mistake(
        'a Gaussian process in minibatches',
        lambda: infer.Posterior(Process(), X, Y),
        (
            'one number that is not the sum of those of its parts',
            'joint distribution',
            'Leave batch_size out|Use infer.nuts',
        ),
        ways=('map', 'sgmcmc', 'hmc_ecs'),
        options=PARTS,
    ),
    Mistake(
        'a sparse series in minibatches, of which most rows show nothing',
        lambda: infer.Posterior(History(), SPIKES, SPIKES),
        ('batch_size=', 'depends on which others', 'Leave batch_size out', 'windows of a series'),
        ways=BY_GRADIENT,
        options=PARTS,
    ),
    Mistake(
        'inputs scaled in the model by the largest of the rows, which one row has',
        lambda: infer.Posterior(Scaled(), 1.0 + SPIKES * np.arange(5000), SPIKES),
        ('batch_size=', 'depends on which others', 'Leave batch_size out'),
        ways=BY_GRADIENT,
        options=PARTS,
    ),
    Mistake(
        'inputs standardized in the model by the rows at hand',
        lambda: infer.Posterior(Standardized(), X, Y),
        ('depends on which others', 'a mean over the rows'),
        ways=('map', 'sgmcmc'),
        options=PARTS,
    ),
    Mistake(
        'time by the place of a row in minibatches',
        lambda: infer.Posterior(Trend(), X, Y),
        ('depends on which others', 'Leave batch_size out'),
        ways=('map', 'svi'),
        options=PARTS,
    ),
    Mistake(
        'a parameter for each row in minibatches',
        lambda: infer.Posterior(Offsets(), X, Y),
        ('cannot be called with a part of them', 'Leave batch_size out'),
        ways=('map', 'svi', 'ensemble'),
        options=PARTS,
    ),
    Mistake(
        'a mean as log-likelihood in minibatches',
        joint(lambda m, x, y: m(x).log_prob(y).mean()),
        ('not the sum of those of its parts', 'a mean in place of a sum'),
        ways=('map', 'svi', 'sgmcmc', 'ensemble'),
        options=PARTS,
    ),
    Mistake(
        'a penalty within the log-likelihood in minibatches',
        joint(lambda m, x, y: m(x).log_prob(y).sum() - 10.0 * m.w.value() ** 2),
        ('not the sum of those of its parts', 'a term that no row has'),
        ways=('map', 'sgmcmc'),
        options=PARTS,
    ),
    Mistake(
        'a log-likelihood divided by the number of rows in minibatches',
        joint(lambda m, x, y: m(x).log_prob(y) / len(y)),
        ('depends on which others', 'Leave batch_size out'),
        ways=('map', 'svi'),
        options=PARTS,
    ),
    # What is given as batches
    Mistake(
        'batches without their number',
        line,
        ('needs num_observations=', 'how many'),
        options={'batches': GIVEN},
        ways=IN_BATCHES_BUT_DROPOUT,
    ),
    Mistake(
        'the number without batches',
        line,
        ('num_observations= goes with batches=',),
        options={'num_observations': NUM},
        ways=IN_BATCHES_BUT_DROPOUT,
    ),
    Mistake(
        'batches and a batch size',
        line,
        ('Give batch_size=', 'not both'),
        options=given(GIVEN, batch_size=6),
        ways=IN_BATCHES_BUT_DROPOUT,
    ),
    Mistake(
        'one pair of arrays as batches',
        line,
        (r'a pair \(inputs, targets\)', 'with batch_size='),
        options=given((X, Y)),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'a function as batches',
        line,
        ('batches must be an iterable', r'batches=f\(\)'),
        options=given(lambda: iter(GIVEN)),
        ways=BY_GRADIENT,
    ),
    Mistake('no batches', line, ('batches yielded nothing',), options=given([]), ways=(*BY_GRADIENT, 'svi')),
    Mistake(
        'an empty batch in a list',
        line,
        ('Batch 1 .*no observations', r'shape \(0,\)', 'Leave it out'),
        options=given([GIVEN[0], (X[:0], Y[:0]), GIVEN[1]]),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'a batch without targets',
        line,
        ('Each batch needs targets', 'Batch 1'),
        options=given([GIVEN[0], (X, None)]),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'a batch of other names',
        named,
        (r"Batch 1 .*has the inputs \['z'\]", r"the first one \['x'\]", 'the same'),
        options=given([({'x': X[:12]}, Y[:12]), ({'z': X[12:]}, Y[12:])]),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'a batch of more inputs',
        line,
        ('Batch 1 .*has the inputs 2, the first one 1',),
        options=given([GIVEN[0], ((X[12:], X[12:]), Y[12:])]),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'a list that has fewer observations than said',
        line,
        ('had 24 observations', 'num_observations=100', 'whole data set'),
        options=given(GIVEN, 100),
        ways=(*BY_GRADIENT, 'svi'),
    ),
    Mistake(
        'a list that has more observations than said',
        line,
        ('had 24 observations', 'num_observations=20'),
        options=given(GIVEN, 20),
        ways=(*BY_GRADIENT, 'svi'),
    ),
    Mistake(
        'a batch that has more observations than said',
        line,
        ('Batch 0 .*has 12 observations', 'num_observations=5', 'whole data set'),
        options=given(GIVEN, 5),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'NaN in a batch',
        line,
        ('Batch 0', 'targets has 12 NaN'),
        options=given([(X[:12], Y[:12] * np.nan), GIVEN[1]]),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'a number of observations that is a float',
        line,
        ('num_observations must be an int of at least 1, got 24.0. Write 24',),
        options=given(GIVEN, 24.0),
        ways=BY_GRADIENT,
    ),
    Mistake(
        'a generator that ends before all were seen',
        line,
        ('ended after 12 observations', 'num_observations=1000'),
        UserWarning,
        ways=('map',),
        options=given(iter(GIVEN[:1]), 1000, num_steps=5),
        warns=True,
    ),
    Mistake(
        'a batch size beyond the data',
        line,
        ('from 1 to the number of observations 24, got 25',),
        options={'batch_size': 25},
        ways=IN_BATCHES_BUT_DROPOUT,
    ),
    Mistake(
        'a batch size without targets',
        lambda: infer.Posterior(Line(), X, log_likelihood=lambda m, x: -0.5 * (m.w.value() * x) ** 2),
        ('batch_size needs targets',),
        options=PARTS,
        ways=BY_GRADIENT,
    ),
    Mistake(
        'an input that is shared by all rows',
        lambda: infer.Posterior(
            Line(), (X, np.ones(3, np.float32)), Y, likelihood=lambda m, x, shared: m(x + shared.sum())
        ),
        (r'inputs\[1\] has shape \(3,\)', 'first axis', 'Close the model over'),
        options=PARTS,
        ways=BY_GRADIENT,
    ),
]
