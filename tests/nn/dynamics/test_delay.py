"""Delays against the recorded history: methods, times, units, transforms, and what they refuse."""

import functools
import pickle

import brainunit as u
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
from hypothesis import strategies as st

from brainstate_prob import DelayState, HiddenState, environ, graph, nn, transform
from brainstate_prob.nn.dynamics.history import steps_of

LENGTH = 9  # entries of the buffer: delays of 0 to 8 steps
SERIES = np.cumsum(np.random.default_rng(0).normal(size=14)).astype(np.float32)
PAST = SERIES[::-1][:LENGTH].astype(np.float64)  # entry k is k steps ago


def hermite(edge_order):
    slopes = np.gradient(PAST, edge_order=edge_order)
    return scipy.interpolate.CubicHermiteSpline(np.arange(LENGTH), PAST, slopes)


def polynomial(points, first):
    """Through the ``points`` nearest entries."""

    def at(s):
        start = int(np.clip(first(s), 0, LENGTH - points))
        places = np.arange(start, start + points)
        return scipy.interpolate.BarycentricInterpolator(places, PAST[places])(s)

    return at


METHODS = {
    'nearest': lambda s: PAST[int(np.floor(s + 0.5))],
    'round': lambda s: PAST[int(np.floor(s + 0.5))],
    'linear': lambda s: np.interp(s, np.arange(LENGTH), PAST),
    'linear_interp': lambda s: np.interp(s, np.arange(LENGTH), PAST),
    'cubic': hermite(2),
    'hermite': hermite(1),
    'polynomial2': polynomial(3, lambda s: np.floor(s + 0.5) - 1),
    'polynomial3': polynomial(4, lambda s: np.floor(s) - 1),
}
TIMES = [0.0, 0.3, 1.0, 1.49, 2.75, 5.5, 7.0, 7.6, 8.0]


def recorded(series=SERIES, dt=0.1 * u.ms, **options):
    """A delay that has seen the series; dt stays to be set."""
    with environ.context(dt=dt):
        delay = nn.Delay(jnp.zeros(()), time=(LENGTH - 1) * dt, **options)
        delay.init_state()
        transform.for_loop(lambda x: delay.update(x), jnp.asarray(series))
    return delay


@pytest.fixture
def dt():
    with environ.context(dt=0.1 * u.ms):
        yield 0.1 * u.ms


