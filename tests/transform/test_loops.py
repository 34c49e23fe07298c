"""Loops and branches over States: against Python, types kept, errors that name the State."""

import io

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import State, random, transform
from brainstate_prob.core import current_trace
from brainstate_prob.core.state import holds_tracer


def moving(state):
    def step(x):
        state.value = 0.5 * state.value + x
        return state.value * 2

    return step


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('unroll', [1, 2])
@pytest.mark.parametrize('wrap', [lambda f: f, transform.jit], ids=['eager', 'jit'])
@pytest.mark.parametrize('steps', [0, 1, 5])
def test_for_loop_is_a_loop(steps, wrap, unroll, reverse, x64):
    s, t = State(jnp.array(1.0)), State(jnp.array(1.0))
    xs = jnp.arange(float(steps))
    out = wrap(lambda xs: transform.for_loop(moving(s), xs, reverse=reverse, unroll=unroll))(xs)
    want = [moving(t)(x) for x in (xs[::-1] if reverse else xs)]
    np.testing.assert_allclose(out, want[::-1] if reverse else want)
    np.testing.assert_allclose(s.value, t.value)


def test_several_arrays_pytrees_and_units():
    s = State(0.0 * u.mV)

    def step(x, y):
        s.value = s.value + x['a'] * u.mV
        return {'v': s.value, 'y': y}

    out = transform.for_loop(step, {'a': jnp.arange(3.0)}, jnp.ones((3, 2)) * u.ms)
    np.testing.assert_allclose(out['v'].to_decimal(u.mV), [0.0, 1.0, 3.0])
    assert (out['y'].shape, out['y'].unit) == ((3, 2), u.ms)
    out = transform.for_loop(lambda: moving(State(0.0))(1.0), length=3)
    np.testing.assert_allclose(out, [2.0, 2.0, 2.0])


def test_scan_threads_a_carry_and_counts_with_a_python_number():
    count = State(0)

    def body(carry, x):
        count.value = count.value + 1
        return {'sum': carry['sum'] + x}, count.value

    last, ys = transform.scan(body, {'sum': 0}, jnp.arange(4.0))
    assert (float(last['sum']), int(count.value), ys.tolist()) == (6.0, 4, [1, 2, 3, 4])
    last, ys = transform.scan(lambda c, _: (c + 1, None), 0, length=5)
    assert (int(last), ys) == (5, None)


def test_while_loop_reads_states_in_the_condition():
    n, limit = State(0), State(5)

    def body(x):
        n.value = n.value + 1
        return x * 2

    for wrap in (lambda f: f, transform.jit):
        n.value = 0
        assert float(wrap(lambda x: transform.while_loop(lambda x: n.value < limit.value, body, x))(1.0)) == 32.0
        assert int(n.value) == 5


def test_a_condition_may_not_write():
    n = State(0, name='n')

    def test(x):
        n.value = n.value + 1
        return x < 3

    with pytest.raises(ValueError, match="condition of a while_loop writes State 'n'"):
        transform.while_loop(test, lambda x: x + 1, 0)
    rng = random.RandomState(0)
    with pytest.raises(ValueError, match='condition of a while_loop writes RandomState'):
        transform.while_loop(lambda x: rng.uniform() < 0.5, lambda x: x, 0)


class TestRandomStreams:
    def test_they_advance_as_in_python(self):
        a, b = random.RandomState(0), random.RandomState(0)
        draws = transform.for_loop(lambda _: a.normal(), jnp.arange(4))
        np.testing.assert_allclose(draws, [b.normal() for _ in range(4)], rtol=1e-6)
        np.testing.assert_array_equal(a.value, b.value)

    def test_in_branches(self):
        rng = random.RandomState(0)
        before = rng.value
        transform.cond(False, lambda: rng.normal(), lambda: 0.0)
        np.testing.assert_array_equal(rng.value, before)
        transform.cond(True, lambda: rng.normal(), lambda: 0.0)
        assert not np.array_equal(rng.value, before)


class Holder:
    pass


class TestCreation:
    def test_created_by_the_first_step(self):
        h = Holder()

        def step(x):
            if not hasattr(h, 's'):
                h.s = State(10 * x, name='s')
            h.s.value = h.s.value + x
            return h.s.value

        np.testing.assert_allclose(transform.for_loop(step, jnp.arange(1.0, 4.0)), [11.0, 13.0, 16.0])
        assert float(h.s.value) == 16.0

    @pytest.mark.parametrize('wrap', [lambda f: f, transform.jit], ids=['eager', 'jit'])
    @pytest.mark.parametrize('loop', ['for', 'while'])
    def test_created_by_every_step(self, loop, wrap):
        h = Holder()

        def step(x):
            h.s = State(jnp.zeros(2))
            h.rng = random.RandomState(3)
            h.s.value = h.s.value + x + 0 * h.rng.normal()
            return x + 1

        def run(x):
            if loop == 'for':
                return transform.for_loop(step, x + jnp.arange(3.0))[-1]
            return transform.while_loop(lambda y: y < x + 3, step, x)

        f = wrap(run)
        for start in (0.0, 5.0):
            assert float(f(start)) == start + 3
            np.testing.assert_allclose(h.s.value, [start + 2.0] * 2)
            assert not holds_tracer((h.s.value, h.rng.value))

    def test_created_by_one_branch(self):
        h = Holder()

        def make(x):
            h.s = State(x, name='lonely')
            return x

        with pytest.raises(Exception, match="branch creates State 'lonely', which the others do not. Create it before"):
            transform.cond(True, make, lambda x: x, 1.0)


