"""Param and Const: values, caches, units, domains, messages, and what the API peer gets wrong about them."""

import copy
import logging
import pickle
import threading

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import ParamState, State, graph, nn, random, transform

# Values and dtypes


def test_value_is_an_array_without_unit_and_a_quantity_with():
    assert isinstance(nn.Param(1.5, t=nn.ExpT()).value(), jax.Array)
    value = nn.Param(1.5 * u.ms, t=nn.ExpT(0.0 * u.ms)).value()
    assert isinstance(value, u.Quantity) and value.unit == u.ms
    assert isinstance(nn.Param(1.5 * u.ms).val.value, jax.Array)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_floating_dtypes_are_kept(dtype):
    p = nn.Param(jnp.ones(2, dtype), t=nn.SoftplusT(), reg=nn.L2Reg())
    assert p.val.value.dtype == p.value().dtype == p.dtype == dtype
    p.set_value([2.0, 3.0])
    assert p.value().dtype == dtype


def test_double_precision_is_kept_and_the_flag_left_alone(x64):
    p = nn.Param(np.full(2, 0.5), t=nn.SimplexT())
    assert p.value().dtype == np.float64 and jax.config.jax_enable_x64
    assert nn.Param(jnp.ones(2, jnp.float32), t=nn.ExpT()).value().dtype == np.float32
    assert nn.Const(np.float64(0.1)).value().dtype == np.float64


def test_integers_become_the_default_float_and_python_numbers_are_strong():
    assert nn.Param([1, 2]).dtype == jnp.float32
    assert not nn.Param(1.0).val.value.weak_type


# The cache


def test_first_read_fills_the_cache_and_any_write_invalidates_it():
    p = nn.Param(2.0, t=nn.SoftplusT())
    assert p.cache_stats == {'valid': False, 'has_cached_value': False}
    assert p.value() is p.value()
    assert p.cache_stats == {'valid': True, 'has_cached_value': True}
    for write in (
        lambda: p.set_value(3.0),
        lambda: setattr(p.val, 'value', jnp.zeros(())),
        lambda: p.val.restore_value(jnp.ones(())),
    ):
        p.cache()
        write()
        assert not p.cache_stats['valid']
        np.testing.assert_allclose(p.value(), p.t.forward(p.val.value))
    p.clear_cache()
    assert p.cache_stats == {'valid': False, 'has_cached_value': False}


@pytest.mark.parametrize(
    'change', [lambda p: setattr(p, 't', nn.ExpT()), lambda p: setattr(p, 'precompute', lambda v: 10 * v)]
)
def test_a_replaced_transform_or_precompute_takes_effect_at_once(change):
    p = nn.Param(2.0, t=nn.SoftplusT())
    p.cache()
    before = float(p.value())
    change(p)
    assert float(p.value()) != pytest.approx(before)


def test_a_precompute_that_reads_another_state_is_never_cached():
    other = State(jnp.array(3.0))
    p = nn.Param(2.0, precompute=lambda v: v * other.value)
    assert float(p.value()) == 6.0 and not p.cache_stats['has_cached_value']
    other.value = jnp.array(100.0)
    assert float(p.value()) == 200.0


def test_a_precompute_that_draws_random_numbers_advances_the_stream():
    p = nn.Param(0.0, precompute=lambda v: v + random.randn())
    assert float(p.value()) != float(p.value())


def test_a_warm_cache_does_not_stop_gradients():
    p, q = nn.Param(2.0), nn.Param(3.0)
    p.cache(), q.cache()
    grads = transform.grad(lambda: p.value() * q.value(), {'p': p.val, 'q': q.val})()
    assert float(grads['p']) == 3.0 and float(grads['q']) == 2.0
    r = nn.Param(2.0, t=nn.SoftplusT(0.0), reg=nn.L2Reg(1.0))
    r.cache()
    grad = transform.grad(lambda: r.reg_loss(), r.val)()
    assert float(grad) == pytest.approx(float(2 * 2.0 * jax.nn.sigmoid(r.val.value)), rel=1e-5)


def test_a_gradient_inside_the_precompute_block_is_right():
    model = nn.Module()
    model.p = nn.Param(2.0, t=nn.ExpT())

    def loss():
        with model.param_precompute():
            return model.p.value() * model.p.value()

    with model.param_precompute():
        grad = transform.grad(loss, model.p.val)()
    assert float(grad) == pytest.approx(8.0, rel=1e-5)


