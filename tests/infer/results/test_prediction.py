"""Predictions: right moments, in chunks, reproducible, compiled once."""

import contextlib
import tracemalloc
from types import SimpleNamespace

import brainunit as u
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats

from brainstate_prob import infer, nn, random
from brainstate_prob.infer.density.batching import chosen_draws, over_draws, rows_at_once
from brainstate_prob.infer.run.starts import start_points
from tests.support.rich_model import compilations, rich_posterior, scattered

calls = 0


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Param(jnp.zeros(2))
        self.noise = nn.Param(0.5, t=nn.ExpT())

    def __call__(self, x):
        global calls
        calls += 1
        return dist.Normal(x @ self.slope.value(), self.noise.value())


def line_posterior(num=6, seed=0, unit=u.UNITLESS):
    x = jax.random.normal(jax.random.key(seed), (num, 2))
    if unit.is_unitless:
        return infer.Posterior(Line(), x, x.sum(1))
    return infer.Posterior(
        Line(), x, u.Quantity(x.sum(1), unit=unit), likelihood=lambda m, x: infer.with_unit(m(x), unit)
    )


@pytest.fixture(scope='module')
def fit():
    return scattered(line_posterior(unit=u.mV), chains=2, draws=40)


def test_draws_have_the_moments_of_the_predictive_distribution(fit):
    x = np.array([[1.0, 2.0], [0.0, -1.0]], np.float32)
    drawn = u.get_magnitude(fit.predict(x, num_draws=20000))
    slope, noise = fit.draws['slope'].reshape(-1, 2), fit.draws['noise'].reshape(-1)
    mean = slope @ x.T
    assert drawn.shape == (20000, 2) and u.get_unit(fit.predict(x)) == u.mV
    # Four standard errors: a false alarm once in 8000 seeds, and the seed is fixed.
    variance = mean.var(0) + (noise**2).mean()
    np.testing.assert_allclose(drawn.mean(0), mean.mean(0), atol=4 * np.sqrt(variance.max() / 20000))
    np.testing.assert_allclose(drawn.var(0), variance, rtol=4 * np.sqrt(2 / 20000))
    np.testing.assert_allclose(u.get_magnitude(fit.predict(x, kind='mean')), mean, rtol=1e-5, atol=1e-6)


