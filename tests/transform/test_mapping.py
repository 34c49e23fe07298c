"""vmap and its kin: which States have a value for every lane, random streams, new States, devices."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, ParamState, State, catch_new_states, random, transform
from brainstate_prob.core.state import holds_tracer

LANES = 3


def test_shared_states_are_read_and_per_lane_ones_sliced():
    w, h = ParamState(2.0), State(jnp.arange(3.0))

    @transform.vmap(in_states=h)
    def f(x):
        h.value = h.value + w.value * x
        return h.value

    np.testing.assert_allclose(f(jnp.ones(LANES)), [2.0, 3.0, 4.0])
    np.testing.assert_allclose(h.value, [2.0, 3.0, 4.0])
    assert w.value == 2.0


@pytest.mark.parametrize('spec', ['state', 'list', 'dict', 'axis', 'axes'])
def test_what_in_states_takes(spec):
    a, b = State(jnp.ones((4, LANES))), State(jnp.ones((LANES, 2)))

    def f(x):
        a.value = a.value * x
        b.value = b.value + x
        return a.value.sum()

    if spec == 'axes':
        in_states = {1: [a], 0: {'b': b}}
    else:
        a.value = a.value.T
        in_states = {'state': None, 'list': [a, b], 'dict': {'a': a, ('b', 0): b}, 'axis': {0: [a, b]}}[spec] or [a, b]
    x = jnp.arange(1.0, 1.0 + LANES)
    np.testing.assert_allclose(transform.vmap(f, in_states=in_states)(x), 4 * x)
    np.testing.assert_allclose(b.value, np.ones((LANES, 2)) + np.asarray(x)[:, None])
    shape = (4, LANES) if spec == 'axes' else (LANES, 4)
    assert a.value.shape == shape


def test_out_states_get_an_axis():
    s, t = State(1.0), State(jnp.ones(2))

    def f(x):
        s.value = s.value + x
        t.value = t.value * x

    transform.vmap(f, out_states={0: [s], 1: [t]})(jnp.arange(3.0))
    np.testing.assert_allclose(s.value, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(t.value, [[0.0, 1.0, 2.0]] * 2)


def test_positions_and_axes_are_not_mixed_up():
    a, b = State(1.0), State(2.0)
    with pytest.raises(ValueError, match=r'in_states=.*could mean axes or positions.*\{1: \[state\]\}'):
        transform.vmap(lambda x: x, in_states={0: a, 1: b})
    with pytest.raises(ValueError, match='both axis 0 and axis 1'):
        transform.vmap(lambda x: x, in_states={0: [a], 1: [a]})
    with pytest.raises(TypeError, match='out_states takes a State'):
        transform.vmap(lambda x: x, out_states=[1.0])


@pytest.mark.parametrize(
    'wrap',
    [
        lambda f: f,
        transform.jit,
        lambda f: lambda x: transform.vmap(lambda y: f(x * y), axis_size=2)(jnp.ones(2)),
        lambda f: lambda x: transform.grad(lambda y: f(y * x).sum())(2.0),
    ],
    ids=['eager', 'jit', 'vmap', 'grad'],
)
def test_a_shared_state_that_would_differ_from_lane_to_lane_is_an_error_that_names_it(wrap):
    total, count = State(jnp.zeros(()), name='total'), State(jnp.zeros((), int))

    def f(x):
        count.value = count.value + 1
        total.value = total.value + x.sum()
        return x

    with pytest.raises(ValueError, match=r"State 'total' got a value that differs from lane to lane.*out_states"):
        wrap(transform.vmap(f))(jnp.ones(LANES))
    assert (float(total.value), int(count.value)) == (0.0, 0)


def test_an_unmapped_write_is_kept():
    count = State(jnp.zeros((), int))

    def f(x):
        count.value = count.value + 1
        return x

    nested = transform.vmap(transform.vmap(f))
    nested(jnp.ones((2, 2)))
    assert int(count.value) == 1
    transform.jit(nested)(jnp.ones((2, 2)))
    assert int(count.value) == 2
    transform.vmap(lambda x: setattr(count, 'value', jax.lax.psum(x, 'i')), axis_name='i')(jnp.arange(4))
    assert int(count.value) == 6


class TestRandomStreams:
    @pytest.mark.parametrize(
        'wrap',
        [
            lambda f: f,
            transform.jit,
            lambda f: transform.jit(transform.jit(f)),
            transform.checkpoint,
        ],
        ids=['plain', 'jit', 'jit-jit', 'checkpoint'],
    )
    def test_lanes_draw_with_keys_of_their_own_and_the_stream_moves_on_by_one_split(self, wrap):
        rng = random.RandomState(0)
        kept, sub = jax.random.split(jax.random.PRNGKey(0))

        def lane(x):
            return rng.normal() + 0 * x, rng.normal()

        first, second = transform.vmap(wrap(lane))(jnp.zeros(LANES))
        np.testing.assert_array_equal(rng.value, kept)
        for i in range(LANES):
            own = random.RandomState(jax.random.fold_in(sub, i))
            np.testing.assert_allclose([first[i], second[i]], [own.normal(), own.normal()], rtol=1e-6)

    @pytest.mark.parametrize(
        'wrap',
        [
            lambda f: transform.vmap(f),
            lambda f: transform.jit(transform.vmap(f)),
            lambda f: transform.vmap(transform.vmap(f), in_axes=None, axis_size=2),
            lambda f: transform.vmap(lambda x: transform.for_loop(lambda: f(x), length=2)),
            lambda f: transform.vmap(lambda x: transform.cond(x < 9, f, lambda x: x, x)),
            lambda f: transform.vmap(lambda x: transform.grad(lambda y: f(y) * y)(x)),
            lambda f: lambda xs: transform.for_loop(lambda: transform.vmap(f)(xs), length=2),
        ],
        ids=['vmap', 'jit', 'vmap-vmap', 'for_loop', 'cond', 'grad', 'for-vmap'],
    )
    def test_all_draws_of_a_nest_differ_and_no_tracer_stays(self, wrap):
        rng = random.RandomState(1)
        draws = np.ravel(wrap(lambda x: rng.uniform() + 0 * x)(jnp.arange(3.0)))
        assert len(np.unique(draws)) == draws.size
        assert not holds_tracer(rng.value)
        before = rng.value
        assert not np.intersect1d(draws, np.ravel(wrap(lambda x: rng.uniform() + 0 * x)(jnp.arange(3.0)))).size
        assert not np.array_equal(before, rng.value)

    def test_a_stream_that_only_a_later_signature_reads(self):
        rng = random.RandomState(0)
        f = transform.jit(lambda x: x + (rng.normal() if x.ndim else 0.0))
        f(jnp.zeros(()))
        out = transform.vmap(f)(jnp.zeros((LANES, 2)))
        assert len(np.unique(out)) == LANES
        assert not holds_tracer(rng.value)

    def test_a_stream_may_be_given_lane_by_lane(self):
        rng = random.RandomState(0)
        rng.value = jax.random.split(jax.random.PRNGKey(5), LANES)
        out = transform.vmap(lambda: rng.normal(), in_states=rng)()
        for i, key in enumerate(jax.random.split(jax.random.PRNGKey(5), LANES)):
            np.testing.assert_allclose(out[i], random.RandomState(key).normal(), rtol=1e-6)
        assert rng.value.shape == (LANES, 2)

    def test_typed_keys(self):
        rng = random.RandomState(jax.random.key(0))
        out = transform.vmap(lambda x: rng.normal() + x)(jnp.zeros(LANES))
        assert len(np.unique(out)) == LANES


class TestNewStates:
    def test_they_get_an_axis(self):
        made = []

        def f(x):
            made.append(HiddenState(x * jnp.ones(2)))
            made.append(HiddenState(jnp.zeros(2)))
            return x

        transform.vmap(f)(jnp.arange(3.0))
        np.testing.assert_allclose(made[0].value, [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
        assert made[1].value.shape == (3, 2)

    def test_tags_and_exclusion(self):
        with catch_new_states() as new:

            def make():
                State(random.randn(2))
                ParamState(jnp.ones(2))

            transform.vmap_new_states(make, axis_size=4, state_tag='batch', state_to_exclude=ParamState)()
        a, b = new
        assert (a.value.shape, b.value.shape) == ((4, 2), (2,))
        assert (a.tag, b.tag) == ('batch', None)
        assert len(np.unique(a.value)) == 8

    def test_an_excluded_one_must_be_the_same_for_all(self):
        keep = []
        with pytest.raises(ValueError, match='differs from lane to lane'):
            transform.vmap_new_states(lambda x: keep.append(State(x)), state_to_exclude=State)(jnp.ones(2))


class TestMethodsAndArguments:
    class Model:
        def __init__(self):
            self.w = ParamState(2.0)

        @transform.vmap
        def plain(self, x):
            return self.w.value * x

        @transform.vmap(in_axes=[0, None], out_axes=-1)
        def outer(self, x, y, *, z):
            return x * y + z

    def test_methods(self):
        m = self.Model()
        np.testing.assert_allclose(m.plain(jnp.arange(3.0)), [0.0, 2.0, 4.0])
        assert m.outer(jnp.ones(3), jnp.ones(2), z=jnp.zeros(3)).shape == (2, 3)

    def test_only_states(self):
        h = State(jnp.arange(4.0))
        np.testing.assert_allclose(transform.vmap(lambda: h.value**2, in_states=h)(), [0.0, 1.0, 4.0, 9.0])

    def test_units(self):
        v = State(jnp.arange(2.0) * u.mV)
        out = transform.vmap(lambda x: v.value + x, in_states=v)(jnp.ones(2) * u.volt)
        np.testing.assert_allclose(out.to_decimal(u.mV), [1000.0, 1001.0])


class TestFilters:
    def test_states_by_filter(self):
        h, w, seen = HiddenState(jnp.zeros((2, LANES))), ParamState(2.0), State(None, tag='log')

        @transform.vmap2(state_in_axes={1: HiddenState}, state_out_axes={0: 'log'})
        def step(x):
            h.value = h.value + w.value * x
            seen.value = h.value.sum()
            return x

        step(jnp.arange(3.0))
        np.testing.assert_allclose(h.value, [[0.0, 2.0, 4.0]] * 2)
        np.testing.assert_allclose(seen.value, [0.0, 4.0, 8.0])
        transform.jit(step)(jnp.ones(3))
        np.testing.assert_allclose(h.value, [[2.0, 4.0, 6.0]] * 2)

    def test_random_states_inside(self):
        rng = random.RandomState(0)
        h = HiddenState(jnp.zeros(LANES))

        @transform.vmap2(state_in_axes=HiddenState)
        def step():
            h.value = h.value + rng.normal()

        step()
        assert len(np.unique(h.value)) == LANES

    def test_new_states_of_a_module(self):
        class Net:
            def init_all_states(self, size):
                self.h = HiddenState(random.randn(size))
                self.c = State(jnp.zeros(size))

        net = Net()
        created = transform.vmap2_new_states(net, {'size': 2}, 'new', axis_size=4, state_out_axes={1: HiddenState})
        assert created == {1: [net.h], 0: [net.c]}
        assert (net.h.value.shape, net.c.value.shape, net.h.tag) == ((2, 4), (4, 2), 'new')
        assert transform.pmap2_new_states(net, {'size': 2}, axis_size=2) == {0: [net.h, net.c]}
        with pytest.raises(ValueError, match='axis_size is needed'):
            transform.vmap2_new_states(net)

    def test_wrong_axes(self):
        with pytest.raises(TypeError, match='int axes'):
            transform.vmap2(lambda x: x, state_in_axes={'x': State})


class TestDevices:
    def test_lanes_are_spread(self):
        n = 2 * jax.device_count()
        w, count = ParamState(jnp.array(3.0)), State(jnp.zeros((), int))

        @transform.pmap2(in_axes=(0, None))
        def f(x, y):
            count.value = count.value + 1
            return w.value * x + y

        for k in range(2):
            out = f(jnp.arange(float(n)), 1.0)
            np.testing.assert_allclose(out, 3.0 * np.arange(n) + 1)
            assert int(count.value) == k + 1
        assert len(out.sharding.device_set) == jax.device_count()

    @pytest.mark.skipif('jax.device_count() < 2')
    def test_lanes_that_cannot_be_spread(self):
        with pytest.raises(ValueError, match='lanes cannot be spread evenly over'):
            transform.pmap2(lambda x: x)(jnp.ones(jax.device_count() + 1))
        one = transform.pmap2(lambda x: x + 1, devices=jax.devices()[:1])
        np.testing.assert_allclose(one(jnp.ones(3)), 2 * np.ones(3))

    def test_methods(self):
        class Model:
            def __init__(self, w):
                self.w = State(w)

            @transform.pmap2
            def f(self, x):
                return self.w.value * x

        x = jnp.ones(jax.device_count())
        np.testing.assert_allclose(Model(2.0).f(x), 2 * x)
        np.testing.assert_allclose(Model(3.0).f(x), 3 * x)
