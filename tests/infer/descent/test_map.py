"""MAP: the right mode under both definitions, the published place cell, minibatches, fused steps, no recompilation."""

import warnings

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import environ, infer, nn, random
from tests.support.rich_model import compilations


class Rate(nn.Module):
    """Counts with a gamma prior on the rate: everything in closed form."""

    def __init__(self, t=None):
        super().__init__()
        self.rate = nn.Param(1.0, t=t or nn.ExpT(), reg=dist.Gamma(3.0, 2.0))

    def __call__(self):
        return dist.Poisson(self.rate.value())


COUNTS = jnp.array([2, 4, 3, 6, 1])


@pytest.mark.parametrize('t', [nn.ExpT(), nn.SoftplusT()])
@pytest.mark.parametrize('optimizer', ['lbfgs', 'adam', optax.adabelief(3e-2)])
def test_the_classical_mode_does_not_depend_on_the_transform(t, optimizer):
    fit = infer.map(infer.Posterior(Rate(t), targets=COUNTS), optimizer=optimizer, num_steps=800, progress=False)
    assert float(fit.estimate['rate']) == pytest.approx((16 + 3 - 1) / (5 + 2), rel=1e-3)  # mode of a gamma posterior


def test_the_mode_of_theta_has_the_log_determinant():
    fit = infer.map(infer.Posterior(Rate(nn.ExpT()), targets=COUNTS), jacobian=True, progress=False)
    assert float(fit.estimate['rate']) == pytest.approx((16 + 3) / (5 + 2), rel=1e-4)  # mode of its logarithm
    assert fit.info['jacobian'] and fit.info['converged']


def test_lbfgs_stops_when_converged_and_the_history_is_the_loss():
    posterior = infer.Posterior(Rate(), targets=COUNTS)
    fit = infer.map(posterior, num_steps=500, progress=False)
    assert fit.info['converged'] and fit.info['num_steps'] == len(fit.history['loss']) < 50
    theta = fit.thetas[0, 0]
    assert float(-posterior.log_density(theta, jacobian=False)) == pytest.approx(fit.history['loss'][-1], rel=1e-5)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x, scale):
        return dist.Normal(x @ self.w.value(), scale)


def line_data(num=200):
    x = jax.random.normal(jax.random.key(1), (num, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5]) + 0.3 * jax.random.normal(jax.random.key(2), (num,))


def test_minibatches_have_the_mode_of_the_whole():
    x, y = line_data()
    want = jnp.linalg.solve(x.T @ x / 0.09 + jnp.eye(3), x.T @ y / 0.09)
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    schedule = optax.exponential_decay(3e-2, 500, 0.1)
    fit = infer.map(posterior, optimizer=optax.adam(schedule), batch_size=32, num_steps=2000, progress=False)
    np.testing.assert_allclose(fit.estimate['w'], want, atol=0.01)  # the noise of the last steps, at rate 3e-6


@pytest.mark.parametrize('kwargs', [{}, {'optimizer': 'adam', 'batch_size': 50}])
def test_a_second_fit_traces_nothing(kwargs):
    calls = []

    class Counted(Line):
        def __call__(self, x, scale):
            calls.append(1)
            return super().__call__(x, scale)

    x, y = line_data()
    infer.map(infer.Posterior(Counted(), (x, 0.3), y), num_steps=30, progress=False, **kwargs)
    traced = len(calls)
    model = Counted()
    model.w.set_value(jnp.ones(3))
    if 'batch_size' in kwargs:
        kwargs = {**kwargs, 'optimizer': optax.adam(1e-2)}  # built anew, equal in structure
    infer.map(infer.Posterior(model, (x + 1.0, 0.5), y - 1.0), num_steps=70, seed=3, progress=False, **kwargs)
    assert len(calls) == traced + 1 > 1  # the trace of the new posterior


def test_the_fit_starts_from_the_model_and_can_be_written_back():
    x, y = line_data()
    model = Line()
    fit = infer.map(infer.Posterior(model, (x, 0.3), y), progress=False)
    np.testing.assert_array_equal(model.w.value(), np.zeros(3))
    fit.assign_to(model)
    np.testing.assert_allclose(model.w.value(), fit.estimate['w'], rtol=1e-6)
    again = infer.map(infer.Posterior(model, (x, 0.3), y), progress=False)
    assert again.info['num_steps'] <= 3


