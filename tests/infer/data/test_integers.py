"""Integers of the data: scored as the numbers that they are in every dtype, and told where floats merge them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn
from brainstate_prob.core.units import u


class Number(nn.Module):
    def __init__(self, value=0.4):
        super().__init__()
        self.a = nn.Param(value, reg=dist.Normal(0.0, 1.0))


def posterior(law, targets, inputs=None, value=0.4):
    return infer.Posterior(Number(value), inputs, targets, likelihood=lambda m, *x: law(m.a.value(), *x))


def walk(y):
    y = np.asarray(y, float)
    return stats.norm(0, 40.0).logpdf(np.diff(y, prepend=0.0)).sum()


def rows(law):
    return lambda y: law.logpmf(np.asarray(y, int))


Q = 1 / (1 + np.exp(-0.4))
LOGITS = np.linspace(-1.0, 1.0, 128)
# By name: the law by its parameter at 0.4, and its log density by scipy.
LAWS = {
    'geometric': (lambda a: dist.Geometric(logits=a), rows(stats.geom(Q, loc=-1))),
    'geometric by probability': (lambda a: dist.Geometric(probs=a), rows(stats.geom(0.4, loc=-1))),
    'beta-binomial': (lambda a: dist.BetaBinomial(2.0, jnp.exp(a), 200), rows(stats.betabinom(200, 2, np.exp(0.4)))),
    'binomial': (lambda a: dist.Binomial(200, logits=a), rows(stats.binom(200, Q))),
    'Poisson': (lambda a: dist.Poisson(100 * a), rows(stats.poisson(40.0))),
    'negative binomial': (lambda a: dist.NegativeBinomial2(100 * a, 3.0), rows(stats.nbinom(3, 3 / 43))),
    'zero-inflated': (
        lambda a: dist.ZeroInflatedPoisson(0.25, 100 * a),
        lambda y: np.log(0.25 * (np.asarray(y) == 0) + 0.75 * stats.poisson(40.0).pmf(np.asarray(y, int))),
    ),
    'discrete uniform': (lambda a: dist.DiscreteUniform(0, 200), rows(stats.randint(0, 201))),
    'categorical': (
        lambda a: dist.Categorical(logits=a * LOGITS),
        lambda y: np.take(0.4 * LOGITS - np.log(np.exp(0.4 * LOGITS).sum()), np.asarray(y, int)),
    ),
    'normal': (lambda a: dist.Normal(a, 40.0), lambda y: stats.norm(0.4, 40).logpdf(np.asarray(y, float))),
    'Student': (lambda a: dist.StudentT(3.0, a, 9.0), lambda y: stats.t(3, 0.4, 9).logpdf(np.asarray(y, float))),
    'random walk': (lambda a: dist.GaussianRandomWalk(100 * a, num_steps=4), walk),
}
DTYPES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
TARGETS = [127, 3, 0, 100]


@pytest.mark.parametrize('name', LAWS)
@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: d.__name__)
def test_targets_of_every_integer_dtype(name, dtype):
    law, truth = LAWS[name]
    y = np.array(TARGETS, dtype)
    found = posterior(law, y)
    assert found.data.targets.dtype == posterior(LAWS['normal'][0], jnp.asarray(y)).data.targets.dtype == jnp.int32
    np.testing.assert_allclose(found.log_likelihood(), truth(y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: d.__name__)
def test_targets_in_double_precision(dtype):
    law, truth = LAWS['random walk']
    with jax.enable_x64(True):
        for given in (np.array(TARGETS, dtype), jnp.array(TARGETS, dtype)):
            found = posterior(law, given)
            assert found.data.targets.dtype == jnp.int64
            np.testing.assert_allclose(found.log_likelihood(), truth(TARGETS), rtol=1e-10)


def test_bytes_above_127():
    y = np.array([255, 3, 0, 100], np.uint8)
    found = posterior(LAWS['geometric'][0], y).log_likelihood()
    np.testing.assert_allclose(found, stats.geom(Q, loc=-1).logpmf(y.astype(int)), rtol=1e-5)
    np.testing.assert_allclose(posterior(LAWS['random walk'][0], y).log_likelihood(), walk(y), rtol=1e-5)


def test_other_targets_and_quantities():
    fit = infer.map(posterior(LAWS['geometric'][0], np.array([1, 2, 4], np.int8)), progress=False)
    chance = 1 / (1 + np.exp(-float(np.squeeze(fit.draws['a']))))
    found = fit.predict(targets=np.array([255, 10], np.uint8), kind='log_density')
    np.testing.assert_allclose(np.squeeze(found), stats.geom(chance, loc=-1).logpmf([255, 10]), rtol=1e-4)
    given = infer.Posterior(
        Number(), None, jnp.array([1, 2], jnp.int8) * u.mV,
        likelihood=lambda m: infer.with_unit(dist.Normal(m.a.value(), 1.0), u.mV),
    )  # fmt: skip
    np.testing.assert_array_equal(given.targets_of(jnp.array([100, 3], jnp.int8) * u.volt), [100_000, 3000])


@pytest.mark.parametrize('dtype', DTYPES[:5] + DTYPES[6:7], ids=lambda d: d.__name__)
def test_inputs_do_not_wrap_in_the_arithmetic_of_a_model(dtype):
    x, y = np.array([100, 20, 3, 0], dtype), np.array([1.0, 2.0, 3.0, 4.0])
    for given in (x, jnp.asarray(x), {'x': x}):
        found = infer.Posterior(
            Number(), given, y, likelihood=lambda m, x: dist.Normal(m.a.value() * (x * x - 101 * x), 9.0)
        ).log_likelihood()
        z = x.astype(float)
        np.testing.assert_allclose(found, stats.norm(0.4 * (z * z - 101 * z), 9).logpdf(y), rtol=1e-5)


def test_scaled_images_are_the_same():
    x = np.arange(256, dtype=np.uint8)
    (found,), _ = infer.Posterior.inputs_of(x)
    np.testing.assert_array_equal(found / 255, jnp.asarray(x) / 255)
    np.testing.assert_allclose(found / 255, x / 255, rtol=1e-6)


def test_keys_and_bits_stay_unsigned():
    key, bits = jax.random.PRNGKey(3), np.array([2**32 - 1, 1, 7], np.uint32)
    args, _ = infer.Posterior.inputs_of((key, np.asarray(key), jax.random.split(key, 3), bits, bits[1:2]))
    assert [x.dtype for x in args] == [jnp.uint32] * 4 + [jnp.int32]
    np.testing.assert_array_equal(jax.random.split(args[0]), jax.random.split(key))
    np.testing.assert_array_equal(args[3], bits)


# Large integers

SECONDS = np.arange(8) + 1_700_000_000


def told(make):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        make()
    return [str(w.message) for w in found if issubclass(w.category, infer.PrecisionWarning)]


def normal(a):
    return dist.Normal(1.7e9 + a, 3.0)


MERGED = {
    'seconds since 1970': (normal, SECONDS),
    'as a list': (normal, SECONDS.tolist()),
    'of JAX': (normal, jnp.asarray(SECONDS)),
    'negative': (lambda a: dist.Normal(-1.7e9 + a, 3.0), -SECONDS),
    'unsigned': (normal, SECONDS.astype(np.uint32)),
    'under a positive law': (lambda a: dist.Gamma(2.0, jnp.exp(a) * 1e-9), SECONDS),
    'a series': (lambda a: dist.GaussianRandomWalk(jnp.exp(a), num_steps=8), SECONDS),
    'vectors': (lambda a: dist.MultivariateNormal(a * jnp.ones(2), jnp.eye(2)), np.stack([SECONDS, SECONDS], 1)),
}
KEPT = {
    'counts': (lambda a: dist.Poisson(1.7e9 * a), SECONDS),
    'labels': (lambda a: dist.DiscreteUniform(0, 1_700_000_100), SECONDS),
    'up to 2**24': (normal, 2**24 - np.arange(8)),
    'a wide range': (normal, 10_000_000 * np.arange(1, 9)),
    'one value': (normal, np.full(8, 1_700_000_001)),
}


@pytest.mark.parametrize('name', MERGED)
def test_targets_that_become_equal_are_told(name):
    law, y = MERGED[name]
    (text,) = told(lambda: posterior(law, y))
    assert 'targets has 8 different integers' in text and 'float32 tells 1 apart. Subtract an origin' in text


@pytest.mark.parametrize('name', KEPT)
def test_targets_that_stay_distinct_or_whole_go_without_a_word(name):
    law, y = KEPT[name]
    assert told(lambda: posterior(law, y)) == []


def test_inputs_that_become_equal_are_told():
    t = 1_700_000_000 + np.arange(0, 80, 10)
    for given in (t, jnp.asarray(t), {'x': t}, t.tolist(), np.stack([np.arange(8), t], 1)):
        (text,) = told(lambda given=given: infer.Posterior.inputs_of(given))
        assert '8 different integers between 1700000000 and 1700000070, of which float32 tells 2 apart' in text
    assert told(lambda: infer.Posterior.inputs_of(t - t[0])) == []


def test_double_precision_tells_them_apart():
    with jax.enable_x64(True):
        assert told(lambda: posterior(normal, SECONDS)) == told(lambda: infer.Posterior.inputs_of(SECONDS)) == []
        found = posterior(normal, SECONDS).log_likelihood()
        np.testing.assert_allclose(found, stats.norm(0.4, 3).logpdf(np.arange(8.0)), rtol=1e-6)
        (text,) = told(lambda: infer.Posterior.inputs_of(1_700_000_000_000_000_000 + np.arange(8)))
        assert 'float64 tells 1 apart' in text and 'x64' not in text


def test_other_targets_and_a_log_density_of_ones_own_are_told():
    shifted = posterior(lambda a: dist.Normal(a, 3.0), np.arange(8))
    assert len(told(lambda: shifted.targets_of(SECONDS))) == 1
    assert told(lambda: posterior(lambda a: dist.Poisson(jnp.exp(a)), np.arange(8)).targets_of(SECONDS)) == []
    own = lambda m, y: dist.Normal(m.a.value(), 1.0).log_prob(y)
    assert len(told(lambda: infer.Posterior(Number(), None, SECONDS, log_likelihood=own))) == 1
