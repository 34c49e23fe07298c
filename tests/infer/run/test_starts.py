"""What a fit starts from, in every way to fit: a fit with its running statistics, and values by path."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import environ, infer, nn, random
from brainstate_prob.infer.density.batching import chosen_draws
from brainstate_prob.infer.run.starts import start_points
from tests.support.result_kinds import posterior_of
from tests.support.slow_rows import slow_rows

pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')

QUIET = {'progress': False}
CHAINS = {**QUIET, 'num_warmup': 5, 'num_samples': 5, 'num_chains': 2}
STILL = {**QUIET, 'optimizer': optax.sgd(0.0), 'num_steps': 2}
X = np.random.default_rng(0).normal(30.0, 2.0, size=(40, 2)).astype(np.float32)
Y = ((X - 30.0) @ np.array([1.0, -1.0]) + 0.1 * np.random.default_rng(1).normal(size=40)).astype(np.float32)
# By way to fit: options that make it short.
WAYS = {
    'map': (infer.map, STILL),
    'laplace': (infer.laplace, {**QUIET, 'num_draws': 4}),
    'svi': (infer.svi, {**QUIET, 'num_steps': 3, 'num_draws': 4}),
    'nuts': (infer.nuts, CHAINS),
    'sgmcmc': (infer.sgmcmc, {**CHAINS, 'step_size': 1e-4}),
    'pathfinder': (infer.pathfinder, {'num_paths': 2, 'num_draws': 30}),
    'ensemble': (infer.ensemble, {**QUIET, 'num_members': 2, 'num_steps': 2, 'bootstrap': True}),
    'swag': (infer.swag, {**QUIET, 'num_steps': 4, 'snapshot_every': 1, 'num_draws': 3}),
    'chees': (infer.chees, CHAINS),
    'barker': (infer.barker, CHAINS),
    'hmc_ecs': (infer.hmc_ecs, {**CHAINS, 'batch_size': 8}),
    'elliptical_slice': (infer.elliptical_slice, CHAINS),
}


class Normed(nn.Module):
    """Weights of inputs that are normalized by running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm0d(2, momentum=0.9, affine=False)
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 3.0))

    def __call__(self, x):
        return dist.Normal(self.norm(x) @ self.w.value(), 0.5)


