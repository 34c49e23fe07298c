"""Sparse and event-driven connections against dense matrices, with units, gradients and what they refuse."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import ParamState, nn, random, transform
from brainstate_prob.nn import init

PRE, POST = 12, 9
OPTIONS = [
    {'conn_num': 4},
    {'conn_num': 0.5, 'afferent_ratio': 0.5},
    {'conn_num': 4, 'efferent_target': 'pre'},
    {'conn_num': 4, 'efferent_target': 'pre', 'afferent_ratio': 0.5},
    {'conn_num': 4, 'allow_multi_conn': False},
    {'conn_num': 0.25, 'efferent_target': 'pre', 'allow_multi_conn': False, 'conn_init': 'for_loop'},
]


def by_hand(layer):
    """The matrix, entry by entry, in NumPy."""
    weight = np.broadcast_to(np.asarray(u.get_mantissa(layer.weight.value['weight'])), layer.indices.value.shape)
    indices = np.asarray(layer.indices.value)
    dense = np.zeros((PRE, POST))
    sources = np.asarray(layer.sources.value) if hasattr(layer, 'sources') else np.arange(PRE)
    for row in range(indices.shape[0]):
        for k in range(indices.shape[1]):
            if layer.efferent_target == 'pre':
                dense[indices[row, k], row] += weight[row, k]
            else:
                dense[sources[row], indices[row, k]] += weight[row, k]
    return dense


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_the_connection_is_its_dense_matrix(options):
    layer = nn.FixedNumConn(PRE, POST, conn_weight=init.Normal(), seed=3, **options)
    matrix = by_hand(layer)
    np.testing.assert_allclose(layer.dense(), matrix, rtol=1e-6)
    x = jax.random.normal(jax.random.key(0), (5, PRE))
    np.testing.assert_allclose(layer(x), x @ matrix, rtol=1e-5, atol=1e-5)
    grads, by_x = transform.grad(lambda x: jnp.sum(jnp.sin(layer(x))), layer.states(ParamState), 0)(x)
    np.testing.assert_allclose(by_x, jax.grad(lambda x: jnp.sum(jnp.sin(x @ matrix)))(x), rtol=1e-4, atol=1e-5)
    dense_slope = np.asarray(x.T @ jnp.cos(x @ matrix))
    shape = layer.indices.value.shape
    for row, k in [(0, 0), (shape[0] - 1, shape[1] - 1)]:
        other = int(layer.indices.value[row, k])
        if layer.efferent_target == 'pre':
            place = other, row
        else:
            place = int(layer.sources.value[row]) if hasattr(layer, 'sources') else row, other
        np.testing.assert_allclose(grads[('weight',)]['weight'][row, k], dense_slope[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_the_numbers_of_connections_are_those_asked_for(options):
    layer = nn.FixedNumConn(PRE, POST, conn_weight=1.0, seed=3, **options)
    counts = np.asarray(layer.dense())
    axis, others = (0, PRE) if options.get('efferent_target') == 'pre' else (1, POST)
    kept = round(PRE * options.get('afferent_ratio', 1.0))
    number = options['conn_num']
    wanted = number if isinstance(number, int) else round(number * (kept if axis == 0 else POST))
    totals = counts.sum(axis)
    assert set(totals.tolist()) <= {0.0, float(wanted)}
    assert (totals > 0).sum() == (POST if axis == 0 else kept)
    assert (counts.sum(1) > 0).sum() <= kept
    if not options.get('allow_multi_conn', True):
        assert counts.max() == 1.0
    assert others >= wanted


def test_a_seed_fixes_the_connectivity_and_the_stream_gives_new_ones():
    def make(seed=None):
        return nn.FixedNumConn(PRE, POST, 4, 1.0, seed=seed).indices.value

    np.testing.assert_array_equal(make(5), make(5))
    assert (make(5) != make(6)).any() and (make() != make()).any()
    random.seed(1)
    first = make()
    random.seed(1)
    np.testing.assert_array_equal(make(), first)


def test_targets_are_uniform():
    """Chi-square of 4000 targets over 10 units; false alarm 1e-4 (9 degrees of freedom: 33.7)."""
    for multiple in (True, False):
        layer = nn.FixedNumConn(1000, 10, 4, 1.0, allow_multi_conn=multiple, seed=0)
        counts = np.bincount(np.asarray(layer.indices.value).ravel(), minlength=10)
        assert ((counts - 400) ** 2 / 400).sum() < 33.7


SPIKES = np.random.default_rng(0).random((3, PRE)) < 0.4


@pytest.mark.parametrize('dtype', [bool, np.int32, np.float32])
@pytest.mark.parametrize(
    'make',
    [
        lambda: nn.EventFixedNumConn(PRE, POST, 4, init.Normal(), seed=0),
        lambda: nn.EventFixedProb(PRE, POST, 0.5, init.Normal(), 'pre', seed=0),
        lambda: nn.EventLinear(PRE, POST, init.Normal()),
    ],
    ids=['num', 'prob', 'linear'],
)
def test_events_count_as_one(make, dtype):
    layer = make()
    matrix = layer.dense() if hasattr(layer, 'dense') else layer.weight.value['weight']
    expected = np.asarray(SPIKES, np.float32) @ np.asarray(matrix)
    np.testing.assert_allclose(layer(jnp.asarray(SPIKES.astype(dtype))), expected, rtol=1e-5, atol=1e-5)
    if dtype is not bool:
        np.testing.assert_allclose(layer(jnp.asarray(3 * SPIKES.astype(dtype))), expected, rtol=1e-5, atol=1e-5)


def test_float_as_event_off_takes_floats_as_they_are():
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(PRE, POST)).astype(np.float32))
    x = 3.0 * jnp.asarray(SPIKES, jnp.float32)
    np.testing.assert_allclose(nn.EventLinear(PRE, POST, matrix, float_as_event=False)(x), x @ matrix, rtol=1e-5)
    np.testing.assert_allclose(nn.EventLinear(PRE, POST, matrix)(x), x / 3 @ matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(nn.EventLinear(PRE, POST, 2.0)(x)[:, 4], 2.0 * SPIKES.sum(1), rtol=1e-6)


@pytest.mark.parametrize('layer', [nn.EventLinear, nn.EventFixedNumConn], ids=lambda c: c.__name__)
def test_surrogate_gradients_of_spikes_pass(layer):
    options = {'weight': init.Normal()} if layer is nn.EventLinear else {'conn_num': 3, 'conn_weight': init.Normal()}
    made = layer(PRE, POST, **options)
    matrix = made.dense() if hasattr(made, 'dense') else made.weight.value['weight']
    by_spikes = jax.grad(lambda s: made(s)[2])(jnp.asarray(SPIKES[0], jnp.float32))
    np.testing.assert_allclose(by_spikes, matrix[:, 2], rtol=1e-6)


def test_units_of_weights_and_inputs_multiply():
    conductance = nn.EventFixedNumConn(PRE, POST, 4, 0.5 * u.nS, seed=0)
    out = conductance(jnp.asarray(SPIKES))
    assert out.unit.has_same_dim(u.nS)
    np.testing.assert_allclose((conductance.dense() / u.nS).sum(1), 2.0)
    dense = nn.EventLinear(PRE, POST, jnp.ones((PRE, POST)) * u.mV)
    np.testing.assert_allclose(dense(jnp.asarray(SPIKES)[0]) / u.mV, SPIKES[0].sum())
    current = nn.FixedNumConn(PRE, POST, 4, 2.0 * u.siemens, seed=0)(jnp.ones(PRE) * u.volt)
    assert current.unit.has_same_dim(u.amp)
    np.testing.assert_allclose(float(current.sum() / u.amp), 2.0 * 4 * PRE, rtol=1e-6)


def test_weights_take_params():
    layer = nn.FixedNumConn(PRE, POST, 4, nn.Param(0.5 * u.nS, t=nn.SoftplusT(0.0 * u.nS), reg=nn.LogNormalReg()))
    assert list(layer.states(ParamState)) == [('weight', 'weight', 'val')]
    np.testing.assert_allclose(float(layer(jnp.ones(PRE)).sum() / u.nS), 2.0 * PRE, rtol=1e-5)
    assert float(layer.reg_loss()) != 0.0


@pytest.mark.parametrize(
    'options, error, message',
    [
        ({'conn_num': 10, 'allow_multi_conn': False}, ValueError, 'not above 9'),
        ({'conn_num': 1.5}, ValueError, 'from 0 to 1'),
        ({'conn_num': -1}, ValueError, 'conn_num'),
        ({'conn_num': True}, ValueError, 'conn_num'),
        ({'conn_num': 'all'}, TypeError, 'a fraction'),
        ({'conn_num': 2, 'afferent_ratio': 0.0}, ValueError, 'afferent_ratio'),
        ({'conn_num': 2, 'afferent_ratio': 1.5}, ValueError, 'afferent_ratio'),
        ({'conn_num': 2, 'efferent_target': 'both'}, ValueError, "'both' is not one of"),
        ({'conn_num': 2, 'conn_init': 'loop'}, ValueError, "'loop' is not one of"),
    ],
)
def test_what_makes_no_connection_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        nn.FixedNumConn(PRE, POST, conn_weight=1.0, **options)


def test_leading_axes_must_agree():
    with pytest.raises(ValueError, match='must agree'):
        nn.EventLinear((2, PRE), (3, POST), 1.0)
