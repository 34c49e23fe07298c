"""Containers and functions that hold nodes: they are walked, copied with what they hold, and keep their order."""

import collections
import dataclasses
import functools
import types
from typing import Any

import numpy as np
import pytest

from brainstate_prob import ParamState, graph, nn
from brainstate_prob.graph.builtin_containers import is_container


@dataclasses.dataclass
class Pair:
    a: Any
    b: Any = 2


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: Any


@dataclasses.dataclass(slots=True)
class Slots:
    a: Any


def objects(*items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


Named = collections.namedtuple('Named', 'a b')
CONTAINERS = {
    'dict': lambda p: {'a': p},
    'ordered dict': lambda p: collections.OrderedDict(a=p),
    'defaultdict': lambda p: collections.defaultdict(list, a=p),
    'list': lambda p: [p],
    'tuple': lambda p: (p,),
    'named tuple': lambda p: Named(p, 1),
    'deque': lambda p: collections.deque([p], maxlen=3),
    'namespace': lambda p: types.SimpleNamespace(a=p),
    'dataclass': Pair,
    'frozen dataclass': Frozen,
    'slots': Slots,
    'dataclass in a list': lambda p: [Pair({'x': p})],
    'array of objects': lambda p: objects(p, 'text'),
}


def model_of(value):
    model = nn.Module()
    model.held = value
    return model


@pytest.mark.parametrize('name', CONTAINERS)
def test_a_container_is_walked_and_copied(name):
    param = nn.Param(1.0)
    model = model_of(CONTAINERS[name](param))
    assert list(model.states(ParamState).values()) == [param.val]
    copy = graph.clone(model)
    (state,) = copy.states(ParamState).values()
    assert state is not param.val and type(copy.held) is type(model.held)
    assert graph.graphdef(copy) == graph.graphdef(model)
    state.value = state.value + 1.0
    assert float(param.value()) == 1.0


def test_what_a_container_is_built_with_is_kept():
    param = nn.Param(1.0)
    held = graph.clone(model_of(collections.deque([param], maxlen=3))).held
    assert held.maxlen == 3
    assert graph.clone(model_of(collections.defaultdict(list, a=param))).held['new'] == []
    assert graph.clone(model_of(objects(param, param).reshape(2, 1))).held.shape == (2, 1)
    assert graph.clone(model_of(Pair(param))).held.b == 2


def test_a_dict_keeps_its_order():
    model = model_of({'z': nn.Param(1.0), 'a': nn.Param(2.0)})
    assert list(graph.clone(model).held) == ['z', 'a']
    assert graph.graphdef(model) != graph.graphdef(model_of({'a': nn.Param(2.0), 'z': nn.Param(1.0)}))


@pytest.mark.parametrize('value', [{1, 2}, Pair(1), np.ones(2), 'text', object(), Pair])
def test_what_is_no_container(value):
    assert not is_container(value)


class Line(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.b = nn.Param(1.0)
        self.f = make(self)

    def line(self, x):
        return self.b.value() * x


FUNCTIONS = {
    'bound method': lambda self: self.line,
    'closure': lambda self: lambda x: self.b.value() * x,
    'closure over the Param': lambda self: (lambda b: lambda x: b.value() * x)(self.b),
    'closure over a list': lambda self: (lambda bs: lambda x: bs[0].value() * x)([self.b]),
    'partial': lambda self: functools.partial(Line.line, self),
    'partial by keyword': lambda self: functools.partial(lambda x, m: m.line(x), m=self),
    'default': lambda self: lambda x, m=self: m.line(x),
    'keyword default': lambda self: lambda x, *, m=self: m.line(x),
    'in a container': lambda self: [self.line],
    'nested': lambda self: functools.partial(lambda f, x: f(x), self.line),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_functions_of_a_copy_are_of_its_own_nodes(name):
    model = Line(FUNCTIONS[name])
    copy = graph.clone(model)
    copy.b.set_value(3.0)
    call = lambda m: float((m.f[0] if isinstance(m.f, list) else m.f)(2.0))
    assert call(copy) == 6.0
    assert call(model) == 2.0
    assert graph.graphdef(copy) == graph.graphdef(model) == graph.graphdef(Line(FUNCTIONS[name]))


def test_a_copy_has_arrays_of_its_own():
    model = model_of(np.ones(2))
    copy = graph.clone(model)
    model.held[...] = 2.0
    assert copy.held.tolist() == [1.0, 1.0]


def test_a_closure_that_calls_itself_is_left_as_it_is():
    model = Line(lambda self: None)

    def f(n):
        return model.line(n) if n == 0 else f(n - 1)

    model.f = f
    assert graph.clone(model).f is f
