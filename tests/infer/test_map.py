"""MAP: the right mode under both definitions, the published place cell, minibatches, fused steps, no recompilation."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.minibatch import check_batch_size, first_batch, next_batch, take


class Rate(nn.Module):
    """Counts with a gamma prior on the rate: everything in closed form."""

    def __init__(self, t=None):
        super().__init__()
        self.rate = nn.Param(1.0, t=t or nn.ExpT(), reg=dist.Gamma(3.0, 2.0))

    def __call__(self):
        return dist.Poisson(self.rate.value())


COUNTS = jnp.array([2, 4, 3, 6, 1])


@pytest.mark.parametrize('t', [nn.ExpT(), nn.SoftplusT()])
@pytest.mark.parametrize('optimizer', ['lbfgs', 'adam', optax.adabelief(3e-2)])
def test_the_classical_mode_does_not_depend_on_the_transform(t, optimizer):
    fit = infer.fit_map(infer.Posterior(Rate(t), targets=COUNTS), optimizer=optimizer, num_steps=800, progress=False)
    assert float(fit.estimate['rate']) == pytest.approx((16 + 3 - 1) / (5 + 2), rel=1e-3)  # mode of a gamma posterior


def test_the_mode_of_theta_has_the_log_determinant():
    fit = infer.fit_map(infer.Posterior(Rate(nn.ExpT()), targets=COUNTS), jacobian=True, progress=False)
    assert float(fit.estimate['rate']) == pytest.approx((16 + 3) / (5 + 2), rel=1e-4)  # mode of its logarithm
    assert fit.info['jacobian'] and fit.info['converged']


def test_lbfgs_stops_when_converged_and_the_history_is_the_loss():
    posterior = infer.Posterior(Rate(), targets=COUNTS)
    fit = infer.fit_map(posterior, num_steps=500, progress=False)
    assert fit.info['converged'] and fit.info['num_steps'] == len(fit.history['loss']) < 50
    theta = fit.thetas[0, 0]
    assert float(-posterior.log_density(theta, jacobian=False)) == pytest.approx(fit.history['loss'][-1], rel=1e-5)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x, scale):
        return dist.Normal(x @ self.w.value(), scale)


def line_data(num=200):
    x = jax.random.normal(jax.random.key(1), (num, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5]) + 0.3 * jax.random.normal(jax.random.key(2), (num,))


def test_minibatches_have_the_mode_of_the_whole():
    x, y = line_data()
    want = jnp.linalg.solve(x.T @ x / 0.09 + jnp.eye(3), x.T @ y / 0.09)
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    schedule = optax.exponential_decay(3e-2, 500, 0.1)
    fit = infer.fit_map(posterior, optimizer=optax.adam(schedule), batch_size=32, num_steps=2000, progress=False)
    np.testing.assert_allclose(fit.estimate['w'], want, atol=0.01)  # the noise of the last steps, at rate 3e-6


def test_each_pass_sees_every_observation_once_with_its_weight():
    x, y = line_data(12)
    data = infer.Posterior(Line(), (x, 0.3), y).data
    batches, seen = first_batch(jax.random.key(0), 12), []
    for _ in range(6):
        index, batches = next_batch(batches, 4)
        seen.append(np.asarray(index))
        batch = take(data, index)
        assert float(batch.scale) == 3.0 and batch.args[0].shape == (4, 3) and batch.args[1].shape == ()
    for one_pass in (seen[:3], seen[3:]):
        assert sorted(np.concatenate(one_pass)) == list(range(12))
    assert not np.array_equal(np.concatenate(seen[:3]), np.concatenate(seen[3:]))


def test_the_mean_minibatch_density_is_the_full_one():
    x, y = line_data(12)
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    theta = jnp.array([0.3, 0.1, -0.2])
    parts = [posterior.density.log_density(theta, take(posterior.data, jnp.arange(i, i + 4))) for i in (0, 4, 8)]
    assert float(np.mean(parts)) == pytest.approx(float(posterior.log_density(theta)), rel=1e-5)


@pytest.mark.parametrize('kwargs', [{}, {'optimizer': 'adam', 'batch_size': 50}])
def test_a_second_fit_traces_nothing(kwargs):
    calls = []

    class Counted(Line):
        def __call__(self, x, scale):
            calls.append(1)
            return super().__call__(x, scale)

    x, y = line_data()
    infer.fit_map(infer.Posterior(Counted(), (x, 0.3), y), num_steps=30, progress=False, **kwargs)
    traced = len(calls)
    model = Counted()
    model.w.set_value(jnp.ones(3))
    if 'batch_size' in kwargs:
        kwargs = {**kwargs, 'optimizer': optax.adam(1e-2)}  # built anew, equal in structure
    infer.fit_map(infer.Posterior(model, (x + 1.0, 0.5), y - 1.0), num_steps=70, seed=3, progress=False, **kwargs)
    assert len(calls) == traced > 0


def test_the_fit_starts_from_the_model_and_can_be_written_back():
    x, y = line_data()
    model = Line()
    fit = infer.fit_map(infer.Posterior(model, (x, 0.3), y), progress=False)
    np.testing.assert_array_equal(model.w.value(), np.zeros(3))
    fit.assign_to(model)
    np.testing.assert_allclose(model.w.value(), fit.estimate['w'], rtol=1e-6)
    again = infer.fit_map(infer.Posterior(model, (x, 0.3), y), progress=False)
    assert again.info['num_steps'] <= 3


# The published place cell: flat priors, three columns that are almost collinear and unscaled


class PlaceCell(nn.Module):
    """Log rate = b . columns, in units of the columns' sizes: the coefficients of 1, x, x^2 differ by a factor 5000."""

    def __init__(self, size):
        super().__init__()
        self.size = jnp.asarray(size)
        self.b = nn.Param(jnp.zeros(len(size), jnp.result_type(float)))

    def __call__(self, columns):
        return dist.Poisson(jnp.exp(columns @ (self.b.value() * self.size)))


