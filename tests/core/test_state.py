"""State, its kinds, and what is caught of it."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import (
    BatchState,
    DelayState,
    HiddenState,
    LongTermState,
    ParamState,
    ShortTermState,
    State,
    StateTrace,
    TraceError,
    catch_new_states,
    maybe_state,
)
from brainstate_prob.core import all_of, any_of, current_trace, not_, to_predicate

KINDS = [State, ShortTermState, LongTermState, ParamState, HiddenState, BatchState, DelayState]


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_keeps_its_type_name_tag_and_metadata(kind):
    state = kind(jnp.ones(2), name='s', tag='t', axis='time')
    for other in (state.copy(), state.replace(jnp.ones(2)), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert (type(other), other.name, other.tag, other.metadata) == (kind, 's', 't', {'axis': 'time'})
        np.testing.assert_array_equal(other.value, np.ones(2))
        other.value = 0.0
        assert state.value.shape == (2,)
    assert repr(state).startswith(f'{kind.__name__}(') and "'s'" in repr(state)


@pytest.mark.parametrize('value', [1, 1.5, None, {'w': jnp.ones(2), 'b': (1, 2)}, 'text', jnp.ones((2, 3))])
def test_any_pytree_is_a_value(value):
    state = State(value)
    assert state.value is value
    assert State(state).value is value
    assert maybe_state(state) is value
    assert maybe_state(value) is value


def test_a_write_may_change_shape_and_restore_value_is_a_write():
    state = State(jnp.ones(2))
    state.value = jnp.ones(3)
    assert state.value.shape == (3,)
    with StateTrace() as trace:
        state.restore_value(5.0)
        assert state.value == 5.0
    assert list(trace.writes) == [state]
    assert state.value.shape == (3,)
    state.restore_value(State(7.0))
    assert state.value == 7.0


def test_states_are_compared_by_identity():
    a, b = State(1.0), State(1.0)
    assert a != b
    assert len({a, b, a}) == 2


def test_hidden_state_knows_its_shape():
    state = HiddenState(jnp.ones((4, 2)))
    assert (state.varshape, state.num_state) == ((4, 2), 1)


def write(state):
    def f(x):
        state.value = x
        return x

    return f


@pytest.mark.parametrize(
    'transform', [jax.jit, jax.vmap, jax.grad, jax.checkpoint, lambda f: lambda x: jax.eval_shape(f, x)]
)
def test_a_traced_write_under_a_transform_of_jax_itself_is_refused(transform):
    state = State(1.0, name='mine')
    x = jnp.ones(3) if transform is jax.vmap else jnp.array(1.0)
    with pytest.raises(TraceError, match=r"'mine'.*brainstate_prob.transform"):
        transform(write(state))(x)
    assert state.value == 1.0


def test_a_state_whose_creation_was_only_traced_says_so():
    def make(x):
        with StateTrace():
            return State(x)

    state = make(1.0)
    with pytest.raises(TraceError, match='has no value'):
        state.value
    assert 'no value' in repr(state)
    state.value = 2.0
    assert state.value == 2.0


def test_catching_new_states():
    with catch_new_states('outer', ParamState) as outer:
        a = State(1.0)
        with catch_new_states() as inner:
            b, p = HiddenState(2.0), ParamState(3.0)
    State(4.0)
    assert outer == [a, b]
    assert inner == [b, p]
    assert (a.tag, b.tag, p.tag) == ('outer', 'outer', None)
    with pytest.raises(RuntimeError), catch_new_states() as caught:
        State(1.0)
        raise RuntimeError
    State(2.0)
    assert len(caught) == 1


class TestTrace:
    def test_it_sees_reads_writes_and_creations_and_changes_nothing(self):
        read, written, both = State(1), State(2), State(3)
        with StateTrace() as trace:
            assert current_trace() is trace
            read.value
            written.value = 20
            both.value = both.value + 1
            new = State(4)
            new.value = new.value + 1
        assert current_trace() is None
        assert list(trace.uses) == [read, written, both, new]
        assert list(trace.reads) == [read, both, new]
        assert list(trace.writes) == [written, both, new]
        assert list(trace.outside) == [read, both]
        assert trace.created == {new: 4}
        assert [trace.value_of(s) for s in (written, both, new)] == [20, 4, 5]
        assert (read.value, written.value, both.value) == (1, 2, 3)

    def test_inner_traces_see_the_outer_ones_and_write_to_themselves(self):
        s = State(1)
        with StateTrace() as outer:
            s.value = 2
            with StateTrace() as inner:
                assert s.value == 2
                s.value = 3
                assert 'State(3)' in repr(s)
            assert s.value == 2
        assert list(inner.outside) == [s]
        assert not outer.outside
        assert s.value == 1

    def test_bound_values_and_lifted_reads(self):
        a, b = State(1), State(2)
        with StateTrace(lift=lambda state, value: 10 * value) as trace:
            trace.bind(a, 5)
            assert (a.value, b.value) == (5, 20)
            b.value = b.value + 1
            assert b.value == 21
        assert list(trace.outside) == [b]

    def test_discovery_is_inherited_unless_said_otherwise(self):
        with StateTrace(discover=True):
            with StateTrace() as inner:
                assert inner.discovering
            with StateTrace(discover=False) as inner:
                assert not inner.discovering

    def test_it_closes_after_an_exception(self):
        s = State(1)
        with pytest.raises(RuntimeError), StateTrace():
            s.value = 2
            raise RuntimeError
        assert current_trace() is None
        assert s.value == 1

    def test_one_reading_per_trace_whatever_another_thread_writes(self):
        s = State(1)
        with StateTrace():
            assert s.value == 1
            s._value = 2
            assert s.value == 1
        assert s.value == 2


@pytest.mark.parametrize(
    ('spec', 'expected'),
    [
        (ParamState, {'p', 'tagged'}),
        (LongTermState, {'p', 'tagged'}),
        ('encoder', {'tagged'}),
        (('layers', 0), {'h'}),
        (..., {'p', 'h', 'tagged'}),
        (True, {'p', 'h', 'tagged'}),
        (False, set()),
        (None, set()),
        ([HiddenState, 'encoder'], {'h', 'tagged'}),
        (lambda path, state: 'w' in path, {'p'}),
        (not_(ParamState), {'h'}),
        (all_of(ParamState, 'encoder'), {'tagged'}),
        (any_of(HiddenState, 'encoder'), {'h', 'tagged'}),
        (all_of(), {'p', 'h', 'tagged'}),
        (any_of(), set()),
    ],
)
def test_filters(spec, expected):
    items = {
        'p': (('w',), ParamState(1.0)),
        'h': (('layers', 0, 'h'), HiddenState(1.0)),
        'tagged': (('t',), ParamState(1.0, tag='encoder')),
    }
    wanted = to_predicate(spec)
    assert {name for name, (path, state) in items.items() if wanted(path, state)} == expected


def test_what_is_no_filter_is_refused():
    with pytest.raises(TypeError, match=r'3.5 is not a filter.*a tag.*a predicate'):
        to_predicate(3.5)
