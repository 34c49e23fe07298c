"""Models compared through ArviZ: the better one first, and what it cannot do said."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.results.arviz_io import import_arviz, is_old

X = np.linspace(-1, 1, 40, dtype='f4')
Y = (2 * X + np.random.default_rng(0).normal(size=40)).astype('f4')


class Line(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Const(slope)
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 2.0))

    def __call__(self, x):
        return dist.Normal(self.mu.value() + self.slope.value() * x, 1.0)


def line(slope, num=40, **kwargs):
    """Evenly spread draws of the known posterior of the mean."""
    posterior = infer.Posterior(Line(slope), X[:num], Y[:num], **kwargs)
    centre = (Y[:num] - slope * X[:num]).sum() / (num + 0.25)
    z = np.random.default_rng(1).permutation(scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000))
    draws = centre + z.reshape(2, 500, 1) / np.sqrt(num + 0.25)
    return infer.Fit(posterior.target, draws.astype('f4'), method='exact')


@pytest.fixture(scope='module')
def fits():
    return {'flat': line(0.0), 'right': line(2.0)}


def elpd(found):
    return float(found.elpd_loo if hasattr(found, 'elpd_loo') else found.elpd)


def test_leave_one_out_is_that_of_the_known_posterior(fits):
    """Leaving one out, the predictive distribution is normal in closed form."""
    for slope, fit in ((0.0, fits['flat']), (2.0, fits['right'])):
        r = Y.astype('f8') - slope * X
        precision = 40 - 1 + 0.25
        mean, variance = (r.sum() - r) / precision, 1 + 1 / precision
        want = np.sum(-0.5 * np.log(2 * np.pi * variance) - (r - mean) ** 2 / (2 * variance))
        assert elpd(fit.loo()) == pytest.approx(want, abs=0.05)


def test_the_better_model_comes_first(fits):
    table = infer.compare(fits)
    assert list(table.index) == ['right', 'flat']
    column = 'elpd_loo' if 'elpd_loo' in table else 'elpd'
    assert table[column].iloc[0] == pytest.approx(elpd(fits['right'].loo()), abs=0.06)  # ArviZ 1.x rounds


def test_waic_where_arviz_has_it(fits):
    if is_old(import_arviz()):
        assert float(fits['right'].waic().elpd_waic) == pytest.approx(elpd(fits['right'].loo()), abs=0.1)
    else:
        with pytest.raises(NotImplementedError, match=r'removed WAIC.*use fit.loo\(\)'):
            fits['right'].waic()


def free():
    posterior = infer.Posterior(Line(0.0), log_likelihood=lambda model: -jnp.square(model.mu.value()))
    return infer.Fit(posterior.target, np.zeros((2, 50, 1), 'f4'), method='exact')


@pytest.mark.parametrize(
    ('call', 'match'),
    [
        (lambda f: infer.compare({'one': f['flat']}), 'at least two fits by name'),
        (lambda f: infer.compare({'all': f['flat'], 'half': line(0.0, 20)}), "numbers of observations are {'all': 40"),
        (lambda f: infer.map(f['flat'].posterior, progress=False).loo(), "needs draws of the posterior; 'map'"),
        (lambda f: free().loo(), 'this posterior has no targets'),
    ],
)
def test_what_cannot_be_compared_says_so(fits, call, match):
    with pytest.raises(ValueError, match=match):
        call(fits)
