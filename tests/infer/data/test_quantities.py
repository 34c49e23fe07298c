"""Units at the likelihood: distributions of quantities, compared with the unit of the targets."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn

Y = np.array([41.0, 59.0])


class Cell(nn.Module):
    """A rest potential in mV; what it predicts is what the test says."""

    def __init__(self):
        super().__init__()
        self.rest = nn.Param(50.0 * u.mV, reg=nn.GaussianReg(40.0 * u.mV, 0.02 * u.volt))


def posterior(predict, targets=Y * u.mV, **kwargs):
    return infer.Posterior(Cell(), targets=targets, likelihood=lambda m: predict(m.rest.value()), **kwargs)


NORMAL = {
    'quantities': lambda v: infer.of_quantities(dist.Normal, v, 3.0 * u.mV),
    'by keyword': lambda v: infer.of_quantities(dist.Normal, scale=3.0 * u.mV, loc=v),
    'in another unit': lambda v: infer.of_quantities(dist.Normal, v.to(u.volt), 3000.0 * u.mV * 1e-3),
    'magnitudes': lambda v: infer.with_unit(dist.Normal(v / u.mV, 3.0), u.mV),
    'magnitudes in another unit': lambda v: infer.with_unit(dist.Normal(v / u.volt, 0.003), u.volt),
}


@pytest.mark.parametrize('name', NORMAL)
def test_the_density_is_that_of_the_magnitude_in_the_unit_of_the_targets(name):
    found = posterior(NORMAL[name])
    np.testing.assert_allclose(found.log_likelihood(), stats.norm(50, 3).logpdf(Y), rtol=1e-5)
    in_volt = posterior(NORMAL[name], Y / 1000 * u.volt)
    np.testing.assert_allclose(in_volt.log_likelihood(), stats.norm(0.05, 0.003).logpdf(Y / 1000), rtol=1e-4)
    assert in_volt.targets_unit == u.volt


def test_predictions_have_the_unit_of_the_targets():
    fit = infer.map(posterior(NORMAL['in another unit']), progress=False)
    mean = fit.predict(kind='mean')
    assert mean.unit == u.mV and np.allclose(mean.mantissa, fit.estimate['rest'] / u.mV, rtol=1e-5)
    np.testing.assert_allclose(
        fit.predict(targets=Y / 1000 * u.volt, kind='log_density'), fit.predict(kind='log_density'), rtol=1e-4
    )


# By name: the law of magnitudes in mV, its parameters, and those of it as quantities.
def of(law, **parameters):
    magnitudes = {k: v.to_decimal(v_unit(k, v)) if isinstance(v, u.Quantity) else v for k, v in parameters.items()}
    return law(**magnitudes), infer.of_quantities(law, **parameters)


def v_unit(name, value):
    return u.mV ** {'rate': -1}.get(name, 1) if name != 'covariance_matrix' else u.mV**2


LAWS = {
    'normal': of(dist.Normal, loc=50.0 * u.mV, scale=3.0 * u.mV),
    'student': of(dist.StudentT, df=4.0, loc=50.0 * u.mV, scale=3.0 * u.mV),
    'cauchy': of(dist.Cauchy, loc=0.05 * u.volt, scale=3.0 * u.mV),
    'laplace': of(dist.Laplace, loc=50.0 * u.mV, scale=0.003 * u.volt),
    'logistic': of(dist.Logistic, loc=50.0 * u.mV, scale=3.0 * u.mV),
    'gumbel': of(dist.Gumbel, loc=50.0 * u.mV, scale=3.0 * u.mV),
    'half-normal': of(dist.HalfNormal, scale=30.0 * u.mV),
    'exponential': of(dist.Exponential, rate=0.02 / u.mV),
    'gamma': of(dist.Gamma, concentration=4.0, rate=0.1 / u.mV),
    'weibull': of(dist.Weibull, scale=50.0 * u.mV, concentration=2.0),
    'pareto': of(dist.Pareto, scale=40.0 * u.mV, alpha=2.0),
    'uniform': of(dist.Uniform, low=0.0 * u.mV, high=0.1 * u.volt),
    'truncated normal': of(dist.TruncatedNormal, loc=50.0 * u.mV, scale=9.0 * u.mV, low=0.0 * u.mV, high=60.0 * u.mV),
    'cut below': of(dist.TruncatedNormal, loc=50.0 * u.mV, scale=9.0 * u.mV, low=40.0 * u.mV),
    'inverse gamma': (dist.InverseGamma(4.0, 150.0), infer.of_quantities(dist.InverseGamma, 4.0, 0.15 * u.volt)),
    'vectors': of(dist.MultivariateNormal, loc=50.0 * np.ones(2) * u.mV, covariance_matrix=9.0 * np.eye(2) * u.mV**2),
    'log-normal': (dist.LogNormal(4.0, 0.5), infer.with_unit(dist.LogNormal(4.0, 0.5), u.mV)),
    'mixture': (
        d := dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.array([40.0, 60.0]), 3.0)),
        infer.with_unit(d, u.mV),
    ),
    'masked event': (
        d := dist.Normal(50.0, 3.0).expand([2]).mask(jnp.array([True, False])).to_event(1),
        infer.of_quantities(dist.Normal, 50 * u.mV, 3 * u.mV).expand([2]).mask(jnp.array([True, False])).to_event(1),
    ),
}


@pytest.mark.parametrize('name', LAWS)
def test_laws_scale_with_their_unit(name):
    plain, quantity = LAWS[name]
    y = jnp.array(Y)
    truth = plain.log_prob(y)
    np.testing.assert_allclose(quantity.log_prob(y * u.mV), truth, rtol=1e-4)
    size = {'masked event': 1}.get(name, 2 if plain.event_shape else 1)  # one change of measure a number that counts
    np.testing.assert_allclose(quantity.log_prob(y / 1000 * u.volt), truth + size * np.log(1000), rtol=1e-4)


def test_what_a_distribution_of_quantities_gives():
    d = infer.of_quantities(dist.Normal, jnp.array([50.0, 60.0]) * u.mV, 3.0 * u.mV)
    assert (d.batch_shape, d.event_shape) == ((2,), ())
    assert d.mean.unit == u.mV and d.variance.unit == u.mV**2
    np.testing.assert_allclose(d.variance.mantissa, 9.0)
    draws = d.sample(jax.random.key(0), (500,))
    assert draws.unit == u.mV and draws.shape == (500, 2)
    assert abs(draws.mantissa.mean() - 55.0) < 0.5  # five standard errors
    with pytest.raises(u.UnitMismatchError, match='plain numbers'):
        d.log_prob(50.0)
    again = jax.vmap(lambda loc: infer.of_quantities(dist.Normal, loc, 3.0 * u.mV))(d.mean)
    assert again.unit == u.mV and again.distribution.loc.shape == (2,)


def test_dimensionless_quantities_need_no_word():
    y = u.Quantity(np.array([0.1, 0.2]))
    model = posterior(lambda v: dist.Normal(v / u.mV, 3.0), y)
    np.testing.assert_allclose(model.log_likelihood(), stats.norm(50, 3).logpdf([0.1, 0.2]), rtol=1e-5)


def test_a_model_without_targets_may_say_its_unit():
    assert infer.Posterior(Cell(), likelihood=lambda m: NORMAL['quantities'](m.rest.value())).num_observations == 0


def test_units_in_numpyro():
    import numpyro

    likelihood = lambda m: NORMAL['in another unit'](m.rest.value())
    model = infer.to_numpyro(Cell(), likelihood=likelihood)
    found, _ = numpyro.infer.util.log_density(model, (), {'targets': Y * u.mV}, {'rest': 50.0})
    truth = stats.norm(50, 3).logpdf(Y).sum() + stats.norm(40, 20).logpdf(50)
    assert float(found) == pytest.approx(truth, rel=1e-5)


def test_a_second_fit_compiles_nothing():
    build = lambda: posterior(NORMAL['quantities'])
    first = build()
    first.log_density()
    second = build()
    assert second.data.unit == first.data.unit and hash(second.data.unit) == hash(first.data.unit)
    assert jax.tree.structure(second.data) == jax.tree.structure(first.data)


def test_equal_programs_of_which_one_says_its_unit():
    says = True

    def predict(rest):
        d = dist.Normal(rest / u.mV, 3.0)
        return infer.with_unit(d, u.mV) if says else d

    def build():
        return posterior(predict)

    assert build().data.unit is not None
    says = False
    with pytest.warns(infer.UncheckedUnitWarning, match='targets are in mV'):
        build()
