"""The words of the public interface: one name a concern, one order of the options of a run."""

import inspect

import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn

# fmt: off
WAYS = [
    'map', 'svi', 'marginal_likelihood', 'laplace', 'nuts', 'sgmcmc', 'smc', 'pathfinder', 'ensemble', 'swag',
    'mc_dropout', 'chees', 'meads', 'mclmc', 'hmc_ecs', 'elliptical_slice',
]
# fmt: on
OF_A_RUN = ['seed', 'devices', 'chain_method', 'checkpoint', 'checkpoint_every', 'progress']
OLD = {'start', 'mode', 'fit', 'reference', 'every', 'hyper', 'max_steps', 'num_iterations', 'thin', 'n_chains'}
RENAMED = {'fit_map': 'map', 'fit_svi': 'svi', 'fit_marginal_likelihood': 'marginal_likelihood'}
# way, old option, new option
OPTIONS = [
    ('nuts', 'every', 'checkpoint_every'),
    ('laplace', 'mode', 'init'),
    ('swag', 'start', 'init'),
    ('mc_dropout', 'fit', 'init'),
    ('hmc_ecs', 'reference', 'init'),
    ('marginal_likelihood', 'hyper', 'params'),
    ('pathfinder', 'max_steps', 'num_steps'),
]


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


POSTERIOR = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))


@pytest.mark.parametrize('way', WAYS)
def test_options_of_a_run_come_last_in_one_order(way):
    names = list(inspect.signature(getattr(infer, way)).parameters)
    run = [name for name in names if name in OF_A_RUN]
    assert run == [name for name in OF_A_RUN if name in run] == names[-len(run) :]
    assert {'seed', 'progress'} <= set(run)
    assert not OLD & set(names)


@pytest.mark.parametrize('old', RENAMED)
def test_an_old_way_to_fit_names_the_new_one(old):
    with pytest.raises(AttributeError, match=f'It is infer.{RENAMED[old]}'):
        getattr(infer, old)


@pytest.mark.parametrize('way, old, new', OPTIONS)
def test_an_old_option_names_the_new_one(way, old, new):
    with pytest.raises(TypeError, match=f"has no argument '{old}'. Did you mean '{new}'"):
        getattr(infer, way)(POSTERIOR, **{old: 1})


def test_a_misspelt_way_to_fit_names_the_nearest():
    with pytest.raises(AttributeError, match="Did you mean 'laplace'"):
        _ = infer.laplas
