"""Centred or non-centred by the data: the rule against closed forms, and what samplers gain by it."""

import inspect
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.density.noncentered import described, named, places_of
from brainstate_prob.infer.target import parameterization
from tests.infer.mistakes.row import WAYS
from tests.support.reference_models import reference_posterior
from tests.support.rich_model import compilations
from tests.support.slow_rows import slow_rows


class Groups(nn.Module):
    """Groups with a common level and spread, and an observation noise that is fitted too."""

    def __init__(self, size, mu=0.0, spread=1.0, prior=2.0):
        super().__init__()
        self.mu = nn.Param(mu, reg=dist.Normal(0.0, 5.0))
        self.tau = nn.Param(spread, t=nn.ExpT(0.0), reg=dist.HalfNormal(prior))
        self.sigma = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(5.0))
        self.effect = nn.Param(jnp.full(size, mu), reg=nn.GaussianReg(self.mu, self.tau), dims=('group',))

    def __call__(self, group):
        return dist.Normal(self.effect.value()[group], self.sigma.value())


def groups(sizes, tau=1.0, sigma=1.0, seed=0, **start):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    effect = 1 + tau * rng.normal(size=len(sizes))
    y = effect[group] + sigma * rng.normal(size=len(group))
    return infer.Posterior(Groups(len(sizes), **start), jnp.asarray(group), jnp.asarray(y, jnp.float32))


def form(posterior):
    return described(posterior.sampling_target().density)['effect']


MIXED = [200, 200, 2, 2, 1, 1, 50, 20]
# name: (posterior, the form that is right)
DATA = {
    'strong: 8 groups of 200': (lambda: groups([200] * 8), 'centred'),
    'strong: 8 groups of 200, from afar': (lambda: groups([200] * 8, mu=30.0, spread=0.01), 'centred'),
    'strong: 8 groups of 200, from a wide prior': (lambda: groups([200] * 8, spread=20.0, prior=100.0), 'centred'),
    'strong: 100 groups of 10': (lambda: groups([10] * 100), 'centred'),
    'weak: 8 groups of 20 that differ little': (lambda: groups([20] * 8, tau=0.3), 'non-centred'),
    'weak: 8 groups of 200 that hardly differ': (lambda: groups([200] * 8, tau=0.05), 'non-centred'),
    'weak: 8 groups of 200, hardly different, from afar': (lambda: groups([200] * 8, tau=0.05, mu=30.0), 'non-centred'),
    'weak: 8 groups of 2': (lambda: groups([2] * 8), 'non-centred'),
    'weak: one observation a group and unknown noise': (lambda: groups([1] * 8, sigma=3.0), 'non-centred'),
    'mixed sizes': (lambda: groups(MIXED), '4 of 8 non-centred'),
}


@pytest.mark.parametrize('name', DATA)
def test_the_form_is_that_of_the_data(name):
    make, expected = DATA[name]
    assert form(make()) == expected


def test_the_large_groups_are_the_centred_ones():
    assert groups(MIXED).sampling_target().density.noncentered == ('effect[2, 3, 4, 5]',)


REFERENCES = {
    'eight_schools_centred': {'theta': 'non-centred'},
    # The two largest counties have four times the information of the prior, but the spread between counties may be so
    # small that they have none: in centred form they alone made 21 of 2000 transitions diverge.
    'radon_mn_contextual': {'county_effect': 'non-centred'},
}


@pytest.mark.parametrize('name', REFERENCES)
def test_reference_posteriors(shared_dir, name):
    assert described(reference_posterior(shared_dir, name).sampling_target().density) == REFERENCES[name]


def test_many_groups_are_split_by_their_size():
    """The groups in centred form have more observations than any other."""
    sizes = np.random.default_rng(3).geometric(0.1, size=80)
    (name,) = groups(list(sizes), tau=0.4).sampling_target().density.noncentered
    few = list(places_of([name])['effect'])
    many = np.setdiff1d(np.arange(80), few)
    assert 10 < len(many) < 40 and sizes[many].min() > sizes[few].max()


# The rule


def at(density, posterior, **values):
    thetas = density.thetas(posterior.start(density), posterior.data.states)
    return density.flatten({**thetas, **values}, posterior.data.states)