@pytest.mark.parametrize('delay_method', ['rotation', 'concat'])
@pytest.mark.parametrize('method', METHODS)
def test_interpolation_is_that_of_the_recorded_history(method, delay_method, dt):
    delay = recorded(interpolation=method, delay_method=delay_method)
    assert delay.history.value.shape == (LENGTH,) == (delay.max_length,)
    expected = [METHODS[method](s) for s in TIMES]
    at_once = transform.jit(lambda s: delay.retrieve_ago(s * dt))(jnp.asarray(TIMES))
    np.testing.assert_allclose(at_once, expected, rtol=2e-5, atol=2e-5)
    one = [float(delay.retrieve_ago(s * dt)) for s in TIMES[:5]]
    np.testing.assert_allclose(one, expected[:5], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('method', ['linear', 'cubic', 'hermite', 'polynomial2', 'polynomial3'])
def test_the_slope_over_the_delay_is_that_of_the_interpolation(method, dt):
    with jax.enable_x64(True):
        delay = recorded(SERIES.astype(np.float64), interpolation=method)
        slope = jax.vmap(jax.grad(lambda s: delay.retrieve_ago(s * dt)))(jnp.array([0.3, 2.7, 7.6]))
    for s, got in zip([0.3, 2.7, 7.6], slope, strict=True):
        expected = (METHODS[method](s + 1e-5) - METHODS[method](s - 1e-5)) / 2e-5
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_polynomials_are_exact_for_polynomials(dt):
    with jax.enable_x64(True):
        n = np.arange(14.0)
        s = jnp.linspace(0.0, 8.0, 17)
        for method, degree in [('linear', 1), ('polynomial2', 2), ('polynomial3', 3), ('cubic', 2), ('hermite', 1)]:
            delay = recorded(n**degree, interpolation=method)
            np.testing.assert_allclose(delay.retrieve_ago(s * dt), (13.0 - s) ** degree, rtol=1e-9, atol=1e-9)


def test_a_callable_sees_the_history_newest_first(dt):
    def middle(history, indices, step, length):
        assert length == LENGTH and indices == ()
        return 0.5 * (history[jnp.floor(step).astype(int)] + history[jnp.ceil(step).astype(int)])

    for delay_method in ('rotation', 'concat'):
        delay = recorded(interpolation=middle, delay_method=delay_method)
        np.testing.assert_allclose(delay.retrieve_ago(2.2 * dt), (PAST[2] + PAST[3]) / 2, rtol=1e-6)


@hypothesis.given(
    series=st.lists(st.integers(-9, 9), min_size=1, max_size=12),
    step=st.integers(0, 4),
    every=st.integers(1, 3),
)
def test_ring_and_shifted_buffer_are_the_same(series, step, every):
    with environ.context(dt=1.0):
        pair = [
            nn.Delay(jnp.zeros(()), time=4.0 * every, delay_method=m, update_every=None if every == 1 else float(every))
            for m in ('rotation', 'concat')
        ]
        for delay in pair:
            delay.init_state()
            for x in series:
                delay.update(float(x))
        stored = series[::every][::-1]
        expected = stored[step] if step < len(stored) else 0.0
        assert [float(delay.retrieve_at_step(step)) for delay in pair] == [expected, expected]


def simulate(delay, read, inputs):
    """What ``read`` gives after each update, in a loop."""

    def step(x):
        delay.update(x)
        return read()

    return transform.for_loop(step, inputs)


def test_entries_in_a_loop_with_units():
    inputs = jnp.arange(12.0).reshape(6, 2) * u.mV
    with environ.context(dt=0.5 * u.ms):
        delay = nn.Delay(
            jnp.zeros(2) * u.mV,
            entries={'long': 1.5 * u.ms, 'second': (1000.0 * u.us, 1), 'between': (0.75 * u.ms, 0), 'now': None},
            init=-1.0 * u.mV,
        )
        assert delay.max_length == 4 and delay.max_time == 1.5 * u.ms
        delay.init_state()
        read = {k: functools.partial(delay.at, k) for k in ('long', 'second', 'between', 'now')}
        out = simulate(delay, lambda: {k: f() for k, f in read.items()}, inputs)
    raw = np.concatenate([np.full((4, 2), -1.0), np.arange(12.0).reshape(6, 2)])
    assert all(x.unit == u.mV for x in out.values())
    np.testing.assert_allclose(out['long'].mantissa, raw[1:7])
    np.testing.assert_allclose(out['second'].mantissa, raw[2:8, 1])
    np.testing.assert_allclose(out['between'].mantissa, 0.5 * (raw[2:8, 0] + raw[3:9, 0]))
    np.testing.assert_allclose(out['now'].mantissa, raw[4:])


def test_each_synapse_may_have_its_own_delay(dt):
    delay = nn.Delay(jnp.zeros(3))
    synapses = delay.access('synapses', np.array([0.0, 0.1, 0.25]) * u.ms, np.arange(3))
    grid = delay.access('grid', jnp.array([0.0, 0.2]) * u.ms)
    delay.init_state()
    series = np.arange(15.0).reshape(5, 3)
    for x in series:
        delay.update(jnp.asarray(x))
    np.testing.assert_allclose(synapses(), [12.0, 10.0, 0.5 * (8.0 + 5.0)], rtol=1e-6)
    np.testing.assert_allclose(grid(), series[[4, 2]], rtol=1e-6)
    nearest = delay.retrieve_ago(jnp.array([[0.04], [0.16]]) * u.ms, np.arange(3), interpolation='nearest')
    np.testing.assert_allclose(nearest, series[[4, 2]])
    rows = delay.retrieve_ago(jnp.array([0.05, 0.15]) * u.ms, slice(0, 2))
    np.testing.assert_allclose(rows, [[10.5, 11.5], [7.5, 8.5]], rtol=1e-5)


def test_points_in_time(dt):
    delay = recorded()
    with environ.context(t=20.0 * u.ms):
        np.testing.assert_allclose(delay.retrieve_at_time(19.75 * u.ms), METHODS['linear'](2.5), rtol=1e-4)
        np.testing.assert_allclose(delay.retrieve_at_time(20.0 * u.ms), PAST[0], rtol=1e-6)
    with pytest.raises(KeyError, match='the current time'):
        delay.retrieve_at_time(20.0 * u.ms)

    def step(n, x):
        with environ.context(t=n * dt):
            delay.update(x)
            return delay.retrieve_at_time(n * dt - 0.2 * u.ms)

    delay.reset_state()
    out = transform.for_loop(step, jnp.arange(6), jnp.asarray(SERIES[:6]))
    np.testing.assert_allclose(out, [0.0, 0.0, *SERIES[:4]], rtol=1e-4, atol=1e-5)


def test_rows_of_a_batch_and_lanes(dt):
    def make():
        return nn.Delay(jnp.zeros(2), entries={'a': 0.2 * u.ms})

    inputs = jax.random.normal(jax.random.key(0), (6, 3, 2))
    batch = make()
    batch.init_state(3)
    out = simulate(batch, lambda: batch.at('a'), inputs)
    np.testing.assert_allclose(out, np.concatenate([np.zeros((2, 3, 2)), inputs[:-2]]), rtol=1e-6)
    lanes = nn.vmap_init_all_states(make(), axis_size=3)
    mapped = transform.vmap(lambda x: (lanes.update(x), lanes.at('a'))[1], in_states=lanes.states(DelayState))
    np.testing.assert_allclose(transform.for_loop(mapped, inputs), out, rtol=1e-6)


@pytest.mark.parametrize('delay_method', ['rotation', 'concat'])
def test_gradients_reach_the_values_that_were_stored(delay_method, dt):
    delay = nn.Delay(jnp.zeros(()), entries={'a': 0.25 * u.ms}, delay_method=delay_method)

    def loss(x):
        delay.init_state()
        return jnp.sum(simulate(delay, lambda: delay.at('a'), x) * jnp.arange(6.0))

    # y_n = (x_(n-2) + x_(n-3)) / 2, weighted by n.
    expected = [0.5 * ((n + 2 < 6) * (n + 2) + (n + 3 < 6) * (n + 3)) for n in range(6)]
    np.testing.assert_allclose(transform.grad(loss)(jnp.asarray(SERIES[:6])), expected, rtol=1e-6)


def test_only_every_so_often(dt):
    delay = nn.Delay(jnp.zeros(()), time=0.6 * u.ms, update_every=0.2 * u.ms)
    assert delay.max_length == 4
    delay.init_state()
    out = simulate(delay, lambda: (delay.retrieve_at_step(0), delay.retrieve_ago(0.4 * u.ms)), jnp.arange(1.0, 9.0))
    np.testing.assert_allclose(out[0], [1, 1, 3, 3, 5, 5, 7, 7])
    # 0.4 ms ago: the value stored then, or half-way between the two around it.
    np.testing.assert_allclose(out[1][4:], [1, 2, 3, 4])


def test_trees_bools_and_halves(dt):
    target = {'v': jnp.zeros(2) * u.mV, 's': jnp.zeros(2, bool), 'w': jnp.zeros((), jnp.bfloat16)}
    delay = nn.Delay(target, time=0.2 * u.ms)
    delay.init_state()
    for n in range(3):
        delay.update({'v': jnp.full(2, n) * u.volt, 's': jnp.array([n == 1, False]), 'w': jnp.bfloat16(n)})
    out = delay.retrieve_ago(0.15 * u.ms)
    np.testing.assert_allclose(out['v'].to_decimal(u.mV), 500.0)
    assert out['s'].dtype == bool and out['s'].tolist() == [False, False]  # 1.5 is nearest to 2, as 0.5 to 1
    assert out['w'].dtype == jnp.bfloat16 and float(out['w']) == 0.5
    assert delay.retrieve_ago(0.1 * u.ms)['s'].tolist() == [True, False]


@pytest.mark.parametrize(
    'init, before',
    [
        (None, [0.0, 0.0, 0.0]),
        (2.0, [2.0, 2.0, 2.0]),
        (jnp.arange(3.0)[:, None], [0.0, 1.0, 2.0]),
        (lambda shape: jnp.broadcast_to(jnp.arange(3.0)[:, None], shape), [0.0, 1.0, 2.0]),
    ],
    ids=['none', 'number', 'array', 'callable'],
)
@pytest.mark.parametrize('delay_method', ['rotation', 'concat'])
def test_the_history_before_the_start(init, before, delay_method, dt):
    delay = nn.Delay(jnp.zeros(2), time=0.2 * u.ms, init=init, delay_method=delay_method)
    delay.init_state()
    assert [float(delay.retrieve_at_step(k)[1]) for k in range(3)] == before
    delay.update(jnp.full(2, 9.0))
    assert [float(delay.retrieve_at_step(k)[0]) for k in range(3)] == [9.0, *before[:2]]
    delay.reset_state()
    assert [float(delay.retrieve_at_step(k)[1]) for k in range(3)] == before


def test_the_unit_of_the_first_value_is_taken_when_asked_for(dt):
    delay = nn.Delay(jax.ShapeDtypeStruct((), jnp.float32), time=0.1 * u.ms, take_aware_unit=True)
    delay.init_state()
    delay.update(1.0 * u.volt)
    delay.update(500.0 * u.mV)
    assert delay.retrieve_at_step(0).unit == u.volt
    np.testing.assert_allclose(delay.retrieve_at_step(0).mantissa, 0.5)
    other = nn.Delay(jnp.zeros(()), time=0.1 * u.ms, take_aware_unit=True)
    other.init_state()
    other.retrieve_at_step(1)
    with pytest.raises(ValueError, match='read before the first update.*init='):
        other.update(1.0 * u.mV)


def test_traced_delays_outside_the_buffer_are_nan(dt):
    delay = recorded()
    out = transform.jit(lambda s: delay.retrieve_ago(s * dt))(jnp.array([-0.5, 0.0, 8.0, 8.5]))
    assert np.isnan(out).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    'time, dt, steps',
    [
        (0.3, 0.1, 3.0),
        (0.7 * u.ms, 0.1 * u.ms, 7.0),
        (1.0 * u.second, 0.1 * u.ms, 10000.0),
        (jnp.float32(0.3), 0.1, 3.0),
        (jnp.float32(0.6) * u.ms, np.float32(0.1) * u.ms, 6.0),
        (0.25 * u.ms, 0.1 * u.ms, 2.5),
    ],
)
def test_times_are_counted_without_rounding_errors(time, dt, steps):
    assert float(steps_of(time, dt)) == pytest.approx(steps, abs=0 if steps % 1 == 0 else 1e-12)


