"""Padding against PyTorch and NumPy, Flatten and Unflatten."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import nn, transform
from tests.nn.layers.against_torch import compare

SIZES = {1: (7,), 2: (5, 4), 3: (4, 5, 3)}
SIDES = {1: (2, 1), 2: (1, 2, 3, 0), 3: (1, 0, 0, 2, 1, 1)}
MODES = {'Reflection': 'reflect', 'Replication': 'replicate', 'Zero': 'constant', 'Circular': 'circular'}


def images(n):
    return np.random.default_rng(n).normal(size=(2, *SIZES[n], 3)).astype(np.float32)


@pytest.mark.parametrize('kind', MODES)
@pytest.mark.parametrize('n', SIZES)
def test_padding_is_that_of_torch(n, kind):
    layer = getattr(nn, f'{kind}Pad{n}d')(SIDES[n], in_size=(*SIZES[n], 3))
    # torch lists the last axis first
    theirs = [m for axis in reversed(range(n)) for m in SIDES[n][2 * axis : 2 * axis + 2]]
    compare(layer, images(n), lambda torch, x: torch.nn.functional.pad(x, theirs, MODES[kind]))


@pytest.mark.parametrize('n', SIZES)
def test_constants_and_the_forms_of_an_amount(n):
    x = images(n)
    make = getattr(nn, f'ConstantPad{n}d')
    around = lambda sides: np.pad(x, [(0, 0), *sides, (0, 0)], constant_values=0.5)
    amounts = tuple(range(1, n + 1))
    np.testing.assert_array_equal(make(2, 0.5)(x), around([(2, 2)] * n))
    np.testing.assert_array_equal(make(SIDES[n], 0.5)(x), around(np.reshape(SIDES[n], (n, 2))))
    np.testing.assert_array_equal(make(np.reshape(SIDES[n], (n, 2)), 0.5)(x), around(np.reshape(SIDES[n], (n, 2))))
    np.testing.assert_array_equal(make([(0, 1)], 0.5)(x), around([(0, 1)] * n))
    if n > 1:
        np.testing.assert_array_equal(make(amounts, 0.5)(x), around([(a, a) for a in amounts]))


def test_padding_can_go_around_more_than_once_and_repeats_edges():
    x = np.arange(3.0)[:, None]
    assert nn.CircularPad1d((4, 0))(x)[:, 0].tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert nn.ReplicationPad1d((0, 4))(x)[:, 0].tolist() == [0, 1, 2, 2, 2, 2, 2]


def test_units_and_batch_axes():
    x = np.ones((6, 2, 4, 1), np.float32)
    for layer in (nn.ZeroPad1d(1), nn.ReflectionPad1d(1), nn.ConstantPad1d(1, -65.0 * u.mV)):
        y = transform.jit(layer)(x * u.volt)
        assert y.shape == (6, 2, 6, 1) and y.unit == u.volt
    np.testing.assert_allclose(y[0, 0, :, 0].to_decimal(u.mV), [-65, *[1000] * 4, -65], rtol=1e-6)
    for layer, given in ((nn.ConstantPad1d(1, 1.0), x * u.volt), (nn.ConstantPad1d(1, 1.0 * u.mV), x)):
        with pytest.raises(u.UnitMismatchError, match='ConstantPad1d pads with'):
            layer(given)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: nn.ReflectionPad1d(3)(np.ones((3, 1))), '2 entries to reflect at its edge, the padding asks for 3'),
        (lambda: nn.ReflectionPad2d((0, 3), in_size=(9, 3, 1)), 'entries to reflect'),
        (lambda: nn.ZeroPad1d(-1), 'at least 0, got'),
        (lambda: nn.ZeroPad2d((1, 2, 3)), r'padding must be an int, 2 ints, 4 ints \(low, high, ...\) or 2 pairs'),
        (lambda: nn.ZeroPad1d('SAME'), 'padding must be an int'),
        (lambda: nn.ZeroPad2d(1)(np.ones((3, 3))), r'ZeroPad2d: expected an input of shape \(..., height, width, chan'),
        (lambda: nn.ZeroPad2d(1, in_size=(3, 3)), r'shape \(..., height, width, channels\)'),
        (lambda: nn.ZeroPad1d(1, in_size=(3, 2))(np.ones((4, 2))), r'ZeroPad1d\(\(3, 2\) -> \(5, 2\)\)'),
    ],
)
def test_a_padding_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


X = np.arange(120.0).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    'layer, shape',
    [
        (nn.Flatten(), (120,)),
        (nn.Flatten(1), (2, 60)),
        (nn.Flatten(1, 2), (2, 12, 5)),
        (nn.Flatten(-2), (2, 3, 20)),
        (nn.Flatten(in_size=(3, 4, 5)), (2, 60)),
        (nn.Flatten(1, in_size=(3, 4, 5)), (2, 3, 20)),
        (nn.Flatten(0, -2, in_size=(3, 4, 5)), (2, 12, 5)),
        (nn.Unflatten(2, (2, 2)), (2, 3, 2, 2, 5)),
        (nn.Unflatten(-2, (-1, 2)), (2, 3, 2, 2, 5)),
        (nn.Unflatten(1, (2, 2), in_size=(3, 4, 5)), (2, 3, 2, 2, 5)),
        (nn.Unflatten(-1, 5), (2, 3, 4, 5)),
    ],
)
def test_axes_are_merged_and_split(layer, shape):
    y = jax.jit(layer)(X)
    np.testing.assert_array_equal(y, X.reshape(shape))
    if layer.in_size:
        assert layer.out_size == shape[1:]
    assert layer(X * u.mV).unit == u.mV


def test_unflatten_undoes_flatten_and_a_scalar_becomes_a_vector():
    flat, back = nn.Flatten(in_size=(3, 4, 5)), nn.Unflatten(0, (3, 4, -1), in_size=60)
    np.testing.assert_array_equal(back(flat(X)), X)
    assert nn.Flatten()(jnp.array(3.0)).shape == (1,)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: nn.Flatten(2, 1)(X), 'start_axis=2 comes after end_axis=1'),
        (lambda: nn.Flatten(4)(X), r'start_axis=4 is not an axis of an input of shape \(2, 3, 4, 5\)'),
        (lambda: nn.Flatten(in_size=(4, 4))(X), r'Flatten\(\(4, 4\) -> 16\): expected an input of shape \(..., 4, 4\)'),
        (lambda: nn.Unflatten(2, (3, 2))(X), r'axis 2 .* has size 4, which does not split into \(3, 2\)'),
        (lambda: nn.Unflatten(2, (3, -1))(X), 'does not split'),
        (lambda: nn.Unflatten(2, (-1, -1)), 'at most one -1'),
        (lambda: nn.Unflatten(7, (-1,))(X), 'axis=7 is not an axis'),
    ],
)
def test_a_shape_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
