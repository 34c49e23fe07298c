"""Rows that depend on each other: found and refused wherever rows are taken in parts, and independent ones let pass."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import environ, infer, nn, random
from brainstate_prob.infer.target.informative_rows import informative_rows
from brainstate_prob.infer.target.rows import check_rows
from tests.infer.mistakes.row import IN_BATCHES, WAYS
from tests.support.rich_model import compilations

NUM = 120
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NUM, 3)).astype(np.float32)
NOISE = RNG.normal(size=NUM).astype(np.float32)
LINE = (X @ np.array([1.0, -2.0, 0.5]) + 0.3 * NOISE).astype(np.float32)


def series(phi=0.997, num=NUM):
    y = np.zeros(num, np.float32)
    for t in range(1, num):
        y[t] = phi * y[t - 1] + RNG.normal()
    return y


Y = series()


class Model(nn.Module):
    """One coefficient, zero at the start, and a function of it."""

    def __init__(self, function, shape=(), start=0.0):
        super().__init__()
        self.w = nn.Param(jnp.full(shape, start), reg=dist.Normal(0.0, 1.0))
        self.function = function

    def __call__(self, *inputs):
        return self.function(self.w.value(), *inputs)


def shifted(y):
    return jnp.concatenate([jnp.zeros(1), y[:-1]])


def smoothed(w, x):
    def step(level, x):
        level = level + jax.nn.sigmoid(w) * (x - level)
        return level, level

    return dist.Normal(jax.lax.scan(step, jnp.zeros(()), x)[1], 1.0)


def attention(w, x):
    return dist.Normal(jax.nn.softmax(w * x @ x.T, axis=-1) @ x[:, 0], 1.0)


def gaussian_process(w, x):
    kernel = jnp.exp(w - 0.5 * (x[:, None, 0] - x[None, :, 0]) ** 2)
    return dist.MultivariateNormal(jnp.zeros(len(x)), kernel + jnp.eye(len(x)))


def kernel_smoother(w, x):
    weights = jnp.exp(-((x[:, None, 0] - x[None, :, 0]) ** 2) * jnp.exp(w))
    return dist.Normal(weights @ x[:, 1] / weights.sum(1), 1.0)


def convolved(w, y):
    return dist.Normal(jnp.convolve(y, jnp.array([0.0, 0.0, 1.0]) * w, mode='same'), 1.0)


DEPENDENT = {
    'autoregression': (lambda w, y: dist.Normal(w * shifted(y), 1.0), Y, Y),
    'autoregression of a small series': (lambda w, y: dist.Normal(w * shifted(y), 1.0), 1e-2 * Y, 1e-2 * Y),
    'two lags in the rows': (lambda w, y: dist.Normal(w * jnp.roll(y, 2), 1.0), Y, Y),
    'cumulated': (lambda w, x: dist.Normal(w * jnp.cumsum(x[:, 0]), 1.0), X, Y),
    'a recursion': (smoothed, Y, Y),
    'a convolution over rows': (convolved, Y, Y),
    'attention over rows': (attention, X, LINE),
    'centred by the mean of the rows': (lambda w, x: dist.Normal(w * (x[:, 0] - x[:, 0].mean()), 1.0), X, LINE),
    'scaled by the rows': (lambda w, x: dist.Normal(w * x[:, 0], jnp.std(x[:, 0])), X, LINE),
    'a trend by place': (lambda w, x: dist.Normal(w * jnp.arange(len(x)), 1.0), X, Y),
    'a joint normal': (gaussian_process, X, LINE),
    'neighbours': (kernel_smoother, X, LINE),
    'summed over event dims': (lambda w, y: dist.Normal(w * shifted(y), 1.0).to_event(1), Y, Y),
    'a random walk': (lambda w, y: dist.GaussianRandomWalk(jnp.exp(w), len(y)), Y, Y),
    'built for all rows': (lambda w, x: dist.Normal(w * jnp.asarray(X[:, 0]), 1.0), X, LINE),
}
W = RNG.normal(size=(50, 50)).astype(np.float32)


def table(w, index):
    """Of six numbers, read by an integer."""
    return w * jnp.arange(6.0)[index]


ONE_HOT = np.eye(40, dtype=np.float32)[RNG.integers(0, 40, 3000)]
ONE_HOT[RNG.random(3000) < 0.9] = 0
RARE = (RNG.random(3000) < 0.01).astype(np.float32)
INDEX = np.where(RARE, RNG.integers(1, 6, 3000), 0)
LONG = RNG.normal(size=3000).astype(np.float32)
INDEPENDENT = {
    'a line': (lambda w, x: dist.Normal(w * x[:, 0], 0.3), X, LINE),
    'one prediction for all': (lambda w, x: dist.Normal(w, 1.0), X, LINE),
    'a line with a large offset': (lambda w, x: dist.Normal(w * x[:, 0], 0.3), 1e3 * X + 1e6, LINE + 1e7),
    'a sum over independent rows': (lambda w, x: dist.Normal(w * x[:, 0], 0.3).to_event(1), X, LINE),
    'windows of a series': (
        lambda w, y: dist.Normal(w * y[:, :-1], 1.0).to_event(1),
        Y.reshape(12, 10),
        Y.reshape(12, 10)[:, 1:],
    ),
    'lags as inputs': (lambda w, y: dist.Normal(w * y, 1.0), Y[:-1], Y[1:]),
    'counts': (lambda w, x: dist.Poisson(jnp.exp(w * x[:, 0])), X, RNG.poisson(2.0, NUM)),
    'classes': (lambda w, x: dist.Categorical(logits=w * x), X, RNG.integers(0, 3, NUM)),
    'correlated outputs': (
        lambda w, x: dist.MultivariateNormal(w * x, jnp.eye(3) + 0.5),
        X,
        X + RNG.normal(size=X.shape).astype(np.float32),
    ),
    'a deep network': (
        lambda w, x: dist.Normal(jnp.tanh(jnp.tanh(x @ (W[:3] + w)) @ (W + w)).sum(1), 0.01),
        X,
        LINE,
    ),
    'sparse one-hot columns': (lambda w, x: dist.Normal(x @ (w + jnp.arange(40.0)), 0.3), ONE_HOT, LONG),
    'sparse spikes': (lambda w, x: dist.Bernoulli(logits=w * x - 6.0), RARE, np.roll(RARE, 1)),
    'an integer that is mostly zero': (lambda w, x: dist.Normal(table(w, x), 0.3), INDEX, LONG),
    'a constant column': (
        lambda w, x: dist.Normal(x @ jnp.array([1.0, 2.0]) * w, 0.3),
        np.stack([np.ones(3000, np.float32), LONG], axis=1),
        LONG,
    ),
    'a mask': (lambda w, x: dist.Normal(w * x, 0.3).mask(x > 0.5), RARE, LONG),
    'values that are missing': (
        lambda w, x: dist.Normal(w * jnp.where(x > 0.5, jnp.log(x), 0.0), 0.3),
        RARE,
        LONG,
    ),
    'trials and successes': (
        lambda w, x: dist.Binomial(x.astype(int), logits=w),
        RNG.integers(5, 9, 3000),
        RNG.integers(0, 5, 3000),
    ),
    'bounds in the columns': (
        lambda w, x: dist.TruncatedNormal(w, 1.0, low=x[:, 0], high=x[:, 1]),
        np.stack([LONG - 1.0, LONG + 1.0], axis=1),
        LONG,
    ),
    'a steep network': (
        lambda w, x: dist.Poisson(jnp.exp(jnp.tanh(x @ (9 * W[:3] + w)).sum(1))),
        X,
        RNG.poisson(2.0, NUM),
    ),
    'its own random numbers': (lambda w, x: dist.Normal(w * x[:, 0] + random.normal(size=len(x)), 1.0), X, LINE),
}


def posterior_of(case, **options):
    function, x, y = case
    return infer.Posterior(Model(function), jnp.asarray(x), jnp.asarray(y), **options)


def check(posterior, predicted=False, what='batch_size='):
    check_rows(posterior, posterior.data, posterior.num_observations, what, 'Leave it out.', predicted=predicted)


@pytest.mark.parametrize('name', DEPENDENT)
def test_rows_that_depend_on_each_other_are_found(name):
    with pytest.raises(ValueError, match=r'batch_size= takes the rows in parts, but .* Leave it out\.'):
        check(posterior_of(DEPENDENT[name]))
    if name != 'built for all rows':  # that is told where rows are predicted: each has none of its own
        with pytest.raises(ValueError, match='takes the rows in parts, but what is predicted'):
            check(posterior_of(DEPENDENT[name]), predicted=True)


@pytest.mark.parametrize('name', INDEPENDENT)
def test_independent_rows_pass(name):
    posterior = posterior_of(INDEPENDENT[name])
    check(posterior)
    check(posterior, what='batches=')
    check(posterior, predicted=True)


# Dependence that few rows show, or few values of a parameter


class History(nn.Module):
    """Spikes by those of the three steps before: the generalized linear model of neuroscience."""

    def __init__(self):
        super().__init__()
        self.b = nn.Param(-6.0, reg=dist.Normal(-6.0, 2.0))
        self.w = nn.Param(0.0, reg=dist.Normal(0.0, 3.0))

    def __call__(self, spikes):
        z = jnp.concatenate([jnp.zeros(3), spikes])
        return dist.Bernoulli(logits=self.b.value() + self.w.value() * (z[:-3] + z[1:-2] + z[2:-1]))


@pytest.mark.parametrize('seed', range(6))
def test_a_sparse_series_is_found(seed):
    rng = np.random.default_rng(seed)
    spikes = np.zeros(20_000, np.float32)
    for t, chance in enumerate(rng.random(len(spikes))):
        spikes[t] = chance < 0.001 + (0.3 if spikes[max(0, t - 3) : t].any() else 0.0)
    posterior = infer.Posterior(History(), spikes, spikes)
    with pytest.raises(ValueError, match='depends on which others'):
        check(posterior)
    with pytest.raises(ValueError, match='what is predicted for a row depends on which others'):
        check(posterior, predicted=True)


def steps(size, at):
    x = np.zeros(size, np.float32)
    x[at] = 1.0
    return x


ONCE, TWICE = steps(20_000, [13_337]), steps(20_000, [4_321, 17_017])
PEAK = (1.0 + 9.0 * ONCE).astype(np.float32)
RARELY_SHOWN = {
    'beyond a function that is flat at the start': (
        lambda w, x: dist.Normal(jax.nn.relu(w) * jnp.cumsum(x), 1.0),
        (Y, Y),
        -20.0,
    ),
    'beyond one that is flat above': (lambda w, x: dist.Normal(jax.nn.relu(-w) * jnp.cumsum(x), 1.0), (Y, Y), 20.0),
    'scaled by the only maximum': (lambda w, x: dist.Normal(w * x / jnp.max(x), 1.0), (PEAK, PEAK), 1.0),
    'scaled by the only minimum': (lambda w, x: dist.Normal(w * x / jnp.min(x), 1.0), (-PEAK, PEAK), 1.0),
    'scaled by a maximum that many rows have': (
        lambda w, x: dist.Normal(w * x / jnp.max(x), 1.0),
        (np.float32(np.arange(20_000) % 2), Y[:1].repeat(20_000)),
        1.0,
    ),
    'centred by a mean of rare values': (lambda w, x: dist.Normal(w * (x - x.mean()), 1.0), (TWICE, TWICE), 1.0),
    'after the only event': (lambda w, x: dist.Normal(w * jnp.cumsum(x), 1.0), (ONCE, ONCE), 0.0),
    'after the only event, an integer': (
        lambda w, x: dist.Normal(w * (jnp.cumsum(x) > 0), 1.0),
        (ONCE.astype(int), ONCE),
        0.0,
    ),
    'a year before': (
        lambda w, x: dist.Normal(w * jnp.concatenate([jnp.zeros(365), x])[: len(x)], 1.0),
        (LONG, LONG),
        0.0,
    ),
    'an event in one of many columns': (
        lambda w, x: dist.Normal(w * jnp.cumsum(x.sum(1)), 1.0),
        (ONCE[:, None] * np.eye(200, dtype=np.float32)[7], ONCE),
        0.0,
    ),
}


@pytest.mark.parametrize('name', RARELY_SHOWN)
def test_dependence_that_shows_rarely_is_found(name):
    function, (x, y), start = RARELY_SHOWN[name]
    with pytest.raises(ValueError, match='depends on which others'):
        check(infer.Posterior(Model(function, start=start), x, y))


def test_a_dependence_on_rare_targets_is_found():
    """An empty series, scored by the target before."""
    score = lambda m, x, y: dist.Normal(m.w.value() * shifted(y) + x, 1.0).log_prob(y)
    posterior = infer.Posterior(Model(None), 0 * ONCE, TWICE, log_likelihood=score)
    with pytest.raises(ValueError, match='depends on which others'):
        check(posterior)


def test_rows_with_rare_values_are_among_those_that_are_compared_with_those_around_them():
    data = infer.Posterior(Model(lambda w, x: dist.Normal(w * x, 1.0)), ONCE, TWICE).data
    rows, seen = informative_rows(np.random.default_rng(3), data, len(ONCE), 100)
    assert len(rows) == len(set(rows)) == 100
    assert {13_337 + i for i in range(-1, 4)} | {4_321, 17_017} <= set(rows.tolist())
    as_they_are, drawn, between = np.asarray(seen.args[0]).reshape(3, 100)
    np.testing.assert_array_equal(as_they_are, ONCE[rows])
    assert set(drawn) == {0.0, 1.0} and 0.3 < drawn.mean() < 0.7
    assert len(set(between[(between > 0) & (between < 1)])) > 20 and between.min() >= 0 and between.max() <= 1
    assert set(np.asarray(seen.targets)[100:]) == {0.0, 1.0}


def test_random_numbers_do_not_hide_that_rows_depend_on_each_other():
    case = (lambda w, y: dist.Normal(w * shifted(y) + random.normal(size=len(y)), 1.0), Y, Y)
    with pytest.raises(ValueError, match='as many, half of them others'):
        check(posterior_of(case))


def test_layers_in_training_are_no_objection():
    class Network(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm, self.drop, self.out = norm, nn.Dropout(0.5), nn.Linear(3, 1)

        def __call__(self, x):
            return dist.Normal(self.out(self.drop(self.norm(x)))[:, 0], 0.3)

    options = {'optimizer': optax.adam(1e-2), 'num_steps': 3, 'batch_size': 30, 'progress': False}
    with environ.context(fit=True):
        for track in (True, False):
            norm = nn.BatchNorm0d((3,), track_running_stats=track)
            fit = infer.map(infer.Posterior(Network(norm), X, LINE), **options)
            assert fit.info['num_steps'] == 3
    with pytest.raises(ValueError, match='depends on which others'):  # in use it has the batch's own statistics, too
        infer.map(infer.Posterior(Network(nn.BatchNorm0d((3,), track_running_stats=False)), X, LINE), **options)


# A likelihood of one's own


@pytest.mark.parametrize(
    'score, words',
    [
        (lambda m, x, y: m(x).log_prob(y), None),
        (lambda m, x, y: m(x).log_prob(y).sum(), None),
        (lambda m, x, y: m(x).log_prob(y).mean(), 'one number that is not the sum of those of its parts'),
        (lambda m, x, y: m(x).log_prob(y) / len(y), 'depends on which others'),
        (lambda m, x, y: m(x).log_prob(y).sum() - 3.0 * m.w.value() ** 2, 'a term that no row has'),
        (lambda m, x, y: -0.5 * len(y) * jnp.log(jnp.sum((y - m(x).mean) ** 2)), 'not the sum'),
        (lambda m, x, y: m(x).log_prob(jnp.roll(y, 1)), 'depends on which others'),
    ],
)
def test_a_log_likelihood_of_ones_own(score, words):
    posterior = posterior_of(INDEPENDENT['a line'], log_likelihood=score)
    if words is None:
        check(posterior)
    else:
        with pytest.raises(ValueError, match=words):
            check(posterior)


# Where rows are taken in parts


@pytest.mark.parametrize('way', [*IN_BATCHES, 'hmc_ecs', 'bootstrap'])
def test_every_way_to_fit_refuses_before_it_begins(way):
    posterior = posterior_of(DEPENDENT['autoregression'])
    fit, options = WAYS['ensemble' if way == 'bootstrap' else way]
    options = options | ({'snapshot_every': 2} if way == 'swag' else {})
    parts = {'bootstrap': True} if way == 'bootstrap' else {'batch_size': 50}
    if way == 'mc_dropout':
        case = (lambda w, y: dist.Normal(w * shifted(y) * nn.Dropout(0.5)(jnp.ones(())), 1.0), Y, Y)
        posterior = posterior_of(case)
    with pytest.raises(ValueError, match='depends on which others the model sees.*windows of a series'):
        fit(posterior, **options | parts)
    if way in IN_BATCHES:
        batches = [(Y[:60], Y[:60]), (Y[60:], Y[60:])]
        more = {'init': jnp.zeros(1)} if way == 'swag' else {}
        with pytest.raises(ValueError, match='batches= .* depends on which others.*leave batches out'):
            fit(posterior, **options | more | {'batches': batches, 'num_observations': NUM})


def test_the_series_is_fitted_whole_and_in_windows():
    """Least squares of y_t on y_(t-1), by NumPy; with all rows, and with windows that share their first value."""
    y = series(0.9, 601)
    phi = float(y[:-1] @ y[1:] / (y[:-1] @ y[:-1]))
    whole = infer.Posterior(Model(lambda w, y: dist.Normal(w * shifted(y), 1.0)), y, y)
    fit = infer.map(whole, progress=False)
    precision = float(y[:-1] @ y[:-1])
    np.testing.assert_allclose(fit.estimate['w'], phi * precision / (precision + 1), rtol=1e-3)
    index = np.arange(60)[:, None] * 10 + np.arange(11)
    windows = y[index]
    posterior = infer.Posterior(
        Model(lambda w, y: dist.Normal(w * y[:, :-1], 1.0).to_event(1)), jnp.asarray(windows), windows[:, 1:]
    )
    schedule = optax.adam(optax.cosine_decay_schedule(3e-2, 3000))
    fit = infer.map(posterior, optimizer=schedule, batch_size=7, num_steps=3000, progress=False)
    np.testing.assert_allclose(fit.estimate['w'], phi * precision / (precision + 1), atol=3e-3)


@pytest.mark.parametrize(
    'call',
    [
        lambda fit: fit.predict(batch_size=50),
        lambda fit: fit.predict(kind='mean', batch_size=50),
        lambda fit: fit.predict(kind='interval', batch_size=50),
        lambda fit: fit.predict(kind='log_density', batch_size=50),
        lambda fit: fit.predict(Y + 1.0, kind='mean', batch_size=50),
        lambda fit: fit.log_likelihood(batch_size=50),
        lambda fit: fit.score(batch_size=50),
    ],
    ids=['draws', 'mean', 'interval', 'log_density', 'new inputs', 'log_likelihood', 'score'],
)
def test_predictions_in_parts_are_refused_too(call):
    posterior = posterior_of(DEPENDENT['autoregression'])
    fit = infer.Fit(posterior.target, np.full((1, 5, 1), 0.9, np.float32), method='nuts')
    with pytest.raises(ValueError, match='batch_size= takes the rows in parts.*depends on which others'):
        call(fit)


def test_predictions_of_one_part_are_those_without():
    posterior = posterior_of(DEPENDENT['autoregression'])
    fit = infer.Fit(posterior.target, np.full((1, 5, 1), 0.9, np.float32), method='nuts')
    np.testing.assert_array_equal(fit.predict(kind='mean', batch_size=NUM), fit.predict(kind='mean'))


# What it costs


def test_a_posterior_is_looked_at_once_and_a_second_one_of_its_structure_compiles_nothing():
    first, second = (posterior_of(INDEPENDENT['a line']) for _ in range(2))
    check(first)
    with compilations() as events:
        check(first)
    assert not events
    with compilations() as events:
        check(second)
    assert not [name for name in events if 'backend_compile' in name]


def test_many_wide_rows_are_compared_on_few():
    seen = []

    def function(w, x):
        seen.append(len(x))
        return dist.Normal(w * x.mean(1), 1.0)

    x = np.ones((5000, 3000), np.float32)
    posterior = infer.Posterior(Model(function), x, np.ones(5000, np.float32))
    seen.clear()
    check(posterior)
    assert set(seen) <= {21, 20, 10}


def test_batches_of_one_size_that_a_model_is_built_for_are_no_objection():
    offsets = jnp.linspace(0.0, 1.0, 10)
    posterior = infer.Posterior(Model(lambda w, x: dist.Normal(w * x[:, 0] + offsets, 1.0)))
    batches = [(X[i : i + 10], LINE[i : i + 10]) for i in range(0, NUM, 10)]
    fit = infer.map(posterior, batches=batches, num_observations=NUM, optimizer='adam', num_steps=5, progress=False)
    assert fit.info['num_steps'] == 5