def test_copies_keep_their_history(dt):
    delay = recorded()
    delay.register_entry('a', 0.3 * u.ms)
    for copy in (pickle.loads(pickle.dumps(delay)), graph.clone(delay)):
        assert float(copy.at('a')) == float(delay.at('a')) == SERIES[-4]
        copy.update(0.0)
    assert float(delay.retrieve_at_step(0)) == SERIES[-1]
    assert list(delay.states()) == [('history',), ('write_ptr',)]


def test_a_state_with_its_delay(dt):
    cell = nn.GRUCell(2, 3)
    past = nn.StateWithDelay(cell, 'h', time=0.2 * u.ms)
    model = nn.Module()
    model.a_past, model.cell = past, cell  # the delay is walked first, and initialized last
    nn.init_all_states(model, 5)
    assert past.history.value.shape == (3, 5, 3) and past.state is cell.h
    x = jax.random.normal(jax.random.key(0), (4, 5, 2))
    h = transform.for_loop(lambda x: (cell(x), past.update())[0], x)
    np.testing.assert_allclose(past.retrieve_ago(0.1 * u.ms), h[2])
    np.testing.assert_allclose(past.retrieve_ago(0.16 * u.ms), h[1])  # the nearest
    nn.reset_all_states(model, 5)
    assert not past.history.value.any()
    with pytest.raises(TypeError, match=r"'num_in' of GRUCell is not a State but a int"):
        nn.StateWithDelay(cell, 'num_in').init_state()
    with pytest.raises(TypeError, match=r"'V' of GRUCell is not a State yet"):
        nn.StateWithDelay(cell, 'V').init_state()


