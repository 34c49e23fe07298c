"""The parts of Laplace: Fisher information, Kronecker factors, low rank, which Params move, what is said of priors."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import linalg, stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.information import total_divergence
from brainstate_prob.infer.laplace.curvature import curvature_of
from brainstate_prob.infer.laplace.gaussians import Blocks, Diagonal, Full, Kronecker, LowRank, NotPositiveDefinite

QUIET = {'progress': False, 'num_draws': 5}


# Fisher information, against the mean of the outer product of scores

# family, parameters, points that carry all the probability (None: a grid over the reals, for densities)
FAMILIES = {
    'normal': (dist.Normal, {'loc': 0.3, 'scale': 1.2}, None),
    'student_t': (dist.StudentT, {'df': 4.0, 'loc': 0.3, 'scale': 1.2}, None),
    'cauchy': (dist.Cauchy, {'loc': 0.3, 'scale': 1.2}, None),
    'laplace': (dist.Laplace, {'loc': 0.0, 'scale': 1.2}, None),
    'logistic': (dist.Logistic, {'loc': 0.3, 'scale': 1.2}, None),
    'half_normal': (dist.HalfNormal, {'scale': 1.2}, None),
    'exponential': (dist.Exponential, {'rate': 0.7}, None),
    'gamma': (dist.Gamma, {'concentration': 3.5, 'rate': 0.7}, None),
    'lognormal': (dist.LogNormal, {'loc': 0.1, 'scale': 0.5}, None),
    'poisson': (dist.Poisson, {'rate': 2.3}, np.arange(60)),
    'bernoulli_logits': (dist.BernoulliLogits, {'logits': 0.4}, np.arange(2)),
    'bernoulli_probs': (dist.BernoulliProbs, {'probs': 0.4}, np.arange(2)),
    'binomial_logits': (lambda logits: dist.BinomialLogits(logits, 5), {'logits': 0.4}, np.arange(6)),
    'binomial_probs': (lambda probs: dist.BinomialProbs(probs, 5), {'probs': 0.4}, np.arange(6)),
    'categorical': (
        lambda a, b, c: dist.CategoricalLogits(jnp.stack([a, b, c])),
        {'a': 0.1, 'b': 0.5, 'c': -0.7},
        np.arange(3),
    ),
    'masked': (lambda loc: dist.Normal(loc, 1.2).mask(True), {'loc': 0.3}, None),
    'independent': (lambda loc: dist.Normal(loc[None], 1.2).to_event(1), {'loc': 0.3}, 'vector'),
    'expanded': (lambda logits: dist.BernoulliLogits(logits).expand([1]), {'logits': 0.4}, np.arange(2)[:, None]),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_the_divergence_has_the_fisher_information(name, x64):
    family, given, points = FAMILIES[name]
    phi = jnp.array(list(given.values()))

    def make(phi):
        return family(*phi)

    weight = 1.0
    if points is None or isinstance(points, str):  # y = sinh(t): tails beyond 1e8; none at zero, where supports end
        t = np.linspace(-20, 20, 16000)
        points, weight = np.sinh(t), np.cosh(t) * (t[1] - t[0])
        inside = np.asarray(make(phi).support(jnp.asarray(points)[:, None] if name == 'independent' else points))
        points, weight = points[inside], weight[inside]
        points = points[:, None] if name == 'independent' else points
    points = jnp.asarray(points)

    def log_prob(phi):
        return make(phi).log_prob(points).reshape(len(points))

    probability = jnp.exp(log_prob(phi)) * weight
    assert float(probability.sum()) == pytest.approx(1.0, rel=1e-4)
    score = jax.jacfwd(log_prob)(phi)
    want = (score * probability[:, None]).T @ score
    data = Data((), {}, jnp.zeros((1,) if name in ('independent', 'expanded') else ()), (), 1.0)
    expected = []

    def divergence(moved):
        value, is_expected = total_divergence(make(phi), make(moved), data)
        expected.append(is_expected)
        return value

    np.testing.assert_allclose(jax.grad(divergence)(phi), 0.0, atol=1e-9)
    np.testing.assert_allclose(jax.hessian(divergence)(phi), want, rtol=2e-3, atol=2e-4)
    assert all(expected)


def test_an_unknown_family_has_its_observed_curvature():
    p = dist.VonMises(0.3, 2.0)
    data = Data((), {}, jnp.array([0.1, -0.2]), (), 1.0)
    value, expected = total_divergence(p, p, data)
    assert not expected and float(value) == pytest.approx(-float(p.log_prob(data.targets).sum()))


# Gauss-Newton is the Hessian of a generalized linear model in its canonical form

X = np.random.default_rng(0).normal(size=(15, 3))


class Canonical(nn.Module):
    def __init__(self, family, outputs):
        super().__init__()
        self.w = nn.Param(jnp.zeros((3, outputs), jnp.result_type(float)), reg=dist.Normal(0.0, 1.0))
        self.family = family

    def __call__(self, x):
        return self.family(x @ self.w.value())


CANONICAL = {
    'bernoulli': (lambda f: dist.Bernoulli(logits=f[:, 0]), 1, np.arange(15) % 2),
    'bernoulli_probs': (lambda f: dist.Bernoulli(probs=jax.nn.sigmoid(f[:, 0])), 1, np.arange(15) % 2),
    'poisson': (lambda f: dist.Poisson(jnp.exp(f[:, 0])), 1, np.arange(15) % 4),
    'categorical': (lambda f: dist.Categorical(logits=f), 3, np.arange(15) % 3),
    'gaussian': (lambda f: dist.Normal(f, 0.7).to_event(1), 2, X[:, :2] ** 2),
}


@pytest.mark.parametrize('name', CANONICAL)
def test_gauss_newton_is_the_hessian_of_canonical_models(name, x64):
    family, outputs, y = CANONICAL[name]
    posterior = infer.Posterior(Canonical(family, outputs), jnp.asarray(X), jnp.asarray(y))
    hessian = infer.laplace(posterior, **QUIET)
    ggn = infer.laplace(posterior, curvature='ggn', **QUIET)
    np.testing.assert_allclose(ggn.covariance, hessian.covariance, rtol=1e-6, atol=1e-9)
    if outputs == 1:  # one Param whose second factor is a number: nothing is approximated
        kfac = infer.laplace(posterior, structure='kronecker', **QUIET)
        np.testing.assert_allclose(kfac.covariance, hessian.covariance, rtol=1e-6, atol=1e-9)


def test_kfac_of_one_linear_layer_with_normal_noise_is_exact(x64):
    family, outputs, y = CANONICAL['gaussian']
    posterior = infer.Posterior(Canonical(family, outputs), jnp.asarray(X), jnp.asarray(y))
    kfac = infer.laplace(posterior, structure='kronecker', **QUIET)
    want = np.kron(X.T @ X / 0.49 + np.eye(3), np.eye(2))
    np.testing.assert_allclose(np.linalg.inv(kfac.covariance), want, rtol=1e-7, atol=1e-9)


def test_kfac_of_one_observation_is_exact(x64):
    family, outputs, y = CANONICAL['categorical']
    posterior = infer.Posterior(Canonical(family, outputs), jnp.asarray(X[:1]), jnp.asarray(y[:1]))
    kfac = infer.laplace(posterior, structure='kronecker', **QUIET)
    full = infer.laplace(posterior, curvature='ggn', **QUIET)
    np.testing.assert_allclose(kfac.covariance, full.covariance, rtol=1e-5, atol=1e-7)


class Net(nn.Module):
    """Two layers with unequal priors, one of them entry by entry."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(3)
        self.first = nn.Param(
            jnp.asarray(rng.normal(size=(3, 4))), reg=nn.GaussianReg(0.0, std=jnp.asarray(rng.uniform(0.5, 2, (3, 4))))
        )
        self.bias = nn.Param(jnp.zeros(4, jnp.result_type(float)), reg=dist.Normal(0.0, 1.0))
        self.last = nn.Param(jnp.asarray(rng.normal(size=(4, 2))), reg=dist.Normal(0.0, 2.0))
        self.noise = nn.Param(jnp.asarray(0.5), t=nn.ExpT(), reg=dist.HalfNormal(1.0))

    def __call__(self, x):
        hidden = jnp.tanh(x @ self.first.value() + self.bias.value())
        return dist.Normal(hidden @ self.last.value(), self.noise.value()).to_event(1)


