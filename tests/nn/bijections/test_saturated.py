"""Saturated values: what `forward` gives, however far theta is, `inverse` and `set_value` take, with a finite theta."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from tests.nn.bijections.cases import CASES, ids

SIZES = (0.5, 10.0, 20.0, 40.0, 100.0, 1e3)


def thetas(case):
    """Vectors of all sizes and signs, each beside small and large neighbours."""
    signs = [1.0, -1.0] if case.t.unconstrained else [1.0]
    ends = [sign * size for size in SIZES for sign in signs]
    rng = np.random.default_rng(0)
    mixed = rng.choice(ends, (8, case.length)) * rng.uniform(0.5, 1.0, (8, case.length))
    return [*(np.full(case.length, end) for end in ends), *mixed]


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('case', CASES, ids=ids(CASES))
def test_inverse_takes_what_forward_gives(case, dtype, x64):
    for theta in thetas(case):
        value = case.t.forward(jnp.asarray(theta, dtype))
        back = case.t.inverse(value)
        assert back.dtype == dtype and np.isfinite(back).all(), (theta, value, back)
        # The point inside is worth the same number, to a few units in the last place of the largest one and, for an
        # exponential near its overflow, to the rounding of theta times theta.
        again, value = (np.asarray(v, 'f8') for v in (case.t.forward(back), value))
        finite = np.isfinite(value)
        rtol = 2e-3 if dtype == 'float32' else 1e-9
        np.testing.assert_allclose(again[finite], value[finite], rtol=rtol, atol=1e-5)
        assert (again[~finite] > 1e10).all()  # for what has overflowed the largest value stands, or what rounds to it


@pytest.mark.parametrize('case', CASES, ids=ids(CASES))
def test_set_value_takes_what_value_gives(case):
    param = nn.Param(case.t.forward(case.theta(dtype='float32')), t=case.t, fit=True) if case.t.unconstrained else None
    if param is None:
        return
    for theta in thetas(case):
        param.val.value = jnp.asarray(theta, 'float32')
        value = param.value()
        if not np.isfinite(value).all():  # overflow is no value
            with pytest.raises(ValueError, match='NaN or infinite'):
                param.set_value(value)
            continue
        param.set_value(value)
        assert np.isfinite(param.val.value).all()
        np.testing.assert_allclose(param.value(), value, rtol=2e-3, atol=1e-5)


def test_the_nearest_point_inside_stands_for_a_bound(x64):
    tanh = nn.TanhT(-1.0, 1.0)
    assert tanh.forward(20.0) == 1.0
    assert tanh.inverse(1.0) == tanh.inverse(np.nextafter(1.0, 0.0))
    assert nn.PositiveT().forward(nn.PositiveT().inverse(0.0)) <= 3e-308
    np.testing.assert_allclose(nn.SimplexT().forward(nn.SimplexT().inverse([1.0, 0.0, 0.0])), [1, 0, 0], atol=1e-300)


# (transform, value): beyond the bound, where forward never is
BEYOND = [
    (nn.TanhT(-1.0, 1.0), 1.0000001),
    (nn.SigmoidT(), -1e-30),
    (nn.SoftplusT(1.0), 0.9999),
    (nn.SoftplusT(), np.inf),
    (nn.PositiveT(), -0.1),
    (nn.PositiveT(), np.nan),
    (nn.IdentityT(), np.inf),
    (nn.AffineT(2.0), -np.inf),
    (nn.SimplexT(), [0.5, 0.6, -0.1]),
    (nn.SimplexT(), [0.5, 0.0, 0.0]),
    (nn.OrderedT(), [1.0, 0.0]),
    (nn.ChainT(nn.SigmoidT(), nn.AffineT(-100.0, 30.0)), 31.0),
    (nn.MaskedT([True, False], nn.SigmoidT()), [1.1, 5.0]),
    (nn.UnitVectorT(), [0.0, 0.0]),
]


@pytest.mark.parametrize('t, value', BEYOND, ids=repr)
def test_beyond_a_bound_is_refused(t, value, x64):
    with pytest.raises(ValueError, match='a value must'):
        t.inverse(value)


def test_a_start_at_a_bound_is_told_and_finite():
    with pytest.warns(UserWarning, match='a value must lie in'):
        param = nn.Param(1.0, t=nn.SigmoidT())
    assert np.isfinite(param.val.value)


class Rates(nn.Module):
    def __init__(self):
        super().__init__()
        self.share = nn.Param(0.5, t=None, reg=nn.BetaReg(a=1.0, b=1.0))
        self.mix = nn.Param(jnp.ones(3) / 3, t=None, reg=nn.DirichletReg(alpha=jnp.full(3, 0.01)))

    def update(self, x):
        return self.share.value() * x + self.mix.value().sum()


def test_unconstrain_takes_what_constrain_gives():
    posterior = infer.Posterior(Rates(), jnp.ones(3), jnp.ones(3), likelihood=lambda m, x: dist.Normal(m(x), 1.0))
    for size in (3.0, 20.0, 100.0, 1e3):
        for sign in (1.0, -1.0):
            theta = posterior.unconstrain(posterior.constrain(jnp.full(3, sign * size)))
            assert np.isfinite(theta).all()


def test_draws_at_the_edge_start_inside():
    model = Rates()
    for seed in range(20):  # most draws have entries that are 0 or 1 in float32
        model.mix.init_from_prior(jax.random.PRNGKey(seed))
        assert np.isfinite(model.mix.val.value).all()
