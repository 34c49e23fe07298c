"""Multi-path Pathfinder against closed forms, and what it says where it fails."""

import sys

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.diagnostics.psis import smoothed_weights
from brainstate_prob.infer.variational.pathfinder import _mixture, _uphill
from tests.support.rich_model import compilations

# One parameter keeps its prior on purpose, as an exact marginal.
pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ModelWarning')
COUNTS = {'calls': 0}
QUICK = {'num_paths': 4, 'num_draws': 1000, 'num_steps': 100, 'num_elbo_draws': 10}


class Rate(nn.Module):
    """Gamma prior, Gamma posterior; skewed in theta, so that the Gaussian is wrong and the weights put it right."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Param(2.0 * u.Hz, t=nn.ExpT(0.0 * u.Hz), reg=nn.GammaReg(alpha=2.0, beta=1.0 / u.Hz))
        self.free = nn.Param(0.0, reg=dist.Normal(1.0, 2.0))

    def __call__(self, duration):
        COUNTS['calls'] += 1
        return dist.Poisson(self.rate.value() / u.Hz * duration)


DURATION = np.array([0.5, 1.0, 1.5])


def counts(y=(30, 90, 120)):
    return infer.Posterior(Rate(), jnp.asarray(DURATION), jnp.asarray(y))


def weighted(x, weights):
    mean = np.average(x, weights=weights)
    return mean, np.sqrt(np.average((x - mean) ** 2, weights=weights))


def test_the_weighted_draws_are_those_in_closed_form_and_a_second_fit_compiles_nothing():
    posterior = counts()
    fit = infer.pathfinder(posterior, **QUICK)
    calls = COUNTS['calls']
    with compilations() as compiled:
        other = infer.pathfinder(counts((40, 60, 140)), **QUICK, seed=4)
    assert compiled == [] and COUNTS['calls'] == calls + 1  # the trace of the new posterior
    assert not np.array_equal(other.thetas, fit.thetas)
    exact = dist.Gamma(2.0 + 240, 1.0 + 3.0)
    weights = fit.weights[0]
    # At least 300 effective draws (tested): 5 standard errors, once in 10^6 runs.
    assert fit.info['ess'] > 300 and fit.info['k_hat'] < 0.7 and fit.info['warnings'] == []
    for x, mean, sd in (
        (u.get_magnitude(fit.draws['rate'])[0], float(exact.mean), float(np.sqrt(exact.variance))),
        (fit.draws['free'][0], 1.0, 2.0),
    ):
        found = weighted(np.asarray(x, np.float64), weights)
        assert abs(found[0] - mean) < 5 / np.sqrt(300) * sd
        assert abs(found[1] / sd - 1) < 5 / np.sqrt(2 * 300) * 1.5  # a skewed one's sd is less certain
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(fit.stats['lp'][0, 0], posterior.log_density(fit.thetas[0, 0]), rtol=1e-5)
    assert fit.draws['rate'].unit == u.Hz and not fit.is_markov
    assert infer.k_hat(fit) == pytest.approx(fit.info['k_hat'], abs=1e-3)
    np.testing.assert_array_equal(infer.pathfinder(posterior, **QUICK).thetas, fit.thetas)


@pytest.mark.filterwarnings('ignore:k-hat')  # of 60 draws it is near its limit
def test_more_draws_compile_nothing_and_the_first_ones_stay():
    first = infer.pathfinder(counts(), **QUICK | {'num_draws': 60})
    posterior = counts()
    calls = COUNTS['calls']
    for num in (100, 700, 3000):  # of each path 25 in one block, 175 in two, 750 in six
        with compilations() as compiled:
            fit = infer.pathfinder(posterior, **QUICK | {'num_draws': num})
        assert compiled == [] and COUNTS['calls'] == calls, f'{num} draws'
        assert fit.num_draws == num and len(np.unique(fit.thetas, axis=1)[0]) == num
        paths = fit.thetas.reshape(4, num // 4, -1)
        np.testing.assert_array_equal(paths[:, :15], first.thetas.reshape(4, 15, -1))
        np.testing.assert_allclose(fit.stats['log_q'].reshape(4, -1)[:, :15].ravel(), first.stats['log_q'][0])


@pytest.mark.parametrize('num, scale', [(20, 1.0), (500, 0.1), (500, 1.0), (500, 4.0)])
def test_smoothed_weights_are_those_of_blackjax(x64, num, scale):
    diagnostics = pytest.importorskip('blackjax').diagnostics
    log_ratios = scale * np.random.default_rng(num).standard_exponential(num) - 700.0
    expected, shape = diagnostics.psis_weights(jnp.asarray(log_ratios))
    assert num < 25 or (shape >= 1 / 3) == (scale > 0.5)  # light tails stay, heavy ones are smoothed
    np.testing.assert_allclose(smoothed_weights(log_ratios), np.exp(expected), rtol=1e-6)


def test_weights_where_almost_all_are_lost():
    log_ratios = np.full(100, -1e4)
    log_ratios[:3] = 0.0
    np.testing.assert_allclose(smoothed_weights(log_ratios), [1 / 3] * 3 + [0.0] * 97)


def test_weights_with_too_heavy_a_tail_are_told(monkeypatch):
    """The limit is lowered, for a posterior that the paths see well."""
    monkeypatch.setattr(sys.modules['brainstate_prob.infer.variational.pathfinder'], 'k_hat_limit', lambda num: -1.0)
    with pytest.warns(infer.ConvergenceWarning, match=r'k-hat .*1000 draws.* infer.nuts\(posterior, init=fit\)'):
        fit = infer.pathfinder(counts(), **QUICK)
    assert len(fit.info['warnings']) == 1 and len(fit.info['elbo']) == 4


def gaussians(vi, num, size=3):
    """Steps of paths: L-BFGS's factors of two updates, by hand."""
    rng = np.random.default_rng(0)
    beta, root = rng.normal(size=(num, size, 2)), 0.5 * rng.normal(size=(num, 2, 2))
    return vi.PathfinderState(
        elbo=jnp.zeros(num),
        position=jnp.asarray(rng.normal(size=(num, size))),
        grad_position=jnp.asarray(rng.normal(size=(num, size))),
        alpha=jnp.asarray(rng.uniform(0.5, 2.0, (num, size))),
        beta=jnp.asarray(beta),
        gamma=jnp.asarray(root @ root.swapaxes(1, 2)),
    )


