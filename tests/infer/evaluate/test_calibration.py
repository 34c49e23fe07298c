"""Temperature scaling: the temperature that was put in comes out, and what is predicted is calibrated."""

import numpy as np
import pytest
from scipy import special

from brainstate_prob import infer
from brainstate_prob.infer import scoring
from brainstate_prob.infer.evaluate.calibration import best_temperature, temper
from tests.infer.results.test_scoring import Line, class_data, classifier, line_data
from tests.support.rich_model import scattered


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
def test_the_temperature_that_was_put_in_comes_out(temperature):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20000, 3))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    found = best_temperature(special.softmax(logits * temperature, axis=1), labels)
    assert found == pytest.approx(temperature, rel=0.05)  # its standard error is below 1 %


def test_tempering_keeps_the_order_and_one_changes_nothing():
    p = np.random.default_rng(1).dirichlet(np.ones(5), size=20)
    np.testing.assert_allclose(temper(p, 1.0), p)
    np.testing.assert_array_equal(temper(p, 3.0).argsort(1), p.argsort(1))
    np.testing.assert_allclose(temper(p, 3.0).sum(1), 1.0)
    assert (temper(p, 3.0).max(1) < p.max(1)).all() and (temper([[1.0, 0.0]], 2.0) == [[1.0, 0.0]]).all()


def test_a_fit_that_is_too_sure_is_calibrated_by_data_it_has_not_seen():
    sure = classifier(4.0)
    tempered = infer.temperature_scaling(sure, *class_data(seed=1))
    assert tempered.temperature == pytest.approx(4.0, rel=0.15)
    x, y = class_data(seed=2)
    before, after = sure.predict(x, kind='probabilities'), tempered.predict(x, batch_size=512)
    assert scoring.ece(after, y) < 0.04 < scoring.ece(before, y)
    assert scoring.accuracy(after, y) == scoring.accuracy(before, y)
    assert 'temperature=' in repr(tempered)


def test_an_impossible_class_that_came_is_no_nan():
    assert np.isfinite(best_temperature([[1.0, 0.0], [1.0, 0.0]], [0, 1]))


def test_what_has_no_classes_is_refused():
    x, y = line_data(20)
    with pytest.raises(ValueError, match='need a Bernoulli or categorical'):
        infer.temperature_scaling(scattered(infer.Posterior(Line(), x, y)), x, y)
    with pytest.raises(ValueError, match='positive number, got 0'):
        temper([[1.0, 0.0]], 0)
