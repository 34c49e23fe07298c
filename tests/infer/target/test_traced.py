"""What the door reads off a traced program, against derivatives, NumPy's indexing and closed forms."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

from brainstate_prob import infer, nn
from brainstate_prob.core.program import depends_on
from brainstate_prob.core.units import u

X = np.linspace(-1.0, 1.0, 6, dtype='f4')
QUIET = {'progress': False}


@jax.custom_jvp
def spike(x):
    return (x > 0).astype(x.dtype)


spike.defjvp(lambda primals, tangents: (spike(*primals), tangents[0] / (1 + primals[0] ** 2)))

FUNCTIONS = {
    'a comparison': lambda a, x: jnp.where(x < a, 1.0, 2.0).sum(),
    'a comparison of what counts otherwise too': lambda a, x: jnp.where(x < a, a, 2.0).sum(),
    'rounding': lambda a, x: (jnp.round(a) * x**2).sum(),
    'the remainder of rounding': lambda a, x: ((a - jnp.floor(a)) * x**2).sum(),
    'a whole number': lambda a, x: x[(3 * a).astype(int)],
    'a sign': lambda a, x: (jnp.sign(a) * x**2).sum(),
    'a stopped gradient': lambda a, x: (lax.stop_gradient(a) * x**2).sum(),
    'straight through': lambda a, x: ((a + lax.stop_gradient(jnp.round(a) - a)) * x**2).sum(),
    'a rule of its own': lambda a, x: (spike(x - a) * x**2).sum(),
    'a branch': lambda a, x: lax.cond(x[0] > 0, lambda a: 2 * a, lambda a: a, a),
    'a loop': lambda a, x: lax.scan(lambda c, t: (c + a * t**2, None), 0.0, x)[0],
    'a compiled function': jax.jit(lambda a, x: (jnp.floor(a) + 0 * x).sum()),
    'a smooth step': lambda a, x: jax.nn.sigmoid(x - a).sum(),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_where_a_gradient_passes(name):
    """Where none passes, the derivative is zero at every point; where one does, it is not at some."""
    f = FUNCTIONS[name]
    program = jax.make_jaxpr(f)(jnp.float32(0.4), X)
    points = np.random.default_rng(0).uniform(0.1, 1.6, 20).astype('f4')
    slopes = [float(jax.grad(f)(a, X)) for a in points]
    assert (0 in depends_on(program, [0], by_gradient=True)) == any(slope != 0 for slope in slopes)
    assert 0 in depends_on(program, [0])


# Indices, by NumPy's rule


class Table(nn.Module):
    def __init__(self, look_up):
        super().__init__()
        self.g = nn.Param(jnp.arange(3.0), reg=dist.Normal(0.0, 10.0))
        self.look_up = look_up

    def __call__(self, *inputs):
        return dist.Normal(self.look_up(self.g.value(), *inputs), 1.0)


I = np.array([0, 1, 2, 2])
LOOK_UPS = {
    'as they are': lambda g, i: g[i],
    'from one': lambda g, i: g[i - 1],
    'in two ways': lambda g, i: g[i] + g[(i + 1) % 3],
    'in a compiled function': lambda g, i: jax.vmap(jax.jit(lambda j: g[j]))(i) if isinstance(i, jax.Array) else g[i],
    'in two columns': lambda g, i: (g[:, None] * g)[i, i // 2],
    'of the first': lambda g, i: g[i[0]] * (i + 1),
    'of what follows from it': lambda g, i: (g**2 + 1)[i],
}


@pytest.mark.parametrize('shift', [-4, -3, -1, 0, 1])
@pytest.mark.parametrize('name', LOOK_UPS)
def test_an_index_is_refused_where_numpy_raises(name, shift):
    i, look_up = I + shift, LOOK_UPS[name]
    try:
        look_up(np.arange(3.0), i)
    except IndexError:
        with pytest.raises(ValueError, match=r'inputs\[0\].*used as an index along an axis of 3'):
            infer.Posterior(Table(look_up), i, np.zeros(4))
    else:
        assert np.isfinite(infer.Posterior(Table(look_up), i, np.zeros(4)).log_density())


def convergent(g, i):
    """As many steps as the parameters make them."""
    return lax.while_loop(lambda x: jnp.max(jnp.abs(x - g[i])) > 1e-3, lambda x: (x + g[i]) / 2, jnp.zeros(4))


# Each of them looks up g[i], one way or another.
CLOSED_OVER = {shift: jnp.asarray(I + shift) for shift in (-4, -3, -1, 0, 1)}
IN_BODIES = {
    'a map': lambda g, i: lax.map(lambda k: g[k], i),
    'a scan': lambda g, i: lax.scan(lambda c, k: (c + g[k], g[k] * c), 0.0, i)[1],
    'a scan backwards': lambda g, i: lax.scan(lambda c, k: (c, g[k]), None, i, reverse=True)[1],
    'a scan in columns': lambda g, i: jax.vmap(lambda r: lax.scan(lambda c, k: (c, g[k]), 0, r)[1])(
        i.reshape(2, 2)
    ).ravel(),
    'a scan in a scan': lambda g, i: lax.scan(lambda c, r: (c, lax.map(lambda k: g[k], r)), 0, i.reshape(2, 2))[
        1
    ].ravel(),
    'a scan that carries the last': lambda g, i: lax.scan(lambda c, k: (k, g[c] + g[k]), i[0], i)[1],
    'a counted loop': lambda g, i: lax.fori_loop(0, 4, lambda k, v: v.at[k].set(g[i[k]]), jnp.zeros(4)),
    'a loop': lambda g, i: lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, s[1] + g[i[s[0]]]), (0, 0.0))[1],
    'a loop until it converges': convergent,
    'a branch': lambda g, i: lax.cond(i[3] > -9, lambda: g[i], lambda: g[0 * i]),
    'a branch by a parameter': lambda g, i: lax.cond(g[0] > 0, lambda: g[i], lambda: 2 * g[i]),
    'a switch in a scan': lambda g, i: lax.map(lambda k: lax.switch(k % 2, [lambda: g[k], lambda: 2 * g[k]]), i),
    'a compiled function in a scan': lambda g, i: lax.map(jax.jit(lambda k: g[k]), i),
    'a checkpoint in a scan': lambda g, i: lax.map(jax.checkpoint(lambda k: jnp.sin(g[k])), i),
    'a random scan': lambda g, i: lax.scan(
        lambda key, k: (jax.random.split(key)[0], g[k] + 0 * jax.random.normal(key)), jax.random.key(0), i
    )[1],
}


@pytest.mark.parametrize('shift', CLOSED_OVER)
@pytest.mark.parametrize('name', IN_BODIES)
def test_an_index_in_a_body_is_refused_where_numpy_raises(name, shift):
    look_up = IN_BODIES[name]
    try:
        np.arange(3.0)[I + shift]
    except IndexError:
        with pytest.raises(ValueError, match=rf'from {shift} to {2 + shift}, is used as an index along an axis of 3'):
            infer.Posterior(Table(look_up), I + shift, np.zeros(4))
    else:
        assert np.isfinite(infer.Posterior(Table(look_up), I + shift, np.zeros(4)).log_density())


CLOSING = {
    'as they are': lambda g, i, x: g[i] * x,
    'in a scan': lambda g, i, x: lax.scan(lambda c, k: (c, g[k]), 0, i)[1] * x,
    'in a scan of other data': lambda g, i, x: lax.map(lambda t: g[i] * t, x)[0],
    'in a compiled function': lambda g, i, x: jax.jit(lambda x: g[i] * x)(x),
}


@pytest.mark.parametrize('shift', CLOSED_OVER)
@pytest.mark.parametrize('name', CLOSING)
def test_an_index_closed_over_is_refused_where_numpy_raises(name, shift):
    i = CLOSED_OVER[shift]

    def look_up(g, x):
        return CLOSING[name](g, i, x)

    try:
        np.arange(3.0)[I + shift]
    except IndexError:
        with pytest.raises(
            ValueError, match=rf'closes over, with values from {shift} to {2 + shift}, is used as an in'
        ):
            infer.Posterior(Table(look_up), np.ones(4), np.zeros(4))
    else:
        assert np.isfinite(infer.Posterior(Table(look_up), np.ones(4), np.zeros(4)).log_density())


def sentinel(g, i, x):
    """Padded with a number that no entry has, and passed over by a branch."""
    return lax.map(lambda k: lax.cond(k < 3, lambda: g[k], lambda: 0.0), i)


PADDED = np.array([0, 1, 9, 9])
MEANT = {
    'a padded scan': sentinel,
    'a padded loop': lambda g, i, x: lax.while_loop(
        lambda s: i[s[0]] < 3, lambda s: (s[0] + 1, s[1] + g[i[s[0]]]), (0, 0.0)
    )[1],
    'padded rows': lambda g, i, x: jax.vmap(lambda n, row: lax.fori_loop(0, n, lambda k, v: v + g[row[k]], 0.0))(
        jnp.array([1, 0]), i.reshape(2, 2)
    ).sum(),
    'a scan that is clipped': lambda g, i, x: lax.map(lambda k: g[jnp.clip(k, 0, 2)], i),
    'a scan that fills': lambda g, i, x: lax.map(lambda k: g.at[k].get(mode='fill', fill_value=0.0), i),
    'a scan of a lag': lambda g, i, x: lax.map(lambda k: g[0] * x[k + 1], i),
    'a counter': lambda g, i, x: lax.fori_loop(0, 9, lambda k, v: v + g[k], 0.0) * x,
    'a window at the counter': lambda g, i, x: lax.map(lambda k: lax.dynamic_slice(g, (k,), (2,)).sum(), jnp.arange(4)),
    'a counter carried beside data': lambda g, i, x: lax.scan(lambda k, t: (k + 1, g[k] * t), 0, x)[1],
    'a scan of nothing': lambda g, i, x: lax.scan(lambda c, k: (c + g[k], None), 0.0, i[:0])[0] * x,
    'a loop that is not entered': lambda g, i, x: (
        lax.while_loop(lambda s: s[0] < 0, lambda s: (s[0] + 1, s[1] + g[i].sum()), (0, 0.0))[1] * x
    ),
    'a place that a parameter chooses': lambda g, i, x: lax.map(lambda k: g[k + (g[0] > 9)] * 0, 0 * i),
    'a branch by a parameter and the labels': lambda g, i, x: lax.map(
        lambda k: lax.cond(g[0] + k < 3, lambda: g[k], lambda: 0.0), i
    ),
    'a table of whole numbers': lambda g, i, x: g[jnp.asarray([2, 1, 0])][:1] * x,
    'a constant that is clipped': lambda g, i, x: g[jnp.clip(jnp.asarray(PADDED), 0, 2)],
    'a constant that looks up data': lambda g, i, x: g[0] * x[jnp.asarray(PADDED)],
    'filled by name': lambda g, i, x: g.at[i].get(mode='fill', fill_value=0.0),
    'clipped before': lambda g, i, x: g[jnp.clip(i, 0, 2)],
    'a lag of the data': lambda g, i, x: g[0] * x[i + 1],
    'no index': lambda g, i, x: g[0] * i,
}


@pytest.mark.parametrize('name', MEANT)
def test_what_is_meant_is_quiet(name):
    posterior = infer.Posterior(Table(MEANT[name]), (np.array([0, 3, 7, 5]), np.ones(4)), np.zeros(4))
    assert np.isfinite(posterior.log_density())


def test_new_inputs_compile_nothing_and_are_looked_at():
    posterior = infer.Posterior(Table(LOOK_UPS['as they are']), I, np.zeros(4))
    fit = infer.map(posterior, **QUIET)
    np.testing.assert_allclose(fit.predict(np.array([2, -1, 0]), kind='mean')[0], fit.estimate['g'][[2, -1, 0]])
    with pytest.raises(ValueError, match='from 0 to 3, is used as an index'):
        fit.predict(np.array([2, 3, 0]))


# Pairs of targets and rows


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))
        self.z = nn.Param(jnp.zeros(6), reg=dist.Normal(0.0, 1.0))


def normal(mean, y, scale=1.0):
    return dist.Normal(mean, scale).log_prob(y)


def kernel(x):
    return jnp.exp(-((x[:, None] - x) ** 2)) + 0.1 * jnp.eye(6)


def risk(m, x, y):
    """Cox's partial likelihood: all pairs of times."""
    eta = m.a.value() * x
    return jnp.sum(eta - jnp.log(jnp.sum(jnp.where(y[None] >= y[:, None], jnp.exp(eta)[None], 0.0), axis=1)))


