"""The figures that the user's pages print, and what the constructor of a parameter relies on."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_probability.substrates.jax.bijectors as tfb

from brainstate_prob.nn.bijections import OrderedT, SigmoidT, SimplexT, SoftplusT, UnitVectorT


def test_softplus_page():
    t = SoftplusT(lower=0.0)
    np.testing.assert_allclose(t.forward(t.inverse(0.5)), 0.5, rtol=2e-7)
    np.testing.assert_allclose(t.forward(-10.0), 4.5398901e-05, rtol=1e-6)
    np.testing.assert_allclose(SoftplusT().inverse([1.0, 2.0]), np.log(np.expm1([1.0, 2.0])), rtol=1e-6)


def test_sigmoid_page():
    got = [f'{float(SigmoidT(lower=0.0, upper=1.0).forward(x)):.4f}' for x in (0.0, 100.0, -100.0)]
    assert got == ['0.5000', '1.0000', '0.0000']


@pytest.mark.parametrize(
    ('theta', 'printed'),
    [([0.0, 0.0, 0.0], [0.5, 0.25, 0.125, 0.125]), ([2.0, -1.0, 0.5], [0.8808, 0.0321, 0.0542, 0.0329])],
)
def test_simplex_page(theta, printed):
    y = SimplexT().forward(jnp.array(theta))
    assert [round(float(v), 4) for v in y] == printed
    assert round(float(y.sum()), 6) == 1.0
    centred = tfb.Chain([tfb.IteratedSigmoidCentered(), tfb.Shift(jnp.log(jnp.arange(3.0, 0.0, -1.0)))])
    np.testing.assert_allclose(y, centred.forward(jnp.array(theta)), rtol=1e-5)
    np.testing.assert_allclose(
        SimplexT().log_abs_det_jacobian(jnp.array(theta)), centred.forward_log_det_jacobian(jnp.array(theta)), rtol=1e-5
    )


def test_lenient_start_of_a_simplex():
    """Renormalized where there is something to renormalize, uniform where there is not."""
    t = SimplexT()
    np.testing.assert_allclose(t.nearest_interior(jnp.zeros(3)), np.full(3, 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(t.nearest_interior([2.0, 3.0, 5.0]), [0.2, 0.3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(t.nearest_interior([[1.0, 1.0], [-1.0, -1.0]]), np.full((2, 2), 0.5), rtol=1e-6)


def test_lenient_start_elsewhere():
    np.testing.assert_allclose(UnitVectorT().nearest_interior([3.0, 4.0]), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(UnitVectorT().nearest_interior([0.0, 0.0]), [1.0, 0.0])
    np.testing.assert_allclose(OrderedT().nearest_interior([3.0, 1.0, 2.0]), [1.0, 2.0, 3.0], rtol=1e-3)
    near = SigmoidT(0.0, 10.0).nearest_interior([-5.0, 5.0, 20.0])
    np.testing.assert_allclose(near, [0.0, 5.0, 10.0], atol=1e-2)
    assert near[1] == 5.0
    far_from_zero = SoftplusT(1e8).nearest_interior(-1.0)  # the margin survives the dtype next to a large bound
    assert far_from_zero > 1e8 and np.isfinite(SoftplusT(1e8).inverse(far_from_zero))
    narrow = SigmoidT(1.0, 1.0 + 3e-7)  # two steps of float32 wide
    assert np.isfinite(narrow.inverse(narrow.nearest_interior(7.0)))
