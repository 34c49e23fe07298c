"""Defects known from libraries of this kind: one case each, where no other test has it."""

import os
import subprocess
import sys

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from brainstate_prob import ParamState, graph, nn, transform

# Parameters


def test_writing_a_clone_leaves_the_cache_of_the_original():
    p = nn.Param(1.0, t=nn.SoftplusT())
    p.cache()
    q = graph.clone(p)
    q.set_value(9.0)
    assert p.cache_stats['valid'] and float(p.value()) == pytest.approx(1.0)


@pytest.mark.parametrize('grad', [jax.grad, transform.grad])
def test_caching_inside_a_gradient_remembers_no_tracer(grad):
    p = nn.Param(2.0, t=nn.SoftplusT())
    assert float(grad(lambda x: (p.cache(), x * p.value())[1])(1.0)) == pytest.approx(2.0)
    q = nn.Param(2.0)
    transform.grad(lambda: (q.cache(), q.value() ** 2)[1], q.val)()
    assert float(p.value() + q.value()) == pytest.approx(4.0)


def test_a_loop_reads_what_it_has_just_written_whatever_the_cache_holds():
    p = nn.Param(1.0)
    p.cache()

    def step(i):
        p.val.value = p.val.value + i
        return p.value()

    np.testing.assert_array_equal(transform.for_loop(step, jnp.arange(3.0)), [1.0, 2.0, 4.0])
    assert float(p.value()) == 4.0


OUTSIDE = [(0.0, nn.SoftplusT(0.0)), (0.0, nn.LogT(0.0)), (2.0, nn.ScaledSigmoidT(0.0, 1.0)), (-5.0, nn.PowerT(0.5))]


@pytest.mark.parametrize('value, t', [*OUTSIDE, (2.0, nn.NegSoftplusT()), ([1.0, 1.0], nn.OrderedT())])
def test_a_start_outside_the_codomain_is_moved_inside_with_a_warning(value, t):
    with pytest.warns(UserWarning, match='Starting at'):
        p = nn.Param(value, t=t)
    assert np.isfinite(p.val.value).all()
    t.check(p.value())


@pytest.mark.parametrize(
    'value, error', [(np.nan, ValueError), (np.inf, ValueError), (True, TypeError), (1j, TypeError), ('1', TypeError)]
)
@pytest.mark.parametrize('make', [nn.Param, nn.Const])
def test_set_value_takes_what_the_constructor_takes_and_nothing_else(make, value, error):
    p = make(2.0)
    with pytest.raises(error, match='NaN or infinite|real floating numbers'):
        p.set_value(value)
    p.set_value(np.float64(3.0))
    assert isinstance(p.val.value, jax.Array) and p.dtype == jnp.float32 and float(p.value()) == 3.0


def test_a_parameter_from_an_initializer_is_trained_in_its_transform():
    p = nn.Param.init(jnp.ones, (2,), t=nn.SoftplusT(0.0))
    assert type(p) is nn.Param and p.t == nn.SoftplusT(0.0) and list(p.states(ParamState)) == [('val',)]


def test_an_untrained_param_set_inside_jit_keeps_a_number():
    p = nn.Param(1.0, fit=False)
    transform.jit(p.set_value)(4.0)
    assert float(p.value() + 1.0) == 5.0


def test_the_import_leaves_double_precision_as_asked_for():
    code = 'import jax, brainstate_prob as b; assert jax.config.jax_enable_x64; assert b.nn.Param(1.0).dtype == "f8"'
    subprocess.run([sys.executable, '-c', code], check=True, env={**os.environ, 'JAX_ENABLE_X64': '1'}, timeout=120)


# Transforms


@pytest.mark.parametrize('t', [nn.SigmoidT(2.0, 3.0), nn.TanhT(2.0, 3.0), nn.SoftplusT(1.0), nn.ExpT(1.0)], ids=repr)
def test_theta_stays_what_it_is_where_the_value_has_reached_the_bound(t):
    p = nn.Param(t.forward(0.1), t=t)
    p.val.value = jnp.array(-30.0)
    p.cache()
    assert float(p.value()) == float(t.lower)
    assert float(p.val.value) == float(graph.clone(p).val.value) == -30.0
    rate = 2.0 if isinstance(t, nn.TanhT) else 1.0  # the slope falls as exp(rate * theta)
    assert float(p.log_abs_det_jacobian()) == pytest.approx(-30.0 * rate, abs=1.0)


LOWER = [nn.SoftplusT(), nn.ExpT(), nn.PositiveT(), nn.SigmoidT(), nn.ScaledSigmoidT(0.0, 1.0)]
UPPER = [nn.NegSoftplusT(), nn.NegativeT()]


