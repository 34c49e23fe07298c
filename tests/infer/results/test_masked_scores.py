"""Leave-one-out of masked data: what a mask takes out is no observation."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.results.arviz_io import import_arviz

Y = np.float32(np.random.default_rng(1).normal(size=50))
MASK = np.arange(50) % 5 < 2


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self, mask):
        return dist.Normal(self.mu.value(), jnp.ones(mask.shape)).mask(mask)


class Half(Masked):
    """Vectors of two numbers, of which a mask takes some out."""

    def __call__(self, mask):
        return super().__call__(mask).to_event(1)


def fit_of(mask=MASK, y=Y, model=Masked, **kwargs):
    return infer.laplace(infer.Posterior(model(), mask, y, **kwargs), num_draws=4000, progress=False)


def exact(y):
    """The log density of each target given the others: a mean with prior N(0, 1), noise 1."""
    others = len(y) - 1
    mean, sd = (y.sum() - y) / (others + 1), np.sqrt(1 + 1 / (others + 1))
    return stats.norm(mean, sd).logpdf(y)


def of_loo(found):
    """Its estimate and standard error, the number of observations and the k-hats, in either version of ArviZ."""
    value, error = (found.elpd_loo, found.se) if hasattr(found, 'elpd_loo') else (found.elpd, found.se)
    return float(value), float(error), int(found.n_data_points), np.ravel(found.pareto_k)


SHAPES = {'one axis': (50,), 'two axes': (10, 5), 'all in one row': (1, 50)}


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_loo_is_that_of_the_observations_that_count(shape):
    value, error, number, k = of_loo(fit_of(MASK.reshape(shape), Y.reshape(shape)).loo(pointwise=True))
    each = exact(Y[MASK].astype(np.float64))
    assert number == MASK.sum() == len(k) and (k < 0.5).all()
    np.testing.assert_allclose(value, each.sum(), atol=0.05)  # of 4000 draws
    np.testing.assert_allclose(error, np.sqrt(len(each) * each.var()), rtol=0.05)


def test_vectors_count_if_any_of_their_numbers_does():
    mask = MASK.reshape(25, 2)
    found = of_loo(fit_of(mask, Y.reshape(25, 2), Half).loo())
    assert found[2] == mask.any(1).sum() < 25


def test_named_axes_keep_their_labels():
    times = np.arange(50) * 0.1
    fit = fit_of(dims={'targets': ('time',)}, coords={'time': times})
    group = fit.to_arviz(log_likelihood=True)['log_likelihood']['targets']
    np.testing.assert_array_equal(group['time'].values, times[MASK])
    np.testing.assert_allclose(group.values, fit.log_likelihood()[..., MASK])
    assert len(fit.to_arviz()['observed_data']['targets']) == 50


def test_a_mask_that_leaves_everything_changes_nothing():
    plain = fit_of(np.ones(50, bool))
    assert of_loo(plain.loo())[2] == 50
    np.testing.assert_array_equal(
        plain.to_arviz(log_likelihood=True)['log_likelihood']['targets'], plain.log_likelihood()
    )


def test_compare_and_waic_and_files(tmp_path):
    fit = fit_of()
    table = infer.compare({'a': fit, 'b': fit_of()})
    column = 'elpd_loo' if 'elpd_loo' in table else 'elpd'
    np.testing.assert_allclose(table[column].astype(float), exact(Y[MASK]).sum(), atol=0.05)
    if hasattr(import_arviz(), 'waic'):
        assert fit.waic().n_data_points == MASK.sum()
    fit.save(tmp_path / 'fit.nc', log_likelihood=True)
    again = infer.load(tmp_path / 'fit.nc').to_arviz(log_likelihood=True)
    assert again['log_likelihood']['targets'].shape == (1, 4000, MASK.sum())


@pytest.mark.parametrize('name', ['khat', 'loo_pit'])
def test_plots_show_the_observations_that_count(name):
    pytest.importorskip('matplotlib').use('agg')
    assert getattr(fit_of(), f'plot_{name}')() is not None
