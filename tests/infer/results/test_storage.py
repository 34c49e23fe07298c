"""Fits in files: bit-equal after a round trip, with and without the model; refused for another one."""

import dataclasses
import datetime
import importlib.util
import json
import os

import brainunit as u
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import xarray as xr

from brainstate_prob import infer, nn
from brainstate_prob.infer.results import storage
from brainstate_prob.infer.results.arviz_io import import_arviz
from tests.support.result_kinds import dropped, posterior_of
from tests.support.rich_model import RichModel, rich_posterior, scattered


def contents(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.is_file())
    return {str(p): p.read_bytes() for p in files}


def same(a, b):
    np.testing.assert_array_equal(u.get_magnitude(a), u.get_magnitude(b), strict=True)
    assert u.get_unit(a) == u.get_unit(b)


@pytest.fixture(scope='module')
def fit():
    info = {'seconds': np.float32(1.5), 'deep': {'list': (1, None), 'array': jnp.ones(2)}, 'odd': object}
    return scattered(rich_posterior(), info=info)


@pytest.fixture(scope='module', params=['fit.nc', 'fit.zarr'])
def path(fit, tmp_path_factory, request):
    if request.param.endswith('zarr'):
        pytest.importorskip('zarr')
    path = tmp_path_factory.mktemp('fits') / request.param
    fit.save(path)
    fit.save(path)  # over the one before
    assert os.listdir(path.parent) == [request.param]
    return path


@pytest.mark.parametrize('with_posterior', [True, False])
def test_what_was_saved_is_read_bit_for_bit(fit, path, with_posterior):
    read = storage.load(path, rich_posterior() if with_posterior else None)
    assert repr(read) == repr(fit) and read.names == fit.names and list(read.draws) == list(fit.draws)
    for name in fit.names:
        same(read.draws[name], fit.draws[name])
        same(read.estimate[name], fit.estimate[name])
        np.testing.assert_array_equal(read.thetas[..., read.columns[name]], fit.thetas[..., fit.columns[name]])
    for ours, theirs in ((fit.stats, read.stats), (fit.history, read.history)):
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], strict=True)
    assert type(read.info['seconds']) is np.float32 and read.info['seconds'] == 1.5
    assert read.info['deep']['list'] == (1, None) and read.info['odd'] == repr(object)
    np.testing.assert_array_equal(read.info['deep']['array'], np.ones(2, np.float32), strict=True)
    assert str(read.summary()) == str(fit.summary())
    a, b = RichModel(), RichModel()
    fit.assign_to(a, (1, 2)), read.assign_to(b, (1, 2))
    for one, two in zip(a.parameters(), b.parameters(), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.value, two.value)


def test_with_the_posterior_everything_goes_on(fit, path):
    read = storage.load(path, rich_posterior())
    np.testing.assert_array_equal(read.thetas, fit.thetas)
    same(read.predict(), fit.predict())
    np.testing.assert_array_equal(read.log_likelihood(), fit.log_likelihood())
    assert read.density is fit.density


@pytest.mark.parametrize('call', [lambda f: f.predict(), lambda f: f.log_likelihood(), lambda f: _highest(f)])
def test_without_it_what_needs_it_says_so(path, call):
    with pytest.raises(ValueError, match=r'needs the posterior.*infer\.load\(path, posterior\)'):
        call(storage.load(path))


def _highest(fit):
    fit.stats.pop('lp')
    fit.assign_to(RichModel(), 'mode')


def test_without_it_the_saved_groups_go_to_arviz(fit, path, tmp_path):
    data = storage.load(path).to_arviz()
    np.testing.assert_array_equal(data['posterior']['w'].values, fit.draws['w'])
    np.testing.assert_array_equal(data['observed_data']['targets'].values, fit.posterior.data.targets)
    fit.save(tmp_path / 'all.nc', log_likelihood=True, posterior_predictive=True)
    read = storage.load(tmp_path / 'all.nc')
    np.testing.assert_array_equal(read.to_arviz()['log_likelihood']['targets'].values, fit.log_likelihood())
    read.save(tmp_path / 'again.nc', log_likelihood=True)
    again = storage.load(tmp_path / 'again.nc').to_arviz()
    np.testing.assert_array_equal(again['log_likelihood']['targets'].values, fit.log_likelihood())
    assert again['posterior']['rate'].attrs['units'] == 'Hz'