@pytest.mark.parametrize('name', ['place_field', 'place_field_direction'])
def test_flat_priors_give_the_published_coefficients(name, shared_dir, x64):
    import json

    raw = np.load(shared_dir / 'data' / 'neuro' / 'place_cell.npz')
    reference = json.loads((shared_dir / 'data' / 'neuro' / 'reference.json').read_text())['place_cell'][name]
    x = raw['position'].astype(np.float64)
    columns = [np.ones_like(x), x, x**2, np.r_[np.diff(x) > 0, False].astype(float)]
    columns = np.stack(columns[: len(reference['published_coef'])], 1)
    orthogonal, mix = np.linalg.qr(columns)  # well-conditioned coordinates for the same model
    size = np.sqrt(len(x)) * np.ones(columns.shape[1])
    model = PlaceCell(size)
    model.b.set_value(np.linalg.lstsq(orthogonal * size, np.full(len(x), -6.0), rcond=None)[0])
    fit = infer.fit_map(infer.Posterior(model, orthogonal, raw['spikes'].astype(int)), tol=1e-10, progress=False)
    coefficients = np.linalg.solve(mix, np.asarray(fit.estimate['b']) * size)
    assert fit.info['converged']
    # The positions of the file are rounded to float32, which turns a few directions and so moves the exact maximum
    # (Newton's method on this file gives the same) by 2e-5 of itself, 0.0002 standard errors.
    np.testing.assert_allclose(coefficients, reference['recomputed_coef'], rtol=3e-5)
    np.testing.assert_allclose(coefficients, reference['published_coef'], rtol=3e-5, atol=6e-7)  # six decimals given