def residuals(m, x, y):
    return y - m.a.value() * x


def expected(m, x, y):
    """The expectation of a row's log density by a quadrature of as many nodes as rows."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    return jnp.sum(normal(m.a.value() * x[:, None] + nodes, y[:, None]) @ (weights / weights.sum()))


def summed_by_step(of_row):
    """A score that a scan adds up, of each row and all of the others."""
    return lambda m, x, y: lax.scan(lambda c, row: (c + of_row(m, x, y, *row), None), 0.0, (x, y))[0]


def in_loops(m, x, y):
    inner = lambda total, mean: lax.scan(lambda c, t: (c - (t - mean) ** 2, None), total, y)[0]
    return lax.scan(lambda c, mean: (inner(c, mean), None), 0.0, m.a.value() * x)[0]


def ranking(m, x, y):
    eta = m.a.value() * x
    return jnp.sum(jnp.where(y[:, None] > y, jax.nn.log_sigmoid(eta[:, None] - eta), 0.0))


COLUMN = X[:, None]
SCORES = {
    'a column and a row': (True, COLUMN, X, lambda m, x, y: normal(m.a.value() * x, y).sum()),
    'a row and a column': (True, X, COLUMN, lambda m, x, y: normal(m.a.value() * x, y).sum()),
    'written out': (True, COLUMN, X, lambda m, x, y: -jnp.sum((y - m.a.value() * x) ** 2) / 2),
    'with its own scales': (True, (COLUMN, 1 + X**2), X, lambda m, x, s, y: normal(m.a.value() * x, y, s).sum()),
    'through a layer': (
        True, COLUMN, X, lambda m, x, y: normal(jnp.tanh(x @ (m.a.value() * jnp.ones((1, 1)))), y).sum()
    ),
    'Bernoulli': (
        True, COLUMN, (X > 0).astype(int), lambda m, x, y: dist.Bernoulli(logits=m.a.value() * x).log_prob(y).sum()
    ),
    'an inner product': (True, COLUMN, X, lambda m, x, y: -jnp.vdot(residuals(m, x, y), residuals(m, x, y))),
    'a norm': (True, COLUMN, X, lambda m, x, y: -(jnp.linalg.norm(residuals(m, x, y)) ** 2)),
    'both axes contracted': (
        True, COLUMN, X, lambda m, x, y: -jnp.einsum('ij,ij->', residuals(m, x, y), residuals(m, x, y))
    ),
    'contracted with weights': (
        True, (COLUMN, 1 + X**2), X,
        lambda m, x, w, y: -jnp.einsum('ij,ij,j->', residuals(m, x, y), residuals(m, x, y), w),
    ),
    'a trace': (True, COLUMN, X, lambda m, x, y: -jnp.trace(residuals(m, x, y) @ residuals(m, x, y).T)),
    'a trace of the other product': (
        True, COLUMN, X, lambda m, x, y: -jnp.trace(residuals(m, x, y).T @ residuals(m, x, y))
    ),
    'one axis of both': (True, COLUMN, X, lambda m, x, y: -residuals(m, x, y).ravel() @ residuals(m, x, y).ravel()),
    'a profile likelihood': (True, COLUMN, X, lambda m, x, y: -3 * jnp.log(jnp.sum(residuals(m, x, y) ** 2))),
    'a scan over rows': (True, X, X, summed_by_step(lambda m, x, y, x1, _: normal(m.a.value() * x1, y).sum())),
    'a scan over targets': (True, X, X, summed_by_step(lambda m, x, y, _, y1: normal(m.a.value() * x, y1).sum())),
    'a scan that adds vectors': (
        True, X, X,
        lambda m, x, y: lax.scan(
            lambda c, mean: (c - (y - mean) ** 2, None), jnp.zeros(6), m.a.value() * x
        )[0].sum(),
    ),
    'a scan in a scan': (True, X, X, in_loops),
    'a map': (True, X, X, lambda m, x, y: lax.map(lambda mean: normal(mean, y).sum(), m.a.value() * x).sum()),
    'a loop over rows': (
        True, COLUMN, X,
        lambda m, x, y: lax.fori_loop(0, 6, lambda i, c: c + normal(m.a.value() * x[i], y).sum(), 0.0),
    ),
    'a branch': (
        True, COLUMN, X,
        lambda m, x, y: lax.cond(m.a.value() > 0, lambda: normal(m.a.value() * x, y).sum(), lambda: 0.0),
    ),
    'a diagonal of a product': (
        True, COLUMN, X, lambda m, x, y: -jnp.diag(residuals(m, x, y) @ residuals(m, x, y).T).sum()
    ),
    'inputs of the function itself': (True, X, X, lambda m, x, y: normal(m.a.value() * COLUMN, y).sum()),
    'columns both': (False, COLUMN, COLUMN, lambda m, x, y: normal(m.a.value() * x, y).sum()),
    'rows both': (False, X, X, lambda m, x, y: normal(m.a.value() * x, y).sum()),
    'a Gaussian process': (
        False, X, X,
        lambda m, x, y: dist.MultivariateNormal(0.0, m.a.value() ** 2 * kernel(x) + jnp.eye(6)).log_prob(y),
    ),
    'a quadratic form': (False, X, X, lambda m, x, y: -m.a.value() ** 2 * y @ jnp.linalg.solve(kernel(x), y)),
    'neighbours': (False, X, X, lambda m, x, y: -m.a.value() ** 2 * jnp.sum(kernel(x) * y[:, None] * y)),
    'neighbours of the mean': (False, X, X, lambda m, x, y: normal(jnp.sum(m.a.value() * kernel(x) * y, 1), y).sum()),
    'a risk set': (False, X, X, risk),
    'a ranking': (False, X, X, ranking),
    'a mixture of as many parts': (
        False, X, X,
        lambda m, x, y: jax.nn.logsumexp(normal(m.z.value() + m.a.value(), y[:, None]), axis=1).sum(),
    ),
    'a mixture at the rows': (
        False, X, X, lambda m, x, y: jax.nn.logsumexp(normal(m.a.value() * x, y[:, None]), axis=1).sum()
    ),
    'an inner product of rows': (False, X, X, lambda m, x, y: -residuals(m, x, y) @ residuals(m, x, y)),
    'a trace of columns': (
        False, COLUMN, COLUMN, lambda m, x, y: -jnp.trace(residuals(m, x, y) @ residuals(m, x, y).T)
    ),
    'a scan over rows and targets': (
        False, X, X, summed_by_step(lambda m, x, y, x1, y1: normal(m.a.value() * x1, y1))
    ),
    'a loop over rows and targets': (
        False, X, X,
        lambda m, x, y: lax.fori_loop(0, 6, lambda i, c: c + normal(m.a.value() * x[i], y[i]), 0.0),
    ),
    'a trace of pairs': (False, X, X, lambda m, x, y: jnp.trace(normal(m.a.value() * x, y[:, None]))),
    'a diagonal of pairs': (False, X, X, lambda m, x, y: jnp.diag(normal(m.a.value() * x, y[:, None])).sum()),
    'a risk set by a product': (
        False, X, X,
        lambda m, x, y: -jnp.sum(jnp.log((y >= y[:, None]).astype('f4') @ jnp.exp(m.a.value() * x))),
    ),
    'a risk set in a scan': (
        False, X, X,
        summed_by_step(lambda m, x, y, x1, y1: -jnp.log(jnp.sum(jnp.where(y >= y1, jnp.exp(m.a.value() * x), 0.0)))),
    ),
    'a ranking in a scan': (
        False, X, X,
        summed_by_step(lambda m, x, y, x1, y1: jnp.sum((y1 > y) * jax.nn.log_sigmoid(m.a.value() * (x1 - x)))),
    ),
    'a ranking by an inner product': (
        False, X, X,
        lambda m, x, y: jnp.vdot((y[:, None] > y).astype('f4'), jax.nn.log_sigmoid(m.a.value() * (x[:, None] - x))),
    ),
    'a mixture in a scan': (
        False, X, X, summed_by_step(lambda m, x, y, x1, y1: jax.nn.logsumexp(normal(m.a.value() * x, y1)))
    ),
    'a mixture by a product': (
        False, X, X,
        lambda m, x, y: jnp.log(jnp.exp(normal(m.a.value() * x, y[:, None])) @ jax.nn.softmax(m.z.value())).sum(),
    ),
    'a ratio of densities': (
        False, X, X, lambda m, x, y: m.a.value() - jax.nn.logsumexp(normal(m.a.value() * x, y[:, None]))
    ),
    'a quadrature': (False, X, X, expected),
    'smooth functions of rows': (
        False, X, X, lambda m, x, y: y @ jnp.exp(-((x[:, None] - x) ** 2)) @ m.z.value()
    ),
    'dependence by kernels': (
        False, X, X,
        lambda m, x, y: jnp.vdot(jnp.exp(-((y[:, None] - y) ** 2)), jnp.exp(-m.a.value() * (x[:, None] - x) ** 2)),
    ),
    'weights of pairs by an inner product': (
        False, (X, np.eye(6, dtype='f4')), X, lambda m, x, w, y: jnp.vdot(w, normal(m.a.value() * x, y[:, None]))
    ),
    'a mixture with weights': (
        False, (X, np.eye(6, dtype='f4')), X, lambda m, x, w, y: (w * normal(m.a.value() * x, y[:, None])).sum()
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', SCORES)
def test_pairs_are_told_where_they_are_summed(name):
    pairs, x, y, score = SCORES[name]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        posterior = infer.Posterior(Slope(), x, y, log_likelihood=score)
    assert posterior.inspection.sums_pairs == pairs
    assert any('6 x 6 terms' in text for text in posterior.check().problems) == pairs


# Gradients, jumps, units, moments


class Step(nn.Module):
    def __init__(self, tau):
        super().__init__()
        self.tau = nn.Param(tau, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(jnp.where(x < self.tau.value(), 100.0, 0.0), 1.0)


def test_a_jump_is_no_noise_of_rounding():
    text = repr(infer.Posterior(Step(float(X[2])), X, X).check())
    assert 'jumps by' in text and 'enable_x64' not in text and 'only through steps' in text
    assert 'does not depend' not in text and 'jumps by' not in repr(infer.Posterior(Step(0.1), X, X).check())


def test_a_way_without_gradients_finds_a_step():
    x = np.linspace(-1, 1, 40, dtype='f4')
    posterior = infer.Posterior(Step(0.0), x, np.where(x < 0.4, 100.0, 0.0))
    fit = infer.elliptical_slice(posterior, num_warmup=200, num_samples=200, num_chains=1, **QUIET)
    assert np.abs(fit.draws['tau'] - 0.4).max() < 0.06  # between two of 40 inputs
    assert not any('steps' in text for text in fit.check().problems)


class Rate(nn.Module):
    def __init__(self):
        super().__init__()
        self.k = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self, t):
        return dist.Normal(self.k.value() * u.get_magnitude(t), 0.1)


def test_new_inputs_are_converted_to_the_unit_of_the_fit():
    fit = infer.map(infer.Posterior(Rate(), X * u.ms, X), **QUIET)
    want = fit.predict(X * u.ms, kind='mean')
    np.testing.assert_allclose(fit.predict(X * 1e-3 * u.second, kind='mean'), want, rtol=1e-5)
    scores = fit.score(X * 1e-3 * u.second, X)
    np.testing.assert_allclose(scores['value', 'rmse'], fit.score(X * u.ms, X)['value', 'rmse'], rtol=1e-5)


@pytest.mark.parametrize(('df', 'rows'), [(0.8, set()), (1.5, {'crps'}), (3.0, {'crps', 'rmse'})])
def test_scores_without_expectation_are_left_out(df, rows):
    pytest.importorskip('scoringrules')
    likelihood = lambda m, t: dist.StudentT(df, m.k.value() * t, 0.1)
    fit = infer.laplace(infer.Posterior(Rate(), X, X, likelihood=likelihood), num_draws=100, **QUIET)
    assert set(fit.score().rows) & {'crps', 'rmse'} == rows