class TestBranches:
    def test_cond_writes_what_the_taken_branch_writes(self):
        a, b = State(1.0), State(jnp.array([1.0, 2.0]))

        def left(x):
            a.value = a.value + x
            return x

        def right(x):
            b.value = b.value * a.value
            return -x

        for wrap in (lambda f: f, transform.jit):
            a.value, b.value = 1.0, jnp.array([1.0, 2.0])
            f = wrap(lambda p: transform.cond(p, left, right, 10.0))
            assert float(f(True)) == 10.0
            assert (float(a.value), b.value.tolist()) == (11.0, [1.0, 2.0])
            assert float(f(False)) == -10.0
            assert (float(a.value), b.value.tolist()) == (11.0, [11.0, 22.0])

    @pytest.mark.parametrize(('index', 'want'), [(0, 1), (2, 3), (5, 3), (-4, 1)])
    def test_switch(self, index, want):
        s = State(0)
        transform.switch(index, [lambda n=n: setattr(s, 'value', n) for n in (1, 2, 3)])
        assert int(s.value) == want

    @pytest.mark.parametrize(('x', 'want'), [(5.0, 1), (1.5, 2), (0.5, 3), (-1.0, 4)])
    @pytest.mark.parametrize('with_else', ['one less', 'True', 'exclusive'])
    def test_ifelse_takes_the_first_true_one(self, with_else, x, want):
        s = State(0)
        branches = [lambda n=n: setattr(s, 'value', n) or n for n in (1, 2, 3, 4)]

        def f(x):
            last = {'one less': [], 'True': [True], 'exclusive': [x <= 0]}[with_else]
            return transform.ifelse([x > 2, x > 1, x > 0, *last], branches)

        assert int(f(x)) == want
        assert int(transform.jit(f)(x)) == want
        assert int(s.value) == want
        assert transform.vmap(f, out_states=s)(jnp.array([x, 5.0])).tolist() == [want, 1]

    @pytest.mark.parametrize(
        ('call', 'match'),
        [
            (lambda: transform.switch(0, []), 'at least one branch'),
            (lambda: transform.ifelse([], []), 'one condition per branch'),
            (lambda: transform.ifelse([True] * 3, [lambda: 1]), 'got 3 conditions and 1 branches'),
            (lambda: transform.ifelse([jnp.ones(2, bool)], [lambda: 1, lambda: 2]), 'Condition 0 of ifelse must be a'),
        ],
    )
    def test_wrong_calls(self, call, match):
        with pytest.raises(ValueError, match=match):
            call()

    def test_python_numbers_take_the_type_that_a_branch_writes(self):
        s = State(0)
        transform.cond(False, lambda: setattr(s, 'value', jnp.float32(1.5)), lambda: None)
        assert (s.value.dtype, float(s.value)) == (jnp.float32, 0.0)
        transform.cond(True, lambda: setattr(s, 'value', 2.5), lambda: setattr(s, 'value', jnp.float32(1.5)))
        assert float(s.value) == 2.5