def test_units_of_the_estimate():
    class Wait(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(5.0 * u.ms, t=nn.SoftplusT(0.0 * u.ms), reg=nn.GammaReg(alpha=2.0, beta=0.1 / u.ms))

        def __call__(self):
            return dist.Exponential(1.0 / (self.tau.value() / u.ms))

    fit = infer.fit_map(infer.Posterior(Wait(), targets=jnp.array([10.0, 20.0, 30.0]) * u.ms), progress=False)
    assert fit.estimate['tau'].unit == u.ms


REFUSED = [
    ({'optimizer': 'sgd'}, TypeError, "an optax optimizer, 'lbfgs' or 'adam', got 'sgd'"),
    ({'batch_size': 10}, ValueError, 'L-BFGS needs the full data'),
    ({'optimizer': 'adam', 'batch_size': 0}, ValueError, 'from 1 to the number of observations 200, got 0'),
    ({'optimizer': 'adam', 'batch_size': 201}, ValueError, 'from 1 to the number of observations 200, got 201'),
    ({'optimizer': optax.sgd(1e3), 'num_steps': 100}, ValueError, 'The loss became .* Use a smaller learning rate'),
]


@pytest.mark.parametrize('kwargs, error, message', REFUSED)
def test_what_is_refused(kwargs, error, message):
    x, y = line_data()
    with pytest.raises(error, match=message):
        infer.fit_map(infer.Posterior(Line(), (x, 0.3), y), progress=False, **kwargs)


def test_minibatches_need_the_observations_as_first_axis():
    x, y = line_data()
    data = infer.Posterior(Line(), (x, jnp.full(200, 0.3)), y).data._replace(args=(x, jnp.ones(3)))
    with pytest.raises(ValueError, match=r'inputs\[1\] has shape \(3,\); with batch_size every input must be a scalar'):
        check_batch_size(data, 10, 200)


def test_every_way_to_fit_has_the_same_log_density_of_the_same_theta():
    posterior = infer.Posterior(Rate(), targets=COUNTS)
    fits = [
        infer.fit_map(posterior, jacobian=True, progress=False),
        infer.fit_svi(posterior, num_steps=200, num_draws=10, progress=False),
        infer.nuts(posterior, num_warmup=50, num_samples=10, num_chains=1, progress=False),
    ]
    assert all(fit.density is posterior.density for fit in fits)
    lp = [float(posterior.log_density(theta)) for theta in fits[2].thetas[0]]
    np.testing.assert_allclose(fits[2].stats['lp'][0], lp, rtol=1e-6)
    at_mode = float(posterior.log_density(fits[0].thetas[0, 0]))
    assert -fits[0].history['loss'][-1] == pytest.approx(at_mode, rel=1e-6) and max(lp) <= at_mode + 1e-5


def test_any_quantity_of_the_model_comes_with_its_uncertainty():
    fit = infer.nuts(
        infer.Posterior(Rate(), targets=COUNTS), num_warmup=50, num_samples=30, num_chains=2, progress=False
    )
    twice = fit.evaluate(lambda model, x: {'rate': model.rate.value() * x}, 2.0)['rate']
    np.testing.assert_allclose(twice.reshape(2, 30), 2.0 * fit.draws['rate'], rtol=1e-6)
    assert fit.evaluate(lambda model: model.rate.value(), num_draws=7).shape == (7,)


@pytest.mark.parametrize(
    't, best', [(nn.ClipT(0.0, 10.0), 18 / 7), (nn.ReluT(), 18 / 7), (nn.ClipT(0.0, 2.0), 2.0)], ids=repr
)
def test_transforms_without_a_density_are_fitted_by_map(t, best):
    class Confined(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Param(1.0, t=t, reg=nn.GammaReg(alpha=3.0, beta=2.0))

        def __call__(self):
            return dist.Poisson(self.rate.value())

    fit = infer.fit_map(infer.Posterior(Confined(), targets=COUNTS), optimizer=optax.adam(3e-2), progress=False)
    assert float(fit.estimate['rate']) == pytest.approx(best, rel=1e-2)


def test_a_fit_that_has_not_converged_says_so():
    x, y = line_data()
    with pytest.warns(infer.ConvergenceWarning, match='stopped after 2 steps before it converged'):
        fit = infer.fit_map(infer.Posterior(Line(), (x, 0.3), y), num_steps=2, progress=False)
    assert fit.info['converged'] is False