def test_a_warm_cache_is_not_baked_into_compiled_code():
    p = nn.Param(2.0)
    f = transform.jit(lambda: p.value())
    p.cache()
    assert float(f()) == 2.0
    p.set_value(5.0)
    assert float(f()) == 5.0


@pytest.mark.parametrize(
    'run',
    [
        lambda f: transform.jit(f)(),
        lambda f: jax.jit(f)(),
        lambda f: jax.eval_shape(f),
        lambda f: transform.for_loop(lambda i: f(), jnp.arange(2)),
        lambda f: transform.vmap(lambda i: f())(jnp.arange(2)),
    ],
)
def test_no_tracer_is_remembered(run):
    p = nn.Param(2.0, t=nn.SoftplusT())
    run(lambda: (p.cache(), p.value())[1])
    assert not p.cache_stats['has_cached_value']
    assert float(p.value() + 1.0) == pytest.approx(3.0)


def test_a_write_while_another_thread_computes_is_never_hidden():
    started, go = threading.Event(), threading.Event()

    def slow(v):
        started.set()
        go.wait(5)
        return v

    p = nn.Param(1.0, precompute=slow)
    thread = threading.Thread(target=p.cache)
    thread.start()
    started.wait(5)
    p.val.value = jnp.array(2.0)
    go.set()
    thread.join()
    assert float(p.value()) == 2.0


def test_cache_events_are_logged_on_request(caplog):
    p = nn.Param(1.0, enable_cache_logging=True)
    with caplog.at_level(logging.INFO):
        p.value(), p.value(), p.set_value(2.0), p.value()
    assert [r.message.split(': ')[1] for r in caplog.records] == [
        'cache miss',
        'cache hit',
        'cache invalid',
        'cache miss',
    ]


# Copies


@pytest.mark.parametrize(
    'copy_of',
    [
        graph.clone,
        copy.copy,
        copy.deepcopy,
        lambda p: pickle.loads(pickle.dumps(p)),
        lambda p: graph.treefy_merge(*graph.treefy_split(p)),
    ],
)
def test_copies_start_cold_and_do_not_share_the_cache(copy_of):
    p = nn.Param(1.0, t=nn.SoftplusT(), reg=nn.GaussianReg(0.0, 1.0), dims=None)
    p.cache()
    q = copy_of(p)
    assert not q.cache_stats['has_cached_value'] and p.cache_stats['valid']
    q.val.value = jnp.array(50.0)
    assert float(q.value()) == pytest.approx(50.0)
    if q.val is not p.val:  # copy.copy is shallow: it shares the State, as Python means it
        assert float(p.value()) == pytest.approx(1.0)


# Domains

OUTSIDE = [
    (-1.0, nn.SoftplusT(0.0)),
    (-0.1, nn.ExpT(0.0)),
    (2.0, nn.SigmoidT(0.0, 1.0)),
    (-1.0, nn.SigmoidT(0.0, 1.0)),
    (2.0, nn.TanhT(0.0, 1.0)),
    (2.0, nn.SoftsignT(0.0, 1.0)),
    (-1.0, nn.SoftsignT(0.0, 1.0)),
    ([3.0, 1.0, 2.0], nn.OrderedT()),
    ([2.0, 3.0, 4.0], nn.SimplexT()),
    ([0.0, 0.0, 0.0], nn.SimplexT()),
    ([3.0, 4.0], nn.UnitVectorT()),
    ([0.0, 0.0], nn.UnitVectorT()),
    (5.0, nn.ClipT(0.0, 1.0)),
    (-5.0, nn.ReluT(0.0)),
    (0.5, nn.NegativeT()),
]


AT_BOUNDS = [(0.0, nn.ExpT(0.0)), (1.0, nn.SigmoidT(0.0, 1.0)), (1.0, nn.SoftsignT(0.0, 1.0))]


@pytest.mark.parametrize('value, t', [*OUTSIDE, *AT_BOUNDS])
def test_a_start_outside_the_codomain_warns_and_moves_inside(value, t):
    with pytest.warns(UserWarning, match='Starting at'):
        p = nn.Param(value, t=t)
    assert np.isfinite(p.val.value).all() and np.isfinite(p.value()).all()
    t.check(p.value())