@pytest.mark.parametrize(
    't, far', [(nn.TanhT(0.0, 1.0), -40.0), *((t, -80.0) for t in LOWER), *((t, 80.0) for t in UPPER)]
)
def test_theta_comes_back_from_next_to_a_bound_at_zero(t, far):
    theta = far * jnp.array([1.0, 0.5, 0.2])
    np.testing.assert_allclose(t.inverse(t.forward(theta)), theta, rtol=1e-6)


@pytest.mark.parametrize('scale', [1, 3, 6, 10])
def test_a_simplex_round_trip_in_single_precision(scale):
    theta = jnp.asarray(scale * np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
    np.testing.assert_allclose(nn.SimplexT().inverse(nn.SimplexT().forward(theta)), theta, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('cls', [nn.SigmoidT, nn.TanhT, nn.SoftsignT, nn.ScaledSigmoidT, nn.ClipT])
@pytest.mark.parametrize('bounds', [(1.0, 0.0), (1.0, 1.0)])
def test_bounds_are_in_order(cls, bounds):
    with pytest.raises(ValueError, match='lower must be smaller than upper'):
        cls(*bounds)


MASKED, CHAIN = nn.MaskedT([True, False], nn.PositiveT()), nn.ChainT(nn.PositiveT(), nn.PowerT(0.5))
UNITLESS = [(nn.PositiveT(), [1.0, 2.0]), (nn.OrderedT(), [1.0, 2.0]), (nn.SimplexT(), [0.4, 0.6]), (CHAIN, [1.0, 2.0])]
SIGNED = [(nn.NegativeT(), [-1.0, -2.0]), (nn.UnitVectorT(), [0.6, -0.8]), (MASKED, [1.0, -2.0])]


@pytest.mark.parametrize('t, value', UNITLESS + SIGNED)
def test_a_parameter_keeps_its_unit_through_a_transform_without_one(t, value):
    p = nn.Param(jnp.array(value) * u.mV, t=t)
    assert p.value().unit == u.mV
    np.testing.assert_allclose(p.value().mantissa, value, rtol=1e-5)


# Priors


POSITIVE = [nn.ExponentialReg(), nn.GammaReg(), nn.InverseGammaReg(), nn.LogNormalReg()]
BOUNDED = [(nn.LogUniformReg(lower=1.0, upper=10.0), value) for value in (50.0, -50.0)]
BETA = [(nn.BetaReg(), 1.7), (nn.BetaReg(a=0.5, b=0.5), 1.7)]


@pytest.mark.parametrize(
    'reg, value', [*((reg, -3.0) for reg in POSITIVE), *BOUNDED, *BETA, (nn.GammaReg(alpha=0.5), 0.0)]
)
def test_single_precision_has_no_density_outside_the_support_and_no_nan(reg, value):
    loss, slope = jax.value_and_grad(reg.loss)(jnp.float32(value))
    assert loss == np.inf and not np.isnan(slope)


@pytest.mark.parametrize('std', [1e-5, 1e4])
def test_a_gaussian_has_the_scale_it_is_given(std):
    reg = nn.GaussianReg(0.0, std)
    assert float(reg.loss(0.5 * std)) == pytest.approx(-st.norm(0, std).logpdf(0.5 * std), rel=1e-5)
    draws = reg.sample_init((2000,), key=jax.random.key(0))
    assert np.std(draws) == pytest.approx(std, rel=0.08)  # 5 standard errors; the seed is fixed


@pytest.mark.parametrize('name', ['CauchyReg', 'GaussianReg', 'StudentTReg', 'LogNormalReg', 'HorseshoeReg', 'L2Reg'])
def test_a_tiny_scale_is_pulled_back_to_the_data(name):
    reg = getattr(nn, name)(fit_hyper=True)
    path, state = list(reg.states(ParamState).items())[-1]  # the scale stands last
    state.value = jnp.array(-20.0)
    slope = float(transform.grad(lambda: reg.loss(jnp.array([0.2, 0.5, 0.7])), state)())
    assert np.isfinite(slope) and slope < -1.0, path


# Gradients


@pytest.mark.parametrize('name', ['grad', 'vector_grad', 'jacrev', 'jacfwd', 'hessian', 'fwd_grad'])
def test_arguments_that_are_no_arrays_pass_through_beside_states(name):
    s = ParamState(2.0)

    def f(x, mode, train, activation, nothing=None):
        assert (mode, train, nothing) == ('fast', True, None)
        return s.value * activation(x)

    make = getattr(transform, name)
    assert jax.tree.all(jax.tree.map(np.isfinite, make(f, s, argnums=0)(1.0, 'fast', True, jnp.sin)))
    with pytest.raises(ValueError, match='argnums=3 names no argument: the call has 1 positional argument'):
        make(lambda x: s.value * x, s, argnums=3)(1.0)
