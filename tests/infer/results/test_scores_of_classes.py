"""Scores of classes are scikit-learn's, however two classes are written and whatever dtype the labels have."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer import scoring
from tests.support.rich_model import scattered

sklearn = pytest.importorskip('sklearn')
metrics = pytest.importorskip('sklearn.metrics')
HALVES = tuple(int(part) for part in sklearn.__version__.split('.')[:2]) >= (1, 7)  # Brier scores of many classes


def form(name):
    """The same probability of class 1, expit(w x), in several ways."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(1.5)

        def __call__(self, x):
            logits = self.w.value() * x
            two = jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
            return {
                'bernoulli': lambda: dist.Bernoulli(logits=logits),
                'probs': lambda: dist.BernoulliProbs(1 / (1 + jnp.exp(-logits))),
                'categorical': lambda: dist.Categorical(logits=two),
                'column': lambda: dist.Bernoulli(logits=logits[:, None]),
                'event': lambda: dist.Bernoulli(logits=logits[:, None]).to_event(1),  # one observation a row
            }[name]()

    return Model()


RNG = np.random.default_rng(0)
X = RNG.normal(size=400).astype('f4')
Y = RNG.random(400) < 1 / (1 + np.exp(-X))  # flatter than the model: scores that differ from their best


def table(name, dtype, **kwargs):
    y = Y.astype(dtype)
    y = y[:, None] if name in ('column', 'event') else y
    return scattered(infer.Posterior(form(name), X, y), chains=1, draws=40, spread=0.3, **kwargs).score()


def probability(weights=None, draws=40):
    """Of class 1, averaged over the draws that `scattered` makes."""
    w = 1.5 + 0.3 * np.random.default_rng(0).normal(size=(1, draws, 1))[0, :, 0]
    return np.average(1 / (1 + np.exp(-w[:, None] * X)), axis=0, weights=weights)


OF_INTS = ['categorical']  # a Categorical takes the numbers of classes only


@pytest.mark.parametrize(
    ('name', 'dtype'),
    [
        (name, dtype)
        for name in ('bernoulli', 'probs', 'categorical', 'column', 'event')
        for dtype in ('bool', 'int32', 'uint8', 'float32')
        if name not in OF_INTS or dtype in ('int32', 'uint8')
    ],
)
def test_two_classes_have_one_score(name, dtype):
    found, p = table(name, dtype), probability()
    assert found['value', 'brier'] == pytest.approx(metrics.brier_score_loss(Y, p), rel=1e-4)
    assert found['value', 'nll'] == pytest.approx(metrics.log_loss(Y, p), rel=1e-4)
    assert found['value', 'accuracy'] == pytest.approx(metrics.accuracy_score(Y, p > 0.5))
    confidence, right = np.maximum(p, 1 - p), (p > 0.5) == Y
    place = np.ceil(confidence * 15)
    want = sum(abs(np.sum(right[place == k] - confidence[place == k])) for k in range(16)) / 400
    assert found['value', 'ece'] == pytest.approx(want, abs=1e-5)


def test_weighted_draws_count_by_their_weights():
    weights = np.random.default_rng(1).integers(1, 5, size=(1, 40))
    found, p = table('bernoulli', 'int32', weights=weights / weights.sum()), probability(weights[0])
    assert found['value', 'brier'] == pytest.approx(metrics.brier_score_loss(Y, p), rel=1e-4)
    assert found['value', 'nll'] == pytest.approx(metrics.log_loss(Y, p), rel=1e-4)


def test_many_classes_and_many_outputs():
    p = RNG.dirichlet(np.ones(4), size=(60, 2))
    y = RNG.integers(0, 4, size=(60, 2))
    flat, labels = p.reshape(-1, 4), y.ravel()
    came = np.eye(4)[labels]
    assert scoring.brier(p, y).mean() == pytest.approx(np.sum((flat - came) ** 2, axis=1).mean())
    if HALVES:
        assert scoring.brier(p, y).mean() == pytest.approx(metrics.brier_score_loss(labels, flat))
    assert scoring.accuracy(p, y) == pytest.approx(metrics.accuracy_score(labels, flat.argmax(1)))


@pytest.mark.parametrize('dtype', ['bool', 'int64', 'float64'])
def test_labels_may_be_of_any_dtype(dtype):
    p = np.stack([1 - probability(), probability()], axis=1)
    assert scoring.brier(p, Y.astype(dtype)).mean() == pytest.approx(metrics.brier_score_loss(Y, p[:, 1]))
    assert scoring.ece(p, Y.astype(dtype)) == scoring.ece(p, Y.astype(int))


def test_what_a_mask_takes_out_is_not_scored():
    """Padding adds nothing: the scores are those of the rows that count."""

    class Masked(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.w = nn.Param(1.5)
            self.classes = classes

        def __call__(self, x, counts):
            mean = self.w.value() * x
            return (dist.Bernoulli(logits=mean) if self.classes else dist.Normal(mean, 1.0)).mask(counts)

    counts = np.arange(400) < 150
    for classes in (True, False):
        y = Y.astype('f4') if classes else X.astype('f4')
        options = {'chains': 1, 'draws': 40, 'spread': 0.3}
        padded = scattered(infer.Posterior(Masked(classes), (X, counts), np.where(counts, y, 0)), **options).score()
        alone = (X[:150], counts[:150])
        short = scattered(infer.Posterior(Masked(classes), alone, y[:150]), **options).score()
        for row in short.rows:
            # The noise of drawn targets: 1000 draws of 150 targets, a few per cent.
            close = {'rel': 1e-5} if classes or row == 'nll' else {'rel': 0.05, 'abs': 0.02}
            assert padded['value', row] == pytest.approx(short['value', row], **close), row
        assert '150 observations' in str(padded)


class Coin(nn.Module):
    """One probability for all targets."""

    def __init__(self):
        super().__init__()
        self.p = nn.Param(0.5, t=nn.SigmoidT(0.0, 1.0), reg=dist.Beta(1.0, 1.0))

    def __call__(self):
        return dist.Bernoulli(probs=self.p.value())


def test_one_prediction_serves_all_targets():
    fit = infer.map(infer.Posterior(Coin(), targets=np.array([1, 0, 1, 1])), progress=False)
    np.testing.assert_allclose(fit.predict(kind='probabilities'), np.tile([0.25, 0.75], (4, 1)), atol=1e-3)
    assert fit.score()['value', 'accuracy'] == 0.75
    assert fit.score()['value', 'brier'] == pytest.approx(0.1875, abs=1e-3)