# The published place cell: flat priors, three columns that are almost collinear and unscaled


class PlaceCell(nn.Module):
    """Log rate = b . columns, in units of the columns' sizes: the coefficients of 1, x, x^2 differ by a factor 5000."""

    def __init__(self, size):
        super().__init__()
        self.size = jnp.asarray(size)
        self.b = nn.Param(jnp.zeros(len(size), jnp.result_type(float)))

    def __call__(self, columns):
        return dist.Poisson(jnp.exp(columns @ (self.b.value() * self.size)))


@pytest.mark.parametrize('name', ['place_field', 'place_field_direction'])
def test_flat_priors_give_the_published_coefficients(name, shared_dir, x64):
    import json

    raw = np.load(shared_dir / 'data' / 'neuro' / 'place_cell.npz')
    reference = json.loads((shared_dir / 'data' / 'neuro' / 'reference.json').read_text())['place_cell'][name]
    x = raw['position'].astype(np.float64)
    columns = [np.ones_like(x), x, x**2, np.r_[np.diff(x) > 0, False].astype(float)]
    columns = np.stack(columns[: len(reference['published_coef'])], 1)
    orthogonal, mix = np.linalg.qr(columns)  # well-conditioned coordinates for the same model
    size = np.sqrt(len(x)) * np.ones(columns.shape[1])
    model = PlaceCell(size)
    model.b.set_value(np.linalg.lstsq(orthogonal * size, np.full(len(x), -6.0), rcond=None)[0])
    fit = infer.map(infer.Posterior(model, orthogonal, raw['spikes'].astype(int)), tol=1e-10, progress=False)
    coefficients = np.linalg.solve(mix, np.asarray(fit.estimate['b']) * size)
    assert fit.info['converged']
    # The positions of the file are rounded to float32, which turns a few directions and so moves the exact maximum
    # (Newton's method on this file gives the same) by 2e-5 of itself, 0.0002 standard errors.
    np.testing.assert_allclose(coefficients, reference['recomputed_coef'], rtol=3e-5)
    np.testing.assert_allclose(coefficients, reference['published_coef'], rtol=3e-5, atol=6e-7)  # six decimals given