@pytest.mark.parametrize('value, t', OUTSIDE)
def test_set_value_outside_the_codomain_raises_and_changes_nothing(value, t):
    model = nn.Module()
    model.p = nn.Param(t.forward(jnp.full(t.inverse_shape(np.shape(value)), 0.3)), t=t)
    before = model.p.value()
    with pytest.raises(ValueError, match=f"Param 'p'.*{type(t).__name__}.*{'vector' if t.event_rank else 'entries'}"):
        model.p.set_value(value)
    np.testing.assert_array_equal(model.p.value(), before)


@pytest.mark.parametrize(
    'value, t', [(1e9, nn.ExpT(0.0)), (1e9, nn.LogT(0.0)), (1e10, nn.PositiveT()), (1e-12, nn.SigmoidT(0.0, 1.0))]
)
def test_extreme_values_read_back(value, t):
    np.testing.assert_allclose(nn.Param(value, t=t).value(), value, rtol=1e-5)


def test_a_direct_write_may_change_the_shape_as_the_page_does():
    with pytest.warns(UserWarning):
        p = nn.Param(jnp.zeros(3), t=nn.SimplexT())
    p.val.value = jnp.zeros(3)
    np.testing.assert_allclose(p.value(), [0.5, 0.25, 0.125, 0.125])


def test_set_value_keeps_shape_dtype_and_unit():
    p = nn.Param(jnp.ones(2) * u.mV, t=nn.SoftplusT(0.0 * u.mV))
    p.set_value(jnp.array([0.001, 0.002]) * u.volt)
    np.testing.assert_allclose(p.value().to_decimal(u.mV), [1.0, 2.0], rtol=1e-5)
    q = nn.Param(jnp.ones(2))
    q.set_value(np.array([1, 2]))
    assert q.val.value.dtype == jnp.float32 and isinstance(q.val.value, jax.Array)


def test_clip_works_before_precompute_and_refuses_the_edge_of_the_codomain():
    p = nn.Param(6.0, precompute=lambda v: 3 * v)
    p.clip(0.0, 4.0)
    assert float(p.value()) == 12.0 and float(p.constrained()) == 4.0
    with pytest.raises(ValueError, match=r'SigmoidT.*\(0, 1\)'):
        nn.Param(0.5, t=nn.SigmoidT(0.0, 1.0)).clip(1.0, 2.0)
    q = nn.Param([1.0, 20.0] * u.mV)
    q.clip(max_val=0.01 * u.volt)
    np.testing.assert_allclose(q.value().to_decimal(u.mV), [1.0, 10.0], rtol=1e-6)


# Priors

RESETS = [
    (jnp.ones((3, 2)), nn.IdentityT(), nn.L2Reg()),
    (jnp.ones((3, 2)), nn.IdentityT(), nn.GaussianReg(1.0, 2.0)),
    (jnp.ones(3), nn.ExpT(0.0), nn.ExponentialReg()),
    (jnp.ones(3), nn.SoftplusT(0.0), nn.L2Reg()),
    (jnp.ones(3), nn.SoftplusT(0.0), nn.GammaReg(alpha=1.0, beta=2.0)),
    (jnp.ones(3) / 3, nn.SimplexT(), nn.DirichletReg()),
    (jnp.full(2, 0.5), nn.SigmoidT(0.0, 1.0), nn.BetaReg(a=0.5, b=2.0)),
    (jnp.ones(2) * u.ms, nn.ExpT(0.0 * u.ms), nn.GammaReg(beta=1.0 / u.ms)),
]


@pytest.mark.filterwarnings('ignore:.*narrower:UserWarning')
@pytest.mark.parametrize('value, t, reg', RESETS)
def test_reset_to_prior_keeps_shape_and_stays_inside(value, t, reg):
    p = nn.Param(value, t=t, reg=reg)
    shape, dtype = p.val.value.shape, p.dtype
    p.reset_to_prior()
    assert p.val.value.shape == shape and p.val.value.dtype == dtype and np.isfinite(p.val.value).all()
    p.init_from_prior(jax.random.key(0))
    assert p.val.value.shape == shape and np.isfinite(p.val.value).all()
    assert np.isfinite(p.reg_loss()) and p.reg_loss().shape == ()


def test_without_a_prior_reset_does_nothing_and_a_draw_is_refused():
    p = nn.Param(3.0)
    p.reset_to_prior()
    assert float(p.value()) == 3.0 and p.reg_loss().shape == ()
    with pytest.raises(ValueError, match='no prior to draw from'):
        p.sample_prior()


