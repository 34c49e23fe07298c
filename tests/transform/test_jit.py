"""jit: States as inputs and outputs, one trace a signature, statics, methods, creation, threads."""

import copy
import gc
import pickle
import threading
import weakref

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, ParamState, State, StateTrace, TraceError, environ, random, transform
from brainstate_prob.core import current_trace
from brainstate_prob.core.state import holds_tracer


def test_reads_are_inputs_and_writes_are_kept():
    s, other = State(jnp.array(1.0)), State({'a': jnp.ones(2), 'b': None})

    @transform.jit
    def f(x):
        s.value = s.value + x
        return {'out': s.value * other.value['a']}

    np.testing.assert_allclose(f(2.0)['out'], [3.0, 3.0])
    other.value = {'a': jnp.full(2, 10.0), 'b': None}
    np.testing.assert_allclose(f(2.0)['out'], [50.0, 50.0])
    assert float(s.value) == 5.0
    assert not holds_tracer(s.value)


def test_it_traces_twice_with_states_once_without_and_then_never():
    s = State(jnp.zeros(()))

    @transform.jit
    def with_state(x):
        s.value = s.value + x.sum()
        return x

    @transform.jit
    def without(x):
        return x + 1

    for f, first in ((with_state, 2), (without, 1)):
        for _ in range(3):
            f(jnp.ones(2))
        assert f.num_traces == first
        f(jnp.ones(3))
        f(jnp.ones(3))
        f(jnp.ones(2))
        assert f.num_traces == first + 1
        f.clear_cache()
        assert f.num_traces == 0
        f(jnp.ones(2))
        assert f.num_traces == first
    assert float(s.value) == 3 * 2 + 3 + 3 + 2 + 2


def test_a_new_shape_of_a_state_compiles_anew():
    s = State(jnp.ones(2))
    f = transform.jit(lambda: s.value.sum())
    assert f() == 2.0
    s.value = jnp.ones(5)
    assert f() == 5.0
    assert f.num_traces == 3


def test_states_that_only_a_later_signature_reads():
    a, b = State(jnp.array(1.0)), State(jnp.array(2.0))

    @transform.jit
    def f(x):
        if x.ndim:
            b.value = b.value + 1
            return x * b.value
        return x * a.value

    assert f(jnp.array(3.0)) == 3.0
    np.testing.assert_allclose(f(jnp.ones(2)), [3.0, 3.0])
    b.value = jnp.array(10.0)
    for want in (11.0, 12.0, 13.0):
        np.testing.assert_allclose(f(jnp.ones(2)), [want, want])
    a.value = jnp.array(5.0)
    assert f(jnp.array(3.0)) == 15.0
    assert f.num_traces <= 5


def test_a_state_that_is_only_written_need_not_be_an_input():
    s = State(None)
    f = transform.jit(lambda x: setattr(s, 'value', x * 2))
    f(jnp.ones(2))
    np.testing.assert_allclose(s.value, [2.0, 2.0])


class TestStatic:
    @pytest.mark.parametrize(
        'options', [{'static_argnums': 1}, {'static_argnums': (-1,)}, {'static_argnames': 'mode'}], ids=str
    )
    @pytest.mark.parametrize('by', ['position', 'name'])
    def test_by_position_and_by_name(self, options, by):
        a, b = State(2.0), State(3.0)

        @transform.jit(**options)
        def f(x, mode):
            assert isinstance(mode, str)
            return x * (a if mode == 'a' else b).value

        def call(mode):
            return float(f(10.0, mode) if by == 'position' else f(10.0, mode=mode))

        assert [call('a'), call('b'), call('a')] == [20.0, 30.0, 20.0]
        a.value, b.value = 4.0, 5.0
        assert [call('a'), call('b')] == [40.0, 50.0]
        assert f.num_traces == 4

    def test_equal_values_of_other_types_are_other_programs(self):
        f = transform.jit(lambda n: jnp.asarray(n).dtype.name, static_argnums=0)
        g = transform.jit(lambda n: jnp.asarray(n) * 2, static_argnums=0)
        assert (g(1).dtype, g(1.0).dtype) == (jnp.int32, jnp.float32)
        with pytest.raises(TypeError):
            f(1)  # a text is no result of a compiled function, as in JAX

    @pytest.mark.parametrize(
        ('options', 'error', 'match'),
        [
            ({'static_argnums': 5}, ValueError, r'static_argnums=5 is out of range.*2 positional'),
            ({'static_argnums': 0, 'donate_argnums': 0}, ValueError, 'static and donated'),
            ({'nonsense': 0}, TypeError, 'nonsense'),
        ],
    )
    def test_wrong_options(self, options, error, match):
        with pytest.raises(error, match=match):
            transform.jit(lambda x, y: x, **options)

    def test_unhashable(self):
        f = transform.jit(lambda x, options: x, static_argnames='options')
        with pytest.raises(TypeError, match=r"static argument 'options' must be hashable; got list"):
            f(1.0, options=[1])
        with pytest.raises(TypeError, match=r"static argument 1 \('options'\) must be hashable"):
            f(1.0, [1])

    def test_what_is_no_function(self):
        with pytest.raises(TypeError, match='jit needs a function'):
            transform.jit(3)