NOT_AT_THE_MODE = pytest.mark.filterwarnings('ignore:The point is')


@pytest.fixture(scope='module')
def net():
    """A posterior and its whole Gauss-Newton Gaussian where the network starts: any point serves to compare."""
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter('ignore', infer.ConvergenceWarning)
        y = np.stack([np.sin(2 * X[:, 0]), X[:, 1] * X[:, 2]], 1)
        posterior = infer.Posterior(Net(), jnp.asarray(X), jnp.asarray(y))
        return posterior, infer.laplace(posterior, curvature='ggn', init='model', **QUIET)


def nearest_kronecker(block, rows, columns):
    """Van Loan and Pitsianis (1993): the best rank-one approximation of the rearranged matrix."""
    rearranged = block.reshape(rows, columns, rows, columns).transpose(0, 2, 1, 3).reshape(rows**2, columns**2)
    left, values, right = np.linalg.svd(rearranged)
    a, b = left[:, 0].reshape(rows, rows), right[0].reshape(columns, columns)
    return values[0] * np.kron(a, b)


@NOT_AT_THE_MODE
def test_kfac_has_the_nearest_kronecker_product_of_each_block(net, x64):
    posterior, full = net
    kfac = infer.laplace(posterior, structure='kronecker', init='model', **QUIET)
    likelihood, prior = (
        np.asarray(m)
        for m in curvature_of(full.density, np.arange(full.density.size), 'ggn').matrices(
            full.mode_theta, posterior.data
        )
    )
    precision = np.linalg.inv(kfac.covariance)
    want = np.zeros_like(precision)
    for name, shape in {'first': (3, 4), 'last': (4, 2), 'bias': (4,), 'noise': ()}.items():
        where = np.ix_(full.columns[name], full.columns[name])
        root = np.sqrt(np.diag(prior[where]))
        white = likelihood[where] / np.outer(root, root)
        white = nearest_kronecker(white, *shape) if len(shape) == 2 else white
        want[where] = white * np.outer(root, root) + prior[where]
    np.testing.assert_allclose(precision, want, atol=2e-4 * np.abs(want).max())


