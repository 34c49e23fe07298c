"""Collective calls: which modules, in which order, for one and for many lanes, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, ParamState, State, nn, random, transform

CALLS = []


class Part(nn.Module):
    def __init__(self, label):
        super().__init__()
        self.label = label

    def init_state(self, size=2, fill=0.0):
        CALLS.append(self.label)
        self.h = HiddenState(jnp.full(size, fill) + random.randn(size))

    def reset_state(self, fill=0.0):
        self.h.value = jnp.full_like(self.h.value, fill)


class Second(Part):
    @nn.call_order(2)
    def init_state(self, size=2, fill=0.0):
        super().init_state(size, fill)


class First(Part):
    @nn.call_order(1)
    def init_state(self, size=2, fill=0.0):
        super().init_state(size, fill)


@pytest.fixture
def model():
    CALLS.clear()
    made = nn.Module()
    made.a, made.b, made.parts = Second('a'), First('b'), [Part('c'), Part('d')]
    made.again = made.parts[0]
    return made


def test_unranked_methods_come_first_then_by_level_each_module_once(model):
    assert nn.init_all_states(model, 3, fill=1.0) is model
    assert CALLS == ['c', 'd', 'b', 'a']
    assert model.a.h.value.shape == (3,)


def test_nodes_are_excluded_by_filter(model):
    nn.init_all_states(model, node_to_exclude=First)
    assert CALLS == ['c', 'd', 'a']
    CALLS.clear()
    model.init_all_states(node_to_exclude=lambda path, node: 'parts' in path)
    assert CALLS == ['c', 'b', 'a']  # 'again' is the shorter path of the first part


def test_reset_and_any_method(model):
    nn.init_all_states(model)
    nn.reset_all_states(model, fill=4.0)
    assert all((s.value == 4.0).all() for s in model.states().values())
    model.reset_all_states(1.0)
    assert all((s.value == 1.0).all() for s in model.states().values())
    nn.call_all_fns(model.a, 'reset_state', 7.0)
    assert (model.a.h.value == 7.0).all() and (model.b.h.value == 1.0).all()


def test_methods_that_are_not_there(model):
    model.b.tell = lambda: CALLS.append('told')
    with pytest.raises(AttributeError, match=r"the target \(Module\) has no method 'tell'"):
        nn.call_all_fns(model, 'tell')
    nn.call_all_fns(model, 'tell', fn_if_not_exist='pass')
    assert CALLS == ['told']
    with pytest.warns(UserWarning, match="has no method 'tell'") as record:
        nn.call_all_fns(model, 'tell', fn_if_not_exist='warn')
    assert [str(w.message).split(' has')[0] for w in record][1] == 'a (Second)' and len(record) == 4


@pytest.mark.parametrize(
    'call, error, message',
    [
        (lambda m: nn.call_all_fns(m, 'init_state', fn_if_not_exist='skip'), ValueError, "'raise', 'pass', 'warn'"),
        (lambda m: nn.call_all_fns(m, m.init_state), TypeError, 'name of a method'),
        (lambda m: nn.call_all_fns(m, 'init_state', kwargs=[1]), TypeError, 'mapping, got list'),
        (lambda m: nn.call_all_fns(m.a, 'label'), TypeError, 'not a method but a str'),
        (lambda m: nn.call_all_fns([m], 'init_state'), TypeError, 'must be a Module, got list'),
        (lambda m: nn.vmap_init_all_states(m), ValueError, 'axis_size must be a positive integer'),
        (lambda m: nn.vmap_call_all_fns(m, 'init_state', axis_size=0), ValueError, 'got 0'),
        (lambda m: nn.call_order('first'), TypeError, "got 'first'"),
        (lambda m: nn.call_order(True), TypeError, 'got True'),
        (lambda m: nn.call_order(10), ValueError, 'from 0 to 9, got 10'),
        (lambda m: nn.call_order(-1), ValueError, 'check_order_boundary=False'),
    ],
)
def test_what_makes_no_sense_is_refused(model, call, error, message):
    with pytest.raises(error, match=message):
        call(model)


def test_levels_outside_when_asked_for():
    assert nn.call_order(-3, check_order_boundary=False)(lambda: None).call_order == -3


def test_lanes_have_their_own_states_and_draws(model):
    assert nn.vmap_init_all_states(model, 3, axis_size=4, state_tag='lanes') is model
    assert CALLS[:4] == ['c', 'd', 'b', 'a']
    tagged = model.states('lanes')
    assert list(tagged) == list(model.states()) and len(tagged) == 4
    for state in tagged.values():
        assert state.value.shape == (4, 3)
        assert len(np.unique(np.asarray(state.value))) == 12
    nn.vmap_reset_all_states(model, 2.0, axis_size=4)
    assert all(s.value.shape == (4, 3) and (s.value == 2.0).all() for s in tagged.values())


def test_states_may_stay_single():
    class Mixed(nn.Module):
        def init_state(self):
            self.count = State(jnp.zeros(()), tag='count')
            self.h = HiddenState(random.randn(2))

    made = nn.vmap_init_all_states(Mixed(), axis_size=3, state_to_exclude=lambda path, state: state.tag == 'count')
    assert made.count.value.shape == () and made.h.value.shape == (3, 2)


def test_a_method_in_lanes_writes_and_reads_lanes():
    class Walk(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = ParamState(10.0)

        def init_state(self):
            self.x = HiddenState(jnp.zeros(2))

        def step(self):
            self.x.value = self.x.value + self.scale.value * random.randn(2)

    walk = nn.vmap_init_all_states(Walk(), axis_size=5)
    nn.vmap_call_all_fns(walk, 'step', axis_size=5)
    assert walk.x.value.shape == (5, 2) and len(np.unique(np.asarray(walk.x.value))) == 10
    assert walk.scale.value == 10.0
    transform.jit(lambda: nn.vmap_call_all_fns(walk, 'step', axis_size=5) and None)()
    assert walk.x.value.shape == (5, 2)


def test_a_mapper_inside_a_model_is_initialized_for_its_copies():
    model = nn.Module()
    model.cells = nn.ModuleMapper(nn.GRUCell(2, 3), 5)
    model.head = nn.GRUCell(3, 1)
    nn.init_all_states(model, 4)
    assert model.cells.module.h.value.shape == (5, 4, 3) and model.head.h.value.shape == (4, 1)
    model.cells.module.h.value = jnp.ones((5, 4, 3))
    nn.reset_all_states(model, 4)
    assert model.cells.module.h.value.shape == (5, 4, 3) and not model.cells.module.h.value.any()


class Tree(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = ParamState({'w': jnp.zeros(2), 'v': 1.0})
        self.parts = [nn.Module(), nn.Module()]
        for part in self.parts:
            part.w = ParamState(0.0)


def test_values_go_back_by_path():
    source, target = Tree(), Tree()
    source.b.value, source.parts[1].w.value = {'w': jnp.ones(2), 'v': 2.0}, 5.0
    values = {path: state.value for path, state in source.states().items()}
    assert nn.assign_state_values(target, values) == ([], [])
    assert target.parts[1].w.value == 5.0 and target.b.value['v'] == 2.0
    dotted = {'.'.join(map(str, path)): value for path, value in values.items()}
    other = Tree()
    assert nn.assign_state_values(other, dotted) == ([], []) and other.parts[1].w.value == 5.0
    assert nn.assign_state_values(Tree(), source.states()) == ([], [])
    assert nn.assign_state_values(Tree(), source.state_trees().to_flat()) == ([], [])


def test_unexpected_and_missing_paths_are_told_and_the_last_value_counts():
    tree = Tree()
    found = nn.assign_state_values(tree, {'parts.0.w': 1.0, 'x': 0.0}, {('parts', 0, 'w'): 3.0, ('y', 1): 0.0})
    assert found == (['x', ('y', 1)], [('b',), ('parts', 1, 'w')])
    assert tree.parts[0].w.value == 3.0
