"""The exponential Euler step: exact cases, order, coupling, noise, units, States, transforms."""

import itertools

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from brainstate_prob import HiddenState, environ, nn, random, transform
from brainstate_prob.nn.dynamics.diagonal import is_elementwise

RATES = jnp.array([-0.5, -3.0, -200.0, 0.7, 0.0])


@pytest.mark.parametrize('dt', [1e-4, 0.1, 1.0])
def test_linear_equations_are_exact(dt):
    with jax.enable_x64(True), environ.context(dt=dt):
        a, b = jnp.asarray(np.asarray(RATES, np.float64)), jnp.linspace(-1.0, 1.0, 5)
        got = nn.exp_euler_step(lambda x: a * x + b, jnp.ones(5))
        expected = [
            scipy.linalg.expm(np.array([[float(r), float(s)], [0.0, 0.0]]) * dt)[0].sum()
            for r, s in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_single_precision_keeps_its_digits():
    """At small dt J, (exp(z) - 1) / z as it stands loses them; so does its derivative."""
    for dt in (1e-6, 1e-3, 0.3):
        with environ.context(dt=dt):
            rate = jnp.float32(-1.0)
            step = jax.value_and_grad(lambda r: nn.exp_euler_step(lambda x: r * x, jnp.float32(1.0)))
            value, slope = step(rate)
            np.testing.assert_allclose(value, np.exp(-dt), rtol=2e-7)
            np.testing.assert_allclose(slope, dt * np.exp(-dt), rtol=2e-6)


def logistic(dt, n):
    with environ.context(dt=dt):
        return transform.for_loop(lambda _: step_state(), jnp.arange(n))[-1]


def step_state():
    x.value = nn.exp_euler_step(lambda x: x * (1.0 - x), x.value)
    return x.value


x = HiddenState(0.1)


def test_nonlinear_equations_converge_at_least_at_first_order():
    exact = 1.0 / (1.0 + 9.0 * np.exp(-2.0))
    with jax.enable_x64(True):
        errors = []
        for n in (20, 40, 80):
            x.value = jnp.asarray(0.1, jnp.float64)
            errors.append(abs(float(logistic(2.0 / n, n)) - exact))
    assert errors[0] < 0.01 and all(a / b > 1.8 for a, b in itertools.pairwise(errors))


COUPLING = np.array([[-1.0, 2.0, 0.5], [0.3, -4.0, 0.1], [0.0, 1.0, 0.7]])


def test_coupled_equations_use_the_diagonal():
    with jax.enable_x64(True), environ.context(dt=0.1):
        start = jnp.array([1.0, -2.0, 0.5])
        got = nn.exp_euler_step(lambda x: jnp.asarray(COUPLING) @ x, start)
        z = 0.1 * np.diag(COUPLING)
        expected = start + 0.1 * np.expm1(z) / z * (COUPLING @ start)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
        rows = nn.exp_euler_step(lambda x: x @ jnp.asarray(COUPLING.T), jnp.stack([start, start]))
        np.testing.assert_allclose(rows, np.stack([expected, expected]), rtol=1e-12)


V3 = jnp.ones(3)


@pytest.mark.parametrize(
    'f, elementwise',
    [
        (lambda v: -v / 3.0 + jnp.arange(3.0), True),
        (lambda v: jnp.where(v > 0, jnp.exp(-v), v**2) * jnp.sum(V3), True),
        (lambda v: jax.nn.softplus(v) + jax.nn.silu(v) * jnp.tanh(v), True),
        (jax.jit(lambda v: jnp.clip(v, 0.0, 1.0) * jax.nn.sigmoid(v)), True),
        (lambda v: v * V3.mean() + v.shape[0], True),
        (lambda v: jax.lax.stop_gradient(v) * v, True),
        (lambda v: v - v.mean(), False),
        (lambda v: v[::-1], False),
        (lambda v: jnp.cumsum(v), False),
        (lambda v: jnp.asarray(COUPLING) @ v, False),
        (lambda v: v * v[0], False),
        (lambda v: jax.lax.fori_loop(0, 2, lambda _, a: a * 2.0, v), False),
        (jax.jit(lambda v: jnp.roll(v, 1)), False),
        (lambda v: jnp.broadcast_to(v, (3, 3)).sum(0), False),
    ],
)
def test_what_couples_is_seen(f, elementwise):
    assert is_elementwise(f, V3) == elementwise


def test_units_of_a_membrane():
    tau, rest, r, i = 10.0 * u.ms, -65.0 * u.mV, 5.0 * u.Mohm, 3.0 * u.nA

    def drift(v, current):
        return (rest - v + r * current) / tau

    with environ.context(dt=0.5 * u.ms):
        v = nn.exp_euler_step(drift, jnp.array([-65.0, -50.0]) * u.mV, i)
        assert v.unit == u.mV
        expected = -50.0 + (np.array([-65.0, -50.0]) + 50.0) * np.exp(-0.05)
        np.testing.assert_allclose(v.mantissa, expected, rtol=1e-6)
        again = nn.exp_euler_step(drift, jnp.array([-0.065, -0.05]) * u.volt, current=i)
        np.testing.assert_allclose(again.to_decimal(u.mV), expected, rtol=1e-6)
    with environ.context(dt=0.0005 * u.second):
        np.testing.assert_allclose(nn.exp_euler_step(drift, v, i).mantissa.shape, (2,))


def test_noise_has_the_right_scale():
    """Ornstein-Uhlenbeck in mV, 40000 draws: mean and variance within 5 standard errors (6e-7)."""
    tau, sigma = 10.0 * u.ms, 2.0 * u.mV / u.ms**0.5
    with environ.context(dt=0.4 * u.ms):
        start = jnp.ones(40_000) * u.mV
        got = nn.exp_euler_step(lambda v: -v / tau, lambda v: sigma, start).mantissa
    sd = 2.0 * np.sqrt(0.4)
    assert abs(got.mean() - np.exp(-0.04)) < 5 * sd / 200
    assert abs(got.var() / sd**2 - 1) < 5 * np.sqrt(2 / 40_000)


def test_noise_comes_from_the_stream_and_is_new_at_each_step():
    def run():
        with environ.context(dt=0.1):
            return transform.for_loop(
                lambda _: nn.exp_euler_step(lambda v: -v, lambda v: 0.5 * v, jnp.ones(2)), jnp.arange(3)
            )

    random.seed(3)
    first = run()
    random.seed(3)
    np.testing.assert_array_equal(run(), first)
    assert len(np.unique(np.asarray(first))) == 6


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtype_is_kept(dtype):
    with environ.context(dt=0.1):
        out = nn.exp_euler_step(lambda v: -v, lambda v: 1.0, jnp.ones(2, dtype))
        assert out.dtype == dtype and nn.exp_euler_step(lambda v: -v, 1.0).shape == ()


def test_the_drift_may_use_states_and_lanes():
    seen, tau = HiddenState(jnp.zeros(3)), HiddenState(2.0)

    def drift(v):
        seen.value = v
        return -v / tau.value

    with environ.context(dt=0.1):
        out = transform.jit(lambda v: nn.exp_euler_step(drift, v))(V3)
        np.testing.assert_allclose(out, np.exp(-0.05), rtol=1e-6)
        np.testing.assert_allclose(seen.value, 1.0)
        lanes = transform.vmap(lambda v: nn.exp_euler_step(lambda v: -v / tau.value, v))(jnp.ones((4, 3)))
        np.testing.assert_allclose(lanes, np.exp(-0.05), rtol=1e-6)
        slope = transform.grad(lambda: nn.exp_euler_step(lambda v: -v / tau.value, 1.0), tau)()
        np.testing.assert_allclose(slope, np.exp(-0.05) * 0.1 / 4, rtol=1e-5)


@pytest.mark.parametrize(
    'call, error, message',
    [
        (lambda: nn.exp_euler_step(3.0, 1.0), TypeError, 'needs a drift'),
        (lambda: nn.exp_euler_step(lambda v: v), TypeError, 'needs the state'),
        (lambda: nn.exp_euler_step(lambda v: v, lambda v: v), TypeError, 'needs the state'),
        (lambda: nn.exp_euler_step(lambda v: v, jnp.arange(3)), TypeError, 'floating numbers, got int32'),
        (lambda: nn.exp_euler_step(lambda v: v.sum() / u.ms, V3), ValueError, r'shape of the state, \(3,\)'),
        (lambda: nn.exp_euler_step(lambda v: -v, V3 * u.mV), u.UnitMismatchError, 'drift must be in mV / ms'),
        (
            lambda: nn.exp_euler_step(lambda v: -v / u.ms, lambda v: v, V3 * u.mV),
            u.UnitMismatchError,
            'diffusion must be in',
        ),
    ],
)
def test_errors_say_what_to_do(call, error, message):
    with environ.context(dt=0.1 * u.ms), pytest.raises(error, match=message):
        call()


def test_the_time_step_is_needed():
    with pytest.raises(KeyError, match='the time step of dynamics'):
        nn.exp_euler_step(lambda v: v, 1.0)
