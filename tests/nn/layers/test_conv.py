"""Convolutions against PyTorch, against sums written out in NumPy, and transposed ones against their adjoints."""

import functools
import itertools

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainstate_prob import ParamState, nn, transform
from tests.nn.layers.against_torch import compare, kernel_to_torch

SIZES = {1: (9,), 2: (7, 6), 3: (4, 5, 3)}


def images(rng_shape):
    return np.random.default_rng(1).normal(size=rng_shape).astype(np.float32)


def named(kind, n):
    return getattr(nn, f'{kind}{n}d')


# (spatial axes, options of ours, options of torch that mean the same)
CONVS = [
    (1, {'padding': 'VALID'}, {}),
    (1, {'kernel_size': 3, 'stride': 2, 'padding': 1, 'rhs_dilation': 2}, {'stride': 2, 'padding': 1, 'dilation': 2}),
    (2, {'kernel_size': (3, 2), 'stride': (2, 1), 'padding': (2, 1)}, {'stride': (2, 1), 'padding': (2, 1)}),
    (2, {'groups': 2, 'padding': 1}, {'groups': 2, 'padding': 1}),
    (2, {'kernel_size': 3, 'padding': 'SAME'}, {'padding': 'same'}),
    (3, {'kernel_size': 2, 'stride': (1, 2, 1), 'padding': 'valid'}, {'stride': (1, 2, 1)}),
]


@pytest.mark.parametrize('n, ours, theirs', CONVS)
def test_convolution_is_that_of_torch(n, ours, theirs):
    options = {'kernel_size': 3, 'b_init': [0.1, -0.2, 0.3, -0.4, 0.5, -0.6], **ours}
    layer = named('Conv', n)((*SIZES[n], 4), 6, **options)
    compare(
        layer,
        images((2, *SIZES[n], 4)),
        lambda torch, x, weight, bias: getattr(torch.nn.functional, f'conv{n}d')(x, weight, bias, **theirs),
        weight=kernel_to_torch,
        bias=np.asarray,
    )


# In torch, output_padding gives the size of VALID with a stride beyond the kernel; that of SAME has one entry less.
TRANSPOSED = [
    (1, {'padding': 'VALID', 'stride': 2}, {'stride': 2}),
    (1, {'padding': 'VALID', 'stride': 4, 'kernel_size': 2}, {'stride': 4, 'output_padding': 2}),
    (1, {'stride': 2}, {'stride': 2, 'crop': 18}),
    (2, {'padding': 1, 'stride': (2, 1), 'rhs_dilation': (1, 2)}, {'padding': 1, 'stride': (2, 1), 'dilation': (1, 2)}),
    (2, {'groups': 2, 'padding': 'VALID'}, {'groups': 2}),
    (3, {'kernel_size': 2, 'stride': (1, 2, 1), 'padding': 'VALID'}, {'stride': (1, 2, 1)}),
]


def transposed_to_torch(groups):
    """A kernel (places, in / groups, out) as torch's (in, out / groups, places)."""

    def convert(w):
        w = np.asarray(w)
        parts = np.split(w, groups, -1)
        return np.concatenate([kernel_to_torch(p, transposed=True) for p in parts], 0)

    return convert


@pytest.mark.parametrize('n, ours, theirs', TRANSPOSED)
def test_transposed_convolution_is_that_of_torch(n, ours, theirs):
    options = {'kernel_size': 3, 'b_init': [0.1, -0.2, 0.3, -0.4, 0.5, -0.6], **ours}
    layer = named('ConvTranspose', n)((*SIZES[n], 4), 6, **options)
    theirs, crop = {k: v for k, v in theirs.items() if k != 'crop'}, theirs.get('crop')

    def of_torch(torch, x, weight, bias):
        return getattr(torch.nn.functional, f'conv_transpose{n}d')(x, weight, bias, **theirs)[..., :crop]

    compare(
        layer,
        images((2, *SIZES[n], 4)),
        of_torch,
        weight=transposed_to_torch(options.get('groups', 1)),
        bias=np.asarray,
    )


