"""A file is read as the fit of the model and data that were fitted, and of no others."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.results import storage
from brainstate_prob.infer.results.provenance import _VALUE, provenance_of

Y = np.float32(1 + np.random.default_rng(0).normal(size=20))


class Mean(nn.Module):
    def __init__(self, prior=1.0, noise=1.0, constant=0.0):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, prior))
        self.shift = nn.Const(constant)
        self.noise = noise

    def __call__(self):
        return dist.Normal(self.mu.value() + self.shift.value(), self.noise)


class Groups(nn.Module):
    def __init__(self, start=1.0):
        super().__init__()
        self.tau = nn.Param(start, t=nn.ExpT(0.0), reg=dist.HalfNormal(2.0))
        self.effect = nn.Param(jnp.full(4, start), reg=nn.GaussianReg(0.0, self.tau))

    def __call__(self):
        return dist.Normal(self.effect.value(), 1.0)


def posterior(*args, y=Y, **kwargs):
    return infer.Posterior(Mean(*args, **kwargs), targets=y)


def evidence(y, prior=1.0):
    """Log of the density of targets around a mean with a normal prior, the noise known to be 1."""
    return stats.multivariate_normal(np.zeros(len(y)), np.eye(len(y)) + prior**2).logpdf(y)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp('fits') / 'fit.nc'
    infer.laplace(posterior(), progress=False).save(path)
    return path


OTHERS = {
    'prior': ((5.0,), {}, "prior of 'mu' is .*scale=5.* where the fit has .*scale=1"),
    'likelihood': ((1.0, 3.0), {}, 'the likelihood'),
    'constant': ((1.0, 1.0, 2.0), {}, "'shift.val' is .* where the fit has"),
    'prior with other data': ((5.0,), {'y': Y[:5]}, "prior of 'mu'"),
    'constant with other data': ((1.0, 1.0, 2.0), {'y': Y[:5]}, "'shift.val'"),
}


@pytest.mark.parametrize('name', OTHERS)
def test_another_model_is_refused(name, path):
    args, kwargs, words = OTHERS[name]
    with pytest.raises(ValueError, match=f'another model than the posterior.*{words}'):
        infer.load(path, posterior(*args, **kwargs))


def test_the_same_model_has_the_evidence_of_its_data(path):
    read = infer.load(path, posterior())
    assert not read.has_other_data and 'other data' not in repr(read)
    np.testing.assert_allclose(read.log_marginal_likelihood, evidence(Y), rtol=1e-5)


@pytest.mark.parametrize('y', [Y + 1, Y[:5]], ids=['values', 'shape'])
def test_of_other_data_nothing_is_said_by_those_that_were_fitted(y, path, tmp_path):
    read = infer.load(path, posterior(y=y))
    assert 'with other data' in repr(read)
    for use in (lambda fit: fit.log_marginal_likelihood, lambda fit: fit.loo(), lambda fit: fit.plot_loo_pit()):
        with pytest.raises(ValueError, match='about the data that were fitted'):
            use(read)
    # Predictions are of the other data.
    expected = stats.norm(read.draws['mu'][0][:, None], 1.0).logpdf(y)
    np.testing.assert_allclose(read.log_likelihood()[0], expected, rtol=1e-4)
    # A second file is still of the data that were fitted.
    read.save(tmp_path / 'again.nc')
    again = infer.load(tmp_path / 'again.nc', posterior())
    np.testing.assert_allclose(again.log_marginal_likelihood, evidence(Y), rtol=1e-5)


def test_without_the_posterior_a_second_file_knows_the_model(path, tmp_path):
    infer.load(path).save(tmp_path / 'again.nc')
    with pytest.raises(ValueError, match="prior of 'mu'"):
        infer.load(tmp_path / 'again.nc', posterior(5.0))


def test_values_of_parameters_are_no_part_of_the_model():
    texts = [provenance_of(infer.Posterior(Groups(start), targets=np.zeros(4))) for start in (1.0, 2.5)]
    assert texts[0] == texts[1] and 'HalfNormal(scale=2)' in texts[0]['priors']['effect']


@pytest.mark.parametrize('value', ['1.', '[1., 2.]', '[[1., 2.], [3., 4.]]', '1. * ms', '[1e-05, nan] * ms'])
def test_values_in_the_text_of_a_prior(value):
    text = f'GaussianReg(mean=Param({value}, reg=GaussianReg(mean=Param({value}), std=2.0)), std=Param({value}))'
    found = _VALUE.sub('Param(...', text)
    assert found == 'GaussianReg(mean=Param(..., reg=GaussianReg(mean=Param(...), std=2.0)), std=Param(...))'


def test_a_file_that_does_not_say_its_model_is_read(path, tmp_path, monkeypatch):
    record = storage.record_of
    monkeypatch.setattr(storage, 'record_of', lambda fit: {k: v for k, v in record(fit).items() if k != 'provenance'})
    infer.laplace(posterior(), progress=False).save(tmp_path / 'old.nc')
    read = infer.load(tmp_path / 'old.nc', posterior(5.0))
    assert not read.has_other_data and read.provenance() is None


def test_programs_of_other_versions_are_not_compared(path, monkeypatch):
    monkeypatch.setattr('brainstate_prob.__version__', 'another')
    assert infer.load(path, posterior(1.0, 3.0)).has_other_data is False


PATHS = {
    'pickle.pkl': (ValueError, r'netCDF \(a name that ends in \.nc, or without an ending\) or as a zarr folder'),
    'hdf.h5': (ValueError, r'\.nc'),
    'nowhere/fit.nc': (FileNotFoundError, "there is no folder '.*nowhere'"),
    'full': (ValueError, 'is a folder'),
}


@pytest.mark.parametrize('name', PATHS)
def test_paths_that_no_fit_is_written_to(name, tmp_path):
    error, words = PATHS[name]
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'notes.txt').write_text('kept')
    with pytest.raises(error, match=words):
        infer.laplace(posterior(), num_draws=5, progress=False).save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ['full'] and (tmp_path / 'full' / 'notes.txt').read_text() == 'kept'
