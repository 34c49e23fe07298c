"""The contract of every layer, one table of cases a family: shapes, batch, jit, vmap, grad, precisions, pickling.

Compiling is what these tests cost, so all that is asked of one case is computed in few programs and shared.
"""

import functools
import importlib
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import ParamState, environ, graph, nn, random, transform

pytestmark = pytest.mark.usefixtures('quick_compile')

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


def leaves(out):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(out)]


def assert_close(a, b, rtol=1e-5, atol=1e-5):
    a, b = leaves(a), leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def first(out):
    """The main output: layers may return more behind it."""
    return out[0] if isinstance(out, tuple) else out


def shape_of(out):
    (leaf,) = jax.tree.leaves(first(out))
    return leaf.shape


def values(layer):
    return {path: state.value for path, state in layer.states().items()}


class Probe:
    """A case, its layer, and what calls of it gave."""

    def __init__(self, case):
        self.case = case
        self.simple = case.batched and not (case.stateful or case.random or case.mixes_batch)
        self.batch = case.args(BATCH) if case.batched else None
        self.args = case.args() if self.batch is None else tuple(jnp.asarray(np.asarray(x)[1]) for x in self.batch)

    @functools.cached_property
    def layer(self):
        """Never called itself: calls are made on copies."""
        random.seed(0)
        return self.case.build()

    def call(self, function, *args):
        """Under the settings of the case, and always from the same seed."""
        random.seed(7)
        with environ.context(**self.case.context):
            return function(*args)

    @functools.cached_property
    def eager(self):
        """A plain call: output, and the States after it."""
        layer = graph.clone(self.layer)
        return self.call(layer, *self.args), values(layer)

    @functools.cached_property
    def compiled(self):
        """The same compiled, and where rows do not depend on each other also a batch, and the mapped call."""
        layer = graph.clone(self.layer)

        def calls(args, batch):
            out = [layer(*args)]
            if self.simple:
                out += [layer(*batch), transform.vmap(layer)(*batch)]
            return out

        return self.call(transform.jit(calls), self.args, self.batch), values(layer)


@pytest.fixture(scope='module', params=list(collect()))
def probe(request):
    return Probe(request.param)


def test_what_a_layer_says_of_itself(probe):
    case, layer = probe.case, probe.layer
    if case.in_size is not None:
        assert layer.in_size == (case.in_shape if case.in_size == 'shape' else case.in_size)
    if case.out_size is not None:
        assert layer.out_size == (case.out_shape if case.out_size == 'shape' else case.out_size)
    assert tuple(layer.states().keys()) == tuple(case.paths)
    assert repr(layer).startswith(type(layer).__name__) and ' at 0x' not in repr(layer)
    copy = pickle.loads(pickle.dumps(layer))
    assert repr(copy) == repr(layer)
    assert_close(values(copy), values(layer), rtol=0, atol=0)
    assert_close(probe.call(copy, *probe.args), probe.eager[0])


def test_shapes_with_and_without_a_batch_axis(probe):
    case = probe.case
    assert shape_of(probe.eager[0]) == case.out_shape
    if probe.simple:
        _, batch, mapped = probe.compiled[0]
        assert shape_of(batch) == shape_of(mapped) == (BATCH, *case.out_shape)
        assert_close(first(mapped), first(batch))
        assert_close(jax.tree.map(lambda x: x[1], first(batch)), first(probe.eager[0]))
    elif case.batched:
        layer = case.build(BATCH)
        assert shape_of(probe.call(lambda: transform.eval_shape(layer, *probe.batch))) == (BATCH, *case.out_shape)


def test_compiling_changes_neither_output_nor_states(probe):
    (out, *_), after = probe.compiled
    assert_close(out, probe.eager[0])
    assert_close(after, probe.eager[1])


def test_gradients_are_finite_and_reach_what_is_trained(probe):
    layer, args = graph.clone(probe.layer), probe.args
    trained = layer.states(ParamState)
    floating = tuple(i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating))
    if not probe.case.differentiable or not (trained or floating):
        return

    def loss(*args):
        return sum(jnp.sum(jnp.sin(x + 1.0)) for x in jax.tree.leaves(first(layer(*args))))

    grads = probe.call(transform.jit(transform.grad(loss, trained, floating or None)), *args)
    by_state, by_input = grads if floating else (grads, ())
    for path, state in trained.items():
        assert jax.tree.map(jnp.shape, by_state[path]) == jax.tree.map(jnp.shape, state.value)
    found = leaves((by_state, by_input))
    assert all(np.isfinite(g).all() for g in found)
    assert any(g.any() for g in found)


PRECISIONS = {'float64': (64, jnp.float64), 'bfloat16': ('bf16', jnp.bfloat16)}


@pytest.mark.parametrize('name', PRECISIONS)
def test_precision_is_that_of_parameters_and_input(probe, name):
    case, (precision, dtype) = probe.case, PRECISIONS[name]
    if precision == 'bf16' and not case.float16:
        return

    def trained():
        return [state.value for state in case.build().states(ParamState).values()]

    def cast(x):
        return np.asarray(x).astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else np.asarray(x)

    with environ.context(precision=precision):
        try:
            made = transform.eval_shape(trained)
        except jax.errors.ConcretizationTypeError:  # built of a sparse matrix, say
            made = trained()
        assert {x.dtype for x in jax.tree.leaves(made)} <= {jnp.dtype(dtype)}
        layer = graph.clone(probe.layer)
        for state in layer.states().values():
            if not isinstance(state, random.RandomState):
                state.value = jax.tree.map(cast, state.value)
        out = first(probe.call(transform.jit(layer), *(jnp.asarray(cast(x)) for x in probe.args)))
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype(dtype)}
    if precision == 64 and not case.random:
        assert_close(out, first(probe.eager[0]), rtol=1e-4, atol=1e-4)
    assert all(np.isfinite(x).all() for x in leaves(out))


def test_a_wrong_input_shape_is_told_with_the_path_of_the_layer(probe):
    case, bad = probe.case, probe.case.bad
    if bad is None:
        bad = () if not case.in_size or not case.in_shape else ((*case.in_shape[:-1], case.in_shape[-1] + 1),)
    model = nn.Module()
    model.inner = graph.clone(probe.layer)
    for shape in bad:
        with pytest.raises(ValueError, match=rf'inner.*{type(model.inner).__name__}'), environ.context(**case.context):
            model.inner(*(jnp.asarray(x) for x in case.inputs(shape, jnp.float32)))
