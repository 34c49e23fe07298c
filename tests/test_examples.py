"""The example that `make demo` runs, with fewer draws."""

import importlib.util
import pathlib

import brainunit as u
import numpy as np
import pytest

from brainstate_prob import infer

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / 'examples'


@pytest.mark.slow
def test_the_place_cell_gives_the_published_fit_by_three_ways(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('place_cell', EXAMPLES / 'place_cell.py')
    place_cell = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(place_cell)
    fits = place_cell.main(tmp_path, num_warmup=300, num_samples=300)
    published = place_cell.published()
    table = fits['NUTS'].summary(prob=0.9)
    for name, value in published.items():
        sd = table['sd', name]
        estimate = float(u.get_magnitude(fits['MAP'].estimate[name]))
        # The weak priors and the bins of 10 ms move the mode by less than a tenth of a standard deviation.
        assert abs(estimate - value) < 0.1 * sd
        assert table['lower', name] < value < table['upper', name] and table['r_hat', name] < 1.02
        svi = fits['SVI'].summary(prob=0.9)
        # A Gaussian guide after 5000 noisy steps: a third of a standard deviation, half as wide to twice as wide.
        assert abs(svi['mean', name] - table['mean', name]) < 0.35 * sd and 0.5 < svi['sd', name] / sd < 2.0
    printed = capsys.readouterr().out
    assert 'published' in printed and 'center [cm]' in printed
    for picture in ('place_field.png', 'trace.png'):
        assert (tmp_path / picture).stat().st_size > 10_000
    loaded = infer.load(tmp_path / 'posterior.nc')
    assert loaded.draws['width'].unit == u.cm
    np.testing.assert_array_equal(loaded.draws['width'].mantissa, fits['NUTS'].draws['width'].mantissa)
