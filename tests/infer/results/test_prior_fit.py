"""Draws of the prior: right in distribution, hierarchical and truncated ones too; what they predict; refusals."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn
from brainstate_prob.core import ParamState
from brainstate_prob.infer.results.arviz_io import import_arviz, is_old
from tests.support.rich_model import compilations

NUM = 2000
# Each Kolmogorov-Smirnov test below has a fixed seed and would raise a false alarm at one in a hundred thousand seeds.
LEVEL = 1e-5


class Everything(nn.Module):
    """Hierarchical over two levels, truncated, ordered, on a simplex, with units, on theta."""

    def __init__(self):
        super().__init__()
        self.tau = nn.Param(1.0 * u.mV, t=nn.ExpT(0.0 * u.mV), reg=dist.HalfNormal(1.0))
        self.mu = nn.Param(0.0 * u.mV, reg=nn.GaussianReg(1.0, 2.0))
        # Drawn last, though its path comes first.
        self.aaa = nn.Param(jnp.zeros(3) * u.mV, reg=nn.GaussianReg(self.mu, self.tau), dims=('cell',))
        self.half = nn.Param(jnp.ones(4), t=nn.SoftplusT(0.0), reg=dist.Normal(0.5, 1.0))
        self.order = nn.Param(jnp.arange(5.0), t=nn.OrderedT(), reg=dist.Normal(0.0, 1.0))
        self.share = nn.Param(jnp.ones(3) / 3, t=nn.SimplexT(), reg=nn.DirichletReg(alpha=jnp.array([1.0, 2.0, 3.0])))
        self.logit = nn.Param(0.5, t=nn.SigmoidT(0.0, 1.0), reg=dist.Normal(0.0, 1.5), prior_on='unconstrained')

    def __call__(self):
        return infer.of_quantities(dist.Normal, self.aaa.value(), 1.0 * u.mV)


def posterior():
    return infer.Posterior(Everything(), targets=jnp.zeros(3) * u.mV, coords={'cell': ['a', 'b', 'c']})


@pytest.fixture(scope='module')
def drawn():
    return infer.sample_prior(posterior(), NUM)


def marginals(m):
    """What should be a draw of what, entry by entry."""
    return {
        'tau': (m['tau'], stats.halfnorm()),
        'mu': (m['mu'], stats.norm(1.0, 2.0)),
        'aaa given mu and tau': ((m['aaa'][..., 1] - m['mu']) / m['tau'], stats.norm()),
        'half': (m['half'][..., 2], stats.truncnorm(-0.5, np.inf, 0.5, 1.0)),
        'the largest of five': (m['order'][..., -1], _Largest()),
        'share': (m['share'][..., 0], stats.beta(1.0, 5.0)),
        'logit': (np.log(m['logit'] / (1 - m['logit'])), stats.norm(0.0, 1.5)),
    }


class _Largest:
    @staticmethod
    def cdf(x):
        return stats.norm().cdf(x) ** 5


def test_every_parameter_has_the_distribution_of_its_prior(drawn):
    for name, (x, law) in marginals(drawn.magnitudes).items():
        assert stats.kstest(x.ravel(), law.cdf).pvalue > LEVEL, name


def test_it_is_a_fit_with_units_dims_and_a_summary(drawn):
    assert drawn.method == 'prior' and drawn.thetas.shape == (1, NUM, drawn.density.size)
    assert drawn.draws['mu'].unit == u.mV and drawn.draws['aaa'].shape == (1, NUM, 3)
    assert 'aaa[cell=b]' in drawn.summary().to_dict()
    assert drawn.evaluate(lambda model: model.mu.value() * 2).unit == u.mV


def test_the_prior_is_what_the_log_density_says():
    """NUTS without data has the same draws: hierarchical and truncated Params together."""

    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.LogNormal(0.0, 0.5))
            self.x = nn.Param(1.0, t=nn.SoftplusT(0.0), reg=nn.GaussianReg(-1.0, self.tau))

    posterior = infer.Posterior(Truncated())
    exact = infer.sample_prior(posterior, NUM)
    fit = infer.nuts(posterior, num_warmup=500, num_samples=1000, thinning=2, progress=False)
    for name in ('tau', 'x'):
        # The draws are correlated, as if half as many, so the level is one in a thousand.
        assert stats.ks_2samp(exact.magnitudes[name].ravel(), fit.magnitudes[name].ravel()[::2]).pvalue > 1e-3, name
    # It matters: where tau is small x > 0 is rare, so tau given it is larger than its own prior says.
    assert exact.magnitudes['tau'].mean() > 1.2 * np.exp(0.5**2 / 2)


# Predictions


def test_predictions_have_the_parameters_spread(drawn):
    y = infer.prior_predictive(posterior(), NUM)
    assert y.shape == (NUM, 3) and y.unit == u.mV
    # Normal(mu, tau) plus noise: variance 4 + 1 + 1. The sd of 2000 draws has error 1.6 %; five of these.
    np.testing.assert_allclose(y.mantissa.std(axis=0), np.sqrt(6.0), rtol=0.08)
    same = infer.prior_predictive(posterior(), NUM)
    np.testing.assert_array_equal(same.mantissa, y.mantissa)
    assert not np.array_equal(infer.prior_predictive(posterior(), NUM, seed=1).mantissa, y.mantissa)


def test_predictions_at_inputs_of_a_bare_model():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

        def __call__(self, x):
            return dist.Normal(x @ self.w.value(), 0.1)

    x = np.array([[1.0, 0.0], [100.0, 0.0], [0.0, 0.0]], np.float32)
    y = infer.prior_predictive(Line(), 500, inputs=x)
    np.testing.assert_allclose(y.std(axis=0), [1.005, 100.0, 0.1], rtol=0.16)  # five standard errors of 500 draws


def test_groups_of_arviz_and_files(drawn, tmp_path):
    found = drawn.to_arviz()
    groups = set(found.groups() if is_old(import_arviz()) else found.children)
    assert {'prior', 'prior_predictive', 'observed_data'} <= groups
    assert not {'posterior', 'posterior_predictive', 'log_likelihood'} & groups
    assert found['prior']['aaa'].dims == ('chain', 'draw', 'cell') and found['prior']['aaa'].attrs['units'] == 'mV'
    drawn.save(tmp_path / 'prior.nc')
    for other in (infer.load(tmp_path / 'prior.nc'), infer.load(tmp_path / 'prior.nc', posterior())):
        assert other.method == 'prior'
        np.testing.assert_array_equal(other.magnitudes['order'], drawn.magnitudes['order'])
        assert 'prior' in (other.to_arviz().groups() if is_old(import_arviz()) else other.to_arviz().children)


# Reproducible


def test_seeds_lengths_and_compilation(drawn):
    for num in (1, 60, 700, 3000):
        with compilations() as compiled:
            again = infer.sample_prior(posterior(), num, seed=jax.random.key(0))
            other = infer.sample_prior(posterior(), num, seed=1)
        assert compiled == [], f'{num} draws'
        least = min(num, NUM)
        np.testing.assert_array_equal(again.thetas[:, :least], drawn.thetas[:, :least])
        assert other.num_draws == num and not np.any(other.thetas[:, :least] == drawn.thetas[:, :least])
        assert len(np.unique(again.thetas, axis=1)[0]) == num


def test_double_precision(x64):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Param(np.float64(1.0), t=nn.SoftplusT(0.0), reg=dist.Normal(0.0, 1.0))

    infer.sample_prior(One(), 60)
    with compilations() as compiled:
        drawn = infer.sample_prior(One(), NUM)
    assert compiled == []
    x = drawn.draws['x']
    assert x.dtype == np.float64 and stats.kstest(x.ravel(), stats.halfnorm().cdf).pvalue > LEVEL


# Refusals


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.w = ParamState(jnp.zeros(2))


def one(**settings):
    model = nn.Module()
    model.layer = nn.Module()
    model.layer.w = nn.Param(settings.pop('value', 0.5), **settings)
    return model


REFUSED = {
    'no prior': (lambda: one(), r"'layer.w' has no prior.*reg="),
    'a bare ParamState': (Plain, r"'inner.w' has no prior.*nn.with_prior"),
    'no density': (
        lambda: one(value=jnp.zeros(4), reg=nn.TotalVariationReg(weight=1.0)),
        r"'layer.w' has the prior TotalVariationReg.*cannot be normalized",
    ),
    'a power': (lambda: one(reg=nn.GaussianReg(0.0, 1.0, weight=2.0)), r"'layer.w'.*weight 2.*std / sqrt"),
    'outside': (
        lambda: one(value=1.0, t=nn.SoftplusT(0.0), reg=dist.Normal(-50.0, 1.0)),
        r"'layer.w': of 10000 draws .*none lay in the codomain.*truncated",
    ),
    'a flat space': (
        lambda: one(value=jnp.ones(3) / 3, t=nn.SimplexT(), reg=dist.Normal(0.0, 1.0)),
        r"'layer.w': of 10000 draws",
    ),
}


@pytest.mark.parametrize('name', REFUSED)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_what_has_no_draws_is_refused_by_path(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        infer.sample_prior(make(), 5)


def test_bad_arguments():
    with pytest.raises(TypeError, match='takes a Posterior or a Module, got int'):
        infer.sample_prior(3)
    with pytest.raises(ValueError, match='num_draws .* at least 1, got 0'):
        infer.sample_prior(one(reg=dist.Normal()), 0)
    with pytest.raises(ValueError, match='log_likelihood=f'):
        infer.prior_predictive(infer.Posterior(one(reg=dist.Normal()), log_likelihood=lambda m: 0.0), 5)