def test_a_convolution_kernel_has_factors_too(x64):
    class Filter(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Param(jnp.zeros((3, 1, 2), jnp.result_type(float)), reg=dist.Normal(0.0, 1.0))

        def __call__(self, x):
            out = jax.lax.conv_general_dilated(
                x, self.kernel.value(), (1,), 'VALID', dimension_numbers=('NHC', 'HIO', 'NHC')
            )
            return dist.Normal(out.sum(1), 1.0).to_event(1)

    signals = np.random.default_rng(4).normal(size=(6, 8, 1))
    posterior = infer.Posterior(Filter(), jnp.asarray(signals), jnp.asarray(signals[:, :2, 0]))
    windows = np.stack([signals[:, i : i + 6, 0].sum(1) for i in range(3)], 1)
    kfac = infer.laplace(posterior, structure='kronecker', **QUIET)
    want = np.kron(windows.T @ windows + np.eye(3), np.eye(2))
    np.testing.assert_allclose(np.linalg.inv(kfac.covariance), want, rtol=1e-6, atol=1e-8)


@NOT_AT_THE_MODE
def test_low_rank_approaches_the_whole_from_the_prior(net, x64):
    posterior, full = net

    def fit(rank):
        return infer.laplace(posterior, structure='low_rank', rank=rank, curvature='ggn', init='model', **QUIET)

    fits = {rank: fit(rank) for rank in (3, 10, 25)}
    np.testing.assert_allclose(fits[25].covariance, full.covariance, rtol=1e-6, atol=1e-9)
    errors = [np.linalg.norm(f.covariance - full.covariance) for f in fits.values()]
    assert errors[0] > errors[1] > errors[2]
    # the largest relative eigenvalues are kept: the best possible log-determinant from below
    prior = np.diag(curvature_of(full.density, np.arange(25), 'ggn').matrices(full.mode_theta, posterior.data)[1])
    relative = linalg.eigvalsh(np.linalg.inv(full.covariance), np.diag(prior))
    want = np.log(prior).sum() + np.log(np.sort(relative)[-10:]).sum()
    assert fits[10].gaussian.log_det == pytest.approx(want, rel=1e-6)


@NOT_AT_THE_MODE
def test_the_diagonal_taken_one_observation_at_a_time_is_the_same(net, x64, monkeypatch):
    from brainstate_prob.infer.laplace import structures

    posterior, full = net
    by_columns = infer.laplace(posterior, structure='diagonal', curvature='ggn', init='model', **QUIET)
    monkeypatch.setattr(structures, '_FEW', 1)
    by_rows = infer.laplace(posterior, structure='diagonal', curvature='ggn', init='model', **QUIET)
    np.testing.assert_allclose(np.diag(by_rows.covariance), np.diag(by_columns.covariance), rtol=1e-9)
    np.testing.assert_allclose(np.diag(by_rows.covariance), 1 / np.diag(np.linalg.inv(full.covariance)), rtol=1e-6)


# Which Params move

SUBSETS = [
    ('last', ['last']),
    (('last',), ['last']),
    (['bias', 'noise'], ['bias', 'noise']),
    (lambda path, param: param.t == nn.ExpT(), ['noise']),
    ('model.last', ['last']),
    ('model', ['first', 'bias', 'last', 'noise']),
]


@NOT_AT_THE_MODE
@pytest.mark.parametrize('spec, names', SUBSETS, ids=['name', 'path', 'list', 'predicate', 'Param', 'Module'])
def test_a_subset_moves_and_the_others_are_held(net, x64, spec, names):
    posterior, full = net
    if isinstance(spec, str) and spec.startswith('model'):
        spec = posterior.model if spec == 'model' else posterior.model.last
    fit = infer.laplace(posterior, params=spec, curvature='ggn', init='model', **QUIET)
    moved = np.sort(np.concatenate([full.columns[name] for name in names]))
    want = np.zeros((25, 25))
    want[np.ix_(moved, moved)] = np.linalg.inv(np.linalg.inv(full.covariance)[np.ix_(moved, moved)])
    np.testing.assert_allclose(fit.covariance, want, rtol=1e-6, atol=1e-12)
    for name in {'first', 'bias', 'last', 'noise'} - set(names):
        assert (fit.rows[:, fit.columns[name]] == full.mode_theta[full.columns[name]]).all()
    assert set(fit.info['params']) == set(names)
    assert fit.predict(linearized=True).shape == (5, 15, 2)


def test_the_evidence_of_a_subset_is_given_the_held_ones(x64):
    """A linear last layer over fixed features: a Gaussian integral."""

    class Readout(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Param(jnp.ones(()), reg=dist.Normal(0.0, 1.0))
            self.w = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))

        def __call__(self, x):
            return dist.Normal(jnp.tanh(self.features.value() * x) @ self.w.value(), 0.5)

    posterior = infer.Posterior(Readout(), jnp.asarray(X), jnp.asarray(X[:, 0]))
    fit = infer.laplace(posterior, params='w', **QUIET)
    features = np.tanh(float(fit.mode['features']) * X)
    want = stats.multivariate_normal(np.zeros(15), features @ features.T + 0.25 * np.eye(15)).logpdf(X[:, 0])
    assert fit.log_marginal_likelihood == pytest.approx(want, rel=1e-9)


