"""Models in bfloat16 and float16: fitted, diagnosed, summarized, saved and predicted from, in every way to fit."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import WAYS

X = np.random.default_rng(0).normal(size=(20, 2))
Y = X @ np.array([1.0, -1.0]) + 0.3 * np.random.default_rng(1).normal(size=20)
# Of chains enough draws that their diagnostics look at them.
LONG = {'num_samples': 110}
MORE = {
    'nuts': LONG,
    'barker': LONG,
    'elliptical_slice': LONG,
    'sgmcmc': {**LONG, 'step_size': 1e-3},
    'hmc_ecs': {'batch_size': 8},
}


class Line(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2, dtype), reg=dist.Normal(0.0, 1.0))
        self.drop = nn.Dropout(0.8)

    def __call__(self, x):
        return dist.Normal(self.drop(x) @ self.w.value(), jnp.asarray(0.5, x.dtype))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('way', WAYS)
def test_all_that_follows_from_a_fit(way, dtype, tmp_path):
    run, options = WAYS[way]
    posterior = infer.Posterior(Line(dtype), jnp.asarray(X, dtype), jnp.asarray(Y, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of runs of a few draws, and of few digits
        fit = run(posterior, **{**options, **MORE.get(way, {})})
        assert not [text for text in fit.info.get('warnings', []) if 'could not be computed' in text]
        assert len(fit.summary()) == 2 and fit.check() is not None
        assert np.isfinite(fit.score(num_draws=20)['value', 'nll'])
        fit.to_arviz()
        fit.save(tmp_path / 'fit.nc', log_likelihood=True)
        read = infer.load(tmp_path / 'fit.nc', posterior)
    np.testing.assert_array_equal(read.thetas, fit.thetas)
    assert {name: x.dtype for name, x in read.stats.items()} == {name: x.dtype for name, x in fit.stats.items()}
    np.testing.assert_array_equal(read.predict(kind='mean'), fit.predict(kind='mean'))
