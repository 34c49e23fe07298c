"""Norms against PyTorch and Flax, running statistics, masks, and statistics shared along a mapped axis."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import BatchState, ParamState, environ, graph, nn, transform
from tests.nn.layers.against_torch import compare, to_first, to_last

RNG = np.random.default_rng(0)
SIZES = {0: (), 1: (5,), 2: (4, 3), 3: (4, 2, 3)}
AFFINE = {'bias': [0.3, -0.2], 'scale': [1.5, -0.5]}


def batch(n, rows=6):
    return (RNG.normal(size=(rows, *SIZES[n], 2)) * [1.0, 3.0] + [0.0, 2.0]).astype(np.float32)


def batch_norm(n, **kwargs):
    starts = {'bias_initializer': np.array(AFFINE['bias']), 'scale_initializer': np.array(AFFINE['scale'])}
    return getattr(nn, f'BatchNorm{n}d')((*SIZES[n], 2), **{**starts, **kwargs})


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('n', SIZES)
def test_batch_norm_in_training_is_that_of_torch(n, fast):
    layer = batch_norm(n, use_fast_variance=fast)
    x = batch(n)
    with environ.context(fit=True):
        compare(
            layer,
            x,
            lambda torch, x, scale, bias: torch.nn.functional.batch_norm(x, None, None, scale, bias, training=True),
            scale=lambda a: np.asarray(a).ravel(),
            bias=lambda a: np.asarray(a).ravel(),
        )
    # `compare` calls once for the values: one step of the running statistics, with the variance of n.
    axes = tuple(range(n + 1))
    # A mean near zero has the rounding of its terms, of size 0.01, not its own.
    np.testing.assert_allclose(layer.running_mean.value.ravel(), 0.01 * x.mean(axes), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(layer.running_var.value.ravel(), 0.99 + 0.01 * x.var(axes), rtol=1e-5)


@pytest.mark.parametrize('n', SIZES)
def test_batch_norm_in_prediction_uses_what_it_has_tracked(n):
    layer = batch_norm(n, momentum=0.0)
    x, new = batch(n), batch(n)
    with environ.context(fit=True):
        layer(x)
    before = layer.running_mean.value
    with environ.context(fit=False):
        y = layer(new)
    assert layer.running_mean.value is before
    axes = tuple(range(n + 1))
    expected = (new - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * AFFINE['scale'] + AFFINE['bias']
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_running_statistics_come_near_those_of_the_data_under_jit_and_loops():
    layer = nn.BatchNorm0d(2, momentum=0.9)
    data = jnp.asarray(RNG.normal(size=(200, 8, 2)) * 2.0 + 1.0, jnp.float32)
    with environ.context(fit=True):
        transform.for_loop(layer, data)
        assert isinstance(layer.running_mean, BatchState)
        once = graph.clone(layer)
        transform.jit(layer)(data[0])
        once(data[0])
    np.testing.assert_allclose(layer.running_var.value, once.running_var.value, rtol=1e-6)
    # 10 batches of 8 count: standard errors 0.22 of the mean and 0.64 of the variance; 4 of each allowed.
    assert np.all(abs(layer.running_mean.value - 1) < 0.9) and np.all(abs(layer.running_var.value - 3.5) < 2.6)


@pytest.mark.parametrize('fit', [True, False, None])
def test_without_running_statistics_and_affine_parameters_it_still_normalises(fit):
    layer = nn.BatchNorm0d(2, track_running_stats=False, affine=False)
    assert not layer.states()
    x = batch(0)
    with environ.context(**({} if fit is None else {'fit': fit})):
        y = layer(x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-4)


def test_affine_parameters_without_running_statistics():
    layer = batch_norm(0, track_running_stats=False)
    np.testing.assert_allclose(layer(batch(0)).mean(0), AFFINE['bias'], atol=1e-6)


def test_it_asks_whether_the_model_is_in_training():
    with pytest.raises(KeyError, match='fit.*batch statistics'):
        nn.BatchNorm0d(2)(batch(0))


@pytest.mark.parametrize('fast', [True, False])
def test_a_large_mean_costs_no_precision(fast):
    x = batch(0, 50) + np.float32(3e4)
    exact = np.float64(x)
    layer = nn.BatchNorm0d(2, use_fast_variance=fast)
    with environ.context(fit=True):
        y = layer(x)
    np.testing.assert_allclose(y, (exact - exact.mean(0)) / exact.std(0), atol=0.02)
    assert np.all(abs(layer.running_var.value - (0.99 + 0.01 * exact.var(0))) < 1e-3)
    z = nn.LayerNorm(50, use_fast_variance=fast)(x.T)
    np.testing.assert_allclose(z, ((exact - exact.mean(0)) / exact.std(0)).T, atol=0.02)


def norm_of_flax(name, x, mask=None, **kwargs):
    linen = pytest.importorskip('flax.linen')
    module = getattr(linen, name)(**kwargs)
    return module.apply(module.init(jax.random.key(0), jnp.asarray(x)), jnp.asarray(x), mask=mask)


X = (RNG.normal(size=(3, 4, 5, 6)) * 2 + 1).astype(np.float32)
MASK = RNG.uniform(size=(3, 4, 5, 1)) < 0.7
# (layer, the module of flax and its options)
OF_FLAX = [
    (lambda: nn.LayerNorm((4, 5, 6)), 'LayerNorm', {}),
    (lambda: nn.LayerNorm((4, 5, 6), (0, 2), (-1,)), 'LayerNorm', {'reduction_axes': (1, 3)}),
    (lambda: nn.LayerNorm(6, (-2, -1), use_bias=False), 'LayerNorm', {'reduction_axes': (2, 3), 'use_bias': False}),
    (lambda: nn.RMSNorm((4, 5, 6), reduction_axes=(-2, -1)), 'RMSNorm', {'reduction_axes': (2, 3)}),
    (lambda: nn.GroupNorm((4, 5, 6), num_groups=3), 'GroupNorm', {'num_groups': 3}),
    (lambda: nn.GroupNorm(6, num_groups=None, group_size=3), 'GroupNorm', {'num_groups': 2}),
    (
        lambda: nn.GroupNorm((4, 5, 6), num_groups=2, reduction_axes=(1, 2)),
        'GroupNorm',
        {'num_groups': 2, 'reduction_axes': (2, 3)},
    ),
]


@pytest.mark.parametrize('mask', [None, MASK], ids=['whole', 'masked'])
@pytest.mark.parametrize('make, name, options', OF_FLAX)
def test_norms_are_those_of_flax(make, name, options, mask):
    x = X if mask is None else np.where(mask, X, np.nan)  # what is masked does not even count as NaN
    kept = np.broadcast_to(True if mask is None else mask, X.shape)
    y = make()(x, mask=mask)
    expected = norm_of_flax(name, X, None if mask is None else kept, use_fast_variance=False, **options)
    np.testing.assert_allclose(np.asarray(y)[kept], np.asarray(expected)[kept], rtol=1e-4, atol=1e-5)


def test_layer_norm_and_group_norm_are_those_of_torch():
    move = (np.asarray, np.asarray)
    compare(
        nn.LayerNorm((3, 4), (0, 1), (0, 1), epsilon=1e-5, bias_init=nn.init.Normal(), scale_init=nn.init.Normal()),
        X[0, :, :3, :4],
        lambda torch, x, scale, bias: torch.nn.functional.layer_norm(x, (3, 4), scale, bias, 1e-5),
        move,
        scale=np.asarray,
        bias=np.asarray,
    )
    compare(
        nn.GroupNorm((4, 5, 6), num_groups=3, epsilon=1e-5, bias_init=nn.init.Normal()),
        X,
        lambda torch, x, scale, bias: torch.nn.functional.group_norm(x, 3, scale, bias, 1e-5),
        (to_first, to_last),
        scale=np.ravel,
        bias=np.ravel,
    )
    compare(
        nn.RMSNorm(6, scale_init=nn.init.Normal()),
        X[0],
        lambda torch, x, scale: torch.nn.functional.rms_norm(x, (6,), scale, 1e-6),
        move,
        scale=np.asarray,
    )


def test_group_norm_of_channels_first_is_that_of_channels_last():
    last = nn.GroupNorm((4, 5, 6), num_groups=3)(X)
    first = nn.GroupNorm((6, 4, 5), 0, 3)(np.moveaxis(X, -1, -3))
    np.testing.assert_allclose(np.moveaxis(first, -3, -1), last, rtol=1e-5, atol=1e-6)
    # one group for every channel normalises each channel by itself, one for all is a layer norm
    one = nn.GroupNorm((4, 5, 6), num_groups=1)(X)
    np.testing.assert_allclose(one, nn.LayerNorm((4, 5, 6), (0, 1, 2))(X), rtol=1e-5, atol=1e-6)


def test_a_masked_batch_counts_only_what_is_left():
    layer = nn.BatchNorm1d((5, 2), momentum=0.0)
    x = batch(1)
    mask = RNG.uniform(size=(6, 5, 1)) < 0.6
    with environ.context(fit=True):
        y = layer(np.where(mask, x, np.nan), mask)
    rows = x[mask[..., 0]]
    np.testing.assert_allclose(layer.running_mean.value.ravel(), rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.value.ravel(), rows.var(0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(y)[mask[..., 0]], (rows - rows.mean(0)) / rows.std(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('masked', [False, True])
def test_statistics_are_shared_along_a_mapped_axis(masked):
    x = batch(0, 8)
    mask = RNG.uniform(size=(8, 1)) < 0.6 if masked else np.ones((8, 1), bool)
    whole, parts = nn.BatchNorm0d(2), nn.BatchNorm0d(2, axis_name='device')
    with environ.context(fit=True):
        expected = whole(x, mask if masked else None)
        call = transform.vmap(parts, axis_name='device', in_axes=(0, 0) if masked else 0)
        split = [a.reshape(4, 2, -1) for a in ((x, mask) if masked else (x,))]
        y = call(*split)
    np.testing.assert_allclose(y.reshape(8, 2), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts.running_var.value, whole.running_var.value, rtol=1e-5)


def test_groups_of_a_mapped_axis_share_their_own_statistics():
    x = batch(0, 8).reshape(4, 2, 2)
    make = [nn.LayerNorm(2, axis_name='device', axis_index_groups=g) for g in (None, [[0], [1]])]
    whole, alone = (jax.pmap(layer, axis_name='device')(x[:2]) for layer in make)
    np.testing.assert_allclose(alone, nn.LayerNorm(2)(x[:2]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole, alone)


def test_running_statistics_take_no_gradient_and_are_no_parameters():
    layer = nn.BatchNorm0d(2)
    assert list(layer.states(ParamState)) == [('weight',)]
    assert isinstance(layer.weight, nn.NormalizationParamState)
    x = jnp.asarray(batch(0))

    def tracked(x):
        layer(x)
        return layer.running_mean.value.sum()

    with environ.context(fit=True):
        np.testing.assert_array_equal(transform.grad(tracked)(x), 0)


def test_scale_takes_a_prior():
    layer = nn.LayerNorm(2, scale_init=nn.ParamSpec(1.0, reg=dist.Normal(1.0, 0.1)), use_bias=False)
    assert list(layer.states()) == [('weight', 'scale', 'val')]
    np.testing.assert_allclose(layer.reg_loss(), -2 * dist.Normal(0.0, 0.1).log_prob(0.0), rtol=1e-5)


def test_dtypes():
    layer = nn.BatchNorm0d(2)
    half = jnp.asarray(batch(0), jnp.bfloat16)
    with environ.context(fit=True):
        assert layer(half).dtype == jnp.float32
        assert layer.running_mean.value.dtype == jnp.float32
    assert nn.LayerNorm(2, dtype=jnp.bfloat16)(half).dtype == jnp.bfloat16
    assert nn.LayerNorm(2)(np.arange(4).reshape(2, 2)).dtype == jnp.float32
    with environ.context(precision='bf16', fit=True):
        layer = nn.BatchNorm0d(2)
        assert layer(half).dtype == jnp.bfloat16 and layer.running_var.value.dtype == jnp.float32


def test_double_precision(x64):
    x = RNG.normal(size=(7, 5)) + 1e6
    y = nn.LayerNorm(5, epsilon=1e-12)(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    'make, error, message',
    [
        (lambda: nn.BatchNorm1d(3), ValueError, r'in_size must be \(width, channels\)'),
        (lambda: nn.BatchNorm0d(3, feature_axis=1), ValueError, 'axes of one sample'),
        (lambda: nn.LayerNorm(3)(np.ones((3, 4))), ValueError, r'LayerNorm\(3 -> 3\).*got \(3, 4\)'),
        (lambda: nn.LayerNorm(3, feature_axes=-2), ValueError, 'not axes of in_size'),
        (lambda: nn.GroupNorm(6, num_groups=4), ValueError, 'num_groups=4 does not divide the 6 channels'),
        (lambda: nn.GroupNorm(6, group_size=3), ValueError, 'pass num_groups=None'),
        (lambda: nn.GroupNorm(6, num_groups=None), ValueError, 'one of num_groups and group_size'),
        (lambda: nn.GroupNorm((5, 6), num_groups=2, reduction_axes=0), ValueError, 'must have the channels'),
        (lambda: nn.LayerNorm(2)(np.ones(2) * u.mV), TypeError, 'divide the input by mV'),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
