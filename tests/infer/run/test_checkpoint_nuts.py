"""NUTS from checkpoints: stopped and made longer, it gives the draws of one uninterrupted run.

That it does when killed at any moment is shown beside the other ways to fit, in test_checkpoint.py.
"""

import importlib.util
import warnings

import jax
import numpy as np
import pytest

from brainstate_prob import infer
from brainstate_prob.infer.mcmc import nuts_phases
from brainstate_prob.infer.run import checkpoint as checkpoints
from tests.infer.mcmc.test_nuts import regression

pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
SHORT = {'num_warmup': 60, 'num_samples': 50, 'num_chains': 2, 'seed': 3, 'progress': False}
BLACKJAX = pytest.param(
    {'backend': 'blackjax'},
    marks=pytest.mark.skipif(importlib.util.find_spec('blackjax') is None, reason='blackjax is not installed'),
)


class Stop(Exception):
    pass


def interrupted(monkeypatch, saves, path, **options):
    """A run that ends after so many saves."""
    save, left = checkpoints.Checkpoint.save, [saves]

    def saving(self, *args, **kwargs):
        save(self, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoint, 'save', saving)
        with pytest.raises(Stop):
            infer.nuts(regression(), checkpoint=path, **options)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'thinning': 3, 'chain_method': 'vectorized'},
        {'warmup': 'gradient', 'devices': True},
        pytest.param({'mass_matrix': 'low_rank', 'harms': True}, marks=pytest.mark.slow),
        BLACKJAX,
    ],
    ids=str,
)
def test_it_goes_on_in_warmup_and_in_sampling(tmp_path, monkeypatch, options):
    """Saved every 25 steps of 60 and 50 (and 60 again where the low-rank matrix is given up), stopped at two saves."""
    options = SHORT | options
    if options.pop('harms', False):
        monkeypatch.setattr(nuts_phases, '_MAX_STEP_SIZE_RATIO', 1.0)
    if 'devices' in options:
        options['devices'] = jax.devices()
    whole = infer.nuts(regression(), **options)
    path = tmp_path / 'nuts.ckpt'
    interrupted(monkeypatch, 1, path, checkpoint_every=25, **options)
    interrupted(monkeypatch, 2, path, checkpoint_every=25, **options)
    fit = infer.nuts(regression(), checkpoint=path, checkpoint_every=25, **options)
    np.testing.assert_array_equal(fit.thetas, whole.thetas)
    assert set(fit.stats) == set(whole.stats)
    for name in whole.stats:
        np.testing.assert_array_equal(fit.stats[name], whole.stats[name])
    for name in ('warmup_gradients', 'mass_matrix'):
        assert fit.info[name] == whole.info[name]


def test_a_finished_run_loads_and_can_be_made_longer(tmp_path):
    path = tmp_path / 'nuts.ckpt'
    first = infer.nuts(regression(), checkpoint=path, **SHORT)
    again = infer.nuts(regression(), checkpoint=path, **SHORT)
    np.testing.assert_array_equal(again.thetas, first.thetas)
    longer = infer.nuts(regression(), checkpoint=path, **SHORT | {'num_samples': 80})
    whole = infer.nuts(regression(), **SHORT | {'num_samples': 80})
    np.testing.assert_array_equal(longer.thetas, whole.thetas)
    with pytest.raises(ValueError, match='holds 80 draws of each chain, more than the 50 asked for'):
        infer.nuts(regression(), checkpoint=path, **SHORT)


@pytest.mark.parametrize(
    ('other', 'named'),
    [
        ({'seed': 4}, 'seed is key'),
        ({'num_warmup': 61}, 'num_warmup is 60 there and 61 here'),
        ({'target_accept': 0.9}, 'target_accept is 0.8 there and 0.9 here'),
        ({'thinning': 2}, 'thinning is 1 there and 2 here'),
        ({'chain_method': 'vectorized'}, 'chains is one by one there and vectorized here'),
        ({'init': 'prior'}, 'init is model there and prior here'),
        ('data', 'targets is array'),
    ],
    ids=str,
)
def test_the_checkpoint_of_another_run_is_refused(finished, other, named):
    posterior = regression(seed=1) if other == 'data' else regression()
    with pytest.raises(ValueError, match=f'checkpoint of another run: .*{named}'):
        infer.nuts(posterior, checkpoint=finished, **SHORT | ({} if other == 'data' else other))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp('nuts') / 'nuts.ckpt'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', infer.ConvergenceWarning)
        infer.nuts(regression(), checkpoint=path, **SHORT)
    return path


def test_nutpie_has_no_checkpoints(tmp_path):
    pytest.importorskip('nutpie')
    with pytest.raises(ValueError, match="'nutpie' does not expose its state"):
        infer.nuts(regression(), backend='nutpie', checkpoint=tmp_path / 'x', **SHORT)
