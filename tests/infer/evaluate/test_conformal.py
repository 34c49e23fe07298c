"""Split conformal prediction: it covers as promised for wrong models too, by a finite-sample law."""

import brainunit as u
import numpy as np
import pytest
import scipy.stats as st

from brainstate_prob import infer
from brainstate_prob.infer.evaluate.conformal import conformal_quantile
from tests.infer.results.test_scoring import Line, class_data, classifier, line_data
from tests.support.rich_model import in_millivolt, scattered

# The models here predict magnitudes, whose unit is that of the targets.
pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.data.quantities.UncheckedUnitWarning')


@pytest.mark.parametrize(('num', 'prob'), [(9, 0.9), (19, 0.8), (50, 0.9)])
def test_the_quantile_covers_with_the_promised_probability(num, prob):
    rng = np.random.default_rng(0)
    trials = 20000
    scores = rng.standard_cauchy(size=(trials, num + 1))
    covered = np.array([row[-1] <= conformal_quantile(row[:-1], prob) for row in scores[:4000]])
    want = np.ceil((num + 1) * prob) / (num + 1)  # exactly, for scores without ties
    # The binomial's 1e-4 and 1 - 1e-4 quantiles: a false alarm once in 5000 seeds, and the seed is fixed.
    low, high = st.binom.ppf([1e-4, 1 - 1e-4], 4000, want)
    assert low <= covered.sum() <= high and prob <= want <= prob + 1 / (num + 1)


def test_too_few_observations_cannot_promise():
    with pytest.raises(ValueError, match='8 observations cannot guarantee a coverage of 90 %: at least 9 are needed'):
        conformal_quantile(np.arange(8.0), 0.9)
    assert conformal_quantile(np.arange(9.0), 0.9) == 8.0
    with pytest.raises(ValueError, match='without NaN'):
        conformal_quantile([1.0, np.nan], 0.5)


def covers(share, size, num=400, prob=0.9):
    """Whether a coverage is possible: given calibration data it has the law of an order statistic's rank."""
    rank = np.ceil((num + 1) * prob)
    law = st.betabinom(size, rank, num + 1 - rank)
    low, high = law.ppf([1e-4, 1 - 1e-4])  # once in 5000 seeds
    return low <= round(share * size) <= high


@pytest.mark.parametrize('sd', [0.2, 1.0, 5.0])
@pytest.mark.parametrize('method', ['absolute', 'normalized', 'quantile', None])
def test_intervals_of_a_wrong_model_cover(sd, method):
    x, y = line_data(30)
    posterior = infer.Posterior(Line(sd), x, y * u.mV, likelihood=in_millivolt)
    fit = scattered(posterior, chains=1, draws=100, spread=0.05)
    x, y = line_data(400, seed=1)
    calibrated = infer.conformal(fit, x, y * u.mV, method=method)
    x, y = line_data(3000, seed=2)
    found = calibrated.predict(x)
    assert u.get_unit(found.lower) == u.mV
    inside = (u.get_magnitude(found.lower) <= y) & (y <= u.get_magnitude(found.upper))
    assert covers(inside.mean(), 3000)
    if sd != 1.0:
        plain = fit.predict(x, kind='interval')
        alone = (u.get_magnitude(plain.lower) <= y) & (y <= u.get_magnitude(plain.upper))
        assert not covers(alone.mean(), 3000)


@pytest.mark.parametrize('method', ['threshold', 'adaptive', None])
@pytest.mark.parametrize('sharpness', [0.2, 4.0])
def test_sets_of_a_wrong_classifier_cover(method, sharpness):
    calibrated = infer.conformal(classifier(sharpness), *class_data(400, seed=1), method=method)
    x, y = class_data(3000, seed=2)
    sets = calibrated.predict(x)
    assert sets.shape == (3000, 3) and sets.dtype == bool
    assert covers(sets[np.arange(3000), y].mean(), 3000)
    assert sets.sum(1).mean() < 2.5


@pytest.mark.parametrize(
    ('call', 'match'),
    [
        (lambda c, l: infer.conformal(c, *class_data(50), method='quantile'), 'for targets that are classes'),
        (lambda c, l: infer.conformal(l, *line_data(50), method='threshold'), 'for targets that are numbers'),
        (lambda c, l: infer.conformal(l, *line_data(5)), '5 observations cannot guarantee'),
        (lambda c, l: infer.conformal(l, *line_data(50), prob=1.0), 'between 0 and 1, got 1.0'),
    ],
)  # fmt: skip
def test_bad_input_says_what_is_wrong(call, match):
    line = scattered(infer.Posterior(Line(), *line_data(20)))
    with pytest.raises(ValueError, match=match):
        call(classifier(), line)
