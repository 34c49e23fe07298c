"""count_parameters and clip_grad_norm."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as hst

from brainstate_prob import ParamState, nn, transform

pytestmark = pytest.mark.usefixtures('quick_compile')


def model():
    net = nn.Module()
    net.table = nn.Embedding(1000, 3)
    net.frozen = nn.Embedding(1000, 3, freeze=True)
    net.rate = nn.Param(jnp.ones(4) * u.Hz, t=nn.SoftplusT(0.0 * u.Hz))
    net.fixed = nn.Const(1.0)
    net.shared = net.rate
    net.scale = ParamState(jnp.array(1.0))
    return net


def test_count_parameters(capsys):
    total, table = nn.count_parameters(model(), precision=1, return_table=True)
    assert total == 3005 and type(total) is int
    assert capsys.readouterr().out == table + '\n'
    lines = [line.split() for line in table.splitlines()]
    assert lines[2] == ['rate.val', '(4,)', '4']
    assert lines[3] == ['scale', '()', '1']
    assert lines[4] == ["table.weight['weight']", '(1000,', '3)', '3,000']
    assert lines[6] == ['total', '3,005', '(3.0', 'K)']
    assert len({len(line) for line in table.splitlines()[:-1]}) == 1


def test_a_model_without_parameters(capsys):
    assert nn.count_parameters(nn.ReLU()) == 0
    assert 'total' in capsys.readouterr().out


@given(
    norm_type=hst.sampled_from([1, 1.5, 2.0, 3, float('inf'), 'inf']),
    max_norm=hst.floats(0.0, 50.0),
    scale=hst.sampled_from([1e-3, 1.0, 30.0]),
)
def test_clip_is_the_formula(norm_type, max_norm, scale):
    rng = np.random.default_rng(0)
    tree = {'a': scale * rng.normal(size=(3, 2)), 'b': [scale * rng.normal(size=4), np.float64(scale)]}
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    expected = np.linalg.norm(flat, float(norm_type))
    factor = min(1.0, max_norm / (expected + 1e-6))
    clipped, norm = nn.clip_grad_norm(jax.tree.map(jnp.float32, tree), max_norm, norm_type, return_norm=True)
    assert float(norm) == pytest.approx(expected, rel=1e-5)
    for ours, x in zip(jax.tree.leaves(clipped), jax.tree.leaves(tree), strict=True):
        np.testing.assert_allclose(ours, x * factor, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('norm_type', [1.0, 2.0, float('inf')])
def test_clip_is_that_of_pytorch(norm_type):
    torch = pytest.importorskip('torch')
    x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    parameters = [torch.zeros(5, requires_grad=True) for _ in x]
    for parameter, g in zip(parameters, x, strict=True):
        parameter.grad = torch.tensor(g)
    theirs = torch.nn.utils.clip_grad_norm_(parameters, 1.0, norm_type)
    clipped, norm = nn.clip_grad_norm(list(x), 1.0, norm_type, return_norm=True)
    assert float(norm) == pytest.approx(float(theirs), rel=1e-5)
    np.testing.assert_allclose(np.stack(clipped), [p.grad.numpy() for p in parameters], rtol=1e-5)


def test_clip_keeps_structure_types_and_units():
    grad = {('a', 'val'): jnp.full(3, 200.0, jnp.bfloat16), ('b',): jnp.ones(2) * u.mV, ('c',): None}
    clipped = nn.clip_grad_norm(grad, 1.0)
    assert jax.tree.structure(clipped) == jax.tree.structure(grad)
    assert clipped['a', 'val'].dtype == jnp.bfloat16 and clipped['b',].unit == u.mV
    assert float(nn.clip_grad_norm([jnp.zeros(2)], 1.0, return_norm=True)[1]) == 0
    assert nn.clip_grad_norm({}, 1.0) == {}


def test_clip_neither_overflows_nor_vanishes():
    for size in (1e30, 1e-30):
        _, norm = nn.clip_grad_norm([jnp.full(4, size)], 1.0, return_norm=True)
        assert float(norm) == pytest.approx(2 * size, rel=1e-5)
    half = jnp.full(100_000, 0.01, jnp.float16)
    assert float(nn.clip_grad_norm(half, 1.0, 1, True)[1]) == pytest.approx(1000, rel=1e-3)


def test_clip_of_a_gradient_of_states_under_jit():
    layer = nn.PReLU(3, init=2.0)

    @transform.jit
    def clipped(x):
        grads = transform.grad(lambda: layer(x).sum(), layer.states(ParamState))()
        return nn.clip_grad_norm(grads, 0.5)

    grads = clipped(-jnp.ones((10, 3)))
    assert float(jnp.linalg.norm(grads[('weight',)]['weight'])) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    'arguments, message', [((-1.0,), 'max_norm must not be'), ((1.0, 0.0), 'norm_type must be positive')]
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.clip_grad_norm(jnp.ones(2), *arguments)