class TestErrors:
    @pytest.mark.parametrize(
        'loop',
        [
            lambda f: transform.for_loop(lambda _: f(), jnp.arange(2)),
            lambda f: transform.scan(lambda c, _: (c, f()), 0, jnp.arange(2)),
            lambda f: transform.while_loop(lambda x: x < 2, lambda x: f() or x + 1, 0),
            lambda f: transform.jit(lambda: transform.for_loop(lambda _: f(), jnp.arange(2)))(),
        ],
        ids=['for_loop', 'scan', 'while_loop', 'jit'],
    )
    @pytest.mark.parametrize(
        ('new', 'old'),
        [
            (jnp.ones(3), 'float32[2]'),
            (jnp.ones(2, int), 'float32[2]'),
            ({'a': jnp.ones(2)}, 'float32[2]'),
        ],
        ids=['shape', 'type', 'structure'],
    )
    def test_a_state_that_changes_its_kind_in_a_loop_is_named(self, loop, new, old):
        s = State(jnp.ones(2), name='drifting')
        with pytest.raises(TypeError) as error:
            loop(lambda: setattr(s, 'value', new))
        assert "State 'drifting' has float32[2] before and" in str(error.value)
        assert s.value.tolist() == [1.0, 1.0]
        assert current_trace() is None

    def test_branches_that_leave_different_kinds(self):
        s = State(jnp.ones(2), name='drifting')
        write = lambda value: lambda: setattr(s, 'value', value)
        listing = r"'drifting'.*false_fun: float32\[2\] \(not written\); true_fun: float32\[3\]"
        with pytest.raises(TypeError, match=listing):
            transform.cond(True, write(jnp.ones(3)), lambda: None)
        with pytest.raises(TypeError, match=r'branch 0: float32\[2\].*branch 1: int32\[2\]'):
            transform.switch(0, [write(jnp.ones(2)), write(jnp.ones(2, int))])

    @pytest.mark.parametrize(
        ('call', 'error', 'match'),
        [
            (
                lambda: transform.for_loop(lambda x: x, jnp.ones(2), jnp.ones(3)),
                ValueError,
                r'leading size; got \[2, 3\]',
            ),
            (lambda: transform.for_loop(lambda x: x, jnp.ones(2), length=3), ValueError, r'leading size; got \[2, 3\]'),
            (lambda: transform.for_loop(lambda x: x, 3.0), ValueError, 'one of them is a scalar'),
            (lambda: transform.for_loop(lambda: 1), ValueError, 'needs arrays to run over, or length='),
            (lambda: transform.scan(lambda c, x: c, jnp.zeros(3), jnp.ones(2)), TypeError, r'must return \(carry, y\)'),
            (lambda: transform.scan(3, 0, jnp.ones(2)), TypeError, 'scan needs a function'),
            (lambda: transform.cond(True, 1, lambda: 2), TypeError, 'true_fun needs a function'),
            (
                lambda: transform.for_loop(lambda x: x, jnp.ones(2), pbar='yes'),
                TypeError,
                'pbar takes a ProgressBar or an',
            ),
        ],
    )
    def test_wrong_calls(self, call, error, match):
        with pytest.raises(error, match=match):
            call()


def test_disable_jit_runs_python():
    s = State(jnp.array(0.0))

    def step(x):
        s.value = s.value + (x if x > 0 else -x)
        return s.value

    with jax.disable_jit():
        assert transform.for_loop(step, jnp.array([1.0, -2.0])).tolist() == [1.0, 3.0]
        assert transform.for_loop(step, jnp.array([1.0, -2.0]), reverse=True).tolist() == [6.0, 5.0]
        assert float(transform.while_loop(lambda x: x < 2, lambda x: x + 1, 0.0)) == 2.0
        transform.cond(True, lambda: setattr(s, 'value', 9.0), lambda: None)
        with pytest.raises(ValueError, match='no steps'):
            transform.for_loop(step, jnp.zeros(0))
    assert s.value == 9.0


class TestProgress:
    @pytest.mark.parametrize('wrap', [lambda f: f, transform.jit], ids=['eager', 'jit'])
    @pytest.mark.parametrize(
        ('steps', 'options'),
        [
            (100, {'freq': 7}),
            (100, {'count': 4}),
            (1, {}),
            (50, {'freq': 1000}),
        ],
    )
    def test_a_bar_runs_to_its_end_every_time(self, wrap, steps, options):
        out = io.StringIO()
        bar = transform.ProgressBar(desc='fit', file=out, mininterval=0, **options)
        f = wrap(lambda xs: transform.for_loop(lambda x: x + 1, xs, pbar=bar))
        for n in range(1, 3):
            np.testing.assert_allclose(f(jnp.arange(float(steps))), np.arange(steps) + 1)
            jax.effects_barrier()
            assert out.getvalue().count('\n') == n
        assert f'{steps}/{steps}' in out.getvalue()
        assert 'fit' in out.getvalue()

    def test_under_vmap_and_grad(self):
        out = io.StringIO()
        bar = transform.ProgressBar(freq=5, file=out)
        f = lambda w: transform.for_loop(lambda x: w * x, jnp.arange(10.0), pbar=bar).sum()
        assert float(transform.grad(f)(2.0)) == 45.0
        np.testing.assert_allclose(transform.vmap(f)(jnp.ones(2)), [45.0, 45.0])
        jax.effects_barrier()
        assert '10/10' in out.getvalue()

    def test_it_is_closed_when_the_loop_fails(self):
        out = io.StringIO()
        bar = transform.ProgressBar(freq=1, file=out, mininterval=0)

        def body(x):
            def check(x):
                if x > 3:
                    raise RuntimeError('stop here')

            jax.debug.callback(check, x, ordered=True)
            return x

        with pytest.raises(Exception, match='stop here'):
            transform.for_loop(body, jnp.arange(10), pbar=bar)
            jax.effects_barrier()
        assert out.getvalue().endswith('\n')

    def test_an_int_is_the_number_of_steps(self, capsys):
        transform.scan(lambda c, x: (c + x, None), 0.0, jnp.ones(10), pbar=3)
        assert '10/10' in capsys.readouterr().err

    @pytest.mark.parametrize(
        ('options', 'error'),
        [
            ({'freq': 0}, ValueError),
            ({'count': -1}, ValueError),
            ({'freq': 1, 'count': 1}, ValueError),
            ({'freq': True}, ValueError),
            ({'desc': 3}, TypeError),
        ],
        ids=str,
    )
    def test_wrong_options(self, options, error):
        with pytest.raises(error):
            transform.ProgressBar(**options)
