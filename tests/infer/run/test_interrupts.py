"""Ctrl-C during a fit: what there is comes back as a fit, or the error says where it is saved."""

import signal

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer import ConvergenceWarning
from brainstate_prob.infer.run.progress import Chunks

QUIET = {'progress': False}
CHAINS = {**QUIET, 'num_warmup': 20, 'num_samples': 1500, 'num_chains': 1}
STEPS = {**QUIET, 'optimizer': optax.adam(1e-2), 'num_steps': 1000}
# By way to fit: what the bar of the part says in which draws or steps are kept, and options by which that takes several
# compiled calls.
WAYS = {
    'map': (infer.map, 'MAP', STEPS),
    'ensemble': (infer.ensemble, 'Ensemble', {**STEPS, 'num_members': 2}),
    'swag': (infer.swag, 'SWAG', {**QUIET, 'num_steps': 1000, 'snapshot_every': 20, 'num_draws': 10}),
    'mc_dropout': (infer.mc_dropout, 'MAP', {**STEPS, 'num_draws': 3}),
    'svi': (infer.svi, 'SVI', {**QUIET, 'num_steps': 1000, 'num_draws': 10}),
    'sgmcmc': (infer.sgmcmc, 'Sampling', {**CHAINS, 'num_warmup': 0, 'num_samples': 2000, 'step_size': 1e-3}),
    'nuts': (infer.nuts, 'Sampling', CHAINS),
    'chees': (infer.chees, 'Sampling', {**CHAINS, 'num_chains': 2}),
    'barker': (infer.barker, 'Sampling', CHAINS),
    'hmc_ecs': (infer.hmc_ecs, 'Sampling', {**CHAINS, 'batch_size': 4}),
    'elliptical_slice': (infer.elliptical_slice, 'Sampling', CHAINS),
}
DRAWS = ('sgmcmc', 'nuts', 'barker', 'chees', 'hmc_ecs', 'elliptical_slice')


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))
        self.drop = nn.Dropout(0.8)

    def __call__(self, x):
        return dist.Normal(self.drop(x) @ self.w.value(), 0.5)


X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
POSTERIOR = infer.Posterior(Line(), X, X @ np.array([1.0, -1.0], np.float32))


def press():
    signal.raise_signal(signal.SIGINT)


def fall():
    raise KeyboardInterrupt


def interrupt(monkeypatch, description, how, at=1):
    """Interrupt the chunk ``at`` of the loop with this description, once."""
    iterate, done = Chunks.__iter__, []

    def interrupted(self):
        for i, length in enumerate(iterate(self)):
            if self.description == description and i == at and not done:
                done.append(how())
            yield length

    monkeypatch.setattr(Chunks, '__iter__', interrupted)


@pytest.mark.parametrize('how', [press, fall])
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
def test_what_there_is_comes_back(monkeypatch, way, how):
    run, description, options = WAYS[way]
    interrupt(monkeypatch, description, how, at=0 if how is press else 1)
    before = signal.getsignal(signal.SIGINT)
    with pytest.warns(ConvergenceWarning, match=r'interrupted after \d+ of \d+ (draws|steps).*checkpoint=path'):
        fit = run(POSTERIOR, **options)
    assert signal.getsignal(signal.SIGINT) is before
    if way in DRAWS:
        assert 1 <= fit.num_draws < options['num_samples']
    else:
        assert fit.info['stopped'] == 'interrupted' and 200 <= fit.info['num_steps'] < 1000
    assert np.isfinite(fit.predict(kind='mean')).all()


def test_before_the_first_draw_there_is_none_and_the_error_says_so(monkeypatch, tmp_path):
    interrupt(monkeypatch, 'Warm-up', press, at=0)
    with pytest.raises(KeyboardInterrupt, match='before the first draw, so there is no fit'):
        infer.elliptical_slice(POSTERIOR, **CHAINS)
    monkeypatch.undo()
    interrupt(monkeypatch, 'Tempering', press, at=0)
    with pytest.raises(KeyboardInterrupt, match=r"temperature .*s\.npz' holds its first 1 steps"):
        infer.smc(POSTERIOR, num_particles=50, target_ess=0.9, checkpoint=tmp_path / 's.npz', **QUIET)


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('way', ['map', 'elliptical_slice', 'svi'])
def test_with_a_checkpoint_the_next_run_goes_on(monkeypatch, tmp_path, way):
    run, description, options = WAYS[way]
    whole = run(POSTERIOR, **options)
    interrupt(monkeypatch, description, press, at=0)
    with pytest.warns(ConvergenceWarning, match='the same call resumes from there'):
        run(POSTERIOR, checkpoint=tmp_path / 'c.npz', **options)
    np.testing.assert_array_equal(run(POSTERIOR, checkpoint=tmp_path / 'c.npz', **options).thetas, whole.thetas)


def test_a_part_of_another_fit_ends_the_whole(monkeypatch):
    interrupt(monkeypatch, 'MAP', fall, at=0)
    with pytest.raises(KeyboardInterrupt):
        infer.nuts(POSTERIOR, init='map', **CHAINS)


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
def test_a_diagnostic_that_fails_is_a_warning(monkeypatch):
    def fail(*args):
        raise ZeroDivisionError('nothing here')

    monkeypatch.setattr('brainstate_prob.infer.diagnostics.mcmc.effective_sizes', fail)
    monkeypatch.setattr('brainstate_prob.infer.diagnostics.prior_conflict.over_draws', fail)
    with pytest.warns(ConvergenceWarning, match=r'could not be computed \(ZeroDivisionError: nothing here\)'):
        fit = infer.elliptical_slice(POSTERIOR, **CHAINS)
    assert fit.num_draws == 1500 and len(fit.info['warnings']) == 2


class Broken(Exception):
    pass


def breaks_at(step):
    def callback(progress):
        if progress.step >= step:
            raise Broken('of the user')

    return callback


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('way', ['map', 'ensemble', 'swag', 'mc_dropout'])
def test_an_error_in_a_callback_has_the_fit_until_then(way, tmp_path):
    run, _, options = WAYS[way]
    with pytest.raises(Broken, match='of the user') as caught:
        run(POSTERIOR, **options, callbacks=breaks_at(400), checkpoint=tmp_path / 'c.npz')
    fit = caught.value.fit
    assert fit.info['stopped'] == 'interrupted' and fit.info['num_steps'] == 400
    assert np.isfinite(fit.thetas).all() and fit.thetas.any()
    (note,) = caught.value.__notes__
    assert 'after 400 of 1000 steps' in note and 'attribute fit' in note and 'holds its first 400 steps' in note
    resumed = run(POSTERIOR, **options, checkpoint=tmp_path / 'c.npz')
    np.testing.assert_array_equal(resumed.thetas, run(POSTERIOR, **options).thetas)


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
def test_an_error_in_a_callback_comes_through_where_there_is_no_fit_yet():
    with pytest.raises(Broken) as caught:
        infer.swag(POSTERIOR, num_steps=1000, snapshot_every=300, callbacks=breaks_at(1), **QUIET)
    assert not hasattr(caught.value, 'fit')
    (note,) = caught.value.__notes__
    assert 'no fit of so few' in note and 'With checkpoint=path' in note
