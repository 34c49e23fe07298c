"""What is wrong raises where it is given, and the message says what came, what is allowed and what to do."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import brainstate_prob.nn.bijections as b
from brainstate_prob.nn.bijections import arguments

CONSTRUCTORS = [
    (lambda: b.SigmoidT(1.0, 0.0), ValueError, r'SigmoidT: lower must be smaller than upper; got lower=1 and upper=0'),
    (lambda: b.SigmoidT(1.0, 1.0), ValueError, r'lower must be smaller than upper'),
    (lambda: b.TanhT(1.0, 0.0), ValueError, r'TanhT: lower must be smaller than upper'),
    (lambda: b.SoftsignT([0.0, 3.0], 1.0), ValueError, r'lower=3 and upper=1 at \[1\] \(1 of 2 pairs\)'),
    (lambda: b.ClipT(1.0, 0.0), ValueError, r'ClipT: lower must be smaller than upper'),
    (lambda: b.ClipT(2 * u.mV, 1 * u.mV), ValueError, r'lower=2 and upper=1 mV'),
    (lambda: b.SigmoidT(np.zeros(2), np.ones(3)), ValueError, r'and upper of shape \(3,\) do not broadcast'),
    (lambda: b.ScaledSigmoidT(0.0, 1.0, beta=0.0), ValueError, r'ScaledSigmoidT: beta must be positive; got beta=0'),
    (lambda: b.ScaledSigmoidT(0.0, 1.0, beta=[1.0, -1.0]), ValueError, r'beta must be positive'),
    (lambda: b.ScaledSigmoidT(0.0, 1.0, beta=1 * u.mV), u.UnitMismatchError, r'beta must be a plain number'),
    (lambda: b.AffineT(0.0, 1.0), ValueError, r'AffineT: scale must not be zero'),
    (lambda: b.AffineT([1.0, 0.0], 1.0), ValueError, r'AffineT: scale must not be zero'),
    (lambda: b.AffineT(2.0, 1.0 * u.mV), u.UnitMismatchError, r'AffineT: scale is a plain number.*number \* u\.mV'),
    (lambda: b.SoftplusT(float('nan')), ValueError, r'SoftplusT: lower must be finite; got nan'),
    (lambda: b.ExpT(-np.inf), ValueError, r'ExpT: lower must be finite'),
    (lambda: b.SoftplusT('0'), TypeError, r"SoftplusT: lower must be a number, an array or a quantity; got '0'"),
    (lambda: b.SoftplusT(None), TypeError, r'lower must be a number'),
    (lambda: b.SoftplusT(True), TypeError, r'lower must hold real numbers; got dtype bool'),
    (lambda: b.SoftplusT(1j), TypeError, r'lower must hold real numbers; got dtype complex'),
    (lambda: b.PowerT(1 * u.mV), u.UnitMismatchError, r'PowerT: lmbda must be a plain number'),
    (lambda: b.SigmoidT(0.0 * u.mV, 1.0 * u.ms), u.UnitMismatchError, r'SigmoidT: upper carries the unit ms.* mV'),
    (lambda: b.SigmoidT(1.0, 5.0 * u.mV), u.UnitMismatchError, r'SigmoidT: lower is a plain number'),
    (lambda: b.ChainT('x'), TypeError, r"ChainT: part 0 must be a Transform; got 'x'"),
    (lambda: b.ChainT(b.IdentityT(), b.PositiveT), TypeError, r'part 1 .*call the class first'),
    (lambda: b.ChainT(), ValueError, r'ChainT needs at least one'),
    (lambda: b.ChainT(b.IdentityT(), b.PowerT()), ValueError, r'part 1, PowerT.*positive.*PositiveT\(\) before'),
    (lambda: b.ChainT(b.SoftplusT(-1.0), b.PowerT()), ValueError, r'reach down to -1'),
    (lambda: b.ChainT(b.OrderedT(), b.PowerT()), ValueError, r'positive numbers'),
    (lambda: b.ChainT(b.SoftplusT(0 * u.mV), b.AffineT(1 * u.ms)), u.UnitMismatchError, r'lower carries the unit mV'),
    (lambda: b.MaskedT([1, 0], b.PositiveT()), TypeError, r'MaskedT: mask must hold booleans; got dtype int'),
    (lambda: b.MaskedT([True], 'x'), TypeError, r'transform must be a Transform'),
    (lambda: b.MaskedT([True], b.SimplexT()), ValueError, r'element-wise transforms; SimplexT\(\) couples'),
    (lambda: b.MaskedT([True], b.PowerT(), safe_value=-1.0), ValueError, r'safe_value -1.0 does not lie in the domain'),
    (lambda: jax.jit(lambda m: b.MaskedT(m, b.ExpT())(0.0))(jnp.array([True])), TypeError, r'mask must be concrete'),
]


@pytest.mark.parametrize(('make', 'error', 'message'), CONSTRUCTORS, ids=[row[2] for row in CONSTRUCTORS])
def test_constructor(make, error, message):
    with pytest.raises(error, match=message):
        make()


# The values of the peer's table that were stored as nan, inf or another number without a word.
OUTSIDE = [
    (b.SoftplusT(0.0), -1.0, r'SoftplusT\(lower=0\.0\): a value must lie in \(0, inf\); 1 of 1 .*: value: -1'),
    (b.SigmoidT(), [0.5, 2.0, -1.0, 3.0], r'3 of 4 entries do not: \[1\]: 2, \[2\]: -1, \[3\]: 3'),
    (b.SigmoidT(), [0.5, 2.0, 0.0, 1.0], r'entries do not: \[1\]: 2'),
    (b.SigmoidT(), np.full(9, 2.0), r'9 of 9 entries do not: .*\[4\]: 2, \.\.\.'),
    (b.SigmoidT([0.0, 2.0], [1.0, 3.0]), [0.5, 0.5], r'lie in \(2, 3\); 1 of 2 entries do not: \[1\]'),
    (b.TanhT(-1.0, 1.0), 2.0, r'lie in \(-1, 1\)'),
    (b.SoftsignT(), 2.0, r'lie in \(0, 1\)'),
    (b.PowerT(0.5), -5.0, r'lie in \(-2, inf\)'),
    (b.PowerT(-0.5), 5.0, r'lie in \(-inf, 2\)'),
    (b.NegativeT(), 1.0, r'lie in \(-inf, 0\)'),
    (b.OrderedT(), [3.0, 1.0, 2.0], r'be a strictly increasing vector; 1 of 1 vectors do not: value: \[3\. 1\. 2\.\]'),
    (b.SimplexT(), np.zeros(3), r'be a vector of positive entries that sum to one'),
    (b.SimplexT(), [2.0, 3.0, 4.0], r'sum to one'),
    (b.SimplexT(), [0.5, 0.6], r'sum to one'),
    (b.UnitVectorT(), [3.0, 4.0], r'be a vector of length one'),
    (b.UnitVectorT(), [0.0, 0.0], r'be a vector of length one'),
    (b.ClipT(0.0, 1.0), 5.0, r'lie in \[0, 1\]'),
    (b.ReluT(0.0), -5.0, r'lie in \[0, inf\)'),
    (b.IdentityT(), [np.nan, np.inf], r'lie in \(-inf, inf\); 2 of 2 entries do not: \[0\]: nan, \[1\]: inf'),
    (b.ChainT(b.SigmoidT(), b.AffineT(2.0, 1.0)), 4.0, r'lie in \(1, 3\)'),
    (b.ChainT(b.OrderedT(), b.PositiveT()), [1.0, 0.5], r'value of OrderedT\(\) must be a strictly increasing vector'),
    (b.MaskedT([True, False], b.PositiveT()), [-1.0, -1.0], r'lie in \(0, inf\); 1 of 2 entries do not: \[0\]'),
    (b.SoftplusT(0.0 * u.Hz), -1.0 * u.Hz, r'lie in \(0, inf\) Hz; 1 of 1'),
]


@pytest.mark.parametrize(('t', 'value', 'message'), OUTSIDE, ids=[repr(row[0]) for row in OUTSIDE])
def test_value_outside(t, value, message):
    for method in (t.check, t.inverse):
        with pytest.raises(ValueError, match=message):
            method(value)
    assert not np.all(t.contains(value))
    if np.all(np.isfinite(np.asarray(u.get_magnitude(value)))):
        near = t.nearest_interior(value)
        t.check(near)
        assert np.all(np.isfinite(t.inverse(near)))


# Bounds, which `forward` gives where it saturates: no value inside, but taken.
AT_BOUNDS = [
    (b.SoftplusT(0.0), 0.0, r'value: 0'),
    (b.SoftplusT(0.0), 1e-39, r'must lie in \(0, inf\)'),  # below the normal numbers of float32: flushed to zero
    (b.ExpT(0.0), 0.0, r'ExpT'),
    (b.SigmoidT(), [0.5, 0.2, 0.0, 1.0], r'2 of 4 entries do not: \[2\]: 0, \[3\]: 1'),
    (b.SoftsignT(), 1.0, r'lie in \(0, 1\)'),
    (b.OrderedT(), [[1.0, 2.0], [2.0, 2.0]], r'1 of 2 vectors do not: \[1\]: \[2\. 2\.\]'),
    (b.SimplexT(), [1.0, 0.0], r'positive entries'),
]


@pytest.mark.parametrize(('t', 'value', 'message'), AT_BOUNDS, ids=[repr(row[0]) for row in AT_BOUNDS])
def test_a_bound_is_not_inside_but_has_a_theta(t, value, message):
    with pytest.raises(ValueError, match=message):
        t.check(value)
    assert np.all(np.isfinite(t.inverse(value)))
    np.testing.assert_allclose(t.forward(t.inverse(value)), value, rtol=1e-6, atol=1e-6)


SHAPES = [
    (b.OrderedT(), (), r'OrderedT\(\) works on vectors along the last axis; theta has shape \(\)'),
    (b.SimplexT(), (), r'SimplexT\(\) works on vectors'),
    (b.UnitVectorT(), (), r'UnitVectorT\(\) works on vectors'),
    (b.SimplexT(), (2, 0), r'its last axis needs at least one entry'),
    (b.OrderedT(), (0,), r'needs at least one entry'),
    (b.ChainT(b.PositiveT(), b.OrderedT()), (), r'works on vectors'),
    (b.SigmoidT(np.zeros(3), np.ones(3)), (), r'lower of shape \(3,\) does not broadcast to theta of shape \(\)'),
    (b.SigmoidT(np.zeros(3), np.ones(3)), (1,), r'an argument never enlarges the value'),
    (b.SoftplusT(np.zeros(3)), (2,), r'lower of shape \(3,\) does not broadcast'),
    (b.MaskedT([True, False], b.PositiveT()), (3,), r'the mask of shape \(2,\) does not .* theta of shape \(3,\)'),
    (b.MaskedT([True, False], b.PositiveT()), (), r'the mask of shape \(2,\)'),
]


@pytest.mark.parametrize(('t', 'shape', 'message'), SHAPES, ids=[f'{row[0]!r}{row[1]}' for row in SHAPES])
def test_shape(t, shape, message):
    for call in (
        lambda: t.forward(jnp.ones(shape)),
        lambda: t.log_abs_det_jacobian(jnp.ones(shape)),
        lambda: t.forward_shape(shape),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_one_probability_teaches_nothing():
    with pytest.raises(ValueError, match=r'at least two entries'):
        b.SimplexT().inverse([1.0])


@pytest.mark.parametrize(('t', 'other'), [(b.ClipT(), 'SigmoidT'), (b.ReluT(), 'SoftplusT')], ids=repr)
def test_no_density(t, other):
    assert not t.bijective and not t.has_density
    with pytest.raises(b.NoDensityError, match=rf'{type(t).__name__}.* not a bijection.* use {other}') as caught:
        t.log_abs_det_jacobian(jnp.zeros(2))
    assert isinstance(caught.value, NotImplementedError)
    chain = b.ChainT(t, b.AffineT(2.0))
    assert not chain.bijective and not chain.has_density
    assert not b.MaskedT([True], t).has_density
    with pytest.raises(b.NoDensityError):
        chain.log_abs_det_jacobian(jnp.zeros(2))


def test_theta_outside_the_domain():
    with pytest.raises(ValueError, match=r'PowerT.*positive numbers only; got .*-5.*ChainT\(PositiveT\(\), PowerT'):
        b.PowerT().forward(-5.0)
    with pytest.raises(ValueError, match=r'a zero vector has no direction'):
        b.UnitVectorT().forward([[1.0, 0.0], [0.0, 0.0]])
    assert np.isnan(jax.jit(b.PowerT().forward)(-5.0))  # nothing else can be said under tracing


def test_not_near_to_anything():
    with pytest.raises(ValueError, match=r'a value must be finite to be moved inside'):
        b.SoftplusT().nearest_interior([1.0, np.nan])


@pytest.mark.parametrize('value', [True, 1j, np.array([True])])
def test_values_are_real_numbers(value):
    for call in (b.PositiveT().forward, b.PositiveT().inverse):
        with pytest.raises(TypeError, match='must hold real numbers'):
            call(value)


def test_an_old_tfp_is_named(monkeypatch):
    import builtins

    real_import = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith('tensorflow_probability'):
            raise AttributeError("module 'jax.interpreters.xla' has no attribute 'pytype_aval_mappings'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', broken)
    with pytest.raises(ImportError, match=r"0\.25 stops at.*pip install 'tfp-nightly\[jax\]'"):
        arguments.tfp_bijectors.__wrapped__()


def test_tfp_is_imported_on_first_use():
    import subprocess
    import sys

    code = 'import sys; import brainstate_prob.nn.bijections; sys.exit("tensorflow_probability" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