# Priors that are not log-concave


class Heavy(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.w = nn.Param(jnp.full(shape, 5.0), reg=dist.Cauchy(0.0, 0.1))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value().reshape(3), 4.0)


@NOT_AT_THE_MODE
@pytest.mark.filterwarnings('ignore:Prior and data disagree')  # they do: the weights are fifty scales out
def test_negative_curvature_of_a_prior_is_said():
    x = jnp.asarray(0.1 * X, float)
    posterior = infer.Posterior(Heavy((3,)), x, x @ jnp.full(3, 5.0))
    with pytest.warns(infer.ConvergenceWarning, match=r"curves upwards along 'w'.*taken as zero"):
        fit = infer.laplace(posterior, curvature='ggn', init='model', **QUIET)
    want = np.asarray(x, np.float64).T @ np.asarray(x) / 16
    prior = np.diag(2 * (0.01 - 25) / (25.01) ** 2 * np.ones(3))
    assert np.linalg.eigvalsh(want + prior)[0] < 0  # or there were nothing to do
    np.testing.assert_allclose(np.linalg.inv(fit.covariance), want, rtol=1e-4)
    posterior = infer.Posterior(Heavy((3, 1)), x, x @ jnp.full(3, 5.0))
    with pytest.warns(infer.ConvergenceWarning, match=r"prior of 'w' .* the mean of its curvature"):
        fit = infer.laplace(posterior, structure='kronecker', init='model', **QUIET)
    np.testing.assert_allclose(np.linalg.inv(fit.covariance), want, rtol=1e-4)