def test_by_default_one_prediction_a_draw_at_the_fitted_inputs(fit):
    assert fit.predict().shape == (80, 6)
    mean = fit.draws['slope'].reshape(-1, 2) @ np.asarray(fit.posterior.data.args[0]).T
    np.testing.assert_allclose(u.get_magnitude(fit.predict(kind='mean')), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('size', [1, 7, 64, 1000])
def test_the_chunks_do_not_change_the_result(fit, size):
    whole, parts = fit.predict(seed=3), fit.predict(seed=3, draws_at_once=size)
    np.testing.assert_allclose(u.get_magnitude(parts), u.get_magnitude(whole), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fit.log_likelihood(draws_at_once=size), fit.log_likelihood(), rtol=1e-5)


def test_the_same_seed_gives_the_same_and_another_another(fit):
    a, b, c = (u.get_magnitude(fit.predict(seed=s)) for s in (1, jax.random.key(1), 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_log_likelihood_is_that_of_each_observation(fit):
    found = fit.log_likelihood()
    x, y = np.asarray(fit.posterior.data.args[0]), np.asarray(fit.posterior.data.targets)
    mean, sd = fit.draws['slope'] @ x.T, fit.draws['noise'][..., None]
    want = -((y - mean) ** 2) / (2 * sd**2) - np.log(sd) - 0.5 * np.log(2 * np.pi)
    assert found.shape == (2, 40, 6)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_one_prediction_for_all_targets_is_drawn_for_each():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(0.0)

        def __call__(self):
            return dist.Normal(self.mu.value(), 1.0)

    fit = scattered(infer.Posterior(Mean(), targets=jnp.zeros(5)))
    drawn = fit.predict()
    assert drawn.shape == (60, 5) and len(np.unique(drawn)) == 300
    assert fit.predict(kind='mean').shape == (60, 5) and fit.log_likelihood().shape == (2, 30, 5)


def test_vector_targets():
    class Vector(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(jnp.zeros(3))

        def __call__(self):
            return dist.MultivariateNormal(self.mu.value(), jnp.eye(3))

    fit = scattered(infer.Posterior(Vector(), targets=jnp.zeros((5, 3))))
    assert fit.predict(num_draws=4).shape == (4, 5, 3) and fit.log_likelihood().shape == (2, 30, 5)


def test_a_second_fit_of_the_structure_traces_nothing():
    def use(fit, seed):
        fit.draws, fit.predict(kind='mean', seed=seed), fit.predict(seed=seed), fit.log_likelihood()
        fit.predict(np.full((3, 2), seed, 'f4'), kind='interval')
        fit.predict(np.full((5, 2), seed, 'f4'), np.zeros(5, 'f4'), kind='log_density', batch_size=2)

    first, second = scattered(line_posterior(seed=1), draws=50), scattered(line_posterior(seed=2), draws=50, seed=5)
    with compilations() as events:
        use(first, 0)
    assert events  # the listener hears
    before = calls
    with compilations() as events:
        use(second, 9)
        second.predict(num_draws=100)
    assert calls == before and not events


class Longer(Line):
    """A structure of its own: no other test has compiled anything for it."""


class Classes(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Param(jnp.zeros((2, 3)), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        global calls
        calls += 1
        return dist.Categorical(logits=x @ self.logits.value())


NEW = np.ones((5, 2), 'f4'), np.zeros(5, 'f4')
USES = {
    'draws': lambda fit: fit.draws,
    'summary': lambda fit: fit.summary(),
    'estimate': lambda fit: fit.assign_to(fit.posterior.model),
    'predictions': lambda fit: fit.predict(),
    'predictions in chunks': lambda fit: fit.predict(NEW[0], draws_at_once=7, batch_size=2),
    'means': lambda fit: fit.predict(NEW[0], kind='mean'),
    'intervals': lambda fit: fit.predict(NEW[0], kind='interval'),
    'log densities': lambda fit: fit.predict(*NEW, kind='log_density'),
    'log-likelihood': lambda fit: fit.log_likelihood(),
    'evaluate': lambda fit: fit.evaluate(slope_of),
    'scores': lambda fit: fit.score(),
    'scores of new data': lambda fit: fit.score(*NEW),
    'k-hat': lambda fit: infer.k_hat(fit),
    'check': lambda fit: fit.check(),
    'ArviZ': lambda fit: fit.to_arviz(),
    'starts of chains': lambda fit: start_points(fit.target, fit, jax.random.split(jax.random.key(0), 2)),
    'probabilities': lambda fit: fit.predict(kind='probabilities'),
    'scores of classes': lambda fit: fit.score(),
}


def slope_of(model):
    return model.slope.value()


@pytest.fixture(scope='module')
def longer():
    """Fits of more and more draws, which differ from each other in data too."""

    def make(i, draws, classes):
        x = jax.random.normal(jax.random.key(i), (6, 2))
        model, y = (Classes(), jnp.arange(6) % 3) if classes else (Longer(), x.sum(1))
        stats = {'log_q': np.random.default_rng(i).normal(size=(1, draws)).astype('f4')}
        return scattered(infer.Posterior(model, x, y), chains=1, draws=draws, seed=i, stats=stats)

    return {c: [make(i, draws, c) for i, draws in enumerate((60, 700, 3000, 100))] for c in (False, True)}


@pytest.mark.parametrize('use', USES)
def test_a_longer_fit_traces_and_compiles_nothing(longer, use):
    first, *others = longer[use in ('probabilities', 'scores of classes')]
    with contextlib.suppress(ValueError):  # k-hat of 60 draws
        USES[use](first)
    if use == 'k-hat':
        USES[use](others.pop())
    before = calls
    for fit in others:
        with compilations() as events:
            USES[use](fit)
        assert (calls - before, events) == (0, []), f'{fit.num_draws} draws'


def test_a_longer_fit_in_double_precision_compiles_nothing(x64):
    class Double(Line):
        pass

    x = np.random.default_rng(0).normal(size=(6, 2))
    short, *others = [scattered(infer.Posterior(Double(), x, x.sum(1)), draws=n) for n in (30, 350, 1500)]

    def use(fit):
        return fit.draws, fit.predict(), fit.log_likelihood()

    use(short)
    for fit in others:
        with compilations() as events:
            draws, predicted, _ = use(fit)
        assert events == [] and predicted.dtype == np.float64 and draws['slope'].shape == (2, fit.num_draws, 2)


def test_chains_start_at_draws_in_proportion_to_their_weights():
    weights = np.array([[0.0, 0.2, 0.0, 0.8]])
    fit = scattered(line_posterior(), chains=1, draws=4, stats={}, weights=weights)
    _, found = start_points(fit.target, fit, jax.random.split(jax.random.key(0), 1000))
    counts = np.sum(np.all(np.asarray(found)[:, None] == fit.rows, axis=-1), axis=0)
    # Binomial with sd 12.6: five of these, once in a million seeds.
    assert list(counts[[0, 2]]) == [0, 0] and abs(counts[1] - 200) < 63 and counts.sum() == 1000


def test_a_model_that_draws_random_numbers_draws_others_each_time():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(0.0)

        def __call__(self):
            return dist.Delta(self.mu.value() + random.normal(size=4))

    posterior = infer.Posterior(Noisy(), inputs=(), log_likelihood=None)
    point = infer.Fit(posterior.target, np.zeros((1, 1, 1), 'f4'), method='map')
    before = np.asarray(random.get_key())
    drawn = point.predict(num_draws=500)
    np.testing.assert_array_equal(before, random.get_key())
    assert len(np.unique(drawn)) > 1990  # float32 has some twice
    assert abs(drawn.std() - 1) < 4 / np.sqrt(4000)  # once in 16 000 seeds
    np.testing.assert_array_equal(drawn, point.predict(num_draws=500))


@pytest.mark.parametrize(
    ('num', 'total', 'weights', 'want'),
    [
        (4, 4, None, [0, 1, 2, 3]),
        (2, 4, None, [1, 3]),
        (8, 4, None, [0, 0, 1, 1, 2, 2, 3, 3]),
        (4, 4, [0, 1, 0, 1], [1, 1, 3, 3]),
        (3, 2, [[1], [2]], [0, 1, 1]),
    ],
)
def test_which_draws_serve(num, total, weights, want):
    assert list(chosen_draws(num, total, None if weights is None else np.asarray(weights, float))) == want


def test_chunks_have_few_shapes():
    shapes = []

    def run(x):
        shapes.append(x.shape)
        return {'twice': 2 * x}

    for num in (1, 2, 5, 9, 16, 17, 40):
        rows = np.arange(num, dtype='f4')
        np.testing.assert_array_equal(over_draws(run, (rows,), 16)['twice'], 2 * rows)
    assert set(shapes) == {(1,), (16,)}  # a point is alone


@pytest.mark.parametrize('size', [1, 300, 10**5, 10**8])
def test_rows_of_theta_at_a_time_are_bounded_in_memory(size):
    num = rows_at_once(SimpleNamespace(size=size), jnp.zeros(100))
    assert 1 <= num <= 64 and (num == 1 or num * size <= 2**22)


@hypothesis.given(num=st.integers(1, 70), batch_size=st.integers(1, 40))
def test_any_number_of_rows_in_chunks_of_any_size(num, batch_size):
    longest = 0

    def run(x, y):
        nonlocal longest
        longest = max(longest, len(x))
        return {'sum': x + y, 'pair': np.stack([x, y], 1)}

    x, y = np.arange(num, dtype='f4'), -2 * np.arange(num, dtype='f4')
    out = over_draws(run, (x, y), batch_size)
    np.testing.assert_array_equal(out['sum'], -x)
    np.testing.assert_array_equal(out['pair'], np.stack([x, y], 1))
    assert longest <= batch_size


@hypothesis.given(st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(any), st.integers(1, 200))
def test_draws_serve_in_proportion_to_their_weights(weights, num):
    share = num * np.asarray(weights) / np.sum(weights)
    counts = np.bincount(chosen_draws(num, len(weights), np.asarray(weights, float)), minlength=len(weights))
    assert counts.sum() == num and (np.abs(counts - share) <= 1 + 1e-9).all()
    assert not counts[np.asarray(weights) == 0].any()


# Intervals, densities of new targets, classes


def new_data(num=7):
    x = np.random.default_rng(3).normal(size=(num, 2)).astype('f4')
    return x, (x.sum(1) + 0.1).astype('f4')


def test_the_interval_is_that_of_the_draws_in_the_targets_unit(fit):
    x, _ = new_data()
    drawn = u.get_magnitude(fit.predict(x, seed=4, num_draws=300))
    found = fit.predict(x, seed=4, kind='interval', prob=0.8, num_draws=300)
    assert found._fields == ('mean', 'lower', 'upper') and all(u.get_unit(part) == u.mV for part in found)
    np.testing.assert_allclose(u.get_magnitude(found.mean), drawn.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(u.get_magnitude(found.lower), np.quantile(drawn, 0.1, axis=0), rtol=1e-5)
    np.testing.assert_allclose(u.get_magnitude(found.upper), np.quantile(drawn, 0.9, axis=0), rtol=1e-5)


def test_log_density_is_that_of_the_mixture_over_draws(fit):
    x, y = new_data()
    found = fit.predict(x, y * u.mV, kind='log_density')
    slope, noise = fit.draws['slope'].reshape(-1, 2), fit.draws['noise'].reshape(-1, 1)
    each = scipy.stats.norm(slope @ x.T, noise).logpdf(y)
    np.testing.assert_allclose(found, scipy.special.logsumexp(each, axis=0) - np.log(80), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found, fit.predict(x, y / 1000 * u.volt, kind='log_density'))
    fitted = scipy.special.logsumexp(fit.log_likelihood().reshape(80, -1), axis=0) - np.log(80)
    np.testing.assert_allclose(fit.predict(kind='log_density'), fitted, rtol=1e-5)
    with pytest.raises(u.UnitMismatchError, match='plain numbers. Multiply them by the unit'):
        fit.predict(x, y, kind='log_density')


@pytest.mark.parametrize('batch_size', [1, 3, 7, 100])
def test_batches_of_rows_do_not_change_what_has_no_noise(fit, batch_size):
    x, y = new_data()
    for kind, targets in (('mean', None), ('log_density', y * u.mV)):
        whole = u.get_magnitude(fit.predict(x, targets, kind=kind))
        parts = u.get_magnitude(fit.predict(x, targets, kind=kind, batch_size=batch_size))
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)
    drawn = u.get_magnitude(fit.predict(x, batch_size=batch_size))
    assert drawn.shape == (80, 7) and len(np.unique(drawn)) == 560  # no noise twice
    np.testing.assert_array_equal(drawn[:, :batch_size], u.get_magnitude(fit.predict(x[:batch_size])))
    np.testing.assert_allclose(fit.log_likelihood(batch_size), fit.log_likelihood(), rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_rows(fit):
    """What is held at once is a batch: NumPy's peak, and the largest shape that the model saw."""
    seen = []

    class Seeing(Line):
        def __call__(self, x):
            seen.append(x.shape)
            return super().__call__(x)

    line = scattered(infer.Posterior(Seeing(), *new_data()), chains=4, draws=250)
    seen.clear()
    rows, batch = 20_000, 250
    x = np.ones((rows, 2), np.float32)
    peaks = {}
    for kind, targets in (('interval', None), ('log_density', np.ones(rows, np.float32))):
        line.predict(x[:batch], None if targets is None else targets[:batch], kind=kind)  # compiled
        tracemalloc.start()
        out = line.predict(x, targets, kind=kind, batch_size=batch)
        peaks[kind] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.shape(out)[-1] == rows
    assert max(num for num, _ in seen) == batch
    everything = 1000 * rows * 4  # 80 MB of draws
    assert max(peaks.values()) < everything / 8, peaks


@pytest.mark.parametrize(
    'out, classes',
    [
        (lambda x: dist.Bernoulli(logits=x), 2),
        (lambda x: dist.Bernoulli(probs=jax.nn.sigmoid(x)), 2),
        (lambda x: dist.Categorical(logits=jnp.stack([x, 0 * x, -x], -1)), 3),
        (lambda x: dist.Categorical(jax.nn.softmax(jnp.stack([x, 0 * x, -x], -1))), 3),
        (lambda x: dist.Independent(dist.Bernoulli(logits=x), 1), 2),
    ],
)
def test_probabilities_of_classes_are_the_mean_over_draws(out, classes):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(jnp.ones(2))

        def __call__(self, x):
            return out(x @ self.w.value())

    x, _ = new_data()
    fit = scattered(infer.Posterior(Classifier(), x, jnp.zeros(7, int)), spread=1.0)
    found = fit.predict(x, kind='probabilities', batch_size=3)
    logit = fit.draws['w'].reshape(-1, 2) @ x.T
    if classes == 2:
        want = np.stack([scipy.special.expit(-logit), scipy.special.expit(logit)], -1)
    else:
        want = scipy.special.softmax(np.stack([logit, 0 * logit, -logit], -1), axis=-1)
    assert found.shape == (7, classes)
    np.testing.assert_allclose(found, want.mean(0), rtol=1e-4, atol=1e-6)


def test_batches_need_rows():
    fit = scattered(rich_posterior())
    shared = infer.Posterior(
        fit.posterior.model, (fit.posterior.data.args[0], jnp.ones(3)), fit.posterior.data.targets,
        likelihood=lambda model, x, y: model(x),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r'inputs\[1\] has shape \(3,\). Leave batch_size out'):
        scattered(shared).predict(batch_size=4, kind='interval')


@pytest.mark.parametrize(
    ('kwargs', 'match'),
    [
        ({'kind': 'median'}, "one of .*'interval'.*, got 'median'"),
        ({'num_draws': 0}, 'at least 1.*got 0'),
        ({'num_draws': True}, 'at least 1.*got True'),
        ({'draws_at_once': 0}, 'draws_at_once .*at least 1, got 0'),
        ({'batch_size': 0}, 'batch_size .*at least 1, got 0'),
        ({'prob': 90, 'kind': 'interval'}, 'between 0 and 1, got 90'),
        ({'targets': np.zeros(6)}, "targets are scored by kind='log_density'"),
        ({'inputs': np.zeros((3, 2)), 'kind': 'log_density'}, 'those of the new inputs: give targets='),
        ({'kind': 'probabilities'}, 'need a Bernoulli or categorical.*predicts Normal'),
        ({'inputs': np.array([[1.0, np.nan]])}, 'inputs.* has 1 NaN entries'),
    ],
)
def test_bad_input_says_what_is_wrong(fit, kwargs, match):
    with pytest.raises(ValueError, match=match):
        fit.predict(**kwargs)


def test_what_cannot_be_predicted_says_so():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Param(jnp.array([0.5, 0.5]), t=nn.SimplexT())

        def __call__(self):
            return dist.Categorical(self.p.value())

    fit = scattered(infer.Posterior(Two(), targets=jnp.array([0, 1, 1])))
    assert fit.predict().dtype == np.int32
    with pytest.raises(ValueError, match="no mean.*kind='draws'"):
        fit.predict(kind='mean')
    posterior = infer.Posterior(Two(), log_likelihood=lambda model: -jnp.sum(model.p.value() ** 2))
    with pytest.raises(ValueError, match='log_likelihood=f, which does not define how to draw targets'):
        scattered(posterior).predict()


def test_predictions_of_everything_at_once():
    fit = scattered(rich_posterior())
    assert u.get_unit(fit.predict()) == u.mV and np.isfinite(u.get_magnitude(fit.predict())).all()


def test_the_interval_of_a_single_point_has_the_noise_of_the_targets():
    """A MAP fit has one draw of the parameters; its interval is that of the likelihood there."""

    class Known(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Param(2.0, reg=dist.Normal(2.0, 1.0))

        def __call__(self):
            return dist.Normal(self.mu.value(), 3.0)

    fit = infer.map(infer.Posterior(Known(), targets=jnp.full(4, 2.0)), progress=False)
    interval = fit.predict(kind='interval', prob=0.9)
    # Quantiles of 1000 draws have a standard error of 2.1 * 3 / sqrt(1000) = 0.2; four of them.
    np.testing.assert_allclose(interval.upper, 2.0 + 1.645 * 3.0, atol=0.8)
    np.testing.assert_allclose(interval.lower, 2.0 - 1.645 * 3.0, atol=0.8)
    assert fit.score()['value', 'coverage of 90 %'] == 1.0
