"""Dynamics, their hooks, and late references to their States and outputs, now and in the past."""

import pickle

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import DelayState, HiddenState, ParamState, environ, graph, nn, transform

DT = 0.1 * u.ms


class Leaky(nn.Dynamics):
    """v <- a v + x in mV; returns v."""

    def __init__(self, in_size, unit=u.mV):
        super().__init__(in_size)
        self.a = nn.Param(0.5)
        self.unit = unit

    def init_state(self, batch_size=None):
        self.v = HiddenState(
            jnp.zeros(self.varshape if batch_size is None else (batch_size, *self.varshape)) * self.unit
        )

    def reset_state(self, batch_size=None):
        self.v.value = 0.0 * self.v.value

    def update(self, x):
        self.v.value = self.a.value() * self.v.value + x
        return self.v.value


@pytest.fixture(autouse=True)
def _dt():
    with environ.context(dt=DT):
        yield


def by_hand(inputs, a=0.5):
    v, out = np.zeros(inputs.shape[1:]), []
    for x in inputs:
        v = a * v + x
        out.append(v)
    return np.array(out)


def late(series, steps):
    """The series ``steps`` steps late, zeros before."""
    return np.concatenate([np.zeros((steps, *series.shape[1:])), series])[: len(series)]


X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
V = by_hand(X)


def test_sizes():
    assert nn.Dynamics(4).in_size == nn.Dynamics((4,)).varshape == nn.Dynamics(np.int64(4)).out_size == (4,)
    assert nn.Dynamics([2, 3], name='two').varshape == (2, 3) and nn.Dynamics(2, name='two').name == 'two'
    for bad, error in [((), ValueError), (0, ValueError), (2.5, TypeError), ('3', TypeError), (True, TypeError)]:
        with pytest.raises(error, match='in_size must'):
            nn.Dynamics(bad)
    assert issubclass(nn.DynamicsGroup, nn.Module)


def test_hooks_run_in_order_around_the_step():
    cell = nn.init_all_states(Leaky(3))
    seen = []
    cell.add_before_update('first', lambda: seen.append('first'))
    cell.add_before_update('second', lambda: seen.append('second'))
    cell.add_after_update('out', lambda out: seen.append(out))
    out = cell(X[0] * u.mV)
    assert seen[:2] == ['first', 'second'] and seen[2] is out
    assert cell.has_before_update('first') and not cell.has_before_update('out') and cell.has_after_update('out')
    assert callable(cell.get_before_update('first')) and callable(cell.get_after_update('out'))


@pytest.mark.parametrize('when', ['before', 'after'])
def test_hooks_that_make_no_sense_are_refused(when):
    cell = nn.Dynamics(1)
    add, get = getattr(cell, f'add_{when}_update'), getattr(cell, f'get_{when}_update')
    add('a', print)
    with pytest.raises(KeyError, match="has a hook 'a' already"):
        add('a', print)
    with pytest.raises(TypeError, match='must be callable, got int'):
        add('b', 3)
    with pytest.raises(KeyError, match=r"no hook 'c'; it has \['a'\]"):
        get('c')


def test_prefetch_finds_what_comes_later():
    cell = Leaky(3)
    handle, weight = cell.prefetch('v'), cell.prefetch('a')
    with pytest.raises(AttributeError, match=r"Leaky\(3 -> 3\) has no attribute 'v' yet.*init_all_states"):
        handle()
    nn.init_all_states(cell)
    assert handle.get_item() is cell.v and handle().unit == u.mV and handle.get_item_value().shape == (3,)
    assert float(weight()) == 0.5 and cell.prefetch('unit')() == u.mV
    assert repr(handle) == "Prefetch('v' of Leaky(3 -> 3))"
    with pytest.raises(TypeError, match='needs a Dynamics, got GRUCell'):
        nn.Prefetch(nn.GRUCell(1, 1), 'h').delay


