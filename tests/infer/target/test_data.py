"""Data that are taken: every number as it was, whatever it came in."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

from brainstate_prob import infer, nn
from brainstate_prob.core.units import u

X, Y = np.arange(3.0), np.array([0.5, 1.0, 2.5])


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.b.value() * x, 1.0)


SAME = {
    'a list': X.tolist(),
    'a range': range(3),
    'integers': np.arange(3),
    'small integers': np.arange(3, dtype=np.uint8),
    'half precision': X.astype(np.float16),
    'long doubles': X.astype(np.longdouble),
    'Fortran order': np.asfortranarray(X),
    'a strided array': np.arange(6.0)[::2] / 2,
    'a masked array without masked entries': np.ma.array(X, mask=False),
    'a pandas Series': pd.Series(X, index=[7, 8, 9]),
    'a pandas integer array': pd.array([0, 1, 2], dtype='Int64').to_numpy(int),
    'an xarray DataArray': xr.DataArray(X, dims='i'),
    'an array of JAX': jnp.asarray(X),
}


@pytest.mark.parametrize('name', SAME)
def test_containers_are_read_by_value(name):
    posterior = infer.Posterior(Line(), SAME[name], Y)
    np.testing.assert_array_equal(posterior.data.args[0], X)
    np.testing.assert_allclose(posterior.log_likelihood(), -0.5 * (Y - X) ** 2 - np.log(2 * np.pi) / 2, rtol=1e-6)
    np.testing.assert_array_equal(infer.Posterior(Line(), X, SAME[name]).data.targets, X)


def test_a_table_and_a_dataset():
    frame = pd.DataFrame({'x': X, 'y': Y})
    np.testing.assert_array_equal(infer.Posterior(Line(), frame['x'], frame['y']).data.targets, Y)
    found = infer.Posterior(Line(), frame, Y, likelihood=lambda m, f: m(f[:, 0]))
    np.testing.assert_array_equal(found.data.args[0], frame.to_numpy())
    assert list(infer.Posterior(Line(), xr.Dataset({'x': ('i', X)}), Y).data.kwargs) == ['x']


def test_trees_of_arrays_stay_trees():
    inputs = ({'a': X, 'rest': [X, np.ones(2)]}, None, 3.0, [[1, 2], [3, 4]], X * u.mV, jax.random.key(0))
    args, _ = infer.Posterior.inputs_of(inputs)
    assert [x.shape for x in args[0]['rest']] == [(3,), (2,)] and args[1] is None
    assert args[2].weak_type and args[3].shape == (2, 2) and args[4].unit == u.mV
    assert jnp.issubdtype(args[5].dtype, jax.dtypes.prng_key)


def test_an_array_that_is_changed_later_is_not_the_data():
    x = np.ones(1 << 16, np.float32)
    posterior = infer.Posterior(Line(), x, x)
    x[:] = 7.0
    assert float(posterior.data.args[0].max()) == float(posterior.data.targets.max()) == 1.0


@pytest.mark.parametrize('limit', [-(2**31), 2**31 - 1])
def test_integers_within_32_bits_are_exact(limit):
    args, _ = infer.Posterior.inputs_of((np.array([limit, 0]), np.array([2**32 - 1], np.uint64), [2**24 + 1]))
    assert args[0].tolist() == [limit, 0] and args[1].tolist() == [2**32 - 1] and args[2].tolist() == [2**24 + 1]
    assert all(jnp.issubdtype(x.dtype, jnp.integer) for x in args)


WIDE = [
    np.array([2**40, 2**40 + 1]),
    np.array([1_700_000_000_000_000_000, 1_700_000_001_000_000_000]),
    np.array([2**63 + 5], np.uint64),
    1.7e9 + 0.001 * np.arange(3),
    np.array([1e39, 1e-300]),
    np.array([1e39j]),
    2**40,
]


@pytest.mark.parametrize('x', WIDE, ids=str)
def test_double_precision_keeps_all(x):
    with jax.enable_x64(True):
        kept = infer.Posterior.inputs_of(x)[0][0]
        np.testing.assert_array_equal(np.asarray(kept), x)


QUIET = {
    'ordinary doubles': np.random.default_rng(0).normal(size=1000),
    'a million': 1e6 + np.arange(1000.0),
    'one value': np.full(5, 1e9 + 0.1),
    'noise of double precision': 1.0 + 1e-15 * np.arange(5),
    'numbers with zeros': np.array([0.0, 1e-30, 1e30]),
    'infinities': np.array([np.inf, -np.inf, 1.0]),
    'a dense grid': np.linspace(1.0, 2.0, 100000),
    'an empty array': np.zeros((0, 3)),
}


@pytest.mark.parametrize('name', QUIET)
def test_rounding_goes_without_a_word(name):
    kept = infer.Posterior.inputs_of(QUIET[name])[0][0]
    assert kept.dtype == jnp.float32
    np.testing.assert_allclose(kept, QUIET[name], rtol=1e-7)


def test_bools_count_as_targets():
    posterior = infer.Posterior(
        Line(), X, [True, False, True], likelihood=lambda m, x: dist.Bernoulli(logits=m(x).mean)
    )
    eta = X
    truth = np.where([1, 0, 1], eta, 0.0) - np.logaddexp(0, eta)
    np.testing.assert_allclose(posterior.log_likelihood(), truth, rtol=1e-5)
    assert posterior.data.targets.dtype == bool


def test_integer_quantities_are_converted_by_value():
    posterior = infer.Posterior(
        Line(), X, np.array([1, 2, 3]) * u.mV, likelihood=lambda m, x: infer.with_unit(m(x), u.mV)
    )
    assert posterior.data.targets.tolist() == [1, 2, 3]
    np.testing.assert_allclose(posterior.targets_of(np.array([1, 2, 3]) * u.volt), [1e3, 2e3, 3e3], rtol=1e-6)


WAYS = {
    'predict': lambda fit, x, y: fit.predict(x, y, kind='log_density'),
    'score': lambda fit, x, y: fit.score(x, y),
    'batches': lambda fit, x, y: infer.map(
        fit.posterior, batches=[(x, y)], num_observations=3, optimizer='adam', progress=False
    ),
}
BAD = {
    'large integers in inputs': (np.array([2**40, 1, 2]), Y, '32 bits'),
    'large integers in targets': (X, np.array([2**40, 1, 2]), '32 bits'),
    'large numbers': (np.array([1e39, 1.0, 2.0]), Y, 'too large for float32'),
    'text': (['a', 'b', 'c'], Y, 'holds text'),
    'masked entries': (X, np.ma.masked_less(Y, 1), 'masked entries'),
    'complex targets': (X, Y + 1j, 'complex'),
}


@pytest.fixture(scope='module')
def fit():
    return infer.laplace(infer.Posterior(Line(), X, Y), progress=False)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name', BAD)
def test_other_data_pass_the_same_door(fit, way, name):
    x, y, words = BAD[name]
    with pytest.raises((TypeError, ValueError), match=words):
        WAYS[way](fit, x, y)
