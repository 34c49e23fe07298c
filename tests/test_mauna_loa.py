"""The Mauna Loa forecast of examples/: its intervals must hold."""

import importlib.util
import pathlib

import numpy as np
import pytest

from brainstate_prob import infer

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / 'examples'


@pytest.mark.slow
def test_the_forecast_of_ten_years_covers_what_was_measured():
    spec = importlib.util.spec_from_file_location('mauna_loa', EXAMPLES / 'mauna_loa.py')
    mauna_loa = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mauna_loa)
    fit, years, measured, lower, upper = mauna_loa.main(num_draws=50, progress=False)
    assert isinstance(fit, infer.LaplaceFit) and years.min() >= 1991 and len(years) == 574
    covered = (lower < measured) & (measured < upper)
    assert 0.85 <= covered.mean() <= 0.95
    assert np.all(np.diff([np.mean((upper - lower)[np.floor(years) == y]) for y in range(1991, 2002)]) > 0)
