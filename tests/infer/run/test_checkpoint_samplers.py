"""The further samplers from checkpoints: stopped and made longer, they give the draws of one uninterrupted run.

That they do when killed at any moment is shown beside the other ways to fit, in test_checkpoint.py.
"""

import importlib.util
import shutil
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.run import checkpoint as checkpoints
from brainstate_prob.infer.run.chain_starts import ChainStarts

pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0]) + 0.5 * np.random.default_rng(1).normal(size=40)).astype(np.float32)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 0.5)


class Run(NamedTuple):
    """A sampler, its options, and how many steps the file has when it is stopped, once after another."""

    sampler: Any
    options: dict[str, Any]
    stops: tuple[int, ...]

    def __call__(self, y=Y, **more):
        return self.sampler(infer.Posterior(Line(), X, y), progress=False, **self.options | more)


SHORT = {'num_warmup': 30, 'num_samples': 50, 'num_chains': 2, 'seed': 3}
MANY = {'num_warmup': 100, 'num_samples': 50, 'num_chains': 8, 'seed': 3}
NEEDS_BLACKJAX = pytest.mark.skipif(importlib.util.find_spec('blackjax') is None, reason='blackjax is not installed')
# Saved every 20 steps and at the end of the warm-up: within it, then within the draws.
RUNS = {
    'elliptical_slice': Run(infer.elliptical_slice, SHORT, (20, 50)),
    'elliptical_slice, vectorized': Run(
        infer.elliptical_slice, SHORT | {'thinning': 2, 'chain_method': 'vectorized'}, (20, 50)
    ),
    'elliptical_slice, over devices': Run(infer.elliptical_slice, SHORT | {'devices': 2}, (20, 50)),
    'barker': Run(infer.barker, SHORT | {'thinning': 2}, (20, 50)),
    'barker, over devices': Run(infer.barker, SHORT | {'devices': 2}, (20, 50)),
    'hmc_ecs': Run(infer.hmc_ecs, SHORT | {'batch_size': 8, 'num_blocks': 4, 'chain_method': 'sequential'}, (20, 50)),
    'chees': Run(infer.chees, MANY, (100, 120)),
    'meads': Run(infer.meads, MANY, (100, 110)),
    'mclmc': Run(infer.mclmc, MANY | {'thinning': 1}, (100, 120)),
    'smc': Run(infer.smc, {'num_particles': 64, 'num_moves': 2, 'max_tree_depth': 2, 'target_ess': 0.7}, (1, 3)),
}
EVERY = dict.fromkeys(RUNS, 20) | {'meads': 10, 'smc': 1}  # meads keeps every fourth draw, 12 of them
BLACKJAX = ('chees', 'meads', 'mclmc')
SLOW = ('hmc_ecs', 'meads', 'mclmc')
marked = [
    pytest.param(name, marks=[NEEDS_BLACKJAX] * (name in BLACKJAX) + [pytest.mark.slow] * (name in SLOW))
    for name in RUNS
]


class Stop(Exception):
    pass


def stopped(monkeypatch, run, path, step, every):
    """``run`` until its file has so many steps."""
    write = checkpoints.write_checkpoint

    def writing(path, record, arrays):
        write(path, record, arrays)
        if record['step'] == step:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoints, 'write_checkpoint', writing)
        run(checkpoint=path, checkpoint_every=every)
    assert checkpoints.read_checkpoint(str(path))[0]['step'] == step


def same(fit, whole):
    np.testing.assert_array_equal(fit.thetas, whole.thetas)
    for kind in ('stats', 'history'):
        ours, theirs = getattr(fit, kind), getattr(whole, kind)
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    times = {'seconds': 0.0, 'preparation_seconds': 0.0}
    assert fit.info | times == whole.info | times


@pytest.mark.parametrize('name', marked)
def test_it_goes_on_in_warmup_and_in_sampling(tmp_path, monkeypatch, name):
    run, path = RUNS[name], tmp_path / 'run'
    whole = run()
    for step in run.stops:
        stopped(monkeypatch, run, path, step, EVERY[name])
    if run.options.get('num_chains') == 8:
        monkeypatch.setattr(ChainStarts, 'at', lambda *args: pytest.fail('the warm-up was run again'))
    same(run(checkpoint=path, checkpoint_every=EVERY[name]), whole)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, 'write_checkpoint', lambda *args: pytest.fail('it was all there'))
        same(run(checkpoint=path), whole)