def test_no_transform_means_the_one_for_the_priors_support():
    assert type(nn.Param(1.0, t=None, reg=dist.Gamma(2.0, 1.0)).t).__name__ in ('PositiveT', 'SoftplusT', 'ExpT')
    assert nn.Param([0.5, 0.5], t=None, reg=dist.Dirichlet(jnp.ones(2))).t == nn.SimplexT()
    assert nn.Param(1.0, t=None).t == nn.IdentityT()


def test_a_prior_narrower_than_the_transform_warns_with_the_transform_to_use():
    with pytest.warns(UserWarning, match=r'narrower than the codomain.*Use t='):
        nn.Param(1.0, reg=dist.Gamma(2.0, 1.0))


def test_the_prior_scores_the_value_before_precompute_or_theta_on_request():
    p = nn.Param(2.0, t=nn.ExpT(), reg=dist.Normal(0.0, 1.0), precompute=lambda v: 100 * v)
    assert float(p.reg_loss()) == pytest.approx(-float(dist.Normal().log_prob(2.0)), rel=1e-6)
    q = nn.Param(2.0, t=nn.ExpT(), reg=dist.Normal(0.0, 1.0), prior_on='unconstrained')
    assert float(q.reg_loss()) == pytest.approx(-float(dist.Normal().log_prob(np.log(2.0))), rel=1e-5)
    assert "prior_on='unconstrained'" in repr(q) and 'prior_on' not in repr(p)


def test_log_det_is_the_sum_over_entries():
    p = nn.Param([[1.0, 2.0], [3.0, 4.0]], t=nn.ExpT())
    assert float(p.log_abs_det_jacobian()) == pytest.approx(np.log(24.0), rel=1e-6)
    assert float(nn.Const(2.0, t=nn.ExpT()).log_abs_det_jacobian()) == 0.0


# Param.init


def test_init_from_specifications():
    assert nn.Param.init(None) is None
    p = nn.Param(jnp.ones((2, 3)))
    assert nn.Param.init(p, (2, 3)) is p
    made = nn.Param.init(jnp.ones(3), (2, 3), t=nn.SoftplusT(0.0))
    assert type(made) is nn.Param and made.shape == (2, 3) and made.t == nn.SoftplusT(0.0)
    assert nn.Param.init([1.0, 2.0], 2).shape == (2,)
    assert nn.Param.init(1.0 * u.mV, (2,)).unit == u.mV
    assert nn.Param.init(lambda size: jnp.ones(size), 4).shape == (4,)


# Const


def test_const_is_a_state_but_no_parameter_and_its_changes_reach_compiled_code():
    model = nn.Module()
    model.c = nn.Const(1e9, t=nn.ExpT(0.0))
    assert float(model.c.value()) == 1e9
    assert list(model.states()) == [('c', 'val')] and not model.states(ParamState)
    for p in (model.c, nn.Param(1e9, fit=False)):
        f = transform.jit(lambda p=p: p.value() * 1.0)
        f()
        p.set_value(9.0)
        assert float(f()) == 9.0


def test_const_set_inside_jit_keeps_a_number():
    c = nn.Const(1.0)
    transform.jit(lambda x: c.set_value(x))(4.0)
    assert float(c.value()) == 4.0 and float(nn.Const(1.0, reg=nn.L2Reg()).reg_loss()) == 0.0


# Messages

