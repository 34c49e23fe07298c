"""Grouping: members of one family, computed as one expression over stacked arguments, give what each gives alone."""

import brainunit as u
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
    from_family,
)

FAMILIES = [
    [IdentityT(), IdentityT()],
    [PositiveT(), ExpT(), ExpT(2.0), LogT(-1.0)],
    [SigmoidT(), SigmoidT(-1.0, 3.0), TanhT(-1.0, 1.0), ScaledSigmoidT(0.0, 5.0, 0.5)],
    [SoftplusT(), SoftplusT(1.0), SoftplusT(3.0 * u.mV).with_unit(u.mV)],
    [NegSoftplusT(), NegativeT(), NegSoftplusT(4.0)],
    [SoftsignT(), SoftsignT(-1.0, 1.0)],
    [AffineT(2.0, 1.0), AffineT(-0.5, 0.0)],
    [PowerT(0.5), PowerT(0.0), PowerT(-1.0)],
    [ClipT(), ClipT(0.0, 0.1)],
    [ReluT(), ReluT(1.0)],
    [ChainT(PositiveT(), PowerT(0.5)), ChainT(LogT(1.0), PowerT(0.0))],
    [ChainT(SigmoidT(), AffineT(2.0, 1.0)), ChainT(TanhT(0.0, 3.0), AffineT(1.0, 0.0))],
]


@pytest.mark.parametrize('members', FAMILIES, ids=lambda members: repr(members[0]))
def test_one_expression_for_all(members):
    assert len({member.family_key() for member in members}) == 1
    columns = [member.family_params() for member in members]
    stacked = {name: jnp.array([column[name] for column in columns]) for name in columns[0]}
    family = from_family(members[0].family_key(), stacked)
    x = jnp.linspace(0.2, 1.5, len(members))
    y = family.forward(x)
    np.testing.assert_allclose(y, [t.forward(xi) for t, xi in zip(members, x, strict=True)], rtol=1e-6)
    np.testing.assert_allclose(family.inverse(y), [t.inverse(yi) for t, yi in zip(members, y, strict=True)], rtol=1e-4)
    if family.has_density:
        alone = [t.log_abs_det_jacobian(xi) for t, xi in zip(members, x, strict=True)]
        np.testing.assert_allclose(family.log_abs_det_jacobian(x), alone, rtol=1e-5, atol=1e-6)
    # Members that are arrays: arguments spread over a trailing axis.
    column = from_family(members[0].family_key(), {name: value[:, None] for name, value in stacked.items()})
    np.testing.assert_allclose(column.forward(jnp.stack([x, x], axis=-1))[:, 1], y, rtol=1e-6)


def test_families_are_told_apart():
    keys = [members[0].family_key() for members in FAMILIES]
    keys += [t.family_key() for t in (OrderedT(), SimplexT(), UnitVectorT(), ClipT(straight_through=True))]
    keys += [ChainT(PositiveT(), AffineT(1.0)).family_key()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize('t', [OrderedT(), SimplexT(), UnitVectorT(), ChainT(OrderedT(), PositiveT())], ids=repr)
def test_vectors_of_equal_length_stack(t):
    family = from_family(t.family_key(), t.family_params())
    x = jnp.array([[0.1, -0.2], [1.0, 2.0]])
    np.testing.assert_allclose(family.forward(x), [t.forward(row) for row in x], rtol=1e-6)
    np.testing.assert_allclose(family.log_abs_det_jacobian(x), [t.log_abs_det_jacobian(row) for row in x], rtol=1e-5)


def test_masked_ones_stand_alone():
    t = MaskedT([True], PositiveT())
    assert t.family_key() is None
    assert ChainT(t, AffineT(2.0)).family_key() is None


def test_params_are_in_the_own_unit():
    assert SigmoidT(1.0 * u.mV, 0.002 * u.volt).family_params() == {'lower': 1.0, 'upper': 2.0, 'beta': 1.0}
    chain = ChainT(PositiveT(), AffineT(2.0, 1.0))
    assert chain.family_params() == {'0.lower': 0.0, '1.scale': 2.0, '1.shift': 1.0}
