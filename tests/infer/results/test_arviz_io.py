"""Results for ArviZ, of either version: groups, dims, coords, units; its functions work on them."""

import warnings

import brainunit as u
import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.results.arviz_io import import_arviz, is_old
from tests.support.rich_model import COORDS, in_millivolt, rich_posterior, scattered


@pytest.fixture(scope='module')
def fit():
    return scattered(rich_posterior(), chains=2, draws=100, spread=0.02)  # narrow: LOO has nothing to warn of


@pytest.fixture(scope='module')
def data(fit):
    return fit.to_arviz(seed=4)


def groups(data):
    found = data.groups() if callable(data.groups) else data.groups
    return {name.strip('/') for name in found if name != '/'}


def test_every_group_is_there(data, fit):
    assert groups(data) == {
        'posterior', 'sample_stats', 'log_likelihood', 'posterior_predictive', 'observed_data', 'constant_data',
    }  # fmt: skip
    bare = fit.to_arviz(log_likelihood=False, posterior_predictive=False)
    assert groups(bare) == {'posterior', 'sample_stats', 'observed_data', 'constant_data'}


def test_variables_have_their_paths_dims_labels_and_units(data, fit):
    posterior = data['posterior']
    assert set(posterior.data_vars) == set(fit.names)
    assert posterior['w'].dims == ('chain', 'draw', 'feature')
    assert list(posterior['feature'].values) == COORDS['feature']
    assert posterior['bare.a'].dims == ('chain', 'draw', 'bare.a_dim_0')
    assert posterior['rate'].attrs['units'] == 'Hz' and 'units' not in posterior['scale'].attrs
    for name, value in fit.magnitudes.items():
        np.testing.assert_array_equal(posterior[name].values, value)
        assert posterior[name].dtype == value.dtype
    assert posterior.attrs['inference_method'] == 'nuts'


def test_the_data_and_what_is_predicted_of_them(data, fit):
    targets = fit.posterior.data.targets
    np.testing.assert_array_equal(data['observed_data']['targets'].values, targets)
    np.testing.assert_array_equal(data['constant_data']['input_0'].values, fit.posterior.data.args[0])
    np.testing.assert_array_equal(data['log_likelihood']['targets'].values, fit.log_likelihood())
    drawn = data['posterior_predictive']['targets']
    np.testing.assert_array_equal(drawn.values.reshape(200, 20), u.get_magnitude(fit.predict(seed=4)))
    assert drawn.attrs['units'] == data['observed_data']['targets'].attrs['units'] == 'mV'
    np.testing.assert_array_equal(data['sample_stats']['diverging'].values, fit.stats['diverging'])
    assert data['sample_stats']['diverging'].dtype == bool


def test_inputs_by_keyword_have_their_names_and_units():
    posterior = rich_posterior()
    x = posterior.data.args[0] * u.cm
    posterior = infer.Posterior(
        posterior.model, {'x': x}, posterior.data.targets, likelihood=lambda model, x: model(u.get_magnitude(x))
    )
    data = scattered(posterior).to_arviz(log_likelihood=False, posterior_predictive=False)
    assert data['constant_data']['x'].attrs['units'] == 'cm'


def test_draws_of_the_prior_come_along_with_dims_labels_and_units():
    base = rich_posterior()
    model = base.model
    model.sparse = nn.Param(np.zeros(2, 'f4'), reg=dist.Normal(0.0, 1.0))
    model.bare = nn.Module()  # all that has no prior
    posterior = infer.Posterior(
        model, base.data.args, base.data.targets * u.mV,
        likelihood=lambda m, x: infer.with_unit(dist.Normal(x @ m.w.value(), 1.0), u.mV),
        coords=COORDS,
    )  # fmt: skip
    fit = scattered(posterior, draws=20)
    data = fit.to_arviz(prior=50)
    assert groups(data) >= {'prior', 'prior_predictive', 'posterior', 'posterior_predictive'}
    assert data['prior']['w'].dims == ('chain', 'draw', 'feature') and data['prior']['w'].shape == (1, 50, 3)
    assert list(data['prior']['feature'].values) == COORDS['feature']
    assert data['prior']['rate'].attrs['units'] == 'Hz'
    assert data['prior_predictive']['targets'].attrs['units'] == 'mV'
    assert data['prior_predictive']['targets'].shape == (1, 50, 20)


