"""Dropout: what is kept and how often, shared masks, moments, when it does nothing, fixed masks over time."""

import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import ShortTermState, environ, nn, random, transform

RANDOM = [
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
]
N = 20_000


def in_training(layer, *args):
    with environ.context(fit=True):
        return np.asarray(layer(*args))


@pytest.mark.parametrize('prob', [0.2, 0.9])
def test_prob_is_the_probability_of_keeping(prob):
    y = in_training(nn.Dropout(prob), jnp.full(N, 3.0))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 3.0 / prob, rtol=1e-6)
    # 5 standard errors of a share of 20000: false alarm 6e-7
    assert abs(kept.mean() - prob) < 5 * np.sqrt(prob * (1 - prob) / N)


@pytest.mark.parametrize('layer', [*RANDOM, lambda *a, **k: nn.DropoutFixed(4, *a, **k)])
def test_rate_is_the_probability_of_dropping(layer):
    assert layer(rate=0.2).prob == layer(0.8).prob == 0.8
    assert layer().prob == layer(rate=jnp.array(0.5)).prob == 0.5
    assert repr(layer(rate=0.2)).endswith('(prob=0.8, keeps 0.8 and drops 0.2)')
    with pytest.raises(ValueError, match=r'both prob=0.8 \(the share that is kept\) and rate=0.2'):
        layer(0.8, rate=0.2)
    with pytest.raises(ValueError, match=r'rate is the probability of dropping a unit, in \[0, 1\]; got 20'):
        layer(rate=20)
    with pytest.raises(TypeError, match="prob is the probability of keeping a unit, a number; got '0.5'"):
        layer('0.5')


# (layer, input shape, the axes along which the mask is the same)
SHARED = [
    (nn.Dropout(0.5, broadcast_dims=0), (30, 400), (0,)),
    (nn.Dropout(0.5, broadcast_dims=(-1, 1)), (400, 5, 6), (1, 2)),
    (nn.Dropout1d(0.5), (6, 5, 40), (1,)),
    (nn.Dropout1d(0.5), (5, 200), (0,)),
    (nn.Dropout1d(0.5, channel_axis=-2), (6, 40, 5), (2,)),
    (nn.Dropout2d(0.5), (6, 5, 4, 40), (1, 2)),
    (nn.Dropout2d(0.5, channel_axis=1), (6, 40, 5, 4), (2, 3)),
    (nn.Dropout3d(0.5), (6, 5, 4, 3, 40), (1, 2, 3)),
    (nn.FeatureAlphaDropout(0.5), (6, 5, 4, 40), (1, 2)),
    (nn.FeatureAlphaDropout(0.5, channel_axis=1), (6, 40, 5), (2,)),
    (nn.FeatureAlphaDropout(0.5), (60, 40), ()),
]


@pytest.mark.parametrize('layer, shape, shared', SHARED)
def test_masks_are_shared_along_places_and_only_there(layer, shape, shared):
    y = in_training(layer, jnp.ones(shape))
    high = y == y.max()
    one = high[tuple(slice(0, 1) if axis in shared else slice(None) for axis in range(y.ndim))]
    np.testing.assert_array_equal(high, np.broadcast_to(one, y.shape))
    # At least 200 fair draws: a share outside (0.3, 0.7) has probability below 2e-8 for each case.
    assert one.size >= 200 and 0.3 < one.mean() < 0.7
    # The other axes are drawn one by one: two slices of 20 and more agree with a probability below 1e-6.
    for axis in set(range(y.ndim)) - set(shared):
        first, second = (np.take(one, i, axis) for i in (0, 1))
        assert first.size < 20 or not np.array_equal(first, second)


@pytest.mark.parametrize('layer', RANDOM)
def test_the_identity_in_prediction_and_when_all_is_kept(layer):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    before = random.get_key()
    with environ.context(fit=False):
        np.testing.assert_array_equal(layer(0.3)(x), x)
    np.testing.assert_array_equal(in_training(layer(1.0), x), x)
    np.testing.assert_array_equal(random.get_key(), before)  # and nothing is drawn
    np.testing.assert_array_equal(in_training(layer(0.0), x), 0)
    with pytest.raises(KeyError, match='fit'):
        layer(0.5)(x)


@pytest.mark.parametrize('prob', [0.3, 0.8])
def test_alpha_dropout_keeps_mean_and_variance(prob):
    x = jnp.asarray(np.random.default_rng(0).normal(size=N), jnp.float32)
    y = in_training(nn.AlphaDropout(prob), x)
    # Standard errors below 0.007 (mean) and 0.02 (variance): 5 of each, false alarm 1e-6
    assert abs(y.mean()) < 0.036 and abs(y.var() - 1) < 0.1
    a = (prob * (1 + (1 - prob) * 1.7580993408473766**2)) ** -0.5
    b = a * (1 - prob) * 1.7580993408473766
    dropped = np.isclose(y, -a * 1.7580993408473766 + b, atol=1e-5)
    np.testing.assert_allclose(y[~dropped], (a * x + b)[~dropped], rtol=1e-4, atol=1e-5)
    assert abs(dropped.mean() - (1 - prob)) < 5 * np.sqrt(prob * (1 - prob) / N)