def started(*args, **options):
    delay = nn.Delay(*args, **options)
    delay.init_state()
    return delay


@pytest.mark.parametrize(
    'act, error, message',
    [
        (lambda: nn.Delay(jnp.zeros(2), interpolation='spline'), ValueError, "Unknown interpolation 'spline'.*'cubic'"),
        (lambda: nn.Delay(jnp.zeros(2), interpolation=3), TypeError, 'a name or a callable'),
        (lambda: nn.Delay(jnp.zeros(2), delay_method='stack'), ValueError, "'rotation' or 'concat'"),
        (lambda: nn.Delay(jnp.zeros(2), time=-1.0 * u.ms), ValueError, 'finite and not negative'),
        (lambda: nn.Delay(jnp.zeros(2), init=object()), TypeError, 'init must be a number'),
        (lambda: started(jnp.zeros(2), time=1.0), u.UnitMismatchError, 'cannot be counted'),
        (lambda: started(jnp.zeros(2), time=1.0 * u.mV), u.UnitMismatchError, 'cannot be counted'),
        (lambda: started(jnp.zeros(2), init=1.0 * u.mV), u.UnitMismatchError, 'init is in mV'),
        (lambda: started(jnp.zeros(2), update_every=0.05 * u.ms), ValueError, 'a multiple of dt'),
        (lambda: started(jnp.zeros(2), update_every=0.25 * u.ms), ValueError, 'a multiple of dt'),
        (lambda: nn.Delay(jnp.zeros(2)).update(jnp.zeros(2)), RuntimeError, 'not there yet.*init_all_states'),
        (lambda: started(jnp.zeros(2)).update(jnp.zeros(3)), ValueError, r'shape \(2,\), got \(3,\)'),
        (lambda: started(jnp.zeros(2)).update((1.0,)), ValueError, 'structure'),
        (lambda: started(jnp.zeros(2)).update(jnp.zeros(2) * u.mV), u.UnitMismatchError, 'holds plain numbers'),
        (lambda: started(jnp.zeros(2) * u.mV).update(jnp.zeros(2)), u.UnitMismatchError, 'holds values in mV, got'),
        (lambda: started(jnp.zeros(2)).retrieve_at_step(1), ValueError, 'asked for 1 steps ago; the buffer has 0 to 0'),
        (lambda: started(jnp.zeros(2)).retrieve_at_step(-1), ValueError, 'asked for -1'),
        (lambda: started(jnp.zeros(2)).retrieve_at_step(0.5), TypeError, 'a step is an integer'),
        (lambda: started(jnp.zeros(2)).at('x'), KeyError, "no entry 'x'"),
        (lambda: nn.Delay(jnp.zeros(2), entries={'a': 1.0}).register_entry('a', 2.0), KeyError, 'already'),
        (lambda: nn.Delay(jnp.zeros(2)).register_delay(), ValueError, 'give a delay'),
        (lambda: nn.Delay(jnp.zeros(2)).register_delay(0.1, 0.5), TypeError, 'index the value'),
        (lambda: jax.jit(nn.Delay(jnp.zeros(2)).register_delay)(0.1), TypeError, 'retrieve_ago'),
        (lambda: nn.DelayAccess(HiddenState(0.0), 1.0, entry='a'), TypeError, 'needs a Delay'),
    ],
)
def test_errors_say_what_to_do(act, error, message, dt):
    with pytest.raises(error, match=message):
        act()


def test_a_delay_registered_too_late_is_told(dt):
    delay = started(jnp.zeros(2), time=0.1 * u.ms)
    delay.register_entry('late', 0.5 * u.ms)
    with pytest.raises(ValueError, match='before init_state'):
        delay.at('late')
    delay.init_state()
    assert delay.at('late').shape == (2,)


def test_errors_name_the_place(dt):
    model = nn.Module()
    model.synapse = nn.Module()
    model.synapse.delay = nn.Delay(jnp.zeros(2))
    with pytest.raises(RuntimeError, match=r'synapse\.delay \(Delay\)'):
        model.synapse.delay.retrieve_at_step(0)
