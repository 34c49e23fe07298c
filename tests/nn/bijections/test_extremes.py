"""Far out in the tails: nothing saturates before the float does, and the log-determinant stays the derivative's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob.nn.bijections import (
    ChainT,
    ExpT,
    MaskedT,
    NegSoftplusT,
    PositiveT,
    PowerT,
    ScaledSigmoidT,
    SigmoidT,
    SimplexT,
    SoftplusT,
    SoftsignT,
    TanhT,
    UnitVectorT,
)
from tests.nn.bijections.cases import BIJECTIVE, WITH_DENSITY, ids


def far_points(case, far):
    """Zeros with one far entry, at either end; positive where the domain is."""
    signs = (1.0,) if not case.t.unconstrained else (1.0, -1.0)
    start = np.zeros(case.length) if case.t.unconstrained else np.ones(case.length)
    for sign in signs:
        for i in range(case.length):
            x = start.copy()
            x[i] = sign * far
            yield x


@pytest.mark.parametrize('precision', [32, 64])
@pytest.mark.parametrize('case', BIJECTIVE, ids=ids(BIJECTIVE))
def test_log_det_is_the_derivative(case, precision):
    """At 50 in float32 and 500 in float64; the Jacobians here are triangular, so their diagonal is all there is."""
    with jax.enable_x64(precision == 64):
        points = jnp.asarray(list(far_points(case, case.far32 if precision == 32 else case.far64)))

        @jax.jit
        def log_det_and_derivative(points):
            jacobians = jax.vmap(jax.jacobian(case.t.forward))(points)[:, : case.length]
            diagonal = jnp.diagonal(jacobians, axis1=1, axis2=2)
            return case.t.log_abs_det_jacobian(points), jnp.log(jnp.abs(diagonal))

        log_det, expected = log_det_and_derivative(points)
        assert log_det.dtype == f'float{precision}'
        if case.t.event_rank:
            expected = expected.sum(-1)
        assert np.all(np.isfinite(expected)), 'the oracle itself has left the range of the dtype'
        np.testing.assert_allclose(log_det, expected, rtol=1e-5 if precision == 32 else 1e-10, atol=1e-6)


@pytest.mark.parametrize('case', WITH_DENSITY, ids=ids(WITH_DENSITY))
def test_gradients_stay_finite(case):
    """Of the value and of the log-determinant, from next to zero to 80, in float32: no nan, no inf."""
    points = jnp.asarray([list(far_points(case, far)) for far in case.far_gradients])
    gradients = jax.jit(
        lambda x: [jax.grad(lambda x, f=f: jnp.sum(f(x)))(x) for f in (case.t.forward, case.t.log_abs_det_jacobian)]
    )(points)
    assert np.all(np.isfinite(gradients))


def test_exp_overflows_where_the_float_does():
    """The peer stops at exp(20), with gradient zero beyond."""
    t = PositiveT()
    np.testing.assert_allclose(t.forward(jnp.array([25.0, 50.0, 88.0])), np.exp([25.0, 50.0, 88.0]), rtol=1e-5)
    assert t.forward(89.0) == jnp.inf
    np.testing.assert_allclose(jax.grad(lambda x: t.forward(x))(50.0), np.exp(50.0), rtol=1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ExpT().forward(700.0), np.exp(700.0))
        np.testing.assert_allclose(SigmoidT().forward(-30.0), 1 / (1 + np.exp(30.0)), rtol=1e-12)


@pytest.mark.parametrize(
    ('t', 'y'),
    [
        (PositiveT(), [1e-37, 1e-12, 1.0, 1e9, 1e10, 1e38]),
        (ExpT(), [1e-37, 1e-12, 1.0, 1e9, 1e38]),
        (SoftplusT(), [2e-38, 1e-12, 1e-5, 1.0, 80.0, 1e9, 1e38]),
        (NegSoftplusT(), [-2e-38, -1e-12, -1.0, -80.0, -1e38]),
        (SigmoidT(), [1e-37, 1e-12, 0.5, 1 - 1e-6]),
        (TanhT(0.0, 1.0), [1e-37, 1e-12, 0.5, 1 - 1e-6]),
        (ScaledSigmoidT(0.0, 1.0, 3.0), [1e-37, 1e-12, 0.5]),
        (SoftsignT(), [1e-30, 1e-12, 0.5, 1 - 1e-6]),
        (SoftsignT(-1.0, 1.0), [1e-12, -1e-30, 0.5]),
        (ChainT(PositiveT(), PowerT(0.3)), [-3.3, 0.0, 1e5]),
        (SimplexT(), [1e-9, 1.0 - 2e-9, 1e-9]),
        (SimplexT(), [1.0, 1e-18, 1e-25, 1e-30]),
        (UnitVectorT(), [1e-15, 1.0]),
    ],
    ids=repr,
)
def test_values_near_a_bound_come_back(t, y):
    """With the bound at zero no digit is lost, however near (decision: exact to rounding)."""
    y = jnp.asarray(y)
    np.testing.assert_allclose(t.forward(t.inverse(y)), y, rtol=2e-5)


def test_softsign_tail_is_exact():
    """y is the distance to the bound, 1/(2(1 + |x|)); x/(1 + |x|) in float32 loses 1e-5 of it at 200."""
    x = jnp.array([-1e30, -1e6, -200.0])
    np.testing.assert_allclose(SoftsignT().forward(x), 0.5 / (1 - np.asarray(x, 'f8')), rtol=3e-7)
    np.testing.assert_allclose(SoftsignT().inverse(SoftsignT().forward(x)), x, rtol=3e-7)
    np.testing.assert_array_equal(SoftsignT(-1.0, 4.0).forward(jnp.array([jnp.inf, -jnp.inf])), [4.0, -1.0])
    assert jax.grad(lambda x: SoftsignT(-1.0, 1.0).forward(x))(0.0) == 1.0
    np.testing.assert_allclose(SoftsignT(-1.0, 1.0).forward(1e-12), 1e-12)


def test_simplex_keeps_small_entries_and_gradients():
    """Where 1 - z is formed instead, [20, 0, 0] gives [1, 0, 0, 0] and the gradient at 40 is nan."""
    t = SimplexT()
    rest = np.exp(-20.0)
    np.testing.assert_allclose(t.forward([20.0, 0.0, 0.0]), [1 - rest, rest / 2, rest / 4, rest / 4], rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(jnp.log(t.forward(x))))(jnp.array([40.0, 0.0, 0.0]))
    np.testing.assert_allclose(gradient, [-3.0, -0.5, 0.0], atol=1e-5)  # d/dx [log s(x) + 3 log s(-x)], ...
    with jax.enable_x64(True):
        for scale in (1, 3, 6, 10):
            x = scale * np.random.default_rng(scale).normal(size=(100, 5))
            np.testing.assert_allclose(t.inverse(t.forward(x)), x, rtol=1e-9, atol=1e-9)


def test_power_by_a_tiny_exponent(x64):
    for lmbda in (1e-5, 1e-12, -1e-12, 1e-300, 0.0):
        t = PowerT(lmbda)
        # log 2 + lmbda (log 2)^2 / 2
        np.testing.assert_allclose(t.forward(2.0), np.log(2) * (1 + lmbda * np.log(2) / 2), rtol=1e-10)
        np.testing.assert_allclose(t.inverse(t.forward(2.0)), 2.0, rtol=1e-14)
        slope = jax.grad(lambda lmbda: PowerT(lmbda).forward(2.0))(lmbda)
        np.testing.assert_allclose(slope, np.log(2) ** 2 / 2, rtol=1e-4)


@pytest.mark.parametrize('length', [1e-30, 1e-5, 1e-2, 1.0, 1e20, 1e38])
def test_unit_vector_of_any_length(length):
    y = UnitVectorT().forward(jnp.array([0.6, -0.8]) * length)
    np.testing.assert_allclose(y, [0.6, -0.8], rtol=1e-6)


def test_unit_vector_gradient_is_a_rotation(x64):
    """Along x itself nothing moves; across it by 1/|x|: also where the largest entry changes."""
    for x in ([3.0, 4.0], [1.0, 1.0], [0.0, -2.0]):
        x = np.array(x)
        norm = np.linalg.norm(x)
        expected = (np.eye(2) - np.outer(x, x) / norm**2) / norm
        np.testing.assert_allclose(jax.jacobian(UnitVectorT().forward)(x), expected, atol=1e-14)


def test_mask_keeps_nan_out():
    """The entries left alone lie far outside what the inner transform takes."""
    t = MaskedT([True, False], PowerT(0.5))
    x = jnp.array([4.0, -3.0])
    np.testing.assert_allclose(t.forward(x), [2.0, -3.0])
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(t.forward(x)))(x), [0.5, 1.0])
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(t.log_abs_det_jacobian(x)))(x), [-0.125, 0.0])
    t = MaskedT([False, True], SigmoidT(2.0, 3.0))
    y = jnp.array([-7.0, 2.5])
    np.testing.assert_allclose(jax.grad(lambda y: jnp.sum(t.inverse(y)))(y), [1.0, 4.0])


def test_straight_through_gradient():
    from brainstate_prob.nn.bijections import ClipT, ReluT

    x = jnp.array([-3.0, 0.5, 3.0])
    for make, arguments in ((ClipT, (0.0, 1.0)), (ReluT, (0.0,))):
        through, stuck = make(*arguments, straight_through=True), make(*arguments)
        np.testing.assert_array_equal(through.forward(x), stuck.forward(x))
        np.testing.assert_array_equal(jax.grad(lambda x, t=through: t.forward(x).sum())(x), [1.0, 1.0, 1.0])
        assert jax.grad(lambda x, t=stuck: t.forward(x).sum())(x)[0] == 0.0


def test_neg_softplus_log_det():
    """The peer inherits the one of softplus, which is off by x."""
    x = np.array([0.3, -1.2, 2.5])
    got = NegSoftplusT().log_abs_det_jacobian(x)
    np.testing.assert_allclose(got, -np.logaddexp(0, x), rtol=1e-6)
    np.testing.assert_allclose(got.sum(), -3.697, atol=1e-3)