def test_the_data_have_the_dims_and_labels_that_the_posterior_gives_them():
    base = rich_posterior()
    times = np.arange(20) * 0.5
    posterior = infer.Posterior(
        base.model, base.data.args, base.data.targets * u.mV, likelihood=in_millivolt, coords=COORDS | {'time': times},
        dims={'targets': 'time', 'input_0': ('time', 'feature')},
    )  # fmt: skip
    data = scattered(posterior, draws=5).to_arviz()
    for group in ('log_likelihood', 'posterior_predictive'):
        assert data[group]['targets'].dims == ('chain', 'draw', 'time')
    assert data['observed_data']['targets'].dims == ('time',)
    assert data['constant_data']['input_0'].dims == ('time', 'feature')
    for group in ('log_likelihood', 'posterior_predictive', 'observed_data', 'constant_data'):
        np.testing.assert_array_equal(data[group]['time'].values, times)
    assert list(data['constant_data']['feature'].values) == COORDS['feature']
    assert data['log_likelihood']['targets'].attrs == {'units_of_targets': 'mV'}


@pytest.mark.parametrize(
    ('dims', 'coords', 'match'),
    [
        ({'target': ('time',)}, {}, r"axes of 'target', but the data are \['input_0', 'targets'\]"),
        ({'targets': ('a', 'b')}, {}, r"dims\['targets'\] must be one name an axis of shape \(20,\), got \('a', 'b'\)"),
        ({'input_0': ('a', 'a')}, {}, r"dims\['input_0'\] has a name twice"),
        ({'targets': ('rate',)}, {}, "the dim 'rate' has the name of a parameter"),
        ({'input_0': ('a', 'b'), 'targets': 'b'}, {}, "'b' has length 3 in 'input_0' and 20 in 'targets'"),
        (
            {'targets': 'time'},
            {'time': [1, 2]},
            "'time'.* must have one label an entry: 20 of them .'targets'.",
        ),
    ],
)
def test_dims_of_the_data_that_do_not_fit_are_refused(dims, coords, match):
    base = rich_posterior()
    with pytest.raises(ValueError, match=match):
        infer.Posterior(base.model, base.data.args, base.data.targets, coords=coords, dims=dims)


def test_arviz_works_on_it(data, fit):
    az = import_arviz()
    table = az.summary(data, var_names=['w', 'rate'])
    assert list(table.index) == ['w[left]', 'w[right]', 'w[up]', 'rate']
    ours = fit.summary()
    assert float(table['ess_bulk'].iloc[3]) == pytest.approx(ours['ess_bulk', 'rate'], abs=1)
    loo = az.loo(data)
    assert np.isfinite(loo.elpd_loo if is_old(az) else loo.elpd)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of matplotlib's layout
        az.plot_trace(data, var_names=['w'])
    import matplotlib.pyplot as plt

    plt.close('all')


def test_the_diagnostics_are_arvizs(data, fit):
    az = import_arviz()
    ours = fit.summary()
    rows = [row for row in ours.rows if row.startswith('w[')]
    for name, theirs in {'ess_bulk': az.ess(data, var_names=['w']), 'r_hat': az.rhat(data, var_names=['w'])}.items():
        theirs = theirs['posterior'] if 'posterior' in getattr(theirs, 'children', ()) else theirs
        np.testing.assert_allclose([ours[name, row] for row in rows], theirs['w'].values, rtol=1e-3)  # float32 has ties


def test_a_posterior_without_data_or_predictions_has_fewer_groups():
    posterior = rich_posterior()
    free = infer.Posterior(posterior.model, log_likelihood=lambda model: -(model.w.value() ** 2).sum())
    assert groups(scattered(free).to_arviz()) == {'posterior', 'sample_stats'}
    scored = infer.Posterior(
        posterior.model,
        posterior.data.args,
        posterior.data.targets,
        log_likelihood=lambda model, x, y: model(x).log_prob(y),
    )
    found = groups(scattered(scored, stats=None).to_arviz())
    assert found == {'posterior', 'log_likelihood', 'observed_data', 'constant_data'}


def test_double_precision_stays():
    with jax.enable_x64(True):
        fit = scattered(rich_posterior(np.float64))
    data = fit.to_arviz()
    assert data['posterior']['w'].dtype == data['log_likelihood']['targets'].dtype == np.float64


def test_arviz_comes_in_without_its_announcement():
    with warnings.catch_warnings():
        warnings.simplefilter('error', FutureWarning)
        import_arviz()