@pytest.mark.parametrize(
    'make',
    [
        lambda cell, time: cell.prefetch('v').delay.at(time),
        lambda cell, time: cell.prefetch_delay('v', time),
        lambda cell, time: nn.PrefetchDelay(cell, 'v').at((time,)),
        lambda cell, time: nn.PrefetchDelayAt(cell, 'v', time, delay_method='concat'),
        lambda cell, time: cell.output_delay(time, init=0.0 * u.mV),
        lambda cell, time: nn.OutputDelayAt(cell, time, delay_init=0.0 * u.mV),
    ],
)
def test_a_handle_reads_the_past(make):
    """Read before the step, a delay of 0 is the step before; read after it, the present one."""
    cell = Leaky(3)
    before, after = make(cell, 0.1 * u.ms), make(cell, 0.3 * u.ms)
    nn.init_all_states(cell)

    def step(x):
        old = before()
        cell(x * u.mV)
        return old / u.mV, after() / u.mV

    first, second = transform.for_loop(step, X)
    np.testing.assert_allclose(first, late(V, 2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, late(V, 3), rtol=1e-5, atol=1e-6)
    assert len(cell.after_updates) == 1
    nn.reset_all_states(cell)
    assert not np.any(np.asarray(after() / u.mV))


def test_one_entry_of_the_state_and_no_delay():
    cell = Leaky(3)
    one, now = cell.prefetch_delay('v', 0.1 * u.ms, 2), cell.prefetch_delay('v')
    nn.init_all_states(cell)
    out = transform.for_loop(lambda x: (cell(x * u.mV), one() / u.mV, now() / u.mV)[1:], X)
    np.testing.assert_allclose(out[0], late(V, 1)[:, 2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[1], V, rtol=1e-5, atol=1e-6)


def test_fractions_of_a_step_are_interpolated_as_asked():
    cell = Leaky(3)
    linear = cell.prefetch_delay('v', 0.25 * u.ms, interpolation='linear')
    nearest = cell.prefetch_delay('v', 0.25 * u.ms)
    nn.init_all_states(cell)
    out = transform.for_loop(lambda x: (cell(x * u.mV), linear() / u.mV, nearest() / u.mV)[1:], X)
    np.testing.assert_allclose(out[0], (late(V, 2) + late(V, 3)) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out[1], late(V, 3), rtol=1e-5, atol=1e-6)


def test_batches_and_lanes():
    inputs = np.stack([X, 2 * X], 1)
    batch = Leaky(3)
    past = batch.prefetch_delay('v', 0.2 * u.ms)
    nn.init_all_states(batch, 2)
    out = transform.for_loop(lambda x: (batch(x * u.mV), past() / u.mV)[1], inputs)
    np.testing.assert_allclose(out[:, 1], 2 * late(V, 2), rtol=1e-5, atol=1e-5)
    lanes = Leaky(3)
    past = lanes.prefetch_delay('v', 0.2 * u.ms)
    nn.vmap_init_all_states(lanes, axis_size=2)
    step = transform.vmap(
        lambda x: (lanes(x * u.mV), past() / u.mV)[1], in_states=lanes.states(HiddenState) | lanes.states(DelayState)
    )
    np.testing.assert_allclose(transform.for_loop(step, inputs), out, rtol=1e-6)


def test_two_cells_that_see_each_other_late_and_the_gradient_through_it():
    class Pair(nn.DynamicsGroup):
        def __init__(self):
            super().__init__()
            self.a, self.b = Leaky(3, 1.0), Leaky(3, 1.0)
            self.to_b = self.a.prefetch_delay('v', 0.2 * u.ms)
            self.to_a = self.b.output_delay(0.1 * u.ms)

        def update(self, x):
            return self.a(x + self.to_a()), self.b(self.to_b())

    with jax.enable_x64(True):
        pair = Pair()
        assert graph.path_of(pair.a) == ('a',) and len(pair.states()) == 2

        def loss(x):
            nn.init_all_states(pair)
            a, b = transform.for_loop(pair, x)
            return jnp.sum(a * b), (a, b)

        x = jnp.asarray(X, jnp.float64)
        (grads, by_x), (a, b) = transform.grad(loss, pair.states(ParamState), 0, has_aux=True)(x)
        np.testing.assert_allclose((a, b), by_hand_pair(x, (0.5, 0.5)), rtol=1e-10, atol=1e-12)
        shifted = [by_hand_pair(x + 1e-6 * sign * np.eye(8, 3), (0.5, 0.5)) for sign in (1, -1)]
        slope = ((shifted[0][0] * shifted[0][1]).sum() - (shifted[1][0] * shifted[1][1]).sum()) / 2e-6
        np.testing.assert_allclose(np.vdot(by_x, np.eye(8, 3)), slope, rtol=1e-6)
        eps = 1e-6
        for path, k in [(('a', 'a', 'val'), 0), (('b', 'a', 'val'), 1)]:
            ends = []
            for sign in (1, -1):
                alpha = [0.5, 0.5]
                alpha[k] += sign * eps
                out = by_hand_pair(x, alpha)
                ends.append((out[0] * out[1]).sum())
            np.testing.assert_allclose(grads[path], (ends[0] - ends[1]) / (2 * eps), rtol=1e-6)


def by_hand_pair(x, alpha):
    """What Pair computes: a sees b's output 1 step before its last one, b sees a's value 2 steps before this one."""
    a, b = [np.zeros(3)] * 4, [np.zeros(3)] * 4
    for row in np.asarray(x):
        a.append(alpha[0] * a[-1] + row + b[-2])
        b.append(alpha[1] * b[-1] + a[-3])
    return np.array(a[4:]), np.array(b[4:])


def test_copies_have_delays_of_their_own():
    model = nn.Module()
    model.cell = Leaky(3)
    model.past = model.cell.prefetch_delay('v', 0.1 * u.ms)
    nn.init_all_states(model)
    model.cell(X[0] * u.mV)
    hook = ('cell', 'after_updates', 'v-prefetch-delay-None')
    assert list(model.states()) == [('cell', 'a', 'val'), (*hook, 'history'), (*hook, 'write_ptr'), ('cell', 'v')]
    assert graph.path_of(model.cell) == ('cell',) and graph.path_of(model.past.state_delay) == hook
    for copy in (pickle.loads(pickle.dumps(model)), graph.clone(model)):
        assert copy.past.module is copy.cell
        copy.cell(X[1] * u.mV)
        np.testing.assert_allclose(copy.past() / u.mV, X[0], rtol=1e-6)
        np.testing.assert_allclose(model.past() / u.mV, 0.0)


def test_shared_histories_have_one_start():
    cell = Leaky(1)
    cell.prefetch_delay('v', 0.1 * u.ms)
    start = -60.0 * u.mV
    past = cell.prefetch_delay('v', 0.2 * u.ms, init=start)
    cell.prefetch_delay('v', 0.3 * u.ms, init=-60.0 * u.mV)
    nn.init_all_states(cell)
    np.testing.assert_allclose(past() / u.mV, -60.0)
    with pytest.raises(ValueError, match='has another init already'):
        cell.prefetch_delay('v', 0.2 * u.ms, init=-65.0 * u.mV)
    with pytest.raises(TypeError, match='needs a Dynamics'):
        nn.OutputDelayAt(nn.GRUCell(1, 1), 1.0)


def test_an_output_with_a_unit_that_is_read_first_must_say_its_unit():
    cell = Leaky(3)
    past = cell.output_delay(0.1 * u.ms)
    nn.init_all_states(cell)
    past()
    with pytest.raises(ValueError, match=r'init=0\. \* u\.mV'):
        cell(X[0] * u.mV)
