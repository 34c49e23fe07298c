"""Module and Sequential: traversal, calls, sizes, the parameters as a whole."""

import functools

import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

from brainstate_prob import ParamState, nn


class Scale(nn.Module):
    def __init__(self, in_size=3, factor=2.0):
        super().__init__()
        self.in_size = in_size
        self.out_size = in_size
        self.factor = nn.Param(factor, t=nn.SoftplusT(), reg=nn.L2Reg(0.5))

    def update(self, x):
        return self.factor.value() * x


class Negate(nn.ElementWiseBlock):
    def update(self, x):
        return -x


def test_calling_is_update_and_shifting_is_calling():
    model = Scale()
    assert float(model(3.0)) == pytest.approx(6.0) and float(3.0 >> model) == pytest.approx(6.0)
    with pytest.raises(NotImplementedError, match='Module defines neither update nor __call__'):
        nn.Module()(1.0)


def test_sizes_are_tuples():
    assert Scale(3).in_size == (3,) and Scale((2, 3)).out_size == (2, 3) and nn.Module().in_size is None


def test_traversal_names_are_dotted_paths():
    model = nn.Sequential(Scale(), jnp.tanh, Scale())
    assert [n for n, _ in model.named_modules()] == [
        '',
        'layers.0',
        'layers.0.factor',
        'layers.0.factor.reg',
        'layers.2',
        'layers.2.factor',
        'layers.2.factor.reg',
    ]
    assert [n for n, _ in model.named_modules('net', include_self=False)][0] == 'net.layers.0'
    assert [n for n, _ in model.named_children()] == ['layers.0', 'layers.2']
    assert [n for n, _ in model.named_parameters()] == ['layers.0.factor.val', 'layers.2.factor.val']
    assert list(model.parameters(recurse=False)) == []
    assert [p for p, _ in model.named_param_modules()] == [('layers', 0, 'factor'), ('layers', 2, 'factor')]
    assert list(model.children()) == [model[0], model[2]] and len(list(model.modules())) == 7


def test_sequential_indexes_slices_and_grows():
    model = nn.Sequential(Scale(), Negate())
    assert float(model(1.0)) == pytest.approx(-2.0)
    assert isinstance(model[:1], nn.Sequential) and len(model[:1]) == 1 and model[1] is list(model)[1]
    model.append(Negate()).insert(1, jnp.abs)
    assert float(model(1.0)) == pytest.approx(2.0) and model.out_size == (3,)


def test_sequential_passes_sizes_to_deferred_constructors():
    model = nn.Sequential(Scale(4), Negate, functools.partial(Scale, factor=3.0), Scale)
    assert [layer.in_size for layer in (model[2], model[3])] == [(4,), (4,)]
    assert float(model(1.0)) == pytest.approx(-12.0)


SEQUENTIAL_ERRORS = [
    (lambda: nn.Sequential(jnp.tanh), TypeError, 'first item of a Sequential must be a Module'),
    (lambda: nn.Sequential(Scale(), 3), TypeError, 'Modules, callables and deferred constructors, got 3'),
    (lambda: nn.Sequential(Negate(), Scale), ValueError, 'Scale needs an in_size'),
]


@pytest.mark.parametrize('build, error, message', SEQUENTIAL_ERRORS)
def test_what_a_sequential_refuses(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_reg_loss_is_the_sum_over_all_params_hyper_parameters_included():
    model = nn.Module()
    scale = nn.Param(2.0, t=None, reg=dist.HalfNormal(1.0))
    model.a = nn.Param([1.0, 2.0], reg=nn.GaussianReg(0.0, std=scale))
    model.b = nn.Param(3.0, reg=nn.L1Reg(0.1))
    model.c = nn.Const(5.0, reg=nn.L1Reg(0.1))
    want = -(dist.Normal(0.0, 2.0).log_prob(jnp.array([1.0, 2.0])).sum() + dist.HalfNormal(1.0).log_prob(2.0)) + 0.3
    assert float(model.reg_loss()) == pytest.approx(float(want), rel=1e-6)
    assert float(model.log_prior()) == pytest.approx(-float(want), rel=1e-6)
    assert nn.Module().reg_loss().shape == ()


def test_precompute_serves_one_value_and_forgets_it_after_an_exception():
    calls = []
    model = nn.Module()
    model.w = nn.Param(2.0, precompute=lambda v: calls.append(1) or v)
    with pytest.raises(KeyError), model.param_precompute():
        assert model.w.value() is model.w.value()
        raise KeyError
    assert len(calls) == 1


def test_summary_lists_every_parameter_as_text_and_html():
    model = nn.Sequential(Scale())
    model.bare = ParamState({'w': jnp.ones((2, 3)), 'b': jnp.zeros(3)})
    model.fixed = nn.Const(7.0)
    table = model.summary()
    assert [row['path'] for row in table.rows] == ['bare.b', 'bare.w', 'fixed', 'layers.0.factor']
    assert [row['trainable'] for row in table.rows] == ['yes', 'yes', 'no', 'yes'] and table.num_trained == 10
    text = str(table)
    assert 'SoftplusT(lower=0.0)' in text and 'L2Reg' in text and '10 trained numbers' in text.splitlines()[0]
    assert '<td style="text-align:left">layers.0.factor</td>' in table._repr_html_()


def test_repr_shows_the_tree():
    assert repr(nn.Sequential(Negate())) == 'Sequential(\n  layers=[Negate()],\n)'
