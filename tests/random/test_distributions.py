"""Every law: its distribution against SciPy, shapes, types, units, errors. One more law, one more line of `CASES`."""

import inspect

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from brainstate_prob import environ, random
from brainstate_prob.random.distributions import DISTRIBUTIONS

# name: (arguments, the law in SciPy)
CASES = {
    'normal': ((1.0, 2.0), st.norm(1, 2)),
    'standard_normal': ((), st.norm()),
    'uniform': ((-1.0, 3.0), st.uniform(-1, 4)),
    'random': ((), st.uniform()),
    'random_sample': ((), st.uniform()),
    'truncated_normal': ((-1.0, 3.0, 1.0, 2.0), st.truncnorm(-1, 1, 1, 2)),
    'laplace': ((1.0, 2.0), st.laplace(1, 2)),
    'logistic': ((1.0, 2.0), st.logistic(1, 2)),
    'gumbel': ((1.0, 2.0), st.gumbel_r(1, 2)),
    'cauchy': ((1.0, 2.0), st.cauchy(1, 2)),
    'standard_cauchy': ((), st.cauchy()),
    'lognormal': ((0.5, 0.7), st.lognorm(0.7, scale=np.exp(0.5))),
    'standard_t': ((3.0,), st.t(3)),
    't': ((3.0,), st.t(3)),
    'exponential': ((2.0,), st.expon(scale=2)),
    'standard_exponential': ((), st.expon()),
    'gamma': ((1.5, 2.0), st.gamma(1.5, scale=2)),
    'standard_gamma': ((1.5,), st.gamma(1.5)),
    'loggamma': ((1.5,), st.loggamma(1.5)),
    'beta': ((2.0, 3.0), st.beta(2, 3)),
    'chisquare': ((3.0,), st.chi2(3)),
    'f': ((5.0, 7.0), st.f(5, 7)),
    'weibull': ((1.5,), st.weibull_min(1.5)),
    'weibull_min': ((1.5, 2.0), st.weibull_min(1.5, scale=2)),
    'pareto': ((3.0,), st.lomax(3)),
    'rayleigh': ((2.0,), st.rayleigh(scale=2)),
    'maxwell': ((2.0,), st.maxwell(scale=2)),
    'double_sided_maxwell': ((1.0, 2.0), st.dgamma(1.5)),  # |x|^2/2 is gamma: see ALIAS
    'generalized_normal': ((1.5,), st.gennorm(1.5)),
    'wald': ((2.0, 3.0), st.invgauss(2 / 3, scale=3)),
    'triangular': ((-1.0, 0.0, 3.0), st.triang(0.25, -1, 4)),
    'bernoulli': ((0.3,), st.bernoulli(0.3)),
    'rademacher': ((), st.rv_discrete(values=([-1, 1], [0.5, 0.5]))),
    'poisson': ((2.5,), st.poisson(2.5)),
    'binomial': ((7, 0.3), st.binom(7, 0.3)),
    'negative_binomial': ((2.5, 0.4), st.nbinom(2.5, 0.4)),
    'geometric': ((0.3,), st.geom(0.3)),
    'multinomial': ((7, [0.2, 0.3, 0.5]), st.binom(7, 0.5)),
    'dirichlet': (([1.0, 2.0, 3.0],), st.beta(3, 3)),
    'multivariate_normal': (([1.0, -1.0], [[2.0, 0.6], [0.6, 1.0]]), st.norm(-1, 1)),
}
# What is compared where a draw is no number: the last entry of a vector; a transformed draw.
ALIAS = {
    **dict.fromkeys(('multinomial', 'dirichlet', 'multivariate_normal'), lambda x: x[..., -1]),
    'double_sided_maxwell': lambda x: np.sign((x - 1) / 2) * ((x - 1) / 2) ** 2 / 2,
}
N = 2000


def test_the_table_is_complete():
    assert set(CASES) == set(DISTRIBUTIONS)


