"""Draws that are given another posterior, and guide functions: what is computed with them."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

from brainstate_prob import infer, nn

X = np.linspace(-1.0, 1.0, 8).astype('f4')
Y = 2 * X
settings = {'sd': 0.1}


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Param(1.0, reg=dist.Normal(0.0, 2.0))

    def __call__(self, x):
        return dist.Normal(self.b.value() * x, 1.0)


class Groups(nn.Module):
    def __init__(self):
        super().__init__()
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))
        self.effect = nn.Param(jnp.zeros(8), reg=nn.GaussianReg(0.0, self.tau))

    def __call__(self, x):
        return dist.Normal(self.effect.value() + x, settings['sd'])


def likelihood(m, x):
    return dist.Normal(m.b.value() * x, settings['sd'])


@pytest.fixture
def later():
    """The global has another value."""
    settings['sd'] = 0.5
    yield
    settings['sd'] = 0.1


def made(model=Line, x=X, y=Y, **options):
    return infer.Posterior(model(), x, y, **options)


SHORT = {'num_warmup': 20, 'num_samples': 20, 'num_chains': 1, 'progress': False}
WAYS = {
    'map': (infer.map, {'progress': False}, Line, {'likelihood': likelihood}),
    'laplace': (infer.laplace, {'progress': False, 'num_draws': 20}, Line, {'likelihood': likelihood}),
    'nuts': (infer.nuts, SHORT, Line, {'likelihood': likelihood}),
    'nuts in standardized form': (infer.nuts, SHORT | {'noncentered': True}, Groups, {}),
}


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('way', WAYS)
def test_the_draws_predict_by_the_likelihood_as_it_is_now(way):
    run, options, model, how = WAYS[way]
    fit = run(made(model, **how), **options)
    settings['sd'] = 0.5
    try:
        new = fit.with_posterior(made(model, **how))
        found, draws = new.log_likelihood(), new.draws
    finally:
        settings['sd'] = 0.1
    assert type(new) is type(fit) and new.has_other_data
    np.testing.assert_array_equal(new.thetas, fit.thetas)
    for name, values in fit.draws.items():
        np.testing.assert_array_equal(draws[name], values)
    means = fit.draws['b'][..., None] * X if model is Line else fit.draws['effect'] + X
    np.testing.assert_allclose(found, stats.norm(means, 0.5).logpdf(Y), rtol=1e-3, atol=1e-4)


def test_the_posterior_that_was_fitted_may_be_made_anew():
    fit = infer.laplace(made(likelihood=likelihood), progress=False, num_draws=20)
    same = fit.with_posterior(made(likelihood=likelihood))
    assert not same.has_other_data
    np.testing.assert_array_equal(same.predict(X), fit.predict(X))
    np.testing.assert_allclose(same.log_marginal_likelihood, fit.log_marginal_likelihood)


def test_a_fit_that_was_loaded_alone_gets_its_posterior(tmp_path):
    fit = infer.map(made(), progress=False)
    fit.save(tmp_path / 'fit.nc')
    alone = infer.load(tmp_path / 'fit.nc')
    np.testing.assert_array_equal(alone.with_posterior(made()).predict(X), fit.predict(X))
    assert alone.with_posterior(made(x=X[:5], y=Y[:5])).has_other_data


def test_what_has_changed_is_not_told_as_the_model_that_was_fitted(later):
    settings['sd'] = 0.1
    fit = infer.laplace(made(likelihood=likelihood), progress=False, num_draws=20)
    settings['sd'] = 0.5
    new = fit.with_posterior(made(likelihood=likelihood))
    assert new.provenance() is None
    with pytest.raises(ValueError, match='about the data that were fitted.*another likelihood'):
        new.log_marginal_likelihood


# Guide functions

MEAN = (X @ Y) / (X @ X + 1 / 4)  # of the posterior, by conjugacy


def of_sites(x, targets=None):
    loc = numpyro.param('loc', 0.5 * jnp.sum(x * targets))
    numpyro.sample('b', dist.Normal(loc, 0.4))


def of_theta(data):
    numpyro.sample('theta', dist.Normal(numpyro.param('loc', jnp.zeros(1)), 0.4).to_event(1))


@pytest.mark.parametrize('guide', [of_sites, of_theta, lambda model: of_theta], ids=['sites', 'theta', 'made'])
def test_a_guide_function_is_a_guide(guide):
    fit = infer.svi(
        made(), guide=guide, sites=guide is of_sites, num_steps=1500, num_particles=8, num_draws=2000, progress=False
    )
    np.testing.assert_allclose(np.ravel(fit.guide_params['loc'])[0], MEAN, atol=0.05)
    np.testing.assert_allclose(fit.draws['b'].std(), 0.4, rtol=0.1)


# Loops of NumPyro without statements


def test_a_scan_of_numpyro_without_statements_is_allowed():
    def running_sum(m, x):
        _, sums = scan(lambda carry, t: (carry + t, carry + t), 0.0, x)
        return dist.Normal(m.b.value() * sums, 1.0)

    found = made(likelihood=running_sum).log_likelihood()
    np.testing.assert_allclose(found, stats.norm(np.cumsum(X), 1.0).logpdf(Y), rtol=1e-4)