# Of chains alone: the particles of one run have no more.
LONGER = [name for name in RUNS if name != 'smc' and ',' not in name]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """By sampler, the file of a run and its draws."""
    kept = {}

    def of(name):
        if name not in kept:
            path = tmp_path_factory.mktemp('finished') / 'run'
            kept[name] = path, RUNS[name](checkpoint=path).thetas
        return kept[name]

    return of


@pytest.mark.parametrize('name', [param for param in marked if param.values[0] in LONGER])
def test_a_finished_run_can_be_made_longer(tmp_path, finished, name):
    path, first = finished(name)
    longer_path = shutil.copy(path, tmp_path / 'longer')
    longer = RUNS[name](checkpoint=longer_path, num_samples=80)
    same(longer, RUNS[name](num_samples=80))
    np.testing.assert_array_equal(longer.thetas[:, : first.shape[1]], first)
    with pytest.raises(
        ValueError, match=rf'holds {longer.thetas.shape[1]} draws of each chain, more than the .* asked'
    ):
        RUNS[name](checkpoint=longer_path)


OTHERS = [
    ('elliptical_slice', {'seed': 4}, 'seed is key'),
    ('elliptical_slice', {'y': Y + 1}, 'targets is array'),
    ('elliptical_slice', {'init': 'model'}, 'init is prior there and model here'),
    ('elliptical_slice', {'num_warmup': 31}, 'num_warmup is 30 there and 31 here'),
    ('elliptical_slice', {'thinning': 2}, 'thinning is 1 there and 2 here'),
    ('elliptical_slice', {'num_chains': 3}, 'num_chains is 2 there and 3 here'),
    ('elliptical_slice', {'chain_method': 'vectorized'}, 'chains is one by one there and vectorized here'),
    ('barker', {'target_accept': 0.5}, 'target_accept is 0.4 there and 0.5 here'),
    ('barker', {'init': 'prior'}, 'init is model there and prior here'),
    ('hmc_ecs', {'seed': 4}, 'seed is key'),
    ('hmc_ecs', {'num_blocks': 2}, 'num_blocks is 4 there and 2 here'),
    ('hmc_ecs', {'target_accept': 0.9}, 'target_accept is 0.8 there and 0.9 here'),
    ('hmc_ecs', {'init': np.zeros(2)}, 'init is map there and array'),
    ('chees', {'seed': 4}, 'seed is key'),
    ('chees', {'y': Y + 1}, 'targets is array'),
    ('chees', {'target_accept': 0.8}, 'target_accept is 0.651 there and 0.8 here'),
    ('chees', {'thinning': 2}, 'thinning is 1 there and 2 here'),
    ('meads', {'num_warmup': 101}, 'num_warmup is 100 there and 101 here'),
    ('mclmc', {'energy_variance': 1e-3}, 'energy_variance is 0.0005 there and 0.001 here'),
    ('smc', {'seed': 4}, 'seed is key'),
    ('smc', {'num_moves': 3}, 'num_moves is 2 there and 3 here'),
    ('smc', {'target_ess': 0.5}, 'target_ess is 0.7 there and 0.5 here'),
]


@pytest.mark.parametrize(
    ('name', 'other', 'named'),
    [
        pytest.param(*case, marks=NEEDS_BLACKJAX if case[0] in BLACKJAX else (), id=f'{case[0]} {case[2]}')
        for case in OTHERS
    ],
)
def test_the_checkpoint_of_another_run_is_refused(finished, name, other, named):
    with pytest.raises(ValueError, match=f'checkpoint of another run: .*{named}'):
        RUNS[name](checkpoint=finished(name)[0], **other)


@NEEDS_BLACKJAX
def test_so_is_that_of_another_sampler_or_version(finished, monkeypatch):
    import blackjax

    path = finished('chees')[0]
    with pytest.raises(ValueError, match='method is chees there and mclmc here'):
        RUNS['mclmc'](checkpoint=path)
    monkeypatch.setattr(blackjax, '__version__', '0.0')
    with pytest.raises(ValueError, match=r'blackjax is .* there and 0\.0 here'):
        RUNS['chees'](checkpoint=path)


@pytest.mark.parametrize('name', marked)
def test_every_needs_a_path(name):
    with pytest.raises(ValueError, match='every=20 needs checkpoint=path'):
        RUNS[name](checkpoint_every=20)