@pytest.mark.parametrize('name', CASES)
def test_draws_follow_the_law(name, x64):
    # Fixed seed; each test alarms falsely with probability 1e-3 under another seed.
    args, law = CASES[name]
    x = getattr(random, name)(*args, size=N, key=1)
    assert x.dtype == {'float': jnp.float64, 'int': jnp.int64, 'bool': bool}[DISTRIBUTIONS[name].kind]
    x = np.asarray(x, float)
    x = ALIAS.get(name, lambda x: x)(x)
    assert x.shape == (N,)
    if DISTRIBUTIONS[name].kind == 'float':
        p = st.kstest(x, law.cdf).pvalue
    else:
        edges = np.unique(law.ppf([0.2, 0.4, 0.6, 0.8]))
        counts = np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1)
        expected = np.diff(np.concatenate([[0], law.cdf(edges), [1]]))
        counts, expected = counts[expected > 1e-9], expected[expected > 1e-9]
        p = st.chisquare(counts, N * expected).pvalue
    assert p > 1e-3


def shape_of(draw, *args, **kwargs):
    """Traced only: compiling every law for every shape would take minutes."""
    return jax.eval_shape(lambda: draw(*args, **kwargs, key=0)).shape


@pytest.mark.parametrize('name', CASES)
def test_shapes_and_types(name):
    args, _ = CASES[name]
    draw, ranks = getattr(random, name), [p.event_rank for p in DISTRIBUTIONS[name].pars]
    event = np.shape(args[-1])[-1:] if any(ranks) else ()
    for size, shape in ((None, ()), (3, (3,)), ((2, 3), (2, 3)), ((), ()), ((0,), (0,))):
        assert shape_of(draw, *args, size=size) == (*shape, *event)
    kind = DISTRIBUTIONS[name].kind
    default = {'float': environ.dftype(), 'int': environ.ditype(), 'bool': bool}[kind]
    assert jax.eval_shape(lambda: draw(*args, key=0)).dtype == default
    with environ.context(precision=16):
        half = {'float': jnp.float16, 'int': jnp.int16, 'bool': bool}[kind]
        assert jax.eval_shape(lambda: draw(*args, key=0)).dtype == half
    assert str(inspect.signature(draw)).endswith('size=None, key=None, dtype=None)')

    axes = [(4, 1) if i % 2 else (1, 2) for i in range(len(args))]
    stacked = [
        np.broadcast_to(np.asarray(a), (*axis, *np.shape(a)[np.ndim(a) - rank :]))
        for a, rank, axis in zip(args, ranks, axes, strict=False)
    ]
    batch = np.broadcast_shapes(*axes)
    assert shape_of(draw, *stacked) == (*batch, *event)
    if args:
        assert shape_of(draw, *stacked, size=(3, *np.broadcast_shapes(*axes))) == (3, *batch, *event)
        with pytest.raises(ValueError, match=f'{name}.*size'):
            draw(*stacked, size=3)


@pytest.mark.parametrize('name', ['normal', 'uniform', 'exponential', 'bernoulli'])
def test_which_key_draws(name):
    args, _ = CASES[name]
    draw = getattr(random, name)
    # a given key is used as it is, and the stream does not move
    before = random.get_key()
    np.testing.assert_array_equal(draw(*args, size=4, key=3), draw(*args, size=4, key=jax.random.PRNGKey(3)))
    np.testing.assert_array_equal(random.get_key(), before)
    # the module draws as a stream of its own does
    random.seed(5)
    np.testing.assert_array_equal(draw(*args, size=4), getattr(random.RandomState(5), name)(*args, size=4))


@pytest.mark.parametrize(
    ('name', 'args', 'words'),
    [
        ('normal', (0.0, -1.0), 'scale must be >= 0; got -1'),
        ('normal', (0.0, [1.0, -2.0]), 'scale must be >= 0'),
        ('normal', (np.nan,), 'loc must be a number'),
        ('exponential', (-1.0,), 'scale'),
        ('gamma', (0.0,), 'shape must be > 0'),
        ('beta', (1.0, -1.0), 'b must be > 0'),
        ('bernoulli', (1.5,), r'p must be in \[0, 1\]'),
        ('binomial', (-1, 0.5), 'n must be >= 0'),
        ('geometric', (0.0,), r'p must be in \(0, 1\]'),
        ('poisson', (-1.0,), 'lam'),
        ('standard_t', (0.0,), 'df'),
        ('dirichlet', ([1.0, 0.0],), 'alpha'),
        ('dirichlet', (1.0,), 'at least 1 axes'),
        ('truncated_normal', (2.0, 1.0), 'lower must not be greater than upper'),
        ('triangular', (0.0, 2.0, 1.0), 'mode must not be greater than right'),
        ('normal', ([0.0, 0.0], [1.0, 1.0, 1.0]), r'loc \(2,\), scale \(3,\)'),
    ],
)
def test_concrete_parameters_outside_their_domain_raise(name, args, words):
    with pytest.raises(ValueError, match=words):
        getattr(random, name)(*args)