def written_out(x, w, stride, pads, lhs, rhs, groups=1):
    """A convolution of one sample, channels last, one product an entry of the kernel and of the output."""
    n = x.ndim - 1
    wide = np.zeros([(m - 1) * d + 1 for m, d in zip(x.shape, lhs, strict=False)] + [x.shape[-1]])
    wide[tuple(slice(None, None, d) for d in lhs)] = x
    wide = np.pad(wide, [*pads, (0, 0)])
    reach = [(k - 1) * d for k, d in zip(w.shape, rhs, strict=False)]
    out = [(m - r - 1) // s + 1 for m, r, s in zip(wide.shape, reach, stride, strict=False)]
    c_in, c_out = w.shape[-2:]
    y = np.zeros((*out, c_out))
    for place in itertools.product(*map(range, out)):
        for tap in itertools.product(*map(range, w.shape[:n])):
            entry = wide[tuple(p * s + t * d for p, s, t, d in zip(place, stride, tap, rhs, strict=True))]
            for g in range(groups):
                mine = slice(g * c_out // groups, (g + 1) * c_out // groups)
                y[place][mine] += entry[g * c_in : (g + 1) * c_in] @ w[tap][:, mine]
    return y


@pytest.mark.parametrize(
    'options, pads',
    [
        ({'padding': [(2, 0), (0, 1)], 'stride': 2}, [(2, 0), (0, 1)]),
        ({'padding': [(1, 0)], 'lhs_dilation': (2, 1)}, [(1, 0), (1, 0)]),
        ({'padding': 'SAME', 'stride': 2}, [(1, 1), (0, 1)]),  # ceil(7 / 2) = 4 and ceil(6 / 2) = 3 windows of 3
        ({'padding': 'SAME', 'rhs_dilation': 2}, [(2, 2), (2, 2)]),
        ({'padding': 'VALID', 'groups': 2, 'rhs_dilation': (1, 2)}, [(0, 0), (0, 0)]),
    ],
)
@pytest.mark.parametrize('channel_first', [False, True])
def test_convolution_is_the_sum_written_out(options, pads, channel_first):
    x = images((7, 6, 4))
    in_size = (4, 7, 6) if channel_first else (7, 6, 4)
    layer = nn.Conv2d(in_size, 2, 3, channel_first=channel_first, b_init=[0.5, -1.0], **options)
    y = jax.jit(layer)(np.moveaxis(x, -1, 0) if channel_first else x)
    w = np.asarray(layer.weight.value['weight'], np.float64)
    pairs = {k: (v, v) if isinstance(v, int) else v for k, v in options.items() if k not in ('padding', 'groups')}
    expected = written_out(
        x, w, pairs.get('stride', (1, 1)), pads, pairs.get('lhs_dilation', (1, 1)), pairs.get('rhs_dilation', (1, 1)),
        options.get('groups', 1),
    ) + np.array([0.5, -1.0])  # fmt: skip
    assert layer.out_size == y.shape
    np.testing.assert_allclose(np.moveaxis(y, 0, -1) if channel_first else y, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=10)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.one_of(st.sampled_from(['SAME', 'VALID']), st.tuples(st.integers(0, 1), st.integers(0, 1))),
    groups=st.sampled_from([1, 2]),
    n=st.integers(3, 4),
)
def test_the_transposed_layer_is_the_adjoint(kernel, stride, dilation, padding, groups, n):
    """<conv(x), y> = <x, transposed(y)> for the same kernel with its channels exchanged."""
    reach = (kernel - 1) * dilation
    up = nn.ConvTranspose1d((n, 4), 2, kernel, stride, padding, dilation, groups)
    (m, _) = up.out_size
    if padding == 'SAME':
        assert m == n * stride
        total = max(reach + 1 - stride, 0)
        low, high = total // 2, total - total // 2
    else:
        low, high = (0, 0) if padding == 'VALID' else padding
        assert m == (n - 1) * stride + (max(reach + 1, stride) if padding == 'VALID' else reach + 1) - low - high
    w = images((kernel, 2 // groups, 4))  # of the convolution: (places, in / groups, out)
    parts = [np.swapaxes(p, -1, -2) for p in np.split(w, groups, -1)]
    up.weight.value = {'weight': jnp.asarray(np.concatenate(parts, -1))}
    x, y = images((m, 2)), images((n, 4))
    down = written_out(x, w, (stride,), [(low, high)], (1,), (dilation,), groups)
    np.testing.assert_allclose(np.vdot(down, y), np.vdot(x, jax.jit(up)(y)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['Conv', 'ConvTranspose'])
def test_channels_first_and_last_are_the_same_layer(kind):
    last = named(kind, 2)((5, 4, 4), 6, 3, stride=2, groups=2, b_init=[0.1, -0.2, 0.3, -0.4, 0.5, -0.6])
    first = named(kind, 2)((4, 5, 4), 6, 3, stride=2, groups=2, b_init=0.0, channel_first=True)
    first.weight.value = last.weight.value
    x = images((2, 3, 5, 4, 4))  # two batch axes
    y = jax.jit(first)(np.moveaxis(x, -1, -3))
    np.testing.assert_allclose(np.moveaxis(y, -3, -1), jax.jit(last)(x), rtol=1e-5, atol=1e-6)


def test_standardised_kernel_has_mean_0_and_the_gain_as_norm():
    layer = nn.ScaledWSConv2d((5, 5, 3), 4, 3, padding='VALID')
    assert layer.weight.value['gain'].shape == (1, 1, 1, 4)
    gain = jnp.arange(1.0, 5.0).reshape(1, 1, 1, 4)
    layer.weight.value = {**layer.weight.value, 'gain': gain}
    # With an impulse at the centre a 3 x 3 window reads the kernel, flipped.
    impulse = jnp.zeros((3, 5, 5, 3)).at[np.arange(3), 2, 2, np.arange(3)].set(1.0)
    kernel = np.asarray(layer(impulse))
    np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose((kernel**2).sum((0, 1, 2)) ** 0.5, gain.ravel(), rtol=1e-5)
    assert 'gain' not in nn.ScaledWSConv1d((5, 3), 4, 3, ws_gain=False).weight.value


def test_a_masked_kernel_has_no_gradient_where_the_mask_is_0():
    causal = np.array([1.0, 1.0, 0.0]).reshape(3, 1, 1)
    layer = nn.Conv1d((6, 2), 3, 3, w_mask=causal)
    x = images((6, 2))
    later = x.copy()
    later[4:] = 0
    np.testing.assert_array_equal(layer(x)[:4], layer(later)[:4])  # no output sees what comes after it
    grads = transform.grad(lambda: jnp.sum(layer(x) ** 2), layer.states(ParamState))()
    assert not np.any(grads[('weight',)]['weight'][2]) and np.any(grads[('weight',)]['weight'][:2])


def test_units_multiply():
    layer = nn.Conv1d((6, 2), 3, 3, w_init=nn.init.Normal(unit=u.siemens), b_init=nn.init.ZeroInit(unit=u.amp))
    y = layer(images((6, 2)) * u.volt)
    assert y.shape == (6, 3) and y.unit.has_same_dim(u.amp)
    plain = nn.Conv1d((6, 2), 3, 3)
    np.testing.assert_allclose((plain(images((6, 2)) * u.mV) / u.mV), plain(images((6, 2))), rtol=1e-6)


def test_a_kernel_takes_a_prior_and_dims():
    spec = nn.ParamSpec(reg=dist.Normal(0.0, 0.1), dims=('place', 'in', 'out'))
    layer = nn.Conv1d((6, 2), 3, 3, w_init=spec)
    assert list(layer.states()) == [('weight', 'weight', 'val')]
    assert layer.weight.weight.dims == ('place', 'in', 'out')
    np.testing.assert_allclose(
        layer.reg_loss(), -dist.Normal(0.0, 0.1).log_prob(layer.weight.value['weight']).sum(), rtol=1e-5
    )


def test_half_precision_input_is_promoted_by_a_single_precision_kernel():
    layer = nn.Conv1d((6, 2), 3, 3)
    assert layer(jnp.ones((6, 2), jnp.bfloat16)).dtype == jnp.float32
    assert layer(np.ones((6, 2), int)).dtype == jnp.float32


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: nn.Conv2d((8, 3), 4, 3), r'in_size must be \(height, width, channels\), got \(8, 3\)'),
        (lambda: nn.Conv1d((3, 8, 1), 4, 3, channel_first=True), r'in_size must be \(channels, width\)'),
        (lambda: nn.Conv1d((8, 3), 4, 3, groups=2), r'groups=2 must divide the 3 input and 4 output channels'),
        (lambda: nn.Conv1d((8, 3), 4, (3, 3)), r'kernel_size must be an int or 1 ints'),
        (lambda: nn.Conv1d((8, 3), 4, 0), r'kernel_size must be an int or 1 ints, each at least 1, got 0'),
        (lambda: nn.Conv1d((8, 3), 4, 3, padding='FULL'), r"padding must be 'SAME', 'VALID'"),
        (lambda: nn.Conv2d((8, 8, 3), 4, 3, padding=(1, 1, 1)), r'padding must be'),
        (lambda: nn.Conv1d((2, 3), 4, 3, padding='VALID'), r'kernel of \(3,\) .* does not fit'),
        (lambda: nn.Conv1d((8, 3), 4, 3, w_mask=np.ones((2, 3, 4))), r'w_mask must broadcast to \(3, 3, 4\)'),
        (lambda: nn.Conv1d((8, 3), 4, 3, w_init=nn.Param(np.ones((3, 3)))), r'shape \(3, 3\)'),
        (
            lambda: nn.Conv1d((8, 3), 4, 3)(np.ones((7, 3))),
            r'Conv1d\(\(8, 3\) -> \(8, 4\)\): expected an input of shape',
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_double_precision(x64):
    layer = nn.Conv1d((9, 2), 3, 3)
    x = np.random.default_rng(0).normal(size=(9, 2))
    w = np.asarray(layer.weight.value['weight'])
    assert w.dtype == np.float64
    expected = written_out(x, w, (1,), [(1, 1)], (1,), (1,))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-13, atol=1e-13)


def test_a_small_network_of_deferred_layers_knows_its_sizes():
    net = nn.Sequential(
        nn.Conv2d((8, 8, 1), 4, 3),
        nn.ReLU,
        functools.partial(nn.MaxPool2d, 2),
        functools.partial(nn.Conv2d, out_channels=8, kernel_size=3, stride=2),
        nn.Flatten,
        functools.partial(nn.Linear, out_size=10),
    )
    assert net.out_size == (10,) and net[-1].in_size == (32,)
    assert jax.eval_shape(net, jnp.zeros((5, 8, 8, 1))).shape == (5, 10)