@pytest.mark.parametrize('sizes', [[5, 50, 1], [3] * 40])
def test_the_product_is_that_of_a_normal_mean(sizes):
    """n observations of noise sigma have the information n / sigma**2."""
    posterior = groups(sizes)
    density = posterior.sampling_target(True).density
    theta = at(density, posterior, tau=jnp.log(0.4), sigma=jnp.log(0.7))
    found = parameterization._products(density, theta, posterior.data, ['effect'])['effect']
    np.testing.assert_allclose(found, 0.4**2 * np.array(sizes) / 0.7**2, rtol=2e-3)


class Levels(nn.Module):
    """Classes in schools: the prior of a class is what informs its school where the class is centred."""

    def __init__(self):
        super().__init__()
        self.between = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(2.0))
        self.within = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(2.0))
        self.school = nn.Param(jnp.zeros((10, 1)), reg=nn.GaussianReg(0.0, self.between))
        self.room = nn.Param(jnp.zeros((10, 3)), reg=nn.GaussianReg(self.school, self.within))

    def __call__(self):
        return dist.Normal(jnp.broadcast_to(self.room.value()[..., None], (10, 3, 40)), 0.5)


def test_levels_are_chosen_from_below():
    """Rooms that differ much in schools that hardly do: 40 pupils tell of a room, three rooms nothing of a school."""
    rng = np.random.default_rng(0)
    room = 0.1 * rng.normal(size=(10, 1)) + 2.0 * rng.normal(size=(10, 3))
    y = room[..., None] + 0.5 * rng.normal(size=(10, 3, 40))
    posterior = infer.Posterior(Levels(), targets=jnp.asarray(y, jnp.float32))
    assert described(posterior.sampling_target().density) == {'room': 'centred', 'school': 'non-centred'}
    density = posterior.sampling_target().density
    theta = at(density, posterior, between=jnp.log(0.3), within=jnp.log(2.0))
    found = parameterization._products(density, theta, posterior.data, ['school'])['school']
    np.testing.assert_allclose(found, 3 * 0.3**2 / 2.0**2, rtol=2e-3)  # three rooms of precision 1 / 2**2


class Counts(nn.Module):
    """Rates that are log-normal, or Student-t in their logarithm: other families than the normal."""

    def __init__(self, kind):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 2.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))
        if kind == 'log-normal':
            self.effect = nn.Param(jnp.ones(20), t=nn.ExpT(0.0), reg=nn.LogNormalReg(mu=self.mu, sigma=self.tau))
        else:
            self.effect = nn.Param(jnp.zeros(20), reg=nn.StudentTReg(df=5.0, scale=self.tau))
        self._is_rate = kind == 'log-normal'

    def __call__(self, time):
        value = self.effect.value()
        return dist.Poisson(time * (value if self._is_rate else jnp.exp(value)))


@pytest.mark.parametrize('kind', ['log-normal', 'student'])
@pytest.mark.parametrize('time, expected', [(0.1, 'non-centred'), (100.0, 'centred')])
def test_counts(kind, time, expected):
    rate = np.exp(0.5 * np.random.default_rng(0).normal(size=20))
    y = jnp.asarray(np.random.default_rng(1).poisson(time * rate), jnp.float32)
    assert form(infer.Posterior(Counts(kind), jnp.full(20, time), y)) == expected


# What follows from it


def test_without_data_or_a_finite_start_everything_is_non_centred():
    class Lost(Groups):
        def __call__(self, group):
            return dist.Normal(jnp.log(-jnp.exp(self.effect.value()[group])), 1.0)

    assert form(infer.Posterior(Groups(3), jnp.zeros(4, int))) == 'non-centred'
    assert form(infer.Posterior(Lost(3), jnp.zeros(4, int), jnp.zeros(4))) == 'non-centred'


def test_the_choice_is_the_same_again_and_compiles_nothing():
    posteriors = [groups(MIXED, seed=seed) for seed in (0, 0, 5)]
    first = posteriors[0].sampling_target().density.noncentered
    with compilations() as events:
        assert posteriors[1].sampling_target().density.noncentered == first
        assert all(text.startswith('effect[') for text in posteriors[2].sampling_target().density.noncentered)
    assert not events


def test_names_of_numbers_are_read_back():
    posterior = groups(MIXED)
    (entry,) = (e for e in posterior.entries if e.name == 'effect')
    for mask in ([1] * 8, [0, 1] * 4, [1, *[0] * 7]):
        text = named(entry, np.array(mask, bool))
        places = places_of([text])['effect']
        assert (list(range(8)) if places is None else list(places)) == list(np.flatnonzero(mask))
    assert named(entry, np.zeros(8, bool)) is None