def test_arviz_reads_the_file(fit, path):
    if path.suffix == '.zarr':  # as ArviZ 0.23 says to read those of zarr 3
        data = xr.open_datatree(path, engine='zarr')
        assert {'posterior', 'sample_stats', 'observed_data'} <= set(data.children)
    else:
        data = import_arviz().from_netcdf(path)
    np.testing.assert_array_equal(data['posterior']['rate'].values, u.get_magnitude(fit.draws['rate']))
    assert data['posterior']['rate'].attrs['units'] == 'Hz' and list(data['posterior']['feature'].values)[0] == 'left'


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
def test_other_precisions(dtype, tmp_path):
    with jax.enable_x64(dtype == 'float64'):
        posterior = rich_posterior(jnp.dtype(dtype))
        size = posterior.target.size
        thetas = np.linspace(-1, 1, 6 * size).reshape(2, 3, size)
        fit = infer.Fit(posterior.target, jnp.asarray(thetas, dtype), method='by hand')
        fit.save(tmp_path / 'fit.nc')
        read = storage.load(tmp_path / 'fit.nc', posterior)
        np.testing.assert_array_equal(read.thetas, fit.thetas, strict=True)
    bare = storage.load(tmp_path / 'fit.nc')
    for name in fit.names:
        same(bare.draws[name], fit.draws[name])


def test_weights_and_a_single_point(tmp_path):
    fit = scattered(rich_posterior(), stats=None, history=None, weights=np.arange(60.0).reshape(2, 30))
    fit.save(tmp_path / 'fit.nc')
    read = storage.load(tmp_path / 'fit.nc')
    np.testing.assert_array_equal(read.weights, fit.weights)
    assert read.stats == {} == read.history
    point = infer.Fit(fit.posterior.target, fit.posterior.theta[None, None], method='map')
    point.save(tmp_path / 'point.nc')
    assert str(storage.load(tmp_path / 'point.nc').summary()) == str(point.summary())


class Other(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


def changed(**attributes):
    model = RichModel()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    ('model', 'match'),
    [
        (Other(RichModel()), "'inner.bare.a' is not a parameter of the fit"),
        (changed(rate=nn.Param(2.0 * u.kHz, t=nn.ExpT(0.0 * u.Hz))), "'rate' has unit kHz where the fit has Hz"),
        (changed(scale=nn.Param(1.0, t=nn.ExpT())), r"'scale' has transform ExpT\(.*where the fit has SoftplusT"),
        (changed(scale=nn.Const(1.0)), "'scale' is missing|'scale' is not a parameter of the fit"),
        (changed(extra=nn.Param(1.0)), "'extra' is not a parameter of the fit"),
    ],
)
def test_the_posterior_of_another_model_is_refused_with_the_difference(path, model, match):
    base = rich_posterior()
    posterior = infer.Posterior(model, base.data.args, base.data.targets)
    with pytest.raises(ValueError, match='holds the fit of another model.*' + match):
        storage.load(path, posterior)


def test_files_of_another_kind_are_refused(tmp_path, fit):
    with pytest.raises(FileNotFoundError, match='no file'):
        storage.load(tmp_path / 'nothing.nc')
    (tmp_path / 'text.nc').write_text('not netCDF')
    with pytest.raises(ValueError, match='cannot be read as netCDF'):
        storage.load(tmp_path / 'text.nc')
    if importlib.util.find_spec('zarr'):
        (tmp_path / 'folder.zarr').mkdir()
        with pytest.raises(ValueError, match='cannot be read as zarr'):
            storage.load(tmp_path / 'folder.zarr')
    fit.to_arviz(log_likelihood=False).to_netcdf(tmp_path / 'foreign.nc', engine='h5netcdf')
    with pytest.raises(ValueError, match=r'not written by Fit.save.*arviz\.from_netcdf'):
        storage.load(tmp_path / 'foreign.nc')
    fit.save(tmp_path / 'future.nc')
    with h5py.File(tmp_path / 'future.nc', 'r+') as file:
        record = json.loads(file.attrs['brainstate_prob'])
        file.attrs['brainstate_prob'] = json.dumps(record | {'format': 99})
    with pytest.raises(ValueError, match='format 99'):
        storage.load(tmp_path / 'future.nc')


