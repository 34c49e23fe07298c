"""Warnings after sampling: the right ones, with the parameter's path, and none when all is well."""

import time

import arviz
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.diagnostics.ess import bulk_ess, e_bfmi, effective_sizes, rank_r_hat, tail_ess
from brainstate_prob.infer.diagnostics.mcmc import mcmc_problems, warn_of


def autoregressive(rng, rho, shape):
    x = rng.normal(size=shape)
    for t in range(1, shape[1]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    return x


@pytest.mark.parametrize('rho', [-0.5, 0.0, 0.5, 0.95, 0.999])
@pytest.mark.parametrize('shape', [(4, 100), (4, 251), (1, 300), (2, 4), (3, 7)])
def test_r_hat_and_ess_are_arvizs(rho, shape):
    x = autoregressive(np.random.default_rng(1), rho, (*shape, 3)) ** 3  # heavy tails: ranks matter
    found = effective_sizes(x)
    for i in range(3):
        data = x[..., i]
        if shape[0] > 1:  # of one chain's halves ArviZ says nothing
            assert found['r_hat'][i] == pytest.approx(float(arviz.rhat(data)), rel=1e-6)
        assert found['ess_bulk'][i] == pytest.approx(float(arviz.ess(data, method='bulk')), rel=1e-6)
        assert found['ess_tail'][i] == pytest.approx(float(arviz.ess(data, method='tail', prob=(0.05, 0.95))), rel=1e-6)


def test_what_does_not_vary_has_no_size():
    x = np.random.default_rng(0).normal(size=(2, 50, 2))
    x[..., 1] = 3.0
    assert all(np.isnan(v[1]) and np.isfinite(v[0]) for v in effective_sizes(x).values())
    assert bulk_ess(x[..., 0]).shape == tail_ess(x[..., 0]).shape == rank_r_hat(x[..., 0]).shape == ()


def test_thousands_of_numbers_take_no_longer_than_their_sampling():
    x = np.random.default_rng(0).normal(size=(4, 500, 1000)).astype('f4')
    began = time.process_time()
    effective_sizes(x)
    assert time.process_time() - began < 15  # 1.5 s on one core; ArviZ takes 10


def test_e_bfmi_is_arvizs():
    energy = autoregressive(np.random.default_rng(2), 0.9, (4, 300))
    theirs = np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)
    np.testing.assert_allclose(e_bfmi(energy), theirs)
    assert (e_bfmi(np.random.default_rng(0).normal(size=(2, 500))) > 1.5).all()  # white noise: 2


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Param(jnp.zeros((2, 2)))
        self.b = nn.Param(0.0)

    def __call__(self):
        return dist.Normal(self.a.value().sum() + self.b.value(), 1.0)


@pytest.fixture(scope='module')
def density():
    return infer.Posterior(Two(), targets=jnp.zeros(3)).sampling_target().density


def good(shape=(4, 500)):
    rng = np.random.default_rng(3)
    thetas = rng.normal(size=(*shape, 5)).astype(np.float32)
    return thetas, {
        'diverging': np.zeros(shape, bool),
        'tree_depth': np.full(shape, 3),
        'energy': rng.normal(size=shape),
    }


def at(density, name, index=0):
    """Where a parameter's number lies in theta."""
    offset = 0
    for block in density.blocks:
        for entry, size in zip(block.entries, block.sizes, strict=True):
            if entry.name == name:
                return offset + index
            offset += size
    raise KeyError(name)


def problems(density, thetas, stats):
    return mcmc_problems(density, thetas, stats, 'nuts', {'max_tree_depth': 10, 'target_accept': 0.8})


def test_quiet_when_all_is_well(density):
    thetas, stats = good()
    assert problems(density, thetas, stats) == []
    stats['diverging'][0, :2] = True  # two among 2000
    assert problems(density, thetas, stats) == []
    assert problems(density, *good((1, 500))) == []


@pytest.mark.parametrize('shape', [(4, 20), (1, 1), (2, 3)])
def test_few_draws_are_not_judged(density, shape):
    thetas, stats = good(shape)
    assert problems(density, np.cumsum(thetas, axis=1), stats) == []


def test_divergences_name_the_parameter_and_the_side(density):
    thetas, stats = good()
    where = at(density, 'a', 3)
    stats['diverging'] = thetas[..., where] < -1.8
    (text,) = problems(density, thetas, stats)
    share = stats['diverging'].mean()
    assert f"({100 * share:.3g} %) diverged, most at low values of 'a[1, 1]'" in text
    assert 'non-centred' in text and 'target_accept (now 0.8)' in text


def test_all_divergent(density):
    thetas, stats = good()
    stats['diverging'][:] = True
    (text,) = problems(density, thetas, stats)
    assert '2000 of 2000 transitions (100 %) diverged' in text


def test_r_hat_names_the_worst_parameter(density):
    thetas, stats = good()
    thetas[0, :, at(density, 'a', 1)] += 1
    thetas[0, :, at(density, 'b')] += 3
    text = problems(density, thetas, stats)[0]
    assert text.startswith("R-hat of 'b' is 1.") and 'for 2 of 5 numbers' in text and 'num_warmup' in text


def test_a_stuck_chain_is_told(density):
    thetas, stats = good()
    thetas[1] = thetas[1, 0]
    assert any('R-hat' in text for text in problems(density, thetas, stats))
    everything = np.broadcast_to(thetas[:, :1], thetas.shape)
    assert any('are stuck' in text and 'at different values' in text for text in problems(density, everything, stats))


def test_low_effective_sample_size(density):
    thetas, stats = good()
    thetas[..., at(density, 'b')] = autoregressive(np.random.default_rng(5), 0.97, (4, 500))
    texts = problems(density, thetas, stats)
    assert any(t.startswith("The bulk effective sample size of 'b' is ") and 'of 2000 draws' in t for t in texts)


def test_deep_trees_name_the_scales(density):
    thetas, stats = good()
    thetas[..., at(density, 'a', 2)] *= 100
    stats['tree_depth'][:, :30] = 10
    (text,) = problems(density, thetas, stats)
    assert text.startswith('6 % of the transitions reached max_tree_depth=10') and "'a[1, 0]' has sd 1e+02" in text
    assert 'slow, not wrong' in text and "mass_matrix='full'" in text


def test_low_e_bfmi_names_the_chain(density):
    thetas, stats = good()
    stats['energy'][2] = autoregressive(np.random.default_rng(6), 0.97, (1, 500))
    (text,) = problems(density, thetas, stats)
    assert text.startswith('E-BFMI of chain 2 is 0.0')


def test_warnings_are_user_warnings_of_their_own_kind():
    with pytest.warns(infer.ConvergenceWarning, match='the chains'):
        warn_of(['the chains have not mixed'])
    assert issubclass(infer.ConvergenceWarning, UserWarning)