@pytest.mark.parametrize('options', [{'donate_argnums': 1}, {'donate_argnames': 'y'}], ids=str)
def test_donated_arguments(options):
    s = State(jnp.ones(4))

    @transform.jit(static_argnums=0, **options)
    def f(n, y):
        s.value = s.value + 1
        return y * n + 0 * s.value

    y = jnp.ones(4)
    np.testing.assert_allclose(f(3, y), 3 * np.ones(4))
    assert y.is_deleted()
    np.testing.assert_allclose(s.value, 2 * np.ones(4))


class Counter:
    """Counts."""

    def __init__(self):
        self.n = State(jnp.array(0))
        self.runs = 0

    @transform.jit
    def step(self, by):
        """Count on."""
        self.runs += 1
        self.n.value = self.n.value + by
        return self.n.value

    @transform.jit(static_argnums=0)
    def repeated(self, times):
        for _ in range(times):
            self.n.value = self.n.value + 1

    @staticmethod
    @transform.jit
    def double(x):
        return 2 * x


class TestMethods:
    def test_each_instance_has_its_own_states_and_code(self):
        a, b = Counter(), Counter()
        assert [int(a.step(1)), int(a.step(by=1)), int(b.step(5))] == [1, 2, 5]
        a.step(1)
        assert (a.runs, b.runs) == (3, 2)  # `by` by position and by name are two signatures
        assert a.step.num_traces == 3
        assert isinstance(Counter.step, transform.JitFunction)
        assert a.step.__name__ == 'step'
        assert a.step.__doc__ == 'Count on.'
        assert int(Counter.double(4)) == 8

    def test_static_positions_do_not_count_self(self):
        a = Counter()
        a.repeated(3)
        assert int(a.n.value) == 3

    def test_an_instance_is_freed_with_its_code(self):
        a = Counter()
        a.step(1)
        ref = weakref.ref(a)
        del a
        gc.collect()
        assert ref() is None
        assert not Counter.__dict__['step']._bound

    def test_a_bound_method_keeps_its_instance(self):
        step = Counter().step
        gc.collect()
        assert int(step(3)) == 3

    def test_instances_with_slots(self):
        class Slotted:
            __slots__ = ('s',)

            def __init__(self):
                self.s = State(1.0)

            @transform.jit
            def get(self):
                return self.s.value

        a = Slotted()
        assert a.get() == 1.0
        a.s.value = 2.0
        assert a.get() == 2.0

    def test_copies_start_cold(self):
        a = Counter()
        a.jitted = transform.jit(a.step)
        a.jitted(1)
        b = copy.deepcopy(a)
        b.jitted(10)
        assert (int(a.n.value), int(b.n.value)) == (1, 11)


def test_pickling():
    step = pickle.loads(pickle.dumps(Counter.step))
    assert step is Counter.step
    assert pickle.loads(pickle.dumps(transform.jit(np.sin))).fun is np.sin


def test_names_are_kept():
    @transform.jit
    def f(x):
        """Docs."""

    assert (f.__name__, f.__doc__) == ('f', 'Docs.')
    assert 'test_names_are_kept' in repr(f)


class Lazy:
    def __init__(self, after_a_loop=False):
        self.after_a_loop = after_a_loop

    def step(self, x):
        if self.after_a_loop:
            x = transform.for_loop(lambda y: y, x * jnp.ones(2))[1]
        if not hasattr(self, 'h'):
            self.h = HiddenState(jnp.full(2, 10.0) * x, name='h')
        self.h.value = self.h.value + x
        return self.h.value

    def anew(self, x):
        self.h = HiddenState(jnp.zeros(2))
        return self.step(x)


