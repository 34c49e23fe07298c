"""Layers with settings of their own, and mapped over an axis, on one device and over two."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, ParamState, environ, graph, nn, random, transform

X = jax.random.normal(jax.random.key(0), (4, 3))


class Cell(nn.Module):
    """h <- h + w x; the copies start from draws of their own."""

    def __init__(self):
        super().__init__()
        self.in_size = self.out_size = 3
        self.w = ParamState(jnp.arange(1.0, 4.0))

    def init_state(self, scale=1.0):
        self.h = HiddenState(scale * random.randn(3))

    def reset_state(self):
        self.h.value = jnp.zeros_like(self.h.value)

    def update(self, x):
        self.h.value = self.h.value + self.w.value * x
        return self.h.value

    def energy(self, x):
        return jnp.sum(self.h.value * x)


class Settings(nn.Module):
    def update(self, x):
        return x, environ.get('fit', None), environ.get('rate', None)


def test_settings_hold_for_the_call_only():
    layer = nn.EnvironContext(Settings(), fit=False)
    with environ.context(fit=True, rate=1):
        assert layer(0) == (0, False, 1)
        assert layer(0, context={'rate': 2, 'fit': True}) == (0, True, 2)
        layer.add_context(rate=3)
        assert layer(0) == (0, False, 3)
        assert environ.get('fit') is True and environ.get('rate') == 1
    assert pickle.loads(pickle.dumps(layer))(0) == graph.clone(layer)(0) == (0, False, 3)


def test_settings_come_back_after_an_error():
    class Failing(nn.Module):
        def update(self):
            raise RuntimeError('no')

    with pytest.raises(RuntimeError, match='no'):
        nn.EnvironContext(Failing(), fit=True)()
    assert environ.get('fit', None) is None


def test_settings_switch_dropout_off():
    layer = nn.EnvironContext(nn.Dropout(0.5), fit=False)
    with environ.context(fit=True):
        np.testing.assert_array_equal(layer(X), X)


@pytest.mark.parametrize('states', [HiddenState, {HiddenState: 0}, {0: HiddenState}], ids=['filter', 'of', 'by'])
def test_vmap_maps_the_states_that_the_filter_takes(states):
    cell = nn.vmap_init_all_states(Cell(), axis_size=4)
    start = cell.h.value
    layer = nn.Vmap(cell, vmap_states=states)
    np.testing.assert_allclose(layer(X), start + cell.w.value * X, rtol=1e-6)
    np.testing.assert_allclose(transform.jit(layer)(X), start + 2 * cell.w.value * X, rtol=1e-6)
    assert list(layer.states(ParamState)) == [('module', 'w')] and layer.in_size == (3,)


def test_vmap_over_other_axes():
    cell = Cell()
    cell.h = HiddenState(jnp.zeros((3, 4)))
    layer = nn.Vmap(cell, in_axes=1, out_axes=1, vmap_states={HiddenState: 1})
    np.testing.assert_allclose(layer(X.T), (cell.w.value * X).T, rtol=1e-6)
    assert cell.h.value.shape == (3, 4)


def test_vmap_out_states_get_the_lanes_when_they_are_written():
    cell = Cell()
    cell.h = HiddenState(jnp.zeros(3))
    nn.Vmap(cell, vmap_out_states=HiddenState)(X)
    np.testing.assert_allclose(cell.h.value, cell.w.value * X, rtol=1e-6)
    cell.h.value = jnp.zeros(3)
    with pytest.raises(ValueError, match='differs from lane to lane'):
        nn.Vmap(cell)(X)


def test_vmap_shares_the_gradient_over_lanes():
    cell = nn.vmap_init_all_states(Cell(), axis_size=4)
    layer = nn.Vmap(cell, vmap_states=HiddenState)
    grads = transform.grad(lambda: jnp.sum(layer(X)), layer.states(ParamState))()
    np.testing.assert_allclose(grads[('module', 'w')], X.sum(0), rtol=1e-5)


def test_vmap_takes_an_axis_name():
    class Centred(nn.Module):
        def update(self, x):
            return x - jax.lax.pmean(x, 'batch')

    np.testing.assert_allclose(nn.Vmap(Centred(), axis_name='batch')(X), X - X.mean(0), atol=1e-6)


@pytest.mark.parametrize('behavior', ['vmap', 'pmap'])
def test_the_mapper_makes_copies_and_maps_the_call(behavior):
    layer = nn.ModuleMapper(Cell(), init_map_size=4, state_tag='copies', behavior=behavior)
    assert layer.init_all_states(scale=2.0) is layer
    cell = layer.module
    assert list(layer.states('copies')) == [('module', 'h')] and cell.h.value.shape == (4, 3)
    assert len(np.unique(np.asarray(cell.h.value))) == 12
    start = cell.h.value
    for n in (1, 2):
        np.testing.assert_allclose(layer(X), start + n * cell.w.value * X, rtol=1e-6)
    energies = layer.map('energy')(X)
    np.testing.assert_allclose(energies, (cell.h.value * X).sum(1), rtol=1e-5)
    shared = layer.map(lambda x: cell.h.value[0] + x, in_axes=None)(1.0)
    np.testing.assert_allclose(shared, cell.h.value[:, 0] + 1.0, rtol=1e-6)


def test_the_mapper_puts_the_copies_on_the_axis_asked_for():
    layer = nn.ModuleMapper(Cell(), 4, init_state_axes={1: HiddenState}).init_all_states()
    start = layer.module.h.value
    assert start.shape == (3, 4)
    np.testing.assert_allclose(layer(X), start.T + layer.module.w.value * X, rtol=1e-6)
    assert layer.module.h.value.shape == (3, 4)


def test_the_mapper_takes_other_states_that_have_copies():
    layer = nn.ModuleMapper(Cell(), 4, call_state_axes={0: ParamState}).init_all_states()
    layer.module.w.value = jnp.arange(12.0).reshape(4, 3)
    start = layer.module.h.value
    np.testing.assert_allclose(layer(X), start + layer.module.w.value * X, rtol=1e-6)


def test_a_copied_mapper_knows_its_states():
    layer = nn.ModuleMapper(Cell(), 4).init_all_states()
    start = layer.module.h.value
    for copy in (pickle.loads(pickle.dumps(layer)), graph.clone(layer)):
        np.testing.assert_allclose(copy(X), start + layer.module.w.value * X, rtol=1e-6)
    np.testing.assert_array_equal(layer.module.h.value, start)


@pytest.mark.parametrize(
    'act, error, message',
    [
        (lambda: nn.ModuleMapper(Cell(), 4)(X), RuntimeError, r'ModuleMapper\(3 -> 3\): .* Call init_all_states\(\)'),
        (lambda: nn.ModuleMapper(Cell(), 0), ValueError, 'init_map_size must be a positive int'),
        (lambda: nn.ModuleMapper(Cell(), 4, behavior='map'), ValueError, "'vmap' or 'pmap', got 'map'"),
        (lambda: nn.Vmap(jnp.sin), TypeError, 'Vmap wraps a Module'),
        (lambda: nn.EnvironContext(None), TypeError, 'EnvironContext wraps a Module, got NoneType'),
        (lambda: nn.Vmap(Cell(), vmap_states={HiddenState: 'x'})(X), TypeError, 'with int axes'),
    ],
)
def test_errors_say_what_to_do(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_a_wrong_shape_is_told_with_the_path_inside():
    model = nn.Module()
    model.wrapped = nn.EnvironContext(nn.Linear(3, 4), fit=False)
    with pytest.raises(ValueError, match=r'wrapped\.layer \(Linear\(3 -> 4\)\).*got \(4,\)'):
        model.wrapped(jnp.ones(4))
