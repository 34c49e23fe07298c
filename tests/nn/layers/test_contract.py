"""The contract of every layer, one table of cases a family: shapes, batch, jit, vmap, grad, precisions, pickling."""

import importlib
import pathlib
import pickle

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import ParamState, environ, graph, nn, random, transform

HERE = pathlib.Path(__file__).parent
BATCH = 3


def name_of(case):
    """The name of the case, else of the class that it makes."""
    if case.name or isinstance(case.make, type):
        return case.name or case.make.__name__
    return next(name for name in case.make.__code__.co_names if name[0].isupper())


def collect():
    """Every case of every family, as pytest wants them."""
    for path in sorted(HERE.glob('cases_*.py')):
        family = importlib.import_module(f'{__package__}.{path.stem}')
        for case in family.CASES:
            yield pytest.param(case, id=f'{path.stem.removeprefix("cases_")}-{name_of(case)}')


every_layer = pytest.mark.parametrize('case', list(collect()))


def leaves(out):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(out)]


def assert_close(a, b, rtol=1e-5):
    a, b = leaves(a), leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-5)


def called(case, layer, args, how=lambda f: f):
    """One call under the settings of the case, always from the same seed."""
    random.seed(7)
    with environ.context(**case.context):
        return how(layer)(*args)


def first(out):
    """The main output: layers may return more behind it."""
    return out[0] if isinstance(out, tuple) else out


@every_layer
def test_what_a_layer_says_of_itself(case):
    layer = case.build()
    if case.in_size is not None:
        assert layer.in_size == (case.in_shape if case.in_size == 'shape' else case.in_size)
    if case.out_size is not None:
        assert layer.out_size == (case.out_shape if case.out_size == 'shape' else case.out_size)
    assert tuple(layer.states().keys()) == tuple(case.paths)
    assert repr(layer).startswith(type(layer).__name__) and ' at 0x' not in repr(layer)
    for copy in (pickle.loads(pickle.dumps(layer)), graph.clone(layer)):
        assert repr(copy) == repr(layer)
        assert tuple(copy.states().keys()) == tuple(layer.states().keys())
        if not case.stateful:
            assert_close(called(case, copy, case.args()), called(case, layer, case.args()))


@every_layer
def test_shapes_with_and_without_a_batch_axis(case):
    layer = case.build()
    single = first(called(case, layer, case.args()))
    assert jnp.shape(u.get_mantissa(single)) == case.out_shape
    if not case.batched:
        return
    args = case.args(BATCH)
    batch = first(called(case, graph.clone(layer) if not case.stateful else case.build(BATCH), args))
    assert jnp.shape(u.get_mantissa(batch)) == (BATCH, *case.out_shape)
    if not (case.stateful or case.random or case.mixes_batch):
        row = first(called(case, layer, tuple(jnp.asarray(np.asarray(a)[1]) for a in args)))
        assert_close(jax.tree.map(lambda x: np.asarray(x)[1], batch), row)


@every_layer
def test_jit_and_vmap_change_nothing(case):
    seed = random.get_key()
    built = []
    for _ in range(2):
        random.seed(seed)
        built.append(case.build())
    args = case.args()
    expected = called(case, built[0], args)
    assert_close(called(case, built[1], args, transform.jit), expected)
    for path, state in built[0].states().items():
        assert_close(built[1].states()[path].value, state.value)
    if case.stateful or case.random or case.mixes_batch or not case.batched:
        return
    many = case.args(BATCH)
    mapped = called(case, built[0], many, transform.vmap)
    assert_close(first(mapped), first(called(case, built[0], many)))


@every_layer
def test_gradients_are_finite_and_reach_what_is_trained(case):
    layer = case.build()
    args = case.args()
    trained = layer.states(ParamState)
    floating = tuple(i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating))
    if not case.differentiable or not (trained or floating):
        return

    def loss(*args):
        return sum(jnp.sum(jnp.sin(x + 1.0)) for x in jax.tree.leaves(first(layer(*args))))

    grads = called(case, transform.jit(transform.grad(loss, trained, floating or None)), args)
    by_state, by_input = grads if floating else (grads, ())
    for path, state in trained.items():
        assert jax.tree.map(jnp.shape, by_state[path]) == jax.tree.map(jnp.shape, state.value)
    for g in (*jax.tree.leaves(by_state), *by_input):
        assert np.isfinite(np.asarray(g, np.float64)).all()
    assert any(np.any(np.asarray(g)) for g in (*jax.tree.leaves(by_state), *by_input))


PRECISIONS = [(64, jnp.float64), ('bf16', jnp.bfloat16)]


@pytest.mark.parametrize('precision, dtype', PRECISIONS, ids=['float64', 'bfloat16'])
@every_layer
def test_precision_is_that_of_parameters_and_input(case, precision, dtype):
    if precision == 'bf16' and not case.float16:
        return
    with environ.context(precision=precision):
        layer = case.build()
        out = first(called(case, layer, case.args(dtype=dtype)))
        found = {jnp.dtype(x.dtype) for x in jax.tree.leaves(out)}
        assert found == {jnp.dtype(dtype)}
        for leaf in jax.tree.leaves([s.value for s in layer.states(ParamState).values()]):
            assert leaf.dtype == dtype
        assert all(np.isfinite(x).all() for x in leaves(out))


@every_layer
def test_a_wrong_input_shape_is_told_with_the_path_of_the_layer(case):
    bad = case.bad
    if bad is None:
        bad = () if not case.in_size or not case.in_shape else ((*case.in_shape[:-1], case.in_shape[-1] + 1),)
    model = nn.Module()
    model.inner = case.build()
    for shape in bad:
        with pytest.raises(ValueError, match=rf'inner.*{type(model.inner).__name__}'), environ.context(**case.context):
            model.inner(*case.inputs(shape, jnp.float32))