class TestCreation:
    def test_a_state_created_by_the_first_call_starts_from_its_first_value(self):
        m = Lazy()
        f = transform.jit(m.step)
        for n in range(3):
            np.testing.assert_allclose(f(1.0), np.full(2, 11.0 + n))
            np.testing.assert_allclose(m.h.value, np.full(2, 11.0 + n))
        assert f.num_traces == 3

    @pytest.mark.parametrize(
        'wrap',
        [
            lambda f: lambda x: transform.grad(lambda x: f(x).sum(), return_value=True)(x)[1] / 2,
            lambda f: transform.jit(f),
            lambda f: transform.checkpoint(f),
            lambda f: lambda x: transform.for_loop(f, x * jnp.ones(1))[0],
            lambda f: lambda x: transform.cond(x > 0, f, lambda x: jnp.zeros(2), x),
        ],
        ids=['grad', 'jit', 'checkpoint', 'for_loop', 'cond'],
    )
    @pytest.mark.parametrize('outer', [transform.jit, lambda f: f], ids=['jit', 'eager'])
    def test_also_inside_other_transforms(self, wrap, outer):
        m = Lazy()
        f = outer(wrap(m.step))
        for n in range(3):
            np.testing.assert_allclose(np.broadcast_to(f(1.0), 2), np.full(2, 11.0 + n))
        assert not holds_tracer(m.h.value)

    def test_a_first_value_that_needs_a_loop_cannot_be_found_and_says_so(self):
        m = Lazy(after_a_loop=True)
        with pytest.raises(TraceError, match="'h' has no value: it was created inside a transform"):
            transform.jit(m.step)(1.0)
        m.h.value = jnp.zeros(2)
        np.testing.assert_allclose(transform.jit(m.step)(1.0), np.ones(2))

    def test_a_state_created_by_every_call(self):
        m = Lazy()
        f = transform.jit(m.anew)
        for x in (1.0, 2.0, 3.0):
            np.testing.assert_allclose(f(x), np.full(2, x))
            np.testing.assert_allclose(m.h.value, np.full(2, x))
        assert f.num_traces == 2
        outer = transform.jit(lambda x: f(x) + m.h.value)
        for x in (1.0, 2.0):
            np.testing.assert_allclose(outer(x), np.full(2, 2 * x))
            np.testing.assert_allclose(m.h.value, np.full(2, x))

    def test_states_that_die_with_the_call_cost_nothing(self):
        def f(x):
            local = State(x)
            local.value = local.value * 2
            return local.value

        jitted = transform.jit(f)
        assert [float(jitted(1.0)), float(jitted(2.0))] == [2.0, 4.0]
        assert jitted.num_traces == 1

    def test_created_and_looped_over(self):
        m = Lazy()

        def simulate(xs):
            m.h = HiddenState(jnp.zeros(2))
            return transform.for_loop(m.step, xs)

        f = transform.jit(simulate)
        for _ in range(2):
            np.testing.assert_allclose(f(jnp.arange(3.0))[:, 0], [0.0, 1.0, 3.0])
            np.testing.assert_allclose(m.h.value, [3.0, 3.0])
        assert f.num_traces == 2


class TestNesting:
    def test_an_inner_function_compiles_once_for_all_outer_ones(self):
        s = State(jnp.array(0.0))
        inner = transform.jit(lambda x: setattr(s, 'value', s.value + x))

        @transform.jit
        def outer(x):
            for _ in range(5):
                inner(x)
            return s.value

        assert outer(1.0) == 5.0
        assert outer(1.0) == 10.0
        assert inner.num_traces <= 3
        inner(1.0)
        assert s.value == 11.0
        assert inner.num_traces <= 3

    def test_inside_grad_the_inputs_are_differentiated(self):
        w = ParamState(jnp.array(3.0))
        f = transform.jit(lambda x: w.value**2 * x)
        assert transform.grad(f, w)(2.0) == 12.0
        assert transform.grad(f)(2.0) == 9.0
        assert f(1.0) == 9.0

    def test_random_streams_advance(self):
        rng = random.RandomState(0)
        f = transform.jit(lambda: rng.normal())
        eager = random.RandomState(0)
        assert [float(f()) for _ in range(3)] == [float(eager.normal()) for _ in range(3)]

    def test_plain_jax_around_it(self):
        w, count = State(jnp.array(2.0)), State(0)
        f = transform.jit(lambda x: w.value * x)
        np.testing.assert_allclose(jax.vmap(f)(jnp.arange(3.0)), [0.0, 2.0, 4.0])
        assert jax.grad(f)(1.0) == 2.0
        assert jax.jit(f)(3.0) == 6.0

        @transform.jit
        def g(x):
            count.value = count.value + 1
            w.value = w.value + x
            return x

        g(1.0)
        before = count.value, w.value
        for wrap, x in ((jax.vmap, jnp.ones(2)), (jax.jit, 1.0), (jax.grad, 1.0)):
            with pytest.raises(TraceError, match='traced value'):
                wrap(g)(x)
            assert (count.value, w.value) == before


