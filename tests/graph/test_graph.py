"""The object graph: paths, sharing, splitting and merging, equality of structure."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import ParamState, State, graph, nn
from brainstate_prob.core import all_of, any_of, not_


class Tree(nn.Module):
    """Attributes of every kind: States, shared States, containers, modules, plain values."""

    def __init__(self):
        super().__init__()
        self.w = ParamState(jnp.array([1.0, 2.0]), tag='weight')
        self.items = [State(2.0), {'b': State(3.0), 'a': self.w}]
        self.inner = nn.Module()
        self.inner.pair = (ParamState(4.0), 'text')
        self.table = np.arange(3)


def test_paths_are_sorted_tuples_and_shared_states_appear_once_by_their_shortest_path():
    paths = list(Tree().states())
    assert paths == [('inner', 'pair', 0), ('items', 0), ('items', 1, 'b'), ('w',)]


FILTERS = [
    (ParamState, [('inner', 'pair', 0), ('w',)]),
    ('weight', [('w',)]),
    (('items', 1), [('items', 1, 'b')]),
    (lambda path, state: path[-1] == 'b', [('items', 1, 'b')]),
    (..., [('inner', 'pair', 0), ('items', 0), ('items', 1, 'b'), ('w',)]),
    (None, []),
    (['weight', ('inner',)], [('inner', 'pair', 0), ('w',)]),
    (any_of('weight', ('inner',)), [('inner', 'pair', 0), ('w',)]),
    (all_of(ParamState, not_('weight')), [('inner', 'pair', 0)]),
]


@pytest.mark.parametrize('spec, paths', FILTERS)
def test_filters(spec, paths):
    assert list(Tree().states(spec)) == paths
    assert list(graph.treefy_states(Tree(), spec).to_flat()) == paths


def test_what_is_no_filter_is_refused_with_what_is():
    with pytest.raises(TypeError, match='not a filter. Allowed: a type'):
        Tree().states(3.5)


def test_several_filters_give_one_dict_each_and_the_first_match_wins():
    params, rest = Tree().states(ParamState, ...)
    assert list(params) == [('inner', 'pair', 0), ('w',)]
    assert list(rest) == [('items', 0), ('items', 1, 'b')]


def test_levels_count_nodes_not_containers():
    assert list(Tree().states(allowed_hierarchy=(1, 1))) == [('items', 0), ('items', 1, 'b'), ('w',)]
    assert list(Tree().states(allowed_hierarchy=(2, 9))) == [('inner', 'pair', 0)]
    assert list(Tree().nodes(allowed_hierarchy=(0, 0))) == [()]
    assert list(Tree().nodes()) == [(), ('inner',)]


def test_flat_and_nested_forms_are_inverse_and_pytrees():
    flat = Tree().states()
    assert flat.to_nest().to_flat() == flat
    doubled = jax.tree.map(lambda x: 2 * x, graph.FlattedDict({('a', 0): 1.0, ('a', 'b'): 2.0}))
    assert doubled == {('a', 0): 2.0, ('a', 'b'): 4.0} and type(doubled) is graph.FlattedDict


@pytest.mark.parametrize(
    'copy_of',
    [
        graph.clone,
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: graph.unflatten(*graph.flatten(x)),
        lambda x: graph.treefy_merge(*graph.treefy_split(x, ParamState, ...)),
    ],
)
def test_a_copy_has_its_own_states_and_keeps_the_sharing(copy_of):
    tree = Tree()
    other = copy_of(tree)
    assert other.w is other.items[1]['a'] and other.w is not tree.w
    assert graph.graphdef(other) == graph.graphdef(tree)
    other.w.value = jnp.zeros(2)
    np.testing.assert_array_equal(tree.w.value, [1.0, 2.0])
    assert type(other.inner.pair) is tuple and other.w.tag == 'weight'


def test_equal_structures_have_equal_hashable_definitions_whatever_the_values():
    a, b = Tree(), Tree()
    b.w.value = jnp.array([5.0, 6.0])
    assert graph.graphdef(a) == graph.graphdef(b)
    assert hash(graph.graphdef(a)) == hash(graph.graphdef(b))


CHANGES = {
    'a static array': lambda t: setattr(t, 'table', np.arange(3) + 1),
    'a static text': lambda t: setattr(t.inner, 'pair', (t.inner.pair[0], 'other')),
    'a new attribute': lambda t: setattr(t, 'more', 1),
    'no longer shared': lambda t: setattr(t, 'w', ParamState(t.w.value, tag='weight')),
    'another kind of State': lambda t: t.items.__setitem__(0, ParamState(2.0)),
}


@pytest.mark.parametrize('name', CHANGES)
def test_different_structures_have_different_definitions(name):
    a, b = Tree(), Tree()
    CHANGES[name](b)
    assert graph.graphdef(a) != graph.graphdef(b)


def test_transforms_and_functions_count_by_value():
    def make(k):
        return nn.Param(1.0, t=nn.SoftplusT(0.0), precompute=lambda v: k * v)

    assert graph.graphdef(make(2)) == graph.graphdef(make(2))
    assert graph.graphdef(make(2)) != graph.graphdef(make(3))


def test_merge_needs_every_value_and_split_every_state():
    definition, params, _ = graph.treefy_split(Tree(), ParamState, ...)
    with pytest.raises(ValueError, match=r"No value for the State at \('items', 0\)"):
        graph.treefy_merge(definition, params)
    with pytest.raises(ValueError, match='Add ... as the last filter'):
        graph.treefy_split(Tree(), ParamState)


def test_treefied_states_go_through_jax_and_back():
    tree = Tree()
    doubled = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s))(graph.treefy_states(tree))
    graph.update_states(tree, doubled)
    np.testing.assert_array_equal(tree.w.value, [2.0, 4.0])
    assert tree.items[0].value == 4.0


def test_update_of_an_unknown_path_is_refused():
    with pytest.raises(KeyError, match='no State at'):
        graph.update_states(Tree(), {('nothing',): 1.0})


def test_pop_takes_states_out():
    tree = Tree()
    popped = graph.pop_states(tree, lambda path, state: path[0] == 'items' and path[-1] == 'b')
    assert list(popped.to_flat()) == [('items', 1, 'b')] and 'b' not in tree.items[1]
    with pytest.raises(ValueError, match='only attributes and dict items'):
        graph.pop_states(tree, ('items', 0))
    with pytest.raises(ValueError, match='at least one filter'):
        graph.pop_states(tree)


def test_nodes_know_where_they_hang_for_messages():
    tree = Tree()
    tree.list = [nn.Module()]
    tree.inner.leaf = nn.Module()
    assert graph.path_of(tree.inner.leaf) == ('inner', 'leaf')
    assert graph.path_of(tree.list[0]) == ('list', 0)
    assert graph.path_of(tree) == ()
