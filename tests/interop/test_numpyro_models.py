"""NumPyro models as posteriors, and Modules inside NumPyro models."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density, potential_energy, unconstrain_fn

from brainstate_prob import infer, nn
from tests.interop.cases import GROUP, X, Y, glm_density, hierarchy_density, network_density, same_density

pytestmark = pytest.mark.usefixtures('x64')


def regression(x, y=None):
    w = numpyro.sample('w', dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    b = numpyro.sample('b', dist.Normal(0.0, 1.0))
    sigma = numpyro.sample('sigma', dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate('data', x.shape[0]):
        numpyro.sample('y', dist.Normal(x @ w + b, sigma), obs=y)


def network(x, y=None):
    w1 = numpyro.sample('w1', dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    b1 = numpyro.sample('b1', dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    w2 = numpyro.sample('w2', dist.Normal(jnp.zeros((3, 1)), 1.0).to_event(2))
    b2 = numpyro.sample('b2', dist.Normal(0.0, 1.0).expand([1]).to_event(1))
    numpyro.sample('y', dist.Normal((jnp.tanh(x @ w1 + b1) @ w2 + b2)[:, 0], 0.5).to_event(1), obs=y)


def hierarchy(x, group, num_groups, y=None):
    mu, tau = numpyro.sample('mu', dist.Normal(0.0, 1.0)), numpyro.sample('tau', dist.HalfNormal(1.0))
    with numpyro.plate('groups', num_groups):
        effect = numpyro.sample('effect', dist.Normal(mu, tau))
    slope = numpyro.sample('slope', dist.Normal(0.0, 1.0))
    mean = numpyro.deterministic('mean', effect[group] + slope * x[:, 0])
    with numpyro.plate('data', x.shape[0]):
        numpyro.sample('y', dist.Normal(mean, 0.5), obs=y)


def from_hierarchy(y=Y):
    return infer.Posterior.from_numpyro(hierarchy, X, GROUP, 4, y=y)


def test_densities_are_those_of_the_formulas():
    posterior = infer.Posterior.from_numpyro(regression, X, Y)
    same_density(posterior, ['b', 'sigma', 'w'], glm_density, positive=['sigma'])
    same_density(infer.Posterior.from_numpyro(network, X, Y), ['w1', 'b1', 'w2', 'b2'], network_density)
    same_density(from_hierarchy(), ['mu', 'tau', 'effect', 'slope'], hierarchy_density, positive=['tau'])


def several(y, scale):
    """Simplex, interval, a factor, a mask, weights, two observed sites, a prior that depends on an argument."""
    p = numpyro.sample('p', dist.Dirichlet(jnp.ones(3)))
    q = numpyro.sample('q', dist.Uniform(-1.0, 2.0))
    mu = numpyro.sample('mu', dist.StudentT(4.0, p[0], scale))
    with numpyro.handlers.mask(mask=y > 0):
        numpyro.sample('first', dist.Normal(mu, 1.0), obs=y)
    with numpyro.handlers.scale(scale=0.5), numpyro.plate('data', y.shape[0]):
        numpyro.sample('second', dist.Normal(mu + q, 2.0), obs=y)
    numpyro.factor('penalty', -(mu**2))


@pytest.mark.parametrize(
    ('model', 'args'),
    [
        (hierarchy, (X, GROUP, 4, Y)),
        (numpyro.handlers.reparam(hierarchy, config={'effect': LocScaleReparam(0.0)}), (X, GROUP, 4, Y)),
        (several, (Y, jnp.array(1.5))),
    ],
    ids=['hierarchy', 'non-centred', 'several'],
)
def test_unconstrained_density_is_numpyros_own(model, args):
    posterior = infer.Posterior.from_numpyro(model, *args)
    for key in jax.random.split(jax.random.key(0), 3):
        theta = posterior.theta + 0.3 * jax.random.normal(key, posterior.theta.shape)
        values = posterior.constrain(theta)
        numpyros = -potential_energy(model, args, {}, unconstrain_fn(model, args, {}, values))
        np.testing.assert_allclose(posterior.log_density(theta), numpyros, rtol=1e-10)


def test_results_know_plates_deterministic_sites_and_predictions():
    posterior = from_hierarchy()
    assert {e.name: e.param.dims for e in posterior.entries}['effect'] == ('groups',)
    fit = infer.laplace(posterior, num_draws=20, seed=0, progress=False)
    mean = fit.evaluate(lambda m: m.deterministic()['mean'])
    draws = {name: np.reshape(x, (20, -1)) for name, x in fit.draws.items()}
    np.testing.assert_allclose(mean, draws['effect'][:, GROUP] + draws['slope'] * X[:, 0], rtol=1e-8)
    few = fit.predict((X[:5], GROUP[:5]), kind='mean')
    np.testing.assert_allclose(np.reshape(few, (20, 5)), mean[:, :5], rtol=1e-8)
    drawn = infer.sample_prior(posterior, num_draws=400, seed=0)
    effect, mu, tau = (np.reshape(drawn.draws[n], (400, -1)) for n in ('effect', 'mu', 'tau'))
    standardized = (effect - mu) / tau  # N(0, 1): the mean of 1600 is within 5 standard errors but once in 2 million
    assert abs(standardized.mean()) < 5 / 40


def test_other_data_share_programs():
    assert from_hierarchy().density is from_hierarchy(Y + 1).density


def test_arrays_are_inputs_and_the_observed_one_is_the_targets():
    posterior = infer.Posterior.from_numpyro(regression, X, Y)
    np.testing.assert_allclose(posterior.log_likelihood().shape, (24,))
    np.testing.assert_array_equal(posterior.arrays['targets'], Y)
    assert list(posterior.arrays) == ['input_0', 'targets']


def discrete(y):
    z = numpyro.sample('z', dist.Bernoulli(0.5))
    numpyro.sample('y', dist.Normal(z, 1.0), obs=y)


def looks(group, y):
    with numpyro.plate('groups', len(np.unique(group))):
        effect = numpyro.sample('effect', dist.Normal(0.0, 1.0))
    numpyro.sample('y', dist.Normal(effect[group], 1.0), obs=y)


def with_param(y):
    numpyro.sample('y', dist.Normal(numpyro.param('loc', 0.0) + numpyro.sample('a', dist.Normal()), 1.0), obs=y)


def subsampled(y):
    mu = numpyro.sample('mu', dist.Normal())
    with numpyro.plate('data', len(y), subsample_size=3) as rows:
        numpyro.sample('y', dist.Normal(mu, 1.0), obs=y[rows])


def nothing(y):
    numpyro.sample('y', dist.Normal(), obs=y)


@pytest.mark.parametrize(
    ('model', 'args', 'error', 'message'),
    [
        (discrete, (Y,), ValueError, "'z' is discrete .* Sum it out"),
        (looks, (GROUP, Y), TypeError, 'looks at the values of its array arguments'),
        (with_param, (Y,), ValueError, "'loc' is a numpyro.param"),
        (subsampled, (Y,), ValueError, "plate 'data' takes a random part .* batch_size="),
        (nothing, (Y,), ValueError, 'no latent site'),
    ],
)
def test_what_no_posterior_has_is_refused(model, args, error, message):
    with pytest.raises(error, match=message):
        infer.Posterior.from_numpyro(model, *args)


def test_a_module_inside_a_numpyro_model_has_its_parameters_as_sites():
    net = nn.with_prior(
        nn.Linear(2, 1, b_init=nn.init.Constant(1.0)),
        {'*.bias': nn.ParamSpec(t=nn.SoftplusT(0.0), reg=dist.HalfNormal(1.0))},
    )

    def model(x, y=None):
        mixed = infer.sample_module('net', net)
        numpyro.sample('y', dist.Normal(mixed(x)[:, 0], 0.5), obs=y)

    rng = np.random.default_rng(0)
    weight, bias = jnp.asarray(rng.normal(size=(2, 1))), jnp.asarray(np.exp(rng.normal(size=1)))
    values = {'net/weight.weight': weight, 'net/weight.bias': bias}
    total, trace = log_density(model, (X, Y), {}, values)
    assert {name for name, site in trace.items() if not site['is_observed']} == set(values)
    likelihood = dist.Normal((X @ weight + bias)[:, 0], 0.5).log_prob(Y).sum()
    np.testing.assert_allclose(total, likelihood + dist.HalfNormal(1.0).log_prob(bias).sum(), rtol=1e-8)
    at = {'net/weight.weight': weight, 'net/weight.bias': nn.SoftplusT(0.0).inverse(bias)}
    ours = infer.Posterior(net, X, Y, likelihood=lambda m, x: dist.Normal(m(x)[:, 0], 0.5))
    theta = ours.unconstrain({'weight.weight': weight, 'weight.bias': bias})
    np.testing.assert_allclose(-potential_energy(model, (X, Y), {}, at), ours.log_density(theta), rtol=1e-8)


def test_sample_module_refuses_what_is_no_module():
    with pytest.raises(TypeError, match='sample_module takes a Module, got int'):
        infer.sample_module('net', 3)


@pytest.mark.slow
def test_posterior_is_that_of_numpyro():
    """Means of NumPyro's and our NUTS within 5 standard errors: a false alarm in 200 000 runs for the seven numbers."""
    model = numpyro.handlers.reparam(hierarchy, config={'effect': LocScaleReparam(0.0)})
    posterior = infer.Posterior.from_numpyro(model, X, GROUP, 4, Y)
    fit = infer.nuts(posterior, num_samples=1000, num_warmup=500, num_chains=2, seed=0, progress=False)
    kernel = numpyro.infer.NUTS(model)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=500, num_samples=2000, progress_bar=False)
    mcmc.run(jax.random.key(0), X, GROUP, 4, Y)
    theirs = mcmc.get_samples(group_by_chain=True)
    assert set(fit.draws) == {'mu', 'tau', 'effect_decentered', 'slope'}
    for name, ours in fit.draws.items():
        errors = [
            np.std(x, axis=(0, 1)) / np.sqrt(numpyro.diagnostics.effective_sample_size(np.asarray(x)))
            for x in (ours, theirs[name])
        ]
        difference = np.abs(np.mean(ours, (0, 1)) - np.mean(theirs[name], (0, 1)))
        assert np.all(difference < 5 * np.hypot(*errors)), name
