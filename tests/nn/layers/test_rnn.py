"""Recurrent cells against Flax, PyTorch and their recurrences written in NumPy; over time, in lanes, with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, ParamState, nn, random, transform
from brainstate_prob.nn import init

IN, OUT, BATCH, STEPS = 3, 4, 2, 6
X = jax.random.normal(jax.random.key(0), (STEPS, BATCH, IN))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def affine(layer, x, h):
    weights = layer.weight.value
    return np.concatenate([x, h], -1) @ np.asarray(weights['weight']) + np.asarray(weights.get('bias', 0.0))


def vanilla(cell, x, h):
    return (np.maximum(affine(cell.W, x, h[0]), 0),)


def gru(cell, x, h):
    (h,) = h
    r, z = np.split(sigmoid(affine(cell.Wrz, x, h)), 2, -1)
    return ((1 - z) * h + z * np.tanh(affine(cell.Wh, x, r * h)),)


def mgu(cell, x, h):
    (h,) = h
    f = sigmoid(affine(cell.Wf, x, h))
    return ((1 - f) * h + f * np.tanh(affine(cell.Wh, x, f * h)),)


def lstm(cell, x, h):
    h, c = h
    i, g, f, o = np.split(affine(cell.W, x, h), 4, -1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def urlstm(cell, x, h):
    h, c = h
    f, r, v, o = np.split(affine(cell.W, x, h), 4, -1)
    forget, refine = sigmoid(f + np.asarray(cell.bias.value)), sigmoid(r - np.asarray(cell.bias.value))
    gate = 2 * refine * forget + (1 - 2 * refine) * forget**2
    c = gate * c + (1 - gate) * np.tanh(v)
    return sigmoid(o) * np.tanh(c), c


CELLS = {
    nn.ValinaRNNCell: vanilla,
    nn.GRUCell: gru,
    nn.MGUCell: mgu,
    nn.LSTMCell: lstm,
    nn.URLSTMCell: urlstm,
}
every_cell = pytest.mark.parametrize('kind', CELLS, ids=lambda kind: kind.__name__)


def make(kind, **options):
    biased = {} if kind is nn.URLSTMCell else {'b_init': init.Normal(0.0, 0.5)}
    return kind(IN, OUT, w_init=init.Normal(0.0, 0.5), **biased, **options)


@every_cell
def test_the_recurrence_is_the_one_written_down(kind):
    cell = make(kind, state_init=init.Constant(0.3))
    cell.init_state(BATCH)
    hidden = tuple(np.full((BATCH, OUT), 0.3) for _ in cell.hidden)
    out = transform.for_loop(cell, X)
    for x, got in zip(np.asarray(X, np.float64), out, strict=True):
        hidden = CELLS[kind](cell, x, hidden)
        np.testing.assert_allclose(got, hidden[0], rtol=1e-5, atol=1e-6)
    for name, value in zip(cell.hidden, hidden, strict=True):
        np.testing.assert_allclose(getattr(cell, name).value, value, rtol=1e-5, atol=1e-6)
    cell.reset_state(BATCH)
    for name in cell.hidden:
        np.testing.assert_array_equal(getattr(cell, name).value, np.float32(0.3))


@every_cell
def test_lanes_are_rows_of_a_batch(kind):
    cell = nn.vmap_init_all_states(make(kind), axis_size=BATCH)
    assert cell.h.value.shape == (BATCH, OUT)
    mapped = transform.vmap(cell, in_states=cell.states(HiddenState))
    in_lanes = transform.for_loop(mapped, X)
    cell.init_state(BATCH)
    np.testing.assert_allclose(in_lanes, transform.for_loop(cell, X), rtol=1e-5, atol=1e-6)


@every_cell
def test_the_gradient_through_time_is_the_slope(kind):
    with jax.enable_x64(True):
        random.seed(0)
        cell = make(kind)
        x = jnp.asarray(np.asarray(X[:, 0], np.float64))
        states = cell.states(ParamState)

        def loss():
            cell.init_state()
            return jnp.sum(jnp.sin(transform.for_loop(cell, x)))

        grads = transform.jit(lambda: transform.grad(loss, states)())()
        value = transform.jit(loss)
        for path, state in states.items():
            before = state.value
            direction = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(0).normal(size=a.shape)), before)
            ends = []
            for sign in (1, -1):
                state.value = jax.tree.map(lambda a, d, sign=sign: a + sign * 1e-5 * d, before, direction)
                ends.append(float(value()))
            state.value = before
            along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grads[path], direction)), strict=True))
            np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-9)


def torch_gates(weight, bias, order):
    """The weight of [x, h] in PyTorch's two matrices, gates in PyTorch's order."""
    parts, shifts = np.split(np.asarray(weight), len(order), 1), np.split(np.asarray(bias), len(order))
    whole = np.concatenate([parts[i] for i in order], 1).T
    return whole[:, :IN], whole[:, IN:], np.concatenate([shifts[i] for i in order])


@pytest.mark.parametrize('kind', [nn.ValinaRNNCell, nn.LSTMCell], ids=lambda kind: kind.__name__)
def test_values_and_gradients_are_those_of_pytorch(kind):
    """PyTorch's GRU puts the reset gate after the product, so that the recurrence is another one."""
    torch = pytest.importorskip('torch')
    cell = make(kind)
    weights = cell.W.weight.value
    if kind is nn.LSTMCell:
        theirs = torch.nn.LSTMCell(IN, OUT)
        order = (0, 2, 1, 3)  # i, f, g, o there; i, g, f, o here
        shift = np.repeat([0.0, 1.0, 0.0, 0.0], OUT)  # the 1 that is added to the forget gate
    else:
        theirs, order, shift = torch.nn.RNNCell(IN, OUT, nonlinearity='relu'), (0,), np.zeros(OUT)
    w_x, w_h, bias = torch_gates(weights['weight'], weights['bias'], order)
    with torch.no_grad():
        for name, value in (('weight_ih', w_x), ('weight_hh', w_h), ('bias_ih', bias + shift), ('bias_hh', 0 * bias)):
            getattr(theirs, name).copy_(torch.tensor(np.asarray(value, np.float32)))

    def loss(x):
        cell.init_state(BATCH)
        out = transform.for_loop(cell, x)
        return jnp.sum(out**2), out

    (by_weight, by_x), out = transform.grad(loss, cell.states(ParamState), 0, has_aux=True)(X)
    x = torch.tensor(np.asarray(X), requires_grad=True)
    state = torch.zeros(BATCH, OUT)
    state = (state, state) if kind is nn.LSTMCell else state
    outs = []
    for step in x:
        state = theirs(step, state)
        outs.append(state[0] if kind is nn.LSTMCell else state)
    stacked = torch.stack(outs)
    (stacked**2).sum().backward()
    np.testing.assert_allclose(out, stacked.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_x, x.grad.numpy(), rtol=1e-5, atol=1e-5)
    got = by_weight[('W', 'weight')]
    g_x, g_h, g_b = torch_gates(got['weight'], got['bias'], order)
    for ours, name in ((g_x, 'weight_ih'), (g_h, 'weight_hh'), (g_b, 'bias_ih')):
        np.testing.assert_allclose(ours, getattr(theirs, name).grad.numpy(), rtol=1e-5, atol=1e-5)