ERRORS = [
    (lambda: nn.Param(True), TypeError, 'real floating numbers, got dtype bool'),
    (lambda: nn.Param(1 + 2j), TypeError, 'real floating numbers, got dtype complex64'),
    (lambda: nn.Param('1'), TypeError, "real floating numbers, got '1'"),
    (lambda: nn.Param(None), TypeError, 'real floating numbers, got None'),
    (lambda: nn.Param(nn.Param(1.0)), TypeError, 'got a Param; pass its value'),
    (lambda: nn.Param(State(1.0)), TypeError, 'got a State; pass its value'),
    (lambda: nn.Param([1.0, np.nan]), ValueError, r'1 NaN or infinite entries, the first at \[\(1,\)\]'),
    (lambda: nn.Param(1.0, t=3), TypeError, 't must be a Transform such as'),
    (lambda: nn.Param(1.0, reg=3), TypeError, 'reg'),
    (lambda: nn.Param(1.0, precompute=3), TypeError, 'precompute must be a callable'),
    (lambda: nn.Param(1.0, prior_on='theta'), ValueError, "'value' or 'unconstrained', got 'theta'"),
    (lambda: nn.Param(1.0, dims='a'), ValueError, r"1 dims \('a',\) for a value with 0 axes"),
    (lambda: nn.Param([1.0], dims=[3]), TypeError, 'dims must be different names'),
    (lambda: nn.Param(jnp.ones((2, 2)), dims=('a', 'a')), TypeError, 'dims must be different names'),
    (
        lambda: nn.Param(0.5, t=nn.SigmoidT(np.zeros(3), np.ones(3))),
        ValueError,
        r'lower of shape \(3,\).*value of shape \(\)',
    ),
    (lambda: nn.Param(1.0, t=nn.SoftplusT(0.0 * u.mV)), u.UnitMismatchError, 'SoftplusT.*mV'),
    (lambda: nn.Param(1.0 * u.ms, t=nn.SoftplusT(0.0 * u.mV)), u.UnitMismatchError, 'SoftplusT.*mV'),
    (lambda: nn.Param(1.0 * u.ms, reg=nn.GaussianReg(0.0 * u.mV, 1.0 * u.mV)).reg_loss(), u.UnitMismatchError, 'mV'),
    (lambda: nn.Param(1.0 * u.ms).set_value(1.0), u.UnitMismatchError, 'has the unit ms; got plain numbers'),
    (lambda: nn.Param(1.0 * u.ms).set_value(1.0 * u.mV), u.UnitMismatchError, 'has the unit ms; a value in mV'),
    (lambda: nn.Param(1.0).set_value(1.0 * u.mV), u.UnitMismatchError, 'has the unit none; a value in mV'),
    (lambda: nn.Param([1.0, 2.0]).set_value(jnp.ones(7)), ValueError, r'has shape \(2,\), got a value of shape \(7,\)'),
    (
        lambda: nn.Param([1.0, 2.0], t=nn.SoftplusT()).set_value([1.0, -3.0]),
        ValueError,
        r'1 of 2 entries do not: \[1\]: -3',
    ),
    (lambda: nn.Const(1.0, fit=True), ValueError, 'never trained: drop fit=True'),
    (lambda: nn.Param.init(None, allow_none=False), ValueError, 'allow_none is False'),
    (lambda: nn.Param.init(jnp.ones), ValueError, r'needs sizes='),
    (lambda: nn.Param.init(jnp.ones(3), (2, 2)), ValueError, r'shape \(3,\), which does not broadcast to \(2, 2\)'),
    (lambda: nn.Param.init(nn.Param(1.0), (2,)), ValueError, r'sizes asks for \(2,\)'),
]


@pytest.mark.parametrize('make, error, message', ERRORS)
def test_errors_say_what_came_and_what_is_allowed(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_messages_have_the_path():
    model = nn.Module()
    model.cells = [nn.Module()]
    model.cells[0].rate = nn.Param(1.0, t=nn.SoftplusT())
    model.cells = model.cells
    with pytest.raises(ValueError, match="Param 'cells.0.rate'"):
        model.cells[0].rate.set_value(-1.0)


def test_a_power_transform_alone_warns():
    with pytest.warns(UserWarning, match='itself confined'):
        nn.Param(0.5, t=nn.PowerT())


def test_repr_shows_what_was_declared():
    p = nn.Param(jnp.ones(2) * u.Hz, t=nn.SoftplusT(0.0 * u.Hz), reg=nn.GammaReg(), dims=('cell',))
    assert repr(p).startswith(
        'Param([1. 1.] Hz, t=SoftplusT(lower=0.0 * u.Hz), reg=GammaReg('
    ) and "dims=('cell',)" in repr(p)
    assert repr(nn.Const(2.0)) == 'Const(2.)'


@pytest.mark.parametrize('make', [nn.Param, lambda value, **options: nn.ParamSpec(value, **options).make(())])
def test_transform_and_prior_are_other_names(make):
    ours = make(0.5, t=nn.SigmoidT(0.0, 1.0), reg=nn.BetaReg(a=2.0, b=2.0))
    other = make(0.5, transform=nn.SigmoidT(0.0, 1.0), prior=nn.BetaReg(a=2.0, b=2.0))
    assert repr(other) == repr(ours)
    for names in ({'t': nn.ExpT(0.0), 'transform': nn.ExpT(0.0)}, {'reg': nn.L2Reg(1.0), 'prior': nn.L2Reg(1.0)}):
        with pytest.raises(TypeError, match='are the same argument. Give one of them'):
            make(1.0, **names)
