"""Scores: against closed forms and other libraries, and as a fit's table."""

import brainunit as u
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from brainstate_prob import infer, nn
from brainstate_prob.infer import scoring
from tests.support.rich_model import in_millivolt, scattered

# The models here predict magnitudes, whose unit is that of the targets.
pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.data.quantities.UncheckedUnitWarning')


def normal_crps(y, mean, sd):
    """Gneiting and Raftery (2007)."""
    z = (y - mean) / sd
    return sd * (z * (2 * st.norm.cdf(z) - 1) + 2 * st.norm.pdf(z) - 1 / np.sqrt(np.pi))


@pytest.mark.parametrize('num', [5, 200])
def test_crps_is_the_closed_form_without_bias(num):
    pytest.importorskip('scoringrules')
    rng, y = np.random.default_rng(0), np.array([-1.0, 0.3, 2.5])
    repeats = 4000 if num == 5 else 200
    found = np.mean([scoring.crps(1.0 + 2.0 * rng.normal(size=(num, 3)), y) for _ in range(repeats)], axis=0)
    # Standard deviation of one estimate below 0.6 at 5 draws and 0.1 at 200: four standard errors.
    np.testing.assert_allclose(found, normal_crps(y, 1.0, 2.0), atol=4 * (0.6 if num == 5 else 0.1) / np.sqrt(repeats))


def test_crps_of_a_point_is_the_absolute_error():
    pytest.importorskip('scoringrules')
    np.testing.assert_allclose(scoring.crps([[1.0, 2.0]], [3.0, 2.0]), [2.0, 0.0])
    np.testing.assert_allclose(scoring.crps([[1.0]] * 7, [3.0]), [2.0])


def test_pit_is_uniform_for_what_is_drawn_alike_also_if_discrete():
    rng = np.random.default_rng(1)
    for draw in (lambda size: rng.normal(size=size), lambda size: rng.poisson(0.7, size=size)):
        values = scoring.pit(draw((99, 5000)), draw(5000))
        assert st.kstest(values, 'uniform').pvalue > 1e-3  # a false alarm once in 1000 seeds, and the seed is fixed
    assert st.kstest(scoring.pit(rng.normal(size=(99, 5000)), 2 * rng.normal(size=5000)), 'uniform').pvalue < 1e-6


def test_brier_and_accuracy_are_what_they_say():
    rng = np.random.default_rng(2)
    p, y = rng.dirichlet(np.ones(4), size=50), rng.integers(0, 4, size=50)
    want = [sum((p[i, k] - (k == y[i])) ** 2 for k in range(4)) for i in range(50)]
    np.testing.assert_allclose(scoring.brier(p, y), want)
    assert scoring.accuracy(p, y) == np.mean(p.argmax(1) == y)
    two = np.stack([1 - p[:, 0], p[:, 0]], 1)
    np.testing.assert_allclose(scoring.brier(two, y % 2), (p[:, 0] - y % 2) ** 2)


def test_ece_of_calibrated_probabilities_is_small_and_of_sure_ones_large():
    rng = np.random.default_rng(3)
    p = rng.uniform(0.5, 1.0, size=20000)
    y = (rng.random(20000) > p).astype(int)  # class 0 comes with probability p
    probabilities = np.stack([p, 1 - p], 1)
    # The noise of a part of 20000 / 15: about 0.01 each.
    assert scoring.ece(probabilities, y) < 0.02
    sure = np.stack([np.full(20000, 0.99), np.full(20000, 0.01)], 1)
    assert scoring.ece(sure, y) == pytest.approx(0.99 - np.mean(y == 0), abs=1e-9)


def test_the_parts_of_the_reliability_table_hold_their_upper_ends():
    table = scoring.reliability([[0.5, 0.5], [0.51, 0.49], [1.0, 0.0]], [0, 0, 1], bins=2)
    np.testing.assert_array_equal(table['count'], [1, 2])
    np.testing.assert_allclose(table['accuracy'], [1.0, 0.5])


def test_the_interval_score_is_smallest_at_the_quantiles():
    rng = np.random.default_rng(4)
    y = rng.normal(size=20000)
    best = st.norm.ppf(0.95)
    means = [scoring.interval_score(np.full(20000, -h), np.full(20000, h), y, 0.9).mean() for h in (1.3, best, 2.1)]
    assert means[1] < min(means[0], means[2])


P = [[0.5, 0.5]]


