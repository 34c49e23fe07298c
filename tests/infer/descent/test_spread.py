"""SWAG's spread against that of the curvature: what is told, and how rarely it is told of what is well."""

import re
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import infer, nn, random
from brainstate_prob.infer.descent.spread import leading_curvatures, relative_spread
from tests.support.rich_model import compilations

RNG = np.random.default_rng(0)
X = RNG.normal(size=(500, 10)).astype('f4')
Y = (X.sum(1) + RNG.normal(size=500)).astype('f4')
PRECISION = np.asarray(X, float).T @ X + np.eye(10)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(10), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        random.seed(0)
        layers = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))
        self.layers = nn.with_prior(layers, {...: dist.Normal(0.0, 1.0)})

    def __call__(self, x):
        return dist.Normal(self.layers(x)[:, 0], 1.0)


LINE, NET = infer.Posterior(Line(), X, Y), infer.Posterior(Net(), X, np.tanh(Y))


def test_leading_curvatures_are_the_eigenvalues():
    values, directions = leading_curvatures(LINE.density, LINE.theta, LINE.data)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(PRECISION)[::-1], rtol=1e-4)
    np.testing.assert_allclose(directions @ PRECISION @ directions.T, np.diag(values), atol=0.05)


@pytest.mark.parametrize('factor', [1.0, 1e-3])
def test_the_posterior_is_as_wide_as_its_curvature(factor):
    roots = factor * np.linalg.cholesky(np.linalg.inv(PRECISION)).T
    found = relative_spread(LINE.density, LINE.theta, LINE.data, np.zeros(10), roots)
    assert found == pytest.approx(factor, rel=1e-3)
    diagonal = factor**2 / np.diag(PRECISION)
    # Columns are nearly orthogonal: the correlations of 500 numbers, 0.045 each.
    assert relative_spread(LINE.density, LINE.theta, LINE.data, diagonal, np.zeros((1, 10))) == pytest.approx(
        factor, rel=0.1
    )


def test_the_point_need_not_be_a_maximum():
    upward = infer.Posterior(Line(), log_likelihood=lambda m: jnp.sum(jnp.square(m.w.value())))
    assert relative_spread(upward.density, upward.theta, upward.data, np.zeros(10), np.zeros((1, 10))) is None
    nowhere = LINE.data._replace(args=(np.nan * X,))
    assert relative_spread(LINE.density, LINE.theta, nowhere, np.zeros(10), np.zeros((1, 10))) is None


def told(posterior, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fit = infer.swag(posterior, **{'num_draws': 200, 'progress': False, 'init': mode(posterior)} | kwargs)
    texts = [str(w.message) for w in caught if 'SWAG' in str(w.message)]
    assert texts == fit.info['warnings'] and (not texts or texts[0] in fit.check().problems)
    return texts, fit


_modes = {}


def mode(posterior):
    if id(posterior) not in _modes:
        steps = {'optimizer': optax.adam(optax.cosine_decay_schedule(3e-2, 1500)), 'num_steps': 1500}
        _modes[id(posterior)] = infer.map(posterior, jacobian=True, progress=False, **steps)
    return _modes[id(posterior)]


@pytest.mark.parametrize(
    'posterior', [pytest.param(LINE, id='line'), pytest.param(NET, id='network', marks=pytest.mark.slow)]
)
def test_a_rate_that_keeps_the_spread_is_not_told(posterior):
    texts, fit = told(posterior, batch_size=10)
    assert texts == []
    if posterior is LINE:  # by an independent measure: the width of predictions beside the exact one
        exact = np.sqrt(np.einsum('ni,ij,nj->n', X, np.linalg.inv(PRECISION), X)).mean()
        assert fit.predict(kind='mean').std(0).mean() > 0.3 * exact


COLLAPSED = {
    'a tiny rate': ({'batch_size': 10, 'optimizer': optax.sgd(1e-5)}, ['larger learning rate', r'\(now 10\)']),
    'a rate that decayed': (
        {'batch_size': 10, 'optimizer': optax.sgd(optax.cosine_decay_schedule(1e-3, 50))},
        ['stays constant'],
    ),
    'all data': ({}, [r'give a small batch_size \(of 500\)']),
    'adam on all data': ({'optimizer': optax.adam(1e-5)}, ['give a small batch_size']),
    'one at a time': ({'batch_size': 1, 'optimizer': optax.sgd(1e-6)}, ['larger learning rate']),
    'half of the data': ({'batch_size': 250}, [r'constant rate above 0\.0', r'fewer observations a step \(now 250\)']),
    'batches': (
        {'batches': [(X[:250], Y[:250]), (X[250:], Y[250:])], 'num_observations': 500, 'num_steps': 200},
        [r'now 250'],
    ),
    'scale': ({'batch_size': 10, 'scale': 1e-6}, ['scale=1e-06 makes them so']),
}


@pytest.mark.parametrize('case', COLLAPSED)
def test_a_spread_that_collapsed_is_told_with_what_helps(case):
    kwargs, words = COLLAPSED[case]
    texts, fit = told(LINE, **kwargs)
    exact = np.sqrt(np.einsum('ni,ij,nj->n', X, np.linalg.inv(PRECISION), X)).mean()
    assert fit.predict(kind='mean').std(0).mean() < 0.12 * exact  # it is true
    (found,) = texts
    assert 'are overconfident' in found
    for word in words:
        assert re.search(word, found), (word, found)
    assert 'fewer observations' not in found or case != 'one at a time'
    assert 'have it chosen' not in found or 'optimizer' in kwargs  # it is what was in use


@pytest.mark.slow
def test_a_network_that_collapsed_is_told():
    texts, fit = told(NET, batch_size=10, optimizer=optax.sgd(1e-5))
    laplace = infer.laplace(NET, curvature='ggn', init=mode(NET), progress=False).predict(kind='mean').std(0).mean()
    assert texts and fit.predict(kind='mean').std(0).mean() < 0.1 * laplace


def test_a_spread_of_zero_that_was_asked_for_is_not_told_and_a_second_fit_compiles_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        infer.swag(LINE, batch_size=10, scale=0.0, num_steps=100, init=mode(LINE), num_draws=200, progress=False)
    # LINE is as old as the collection of the tests: its programs may have made room for others since.
    first, other = infer.Posterior(Line(), X, Y), infer.Posterior(Line(), X + 0.1, Y)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        infer.swag(first, batch_size=10, num_steps=100, init=mode(LINE), num_draws=200, progress=False)
        with compilations() as events:
            infer.swag(other, batch_size=10, num_steps=100, init=mode(LINE), num_draws=200, progress=False)
    assert not events
