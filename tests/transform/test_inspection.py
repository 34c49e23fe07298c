"""StateFinder, eval_shape, make_jaxpr, checkpoint, and the pure functions under them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, ParamState, State, random, transform
from brainstate_prob.core import StateTrace, current_trace
from brainstate_prob.core.functionalize import Discovery, Pure
from brainstate_prob.transform import StateFinder


class TestStateFinder:
    def setup_method(self):
        self.w = ParamState(jnp.array(2.0), name='w')
        self.h = HiddenState(jnp.array(0.0), tag='hidden')
        self.log = State(None)

    def fun(self, x, train=True, mode='fast'):
        assert (train, mode) == (True, 'fast')
        local = State(x)
        self.h.value = transform.for_loop(lambda y: self.w.value * y, x).sum() + self.h.value
        self.log.value = local.value
        return self.h.value

    @pytest.mark.parametrize(('usage', 'want'), [('all', 'whl'), ('read', 'wh'), ('write', 'hl')])
    @pytest.mark.parametrize('return_type', ['dict', 'list', 'tuple'])
    def test_what_is_used_in_order(self, usage, want, return_type):
        found = StateFinder(self.fun, usage=usage, return_type=return_type)(jnp.ones(3), True, mode='fast')
        states = [{'w': self.w, 'h': self.h, 'l': self.log}[k] for k in want]
        assert found == {'dict': dict(enumerate(states)), 'list': states, 'tuple': tuple(states)}[return_type]
        assert (self.w.value, self.h.value, self.log.value) == (2.0, 0.0, None)
        assert current_trace() is None

    def test_both_and_filters_and_keys(self):
        both = StateFinder(self.fun, usage='both', return_type='list')(jnp.ones(3))
        assert both == {'read': [self.w, self.h], 'write': [self.h, self.log]}
        assert StateFinder(self.fun, ParamState)(jnp.ones(3)) == {0: self.w}
        assert StateFinder(self.fun, 'hidden')(jnp.ones(3)) == {0: self.h}
        key = lambda index, state: state.name or f's{index}'
        assert StateFinder(self.fun, key_fn=key)(jnp.ones(3)) == {'w': self.w, 's1': self.h, 's2': self.log}
        with pytest.raises(ValueError, match='same key'):
            StateFinder(self.fun, key_fn=lambda index, state: 'same')(jnp.ones(3))

    def test_shapes_stand_for_arrays(self):
        assert len(StateFinder(self.fun)(jax.ShapeDtypeStruct((3,), jnp.float32))) == 3

    @pytest.mark.parametrize(
        ('options', 'match'),
        [
            ({'usage': 'some'}, 'usage must be one of all, read, write, both'),
            ({'return_type': 'set'}, 'return_type must be'),
        ],
    )
    def test_wrong_options(self, options, match):
        with pytest.raises(ValueError, match=match):
            StateFinder(self.fun, **options)


def test_eval_shape_computes_and_writes_nothing():
    s = State(jnp.ones(2))

    def f(x, *, scale):
        s.value = s.value[0] * x
        return s.value * scale

    out, written = transform.eval_shape(f, jax.ShapeDtypeStruct((5,), jnp.float32), scale=2.0, return_state_shapes=True)
    assert out.shape == written[s].shape == (5,)
    assert s.value.tolist() == [1.0, 1.0]


def test_make_jaxpr():
    a, b = State(jnp.ones(2)), State(jnp.array(1.0))

    def f(x, mode, y):
        assert mode == 'm'
        a.value = a.value * x + y
        return b.value * x

    jaxpr, states, shapes = transform.make_jaxpr(f, static_argnums=1, return_shape=True)(3.0, 'm', 4.0)
    assert states == (a, b)
    assert shapes.shape == ()
    assert [aval.shape for aval in jaxpr.in_avals] == [(2,), (), (), ()]
    assert [aval.shape for aval in jaxpr.out_avals] == [(), (2,)]
    assert a.value.tolist() == [1.0, 1.0]


class TestCheckpoint:
    def test_values_gradients_and_writes(self):
        w, count, rng = ParamState(jnp.array(2.0)), State(0), random.RandomState(0)

        @transform.checkpoint(static_argnums=(1,))
        def f(x, mode):
            assert mode == 'sin'
            count.value = count.value + 1
            return jnp.sin(w.value * x) + 0 * rng.normal()

        before = rng.value
        of_w, of_x = transform.grad(f, w, 0)(3.0, 'sin')
        np.testing.assert_allclose([of_w, of_x], [3 * np.cos(6.0), 2 * np.cos(6.0)], rtol=1e-6)
        assert int(count.value) == 1
        assert not np.array_equal(rng.value, before)
        assert transform.remat is transform.checkpoint

    def test_it_computes_again(self):
        w = ParamState(jnp.ones(()))
        count = lambda f: str(jax.make_jaxpr(lambda x: jax.vjp(f, x)[1](1.0))(1.0)).count(' sin ')
        plain = lambda x: jnp.sin(jnp.sin(w.value * x))
        assert count(transform.checkpoint(plain)) > count(plain)

    def test_methods(self):
        class Layer:
            w = ParamState(jnp.array(3.0))

            @transform.checkpoint
            def f(self, x):
                return self.w.value * x

        assert float(transform.grad(Layer().f)(1.0)) == 3.0


class TestPure:
    def test_states_are_numbered_inputs_first(self):
        a, b, c = State(1), State(2), State(3)

        def f(x):
            c.value = 30
            b.value = a.value + b.value + x
            return 'out'

        pure = Pure(f, [a, b])
        assert pure([10, 20], 5) == ('out', {2: 30, 1: 35}, {})
        assert (a.value, b.value, c.value) == (1, 2, 3)
        assert not pure.outside
        pure.commit({2: 30, 1: 35}, {})
        assert (a.value, b.value, c.value) == (1, 35, 30)

    def test_what_is_missing_is_seen(self):
        a, b = State(1), State(2)
        pure = Pure(lambda: a.value + b.value, [a])
        assert pure([10])[0] == 12
        assert list(pure.outside) == [b]

    def test_created_states_only_if_they_outlive_the_run(self):
        keep = []

        def f():
            State(1)
            keep.append(State(2))
            keep[0].value = 3

        pure = Pure(f)
        _, _, created = pure([])
        assert created == {0: (2, 3)}
        pure.commit({}, created)
        assert keep[0].value == 3

    def test_a_discovery_runs_once_and_knows_first_values(self):
        runs, keep = [], []

        def f(x):
            runs.append(1)
            keep.append(State(x * 2))
            keep[-1].value = keep[-1].value + 1
            return x

        found = Discovery(f, jnp.ones(2))
        assert found.out.shape == (2,)
        assert found.init_created() == keep
        np.testing.assert_allclose(keep[0].value, [2.0, 2.0])
        assert len(runs) == 1
        assert found.init_created() == []

    def test_in_an_outer_trace_it_writes_there(self):
        s = State(1)
        pure = Pure(lambda: setattr(s, 'value', s.value + 1))
        with StateTrace() as outer:
            _, written, created = pure([])
            pure.commit(written, created)
            assert s.value == 2
        assert list(outer.writes) == [s]
        assert s.value == 1
