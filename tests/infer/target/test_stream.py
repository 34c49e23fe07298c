"""Batches of unequal sizes against closed forms: lists, loaders and generators, in every way to fit that takes them."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.target.minibatch import first_batch, next_batch
from brainstate_prob.infer.target.stream import Stream

Y = np.r_[np.zeros(9), 10.0].astype(np.float32)  # the last batch of three has one observation, and that is far out
MODE, SD = 10.0 / 10.01, 1 / np.sqrt(10.01)  # of the mean, under a prior of standard deviation 10
QUIET = {'progress': False}


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 10.0))

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


def cut(y, sizes):
    edges = np.cumsum([0, *sizes])
    return [(None, y[a:b]) for a, b in itertools.pairwise(edges)]


class Loader:
    """Begun anew at each pass, as a data loader; its length is not known."""

    def __init__(self, passes):
        self.passes, self.count = passes, 0

    def __iter__(self):
        self.count += 1
        return iter(self.passes[(self.count - 1) % len(self.passes)])


def generator(batches, epochs):
    return (batch for _ in range(epochs) for batch in batches)


PARTS = cut(Y, [3, 3, 3, 1])
SOURCES = {
    'list': lambda: PARTS,
    'tuple': lambda: tuple(PARTS),
    'first batch short': lambda: cut(Y[::-1], [1, 3, 3, 3]),
    'one to nine': lambda: cut(Y, [9, 1]),
    'a list of two epochs': lambda: PARTS * 2,
    'loader': lambda: Loader([PARTS]),
    'a loader whose sizes change': lambda: Loader([PARTS, cut(Y, [1, 9]), cut(Y[::-1], [5, 2, 2, 1])]),
    'generator of epochs': lambda: generator(PARTS, 2000),
    'generator with batches across epochs': lambda: generator(cut(np.tile(Y, 7), [8, 6] * 5), 2000),
}


# The factor


@pytest.mark.parametrize('sizes', [[3, 3, 3, 1], [1, 9], [10], [1] * 10, [2, 5, 1, 2]])
@pytest.mark.parametrize('make', [list, tuple, lambda b: Loader([b]), lambda b: generator(b, 3)])
def test_the_mean_gradient_of_a_pass_is_that_of_all_data(sizes, make, x64):
    class Mean64(Mean):
        def __init__(self):
            nn.Module.__init__(self)
            self.mu = nn.Param(np.zeros(()), reg=dist.Normal(0.0, 10.0))

    posterior = infer.Posterior(Mean64(), targets=Y.astype(np.float64))
    value_and_grad = jax.jit(jax.value_and_grad(posterior.density.log_density))
    theta = jnp.array([0.3])
    whole = value_and_grad(theta, posterior.data)
    stream = Stream(posterior, make(cut(Y.astype(np.float64), sizes)), 10)
    passes = [[value_and_grad(theta, next(stream)) for _ in sizes] for _ in range(2)]
    for each in passes if make in (list, tuple) else passes[1:]:  # sizes of others are known after a pass
        np.testing.assert_allclose(np.mean([v for v, _ in each]), whole[0], rtol=1e-12)
        np.testing.assert_allclose(np.mean([g for _, g in each], axis=0), whole[1], rtol=1e-12)
    assert stream.describe()['scale'] == len(sizes)


def test_a_generator_without_passes_is_scaled_by_the_mean_size_of_all_batches():
    rng = np.random.default_rng(0)
    posterior = infer.Posterior(Mean(), targets=Y)

    def draws():
        while True:
            yield None, rng.choice(Y, rng.choice([2, 4, 6]))

    stream = Stream(posterior, draws(), 10)
    scales = [float(next(stream).scale) for _ in range(4000)]
    # The mean of 4000 sizes has standard error 0.026; 5 of them.
    assert abs(10 / scales[-1] - 4.0) < 0.13
    assert abs(np.mean(scales[1000:]) - 2.5) < 0.1


def test_minibatches_that_do_not_divide_the_data_see_every_observation_as_often_as_any_other():
    batches, counts = first_batch(jax.random.key(0), 10), np.zeros(10)
    step = jax.jit(lambda b: next_batch(b, 4))
    for _ in range(4000):
        index, batches = step(batches)
        counts[np.asarray(index)] += 1
    # Each is in a batch with probability 0.4: 2000 passes of two batches, standard error sqrt(2000 * 0.8 * 0.2) = 18;
    # four of them, over ten counts, fail once in 1600 seeds.
    np.testing.assert_allclose(counts, 1600, atol=72)


def test_the_shares_of_batches_keep_a_short_one_from_looking_like_a_gain():
    posterior = infer.Posterior(Mean(), targets=Y)
    batches = cut(np.ones(40, np.float32), [19, 19, 2])
    stop = infer.EarlyStopping(patience=3, every=1, min_gain=1e-3)
    options = {**QUIET, 'batches': batches, 'num_observations': 40, 'num_steps': 30, 'early_stopping': stop}
    fit = infer.map(posterior, optimizer=optax.sgd(0.0), **options)
    # Nothing moves and all observations are equal, so each evaluation finds one number up to the prior's 3.2 of 95.
    assert fit.info['num_steps'] <= 6
    value = 40 * (0.5 * np.log(2 * np.pi) + 0.5)
    np.testing.assert_allclose(fit.history['mean_loss'][:2], value + 3.2, rtol=0.02)


# Every way to fit


def schedule(rate, steps):
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def fitted(way, source):
    posterior = infer.Posterior(Mean(), targets=Y)
    given = {**QUIET, 'batches': source, 'num_observations': 10}
    if way == 'svi':
        return infer.svi(posterior, num_steps=4000, optimizer=schedule(2e-2, 4000), num_particles=4, **given)
    if way == 'sgmcmc':
        run = {'num_warmup': 200, 'num_samples': 200, 'num_chains': 4, 'thinning': 10, 'step_size': 1e-3}
        return infer.sgmcmc(posterior, method='sgld', init=jnp.array([MODE]), **run, **(given if source else QUIET))
    if way == 'swag':
        run = {'optimizer': optax.sgd(1e-3), 'num_steps': 4000, 'snapshot_every': 40}
        return infer.swag(posterior, init=jnp.array([MODE], jnp.float32), **run, **given)
    run = {'num_steps': 4000, 'optimizer': schedule(2e-2, 4000)}
    if way == 'ensemble':
        return infer.ensemble(posterior, num_members=2, **run, **given)
    return infer.map(posterior, **run, **given)


@pytest.mark.parametrize('source', SOURCES)
def test_the_mode_is_that_of_the_whole(source):
    fit = fitted('map', SOURCES[source]())
    np.testing.assert_allclose(fit.estimate['mu'], MODE, atol=0.02)
    assert fit.info['stopped'] == 'num_steps' and fit.info['num_steps'] == 4000
    # The loss of a step is an unbiased estimate of that of the whole.
    whole = float(-infer.Posterior(Mean(), targets=Y).log_density(jnp.array([MODE], jnp.float32)))
    np.testing.assert_allclose(fit.history['loss'][-840:].mean(), whole, rtol=0.02)


# The path of SWAG at this small rate is told to be narrow; its mean is what is compared.
@pytest.mark.filterwarnings('ignore:The draws of SWAG are:brainstate_prob.infer.ConvergenceWarning')
@pytest.mark.parametrize('source', ['list', 'loader', 'generator of epochs'])
@pytest.mark.parametrize('way', ['svi', 'ensemble', 'swag'])
def test_every_way_to_fit_has_the_posterior_of_the_whole(way, source):
    fit = fitted(way, SOURCES[source]())
    mu = fit.draws['mu']
    np.testing.assert_allclose(mu.mean(), MODE, atol=0.07)
    if way == 'svi':
        np.testing.assert_allclose(mu.std(), SD, rtol=0.1)


@pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')  # so few draws are compared, not used
@pytest.mark.parametrize('source', ['list', 'loader', 'generator of epochs'])
def test_chains_on_unequal_batches_are_those_of_all_data_up_to_the_noise_of_the_gradient(source):
    """With the same random numbers: a step of 1e-3 along gradients whose mean over a pass is that of all data."""
    fit, whole = fitted('sgmcmc', SOURCES[source]()), fitted('sgmcmc', None)
    # In a pass gradients differ by up to 48: steps by 0.05, which average out to second order.
    difference = fit.draws['mu'] - whole.draws['mu']
    assert abs(difference.mean()) < 0.02 and np.abs(difference).max() < 0.1


def test_dropout_is_trained_on_batches_of_any_sizes():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu, self.drop = nn.Param(0.0, reg=dist.Normal(0.0, 10.0)), nn.Dropout(0.999)

        def __call__(self, x):
            return dist.Normal(self.mu.value() * self.drop(x)[:, 0], 1.0)

    batches = [(np.ones((len(y), 1), np.float32), y) for _, y in PARTS]
    posterior = infer.Posterior(Dropped(), np.ones((10, 1), np.float32), Y)
    options = {**QUIET, 'batches': batches, 'num_observations': 10, 'num_draws': 5}
    fit = infer.mc_dropout(posterior, num_steps=3000, optimizer=schedule(2e-2, 3000), **options)
    np.testing.assert_allclose(fit.draws['mu'].mean(), MODE, atol=0.03)


# What ends, and what goes wrong on the way


def test_a_generator_of_several_epochs_keeps_the_training_at_its_end():
    posterior = infer.Posterior(Mean(), targets=Y)
    options = {**QUIET, 'num_observations': 10, 'num_steps': 10_000}
    fit = infer.map(posterior, optimizer=optax.adam(0.05), batches=generator(PARTS, 50), **options)
    assert (fit.info['num_steps'], fit.info['stopped']) == (200, 'the batches ended')
    fit = infer.svi(posterior, optimizer=optax.adam(0.05), batches=generator(PARTS, 50), **options)
    assert (fit.info['num_steps'], fit.info['stopped']) == (200, 'the batches ended')


def test_a_generator_that_ends_before_all_were_seen_is_told():
    posterior = infer.Posterior(Mean(), targets=Y)
    options = {**QUIET, 'num_observations': 100, 'num_steps': 10_000, 'optimizer': 'adam'}
    with pytest.warns(UserWarning, match='ended after 20 observations, and num_observations=100'):
        fit = infer.map(posterior, batches=generator(PARTS, 2), **options)
    assert fit.info['num_steps'] == 8


def test_draws_are_kept_where_the_batches_end_early():
    posterior = infer.Posterior(Mean(), targets=Y)
    run = {**QUIET, 'num_observations': 10, 'step_size': 1e-3, 'num_warmup': 10, 'num_samples': 100, 'num_chains': 2}
    whole = infer.sgmcmc(posterior, batches=PARTS, thinning=3, **run)
    with pytest.warns(infer.ConvergenceWarning, match='ended after 10 of 33 draws'):
        fit = infer.sgmcmc(posterior, batches=iter(PARTS * 10 + PARTS[:1]), thinning=3, **run)
    assert fit.draws['mu'].shape == (2, 10) and fit.info['num_samples'] == 30  # three steps a draw
    assert any('10 of 33 draws' in text for text in fit.info['warnings'])
    assert whole.draws['mu'].shape == (2, 33)
    with pytest.raises(ValueError, match='ended before the first draw, after 8 steps.*be restarted'):
        infer.sgmcmc(posterior, batches=generator(PARTS, 2), **run)


def broken(error):
    """A loader whose third pass goes wrong in the middle."""

    def third():
        yield from PARTS[:2]
        if isinstance(error, Exception):
            raise error
        yield error

    class Broken(Loader):
        def __iter__(self):
            self.count += 1
            return third() if self.count == 3 else iter(PARTS)

    return Broken([PARTS])


LATE = [
    (OSError('the disk is gone'), 'after 10 steps.*OSError: the disk is gone'),
    ((None, np.zeros(0, np.float32)), r'Batch 2 .* has no observations'),
    (({'x': np.ones(3)}, Y[:3]), r'Batch 2 .* has the inputs \[.x.\], the first one 0'),
    ((None, np.full(3, np.nan, np.float32)), 'Batch 2 .*targets has 3 NaN'),
    ((None, None), 'Batch 2 .* has none'),
]


@pytest.mark.parametrize('error, words', LATE, ids=[words for _, words in LATE])
def test_what_goes_wrong_after_the_first_pass_ends_the_fit_and_keeps_it(error, words):
    posterior = infer.Posterior(Mean(), targets=Y)
    options = {**QUIET, 'num_observations': 10, 'num_steps': 100, 'optimizer': optax.adam(0.05)}
    with pytest.warns(UserWarning, match=f'(?s)The batches ended after.*{words}|{words}'):
        fit = infer.map(posterior, batches=broken(error), **options)
    assert (fit.info['num_steps'], fit.info['stopped']) == (10, 'the batches ended')
    whole = infer.map(posterior, batches=Loader([PARTS]), **{**options, 'num_steps': 10})
    np.testing.assert_array_equal(fit.thetas, whole.thetas)


def test_a_later_pass_of_another_length_is_told_once_and_the_fit_goes_on():
    posterior = infer.Posterior(Mean(), targets=Y)
    options = {**QUIET, 'num_observations': 10, 'num_steps': 30, 'optimizer': 'adam'}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fit = infer.map(posterior, batches=Loader([PARTS, PARTS[:2]]), **options)
    assert fit.info['num_steps'] == 30
    assert [str(w.message)[:40] for w in caught] == ['A pass over batches had 6 observations, ']


def test_a_loader_with_a_wrong_number_is_refused_after_its_first_pass():
    posterior, loader = infer.Posterior(Mean(), targets=Y), Loader([PARTS])
    options = {**QUIET, 'num_observations': 33, 'num_steps': 1000, 'optimizer': 'adam'}
    with pytest.raises(ValueError, match='A pass over batches had 10 observations, but num_observations=33'):
        infer.map(posterior, batches=loader, **options)
    assert loader.count == 1


def test_an_iterable_that_gives_nothing_the_second_time_ends_the_fit():
    class Once:
        def __init__(self):
            self.iterator = iter(PARTS)

        def __iter__(self):
            return self.iterator

    posterior = infer.Posterior(Mean(), targets=Y)
    fit = infer.map(posterior, batches=Once(), num_observations=10, num_steps=100, optimizer='adam', **QUIET)
    assert (fit.info['num_steps'], fit.info['stopped']) == (4, 'the batches ended')


@pytest.mark.parametrize('way', ['map', 'svi', 'sgmcmc'])
@pytest.mark.parametrize('make', [lambda: PARTS, lambda: Loader([PARTS, cut(Y, [1, 9])]), lambda: generator(PARTS, 99)])
def test_a_resumed_run_on_unequal_batches_is_the_uninterrupted_one(way, make, tmp_path):
    posterior = infer.Posterior(Mean(), targets=Y)
    given = {**QUIET, 'num_observations': 10}
    if way == 'sgmcmc':
        run = {'num_warmup': 5, 'num_chains': 2, 'step_size': 1e-3, **given}
        fit = lambda n, **more: infer.sgmcmc(posterior, batches=make(), num_samples=n, **run, **more)
    else:
        run = {'optimizer': optax.adam(0.05), **given}
        fit = lambda n, **more: getattr(infer, way)(posterior, batches=make(), num_steps=n, **run, **more)
    path = tmp_path / 'run'
    whole = fit(30)
    fit(13, checkpoint=path, checkpoint_every=5)
    resumed = fit(30, checkpoint=path, checkpoint_every=5)
    np.testing.assert_array_equal(resumed.thetas, whole.thetas)
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)


def test_batches_that_are_fewer_than_a_checkpoint_has_seen_are_refused(tmp_path):
    posterior, path = infer.Posterior(Mean(), targets=Y), tmp_path / 'run'
    options = {**QUIET, 'num_observations': 10, 'optimizer': 'adam', 'checkpoint': path}
    infer.map(posterior, batches=PARTS, num_steps=13, **options)
    with pytest.raises(ValueError, match='has seen 13 batches, and these are 8'):
        infer.map(posterior, batches=generator(PARTS, 2), num_steps=20, **options)
