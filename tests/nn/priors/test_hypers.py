"""Hyper-parameters: what is refused, units, arrays, Params (hierarchical priors), precision."""

import pickle

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

from brainstate_prob import ParamState, State, transform
from brainstate_prob.nn import priors as P
from brainstate_prob.nn.bijections import PositiveT
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Const, Param


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: P.CauchyReg(scale=-1.0), 'CauchyReg: scale must be > 0; got -1'),
        (lambda: P.GaussianReg(0.0, 0.0), 'std must be > 0; got 0'),
        (lambda: P.GaussianReg(0.0, -2.0), 'std must be > 0'),
        (lambda: P.GaussianReg(0.0, np.array([1.0, -2.0])), r'std must be > 0; got \[-2'),
        (lambda: P.GaussianReg(np.nan, 1.0), 'mean must be a number'),
        (lambda: P.StudentTReg(df=0.0), 'df'),
        (lambda: P.UniformReg(lower=2.0, upper=1.0), 'lower must be less than upper'),
        (lambda: P.UniformReg(lower=1.0, upper=1.0), 'lower must be less than upper'),
        (lambda: P.UniformReg(weight=0.0, normalized=True), 'weight of 0'),
        (lambda: P.LogUniformReg(lower=0.0), 'lower must be > 0'),
        (lambda: P.LogUniformReg(lower=2.0 * u.ms, upper=1.0 * u.ms), 'lower must be less than upper'),
        (lambda: P.L2Reg(-1.0), 'L2Reg: weight must be >= 0'),
        (lambda: P.L1Reg(-1.0), 'L1Reg: weight must be >= 0'),
        (lambda: P.SpikeAndSlabReg(pi=1.7), r'pi must be in \[0, 1\]'),
        (lambda: P.ElasticNetReg(alpha=3.0), r'alpha must be in \[0, 1\]'),
        (lambda: P.HuberReg(delta=0.0), 'delta must be > 0'),
        (lambda: P.BetaReg(a=-1.0), 'a must be > 0'),
        (lambda: P.GammaReg(beta=0.0), 'beta must be > 0'),
        (lambda: P.HorseshoeReg(tau=0.0), 'tau must be > 0'),
        (lambda: P.DirichletReg(alpha=[1.0, 0.0]), 'alpha must be > 0'),
        (lambda: P.MaxNormReg(max_value=0.0), 'max_value must be > 0'),
        (lambda: P.GaussianReg(0.0, Param(-1.0)), 'std must be > 0'),
    ],
)
def test_invalid_values_raise(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize('bad', ['a', None, True, 1j, [[1.0], [1.0, 2.0]], State(1.0), ParamState(1.0), object()])
def test_what_is_no_number(bad):
    with pytest.raises(TypeError, match=r'std must be a number, an array, a quantity or an nn\.Param'):
        P.GaussianReg(0.0, bad)


mV, ms, Hz = u.mV, u.ms, u.Hz

# the prior with units, a value, and the same without: plain numbers in the unit of the value
UNITS = [
    (P.GaussianReg(1.0 * mV, 5.0 * mV), 3.0 * mV, P.GaussianReg(1.0, 5.0), 3.0),
    (P.GaussianReg(1.0 * mV, 5.0 * mV), 0.003 * u.volt, P.GaussianReg(0.001, 0.005), 0.003),
    (P.GaussianReg(0.0, 5.0 * mV), 3.0 * mV, P.GaussianReg(0.0, 5.0), 3.0),
    (P.GaussianReg(1.0, 5.0), 3.0 * mV, P.GaussianReg(1.0, 5.0), 3.0),
    (P.StudentTReg(scale=2.0 * mV), 3.0 * mV, P.StudentTReg(scale=2.0), 3.0),
    (P.CauchyReg(scale=1.0 * mV), 0.003 * u.volt, P.CauchyReg(scale=0.001), 0.003),
    (
        P.UniformReg(weight=2.0, lower=-1.0 * mV, upper=1.0 * mV),
        3.0 * mV,
        P.UniformReg(weight=2.0, lower=-1.0, upper=1.0),
        3.0,
    ),
    (
        P.UniformReg(weight=2.0, lower=-1.0 * mV, upper=1.0 * mV, hard=True),
        0.5 * mV,
        P.UniformReg(weight=2.0, lower=-1.0, upper=1.0, hard=True),
        0.5,
    ),
    (P.BetaReg(), 0.5 * mV, P.BetaReg(), 0.5),
    (P.LogNormalReg(mu=1.0), 3.0 * mV, P.LogNormalReg(mu=1.0), 3.0),
    (P.ExponentialReg(rate=0.5 / mV), 3.0 * mV, P.ExponentialReg(rate=0.5), 3.0),
    (P.GammaReg(beta=0.1 / Hz), 0.02 * u.kHz, P.GammaReg(beta=100.0), 0.02),
    (P.InverseGammaReg(beta=2.0 * ms), 3.0 * ms, P.InverseGammaReg(beta=2.0), 3.0),
    (P.LogUniformReg(lower=1.0 * ms, upper=1.0 * u.second), 30.0 * ms, P.LogUniformReg(lower=1.0, upper=1000.0), 30.0),
    (P.HorseshoeReg(tau=2.0 * mV), 3.0 * mV, P.HorseshoeReg(tau=2.0), 3.0),
    (
        P.SpikeAndSlabReg(spike_scale=0.1 * mV, slab_scale=2.0 * mV),
        3.0 * mV,
        P.SpikeAndSlabReg(spike_scale=0.1, slab_scale=2.0),
        3.0,
    ),
    (P.L1Reg(2.0 / mV), 0.003 * u.volt, P.L1Reg(2000.0), 0.003),
    (P.L1Reg(2.0), 3.0 * mV, P.L1Reg(2.0), 3.0),
    (P.L2Reg(2.0 / mV**2), 3.0 * mV, P.L2Reg(2.0), 3.0),
    (P.ElasticNetReg(2.0 / mV, 3.0 / mV**2), 3.0 * mV, P.ElasticNetReg(2.0, 3.0), 3.0),
    (P.HuberReg(weight=1.0 / mV**2, delta=2.0 * mV), 3.0 * mV, P.HuberReg(weight=1.0, delta=2.0), 3.0),
    (P.GroupLassoReg(weight=2.0 / mV), [3.0, 4.0] * mV, P.GroupLassoReg(weight=2.0), [3.0, 4.0]),
    (P.TotalVariationReg(weight=2.0 / mV), [3.0, 4.0] * mV, P.TotalVariationReg(weight=2.0), [3.0, 4.0]),
    (
        P.MaxNormReg(weight=2.0 / mV**2, max_value=1.0 * mV),
        [3.0, 4.0] * mV,
        P.MaxNormReg(weight=2.0, max_value=1.0),
        [3.0, 4.0],
    ),
    (
        P.SpectralNormReg(weight=2.0 / mV**2, max_value=1.0 * mV),
        np.eye(2) * 3.0 * mV,
        P.SpectralNormReg(weight=2.0, max_value=1.0),
        np.eye(2) * 3.0,
    ),
    (P.OrthogonalReg(), np.eye(2) * 3.0 * mV, P.OrthogonalReg(), np.eye(2) * 3.0),
    (
        P.ChainedReg(P.L1Reg(2.0 / mV), P.GaussianReg(0.0, 5.0 * mV)),
        3.0 * mV,
        P.ChainedReg(P.L1Reg(2.0), P.GaussianReg(0.0, 5.0)),
        3.0,
    ),
]


@pytest.mark.parametrize(('reg', 'value', 'plain', 'number'), UNITS, ids=lambda x: type(x).__name__)
def test_losses_are_those_of_the_magnitude_and_have_no_unit(reg, value, plain, number):
    loss = reg.loss(value)
    assert isinstance(loss, jax.Array)
    np.testing.assert_allclose(loss, plain.loss(np.asarray(number)), rtol=1e-5)
    if reg.unit is not None:
        shape = np.shape(number)
        assert reg.sample_init(shape).unit.has_same_dim(u.get_unit(value))
        assert np.isfinite(reg.loss(reg.reset_value(shape)))
        with pytest.raises(u.UnitMismatchError, match=r'the value has no unit|value is in|must'):
            reg.loss(np.asarray(number))
        with pytest.raises(u.UnitMismatchError):
            reg.loss(u.Quantity(number, unit=u.meter))


@pytest.mark.parametrize(
    'make',
    [
        lambda: P.GaussianReg(1.0, 5.0 * mV),
        lambda: P.GaussianReg(1.0 * mV, 5.0),
        lambda: P.GaussianReg(1.0 * mV, 5.0 * ms),
        lambda: P.GaussianReg(0.0, 5.0 * mV, weight=1.0 * mV),
        lambda: P.StudentTReg(df=3.0 * mV),
        lambda: P.UniformReg(lower=-1.0 * mV, upper=1.0),
        lambda: P.BetaReg(a=1.0 * mV),
        lambda: P.ElasticNetReg(2.0 / mV, 3.0 / mV),
        lambda: P.GaussianReg(0.0 * mV, Param(5.0 * ms)),
    ],
)
def test_hyper_parameters_of_different_dimensions(make):
    with pytest.raises(u.UnitMismatchError, match='must be'):
        make()


def test_hyper_values_are_converted():
    reg = P.GammaReg(alpha=2.0, beta=0.1 / Hz)
    assert reg.hyper_values() == {'concentration': 2.0, 'rate': pytest.approx(0.1)}
    assert reg.hyper_values(u.kHz) == {'concentration': 2.0, 'rate': pytest.approx(100.0)}
    assert reg.distribution.mean == pytest.approx(20.0)
    assert P.UniformReg(lower=1.0 * ms, upper=2.0 * ms, hard=True).support_in(u.second).upper_bound == pytest.approx(
        0.002
    )


def test_supports():
    assert P.GaussianReg().support is constraints.real
    assert P.GammaReg().support is constraints.positive
    assert P.BetaReg().support is constraints.unit_interval
    assert P.DirichletReg().support is constraints.simplex
    assert P.UniformReg().support is constraints.real  # a soft bound
    assert (P.LogUniformReg(lower=1.0, upper=2.0).support.lower_bound, P.L1Reg().support) == (1.0, constraints.real)
    assert P.UniformReg(lower=-1.0 * mV, upper=1.0 * mV, hard=True).support.upper_bound == 1.0 * mV


def test_arrays_broadcast_against_the_value_and_never_enlarge_it():
    reg = P.GaussianReg(np.array([0.0, 1.0]), np.array([[1.0], [2.0], [3.0]]))
    assert reg.loss(np.zeros((3, 2))).shape == ()
    assert reg.sample_init((3, 2)).shape == reg.reset_value((3, 2)).shape == (3, 2)
    np.testing.assert_array_equal(reg.reset_value((3, 2)), np.tile([0.0, 1.0], (3, 1)))
    for call in (
        lambda: reg.loss(0.0),
        lambda: reg.loss(np.zeros(2)),
        lambda: reg.sample_init(2),
        lambda: reg.reset_value(2),
    ):
        with pytest.raises(ValueError, match='never enlarges the value'):
            call()


def test_a_param_names_itself_in_errors():
    model = Module()
    model.w = Param(np.zeros(3), reg=P.GaussianReg(np.zeros(3), 1.0))
    with pytest.raises(ValueError, match=r"GaussianReg 'w\.reg': mean of shape"):
        model.w.reg.loss(np.zeros(2))


def test_hierarchical_prior():
    """Eight schools in shape: one spread for all effects, with a prior of its own."""
    model = Module()
    tau = Param(2.0, t=PositiveT(), reg=P.CauchyReg(scale=5.0))
    model.a = Param(np.ones(8), reg=P.GaussianReg(0.0, tau))
    model.b = Param(1.0, reg=P.StudentTReg(scale=tau))
    assert set(model.states(ParamState)) == {('a', 'val'), ('a', 'reg', 'std', 'val'), ('b', 'val')}
    parts = (
        P.GaussianReg(0.0, 2.0).loss(np.ones(8)),
        P.StudentTReg(scale=2.0).loss(1.0),
        P.CauchyReg(scale=5.0).loss(2.0),
    )
    np.testing.assert_allclose(model.reg_loss(), sum(parts), rtol=1e-6)
    grads = transform.grad(model.reg_loss, model.states(ParamState))()
    # d/dlog(tau) of 8 log(tau) + 8/(2 tau^2) is 8 - 8/tau^2 = 6
    tail = jax.grad(lambda s: P.StudentTReg().loss(1.0 / s) + jnp.log(s) + P.CauchyReg(scale=5.0).loss(s))(2.0) * 2
    np.testing.assert_allclose(grads[('a', 'reg', 'std', 'val')], 6 + tail, rtol=1e-4)


def test_hyper_parameters_with_units_and_constants_as_params():
    reg = P.GaussianReg(0.0 * mV, Param(5.0 * mV, t=PositiveT()))
    np.testing.assert_allclose(reg.loss(0.003 * u.volt), P.GaussianReg(0.0, 0.005).loss(0.003), rtol=1e-5)
    assert reg.sample_init(3).unit == mV
    fixed = P.GaussianReg(0.0, Const(2.0))
    assert not fixed.states(ParamState)
    assert fixed.loss(1.0) == P.GaussianReg(0.0, 2.0).loss(1.0)
    fitted = P.GaussianReg(1.0 * mV, 5.0 * mV, fit_hyper=True)
    assert fitted.std.value() == 5.0 * mV
    np.testing.assert_allclose(fitted.loss(3.0 * mV), P.GaussianReg(1.0, 5.0).loss(3.0), rtol=1e-5)


@pytest.mark.parametrize(
    'make',
    [
        lambda **k: P.UniformReg(weight=1.0, lower=-1.0, upper=3.0, **k),
        lambda **k: P.LogUniformReg(weight=1.0, lower=1.0, upper=3.0, **k),
    ],
)
def test_fitted_bounds_stay_in_order_and_move(make):
    reg = make(fit_hyper=True)
    assert float(reg.upper) == pytest.approx(3.0)
    reg.width.val.value = jnp.array(-30.0)
    assert float(reg.upper) >= float(reg.lower.value())
    grads = transform.grad(lambda: make(fit_hyper=True).loss(2.0) * 0 + reg.loss(2.0), reg.states(ParamState))()
    assert set(grads) == {('lower', 'val'), ('width', 'val')}
    with pytest.raises(ValueError, match='trains the bounds'):
        P.UniformReg(lower=Param(0.0), upper=1.0, fit_hyper=True)
    with pytest.raises(AttributeError, match='nonsense'):
        reg.nonsense


def test_soft_bounds_are_pulled_to_the_data():
    data = np.random.default_rng(0).uniform(2.0, 5.0, 200)
    losses = {
        (lo, hi): float(P.UniformReg(weight=50.0, lower=lo, upper=hi, normalized=True).loss(data))
        for lo in (-1.0, 1.0, 2.0, 2.5)
        for hi in (4.0, 5.0, 6.0, 20.0)
    }
    assert min(losses, key=losses.get) == (2.0, 5.0)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    'reg',
    [
        P.GaussianReg(np.zeros(2), 1.0),
        P.CauchyReg(),
        P.GammaReg(),
        P.HorseshoeReg(),
        P.SpikeAndSlabReg(),
        P.L2Reg(np.ones(2)),
        P.ElasticNetReg(normalized=True),
        P.HuberReg(),
        P.LogUniformReg(),
        P.MaxNormReg(),
        P.DirichletReg(alpha=np.ones(2)),
    ],
)
def test_the_loss_has_the_dtype_of_the_value(reg, dtype, x64):
    loss, grad = jax.value_and_grad(reg.loss)(jnp.full(2, 0.5, dtype))
    assert loss.dtype == grad.dtype == dtype
    assert np.isfinite(np.asarray(loss, float))


