"""Plots through ArviZ, of either version, and our own: what is drawn is what was computed."""

import importlib.util
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from brainstate_prob import infer
from tests.support.rich_model import rich_posterior, scattered


@pytest.fixture(scope='module')
def fit():
    fit = scattered(rich_posterior(), draws=100, spread=0.02)
    fit.stats['energy'] = np.random.default_rng(0).normal(size=(2, 100))
    return fit


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')


@pytest.mark.parametrize(
    ('name', 'kwargs'),
    [
        ('trace', {'var_names': ['rate']}),
        ('rank', {'var_names': ['rate']}),
        ('forest', {'var_names': ['w']}),
        ('posterior', {'var_names': ['rate']}),
        ('ppc', {}),
        ('energy', {}),
        ('loo_pit', {}),
        ('khat', {}),
        ('pair', {'var_names': ['w']}),
        ('autocorr', {'var_names': ['rate']}),
        ('ess', {'var_names': ['rate']}),
    ],
)
def test_arvizs_plots_draw_a_fit(fit, name, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of matplotlib's layout, and of few draws
        getattr(fit, f'plot_{name}')(**kwargs)
    assert plt.get_fignums()


def test_a_plot_that_there_is_not_lists_those_there_are(fit):
    with pytest.raises(ValueError, match=r"no plot_nothing; there are \[.*'forest'.*'rank'"):
        fit.plot('nothing')
    point = infer.Fit(fit.target, fit.thetas[:1, :1], method='map')
    with pytest.raises(ValueError, match="plot_trace needs draws of the posterior; 'map' gives one point"):
        point.plot_trace()
    without = infer.Fit(fit.target, fit.thetas, method='svi')
    with pytest.raises(ValueError, match="plot_energy needs the energy of a Hamiltonian sampler .*'svi' does not have"):
        without.plot_energy()


def test_a_plot_without_a_method_goes_by_its_name(fit):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fit.plot('mcse', var_names=['rate'])
    assert plt.get_fignums()


def test_every_plot_is_a_method_that_says_what_it_shows():
    plots = [name for name in dir(infer.Fit) if name.startswith('plot_')]
    assert len(plots) >= 11 and all(getattr(infer.Fit, name).__doc__ for name in plots)


def test_without_matplotlib_it_says_what_to_install(fit, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"need matplotlib: pip install 'brainstate-prob\[plot\]'"):
        fit.plot_trace()


def test_reliability_shows_the_share_that_came():
    ax = infer.plot_reliability([[0.75, 0.25], [0.75, 0.25], [0.9, 0.1]], [0, 1, 0], bins=4)
    assert [(round(bar.get_x(), 3), round(bar.get_height(), 3)) for bar in ax.patches] == [(0.5, 0.5), (0.75, 1.0)]
    assert 'ECE 0.2' in ax.get_title()


def test_coverage_is_the_diagonal_for_uniform_ranks():
    pit = (np.arange(1000) + 0.5) / 1000
    x, y = infer.plot_coverage(pit).lines[-1].get_data()
    np.testing.assert_allclose(x, y, atol=2e-3)
    x, y = infer.plot_coverage(0.5 + (pit - 0.5) / 3).lines[-1].get_data()
    assert (y[10:90] > x[10:90]).all()
