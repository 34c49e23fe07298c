"""What comes back from a file or a pickle, in another process, is what went in: every kind of result."""

import pathlib
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

from brainstate_prob import infer
from tests.support.result_kinds import KINDS, Curve, Line, outcomes, posterior_of

FORMS = ('nc', 'zarr', 'pickle')


@pytest.fixture(scope='module')
def there_and_back(tmp_path_factory):
    """What followed from every kind here, and what follows from its files in another process, by kind and form."""
    folder, here = tmp_path_factory.mktemp('kinds'), {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of runs of a few draws
        for name, (model, run) in KINDS.items():
            fit = run(posterior_of(model))
            fit.save(folder / f'{name}.nc')
            fit.save(folder / f'{name}.zarr')
            (folder / f'{name}.pickle').write_bytes(pickle.dumps(fit))
            here[name] = outcomes(fit)
    root = str(pathlib.Path(__file__).resolve().parents[3])
    subprocess.run([sys.executable, '-m', 'tests.support.result_kinds', str(folder)], check=True, cwd=root)
    return here, {
        (name, form): dict(np.load(folder / f'{name}.{form}.npz', allow_pickle=False))
        for name in KINDS
        for form in FORMS
    }


@pytest.mark.slow
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('kind', KINDS)
def test_all_that_follows_is_the_same(there_and_back, kind, form):
    before, after = there_and_back[0][kind], there_and_back[1][kind, form]
    assert set(before) == set(after)
    for name, x in before.items():
        assert x.dtype == after[name].dtype, name
        np.testing.assert_array_equal(x, after[name], err_msg=name)


def test_a_laplace_fit_without_its_posterior_keeps_what_needs_none(tmp_path):
    fit = infer.laplace(posterior_of(Line), params='w', progress=False)
    fit.save(tmp_path / 'fit.nc')
    read = infer.load(tmp_path / 'fit.nc')
    assert isinstance(read, infer.LaplaceFit)
    assert read.log_marginal_likelihood == fit.log_marginal_likelihood
    for one in fit.names:
        for other in fit.names:
            np.testing.assert_array_equal(
                read.covariance[np.ix_(read.columns[one], read.columns[other])],
                fit.covariance[np.ix_(fit.columns[one], fit.columns[other])],
            )
    with pytest.raises(ValueError, match='mode needs the posterior'):
        read.mode
    read.save(tmp_path / 'again.nc')
    again = infer.load(tmp_path / 'again.nc', posterior_of(Line))
    np.testing.assert_array_equal(again.predict(linearized=True), fit.predict(linearized=True))


@pytest.mark.filterwarnings('ignore:Members .* stopped after 30 steps')  # long enough for what is tested here
def test_own_statistics_without_the_posterior_go_to_a_model_and_on(tmp_path):
    fit = KINDS['ensemble'][1](posterior_of(Curve))
    fit.save(tmp_path / 'fit.nc')
    read = infer.load(tmp_path / 'fit.nc')
    assert read.has_own_statistics
    for path, values in fit.running_statistics.items():
        np.testing.assert_array_equal(read.running_statistics[path], values)
    a, b = Curve(), Curve()
    fit.assign_to(a, (0, 1)), read.assign_to(b, (0, 1))
    np.testing.assert_array_equal(a.inner.running_mean.value, b.inner.running_mean.value)
    np.testing.assert_array_equal(a.inner.running_mean.value, fit.running_statistics['inner.running_mean'][0, 1])
    read.save(tmp_path / 'again.nc')
    again = infer.load(tmp_path / 'again.nc', posterior_of(Curve))
    np.testing.assert_array_equal(again.predict(kind='mean'), fit.predict(kind='mean'))