def test_alpha_dropout_of_units_of_torch():
    torch = pytest.importorskip('torch')
    values = set(np.round(in_training(nn.AlphaDropout(0.7), jnp.zeros(100)), 5))
    theirs = torch.nn.functional.alpha_dropout(torch.zeros(100), 1 - 0.7, training=True)
    assert values == set(np.round(theirs.numpy(), 5)) and len(values) == 2


def test_gradients_flow_through_what_is_kept():
    layer = nn.Dropout(0.5)
    x = jnp.ones(200)

    def loss(x):
        y = layer(x)
        return y.sum(), y

    with environ.context(fit=True):
        gradient, y = transform.grad(loss, has_aux=True)(x)
    np.testing.assert_array_equal(gradient, y)


def test_every_call_every_step_and_every_lane_draws_its_own_mask():
    layer = nn.Dropout(0.5)
    x = jnp.ones((3, 100))
    with environ.context(fit=True):
        step = transform.jit(layer)
        calls = [np.asarray(step(x[0])) for _ in range(2)]
        steps = transform.for_loop(layer, x)
        lanes = transform.vmap(layer)(x)
    for rows in (calls, steps, lanes):
        assert not np.array_equal(rows[0], rows[1])
    with environ.context(fit=True):
        random.seed(3)
        a = layer(x)
        random.seed(3)
        np.testing.assert_array_equal(layer(x), a)


def test_jitted_code_follows_the_setting():
    step = transform.jit(nn.Dropout(0.5))
    x = jnp.ones(100)
    for fit in (True, False, True):
        with environ.context(fit=fit):
            assert bool((step(x) == x).all()) is not fit


def test_units_pass():
    y = in_training(lambda x: nn.Dropout(0.5)(x * u.mV).to_decimal(u.mV), jnp.ones(100))
    assert set(y) == {0.0, 2.0}
    with pytest.raises(u.UnitMismatchError, match='mean 0 and variance 1'), environ.context(fit=True):
        nn.AlphaDropout(0.5)(jnp.ones(3) * u.mV)


def test_a_fixed_mask_is_one_mask_for_all_steps_until_it_is_reset():
    layer = nn.DropoutFixed(50, prob=0.5)
    layer.init_state(4)
    assert layer.mask.value.shape == (4, 50) and isinstance(layer.mask, ShortTermState)
    with environ.context(fit=True):
        steps = np.asarray(transform.for_loop(layer, jnp.ones((3, 4, 50))))
        np.testing.assert_array_equal(steps, np.broadcast_to(2.0 * layer.mask.value, steps.shape))
        layer.reset_state(4)
        assert not np.array_equal(layer(jnp.ones((4, 50))), steps[0])
    with environ.context(fit=False):
        np.testing.assert_array_equal(layer(jnp.ones((4, 50))), 1.0)
    nn.init_all_states(nn.Sequential(layer), 7)
    assert layer.mask.value.shape == (7, 50)


def test_a_fixed_mask_differs_from_lane_to_lane():
    layer = nn.DropoutFixed(50)
    nn.vmap_init_all_states(layer, axis_size=3)
    mask = np.asarray(layer.mask.value)
    assert mask.shape == (3, 50) and not np.array_equal(mask[0], mask[1])


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: nn.Dropout(1.5), r'probability of keeping a unit, in \[0, 1\]; got 1.5'),
        (lambda: nn.Dropout(0.5, broadcast_dims=2)(np.ones((3, 3))), r'broadcast_dims=\(2,\), the input has shape'),
        (lambda: nn.Dropout2d(0.5)(np.ones((3, 3))), r'Dropout2d: expected an input of shape \(..., \*, \*, \*\)'),
        (lambda: nn.Dropout1d(0.5, channel_axis=5)(np.ones((3, 3))), 'channel_axis=5 is not an axis'),
        (lambda: nn.DropoutFixed(3)(np.ones(3)), r'DropoutFixed\(3 -> 3\): there is no mask yet: call init_state'),
        (lambda: nn.DropoutFixed(3)(np.ones(4)), r'expected an input of shape \(..., 3\), got \(4,\)'),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message), environ.context(fit=True):
        make()


def test_a_fixed_mask_of_another_batch_is_refused():
    layer = nn.DropoutFixed(3)
    layer.init_state(4)
    with pytest.raises(ValueError, match=r'mask of shape \(4, 3\), the input has shape \(5, 3\)'):
        in_training(layer, jnp.ones((5, 3)))


def test_the_law_is_the_same_in_double_precision(x64):
    y = in_training(nn.Dropout(0.25), jnp.ones(100))
    assert y.dtype == np.float64 and set(y) == {0.0, 4.0}