def test_traced_hyper_parameters_and_values():
    f = jax.jit(lambda std, x: P.GaussianReg(0.0, std).loss(x))
    np.testing.assert_allclose(f(2.0, jnp.ones(3)), P.GaussianReg(0.0, 2.0).loss(np.ones(3)), rtol=1e-6)
    jax.vmap(P.HorseshoeReg().loss)(jnp.ones((4, 3)))


@pytest.mark.parametrize('bad', ['a', np.array([True]), np.array([1j])])
def test_values_that_are_no_real_numbers(bad):
    with pytest.raises(TypeError):
        P.GaussianReg().loss(bad)


@pytest.mark.parametrize(('shape', 'error'), [(-1, ValueError), (1.5, TypeError), ('a', TypeError)])
def test_bad_shapes(shape, error):
    for reg in (P.GaussianReg(), P.ChainedReg(), P.L1Reg()):
        with pytest.raises(error, match='shape'):
            reg.sample_init(shape)


# (call, what the message must say)
BY_NAME = [
    (lambda: P.LogNormalReg(0.0, 0.5), r'nn.LogNormalReg\(0.0, 0.5\): .* Write nn.LogNormalReg\(mu=0.0, sigma=0.5\)'),
    (lambda: P.GammaReg(2.0), r'Write nn.GammaReg\(alpha=2.0\)'),
    (lambda: P.GammaReg(2.0, alpha=3.0), r'Write nn.GammaReg\(beta=2.0\)'),
    (lambda: P.UniformReg(-1.0, 1.0), r'Write nn.UniformReg\(lower=-1.0, upper=1.0\)'),
    (lambda: P.HuberReg(1.0, 0.5), r'Write nn.HuberReg\(weight=1.0, delta=0.5\)'),
    (lambda: P.GaussianReg(0.0, 1.0, 2.0), r'Write nn.GaussianReg\(mean=0.0, std=1.0, weight=2.0\)'),
    (lambda: P.L1Reg(0.1, True), r'Write nn.L1Reg\(weight=0.1, fit_hyper=True\)'),
    (lambda: P.GaussianReg(0.0, sigma=1.0), "no argument 'sigma'. Its arguments are: mean, std, weight, fit_hyper"),
    (lambda: P.ChainedReg(P.L1Reg(), wieght=1.0), "no argument 'wieght'"),
]


@pytest.mark.parametrize('call, words', BY_NAME)
def test_the_arguments_of_priors_are_given_by_name(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_every_prior_but_four_takes_names_only():
    priors = [getattr(P, name) for name in P.__all__ if name.endswith('Reg') and getattr(P, name).hypers]
    free = {P.L1Reg: 1, P.L2Reg: 1, P.ElasticNetReg: 3, P.GaussianReg: 2}
    assert len(priors) == 23
    for prior in priors:
        count = free.get(prior, 0)
        prior(*[0.5] * count)
        with pytest.raises(TypeError, match=f'Write nn.{prior.__name__}'):
            prior(*[0.5] * (count + 1))


def test_a_prior_of_the_user_takes_what_its_constructor_says():
    class Shrink(P.Regularization):
        def __init__(self, strength, power=2.0):
            super().__init__()
            self.strength, self.power = strength, power

        def loss(self, value):
            return self.strength * jnp.sum(jnp.abs(value) ** self.power)

    assert Shrink(2.0, 3.0).loss(jnp.array([2.0])) == 16.0
    assert pickle.loads(pickle.dumps(P.LogNormalReg(mu=1.0))).mu == 1.0