@pytest.mark.parametrize(
    ('call', 'error', 'words'),
    [
        (lambda: random.normal(size=-1), ValueError, 'negative'),
        (lambda: random.normal(size=2.5), TypeError, 'size must be'),
        (lambda: random.normal(dtype=int), TypeError, 'floating'),
        (lambda: random.standard_t(), TypeError, 'standard_t.*df'),
        (lambda: random.normal(mu=1.0), TypeError, "normal.*'mu'"),
        (lambda: random.normal(key='a'), TypeError, 'neither a seed nor a key'),
    ],
)
def test_bad_calls(call, error, words):
    with pytest.raises(error, match=words):
        call()


mV, ms = u.mV, u.ms


@pytest.mark.parametrize(
    ('call', 'unit', 'plain'),
    [
        (
            lambda: random.normal(-65.0 * mV, 5.0 * mV, size=3, key=0),
            mV,
            lambda: random.normal(-65.0, 5.0, size=3, key=0),
        ),
        (lambda: random.normal(scale=5.0 * mV, size=3, key=0), mV, lambda: random.normal(0.0, 5.0, size=3, key=0)),
        (
            lambda: random.normal(1.0 * u.volt, 5.0 * mV, size=3, key=0),
            u.volt,
            lambda: random.normal(1.0, 0.005, size=3, key=0),
        ),
        (lambda: random.uniform(high=5.0 * mV, size=3, key=0), mV, lambda: random.uniform(0.0, 5.0, size=3, key=0)),
        (lambda: random.exponential(5.0 * ms, size=3, key=0), ms, lambda: random.exponential(5.0, size=3, key=0)),
        (lambda: random.gamma(2.0, 5.0 * ms, size=3, key=0), ms, lambda: random.gamma(2.0, 5.0, size=3, key=0)),
        (
            lambda: random.truncated_normal(0 * mV, np.inf, 1.0 * mV, 2.0 * mV, key=0),
            mV,
            lambda: random.truncated_normal(0.0, np.inf, 1.0, 2.0, key=0),
        ),
        (
            lambda: random.multivariate_normal(jnp.ones(2) * mV, jnp.eye(2) * mV**2, key=0),
            mV,
            lambda: random.multivariate_normal(jnp.ones(2), jnp.eye(2), key=0),
        ),
        (
            lambda: random.multivariate_normal(jnp.zeros(2) * u.volt, 1e6 * jnp.eye(2) * mV**2, key=0),
            u.volt,
            lambda: random.multivariate_normal(jnp.zeros(2), jnp.eye(2), key=0),
        ),
    ],
)
def test_units(call, unit, plain):
    draw = call()
    assert draw.unit == unit
    np.testing.assert_allclose(draw.mantissa, plain(), rtol=1e-5)


def test_a_dimensionless_quantity_gives_an_array():
    assert isinstance(random.normal(u.Quantity(1.0), 2.0), jax.Array)


@pytest.mark.parametrize(
    'call',
    [
        lambda: random.normal(-65.0 * mV, 5.0),
        lambda: random.normal(-65.0 * mV),
        lambda: random.normal(-65.0 * mV, 5.0 * ms),
        lambda: random.lognormal(1.0 * mV, 1.0),
        lambda: random.gamma(2.0 * ms, 1.0 * ms),
        lambda: random.poisson(2.0 * ms),
    ],
)
def test_incompatible_units_raise(call):
    with pytest.raises(u.UnitMismatchError, match='must be'):
        call()


def test_far_tail_of_the_truncated_normal_is_not_clipped():
    x = np.asarray(random.truncated_normal(8.0, np.inf, size=N, key=0), float)
    assert len(np.unique(x)) > N / 2
    assert st.kstest(x, st.truncnorm(8, np.inf).cdf).pvalue > 1e-3  # fixed seed, false alarm 1e-3


def test_traced_parameters_and_gradients():
    draw = jax.jit(lambda s: random.normal(0.0, s, size=3, key=0).sum())
    np.testing.assert_allclose(jax.grad(draw)(2.0), random.normal(size=3, key=0).sum(), rtol=1e-6)
    assert jnp.isnan(jax.jit(lambda p: random.beta(p, 1.0, key=0))(-1.0))
