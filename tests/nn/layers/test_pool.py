"""Pooling against PyTorch, indices and unpooling, adaptive bins, channel axes, units."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import nn, transform
from tests.nn.layers.against_torch import compare, to_first, to_last

SIZES = {1: (9,), 2: (7, 6), 3: (4, 5, 6)}


def images(n, channels=3, rows=2):
    return np.random.default_rng(n).normal(size=(rows, *SIZES[n], channels)).astype(np.float32)


def torch_pool(name, n, *args, **kwargs):
    return lambda torch, x: getattr(torch.nn.functional, f'{name}{n}d')(x, *args, **kwargs)


# (layer, function of torch, its arguments); average pooling does not count what is padded.
WINDOWS = [
    ('AvgPool', (3,), {}, 'avg_pool', (3, 1), {}),
    ('AvgPool', (3, 2), {'padding': 1}, 'avg_pool', (3, 2, 1), {'count_include_pad': False}),
    ('MaxPool', (2,), {}, 'max_pool', (2,), {}),
    ('MaxPool', (3, 2), {'padding': 1}, 'max_pool', (3, 2, 1), {}),
    ('LPPool', (2.0, 2), {}, 'lp_pool', (2.0, 2), {}),
    ('LPPool', (3.0, 3, 2), {}, 'lp_pool', (3.0, 3, 2), {}),
]


@pytest.mark.parametrize(
    'n, ours, args, options, theirs, their_args, their_options',
    [(n, *row) for n in SIZES for row in WINDOWS[n % 2 :: 2]],  # one of the two rows of a kind
)
def test_pooling_is_that_of_torch(n, ours, args, options, theirs, their_args, their_options):
    x = images(n)
    if ours == 'LPPool' and args[0] == 3:
        x = abs(x)  # torch takes no absolute value under an odd power
    compare(getattr(nn, f'{ours}{n}d')(*args, **options), x, torch_pool(theirs, n, *their_args, **their_options))


@pytest.mark.parametrize('n', SIZES)
@pytest.mark.parametrize('kind', ['Avg', 'Max'])
def test_adaptive_pooling_is_that_of_torch(n, kind):
    target = (4, 2, 3)[:n]  # divides some of the sizes and not others
    layer = getattr(nn, f'Adaptive{kind}Pool{n}d')(target, in_size=(*SIZES[n], 3))
    assert layer.out_size == (*target, 3)
    compare(layer, images(n), torch_pool(f'adaptive_{kind.lower()}_pool', n, target))


def test_adaptive_pooling_leaves_axes_alone_and_takes_more_bins_than_entries():
    x = images(2)
    np.testing.assert_array_equal(nn.AdaptiveMaxPool2d((None, 1))(x), x.max(2, keepdims=True))
    np.testing.assert_allclose(nn.AdaptiveAvgPool2d((1, None))(x), x.mean(1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(nn.AdaptiveAvgPool1d(6)(jnp.arange(3.0)[:, None])[:, 0], [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize('n', SIZES)
def test_unpooling_undoes_pooling_as_in_torch(n):
    torch = pytest.importorskip('torch')
    x = images(n)
    pool, unpool = (
        getattr(nn, f'MaxPool{n}d')(2, return_indices=True),
        getattr(nn, f'MaxUnpool{n}d')(2),
    )
    y, indices = transform.jit(pool)(x)
    ty, tindices = getattr(torch.nn.functional, f'max_pool{n}d')(
        torch.tensor(to_first(x).copy()), 2, return_indices=True
    )
    np.testing.assert_array_equal(indices, to_last(tindices.numpy()))
    np.testing.assert_array_equal(y, to_last(ty.numpy()))
    back = unpool(y, indices, SIZES[n])
    expected = getattr(torch.nn.functional, f'max_unpool{n}d')(ty, tindices, 2, output_size=SIZES[n])
    np.testing.assert_array_equal(back, to_last(expected.numpy()))
    assert back.shape == x.shape and np.count_nonzero(back) == y.size
    np.testing.assert_array_equal(back[back != 0], x[np.asarray(back) != 0])
    np.testing.assert_array_equal(unpool(y, indices, x.shape), back)
    # where windows fill the input, the default size is that of the input
    even = x[tuple(slice(0, m - m % 2) if 0 < a <= n else slice(None) for a, m in enumerate(x.shape))]
    assert unpool(*pool(even)).shape == even.shape


def test_the_gradient_of_pooling_with_indices_is_that_of_pooling():
    x = jnp.asarray(images(2))
    pools = [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1, return_indices=True)]
    first, second = (jax.jit(jax.grad(lambda x, p=p: jnp.sum(jnp.sin(jax.tree.leaves(p(x))[0]))))(x) for p in pools)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    y, indices = nn.MaxPool2d(2, return_indices=True)(x)
    gradient = jax.jit(jax.grad(lambda y: jnp.sum(jnp.sin(nn.MaxUnpool2d(2)(y, indices, SIZES[2])))))(y)
    np.testing.assert_allclose(gradient, np.cos(y), rtol=1e-6)


def test_indices_prefer_the_first_of_equals_and_follow_nan():
    pool = nn.MaxPool1d(3, return_indices=True)
    assert pool(jnp.zeros((6, 1)))[1].ravel().tolist() == [0, 3]
    y, indices = pool(jnp.array([[1.0], [jnp.nan], [2.0]]))
    assert np.isnan(y).all() and indices.ravel().tolist() == [1]
    y, indices = nn.MaxPool1d(2, 2, 1, return_indices=True)(jnp.full((4, 1), -np.inf))
    assert indices.max() < 4  # never a padded place


@pytest.mark.parametrize(
    'kind, args', [('AvgPool', (2, 2)), ('MaxPool', (2,)), ('LPPool', (2, 2)), ('AdaptiveAvgPool', (3,))]
)
def test_channel_axes(kind, args):
    make = getattr(nn, f'{kind}2d')
    x = images(2)
    last = make(*args)(x)
    np.testing.assert_allclose(make(*args, channel_axis=-3)(to_first(x)), to_first(last), rtol=1e-6)
    np.testing.assert_allclose(make(*args, channel_axis=1)(to_first(x)), to_first(last), rtol=1e-6)
    np.testing.assert_allclose(
        make(*args, channel_axis=-2)(np.swapaxes(x, -1, -2)), np.swapaxes(last, -1, -2), rtol=1e-6
    )
    np.testing.assert_allclose(make(*args, channel_axis=None)(x[..., 0]), last[..., 0], rtol=1e-6)
    with pytest.raises(ValueError, match='Count from the end'):
        make(*args, channel_axis=1, in_size=(3, 7, 6))


def test_same_padding_averages_what_is_there():
    x = jnp.arange(5.0)[:, None]
    np.testing.assert_allclose(nn.AvgPool1d(3, 1, 'SAME')(x)[:, 0], [0.5, 1.0, 2.0, 3.0, 3.5])
    np.testing.assert_allclose(nn.AvgPool1d(3, 1, [(2, 0)])(x)[:, 0], [0.0, 0.5, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(nn.MaxPool1d(3, 2, 'SAME')(-x)[:, 0], [0.0, -1.0, -3.0])


def test_strides():
    assert nn.AvgPool1d(3, in_size=(9, 1)).out_size == (7, 1)  # 1 by default
    assert nn.AvgPool1d(3, None, in_size=(9, 1)).out_size == (3, 1)
    assert nn.MaxPool1d(3, in_size=(9, 1)).out_size == (3, 1)  # the kernel's size


def test_a_norm_of_zeros_has_gradient_zero_and_large_powers_come_near_the_maximum():
    np.testing.assert_array_equal(jax.grad(lambda x: nn.LPPool1d(2, 2)(x).sum())(jnp.zeros((4, 1))), 0)
    x = images(1)
    np.testing.assert_allclose(nn.LPPool1d(np.inf, 2)(x), nn.MaxPool1d(2)(abs(x)), rtol=1e-6)
    np.testing.assert_allclose(nn.LPPool1d(20, 2)(x), nn.LPPool1d(np.inf, 2)(x), rtol=0.04)


@pytest.mark.parametrize(
    'layer', [nn.AvgPool1d(2), nn.MaxPool1d(2), nn.LPPool1d(2, 2), nn.AdaptiveAvgPool1d(2), nn.AdaptiveMaxPool1d(2)]
)
def test_units_and_integers(layer):
    x = images(1)
    y = transform.jit(layer)(x * u.mV)
    assert y.unit == u.mV
    np.testing.assert_allclose(y.mantissa, layer(x), rtol=1e-6)
    kept = isinstance(layer, nn.MaxPool1d | nn.AdaptiveMaxPool1d)
    assert layer(np.arange(8)[:, None]).dtype == (np.int32 if kept else np.float32)


def test_unpooling_keeps_units():
    y, indices = nn.MaxPool1d(2, return_indices=True)(images(1)[:, :8] * u.mV)
    assert y.unit == u.mV and nn.MaxUnpool1d(2)(y, indices).unit == u.mV


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: nn.MaxPool2d(2)(np.ones((4, 3))), r'MaxPool2d: expected an input of shape \(..., height, width, ch'),
        (lambda: nn.MaxPool2d(2, channel_axis=-3)(np.ones((4, 3))), r'\(..., channels, height, width\)'),
        (lambda: nn.MaxPool2d(9)(np.ones((4, 4, 3))), r'window of \(9, 9\) does not fit'),
        (lambda: nn.MaxPool2d(9, in_size=(4, 4, 3)), r'window of \(9, 9\) does not fit'),
        (lambda: nn.AvgPool1d(2, padding=2), 'must be smaller than the kernel'),
        (lambda: nn.LPPool1d(0.5, 2), 'norm_type must be at least 1'),
        (lambda: nn.MaxPool1d(2, channel_axis=4)(np.ones((4, 3))), 'channel_axis=4 is not an axis'),
        (lambda: nn.AdaptiveAvgPool2d((2, 2, 2)), 'target_size must be an int or 2 of them'),
        (lambda: nn.AdaptiveAvgPool2d(0), 'target_size'),
        (lambda: nn.MaxUnpool1d(2, padding='SAME'), 'does not say how many'),
        (lambda: nn.MaxUnpool1d(2)(np.ones((2, 3)), np.zeros((2, 2), int)), 'indices have'),
        (lambda: nn.MaxUnpool1d(2)(np.ones((2, 1)), np.array([[0], [7]])), 'index 7 lies beyond an output of shape'),
        (lambda: nn.MaxUnpool1d(2, in_size=(4, 3))(np.ones((3, 3)), np.zeros((3, 3), int)), r'\(4, 3\) -> \(8, 3\)'),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