class Plain(nn.Module):
    """A model whose start can be told: its weights are drawn when it is built."""

    def __init__(self):
        super().__init__()
        self.w = nn.Param(random.normal(size=(2,)), reg=dist.Normal(0.0, 3.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 0.5)


def plain():
    with random.seed_context(0):
        return infer.Posterior(Plain(), X - 30.0, Y)


VALUE = np.array([0.5, -0.25], np.float32)
# What `init=` may be, in every way to fit.
INITS = {
    'model': lambda: 'model',
    'prior': lambda: 'prior',
    'map': lambda: 'map',
    'pathfinder': lambda: 'pathfinder',
    'fit': lambda: infer.laplace(plain(), num_draws=5, **QUIET),
    'fit of one point': lambda: infer.map(plain(), jacobian=True, **QUIET),
    'values': lambda: {'w': VALUE},
    'theta': lambda: VALUE,
    'function': lambda: Plain,
}
# A Gaussian is made around one point; dropout is not in this model.
TAKES = {'laplace': INITS.keys() - {'fit'}}


@pytest.mark.parametrize('init', INITS)
@pytest.mark.parametrize('way', slow_rows(WAYS, WAYS.keys() - {'map', 'laplace', 'nuts'}))
def test_every_way_takes_every_kind_of_start(way, init):
    run, options = WAYS[way]
    if init not in TAKES.get(way, INITS):
        with pytest.raises(ValueError, match='init is a fit by .* one centre'):
            run(plain(), init=INITS[init](), **options)
        return
    fit = run(plain(), init=INITS[init](), **options)
    assert np.isfinite(fit.draws['w']).all()


@pytest.mark.parametrize('init, expected', [('values', VALUE), ('theta', VALUE)])
def test_a_descent_that_stands_still_stays_where_it_starts(init, expected):
    np.testing.assert_array_equal(infer.map(plain(), init=INITS[init](), **STILL).estimate['w'], expected)


def test_a_function_builds_another_start_for_each_chain():
    posterior = plain()
    keys = jax.random.split(jax.random.key(0), 3)
    kind, thetas = start_points(posterior.target, Plain, keys)
    assert kind == 'array' and len(np.unique(np.asarray(thetas)[:, 0])) == 3
    with pytest.raises(ValueError, match='a function that builds the model'):
        infer.nuts(posterior, init=posterior.model, **CHAINS)


@pytest.mark.parametrize('way', ['nuts', 'barker', 'svi', 'laplace'])
@pytest.mark.parametrize(
    'init', [None, plain, object(), [[1.0], [1.0, 2.0]], 'here'], ids=['None', 'Posterior', 'object', 'ragged', 'word']
)
def test_what_is_no_start_is_refused_in_words(way, init):
    run, options = WAYS[way]
    init = init() if init is plain else init  # a Posterior
    with pytest.raises(ValueError, match="init must be .*'model'.*'prior'"):
        run(plain(), init=init, **options)


@pytest.fixture(scope='module')
def trained():
    posterior = infer.Posterior(Normed(), X, Y)
    with environ.context(fit=True):
        return infer.map(posterior, optimizer=optax.adam(0.1), num_steps=200, **QUIET)


def forward(statistics, w, x):
    """What the layer in use and the weights give, in NumPy."""
    mean, var = (np.asarray(statistics[f'norm.running_{name}'], np.float64) for name in ('mean', 'var'))
    return (x - mean) / np.sqrt(var + 1e-5) @ np.asarray(w, np.float64)


@pytest.mark.parametrize('way', slow_rows(WAYS, WAYS.keys() & {'pathfinder', 'hmc_ecs', 'chees'}))
def test_running_statistics_go_on_in_the_next_fit(trained, way):
    run, options = WAYS[way]
    fit = run(infer.Posterior(Normed(), X, Y), init=trained, **options)
    for path, value in trained.running_statistics.items():
        np.testing.assert_array_equal(fit.running_statistics[path], value)
    expected = np.stack([forward(trained.running_statistics, w, X) for w in fit.draws['w'].reshape(-1, 2)])
    order = chosen_draws(len(expected), len(expected), fit.weights)  # the weighted draws of Pathfinder by their weights
    found = fit.evaluate(lambda model, x: model(x).mean, X)
    np.testing.assert_allclose(found, expected[order], rtol=1e-3, atol=1e-3)  # float32, of numbers of size 30
    model = Normed()
    fit.assign_to(model, (0, 1) if fit.num_draws > 1 else (0, 0))
    with environ.context(fit=False):
        np.testing.assert_allclose(
            model(jnp.asarray(X)).mean, expected[1 if fit.num_draws > 1 else 0], rtol=1e-3, atol=1e-3
        )


def test_batches_are_normalized_by_the_statistics_of_the_fit_that_is_the_start(trained):
    options = {**QUIET, 'num_steps': 3, 'num_draws': 4}
    fit = infer.svi(infer.Posterior(Normed(), X, Y), init=trained, **options)
    batches = {'batches': [(X, Y)], 'num_observations': len(X)}
    in_batches = infer.svi(infer.Posterior(Normed(), X, Y), init=trained, **batches, **options)
    np.testing.assert_allclose(in_batches.history['elbo'], fit.history['elbo'], rtol=1e-5)


@pytest.mark.parametrize('way', ['swag', 'nuts', 'laplace'])
def test_in_training_mode_draws_predict_with_the_statistics_of_the_data(way):
    run, options = WAYS[way]
    with environ.context(fit=True):
        fit = run(infer.Posterior(Normed(), X, Y), init='model', **options)
    found = fit.running_statistics
    np.testing.assert_allclose(np.reshape(found['norm.running_mean'], (-1, 2))[-1], X.mean(0), rtol=1e-4)
    np.testing.assert_allclose(np.reshape(found['norm.running_var'], (-1, 2))[-1], X.var(0), rtol=1e-2)
    assert fit.has_own_statistics == (way != 'laplace')
    means = fit.evaluate(lambda model, x: model(x).mean, X)
    one = {'norm.running_mean': X.mean(0), 'norm.running_var': X.var(0)}
    np.testing.assert_allclose(means[-1], forward(one, fit.draws['w'].reshape(-1, 2)[-1], X), rtol=1e-2, atol=1e-2)


def test_members_start_from_members_with_their_statistics():
    posterior = infer.Posterior(Normed(), X, Y)
    with environ.context(fit=True):
        members = infer.ensemble(posterior, num_members=3, optimizer=optax.adam(0.1), num_steps=20, **QUIET)
    again = infer.ensemble(posterior, init=members, num_members=4, **STILL)
    assert members.has_own_statistics and again.has_own_statistics
    rows = {tuple(row) for row in members.rows}
    assert {tuple(row) for row in again.rows} <= rows


class Line(nn.Module):
    """A slope, a scale and two offsets."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.5, reg=dist.Normal(0.0, 1.0))
        self.offset = nn.Param(jnp.array([0.25, 0.75]), reg=dist.Normal(0.0, 1.0))
        self.noise = nn.Param(2.0, t=nn.ExpT(0.0), reg=dist.LogNormal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.slope.value() * x[:, 0] + self.offset.value().sum(), self.noise.value())


VALUES = {'slope': 1.0, ('noise',): 3.0}
EXPECTED = {'slope': 1.0, 'offset': [0.25, 0.75], 'noise': 3.0}
FROZEN = {
    'map': (infer.map, STILL),
    'ensemble': (infer.ensemble, {**STILL, 'num_members': 2, 'bootstrap': True}),
    'sgmcmc': (infer.sgmcmc, {**CHAINS, 'step_size': 1e-20}),
    'swag': (infer.swag, {**STILL, 'snapshot_every': 1, 'scale': 0.0, 'num_draws': 2}),
    'svi': (infer.svi, {**STILL, 'guide': 'delta'}),
    'laplace': (infer.laplace, {**QUIET, 'num_draws': 2, 'curvature': 'ggn'}),
}


@pytest.mark.parametrize('way', FROZEN)
def test_values_by_path_are_a_start_and_the_rest_is_the_models(way):
    run, options = FROZEN[way]
    fit = run(posterior_of(Line), init=VALUES, **options)
    found = fit.mode if way == 'laplace' else {name: x[0, 0] for name, x in fit.draws.items()}
    for name, value in EXPECTED.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


@pytest.mark.parametrize('way', slow_rows(['nuts', 'barker', 'chees'], ['chees']))
def test_samplers_start_at_values_by_path(way):
    posterior = posterior_of(Line)
    kind, thetas = start_points(posterior.sampling_target(), VALUES, jax.random.split(jax.random.key(0), 3))
    assert kind == 'array'  # exactly there
    for theta in thetas:
        for name, value in posterior.constrain(theta).items():
            np.testing.assert_allclose(value, EXPECTED[name], rtol=1e-5)
    run, options = WAYS[way]
    assert np.isfinite(run(posterior, init=VALUES, **options).thetas).all()


def test_the_estimate_of_a_fit_is_a_start():
    posterior = posterior_of(Line)
    first = infer.map(posterior, num_steps=50, **QUIET)
    again = infer.map(posterior, init=first.estimate, **STILL)
    np.testing.assert_allclose(again.thetas, first.thetas, rtol=1e-5, atol=1e-6)