@pytest.mark.parametrize(
    ('call', 'match'),
    [
        (lambda: scoring.rmse([1.0], [[1.0]]), r'shape of the targets, \(1, 1\), got \(1,\)'),
        (lambda: scoring.pit([1.0, 2.0], [1.0, 2.0]), r'shape \(draws, ...\).*got \(2,\)'),
        (lambda: scoring.brier(P, [2]), 'ints from 0 to 1, the classes; got .2.'),
        (lambda: scoring.brier(P, [0.5]), 'ints from 0 to 1'),
        (lambda: scoring.brier([[0.5, 0.4]], [1]), 'sum to 1'),
        (lambda: scoring.brier(P, [[0]]), r'shape of the labels, \(1, 1\), in front; got \(1, 2\)'),
        (lambda: scoring.reliability(P, [0], bins=0), 'at least 1, got 0'),
        (lambda: scoring.interval_score([0.0], [1.0], [0.0], prob=90), 'between 0 and 1, got 90'),
    ],
)
def test_bad_input_says_what_is_wrong(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# As a fit's table


class Line(nn.Module):
    def __init__(self, sd=1.0):
        super().__init__()
        self.slope = nn.Param(2.0)
        self.sd = nn.Const(sd)

    def __call__(self, x):
        return dist.Normal(self.slope.value() * x, self.sd.value())


def line_data(num=400, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=num).astype('f4')
    return x, (2 * x + rng.normal(size=num)).astype('f4')


@pytest.fixture(scope='module')
def line():
    x, y = line_data(20)
    return scattered(infer.Posterior(Line(), x, y * u.mV, likelihood=in_millivolt), chains=1, draws=300, spread=0.0)


def test_the_table_of_a_regression_is_that_of_the_known_distribution(line):
    x, y = line_data()
    table = line.score(x, y * u.mV, prob=0.8, batch_size=150)
    residual = (y - 2 * x).astype('f8')
    assert table['value', 'nll'] == pytest.approx(-st.norm.logpdf(residual).mean(), rel=1e-4)
    # 300 draws: their mean is off by 0.06, the square by 0.003.
    assert table['value', 'rmse'] == pytest.approx(np.sqrt((residual**2).mean()), abs=0.02)
    if 'crps' in table.rows:
        assert table['value', 'crps'] == pytest.approx(normal_crps(residual, 0, 1).mean(), rel=0.02)
        assert table['unit', 'crps'] == 'mV'
    inside = np.abs(residual) < st.norm.ppf(0.9)
    assert table['value', 'coverage of 80 %'] == pytest.approx(inside.mean(), abs=0.03)
    assert table['value', 'mean width'] == pytest.approx(2 * st.norm.ppf(0.9), rel=0.02)
    assert table['value', 'pit distance'] < 1.95 / np.sqrt(400)  # once in 1000 seeds
    assert table['error', 'coverage of 80 %'] == pytest.approx(np.sqrt(inside.var() / 400), rel=0.1)
    assert table['unit', 'rmse'] == 'mV' and table['unit', 'nll'] == '-'
    again = line.score(x, y * u.mV, prob=0.8, batch_size=150)
    assert str(again) == str(table)


def test_a_model_that_is_too_sure_shows():
    x, y = line_data()
    sure = scattered(infer.Posterior(Line(0.3), x, y), chains=1, draws=200, spread=0.0).score(x, y)
    assert sure['value', 'coverage of 90 %'] < 0.5 and sure['value', 'pit distance'] > 0.2


class Classifier(nn.Module):
    def __init__(self, sharpness=1.0):
        super().__init__()
        self.w = nn.Param(jnp.array([1.0, -1.0, 0.0]))
        self.sharpness = nn.Const(sharpness)

    def __call__(self, x):
        return dist.Categorical(logits=self.sharpness.value() * x[:, None] * self.w.value())


def class_data(num=2000, seed=0):
    """Labels with the probabilities of sharpness 1."""
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=num).astype('f4')
    logits = x[:, None] * np.array([1.0, -1.0, 0.0])
    return x, (logits + rng.gumbel(size=(num, 3))).argmax(1).astype('i4')


def classifier(sharpness=1.0):
    return scattered(infer.Posterior(Classifier(sharpness), *class_data(50)), chains=1, draws=20, spread=0.0)


def test_the_table_of_a_classification():
    x, y = class_data()
    right, sure = classifier().score(x, y), classifier(4.0).score(x, y, batch_size=512)
    assert right.rows == ('nll', 'accuracy', 'brier', 'ece')
    p = classifier().predict(x, kind='probabilities')
    assert right['value', 'nll'] == pytest.approx(-np.log(p[np.arange(2000), y]).mean(), rel=1e-4)
    assert right['value', 'brier'] == pytest.approx(scoring.brier(p, y).mean())
    assert right['value', 'accuracy'] == sure['value', 'accuracy']
    assert right['value', 'ece'] < 0.04 < 0.1 < sure['value', 'ece'] and right['value', 'nll'] < sure['value', 'nll']


def test_a_posterior_of_a_log_likelihood_has_only_its_log_score():
    x, y = line_data(30)
    posterior = infer.Posterior(Line(), x, y, log_likelihood=lambda m, x, y: m(x).log_prob(y))
    table = scattered(posterior).score()
    assert table.rows == ('nll',)


def test_what_cannot_be_scored_says_so(line):
    with pytest.raises(ValueError, match='those of the new inputs: give targets='):
        line.score(line_data()[0])
    with pytest.raises(ValueError, match='between 0 and 1, got 90'):
        line.score(prob=90)
    with pytest.raises(u.UnitMismatchError, match='Multiply them by the unit'):
        line.score(*line_data())