def test_units_of_the_estimate():
    class Wait(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(5.0 * u.ms, t=nn.SoftplusT(0.0 * u.ms), reg=nn.GammaReg(alpha=2.0, beta=0.1 / u.ms))

        def __call__(self):
            return infer.of_quantities(dist.Exponential, 1.0 / self.tau.value())

    fit = infer.map(infer.Posterior(Wait(), targets=jnp.array([10.0, 20.0, 30.0]) * u.ms), progress=False)
    assert fit.estimate['tau'].unit == u.ms


REFUSED = [
    ({'optimizer': 'sgd'}, ValueError, r"or 'lbfgs' or 'adam', got 'sgd'. Write optax.sgd\(1e-2\)"),
    ({'batch_size': 10}, ValueError, 'L-BFGS needs the full data'),
    ({'optimizer': optax.lbfgs(), 'batch_size': 10}, ValueError, 'L-BFGS needs the full data'),
    ({'optimizer': 'adam', 'batch_size': 0}, ValueError, 'batch_size must be an int of at least 1, got 0'),
    ({'optimizer': 'adam', 'batch_size': 201}, ValueError, 'from 1 to the number of observations 200, got 201'),
    ({'optimizer': optax.sgd(1e3), 'num_steps': 100}, ValueError, 'The loss became .* Use a smaller learning rate'),
]


@pytest.mark.parametrize('kwargs, error, message', REFUSED)
def test_what_is_refused(kwargs, error, message):
    x, y = line_data()
    with pytest.raises(error, match=message):
        infer.map(infer.Posterior(Line(), (x, 0.3), y), progress=False, **kwargs)


def test_every_way_to_fit_has_the_same_log_density_of_the_same_theta():
    posterior = infer.Posterior(Rate(), targets=COUNTS)
    fits = [
        infer.map(posterior, jacobian=True, progress=False),
        infer.svi(posterior, num_steps=1000, num_draws=10, progress=False),
        infer.nuts(posterior, num_warmup=50, num_samples=10, num_chains=1, progress=False),
    ]
    assert all(fit.density is posterior.density for fit in fits)
    lp = [float(posterior.log_density(theta)) for theta in fits[2].thetas[0]]
    np.testing.assert_allclose(fits[2].stats['lp'][0], lp, rtol=1e-6)
    at_mode = float(posterior.log_density(fits[0].thetas[0, 0]))
    assert -fits[0].history['loss'][-1] == pytest.approx(at_mode, rel=1e-6) and max(lp) <= at_mode + 1e-5


def test_any_quantity_of_the_model_comes_with_its_uncertainty():
    fit = infer.nuts(
        infer.Posterior(Rate(), targets=COUNTS), num_warmup=50, num_samples=30, num_chains=2, progress=False
    )
    twice = fit.evaluate(lambda model, x: {'rate': model.rate.value() * x}, 2.0)['rate']
    np.testing.assert_allclose(twice.reshape(2, 30), 2.0 * fit.draws['rate'], rtol=1e-6)
    assert fit.evaluate(lambda model: model.rate.value(), num_draws=7).shape == (7,)


@pytest.mark.parametrize(
    't, best', [(nn.ClipT(0.0, 10.0), 18 / 7), (nn.ReluT(), 18 / 7), (nn.ClipT(0.0, 2.0), 2.0)], ids=repr
)
def test_transforms_without_a_density_are_fitted_by_map(t, best):
    class Confined(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Param(1.0, t=t, reg=nn.GammaReg(alpha=3.0, beta=2.0))

        def __call__(self):
            return dist.Poisson(self.rate.value())

    fit = infer.map(infer.Posterior(Confined(), targets=COUNTS), optimizer=optax.adam(3e-2), progress=False)
    assert float(fit.estimate['rate']) == pytest.approx(best, rel=1e-2)


def test_a_fit_that_has_not_converged_says_so():
    x, y = line_data()
    with pytest.warns(infer.ConvergenceWarning, match='stopped after 2 steps before it converged'):
        fit = infer.map(infer.Posterior(Line(), (x, 0.3), y), num_steps=2, progress=False)
    assert fit.info['converged'] is False


# Several starts


class TwoModes(nn.Module):
    """Modes at -2 and 2; the one at 2 is the higher one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Param(-2.5, reg=dist.Normal(1.0, 3.0))

    def __call__(self):
        return dist.Normal(self.a.value() ** 2, 0.5)


def test_the_best_of_several_starts_is_kept():
    posterior = infer.Posterior(TwoModes(), targets=jnp.full(5, 4.0))
    one = infer.map(posterior, optimizer='adam', num_steps=500, progress=False)
    assert one.estimate['a'] == pytest.approx(-2.0, abs=0.02)  # the lower mode, next to the start
    many = infer.map(posterior, optimizer='adam', num_steps=500, num_starts=8, progress=False)
    assert many.estimate['a'] == pytest.approx(2.0, abs=0.02)
    losses = np.array(many.info['losses'])
    assert losses.shape == (8,) and losses.min() < losses.max() - 0.01  # both modes were found
    assert losses[many.info['best_start']] == losses.min()
    assert many.history['loss'].shape == (500,)
    assert float(-posterior.log_density(many.thetas[0, 0], jacobian=False)) == pytest.approx(losses.min(), rel=1e-5)


def test_lbfgs_from_several_starts_lets_each_converge():
    x, y = line_data()
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    one = infer.map(posterior, progress=False)
    many = infer.map(posterior, num_starts=3, progress=False)
    np.testing.assert_allclose(many.estimate['w'], one.estimate['w'], rtol=1e-4)
    np.testing.assert_allclose(many.info['losses'], one.history['loss'][-1], rtol=1e-5)
    assert many.info['converged'] and len(many.history['loss']) == many.info['num_steps'] < 50


def test_a_start_that_is_lost_does_not_lose_the_others():
    class Edge(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Param(0.5)

        def __call__(self):
            return dist.Normal(jnp.sqrt(self.a.value()), 1.0)

    posterior = infer.Posterior(Edge(), targets=jnp.full(4, 3.0))
    starts = jnp.array([[0.5], [1e-7], [2.0]])  # the second one's gradient throws it far below zero
    kwargs = {'optimizer': optax.sgd(-1e-2), 'num_steps': 200, 'progress': False}
    with pytest.raises(ValueError, match='The loss became nan at step'):
        infer.map(posterior, init=starts[1], **kwargs)
    kwargs['optimizer'] = optax.chain(optax.sgd(1e-2), optax.clip(0.1))
    fit = infer.map(posterior, init=starts, num_starts=3, **kwargs)
    assert np.isfinite(fit.history['loss']).all() and np.isfinite(fit.estimate['a'])


# Stopping


def held_out_case():
    """Twelve coefficients from fifteen noisy observations: held-out data get worse long before the loss is low."""
    x = jax.random.normal(jax.random.key(3), (45, 12))
    y = x[:, 0] + jax.random.normal(jax.random.key(4), (45,))
    return x, y


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(12))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), 1.0)


def test_early_stopping_keeps_the_point_that_is_best_for_held_out_data():
    x, y = held_out_case()
    posterior = infer.Posterior(Flat(), x[:15], y[:15])
    rule = infer.EarlyStopping(patience=3, held_out=(x[15:], y[15:]), every=20)
    kwargs = {'optimizer': optax.sgd(2e-3), 'num_steps': 2000, 'progress': False}
    fit = infer.map(posterior, early_stopping=rule, **kwargs)
    watched = fit.history['held_out_loss']
    assert fit.info['stopped'] == 'early stopping' and fit.info['num_steps'] == 20 * len(watched) < 2000
    assert watched.argmin() == len(watched) - 4  # three evaluations without a gain
    w = np.asarray(fit.estimate['w'])
    loss = np.mean(0.5 * (y[15:] - x[15:] @ w) ** 2 + 0.5 * np.log(2 * np.pi))
    assert loss == pytest.approx(watched.min(), rel=1e-5)
    # The same steps as without a rule, and the point is that of the best evaluation.
    plain = infer.map(posterior, **kwargs | {'num_steps': 20 * (int(watched.argmin()) + 1)})
    np.testing.assert_array_equal(plain.estimate['w'], fit.estimate['w'])
    np.testing.assert_array_equal(plain.history['loss'], fit.history['loss'][: plain.info['num_steps']])


def test_held_out_data_are_predicted_by_the_running_statistics_of_that_step(tmp_path):
    class Normed(Flat):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm0d(12, momentum=0.9)

        def __call__(self, x):
            return super().__call__(self.norm(x))

    x, y = held_out_case()
    x = 3.0 + 2.0 * x
    posterior = infer.Posterior(Normed(), x[:15], y[:15])
    rule = infer.EarlyStopping(patience=3, held_out=(x[15:], y[15:]), every=20)
    kwargs = {'optimizer': optax.sgd(2e-3), 'early_stopping': rule, 'progress': False}
    with environ.context(fit=True):
        fit = infer.map(posterior, num_steps=500, **kwargs)
        first = infer.map(posterior, num_steps=40, **kwargs, checkpoint=tmp_path / 'run.ckpt')
        resumed = infer.map(posterior, num_steps=500, **kwargs, checkpoint=tmp_path / 'run.ckpt')
    assert fit.info['stopped'] == 'early stopping' and first.info['num_steps'] == 40
    model = Normed()
    fit.assign_to(model)
    assert not np.allclose(np.ravel(model.norm.running_mean.value), 0.0)
    loss = -infer.Posterior(model, x[15:], y[15:]).log_likelihood().mean()
    assert float(loss) == pytest.approx(fit.history['held_out_loss'].min(), rel=1e-5)
    np.testing.assert_array_equal(resumed.thetas, fit.thetas)
    for a, b in zip(resumed.posterior.data.states, fit.posterior.data.states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_by_the_loss():
    x, y = line_data()
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    rule = infer.EarlyStopping(patience=2, every=30, min_gain=0.01)
    fit = infer.map(posterior, optimizer='adam', num_steps=3000, early_stopping=rule, progress=False)
    means = fit.history['loss'].reshape(-1, 30).mean(1)
    np.testing.assert_allclose(fit.history['mean_loss'], means, rtol=1e-5)
    assert fit.info['stopped'] == 'early stopping' and (np.diff(means)[-2:] > -0.01).all()
    shorter = infer.map(posterior, optimizer='adam', num_steps=3000, early_stopping=1, progress=False)
    assert shorter.info['num_steps'] <= 3000


def test_callbacks_see_the_fit_and_may_end_it():
    x, y = line_data()
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    seen = []

    def stop_at_400(progress):
        seen.append((progress.step, progress.loss, progress.fit().estimate['w']))
        return progress.step >= 400

    others = []
    fit = infer.map(posterior, optimizer='adam', num_steps=1000, callbacks=[stop_at_400, others.append], progress=False)
    assert [step for step, _, _ in seen] == [200, 400] and fit.info['stopped'] == 'a callback'
    assert seen[-1][1] == fit.history['loss'][399] and len(others) == 2 and 'step=400' in repr(others[-1])
    np.testing.assert_array_equal(seen[-1][2], fit.estimate['w'])
    assert not np.array_equal(seen[0][2], seen[1][2])


def test_a_schedule_is_that_of_optax():
    x, y = line_data()
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 100, 300)
    fit = infer.map(posterior, optimizer=optax.adam(schedule), num_steps=300, progress=False)
    optimizer = optax.adam(schedule)

    @jax.jit
    def run(theta):
        def step(carry, _):
            theta, state = carry
            loss, grad = jax.value_and_grad(lambda t: -posterior.density.log_density(t, posterior.data))(theta)
            updates, state = optimizer.update(grad, state, theta)
            return (optax.apply_updates(theta, updates), state), loss

        return jax.lax.scan(step, (theta, optimizer.init(theta)), length=300)

    (theta, _), losses = run(jnp.zeros(3))
    np.testing.assert_allclose(fit.history['loss'], losses, rtol=1e-4)
    np.testing.assert_allclose(fit.thetas[0, 0], theta, rtol=1e-4)


# Resuming


@pytest.mark.parametrize('case', ['batch_size', 'batches', 'starts', 'lbfgs', 'early stopping'])
def test_a_fit_that_was_interrupted_goes_on_to_the_same_numbers(case, tmp_path):
    x, y = line_data()
    posterior = infer.Posterior(Line(), (x, 0.3), y)
    kwargs = {
        'batch_size': {'optimizer': 'adam', 'batch_size': 32},
        'batches': {
            'optimizer': 'adam',
            'batches': [((x[i : i + 50], 0.3), y[i : i + 50]) for i in (0, 50, 100, 150)],
            'num_observations': 200,
        },
        'starts': {'optimizer': 'adam', 'num_starts': 3},
        'lbfgs': {'tol': 0.0},
        'early stopping': {
            'optimizer': 'adam',
            'early_stopping': infer.EarlyStopping(patience=3, held_out=((x[:20], 0.3), y[:20] + 1.0), every=15),
        },
    }[case] | {'progress': False, 'seed': 3}
    steps = 14 if case == 'lbfgs' else 90

    def fit(**options):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', infer.ConvergenceWarning)
            return infer.map(posterior, num_steps=steps, **kwargs, **options)

    class Killed(BaseException):  # nothing is saved at it
        pass

    def kill(progress):
        if progress.step >= steps // 2:
            raise Killed

    whole = fit()
    path = tmp_path / 'run.ckpt'
    with pytest.raises(Killed):
        fit(checkpoint=path, checkpoint_every=steps // 5, callbacks=kill)
    assert path.exists()
    resumed = fit(checkpoint=path, checkpoint_every=steps // 5)
    np.testing.assert_array_equal(resumed.thetas, whole.thetas)
    assert whole.history.keys() == resumed.history.keys()
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    again = fit(checkpoint=path)  # it was finished: it loads
    np.testing.assert_array_equal(again.thetas, whole.thetas)
    if case == 'batch_size':  # and goes on, where more steps are asked for
        steps = 130
        more = fit(checkpoint=path)
        np.testing.assert_array_equal(more.history['loss'], fit().history['loss'])
        assert more.info['num_steps'] == 130


@pytest.mark.parametrize('num_starts', [1, 2])
def test_a_fit_whose_batches_ended_is_loaded_again(num_starts, tmp_path):
    x, y = line_data()
    posterior = infer.Posterior(Line(), (x, 0.3), y)

    def fit():
        batches = (((x[i : i + 50], 0.3), y[i : i + 50]) for i in (0, 50, 100, 150))
        options = {'num_observations': 200, 'num_starts': num_starts, 'optimizer': 'adam', 'num_steps': 9}
        return infer.map(posterior, batches=batches, checkpoint=tmp_path / 'c', progress=False, **options)

    first, again = fit(), fit()
    assert again.info['stopped'] == 'the batches ended' and again.info['num_steps'] == 4
    np.testing.assert_array_equal(again.thetas, first.thetas)


def test_the_checkpoint_of_another_fit_is_refused(tmp_path):
    x, y = line_data()
    kwargs = {'optimizer': 'adam', 'num_steps': 5, 'progress': False, 'checkpoint': tmp_path / 'run.ckpt'}
    infer.map(infer.Posterior(Line(), (x, 0.3), y), **kwargs)
    for changed, difference in [
        ({'seed': 1}, 'seed is'),
        ({'optimizer': optax.adam(2e-2)}, 'settings is'),
        ({'early_stopping': 5}, 'early_stopping is'),
    ]:
        with pytest.raises(ValueError, match=f'the checkpoint of another run: .*{difference}'):
            infer.map(infer.Posterior(Line(), (x, 0.3), y), **kwargs | changed)
    with pytest.raises(ValueError, match='targets is'):
        infer.map(infer.Posterior(Line(), (x, 0.3), y + 1.0), **kwargs)


# Models that draw random numbers


class Noisy(nn.Module):
    """Half of the inputs are dropped, at random."""

    def __init__(self, own=False):
        super().__init__()
        self.w = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))
        self.rng = random.RandomState(0) if own else None

    def __call__(self, x):
        if environ.get('fit'):
            x = 2.0 * x * (self.rng or random).bernoulli(0.5, size=x.shape)
        return dist.Normal(x @ self.w.value(), 0.3)


@pytest.mark.parametrize('own', [False, True])
def test_a_model_that_draws_random_numbers_sees_others_at_each_step(own):
    x, y = line_data()
    posterior = infer.Posterior(Noisy(own), x, y)
    still = {'optimizer': optax.sgd(0.0), 'num_steps': 50, 'progress': False}

    def losses(seed):
        return infer.map(posterior, init=jnp.ones(3), seed=seed, **still).history['loss']

    with environ.context(fit=True):
        assert len(np.unique(losses(1))) == 50
        np.testing.assert_array_equal(losses(1), losses(1))
        assert not np.array_equal(losses(1), losses(2))
        with pytest.raises(ValueError, match='draws random numbers .* which L-BFGS cannot follow'):
            infer.map(posterior, progress=False)
    # The same program under other settings is another one; where nothing is set, the model is seen as in use.
    assert len(np.unique(losses(1))) == 1
    assert infer.map(posterior, progress=False).info['converged']


def test_a_model_without_noise_compiles_nothing_a_second_time_with_all_options():
    x, y = line_data()

    def fit(x, y, seed, steps):
        return infer.map(
            infer.Posterior(Line(), (x, 0.3), y),
            optimizer=optax.adam(1e-2),
            batch_size=32,
            num_starts=3,
            num_steps=steps,
            early_stopping=infer.EarlyStopping(50, held_out=((x[:20], 0.3), y[:20])),
            seed=seed,
            progress=False,
        )

    x, y = np.asarray(x), np.asarray(y)
    fit(x, y, 0, 50)
    with compilations() as events:
        fit(x + 1.0, y - 1.0, 1, 130)
    assert not events


MORE_REFUSED = [
    ({'num_starts': 0}, ValueError, 'num_starts must be an int of at least 1, got 0'),
    ({'early_stopping': 'yes'}, ValueError, 'early_stopping must be an int'),
    ({'callbacks': [3]}, ValueError, 'function of a FitProgress'),
    ({'init': 'nowhere'}, ValueError, "init must be one of .*, got 'nowhere'"),
    ({'num_starts': 3, 'init': jnp.ones((2, 3))}, ValueError, 'init must have shape'),
    ({'checkpoint_every': 10}, ValueError, 'needs checkpoint=path'),
]


@pytest.mark.parametrize('kwargs, error, message', MORE_REFUSED)
def test_what_else_is_refused(kwargs, error, message):
    x, y = line_data()
    with pytest.raises(error, match=message):
        infer.map(infer.Posterior(Line(), (x, 0.3), y), progress=False, **kwargs)


@pytest.mark.parametrize('kwargs', [{'patience': 0}, {'every': 1.5}, {'min_gain': -1.0}, {'held_out': jnp.ones(3)}])
def test_early_stopping_refuses(kwargs):
    with pytest.raises(ValueError, match=f'EarlyStopping: {next(iter(kwargs))}'):
        infer.EarlyStopping(**kwargs)