class TestSettings:
    def test_they_are_static(self):
        @transform.jit
        def f(x):
            return x if environ.get('fit') else -x

        for _ in range(2):
            with environ.context(fit=True):
                assert f(1.0) == 1.0
            with environ.context(fit=False):
                assert f(1.0) == -1.0
        assert f.num_traces == 2

    def test_traced_settings_are_not_kept(self):
        s = State(0.0)

        @transform.jit
        def step(x):
            s.value = s.value + x
            return x * environ.get('t')

        def at(t):
            with environ.context(t=t):
                return step(2.0)

        f = transform.jit(at)
        assert [float(f(3.0)), float(f(4.0)), float(transform.grad(at)(1.0))] == [6.0, 8.0, 2.0]
        assert s.value == 6.0


def only_traced():
    with StateTrace():
        return State(1.0)


def test_no_value_is_named_not_handed_to_jax():
    s = State(1.0, name='lost')
    f = transform.jit(lambda x: s.value * x)
    f(1.0)
    s._value = only_traced()._value
    with pytest.raises(TraceError, match="'lost' has no value"):
        f(1.0)


def test_disable_jit_runs_plain_python():
    s = State(jnp.array(1.0))

    @transform.jit
    def f(x):
        assert isinstance(x, float) or not isinstance(x, jax.core.Tracer)
        s.value = s.value + x
        return s.value

    with jax.disable_jit():
        assert [float(f(jnp.array(1.0))), float(f(jnp.array(1.0)))] == [2.0, 3.0]


def test_quantities_and_keys_as_values():
    v = State(1.0 * u.mV)
    key = State(jax.random.key(0))

    @transform.jit
    def f(x):
        v.value = v.value + x
        key.value, sub = jax.random.split(key.value)
        return jax.random.normal(sub) * u.mV + v.value

    f(2.0 * u.mV)
    out = f(2.0 * u.mV)
    assert v.value / u.mV == pytest.approx(5.0)
    assert out.unit == u.mV
    want = jax.random.key_data(jax.random.split(jax.random.split(jax.random.key(0))[0])[0])
    np.testing.assert_array_equal(jax.random.key_data(key.value), want)


def test_double_precision_is_another_signature():
    s = State(np.float64(1.5))
    f = transform.jit(lambda: s.value * 2)
    assert f().dtype == jnp.float32
    with jax.enable_x64(True):
        assert f().dtype == jnp.float64
    assert f().dtype == jnp.float32


def test_threads_do_not_see_each_other():
    states = [State(jnp.zeros(2), name=str(n)) for n in range(4)]
    shared = State(jnp.array(1.0))
    gate = threading.Barrier(len(states))
    failures = []

    @transform.jit(static_argnums=0)
    def step(n, x):
        gate.wait(timeout=60)  # all threads are inside their trace now
        assert not holds_tracer(states[n - 1]._value)
        states[n].value = states[n].value + x * shared.value
        gate.wait(timeout=60)
        return states[n].value

    def run(n):
        try:
            for _ in range(5):
                out = step(n, float(n))
            assert current_trace() is None
            np.testing.assert_allclose(out, np.full(2, 5.0 * n))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(states))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    for n, s in enumerate(states):
        np.testing.assert_allclose(s.value, np.full(2, 5.0 * n))


def test_lower_shows_the_program():
    s = State(jnp.ones(3))
    f = transform.jit(lambda x: jnp.sin(s.value * x))
    assert 'sine' in f.lower(2.0).as_text()