# The Gaussians themselves


def gaussians():
    rng = np.random.default_rng(9)
    root = rng.normal(size=(6, 6)) * 10.0 ** np.arange(-3, 3)
    dense = root.T @ root + np.diag(10.0 ** np.arange(-6, 6, 2))
    a, b = (m @ m.T + np.eye(len(m)) for m in (rng.normal(size=(3, 3)), rng.normal(size=(2, 2))))
    scale = rng.uniform(0.5, 2.0, 6)
    diagonal = rng.uniform(0.5, 2.0, 6)
    kron = np.diag(scale) @ (np.kron(a, b) + 0.3 * np.eye(6)) @ np.diag(scale)
    yield 'full', Full.of(dense), dense
    yield 'diagonal', Diagonal.of(diagonal), np.diag(diagonal)
    yield 'low_rank', LowRank.of(lambda v: dense @ v, np.diag(dense).copy(), 6), dense
    yield 'kronecker', Kronecker.of(a, b, scale, 0.3), kron
    yield 'blocks', Blocks([Full.of(dense), Kronecker.of(a, b, scale, 0.3)]), linalg.block_diag(dense, kron)


@pytest.mark.parametrize('name, gaussian, precision', list(gaussians()), ids=lambda v: v if isinstance(v, str) else '')
def test_roots_solutions_and_determinants(name, gaussian, precision):
    roots = gaussian.spread(np.eye(gaussian.size))
    covariance = np.linalg.inv(precision)
    sds = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(roots.T @ roots / np.outer(sds, sds), covariance / np.outer(sds, sds), atol=1e-7)
    assert gaussian.log_det == pytest.approx(np.linalg.slogdet(precision)[1], rel=1e-9)
    gradient = np.linspace(-1.0, 1.0, gaussian.size)
    np.testing.assert_allclose(precision @ gaussian.solve(gradient), gradient, atol=1e-6)


@pytest.mark.parametrize(
    'build',
    [
        lambda: Full.of(np.diag([1.0, -1.0])),
        lambda: Full.of(np.ones((2, 2)), 1e-9),
        lambda: Diagonal.of(np.array([1.0, 0.0])),
        lambda: LowRank.of(lambda v: -v, np.ones(3), 2),
        lambda: Kronecker.of(np.zeros((2, 2)), np.eye(2), np.ones(4), 0.0),
    ],
)
def test_what_is_no_precision_is_refused(build):
    with pytest.raises(NotPositiveDefinite):
        build()


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize(
    'make',
    [
        lambda bad: Full.of(np.diag([1.0, bad, 2.0])),
        lambda bad: Diagonal.of(np.array([1.0, bad, 2.0])),
        lambda bad: LowRank.of(lambda v: v, np.array([1.0, bad, 2.0]), 1),
    ],
    ids=['full', 'diagonal', 'low_rank'],
)
def test_a_precision_that_is_not_finite_is_refused(make, value):
    with pytest.raises(NotPositiveDefinite) as error:
        make(value)
    assert np.isnan(error.value.curvature) and np.argmax(error.value.direction) == 1