@pytest.mark.parametrize('name', ['fit.nc', 'fit.zarr'])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(fit, tmp_path, monkeypatch, name):
    if name.endswith('zarr'):
        pytest.importorskip('zarr')
    path = tmp_path / name
    fit.save(path)
    before = contents(path)
    replace = os.replace

    def fail(source, target):
        if target == str(path) and not source.endswith('.old'):
            raise OSError('the disk is full')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk is full'):
        fit.save(path)
    assert contents(path) == before and os.listdir(tmp_path) == [name]


def in_the_first_format(fit, path):
    """Write a fit as files of format 1 were: the record is an attribute, the guide's arrays a group of their own."""
    rows = {v.name: (('chain', 'draw', f'{v.name}_theta'), fit.thetas[..., fit.columns[v.name]]) for v in fit.variables}
    values = {v.name: (('chain', 'draw', *v.axes), fit.magnitudes[v.name]) for v in fit.variables}
    record = {
        'format': 1,
        'method': fit.method,
        'info': fit.info,
        'dtype': fit.thetas.dtype.name,
        'noncentered': [],
        'guide_params': ['dict', {'loc': 0, 'more': ['tuple', [1]]}],
        'variables': [dataclasses.asdict(v) for v in fit.variables],
        'coords': {},
    }
    groups = {
        '/': xr.Dataset(attrs={'brainstate_prob': json.dumps(record)}),
        '/posterior': xr.Dataset(values),
        '/unconstrained_posterior': xr.Dataset(rows),
        '/guide_params': xr.Dataset({'p0': ('p0_0', np.ones(2)), 'p1': ('p1_0', np.zeros(3))}),
    }
    xr.DataTree.from_dict(groups).to_netcdf(path, engine='h5netcdf')


def test_files_of_the_first_format_are_read(tmp_path):
    posterior = posterior_of(dropped)
    fit = infer.mc_dropout(posterior, num_draws=4, num_steps=3, progress=False)  # whose masks were in its info alone
    in_the_first_format(fit, tmp_path / 'old.nc')
    read = storage.load(tmp_path / 'old.nc', posterior)
    np.testing.assert_array_equal(read.thetas, fit.thetas)
    np.testing.assert_array_equal(read.predict(), fit.predict())
    assert read.info == fit.info and str(read.summary()) == str(fit.summary())
    np.testing.assert_array_equal(read.guide_params['loc'], np.ones(2))
    np.testing.assert_array_equal(read.guide_params['more'][0], np.zeros(3))
    assert str(storage.load(tmp_path / 'old.nc').summary()) == str(fit.summary())


def test_a_long_record_and_any_labels_are_written(tmp_path):
    # An attribute of a netCDF file has at most 64 KB; dates, bytes and objects have no type of their own there.
    labels = {'feature': [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]}
    posterior = infer.Posterior(Labelled(), targets=jnp.ones(2), coords=labels)
    numbers = list(range(20000))
    fit = infer.Fit(posterior.target, jnp.zeros((1, 3, 2)), method='by hand', info={'numbers': numbers})
    fit.save(tmp_path / 'fit.nc')
    read = storage.load(tmp_path / 'fit.nc')
    assert read.info['numbers'] == numbers
    np.testing.assert_array_equal(read.coords['feature'], np.array(['2020-01-01', '2020-01-02'], 'datetime64[D]'))


class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0), dims=('feature',))

    def __call__(self):
        return dist.Normal(self.w.value(), 1.0)
