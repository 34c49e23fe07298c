"""Minibatches: exact unbiasedness, each observation once a pass, iterables with the population size, refusals."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.target.minibatch import check_batch_size, first_batch, next_batch, take
from brainstate_prob.infer.target.stream import Stream
from tests.support.rich_model import compilations


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x, scale=0.3):
        return dist.Normal(x @ self.w.value(), scale)


def line_data(num=200):
    x = jax.random.normal(jax.random.key(1), (num, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5]) + 0.3 * jax.random.normal(jax.random.key(2), (num,))


def parts_of(x, y, size):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


# From arrays


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


@pytest.mark.parametrize('num, size', [(12, 4), (10, 2)])
def test_the_mean_gradient_of_all_batches_is_that_of_all_data(num, size, x64):
    x, y = (np.asarray(v, np.float64) for v in line_data(num))

    class Line64(Line):
        def __init__(self):
            nn.Module.__init__(self)
            self.w = nn.Param(np.zeros(3), reg=dist.Normal(0.0, 1.0))

    posterior = infer.Posterior(Line64(), x, y)
    gradient = jax.jit(jax.grad(posterior.density.log_density))
    theta = jnp.array([0.3, 0.1, -0.2])
    whole = gradient(theta, posterior.data)
    own = [gradient(theta, take(posterior.data, jnp.arange(i, i + size))) for i in range(0, num, size)]
    np.testing.assert_allclose(np.mean(own, axis=0), whole, rtol=1e-12)
    stream = Stream(posterior, parts_of(x, y, size), num)
    given = [gradient(theta, next(stream)) for _ in range(num // size)]
    np.testing.assert_allclose(np.mean(given, axis=0), whole, rtol=1e-12)


def test_minibatches_need_the_observations_as_first_axis():
    x, y = line_data()
    data = infer.Posterior(Line(), (x, jnp.full(200, 0.3)), y).data._replace(args=(x, jnp.ones(3)))
    with pytest.raises(ValueError, match=r'inputs\[1\] has shape \(3,\); with batch_size every input must be a scalar'):
        check_batch_size(data, 10, 200)


# From an iterable


class Again:
    """An iterable that can be begun anew, as a data loader, and counts how often it was."""

    def __init__(self, x, y, size):
        self.batches, self.passes = parts_of(x, y, size), 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


@pytest.mark.parametrize('make', [Again, parts_of], ids=['loader', 'list'])
def test_a_fit_to_batches_of_an_iterable_has_the_mode_of_the_whole(make):
    x, y = line_data()
    want = jnp.linalg.solve(x.T @ x / 0.09 + jnp.eye(3), x.T @ y / 0.09)
    posterior = infer.Posterior(Line(), x[:40], y[:40])  # the first batch: the others come from outside
    batches = make(np.asarray(x), np.asarray(y), 40)
    schedule = optax.exponential_decay(5e-2, 300, 0.1)
    fit = infer.map(
        posterior,
        optimizer=optax.adam(schedule),
        batches=batches,
        num_observations=200,
        num_steps=800,
        progress=False,
    )
    np.testing.assert_allclose(fit.estimate['w'], want, atol=0.01)  # the noise of the last steps, at rate 1e-4
    assert {k: fit.info[k] for k in ('num_observations', 'batch_size', 'scale')} == {
        'num_observations': 200,
        'batch_size': 40,
        'scale': 5.0,
    }
    assert getattr(batches, 'passes', 160) == 160


def test_a_list_of_one_batch_is_the_whole_data_and_no_data_in_the_posterior_are_needed():
    x, y = line_data()
    kwargs = {'optimizer': 'adam', 'num_steps': 30, 'progress': False}
    whole = infer.map(infer.Posterior(Line(), x, y), **kwargs)
    given = infer.map(infer.Posterior(Line()), batches=[(x, y)], num_observations=200, **kwargs)
    np.testing.assert_allclose(given.history['loss'], whole.history['loss'], rtol=1e-5)
    np.testing.assert_allclose(given.estimate['w'], whole.estimate['w'], rtol=1e-5)


def test_a_generator_ends_the_fit_and_the_last_batch_may_be_smaller():
    x, y = line_data(50)
    posterior = infer.Posterior(Line(), x, y)
    fit = infer.map(
        posterior,
        optimizer='adam',
        batches=(b for b in parts_of(x, y, 20)),
        num_observations=50,
        num_steps=100,
        progress=False,
    )
    assert fit.info['num_steps'] == 3 and fit.info['stopped'] == 'the batches ended'
    stream = Stream(posterior, parts_of(x, y, 20), 50)
    assert [float(next(stream).scale) for _ in range(4)] == [3.0] * 4  # three batches a pass


def test_targets_of_batches_are_read_in_the_unit_of_the_posterior():
    class Wait(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Param(5.0 * u.ms, reg=dist.Normal(10.0, 10.0))

        def __call__(self):
            return infer.of_quantities(dist.Normal, self.mean.value(), 1.0 * u.ms)

    seconds = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    posterior = infer.Posterior(Wait(), targets=1000 * seconds * u.ms)
    kwargs = {'optimizer': 'adam', 'num_steps': 5, 'progress': False}
    whole = infer.map(posterior, **kwargs)
    given = infer.map(posterior, batches=[(None, seconds * u.second)], num_observations=4, **kwargs)
    np.testing.assert_allclose(given.history['loss'], whole.history['loss'], rtol=1e-5)
    assert given.estimate['mean'].unit == u.ms


def test_a_second_fit_to_batches_compiles_nothing():
    x, y = line_data(60)

    def fit(x, y, steps, num):
        posterior = infer.Posterior(Line(), x[:20], y[:20])
        return infer.map(
            posterior,
            optimizer=optax.adam(1e-2),
            batches=parts_of(x, y, 20),
            num_observations=num,
            num_steps=steps,
            progress=False,
        )

    x, y = np.asarray(x), np.asarray(y)
    fit(x, y, 7, 60)
    with compilations() as events:
        fit(x + 1.0, y - 1.0, 12, 60)
    assert not events


X, Y = line_data(60)
REFUSED = [
    ({'batches': [(X, Y)]}, ValueError, 'batches= needs num_observations=, how many observations there are in all'),
    ({'num_observations': 60}, ValueError, 'num_observations= goes with batches='),
    (
        {'batches': [(X, Y)], 'num_observations': 60, 'batch_size': 5},
        ValueError,
        'batch_size= .* or batches=, not both',
    ),
    ({'batches': [(X, Y)], 'num_observations': 10}, ValueError, 'has 60 observations, more than num_observations=10'),
    ({'batches': [(X, Y)], 'num_observations': 0}, ValueError, 'at least 1, got 0'),
    ({'batches': [(X, Y)], 'num_observations': 60.0}, ValueError, 'an int of at least 1, got 60.0. Write 60'),
    ({'batches': 3, 'num_observations': 60}, ValueError, 'an iterable of pairs'),
    ({'batches': [], 'num_observations': 60}, ValueError, 'batches yielded nothing'),
    ({'batches': [X], 'num_observations': 60}, ValueError, r'a pair \(inputs, targets\), got ArrayImpl'),
    ({'batches': [(X, Y, Y)], 'num_observations': 60}, ValueError, r'got tuple of 3'),
    ({'batches': [(X, None)], 'num_observations': 60}, ValueError, 'Each batch needs targets'),
    ({'batches': [(X, Y[:50])], 'num_observations': 60}, ValueError, r'shape \(60,\), the targets have shape \(50,\)'),
    ({'batches': [(X, Y.at[3].set(jnp.nan))], 'num_observations': 60}, ValueError, 'targets has 1 NaN'),
    (
        {'batches': [(X, Y)], 'num_observations': 130},
        ValueError,
        'A pass over batches had 60 observations, but',
    ),
    ({'batches': [(X, Y)], 'num_observations': 60, 'optimizer': 'lbfgs'}, ValueError, 'L-BFGS needs the full data'),
    ({'batch_size': 2.5}, ValueError, 'batch_size must be an int'),
    ({'batch_size': 61}, ValueError, 'from 1 to the number of observations 60, got 61'),
]


@pytest.mark.parametrize('kwargs, error, message', REFUSED)
def test_what_is_refused(kwargs, error, message):
    posterior = infer.Posterior(Line(), X, Y)
    with pytest.raises(error, match=message):
        infer.map(posterior, **{'optimizer': 'adam', 'num_steps': 5, 'progress': False} | kwargs)


def test_a_batch_outside_the_support_is_refused():
    class Rate(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Param(1.0, t=nn.ExpT(), reg=dist.Gamma(3.0, 2.0))

        def __call__(self):
            return dist.Poisson(self.rate.value())

    posterior = infer.Posterior(Rate(), targets=jnp.array([1, 2, 3]))
    with pytest.raises(ValueError, match='1 of the targets of the first batch have probability zero'):
        infer.map(
            posterior, optimizer='adam', batches=[(None, jnp.array([1, -2, 3]))], num_observations=3, progress=False
        )