def test_files_keep_numbers_of_a_parameter(tmp_path):
    posterior = groups(MIXED)
    target = posterior.sampling_target()
    thetas = np.random.default_rng(0).normal(size=(1, 5, target.size)).astype('f4')
    fit = infer.Fit(target, thetas, method='nuts')
    fit.save(tmp_path / 'fit.nc')
    again = infer.load(tmp_path / 'fit.nc', posterior)
    assert again.density is target.density and again.noncentered == ('effect[2, 3, 4, 5]',)
    np.testing.assert_allclose(again.draws['effect'], fit.draws['effect'])


QUIET = {'progress': False, 'seed': 1}


@pytest.mark.slow
def test_strong_data_are_sampled_in_few_steps():
    """Non-centred: 40 and more gradients a draw. The difference of the two forms is a factor of six; five are asked."""
    posterior = groups([200] * 8)
    settings = {'num_warmup': 400, 'num_samples': 400, **QUIET}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', infer.ConvergenceWarning)
        slow = infer.nuts(posterior, noncentered=True, **settings)
    fit = infer.nuts(posterior, **settings)
    assert fit.info['noncentered'] == {'effect': 'centred'} and fit.info['warnings'] == []
    assert 5 * fit.stats['n_steps'].mean() < slow.stats['n_steps'].mean() and fit.stats['n_steps'].mean() < 10
    assert max(fit.summary()['r_hat']) < 1.02
    y = np.asarray(posterior.data.targets).reshape(8, 200)
    np.testing.assert_allclose(fit.draws['effect'].mean((0, 1)), y.mean(1), atol=0.05)  # shrinkage of 1 %: 0.02


@pytest.mark.slow
def test_both_forms_in_one_parameter_have_the_posterior_of_one():
    """Means within 5 standard errors of each other, of at least 400 effective draws; quiet, and in fewer steps."""
    posterior = groups(MIXED)
    settings = {'num_warmup': 500, 'num_samples': 1000, **QUIET}
    fit = infer.nuts(posterior, **settings)
    assert fit.info['noncentered'] == {'effect': '4 of 8 non-centred'} and fit.info['warnings'] == []
    other = infer.nuts(posterior, noncentered=True, **settings | {'num_samples': 2000})
    assert 2 * fit.stats['n_steps'].mean() < other.stats['n_steps'].mean()
    for name in ('mu', 'tau', 'sigma', 'effect'):
        a, b = fit.magnitudes[name], other.magnitudes[name]
        spread = b.std((0, 1))
        np.testing.assert_array_less(np.abs(a.mean((0, 1)) - b.mean((0, 1))) / spread, 5 * np.sqrt(2 / 400))
        np.testing.assert_allclose(a.std((0, 1)) / spread, 1.0, atol=0.25)


def test_simulations_share_one_form():
    """Of data sets of one model some are strong and some weak; calibration compiles one program for all."""
    posterior, forms = groups([3] * 4), set()

    def fit(data, seed):
        target = data.sampling_target()
        forms.add(target.density.noncentered)
        thetas = target.start + 0.1 * np.random.default_rng(seed).normal(size=(1, 9, target.size))
        return infer.Fit(target, thetas.astype(np.float32), method='none')

    infer.sbc(posterior, fit, num_simulations=20, num_draws=9, progress=False)
    assert len(forms) == 1 and posterior.fixed_choice is None


DEFAULTS = {way: inspect.signature(fit).parameters.get('noncentered') for way, (fit, _) in WAYS.items()}


CHOOSING = [way for way, option in DEFAULTS.items() if option is not None]


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('way', slow_rows(CHOOSING, set(CHOOSING) - {'laplace', 'nuts', 'elliptical_slice', 'svi'}))
def test_ways_to_fit_choose_and_tell(way):
    pytest.importorskip('blackjax')
    own = {
        'mclmc': {'num_warmup': 100, 'num_chains': 2, 'thinning': 1},
        'meads': {'thinning': 1},
        'hmc_ecs': {'batch_size': 20},
        'nuts': {'num_warmup': 20},
    }
    fit, options = WAYS[way]
    found = fit(groups([20] * 3, sigma=0.1), **options | own.get(way, {}))
    assert DEFAULTS[way].default == 'auto' and found.info['noncentered'] == {'effect': 'centred'}
