"""What every transform of the table must satisfy."""

import copy
import pickle

import brainunit as u
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import brainstate_prob.nn.bijections as bijections
from brainstate_prob.nn.bijections import SimplexT, UnitVectorT
from tests.nn.bijections.cases import BIJECTIVE, CASES, WITH_DENSITY, ids

every = pytest.mark.parametrize('case', CASES, ids=ids(CASES))
every_bijection = pytest.mark.parametrize('case', BIJECTIVE, ids=ids(BIJECTIVE))
every_density = pytest.mark.parametrize('case', WITH_DENSITY, ids=ids(WITH_DENSITY))


def test_table_has_all_twenty():
    parts = {type(case.t) for case in CASES}
    assert {name for name in bijections.__all__ if name.endswith('T')} == {cls.__name__ for cls in parts}
    assert len(parts) == 20


@every
def test_formula(case, x64):
    for seed in range(3):
        x = case.theta(seed=seed, dtype='f8')
        np.testing.assert_allclose(case.t.forward(x), case.formula(np.asarray(x)), rtol=1e-10, atol=1e-14)
        np.testing.assert_array_equal(case.t(x), case.t.forward(x))


@every_bijection
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_round_trip(case, seed):
    with jax.enable_x64(True):
        x = case.theta((2,), seed, 'f8')
        y = case.t.forward(x)
        case.t.check(y)
        np.testing.assert_allclose(case.t.inverse(y), x, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(case.t.forward(case.t.inverse(y)), y, rtol=1e-9, atol=1e-12)


@every
def test_inverse_is_a_right_inverse(case):
    """Also for what is no bijection: an allowed value comes back."""
    y = case.t.forward(case.theta((4,)))
    np.testing.assert_allclose(case.t.forward(case.t.inverse(y)), y, rtol=2e-5, atol=1e-6)


@every_bijection
def test_log_det_is_that_of_the_jacobian(case, x64):
    for seed in range(3):
        x = case.theta(seed=seed, dtype='f8')
        square = jax.jacobian(case.t.forward)(x)[: case.length]  # of a simplex the first n entries
        got = case.t.log_abs_det_jacobian(x, case.t.forward(x))
        if case.t.event_rank == 0:
            np.testing.assert_allclose(got, np.log(abs(np.diag(square))), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(jnp.sum(got), np.linalg.slogdet(square)[1], rtol=1e-8, atol=1e-8)
        np.testing.assert_array_equal(case.t.log_abs_det_jacobian(x), got)


def test_unit_vector_log_det_is_the_gaussian_measure(x64):
    x = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(UnitVectorT().log_abs_det_jacobian(x), [-12.5, -0.5])


@every_density
def test_batch_axes_and_log_det_shape(case):
    x = case.theta((2, 5))
    y, log_det = case.t.forward(x), case.t.log_abs_det_jacobian(x)
    assert y.shape == case.t.forward_shape(x.shape)
    assert case.t.inverse_shape(y.shape) == x.shape
    assert log_det.shape == x.shape[: x.ndim - case.t.event_rank]
    rows = x.reshape(-1, case.length)
    np.testing.assert_allclose(y.reshape(10, -1), [case.t.forward(row) for row in rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        log_det.reshape(10, -1).squeeze(), [case.t.log_abs_det_jacobian(row) for row in rows], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(jax.vmap(case.t.forward)(x), y, rtol=1e-5, atol=1e-6)


@every
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_dtype_is_kept(case, dtype):
    if any(hasattr(leaf, 'dtype') for leaf in jax.tree.leaves(case.t)):
        pytest.skip('an array argument promotes as JAX promotes; see test_array_argument_promotes')
    with jax.enable_x64(True):  # where a stray Python number would become float64
        x = case.theta(dtype=dtype)
        y = case.t.forward(x)
        assert y.dtype == dtype
        assert case.t.inverse(case.t.nearest_interior(y)).dtype == dtype
        if case.t.has_density:
            assert case.t.log_abs_det_jacobian(x).dtype == dtype
        near = 20 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(y, 'f8'), case.formula(np.asarray(x, 'f8')), rtol=near, atol=near)


def test_array_argument_promotes(x64):
    lower = jnp.zeros(2, 'f4')
    assert bijections.SoftplusT(lower).forward(jnp.zeros(2, 'f2')).dtype == 'f4'
    assert bijections.SoftplusT(np.float64(0.0)).forward(jnp.zeros(2, 'f2')).dtype == 'f2'  # a NumPy scalar is a number


def test_integers_become_floats():
    assert bijections.ExpT(0).forward(np.array([0, 1])).dtype == 'f4'
    assert bijections.IdentityT().forward([1, 2]).dtype == 'f4'


@every
def test_jit_and_traced_arguments(case):
    x = case.theta()
    y = case.t.forward(x)
    np.testing.assert_allclose(jax.jit(case.t.forward)(x), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda t, x: t.forward(x))(case.t, x), y, rtol=1e-5, atol=1e-6)
    inverse = jax.jit(lambda t, y: t.inverse(y))(case.t, y)
    np.testing.assert_allclose(inverse, case.t.inverse(y), rtol=1e-4, atol=1e-5)
    if case.t.has_density:
        log_det = jax.jit(lambda t, x: t.log_abs_det_jacobian(x))(case.t, x)
        np.testing.assert_allclose(log_det, case.t.log_abs_det_jacobian(x), rtol=1e-5, atol=1e-5)
    assert bool(jnp.all(jax.jit(case.t.contains)(y)))


@every_bijection
def test_gradients_by_theta_and_arguments(case, x64):
    """Of the map and of the log-determinant, along two random directions, against central differences."""
    leaves, tree = jax.tree.flatten((case.t, case.theta(dtype='f8')))
    leaves = [jnp.asarray(leaf, 'f8') for leaf in leaves]

    def score(leaves):
        t, x = jax.tree.unflatten(tree, leaves)
        y = t.forward(x)
        return jnp.sum(jnp.arange(1.0, y.size + 1) * y) + jnp.sum(t.log_abs_det_jacobian(x))

    score_and_gradient = jax.jit(jax.value_and_grad(score))
    gradient = score_and_gradient(leaves)[1]
    rng = np.random.default_rng(0)
    for _ in range(2):
        steps = [1e-6 * rng.normal(size=leaf.shape) * np.where(leaf == 0, 1, abs(leaf)) for leaf in leaves]
        ends = [
            score_and_gradient([leaf + sign * step for leaf, step in zip(leaves, steps, strict=True)])[0]
            for sign in (1, -1)
        ]
        along = sum(np.sum(g * step) for g, step in zip(gradient, steps, strict=True))
        np.testing.assert_allclose(along / 1e-6, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)


@every
def test_tfp_bijector_agrees(case):
    x = case.theta((2,))
    bijector = case.t.bijector
    np.testing.assert_allclose(bijector.forward(x), case.t.forward(x), rtol=2e-5, atol=2e-6)
    assert bijector.forward_min_event_ndims == case.t.event_rank
    if case.t.has_density:
        log_det = bijector.forward_log_det_jacobian(x, event_ndims=1)
        np.testing.assert_allclose(log_det, case.t.log_abs_det_jacobian(x).reshape(2, -1).sum(-1), rtol=1e-4, atol=1e-4)
    y = jnp.array(case.t.forward(x))
    np.testing.assert_allclose(case.t.bijector.inverse(y), case.t.inverse(y), rtol=1e-4, atol=1e-4)


@every
def test_domain_and_codomain(case):
    x = case.theta((4,))
    assert np.all(case.t.domain(x))
    y = np.asarray(case.t.forward(x))
    inside = case.t.codomain(y)
    assert np.all(inside)
    assert np.shape(inside) == y.shape[: y.ndim - case.t.codomain.event_dim]
    assert case.t.domain.event_dim == case.t.codomain.event_dim == case.t.event_rank
    assert np.all(case.t.contains(y))
    lower, upper = case.t.bounds
    assert np.all(np.asarray(lower) <= y) and np.all(y <= np.asarray(upper))
    assert case.t.unconstrained == (not isinstance(case.t, bijections.PowerT))


@every
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_nearest_interior(case, dtype):
    """Any finite numbers find a place inside, with finite theta; what is inside already stays."""
    if not case.half and dtype in ('float16', 'bfloat16'):
        pytest.skip('its arguments vanish in half precision')
    with jax.enable_x64(True):
        length = case.t.forward_shape((case.length,))[-1]
        wild = np.random.default_rng(0).normal(0, 3, (50, length))
        wild = np.concatenate([wild, np.zeros((1, length)), np.full((1, length), 2.0), np.full((1, length), -1e3)])
        wild = jnp.asarray(wild, dtype)
        moved = case.t.nearest_interior(wild)
        case.t.check(moved)
        theta = case.t.inverse(moved)
        assert np.all(np.isfinite(np.asarray(theta, 'f8')))
        inside = case.t.forward(case.theta(dtype=moved.dtype))
        inside = case.t.nearest_interior(inside)
        np.testing.assert_array_equal(case.t.nearest_interior(inside), inside)


@every
def test_is_a_value(case):
    for other in (pickle.loads(pickle.dumps(case.t)), copy.deepcopy(case.t), jax.tree.map(lambda leaf: leaf, case.t)):
        assert other == case.t
        assert hash(other) == hash(case.t)
    assert len({repr(one) for one in (case.t, copy.copy(case.t))}) == 1
    rebuilt = eval(repr(case.t), {**vars(bijections), 'u': u, 'jnp': jnp})
    assert rebuilt == case.t
    assert [one.t for one in CASES if one.t == case.t] == [case.t]  # and to no other of the table
    assert case.t != 'SoftplusT'


@every
def test_is_a_pytree_over_its_numbers(case):
    leaves, tree = jax.tree.flatten(case.t)
    assert all(np.issubdtype(jnp.result_type(leaf), np.floating) for leaf in leaves)
    doubled = jax.tree.unflatten(tree, [2 * leaf for leaf in leaves])
    assert type(doubled) is type(case.t)
    assert jax.tree.structure(doubled) == tree
    hash(tree)


def test_tracers_compare_by_identity():
    def f(a, b):
        assert bijections.SoftplusT(a) == bijections.SoftplusT(a)
        assert bijections.SoftplusT(a) != bijections.SoftplusT(b)
        assert 'traced' in repr(bijections.SoftplusT(a))
        return bijections.SigmoidT(a, b).forward(0.0)

    assert jax.jit(f)(0.0, 1.0) == 0.5


def test_equality_is_by_value_and_kind():
    assert bijections.SoftplusT(0) == bijections.SoftplusT(0.0)
    assert bijections.SoftplusT(1.0) != bijections.SoftplusT(0.0)
    assert bijections.SoftplusT(0.0) != bijections.ExpT(0.0)
    assert bijections.SoftplusT(jnp.zeros(2)) == bijections.SoftplusT([0.0, 0.0])
    assert bijections.SoftplusT(jnp.zeros(2)) != bijections.SoftplusT(jnp.zeros(3))
    assert bijections.SoftplusT(0 * u.mV) == bijections.SoftplusT(0.0 * u.mV) != bijections.SoftplusT(0.0)
    assert bijections.PositiveT() == bijections.PositiveT()
    assert bijections.ClipT(straight_through=True) != bijections.ClipT()


def test_simplex_shapes():
    assert SimplexT().forward_shape((4, 3)) == (4, 4)
    assert SimplexT().inverse_shape((4, 4)) == (4, 3)
