"""NumPyro's own kernels and guides on a Module: known posteriors, and the way back to a Fit."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import ESS, HMC, MCMC, NUTS, SVI, Predictive, Trace_ELBO, autoguide

from brainstate_prob import infer, nn
from brainstate_prob.infer.results.from_numpyro import from_numpyro
from brainstate_prob.infer.target.numpyro import to_numpyro
from tests.support.rich_model import rich_posterior
from tests.support.slow_rows import slow_rows


class Gamma(nn.Module):
    """Counts with a gamma prior on their rate: the posterior is a gamma distribution."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Param(1.0 * u.Hz, t=nn.ExpT(0.0 * u.Hz), reg=nn.GammaReg(alpha=3.0, beta=2.0 / u.Hz))

    def __call__(self):
        return dist.Poisson(u.get_magnitude(self.rate.value()))


COUNTS = jnp.array([2, 4, 3, 6, 1])
EXACT = dist.Gamma(3.0 + 16.0, 2.0 + 5.0)


def run(kernel, args=(), targets=COUNTS, num=1000, warmup=500, chains=2, fields=()):
    method = 'vectorized' if chains > 2 else 'sequential'
    mcmc = MCMC(kernel, num_warmup=warmup, num_samples=num, num_chains=chains, chain_method=method, progress_bar=False)
    mcmc.run(jax.random.key(0), *args, targets=targets, extra_fields=fields)
    return mcmc


@pytest.mark.parametrize(
    ('kernel', 'chains'),
    [
        pytest.param(NUTS, 2, id='NUTS'),
        pytest.param(lambda f: HMC(f, trajectory_length=1.5), 2, id='HMC', marks=pytest.mark.slow),
        pytest.param(ESS, 10, id='ESS', marks=pytest.mark.slow),
    ],
)
def test_mcmc_finds_the_known_posterior(kernel, chains):
    draws = run(kernel(to_numpyro(Gamma())), num=2000 // chains, chains=chains).get_samples()['rate']
    # They are worth about 600 independent draws: mean and sd within four standard errors, at a fixed seed.
    sd = float(EXACT.variance) ** 0.5
    assert float(draws.mean()) == pytest.approx(float(EXACT.mean), abs=4 * sd / np.sqrt(600))
    assert float(draws.std()) == pytest.approx(sd, rel=4 / np.sqrt(2 * 600))


@pytest.mark.parametrize(
    'guide',
    slow_rows(
        [
            autoguide.AutoNormal,
            autoguide.AutoMultivariateNormal,
            autoguide.AutoLaplaceApproximation,
            autoguide.AutoDelta,
        ],
        [autoguide.AutoMultivariateNormal, autoguide.AutoLaplaceApproximation],
    ),
)
def test_guides_find_the_known_posterior(guide):
    f = to_numpyro(Gamma())
    guide = guide(f)
    svi = SVI(f, guide, numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=4))
    result = svi.run(jax.random.key(0), 1500, targets=COUNTS, progress_bar=False)
    draws = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(4000,))['rate']
    # A gamma distribution of shape 19 is near to a log-normal one. The mode is 18/7 of the value, 19/7 of theta.
    is_delta = isinstance(guide, autoguide.AutoDelta)
    assert float(draws.mean()) == pytest.approx(18.5 / 7 if is_delta else float(EXACT.mean), rel=0.04)
    assert float(draws.std()) == pytest.approx(0.0 if is_delta else float(EXACT.variance) ** 0.5, rel=0.1, abs=1e-6)


def test_predictive_of_the_posterior_draws():
    f = to_numpyro(Gamma())
    samples = run(NUTS(f), num=500).get_samples()
    drawn = Predictive(f, samples)(jax.random.key(1))['targets']
    assert drawn.shape == (1000,)
    variance = float(EXACT.mean + EXACT.variance)
    assert float(drawn.mean()) == pytest.approx(float(EXACT.mean), abs=4 * np.sqrt(variance / 300))


def test_numpyros_draws_become_a_fit():
    posterior = rich_posterior()
    f = to_numpyro(posterior.model)
    mcmc = run(NUTS(f), posterior.data.args, posterior.data.targets, num=30, warmup=10, fields=('num_steps', 'energy'))
    fit = from_numpyro(posterior, mcmc)
    samples = mcmc.get_samples(group_by_chain=True)
    assert repr(fit) == "Fit(method='numpyro', 2 chains of 30 draws, 7 parameters)"
    for name, value in fit.magnitudes.items():
        np.testing.assert_allclose(value, samples[name], rtol=2e-5, atol=1e-6)
    assert u.get_unit(fit.draws['rate']) == u.Hz
    assert set(fit.stats) == {'diverging', 'n_steps', 'energy', 'lp'}
    row = fit.rows[7]
    assert float(fit.stats['lp'].ravel()[7]) == pytest.approx(
        float(fit.density.log_density(row, posterior.data)), rel=1e-4
    )
    assert (fit.stats['energy'] > -fit.stats['lp'] - 1e-2).all()  # potential plus kinetic
    same = from_numpyro(posterior, samples)
    np.testing.assert_array_equal(same.thetas, fit.thetas)
    with pytest.raises(ValueError, match="no site 'sparse.z'"):
        from_numpyro(posterior, {k: v for k, v in samples.items() if k != 'sparse.z'})
    assert fit.predict(num_draws=4).shape == (4, 20) and 'r_hat' in fit.summary().columns


def test_a_model_under_numpyros_own_vmap_and_scan():
    model = Gamma()
    f = to_numpyro(model)

    def density(rate):
        return numpyro.infer.util.log_density(f, (), {'targets': COUNTS}, {'rate': rate})[0]

    rates = jnp.array([1.0, 2.0, 3.0])
    want = dist.Gamma(3.0, 2.0).log_prob(rates) + dist.Poisson(rates[:, None]).log_prob(COUNTS).sum(1)
    np.testing.assert_allclose(jax.vmap(density)(rates), want, rtol=1e-5)
    np.testing.assert_allclose(jax.lax.map(density, rates), want, rtol=1e-5)
    posterior = infer.Posterior(model, targets=COUNTS)
    np.testing.assert_allclose(posterior.log_density(jnp.log(rates[:1]), jacobian=False), want[0], rtol=1e-5)


@pytest.mark.slow
def test_nuts_on_the_flat_density_and_through_the_bridge_agree():
    x = jax.random.normal(jax.random.key(0), (40, 2))
    y = x @ jnp.array([1.0, -0.5]) + 0.3 * jax.random.normal(jax.random.key(1), (40,))

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Param(1.0, t=nn.SoftplusT(), reg=dist.HalfNormal(1.0))
            self.slope = nn.Param(jnp.zeros(2), reg=nn.GaussianReg(std=self.scale))
            self.noise = nn.Param(0.5, t=nn.ExpT(), reg=dist.HalfNormal(1.0))

        def __call__(self, x):
            return dist.Normal(x @ self.slope.value(), self.noise.value())

    posterior = infer.Posterior(Line(), x, y)
    ours = infer.nuts(posterior, num_warmup=400, num_samples=800, num_chains=2, progress=False)
    theirs = from_numpyro(posterior, run(NUTS(to_numpyro(posterior.model)), (x,), y, num=800, fields=('energy',)))
    a, b = ours.summary(), theirs.summary()
    assert a.rows == b.rows
    # Two means of 400 independent draws at the least: four standard errors of their difference, four figures.
    assert (np.abs(a['mean'] - b['mean']) < 4 * np.sqrt(2 / 400) * a['sd']).all()
    np.testing.assert_allclose(a['sd'], b['sd'], rtol=4 / np.sqrt(400))