def test_the_lstm_is_that_of_flax_with_1_on_the_forget_gate():
    """Flax's GRU and MGU gate the product of h, not h itself: other recurrences."""
    linen = pytest.importorskip('flax.linen')
    cell = make(nn.LSTMCell)
    cell.init_state(BATCH)
    weight, bias = cell.W.weight.value['weight'], cell.W.weight.value['bias']
    params = {}
    for part, gate in enumerate('igfo'):
        columns = slice(part * OUT, (part + 1) * OUT)
        params['i' + gate] = {'kernel': weight[:IN, columns]}
        params['h' + gate] = {'kernel': weight[IN:, columns], 'bias': bias[columns] + (gate == 'f')}
    carry = (jnp.zeros((BATCH, OUT)), jnp.zeros((BATCH, OUT)))
    for x in X:
        carry, out = linen.LSTMCell(OUT).apply({'params': params}, carry, x)
        np.testing.assert_allclose(cell(x), out, rtol=1e-5, atol=1e-6)


def test_the_time_scales_of_the_refined_gates_are_spread():
    """The forget bias starts at the logit of U(1/n, 1 - 1/n): of 1000 units, no decile is off by 5 sd (1e-6)."""
    share = np.asarray(jax.nn.sigmoid(nn.URLSTMCell(1, 1000).bias.value))
    assert share.min() >= 1e-3 and share.max() <= 1 - 1e-3
    counts = np.histogram(share, np.linspace(1e-3, 1 - 1e-3, 11))[0]
    assert abs(counts - 100).max() < 5 * np.sqrt(90)


def test_options():
    assert nn.VanillaRNNCell is nn.ValinaRNNCell
    cell = nn.GRUCell(IN, OUT, b_init=None, state_init=jnp.arange(4.0), activation=jnp.sin)
    cell.init_state(BATCH)
    np.testing.assert_array_equal(cell.h.value, np.tile(np.arange(4.0), (BATCH, 1)))
    assert 'bias' not in cell.Wh.weight.value
    cell.reset_state()
    assert cell.h.value.shape == (OUT,)
    learned = nn.ValinaRNNCell(IN, OUT, state_init=nn.Param(jnp.ones(OUT)))

    def loss():
        learned.init_state()
        return jnp.sum(learned(X[0, 0]) ** 2)

    assert np.any(np.asarray(transform.grad(loss, learned.states(ParamState))()[('state_init', 'val')]))


def test_weights_take_priors():
    cell = nn.GRUCell(IN, OUT, w_init=nn.ParamSpec(init.Normal(), reg=nn.L2Reg(0.1)), b_init=None)
    assert list(cell.states(ParamState)) == [('Wh', 'weight', 'weight', 'val'), ('Wrz', 'weight', 'weight', 'val')]
    cell.init_state()
    assert cell(X[0, 0]).shape == (OUT,) and float(cell.reg_loss()) > 0


@pytest.mark.parametrize(
    'act, error, message',
    [
        (lambda cell: cell(X[0]), RuntimeError, r'cells\.0 \(GRUCell\(3 -> 4\)\): the hidden values are not there yet'),
        (
            lambda cell: cell.init_state(5) or cell(X[0]),
            ValueError,
            r'cells\.0 .*shape \(5, 3\).*got \(2, 3\).*init_state',
        ),
        (lambda cell: cell.init_state() or cell(jnp.ones(7)), ValueError, r'cells\.0 .*\(\.\.\., 3\), got \(7,\)'),
    ],
    ids=['not started', 'batch', 'size'],
)
def test_errors_say_what_to_do(act, error, message):
    model = nn.Module()
    model.cells = [nn.GRUCell(IN, OUT)]
    with pytest.raises(error, match=message):
        act(model.cells[0])


def test_an_unknown_activation_is_told_at_once():
    with pytest.raises(ValueError, match="nn.functional, such as 'tanh'; got 'tahn'"):
        nn.LSTMCell(IN, OUT, activation='tahn')
