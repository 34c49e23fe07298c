"""Activations and their layers: closed forms, gradients, extremes, units, PyTorch; softmax, standardization."""

import functools

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp
import scipy.stats as st

from brainstate_prob import environ, nn, random, transform

pytestmark = pytest.mark.usefixtures('quick_compile')


def softplus(x):
    return np.logaddexp(0, x)


# name of the function: (closed form, layer)
ACTIVATIONS = {
    'tanh': (np.tanh, 'Tanh'),
    'relu': (lambda x: np.maximum(x, 0), 'ReLU'),
    'squareplus': (lambda x: (x + np.sqrt(x**2 + 4)) / 2, None),
    'softplus': (softplus, 'Softplus'),
    'soft_sign': (lambda x: x / (1 + abs(x)), 'Softsign'),
    'sigmoid': (sp.expit, 'Sigmoid'),
    'silu': (lambda x: x * sp.expit(x), 'SiLU'),
    'swish': (lambda x: x * sp.expit(x), None),
    'log_sigmoid': (lambda x: -softplus(-x), 'LogSigmoid'),
    'elu': (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), 'ELU'),
    'leaky_relu': (lambda x: np.where(x > 0, x, 0.01 * x), 'LeakyReLU'),
    'hard_tanh': (lambda x: np.clip(x, -1, 1), 'Hardtanh'),
    'celu': (lambda x: np.maximum(0, x) + np.minimum(0, np.expm1(x)), 'CELU'),
    'selu': (
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)), 'SELU'
    ),
    'relu6': (lambda x: np.clip(x, 0, 6), 'ReLU6'),
    'hard_sigmoid': (lambda x: np.clip(x + 3, 0, 6) / 6, 'Hardsigmoid'),
    'hard_silu': (lambda x: x * np.clip(x + 3, 0, 6) / 6, 'Hardswish'),
    'hard_swish': (lambda x: x * np.clip(x + 3, 0, 6) / 6, None),
    'hard_shrink': (lambda x: np.where(abs(x) > 0.5, x, 0), 'Hardshrink'),
    'mish': (lambda x: x * np.tanh(softplus(x)), 'Mish'),
    'soft_shrink': (lambda x: np.sign(x) * np.maximum(abs(x) - 0.5, 0), 'Softshrink'),
    'prelu': (lambda x: np.where(x > 0, x, 0.25 * x), 'PReLU'),
    'tanh_shrink': (lambda x: x - np.tanh(x), 'Tanhshrink'),
    'sparse_plus': (lambda x: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4)), None),
    'sparse_sigmoid': (lambda x: np.clip((x + 1) / 2, 0, 1), None),
    'gelu': (lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2, None),
}  # fmt: skip
OPTIONS = {  # layer: arguments, closed form
    'Threshold': ((0.3, 2.0), lambda x: np.where(x > 0.3, x, 2.0)),
    'Hardtanh': ((-2.0, 0.5), lambda x: np.clip(x, -2, 0.5)),
    'ELU': ((0.5,), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    'CELU': ((0.5,), lambda x: np.maximum(0, x) + np.minimum(0, 0.5 * np.expm1(x / 0.5))),
    'LeakyReLU': ((0.3,), lambda x: np.where(x > 0, x, 0.3 * x)),
    'Hardshrink': ((1.5,), lambda x: np.where(abs(x) > 1.5, x, 0)),
    'Softshrink': ((1.5,), lambda x: np.sign(x) * np.maximum(abs(x) - 1.5, 0)),
}
GRID = np.linspace(-7.3, 7.1, 60)  # no kink is on it


@pytest.fixture(scope='module')
def value_and_slope():
    """The function over an array of points, and its derivative there."""
    return lambda f, x: jax.jit(lambda x: jax.vmap(jax.value_and_grad(f))(x))(jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_values_and_gradients_are_those_of_the_closed_form(name, value_and_slope):
    form = ACTIVATIONS[name][0]
    x = np.asarray(GRID, np.float32).astype(np.float64)
    value, slope = value_and_slope(getattr(nn, name), x)
    np.testing.assert_allclose(value, form(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, (form(x + 1e-6) - form(x - 1e-6)) / 2e-6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', [n for n in ACTIVATIONS if ACTIVATIONS[n][1]])
def test_a_layer_is_its_function(name):
    x = jnp.asarray(GRID)
    np.testing.assert_array_equal(getattr(nn, ACTIVATIONS[name][1])()(x), getattr(nn, name)(x))


@pytest.mark.parametrize('name', OPTIONS)
def test_options_of_layers(name):
    options, form = OPTIONS[name]
    np.testing.assert_allclose(getattr(nn, name)(*options)(jnp.asarray(GRID)), form(GRID), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_nothing_overflows_far_out(name, value_and_slope):
    value, slope = value_and_slope(getattr(nn, name), [-1e4, 1e4, -88.0, 88.0, 0.0])
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    with np.errstate(over='ignore'):  # in the branch that a closed form does not take
        expected = ACTIVATIONS[name][0](np.array([-1e4, 1e4, -88.0, 88.0, 0.0]))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-4)


def test_gradients_at_the_kinks():
    assert float(jax.grad(nn.relu)(0.0)) == 0
    for bound in (-1.0, 1.0):
        assert float(jax.grad(nn.hard_tanh)(bound)) == 0


IN_TORCH = dict.fromkeys([*OPTIONS, *(layer for _, layer in ACTIVATIONS.values() if layer), 'GELU'])


@pytest.mark.parametrize('name', [*IN_TORCH, 'Softmin', 'Softmax', 'LogSoftmax', 'GLU', 'Softmax2d'])
def test_forward_and_backward_are_those_of_pytorch(name):
    torch = pytest.importorskip('torch')
    options = OPTIONS.get(name, ((),))[0]
    if name in ('Softmin', 'Softmax', 'LogSoftmax'):
        options = (-2,)
    x = np.random.default_rng(0).normal(scale=3.0, size=(2, 4, 3, 6)).astype(np.float32)
    theirs = torch.tensor(x, requires_grad=True)
    out = getattr(torch.nn, name)(*options)(theirs)
    weight = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    (out * torch.tensor(weight)).sum().backward()
    layer = getattr(nn, name)(*options)

    def weighted(x):
        y = layer(x)
        return (y * weight).sum(), y

    grad, ours = jax.jit(jax.grad(weighted, has_aux=True))(x)
    np.testing.assert_allclose(ours, out.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_gelu_defaults():
    assert float(nn.gelu(1.0)) != float(nn.GELU()(1.0))
    assert float(nn.gelu(1.0)) == float(nn.GELU(approximate=True)(1.0))
    np.testing.assert_allclose(nn.gelu(jnp.asarray(GRID), approximate=False), GRID * sp.ndtr(GRID), atol=1e-6)


# Drawn slopes


def test_rrelu_draws_a_uniform_slope_for_every_element():
    slope = -np.asarray(nn.rrelu(-jnp.ones((30, 40)), 0.2, 0.6, key=0), np.float64).ravel()
    assert st.kstest(slope, st.uniform(0.2, 0.4).cdf).pvalue > 1e-4  # the false-alarm rate
    np.testing.assert_array_equal(nn.rrelu(jnp.arange(3.0)), np.arange(3.0))
    random.seed(1)
    a, b = nn.rrelu(-1.0), nn.rrelu(-1.0)
    random.seed(1)
    assert nn.rrelu(-1.0) == a != b
    np.testing.assert_array_equal(nn.rrelu(-1.0, key=3), nn.rrelu(-1.0, key=3))


def test_a_rrelu_layer_draws_unless_fit_is_false():
    layer, x = nn.RReLU(0.2, 0.6), -jnp.ones(4)
    for context in ({}, {'fit': True}):
        with environ.context(**context):
            assert len(np.unique(layer(x))) == 4
            assert not np.array_equal(layer(x), layer(x))
    before = random.get_key()
    with environ.context(fit=False):
        np.testing.assert_allclose(layer(x), -0.4 * np.ones(4), rtol=1e-6)
    np.testing.assert_array_equal(random.get_key(), before)


# Spikes

TRUTH = {  # for (x, y) = (0, 0), (0, 1), (1, 0), (1, 1)
    'add': [0, 1, 1, 2], '+': [0, 1, 1, 2], 'and': [0, 0, 0, 1], '&': [0, 0, 0, 1], 'iand': [0, 1, 0, 0],
    'nand': [1, 1, 1, 0], 'or': [0, 1, 1, 1], '|': [0, 1, 1, 1], 'nor': [1, 0, 0, 0], 'xor': [0, 1, 1, 0],
    '^': [0, 1, 1, 0], 'xnor': [1, 0, 0, 1],
}  # fmt: skip


@pytest.mark.parametrize('op', TRUTH)
def test_spike_bitwise(op):
    x, y = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    layer = nn.SpikeBitwise(op)
    for kind in (jnp.float32, bool, jnp.int32):
        np.testing.assert_array_equal(layer(jnp.asarray(x, kind), jnp.asarray(y, kind)), TRUTH[op])
    # A multilinear function has the slope f(1, y) - f(0, y) in x.
    gx, gy = jax.vmap(jax.grad(layer, (0, 1)))(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    f = np.array(TRUTH[op], float).reshape(2, 2)
    np.testing.assert_array_equal(gx, (f[1] - f[0])[y])
    np.testing.assert_array_equal(gy, (f[:, 1] - f[:, 0])[x])


# Units

CARRY = ['relu', 'leaky_relu', 'prelu', 'rrelu']


@pytest.mark.parametrize('name', CARRY)
def test_piecewise_linear_functions_carry_the_unit(name):
    out = getattr(nn, name)(jnp.array([-2.0, 3.0]) * u.mV, **({'key': 0} if name == 'rrelu' else {}))
    assert out.unit == u.mV and float(out.mantissa[1]) == 3
    np.testing.assert_array_equal(
        out.mantissa, getattr(nn, name)(jnp.array([-2.0, 3.0]), **({'key': 0} if name == 'rrelu' else {}))
    )


def test_thresholds_are_quantities_beside_quantities():
    v = jnp.array([-80.0, -60.0, -40.0]) * u.mV
    np.testing.assert_allclose(nn.hard_tanh(v, -70.0 * u.mV, -0.05 * u.volt).mantissa, [-70, -60, -50])
    np.testing.assert_allclose(nn.Threshold(-65.0 * u.mV, 0.0)(v).mantissa, [0, -60, -40])
    np.testing.assert_allclose(nn.Softshrink(50.0 * u.mV)(v).mantissa, [-30, -10, 0])
    with pytest.raises(u.UnitMismatchError, match='hard_shrink: lambd must be a quantity in mV'):
        nn.hard_shrink(v)
    with pytest.raises(u.UnitMismatchError, match='min_val'):
        nn.Hardtanh(-1.0 * u.ms, 1.0 * u.ms)(v)


@pytest.mark.parametrize('name', [n for n in nn.functional.__all__ if n not in (*CARRY, 'one_hot')])
def test_the_others_take_numbers_only(name):
    function = getattr(nn, name)
    x = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    if name not in ('hard_tanh', 'hard_shrink', 'soft_shrink'):
        with pytest.raises(u.UnitMismatchError, match='[axw] must be a plain number'):
            function(x * u.mV)
    ratio = (x * u.mV).in_unit(u.mV) / u.Quantity(1.0, unit=u.mV)
    np.testing.assert_array_equal(function(u.Quantity(u.get_mantissa(ratio))), function(x))


# Functions along an axis


def test_logsumexp(x64):
    a = np.random.default_rng(0).normal(size=(3, 4)) * 300
    b = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_allclose(nn.logsumexp(a), sp.logsumexp(a))
    np.testing.assert_allclose(nn.logsumexp(a, 1, np.abs(b), True), sp.logsumexp(a, 1, np.abs(b), True))
    for ours, theirs in zip(
        nn.logsumexp(a, 0, b, return_sign=True), sp.logsumexp(a, 0, b, return_sign=True), strict=True
    ):
        np.testing.assert_allclose(ours, theirs)
    mask = b > 0
    np.testing.assert_allclose(nn.logsumexp(a, where=mask), sp.logsumexp(a[mask]))


@pytest.mark.parametrize('axis', [-1, 0, (0, 1)])
def test_softmax_and_its_kin(axis):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 50
    np.testing.assert_allclose(nn.softmax(x, axis), sp.softmax(x, axis), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(nn.softmin(x, axis), sp.softmax(-x, axis), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(nn.log_softmax(x, axis), sp.log_softmax(x, axis), rtol=1e-5, atol=1e-5)


def test_softmax_over_some_entries():
    x, mask = jnp.array([1.0, 2.0, 3.0]), jnp.array([True, False, True])
    expected = sp.softmax([1.0, 3.0])
    np.testing.assert_allclose(nn.softmax(x, where=mask), [expected[0], 0, expected[1]], rtol=1e-6)
    np.testing.assert_allclose(nn.log_softmax(x, where=mask)[mask], np.log(expected), rtol=1e-6)


def test_softmax_layers_and_dim():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)))
    for layer, function in ((nn.Softmax, nn.softmax), (nn.Softmin, nn.softmin), (nn.LogSoftmax, nn.log_softmax)):
        np.testing.assert_array_equal(layer()(x), function(x, -1))
        np.testing.assert_array_equal(layer(1)(x), function(x, 1))
    np.testing.assert_allclose(nn.Softmax2d()(x).sum(0), np.ones((4, 3)), rtol=1e-6)


def test_glu():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_allclose(nn.glu(x), x[:, :3] * sp.expit(x[:, 3:]), rtol=1e-5)
    np.testing.assert_allclose(nn.GLU(0)(x), x[:2] * sp.expit(x[2:]), rtol=1e-5)
    with pytest.raises(ValueError, match='axis 1 must be even'):
        nn.glu(x[:, :5], 1)


def test_a_sequential_knows_what_a_glu_leaves():
    model = nn.Sequential(nn.Linear(3, 8), nn.GLU, nn.Linear(4, 2))
    assert model.out_size == (2,) and model(jnp.ones((5, 3))).shape == (5, 2)
    last = functools.partial(nn.Linear, out_size=2)
    assert nn.Sequential(nn.Linear(3, 8), nn.GLU, nn.Sequential(nn.ReLU()), last).layers[-1].in_size == (4,)
    with pytest.raises(ValueError, match='Linear needs an in_size'):  # what an unsized GLU leaves is not known
        nn.Sequential(nn.Linear(3, 8), nn.GLU(), last)


def test_one_hot():
    x = jnp.array([[0, 2], [-1, 3]])
    np.testing.assert_array_equal(nn.one_hot(x, 3), [[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]])
    assert nn.one_hot(x, 3, axis=0).shape == (3, 2, 2)
    assert nn.one_hot(x, 3).dtype == jnp.float32 and nn.one_hot(x, 3, dtype=jnp.int32).dtype == jnp.int32
    with environ.context(precision='bf16'):
        assert nn.one_hot(x, 3).dtype == jnp.bfloat16


# Standardization


def test_standardize():
    x = np.random.default_rng(0).normal(5.0, 3.0, (4, 50))
    z = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(nn.standardize(jnp.asarray(x)), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nn.standardize(jnp.asarray(x), 0).mean(0), np.zeros(50), atol=1e-5)
    np.testing.assert_allclose(
        nn.standardize(jnp.asarray(x), variance=4.0, epsilon=0.0), (x - x.mean(1, keepdims=True)) / 2, atol=1e-5
    )
    mask = np.arange(50) < 20
    z = (x - x[:, :20].mean(1, keepdims=True)) / np.sqrt(x[:, :20].var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(nn.standardize(jnp.asarray(x), where=jnp.asarray(mask)), z, rtol=1e-4, atol=1e-5)


def test_standardize_far_from_zero_does_not_cancel():
    x = jnp.asarray(np.random.default_rng(0).normal(size=200), jnp.float32)
    np.testing.assert_allclose(nn.standardize(x + 1000.0), nn.standardize(x), atol=1e-3)


@pytest.mark.parametrize('shape, out_axis', [((5, 3), -1), ((3, 5), 0), ((3, 3, 2, 4), -1), ((4, 2, 3, 3), 0)])
def test_weight_standardization(shape, out_axis):
    w = np.random.default_rng(0).normal(2.0, 3.0, shape)
    n = shape[out_axis]
    gain = np.arange(1.0, n + 1)
    rows = np.moveaxis(w, out_axis, 0).reshape(n, -1)
    expected = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) * rows.shape[1])
    for out, factor in (
        (nn.weight_standardization(jnp.asarray(w), out_axis=out_axis), 1.0),
        (nn.weight_standardization(jnp.asarray(w), gain=jnp.asarray(gain), out_axis=out_axis), gain[:, None]),
    ):
        out = np.moveaxis(np.asarray(out), out_axis, 0).reshape(n, -1)
        np.testing.assert_allclose(out, expected * factor, rtol=1e-4, atol=1e-5)


def test_weight_standardization_of_equal_weights_is_zero_with_a_finite_gradient():
    w = jnp.full((4, 2), 3.0)
    np.testing.assert_array_equal(nn.weight_standardization(w), np.zeros((4, 2)))
    assert np.isfinite(jax.grad(lambda w: (nn.weight_standardization(w) ** 2).sum())(w)).all()
    with pytest.raises(ValueError, match='two axes or more'):
        nn.weight_standardization(jnp.ones(3))


# Errors, and what else layers do

BAD = [
    (lambda: nn.rrelu(1.0, 0.5, 0.2), ValueError, 'lower must not be greater than upper'),
    (lambda: nn.hard_tanh(1.0, 2.0, 1.0), ValueError, 'min_val must not be greater than max_val'),
    (lambda: nn.Threshold(), TypeError, r'Threshold\(threshold, value, name=None\): missing a required argument'),
    (lambda: nn.ELU(slope=1.0), TypeError, 'unexpected keyword'),
    (lambda: nn.SpikeBitwise('plus'), ValueError, "op must be one of add.*got 'plus'"),
    (lambda: nn.Softmax2d()(jnp.ones((2, 2))), ValueError, r'\(C, H, W\) or \(N, C, H, W\), got \(2, 2\)'),
    (lambda: nn.PReLU(3)(jnp.ones((2, 2))), ValueError, r'\(\.\.\., 3\), got \(2, 2\)'),
]


@pytest.mark.parametrize('call, error, message', BAD)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_reprs_rebuild_the_layer():
    for layer in (nn.ReLU(), nn.ELU(2.0), nn.Threshold(0.1, value=3.0), nn.Softmax(dim=0), nn.GELU(name='g')):
        assert repr(eval(repr(layer), vars(nn))) == repr(layer)
    assert repr(nn.ELU(2.0)) == 'ELU(alpha=2.0)'


def test_identity_ignores_what_else_comes():
    x = jnp.ones(2)
    assert nn.Identity(3, unused=True)(x, 1, more=2) is x


def test_prelu_trains_its_slope():
    x = -jnp.arange(1.0, 7.0).reshape(2, 3)
    layer = nn.PReLU(3, init=0.5)
    np.testing.assert_allclose(layer(x), 0.5 * x)
    grads = transform.grad(lambda: layer(x).sum(), layer.states())()
    np.testing.assert_allclose(grads[('weight',)]['weight'], x.sum(0))
    assert nn.PReLU(dtype=jnp.float16).weight.value['weight'].dtype == jnp.float16
    constrained = nn.PReLU(init=nn.ParamSpec(0.3, t=nn.SigmoidT()))
    np.testing.assert_allclose(constrained(jnp.array(-2.0)), -0.6, rtol=1e-5)
