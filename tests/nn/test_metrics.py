"""Metrics: against NumPy and scikit-learn, over batches, under jit and for_loop; resets, reductions, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import LongTermState, ParamState, environ, nn, transform

pytestmark = pytest.mark.usefixtures('quick_compile')

RNG = np.random.default_rng(0)
VALUES = RNG.normal(3.0, 2.0, (5, 8)).astype(np.float32)
LABELS = RNG.integers(0, 4, (5, 8)).astype(np.int32)
PREDICTIONS = np.where(RNG.random((5, 8)) < 0.6, LABELS, RNG.integers(0, 4, (5, 8))).astype(np.int32)
LOGITS = RNG.normal(size=(5, 8, 4)).astype(np.float32)


def by_batches(metric, batches):
    for batch in batches:
        metric.update(**batch)


def compiled(metric, batches):
    step = transform.jit(lambda batch: metric.update(**batch))
    for batch in batches:
        step(batch)


def in_a_loop(metric, batches):
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    transform.for_loop(lambda batch: metric.update(**batch), stacked)


def at_once(metric, batches):
    metric.update(**{k: np.concatenate([b[k] for b in batches]) for k in batches[0]})


ways = pytest.mark.parametrize('way', [by_batches, compiled, in_a_loop, at_once])
NUMBERS = [{'values': v} for v in VALUES]
CLASSES = [{'predictions': p, 'labels': y} for p, y in zip(PREDICTIONS, LABELS, strict=True)]
BINARY = [{'predictions': p > 1, 'labels': y > 1} for p, y in zip(PREDICTIONS, LABELS, strict=True)]


@ways
def test_average(way):
    metric = nn.AverageMetric()
    way(metric, NUMBERS)
    assert float(metric.compute()) == pytest.approx(VALUES.mean(), rel=1e-6)


@ways
def test_welford(way):
    metric = nn.WelfordMetric()
    way(metric, NUMBERS)
    mean, error, deviation = metric.compute()
    assert float(mean) == pytest.approx(VALUES.mean(), rel=1e-6)
    assert float(deviation) == pytest.approx(VALUES.std(), rel=1e-5)
    assert float(error) == pytest.approx(VALUES.std() / np.sqrt(VALUES.size), rel=1e-5)
    assert metric.compute().standard_error_of_mean == error


def test_welford_does_not_cancel_and_takes_scalars():
    metric = nn.WelfordMetric('loss')
    for x in VALUES.ravel() + 10_000:
        metric.update(loss=float(x), other=None)
    assert float(metric.compute().standard_deviation) == pytest.approx(VALUES.std(), rel=1e-3)
    assert int(metric.count.value) == VALUES.size


@ways
def test_accuracy(way):
    metric = nn.AccuracyMetric()
    way(metric, [{'logits': z, 'labels': y} for z, y in zip(LOGITS, LABELS, strict=True)])
    assert float(metric.compute()) == pytest.approx((LOGITS.argmax(-1) == LABELS).mean())


SCORES = {nn.PrecisionMetric: 'precision_score', nn.RecallMetric: 'recall_score', nn.F1ScoreMetric: 'f1_score'}


@pytest.mark.parametrize('average', ['macro', 'micro', 'weighted', None])
@pytest.mark.parametrize('kind', SCORES)
def test_scores_are_those_of_scikit_learn(kind, average):
    sklearn = pytest.importorskip('sklearn.metrics')
    metric = kind(5, average)  # the fifth class never comes: its score is 0
    in_a_loop(metric, CLASSES)
    expected = getattr(sklearn, SCORES[kind])(
        LABELS.ravel(), PREDICTIONS.ravel(), labels=range(5), average=average, zero_division=0
    )
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-6)


@pytest.mark.parametrize('kind', SCORES)
def test_binary_scores_are_those_of_scikit_learn(kind):
    sklearn = pytest.importorskip('sklearn.metrics')
    metric = kind()
    by_batches(metric, BINARY)
    expected = getattr(sklearn, SCORES[kind])(LABELS.ravel() > 1, PREDICTIONS.ravel() > 1)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


# (predictions, labels): precision, recall, F1 by hand
BY_HAND = [
    ([1, 1, 1, 0], [1, 1, 0, 1], (2 / 3, 2 / 3, 2 / 3)),
    ([1, 0, 0, 0], [1, 1, 1, 1], (1.0, 0.25, 0.4)),
    ([0, 0], [0, 0], (0.0, 0.0, 0.0)),
    ([0, 0], [1, 1], (0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize('predictions, labels, expected', BY_HAND)
def test_binary_scores_by_hand(predictions, labels, expected):
    for kind, score in zip(SCORES, expected, strict=True):
        metric = kind()
        metric.update(predictions=np.array(predictions), labels=np.array(labels))
        assert float(metric.compute()) == pytest.approx(score)


@ways
def test_confusion_matrix(way):
    metric = nn.ConfusionMatrix(5)
    way(metric, CLASSES)
    expected = np.zeros((5, 5), int)
    np.add.at(expected, (LABELS, PREDICTIONS), 1)
    np.testing.assert_array_equal(metric.compute(), expected)
    assert jnp.issubdtype(metric.compute().dtype, jnp.integer)


def test_traced_indices_out_of_range_count_nothing():
    confusion, precision = nn.ConfusionMatrix(2), nn.PrecisionMetric(2, None)
    batch = {'predictions': jnp.array([0, 1, -1, 2, 1]), 'labels': jnp.array([0, -1, 1, 1, 1])}
    for metric in (confusion, precision):
        compiled(metric, [batch])
    np.testing.assert_array_equal(confusion.compute(), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(precision.predicted.value, [1, 1])


EVERY = [
    (nn.AverageMetric, NUMBERS),
    (nn.WelfordMetric, NUMBERS),
    (lambda: nn.PrecisionMetric(4), CLASSES),
    (lambda: nn.RecallMetric(4), CLASSES),
    (lambda: nn.F1ScoreMetric(4), CLASSES),
    (lambda: nn.ConfusionMatrix(4), CLASSES),
    (nn.AccuracyMetric, [{'logits': z, 'labels': y} for z, y in zip(LOGITS, LABELS, strict=True)]),
]


@pytest.mark.parametrize('make, batches', EVERY, ids=[type(m()).__name__ for m, _ in EVERY])
def test_states_and_reset(make, batches):
    metric, fresh = make(), make()
    by_batches(metric, batches)
    assert any(
        np.any(s.value != f.value) for s, f in zip(metric.states().values(), fresh.states().values(), strict=True)
    )
    metric.reset()
    for path, state in metric.states().items():
        assert isinstance(state, nn.MetricState) and isinstance(state, LongTermState)
        np.testing.assert_array_equal(state.value, fresh.states()[path].value)
        assert state.value.dtype == fresh.states()[path].value.dtype
    assert dict(metric.states(ParamState)) == {}


def test_nothing_yet():
    assert np.isnan(nn.AverageMetric().compute())
    assert np.isnan(nn.AccuracyMetric().compute())
    assert all(np.isnan(x) for x in nn.WelfordMetric().compute())
    empty = nn.WelfordMetric()
    empty.update(values=np.zeros((0, 3)))
    assert int(empty.count.value) == 0


def test_accumulators_have_at_least_single_precision():
    with environ.context(precision='bf16'):
        metric = nn.AverageMetric()
        assert metric.total.value.dtype == jnp.float32 and metric.count.value.dtype == jnp.int32
    metric.update(values=jnp.ones(100_000, jnp.bfloat16))
    metric.update(values=jnp.zeros(100_000, jnp.bfloat16))
    assert float(metric.compute()) == 0.5


def test_double_precision(x64):
    metric = nn.WelfordMetric()
    metric.update(values=VALUES.astype(np.float64) + 1e6)
    assert metric.compute().mean.dtype == jnp.float64
    assert float(metric.compute().standard_deviation) == pytest.approx(VALUES.astype(np.float64).std(), rel=1e-9)


def test_multi_metric():
    metric = nn.MultiMetric(accuracy=nn.AccuracyMetric(), loss=nn.AverageMetric('loss'))
    step = transform.jit(metric.update)
    for z, y, v in zip(LOGITS, LABELS, VALUES, strict=True):
        step(logits=z, labels=y, loss=v)
    got = metric.compute()
    assert list(got) == ['accuracy', 'loss']
    assert float(got['accuracy']) == pytest.approx((LOGITS.argmax(-1) == LABELS).mean())
    assert float(got['loss']) == pytest.approx(VALUES.mean(), rel=1e-6)
    assert list(metric.states()) == [('accuracy', 'count'), ('accuracy', 'total'), ('loss', 'count'), ('loss', 'total')]
    metric.reset()
    assert np.isnan(metric.compute()['loss'])


Z, Y = LOGITS, LABELS
BAD = [
    (lambda: nn.AverageMetric().update(loss=1.0), TypeError, 'needs values=..., got loss'),
    (lambda: nn.AccuracyMetric().update(logits=Z, labels=Y[:2]), ValueError, r'logits \(5, 8, 4\) and labels \(2, 8\)'),
    (lambda: nn.AccuracyMetric().update(logits=Z, labels=VALUES), TypeError, 'labels must be class indices'),
    (lambda: nn.PrecisionMetric().update(predictions=Y, labels=Y), ValueError, 'from 0 to 1, got 0 to 3. Give num_cl'),
    (lambda: nn.RecallMetric(4).update(predictions=VALUES, labels=Y), TypeError, 'argmax'),
    (lambda: nn.F1ScoreMetric(4).update(predictions=Y[0], labels=Y), ValueError, 'one shape'),
    (lambda: nn.PrecisionMetric(4, 'mean'), ValueError, "average must be one of .*got 'mean'"),
    (lambda: nn.PrecisionMetric(1), ValueError, 'an integer from 2 on, got 1'),
    (lambda: nn.ConfusionMatrix(2.5), ValueError, 'an integer from 2 on, got 2.5'),
    (lambda: nn.MultiMetric(loss=1.0), TypeError, 'loss must be a Metric, got float'),
    (lambda: nn.MultiMetric(reset=nn.AverageMetric()), ValueError, "'reset' is a name of every Metric"),
    (lambda: nn.Metric().compute(), NotImplementedError, 'does not define compute'),
]


@pytest.mark.parametrize('call, error, message', BAD)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
