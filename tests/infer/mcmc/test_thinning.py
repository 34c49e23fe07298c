"""One meaning of ``thinning``: ``num_samples`` steps after the warm-up, of which each ``thinning``-th is kept."""

import inspect

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import WAYS
from tests.support.slow_rows import slow_rows

pytest.importorskip('blackjax')
THINNED = [way for way, (fit, _) in WAYS.items() if 'thinning' in inspect.signature(fit).parameters]
OPTIONS = {
    'mclmc': {'num_warmup': 100, 'num_chains': 2},
    'hmc_ecs': {'batch_size': 4},
    'sgmcmc': {'step_size': 1e-3},
    'elliptical_slice': {'chain_method': 'sequential'},
    'nuts': {'chain_method': 'sequential'},
    'barker': {'chain_method': 'sequential'},
}


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


def test_all_ways_that_thin_are_in_the_table():
    assert set(THINNED) == {'nuts', 'barker', 'sgmcmc', 'chees', 'meads', 'mclmc', 'hmc_ecs', 'elliptical_slice'}


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('way', slow_rows(THINNED, ['chees', 'meads', 'mclmc', 'hmc_ecs']))
def test_every_third_of_the_steps_is_kept(way):
    """13 steps give 4 draws: the 3rd, 6th, 9th and 12th of those that a run without thinning has."""
    fit, options = WAYS[way]
    x = jnp.linspace(-1.0, 1.0, 24).reshape(12, 2)
    options = options | {'seed': 3, 'num_samples': 13} | OPTIONS.get(way, {})
    every = fit(infer.Posterior(Line(), x, x[:, 0]), **options | {'thinning': 1})
    third = fit(infer.Posterior(Line(), x, x[:, 0]), **options | {'thinning': 3})
    assert every.num_draws == 13 and third.num_draws == 13 // 3
    np.testing.assert_allclose(third.thetas, every.thetas[:, 2:12:3], rtol=1e-4, atol=1e-5)  # rounding of one program
