"""Embedding: rows, gradients and their options, against PyTorch and closed forms; errors."""

import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import LongTermState, ParamState, nn, transform

pytestmark = pytest.mark.usefixtures('quick_compile')

TABLE = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
INDICES = np.array([[0, 2, 2], [6, 2, 1]])
WEIGHT = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)


def gradient(layer, indices=INDICES, weight=WEIGHT):
    """Of sum(weight * rows) with respect to the table, compiled: the indices are traced."""
    grad = transform.grad(lambda i: (layer(i) * weight).sum(), layer.states())
    return np.asarray(transform.jit(grad)(jnp.asarray(indices))[('weight',)]['weight'])


def test_rows_and_their_gradient():
    layer = nn.Embedding(7, 3, embedding_init=TABLE)
    np.testing.assert_array_equal(layer(INDICES), TABLE[INDICES])
    np.testing.assert_array_equal(layer(jnp.int32(4)), TABLE[4])
    expected = np.zeros_like(TABLE)
    np.add.at(expected, INDICES, WEIGHT)
    np.testing.assert_allclose(gradient(layer), expected, rtol=1e-6)


OPTIONS = {
    'plain': {},
    'padding': {'padding_idx': 2},
    'padding from the end': {'padding_idx': -1},
    'frequency': {'scale_grad_by_freq': True},
    'padding and frequency': {'padding_idx': 0, 'scale_grad_by_freq': True},
}


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_forward_and_backward_are_those_of_pytorch(options):
    torch = pytest.importorskip('torch')
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(TABLE), freeze=False, **options)
    rows = theirs(torch.tensor(INDICES))
    (rows * torch.tensor(WEIGHT)).sum().backward()
    layer = nn.Embedding.from_pretrained(TABLE, freeze=False, **options)
    np.testing.assert_allclose(layer(INDICES), rows.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(gradient(layer), theirs.weight.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('p', [1.0, 2.0, 3.0, float('inf')])
def test_long_rows_are_shortened_and_the_table_stays(p):
    layer = nn.Embedding(7, 3, embedding_init=TABLE, max_norm=1.0, norm_type=p)
    norm = np.linalg.norm(TABLE, p, axis=1, keepdims=True)
    expected = np.where(norm > 1, TABLE / norm, TABLE)
    assert (norm > 1).any()
    np.testing.assert_allclose(layer(np.arange(7)), expected, rtol=1e-5)
    np.testing.assert_array_equal(layer.weight.value['weight'], TABLE)
    torch = pytest.importorskip('torch')
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(TABLE), max_norm=1.0, norm_type=p)
    np.testing.assert_allclose(layer(np.arange(7)), theirs(torch.arange(7)).numpy(), rtol=1e-5)


def test_the_gradient_through_a_shortened_row_is_exact(x64):
    table = TABLE.astype(np.float64)
    layer = nn.Embedding(7, 3, embedding_init=table, max_norm=0.7)
    grad, step = gradient(layer), 1e-6
    for i, j in [(0, 0), (2, 1), (6, 2)]:
        sides = []
        for sign in (1, -1):
            layer.weight.value = {'weight': jnp.asarray(table).at[i, j].add(sign * step)}
            sides.append(float((layer(INDICES) * WEIGHT).sum()))
        assert grad[i, j] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-6)


def test_a_zero_row_and_a_huge_row_have_finite_gradients():
    layer = nn.Embedding(2, 3, embedding_init=jnp.array([[0.0] * 3, [1e30] * 3]), max_norm=1.0)
    np.testing.assert_allclose(layer(np.arange(2)), [[0.0] * 3, [3**-0.5] * 3], rtol=1e-5)
    assert np.isfinite(gradient(layer, np.arange(2), WEIGHT[0, :2])).all()


def test_the_padding_row_starts_at_zero_where_it_is_drawn():
    layer = nn.Embedding(7, 3, padding_idx=-2)
    assert layer.padding_idx == 5
    table = np.asarray(layer.weight.value['weight'])
    assert not table[5].any() and table[[0, 1, 2, 3, 4, 6]].all()
    given = nn.Embedding(7, 3, embedding_init=TABLE, padding_idx=1)
    np.testing.assert_array_equal(given(1), TABLE[1])


def test_frozen_tables_are_not_trained():
    layer = nn.Embedding.from_pretrained(TABLE)
    assert layer.freeze and dict(layer.states(ParamState)) == {} and list(layer.states()) == [('weight',)]
    assert type(layer.weight) is LongTermState
    assert not gradient(layer).any()
    assert list(nn.Embedding.from_pretrained(TABLE, freeze=False).states(ParamState)) == [('weight',)]


def test_a_table_may_be_a_param_shared_and_with_units():
    table = nn.Param(np.abs(TABLE) * u.mV, t=nn.SoftplusT(0.0 * u.mV))
    model = nn.Module()
    model.a, model.b = (nn.Embedding(7, 3, embedding_init=table, padding_idx=0) for _ in range(2))
    assert len(model.states(ParamState)) == 1
    rows = model.b(INDICES)
    assert rows.unit == u.mV
    np.testing.assert_allclose(rows.mantissa, np.abs(TABLE)[INDICES], rtol=1e-5)


def test_rows_of_any_shape_and_traced_indices_out_of_range():
    layer = nn.Embedding(5, (2, 4), padding_idx=0, max_norm=0.3, scale_grad_by_freq=True)
    assert layer.embedding_size == layer.out_size == (2, 4)
    assert layer(INDICES[:, :2] % 5).shape == (2, 2, 2, 4)
    out = transform.jit(layer)(jnp.array([1, -1, 5]))
    assert np.isfinite(out[0]).all() and np.isnan(out[1:]).all()


BAD = [
    (lambda: nn.Embedding(0, 3), ValueError, 'num_embeddings must be at least 1, got 0'),
    (lambda: nn.Embedding(7, 3, padding_idx=7), ValueError, 'one of the 7 rows, got 7'),
    (lambda: nn.Embedding(7, 3, max_norm=-1.0), ValueError, 'max_norm must be positive'),
    (lambda: nn.Embedding(7, 3, max_norm=1.0, norm_type=0.5), ValueError, 'norm_type at least 1'),
    (lambda: nn.Embedding(7, 3, embedding_init=jnp.ones((7, 4))), ValueError, r'\(7, 4\)'),
    (lambda: nn.Embedding.from_pretrained(jnp.ones(3)), ValueError, r'two axes or more, got shape \(3,\)'),
    (lambda: nn.Embedding(7, 3, embedding_init=nn.Param(TABLE), freeze=True), ValueError, 'fit=False'),
    (lambda: nn.Embedding(7, 3)(jnp.array([1.0])), TypeError, 'Embedding.* indices must be integers, got float32'),
    (lambda: nn.Embedding(7, 3)(jnp.array([0, 7])), ValueError, 'from 0 to 6, got 0 to 7'),
    (lambda: nn.Embedding(7, 3)(-1), ValueError, 'from 0 to 6, got -1'),
]


@pytest.mark.parametrize('call, error, message', BAD)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
