"""HiData: a tree of named values that is immutable."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, nn, transform


class Gates(nn.HiData):
    """A subclass with a constructor of its own."""

    def __init__(self, size):
        super().__init__(m=jnp.zeros(size), h=jnp.ones(size))


@pytest.fixture
def data():
    return nn.HiData({'v': jnp.zeros(2), 'none': None}, name='cell', gates=Gates(3), label='text')


def test_children_are_attributes_and_items(data):
    assert data.v is data['v'] and data.gates.m.shape == (3,) and data.name == 'cell'
    assert list(data) == list(data.keys()) == ['v', 'none', 'gates', 'label'] and len(data) == 4
    assert 'v' in data and 'x' not in data and data.label in list(data.values())
    assert dict(data.items())['gates'] is data.gates
    assert nn.HiData({'a': 1}, a=2).a == 2 and len(nn.HiData()) == 0
    assert data.state_size == 4 and data.dtype == jnp.float32


def test_changes_make_a_new_one(data):
    more = data.add({'w': 1.0}, nn.HiData(x=2.0), v=3.0)
    assert (more.w, more.x, more.v, more.name) == (1.0, 2.0, 3.0, 'cell') and data.v.shape == (2,)
    assert data.replace(v=1.0).v == 1.0 and list(data.pop('none', 'label')) == ['v', 'gates']
    assert type(data.gates.replace(m=1.0)) is Gates
    clone = data.clone()
    assert clone is not data and clone.gates is not data.gates and clone.gates.m is data.gates.m


def test_nested_dicts_and_back(data):
    as_dict = data.pop('label').to_dict()
    assert set(as_dict['gates']) == {'m', 'h'}
    assert nn.HiData.from_dict(as_dict).gates.h.shape == (3,)


def test_it_is_a_pytree_with_names(data):
    data = data.pop('label')
    doubled = jax.jit(lambda d: jax.tree.map(lambda x: 2 * x, d))(data)
    assert type(doubled.gates) is Gates and doubled.name == 'cell'
    np.testing.assert_array_equal(doubled.gates.h, 2.0)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(data)[0]]
    assert paths == ['.v', '.gates.m', '.gates.h']
    state = HiddenState(Gates(2))

    def step(x):
        state.value = state.value.replace(m=state.value.m + x)
        return state.value.m

    assert transform.for_loop(step, jnp.ones(3))[-1].tolist() == [3.0, 3.0]


@pytest.mark.parametrize('again', [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies(data, again):
    other = again(data)
    assert type(other.gates) is Gates and other.name == 'cell' and repr(other) == repr(data)


def test_repr(data):
    assert repr(nn.HiData()) == 'HiData()'
    lines = repr(data).splitlines()
    assert lines[0] == 'HiData(' and lines[1] == "  name='cell'," and 'shape=(2,), dtype=float32' in lines[2]
    assert '  gates=Gates(' in lines and "  label='text'," in lines


@pytest.mark.parametrize(
    'act, error, message',
    [
        (lambda d: d.x, AttributeError, r"HiData has no child 'x'; it has \['v'"),
        (lambda d: d['x'], KeyError, 'x'),
        (lambda d: setattr(d, 'v', 1), AttributeError, r'x\.replace\(v='),
        (lambda d: delattr(d, 'v'), AttributeError, r"x\.pop\('v'\)"),
        (lambda d: d.replace(x=1), KeyError, 'has no children'),
        (lambda d: d.pop('x'), KeyError, 'has no children'),
        (lambda d: d.add([1]), TypeError, 'add takes mappings'),
        (lambda d: nn.HiData([1]), TypeError, 'children must be a mapping'),
        (lambda d: nn.HiData({1: 2}), TypeError, 'names of children are strings'),
        (lambda d: nn.HiData(a=None, b='x').dtype, ValueError, 'No child of HiData'),
    ],
)
def test_errors_say_what_to_do(data, act, error, message):
    with pytest.raises(error, match=message):
        act(data)