def test_draws_are_around_the_newton_step_uphill_and_their_mixture_is_known(x64):
    """Drawn by BlackJAX; mean, covariance and density by the formula of the paper."""
    vi = pytest.importorskip('blackjax').vi.pathfinder
    steps = gaussians(vi, 2)
    along = _uphill(vi, steps)
    steps = steps._replace(grad_position=steps.grad_position * along)
    expected = []
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], steps)
        draws, log_q = vi.sample(jax.random.key(i), one, 20000)
        cov = np.diag(one.alpha) + one.beta @ one.gamma @ one.beta.T
        mean = one.position - cov @ (along * one.grad_position)  # minus: the gradient is that of minus the log density
        # 20000 draws: 5 standard errors.
        assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(cov) / 20000))
        alone = jax.tree.map(lambda x: x[None], one)
        np.testing.assert_allclose(_mixture(vi, alone, draws[None, :10])[0], log_q[:10], rtol=1e-6)
        expected.append((mean, cov))
    both = _mixture(vi, steps, draws[None, :10])[0]
    each = [dist.MultivariateNormal(mean, cov).log_prob(draws[:10]) for mean, cov in expected]
    np.testing.assert_allclose(both, np.logaddexp(*each) - np.log(2), rtol=1e-6)


class One(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.x = nn.Param(0.5, reg=dist.Normal(0.0, 1.0), **options)

    def __call__(self):
        return dist.Normal(self.x.value(), 1.0)


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="'x'.*not a bijection"):
        infer.pathfinder(infer.Posterior(One(t=nn.ClipT(0.0, 1.0)), targets=jnp.zeros(1)))


@pytest.mark.parametrize(
    'wrong, error',
    [
        ({'num_paths': 0}, ValueError),
        ({'num_draws': 10}, ValueError),
        ({'num_steps': 1.5}, ValueError),
        ({'num_elbo_draws': 0}, ValueError),
        ({'init': 'nowhere'}, ValueError),
    ],
)
def test_bad_arguments(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        infer.pathfinder(counts(), **QUICK | wrong)


def test_without_blackjax_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'blackjax', None)
    with pytest.raises(ImportError, match=r'brainstate-prob\[samplers\]'):
        infer.pathfinder(counts())
