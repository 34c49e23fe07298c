"""Quantities: theta is always plain, the value has the unit of the arguments, and nothing is dropped in silence."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob.nn.bijections import (
    AffineT,
    ChainT,
    ClipT,
    ExpT,
    IdentityT,
    LogT,
    MaskedT,
    NegativeT,
    NegSoftplusT,
    OrderedT,
    PositiveT,
    PowerT,
    ReluT,
    ScaledSigmoidT,
    SigmoidT,
    SimplexT,
    SoftplusT,
    SoftsignT,
    TanhT,
    UnitVectorT,
)

mV, volt, ms = u.mV, u.volt, u.ms
# With a unit; the same with plain numbers in mV; the same with plain numbers in volt.
WITH_UNIT = [
    (SoftplusT(1.0 * mV), SoftplusT(1.0), SoftplusT(1e-3)),
    (SoftplusT(0.0 * volt), SoftplusT(0.0), SoftplusT(0.0)),
    (SoftplusT(jnp.array([1.0, 2.0]) * mV), SoftplusT([1.0, 2.0]), SoftplusT([1e-3, 2e-3])),
    (ExpT(1.0 * mV), ExpT(1.0), ExpT(1e-3)),
    (LogT(1.0 * mV), LogT(1.0), LogT(1e-3)),
    (NegSoftplusT(1.0 * mV), NegSoftplusT(1.0), NegSoftplusT(1e-3)),
    (ReluT(1.0 * mV), ReluT(1.0), ReluT(1e-3)),
    (ClipT(0.0 * mV, 1e-3 * volt), ClipT(0.0, 1.0), ClipT(0.0, 1e-3)),
    (SigmoidT(0.0, 1.0 * mV), SigmoidT(0.0, 1.0), SigmoidT(0.0, 1e-3)),
    (TanhT(-1.0 * mV, 1.0 * mV), TanhT(-1.0, 1.0), TanhT(-1e-3, 1e-3)),
    (SoftsignT(-1.0 * mV, 1.0 * mV), SoftsignT(-1.0, 1.0), SoftsignT(-1e-3, 1e-3)),
    (ScaledSigmoidT(0.0 * mV, 1.0 * mV, 2.0), ScaledSigmoidT(0.0, 1.0, 2.0), ScaledSigmoidT(0.0, 1e-3, 2.0)),
    (AffineT(2.0 * mV, -70.0 * mV), AffineT(2.0, -70.0), AffineT(2e-3, -70e-3)),
    (AffineT(2.0 * mV, 0.0), AffineT(2.0, 0.0), AffineT(2e-3, 0.0)),
    (
        ChainT(SigmoidT(), AffineT(100.0 * mV, -70.0 * mV)),
        ChainT(SigmoidT(), AffineT(100.0, -70.0)),
        ChainT(SigmoidT(), AffineT(0.1, -70e-3)),
    ),
    (
        MaskedT([True, False], SoftplusT(1.0 * mV)),
        MaskedT([True, False], SoftplusT(1.0)),
        MaskedT([True, False], SoftplusT(1e-3)),
    ),
]
UNITLESS = [
    IdentityT(),
    PositiveT(),
    NegativeT(),
    SoftplusT(),
    ExpT(),
    PowerT(0.5),
    OrderedT(),
    SimplexT(),
    UnitVectorT(),
    SigmoidT(),
    MaskedT([True, False], PositiveT()),
    ChainT(OrderedT(), PositiveT()),
]


@pytest.mark.parametrize(('t', 'in_mV', 'in_volt'), WITH_UNIT, ids=[repr(row[0]) for row in WITH_UNIT])
def test_bounds_with_unit(t, in_mV, in_volt):
    x = jnp.array([0.25, -0.5])
    plain = in_mV if t.unit == mV else in_volt
    y = t.forward(x)
    assert isinstance(y, u.Quantity) and y.unit == t.unit
    np.testing.assert_allclose(y.mantissa, plain.forward(x), rtol=1e-6)
    inverse = t.inverse(y)
    assert isinstance(inverse, jax.Array)
    np.testing.assert_allclose(inverse, plain.inverse(plain.forward(x)), rtol=1e-4)
    for unit in (mV, volt):
        np.testing.assert_allclose(t.inverse(y.in_unit(unit)), inverse, rtol=1e-3, atol=1e-6)
    if t.has_density:
        np.testing.assert_array_equal(t.log_abs_det_jacobian(x), plain.log_abs_det_jacobian(x))
    np.testing.assert_allclose(np.asarray(t.bounds[0]), np.asarray(plain.bounds[0]), rtol=1e-6)
    t.check(t.nearest_interior(-100.0 * jnp.ones(2) * volt))
    assert t.nearest_interior(y).unit == t.unit

    assert t.with_unit(mV).unit is None
    for unit, expected in ((mV, in_mV), (volt, in_volt)):
        got = t.with_unit(unit)
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
    with pytest.raises(u.UnitMismatchError, match=r'carries the unit .*mV|carries the unit .*V'):
        t.with_unit(ms)
    with pytest.raises(u.UnitMismatchError):
        t.with_unit(u.UNITLESS)
    for method in (t.inverse, t.check, t.contains, t.nearest_interior):
        with pytest.raises(u.UnitMismatchError, match=rf'{type(t).__name__}.*carries the unit ms'):
            method(jnp.ones(2) * ms)
        with pytest.raises(u.UnitMismatchError, match=r'is a plain number, but a quantity in'):
            method(jnp.ones(2))


@pytest.mark.parametrize('t', UNITLESS, ids=repr)
def test_without_unit(t):
    """Plain in, plain out, never a dimensionless quantity; `with_unit` leaves it as it is, for numbers in that unit."""
    x = jnp.array([0.25, 0.5])
    y = t.forward(x)
    assert type(y) is type(x) and t.unit is None
    assert t.with_unit(mV) is t
    np.testing.assert_array_equal(t.inverse(u.Quantity(y)), t.inverse(y))
    np.testing.assert_array_equal(t.forward(u.Quantity(x)), y)
    assert type(t.forward(u.Quantity(x))) is type(x)
    with pytest.raises(u.UnitMismatchError, match=r'has no unit, but the value carries mV'):
        t.inverse(y * mV)
    with pytest.raises(u.UnitMismatchError, match=r'theta is a plain array; got the unit mV'):
        t.forward(x * mV)


def test_dimensionless_quantity_is_a_number():
    assert SoftplusT(u.Quantity(1.0)) == SoftplusT(1.0)
    assert SoftplusT(u.Quantity(1.0)).unit is None


def test_units_under_jit_and_grad():
    def f(lower, x):
        y = SigmoidT(lower * mV, 0.01 * volt).forward(x)
        return y.to_decimal(volt)

    value, slope = jax.jit(jax.value_and_grad(f))(1.0, 0.0)
    np.testing.assert_allclose(value, 0.0055, rtol=1e-6)
    np.testing.assert_allclose(slope, 0.0005, rtol=1e-5)
    t = SoftplusT(jnp.float32(2.0) * mV)
    got = jax.jit(lambda t, x: t.forward(x))(t, 0.0)
    assert got.unit == mV
    np.testing.assert_allclose(got.mantissa, 2 + np.log(2), rtol=1e-6)


def test_compound_unit_in_the_repr():
    t = SoftplusT(1.0 * mV / ms)
    assert repr(t) == "SoftplusT(lower=1.0 * u.parse_unit('mV / ms'))"
    assert eval(repr(t)) == t
