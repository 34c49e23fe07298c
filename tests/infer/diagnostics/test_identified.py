"""Chains of a network are judged by its predictions: by what permuted units leave as it is, and by runs that mix."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn, random
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.diagnostics.ess import effective_sizes, rank_r_hat
from brainstate_prob.infer.diagnostics.identified import network_problems, prediction_sizes
from brainstate_prob.infer.diagnostics.mcmc import mcmc_problems
from tests.support.rich_model import compilations

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 1)).astype('f4')
Y = (np.sin(X[:, 0]) + 0.5 * RNG.normal(size=100)).astype('f4')
UNITS = 6


class Net(nn.Module):
    def __init__(self, kind='normal', units=UNITS):
        super().__init__()
        random.seed(1)
        layers = nn.Sequential(nn.Linear(1, units), nn.Tanh(), nn.Linear(units, 3 if kind == 'classes' else 1))
        self.layers = nn.with_prior(layers, {...: dist.Normal(0.0, 1.0)})
        self.noise = nn.Param(0.5, t=nn.PositiveT(), reg=dist.LogNormal(-0.7, 0.2))
        self.kind = kind

    def __call__(self, x):
        f = self.layers(x)
        if self.kind == 'classes':
            return dist.Categorical(logits=f / self.noise.value())
        return dist.Normal(f[:, 0], self.noise.value())


def posterior(kind='normal'):
    y = (Y > 0).astype('i4') + (Y > 1) if kind == 'classes' else Y
    own = {'log_likelihood': lambda model, x, y: model(x).log_prob(y)} if kind == 'own' else {}
    return infer.Posterior(Net(kind), X, y, **own)


def chains(kind='normal', shift=0.0, draws=400, noise_shift=0.0, info=None):
    """Four chains of one law, in each of which the hidden units have other places and signs."""
    post = posterior(kind)
    density = post.sampling_target().density
    rng = np.random.default_rng(1)
    theta = np.asarray(post.start(density))
    thetas = theta + 0.3 * rng.normal(size=(4, draws, density.size)).astype('f4')
    columns = columns_of(density)
    first, bias, second, out = (
        next(c for name, c in columns.items() if f'layers.{i}.' in name and end(name))
        for i, end in (
            (0, lambda n: 'bias' not in n),
            (0, lambda n: 'bias' in n),
            (2, lambda n: 'bias' not in n),
            (2, lambda n: 'bias' in n),
        )
    )
    for chain in range(4):
        order, sign = rng.permutation(UNITS), rng.choice([-1, 1], UNITS)
        for where in (first, bias):
            thetas[chain][:, where] = thetas[chain][:, where[order]] * sign
        rows = second.reshape(UNITS, -1)
        thetas[chain][:, second] = (
            thetas[chain][:, rows[order].ravel()].reshape(draws, UNITS, -1) * sign[:, None]
        ).reshape(draws, -1)
    thetas[0][:, out] += shift
    thetas[0][:, columns['noise']] += noise_shift
    return infer.Fit(post.sampling_target(), thetas, method='nuts', info={'num_warmup': 1} if info is None else info)


def problems(fit):
    return mcmc_problems(fit.density, fit.thetas, {}, fit.method, fit.info) + network_problems(fit)


@pytest.mark.parametrize('kind', ['normal', 'classes', 'own'])
def test_units_that_change_places_are_no_problem(kind):
    fit = chains(kind)
    assert np.mean(rank_r_hat(fit.thetas.astype(float)) > 1.05) > 0.5  # as single weights they differ
    assert problems(fit) == []
    found = prediction_sizes(fit.density, fit.thetas, fit.posterior.data, False)
    assert np.nanmax(found['r_hat']) < 1.01 and np.nanmin(found['ess_bulk']) > 1000


def test_the_numbers_are_those_of_the_predictions():
    fit = chains(shift=0.2)
    found = prediction_sizes(fit.density, fit.thetas, fit.posterior.data, False)
    index = np.unique(np.linspace(0, 99, 64).astype(int))
    mean = fit.predict(kind='mean').reshape(4, 400, 100)[..., index].astype(float)
    theirs = effective_sizes(mean)
    for name in ('r_hat', 'ess_bulk'):
        # The noise comes first, then means, of which the noise takes the place of one, and the log-likelihood last.
        assert np.isin(np.round(found[name][1:40], 2), np.round(theirs[name], 2)).all()
    assert found['r_hat'].shape == (65,)


@pytest.mark.parametrize('kind', ['normal', 'classes', 'own'])
def test_predictions_that_differ_are_told_once(kind):
    told = problems(
        chains(
            kind,
            info={'num_warmup': 50, 'num_samples': 400},
            shift=2.0 * np.arange(3 if kind == 'classes' else 1) + 1.0,
        )
    )
    assert len(told) <= 2
    assert 'R-hat of the predictions of this network is up to' in told[0] and 'have not mixed' in told[0]
    assert 'Raise num_warmup (now 50) and num_samples (now 400)' in told[0]
    assert not any('layers' in text for text in told) and sum(map(len, told)) < 800


def test_a_number_with_a_meaning_of_its_own_is_told_by_its_path():
    told = problems(chains(noise_shift=0.5))
    assert told[0].startswith("R-hat of 'noise' is") and 'layers' not in ''.join(told)


def test_batches_are_looked_at_in_part_and_twice_compiles_nothing():
    fit = chains()
    alone = prediction_sizes(fit.density, fit.thetas, fit.posterior.data, True)
    whole = prediction_sizes(fit.density, fit.thetas, fit.posterior.data, False)
    np.testing.assert_allclose(alone['r_hat'].max(), whole['r_hat'].max(), atol=0.005)
    with compilations() as events:
        prediction_sizes(fit.density, fit.thetas + 0.1, fit.posterior.data, False)
    assert not events


RUN = {'init': 'prior', 'progress': False, 'num_samples': 10_000, 'thinning': 10, 'num_warmup': 2000, 'step_size': 5e-4}


def warnings_of(**kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fit = infer.sgmcmc(infer.Posterior(Net(units=8), X, Y), **RUN | kwargs)
    return [str(w.message) for w in caught if issubclass(w.category, infer.ConvergenceWarning)], fit


@pytest.mark.slow
def test_sgmcmc_of_a_network_whose_predictions_mix_is_quiet():
    told, fit = warnings_of()
    assert np.mean(rank_r_hat(fit.thetas.astype(float)) > 1.01) > 0.8  # of the weights
    assert told == [] and not any('R-hat' in text for text in fit.check().problems)
    means = fit.predict(kind='mean').reshape(4, -1, 100)
    assert rank_r_hat(means.astype(float)).max() < 1.05


def test_sgmcmc_of_a_network_whose_predictions_do_not_mix_is_told():
    told, fit = warnings_of(step_size=1e-7, num_samples=200, num_warmup=10, thinning=1, batch_size=50)
    assert any('R-hat of the predictions of this network' in text for text in told)
    assert sum('predictions of this network' in text for text in fit.check().problems) == 2  # each once
    assert not any('layers' in text for text in told)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x[:, 0] * self.w.value().sum(), 1.0)


def test_a_regression_is_judged_by_its_parameters():
    """Only the sum of two slopes is in the predictions, which agree: the slopes still have names."""
    post = infer.Posterior(Line(), X, Y)
    thetas = np.random.default_rng(0).normal(size=(2, 400, 2)).astype('f4') * 0.05
    thetas += np.array([[1.0, -0.5], [-0.5, 1.0]], 'f4')[:, None]
    fit = infer.Fit(post.sampling_target(), thetas, method='nuts', info={'num_warmup': 1})
    means = fit.predict(kind='mean').reshape(2, 400, 100).astype(float)
    assert rank_r_hat(means).max() < 1.05
    told = problems(fit)
    assert any("R-hat of 'w[" in text for text in told)
