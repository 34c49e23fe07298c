"""Linear layers against PyTorch and dense products written out; masks, signs, units, sparse formats."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.sparse
from jax.experimental import sparse

from brainstate_prob import ParamState, nn, transform
from tests.nn.layers.against_torch import compare

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(np.float32)
W = RNG.normal(size=(3, 4)).astype(np.float32)


def test_linear_is_that_of_torch():
    compare(
        nn.Linear(3, 4, b_init=nn.init.Normal()),
        X,
        lambda torch, x, weight, bias: torch.nn.functional.linear(x, weight, bias),
        move=(np.asarray, np.asarray),
        weight=lambda w: np.asarray(w).T,
        bias=np.asarray,
    )


@pytest.mark.parametrize('make', [nn.Linear, nn.ScaledWSLinear, nn.AllToAll])
def test_only_the_last_axis_is_mixed(make):
    layer = make((2, 3), (2, 4), w_init=W)
    x = RNG.normal(size=(6, 5, 2, 3)).astype(np.float32)
    y = layer(x)
    assert y.shape == (6, 5, 2, 4) and layer.weight.value['weight'].shape == (3, 4)
    single = make(3, 4, w_init=W)
    np.testing.assert_allclose(y[1, 2, 1], single(x[1, 2, 1]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r'axes before it must agree.*needed is out_size=\(2, 4\)'):
        make((2, 3), 4)


@pytest.mark.parametrize(
    'mask', [W > 0, (W > 0).astype(np.float32), lambda shape: np.tri(*shape), np.array([[1], [0], [1]])]
)
def test_what_the_mask_leaves_out_has_no_part_and_no_gradient(mask):
    dense = np.broadcast_to(mask((3, 4)) if callable(mask) else mask, (3, 4))
    for make in (nn.Linear, nn.ScaledWSLinear):
        layer = make(3, 4, w_mask=mask, w_init=W)
        w = W if make is nn.Linear else np.asarray(nn.weight_standardization(W))
        np.testing.assert_allclose(layer(X), X @ (w * dense), rtol=1e-5, atol=1e-6)
    layer = nn.Linear(3, 4, w_mask=mask)
    grads = transform.grad(lambda: layer(X).sum(), layer.states(ParamState))()
    np.testing.assert_array_equal(np.asarray(grads[('weight',)]['weight']) != 0, dense != 0)


def test_a_bias_is_left_out_and_repeated():
    assert list(nn.Linear(3, 4, b_init=None).weight.value) == ['weight']
    np.testing.assert_array_equal(nn.Linear(3, 4, w_init=0.0, b_init=2.0)(X), np.full((5, 4), 2.0))


def test_standardised_columns_have_mean_0_and_the_gain_as_norm():
    layer = nn.ScaledWSLinear(3, 4)
    gain = jnp.arange(1.0, 5.0)[None]
    layer.weight.value = {**layer.weight.value, 'gain': gain}
    effective = np.asarray(layer(jnp.eye(3)))
    np.testing.assert_allclose(effective.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(effective, axis=0), gain[0], rtol=1e-5)
    assert sorted(nn.ScaledWSLinear(3, 4, ws_gain=False, b_init=None).weight.value) == ['weight']


def test_signs_hold_whatever_the_weight():
    sign = np.array([[1.0], [-1.0], [1.0]])
    layer = nn.SignedWLinear(3, 4, w_init=W, w_sign=sign)
    np.testing.assert_allclose(layer(X), X @ (abs(W) * sign), rtol=1e-5, atol=1e-6)
    whole = nn.SignedWLinear((2, 3), (4, 5))
    x = RNG.normal(size=(6, 2, 3)).astype(np.float32)
    w = np.abs(whole.weight.value['weight'])
    np.testing.assert_allclose(whole(x), np.tensordot(x, w, 2), rtol=1e-5, atol=1e-6)


DENSE = np.array([[0.0, 1.0, 0.0, 4.0], [2.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 5.0]], np.float32)
FORMATS = {
    'BCOO': lambda: sparse.BCOO.fromdense(DENSE),
    'BCOO with padding': lambda: sparse.BCOO.fromdense(DENSE, nse=8),
    'BCSR': lambda: sparse.BCSR.fromdense(DENSE),
    'brainunit CSR': lambda: u.sparse.CSR.fromdense(jnp.asarray(DENSE)),
    'brainunit CSC': lambda: u.sparse.CSC.fromdense(jnp.asarray(DENSE)),
    'brainunit COO': lambda: u.sparse.COO.fromdense(jnp.asarray(DENSE)),
    'scipy csr': lambda: scipy.sparse.csr_array(DENSE),
    'scipy csc': lambda: scipy.sparse.csc_array(DENSE),
    'scipy coo': lambda: scipy.sparse.coo_array(DENSE),
    'scipy dok': lambda: scipy.sparse.dok_array(DENSE),
}


@pytest.mark.parametrize('make', FORMATS.values(), ids=FORMATS)
def test_a_sparse_layer_is_its_dense_product_and_trains_the_stored_entries(make):
    layer = nn.SparseLinear(make(), b_init=0.5)
    assert layer.in_size == (3,) and layer.out_size == (4,)
    assert layer.weight.value['weight'].shape == (5,)
    np.testing.assert_allclose(layer(X), X @ DENSE + 0.5, rtol=1e-6, atol=1e-6)
    grads = transform.grad(lambda: (layer(X) ** 2).sum(), layer.states(ParamState))()[('weight',)]
    dense_gradient = X.T @ (2 * (X @ DENSE + 0.5))
    expected = dense_gradient[layer.rows, layer.cols]
    np.testing.assert_allclose(grads['weight'], expected, rtol=1e-4, atol=1e-4)


def test_sparse_entries_stored_twice_add_up():
    layer = nn.SparseLinear(scipy.sparse.coo_array(([1.0, 2.0], ([0, 0], [1, 1])), shape=(2, 2)))
    np.testing.assert_array_equal(layer(jnp.ones(2)), [0.0, 3.0])


def test_low_rank_adaptation_starts_at_the_base_and_moves_away():
    base = nn.Linear(3, 4)
    layer = nn.LoRA(3, 2, 4, base_module=base)
    np.testing.assert_array_equal(layer(X), base(X))
    grads = transform.grad(lambda: (layer(X) ** 2).sum(), layer.states(ParamState))()
    assert np.any(grads[('weight',)]['lora_b'])
    alone = nn.LoRA(3, 2, 4)
    made = alone.weight.value
    np.testing.assert_allclose(alone(X), X @ made['lora_a'] @ made['lora_b'], rtol=1e-5, atol=1e-6)
    assert np.any(alone(X))
    assert nn.LoRA(3, 2, 4, in_size=(7, 3)).out_size == (7, 4)


@pytest.mark.parametrize('n_in, n_out', [(3, 3), (4, 3), (3, 4)])
def test_all_to_all_leaves_out_the_diagonal_with_one_weight_or_many(n_in, n_out):
    x = RNG.normal(size=(5, n_in)).astype(np.float32)
    ones, others = np.ones((n_in, n_out)), 1 - np.eye(n_in, n_out)
    for include_self, w in ((True, ones), (False, others)):
        one = nn.AllToAll(n_in, n_out, 0.5, include_self=include_self)
        many = nn.AllToAll(n_in, n_out, np.full((n_in, n_out), 0.5), include_self=include_self)
        assert one.weight.value['weight'].shape == ()
        for layer in (one, many):
            np.testing.assert_allclose(layer(x), x @ (0.5 * w), rtol=1e-5, atol=1e-6)


def test_one_to_one_is_element_by_element():
    w = RNG.normal(size=(2, 3)).astype(np.float32)
    x = RNG.normal(size=(5, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(nn.OneToOne((2, 3), w, b_init=1.0)(x), x * w + 1, rtol=1e-6)


NANOSIEMENS = nn.init.Normal(scale=1.0, unit=u.nS)
UNITS = {
    'Linear': lambda: nn.Linear(3, 4, NANOSIEMENS, None),
    'Linear with a bias': lambda: nn.Linear(3, 4, NANOSIEMENS, nn.init.Constant(1.0 * u.pA)),
    'SignedWLinear': lambda: nn.SignedWLinear(3, 4, NANOSIEMENS),
    'AllToAll': lambda: nn.AllToAll(3, 4, NANOSIEMENS, include_self=False),
    'AllToAll of one weight': lambda: nn.AllToAll(3, 4, 2.0 * u.nS, include_self=False),
    'OneToOne': lambda: nn.OneToOne(3, NANOSIEMENS),
    'LoRA': lambda: nn.LoRA(3, 2, 4, kernel_init=nn.init.Normal(scale=1.0, unit=u.nS**0.5)),
    'SparseLinear': lambda: nn.SparseLinear(
        u.sparse.CSR.fromdense(jnp.asarray(DENSE) * u.nS), b_init=nn.init.ZeroInit(unit=u.pA)
    ),
}


@pytest.mark.parametrize('make', UNITS.values(), ids=UNITS)
def test_units_pass_through_under_jit(make):
    layer = make()
    y = transform.jit(layer)(X * u.mV)
    assert y.unit.has_same_dim(u.pA)
    np.testing.assert_allclose(layer(X * 1e-3 * u.volt).to_decimal(u.pA), y.to_decimal(u.pA), rtol=1e-5, atol=1e-5)


def test_a_weight_with_a_unit_is_a_quantity_in_its_state_and_in_a_param():
    assert nn.Linear(3, 4, NANOSIEMENS).weight.value['weight'].unit == u.nS
    start = nn.init.Uniform(0.1, 1.0, unit=u.nS)
    layer = nn.Linear(3, 4, nn.ParamSpec(start, t=nn.SoftplusT(0.0 * u.nS), reg=dist.LogNormal(0.0, 1.0)), None)
    assert bool((layer(abs(X) * u.mV) > 0.0 * u.pA).all())


@pytest.mark.parametrize('how', [transform.jit, lambda f: f])
def test_a_bias_without_the_unit_of_the_product_is_refused_also_where_it_is_0(how):
    with pytest.raises(u.UnitMismatchError, match=r'Linear\(3 -> 4\).*b_init=None'):
        how(nn.Linear(3, 4, NANOSIEMENS))(X * u.mV)


def test_shared_params_are_one_parameter():
    shared = nn.Param(W)
    model = nn.Sequential(nn.Linear(3, 4, shared, None), nn.Linear(4, 3, b_init=None))
    other = nn.Module()
    other.a, other.b = model, nn.Linear(3, 4, shared, None)
    assert sum(state is shared.val for state in other.states(ParamState).values()) == 1
    np.testing.assert_allclose(other.b(X), X @ W, rtol=1e-5)  # NumPy sums in another order


@pytest.mark.parametrize(
    'make, error, message',
    [
        (lambda: nn.Linear(3, 4)(np.ones((5, 4))), ValueError, r'Linear\(3 -> 4\): .* shape \(..., 3\), got \(5, 4\)'),
        (lambda: nn.Linear((), ()), ValueError, 'axes'),
        (lambda: nn.Linear(3, 4, w_mask=np.ones((4, 3))), ValueError, r'w_mask must broadcast to \(3, 4\)'),
        (lambda: nn.SignedWLinear(3, 4, w_sign=np.ones(3)), ValueError, r'w_sign must broadcast to \(3, 4\)'),
        (lambda: nn.SparseLinear(DENSE), TypeError, 'needs a sparse matrix'),
        (lambda: nn.SparseLinear(u.sparse.CSR.fromdense(DENSE), in_size=4), ValueError, 'in_size must end in 3'),
        (lambda: nn.LoRA(3, 2, 4, base_module=3), TypeError, 'callable'),
        (lambda: nn.LoRA(3, 2, 4, in_size=(3, 5)), ValueError, 'must end in in_features=3'),
        (lambda: nn.Linear(3, 4, nn.Param(np.ones((4, 3)))), ValueError, r'shape \(4, 3\)'),
        (lambda: nn.Linear(3, 4, np.ones((4, 3))), ValueError, r'\(4, 3\)'),
        (lambda: nn.OneToOne(3)(np.ones((3, 2))), ValueError, r'OneToOne\(3 -> 3\)'),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_double_precision(x64):
    layer = nn.Linear(3, 4, b_init=nn.init.Normal())
    x = RNG.normal(size=(5, 3))
    made = jax.tree.map(np.asarray, layer.weight.value)
    assert layer(x).dtype == np.float64
    np.testing.assert_allclose(layer(x), x @ made['weight'] + made['bias'], rtol=1e-14)
