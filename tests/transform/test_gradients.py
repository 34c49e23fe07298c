"""The gradient family: one return convention, values against JAX, and what it refuses."""

import functools
import inspect

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import HiddenState, ParamState, State, nn, random, transform
from brainstate_prob.core import current_trace
from brainstate_prob.core.state import holds_tracer

FAMILY = ['grad', 'vector_grad', 'jacrev', 'jacfwd', 'hessian', 'fwd_grad']


def states():
    return {'w': ParamState(jnp.array([1.0, -2.0]), name='weight'), 'b': ParamState(jnp.array(0.5))}


def value_of(w, b, x):
    return jnp.sum(jnp.sin(w * x) + b * x**2)


def read(s):
    return s['w'].value, s['b'].value


# One row a transform: the same in JAX, as a function of (fun, argnums).
REFERENCE = {
    'grad': jax.grad,
    'vector_grad': jax.grad,
    'jacrev': jax.jacrev,
    'jacfwd': jax.jacfwd,
    'hessian': jax.hessian,
}


@pytest.mark.parametrize('name', REFERENCE)
@pytest.mark.parametrize('has_aux', [False, True])
@pytest.mark.parametrize('return_value', [False, True])
@pytest.mark.parametrize('what', ['args', 'states', 'both'])
def test_return_structure_and_values(name, what, return_value, has_aux, x64):
    s = states()
    x = jnp.array([0.3, 1.2])

    def fun(x, scale):
        value = value_of(*read(s), x) * scale
        return (value, {'kind': 'metrics', 'double': 2 * value, 'n': 3}) if has_aux else value

    out = getattr(transform, name)(
        fun,
        None if what == 'args' else s,
        None if what == 'states' else 0,
        has_aux=has_aux,
        return_value=return_value,
    )(x, 2.0)
    value = value_of(*read(s), x) * 2.0
    if has_aux:
        *out, aux = out
        assert (aux['kind'], aux['n'], type(aux['n'])) == ('metrics', 3, int)
        np.testing.assert_allclose(aux['double'], 2 * value)
        out = out[0] if len(out) == 1 else tuple(out)
    if return_value:
        out, got = out
        np.testing.assert_allclose(got, value)

    argnums = {'args': 1, 'states': 0, 'both': (0, 1)}[what]
    values = {k: state.value for k, state in s.items()}
    want = REFERENCE[name](lambda wb, x: value_of(wb['w'], wb['b'], x) * 2.0, argnums)(values, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), out, want)


@pytest.mark.parametrize('name', FAMILY)
def test_one_signature(name):
    parameters = list(inspect.signature(getattr(transform, name)).parameters.values())
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == [
        'fun',
        'grad_states',
        'argnums',
        'holomorphic',
        'allow_int',
        'has_aux',
        'return_value',
        'unit_aware',
        'check_states',
        'debug_nan',
    ]
    with pytest.raises(TypeError, match='func'):
        getattr(transform, name)(func=lambda x: x)
    with pytest.raises(TypeError, match='needs a function'):
        getattr(transform, name)(3)


def make_method(name):
    class Model:
        def __init__(self, w):
            self.w = ParamState(w)

        @getattr(transform, name)
        def plain(self, x):
            """Docs."""
            return jnp.sum(self.w.value * x**2)

        @getattr(transform, name)(argnums=-1, return_value=True)
        def factory(self, scale, x):
            return jnp.sum(self.w.value * x**2) * scale

    return Model


@pytest.mark.parametrize('name', ['grad', 'vector_grad', 'jacrev', 'jacfwd'])
def test_methods_and_decorator_factories(name):
    model = make_method(name)(3.0)
    assert float(model.plain(2.0)) == 12.0
    slope, value = model.factory(2.0, 1.0)
    assert (float(slope), float(value)) == (12.0, 6.0)
    assert (model.plain.__name__, model.plain.__doc__) == ('plain', 'Docs.')
    assert float(transform.hessian(lambda x: x**3)(1.0)) == 6.0


class TestContainers:
    s = states()

    @pytest.mark.parametrize(
        'container',
        [
            s['w'],
            [s['w']],
            (s['w'], s['b']),
            {'x': s['w'], 'y': {'z': [s['b'], None]}},
            {0: s['w'], 'b': s['b']},
            [s['w'], s['w']],
            {('a', 0): s['w'], ('a', 'b'): s['b']},
        ],
        ids=lambda c: type(c).__name__,
    )
    def test_the_gradients_have_the_structure_of_the_states(self, container):
        grads = transform.grad(lambda: value_of(*read(self.s), 2.0), container, check_states=False)()
        values = jax.tree.map(lambda x: x, container) if isinstance(container, State) else container

        def compare(c, g):
            if isinstance(c, State):
                assert g.shape == c.value.shape
                return
            assert type(c) is type(g)
            assert len(c) == len(g)
            for k in c if isinstance(c, dict) else range(len(c)):
                if c[k] is not None:
                    compare(c[k], g[k])

        compare(values, grads)

    def test_a_module_means_its_parameters(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = ParamState(jnp.array(3.0))
                self.h = HiddenState(jnp.array(1.0))

        net = Net()
        grads = transform.grad(lambda: net.w.value**2 * net.h.value, net)()
        assert dict(grads) == {('w',): 6.0}
        grads = transform.grad(lambda: net.w.value**2 * net.h.value, net.states(ParamState))()
        assert dict(grads) == {('w',): 6.0}
        both = transform.grad(lambda: net.w.value**2 * net.h.value, {'net': net, 'h': net.h})()
        assert float(both['h']) == 9.0

    @pytest.mark.parametrize('empty', [{}, [], (), {'a': {}}], ids=str)
    @pytest.mark.parametrize('name', ['grad', 'vector_grad', 'jacrev', 'jacfwd', 'hessian'])
    def test_empty_is_not_none(self, name, empty):
        make = getattr(transform, name)
        f = make(lambda x: (x**2).sum(), empty, return_value=True)
        grads, value = f(jnp.ones(2))
        assert (grads, float(value)) == (empty, 2.0)
        assert make(lambda: jnp.array(3.0), empty)() == empty
        assert make(lambda x: x.sum(), argnums=())(jnp.ones(2)) == ()

    @pytest.mark.parametrize(
        ('bad', 'match'),
        [
            (3.0, 'got float'),
            ({'a': [1.0]}, r"got float at \('a', 0\)"),
            ([jnp.ones(2)], r'at \(0,\)'),
        ],
    )
    def test_what_holds_no_states(self, bad, match):
        with pytest.raises(TypeError, match=f'grad_states takes a State.*{match}'):
            transform.grad(lambda: 1.0, bad)


class TestArgnums:
    @pytest.mark.parametrize(
        ('argnums', 'want'),
        [
            (1, 6.0),
            (np.int64(1), 6.0),
            (-1, 6.0),
            ([0, 1], (4.0, 6.0)),
            ((-1, 0), (6.0, 4.0)),
            (np.array([1]), (6.0,)),
            (range(2), (4.0, 6.0)),
            (None, 4.0),
            ((), ()),
        ],
        ids=str,
    )
    def test_what_is_taken(self, argnums, want):
        assert transform.grad(lambda x, y: x**2 + y**2, argnums=argnums)(2.0, 3.0) == want

    @pytest.mark.parametrize(
        ('argnums', 'error', 'match'),
        [
            (2, ValueError, 'argnums=2 names no argument: the call has 2 positional arguments'),
            (-3, ValueError, 'argnums=-3 names no argument'),
            ([0, 0], ValueError, 'an argument twice'),
            ([1, -1], ValueError, 'an argument twice'),
            (True, TypeError, 'int or a sequence of ints'),
            ('x', TypeError, 'int or a sequence'),
            (1.0, TypeError, 'int or'),
        ],
        ids=str,
    )
    def test_what_is_refused(self, argnums, error, match):
        with pytest.raises(error, match=match):
            transform.grad(lambda x, y: x * y, argnums=argnums)(2.0, 3.0)

    def test_keywords(self):
        f = transform.grad(lambda x, y, *, power=2: x**power * y, argnums=1)
        assert f(2.0, y=3.0, power=3) == 8.0
        assert f(x=2.0, y=3.0) == 4.0
        with pytest.raises(ValueError, match='argnums=1 names no argument'):
            f(2.0)


class TestWhatJaxAllowsToo:
    def test_python_control_flow_on_concrete_values(self):
        f = transform.grad(lambda x: x**2 if x > 0 else -x)
        assert (f(3.0), f(-3.0)) == (6.0, -1.0)
        w = ParamState(2.0)
        assert transform.grad(lambda: w.value**3 if w.value > 0 else w.value, w)() == 12.0

    def test_arguments_that_are_no_arrays(self):
        def f(x, train, mode, activation, nothing=None, *, flag):
            assert (train, mode, flag, nothing) == (True, 'fast', False, None)
            return activation(x)

        assert transform.grad(f)(0.0, True, 'fast', jnp.sin, flag=False) == 1.0

    def test_nested(self):
        w = ParamState(2.0)
        first = transform.grad(lambda: w.value**3, w)
        assert transform.grad(first, w)() == 12.0
        assert transform.grad(transform.grad(lambda x: x**3))(2.0) == 12.0

    def test_holomorphic_and_allow_int(self):
        z = ParamState(jnp.array(1.0 + 2.0j))
        assert transform.grad(lambda: z.value**2, z, holomorphic=True)() == 2.0 + 4.0j
        n = State(jnp.array(3))
        grads = transform.grad(lambda: 2.0 * n.value, n, allow_int=True)()
        assert grads.dtype == jax.dtypes.float0
        for name in ('jacfwd', 'hessian', 'fwd_grad'):
            with pytest.raises(ValueError, match=f'{name} uses forward mode'):
                getattr(transform, name)(lambda: 1.0, allow_int=True)

    def test_a_compiled_function(self):
        w = ParamState(2.0)
        f = transform.jit(lambda x: (w.value * x, {'x': x}))
        grads, value, aux = transform.grad(f, w, has_aux=True, return_value=True)(3.0)
        assert (grads, value, aux) == (3.0, 6.0, {'x': 3.0})

    def test_under_transforms_of_jax(self):
        w = ParamState(2.0)
        f = transform.grad(lambda x: w.value * x**2)
        np.testing.assert_allclose(jax.vmap(f)(jnp.arange(3.0)), [0.0, 4.0, 8.0])
        assert jax.jit(f)(1.0) == 4.0


class TestErrors:
    @pytest.mark.parametrize('name', ['grad', 'vector_grad', 'jacrev', 'jacfwd', 'hessian', 'fwd_grad'])
    def test_an_integer_state_is_named(self, name):
        n = State(jnp.array(3), name='steps')
        with pytest.raises(TypeError, match=r"State 'steps' at \('n',\) cannot be differentiated: its type is int32"):
            getattr(transform, name)(lambda: 1.0 * n.value, {'n': n})()
        with pytest.raises(TypeError, match=r'Argument 1 cannot be differentiated: its type is (int32|bool)'):
            getattr(transform, name)(lambda x, y: 1.0 * x * y, argnums=(0, 1))(1.0, True)
        with pytest.raises(TypeError, match='Argument 0 cannot be differentiated: it is a str, not an array'):
            getattr(transform, name)(lambda x: 1.0)('text')

    def test_a_state_that_is_not_read_is_named(self):
        s = states()
        f = lambda: jnp.sum(s['w'].value)
        with pytest.raises(ValueError, match=r"does not read.*ParamState at \('inner', 'b'\).*check_states=False"):
            transform.grad(f, {'w': s['w'], 'inner': {'b': s['b']}})()
        grads = transform.grad(f, s, check_states=False)()
        assert (grads['w'].tolist(), float(grads['b'])) == ([1.0, 1.0], 0.0)

    def test_a_failed_check_writes_nothing(self):
        s = states()

        def f():
            s['w'].value = jnp.zeros(2)
            return jnp.array(1.0)

        with pytest.raises(ValueError, match='does not read'):
            transform.grad(f, s)()
        assert s['w'].value.tolist() == [1.0, -2.0]

    @pytest.mark.parametrize('returned', [lambda x: (x, 1, 2), lambda x: x, lambda x: (x,)])
    @pytest.mark.parametrize('name', FAMILY)
    def test_has_aux_needs_a_pair(self, name, returned):
        with pytest.raises(TypeError, match=r'must return \(value, aux\); it returned'):
            getattr(transform, name)(returned, has_aux=True)(1.0)

    def test_a_vector_needs_another_transform(self):
        with pytest.raises(TypeError, match='scalar'):
            transform.grad(lambda x: x)(jnp.ones(2))
        with pytest.raises(TypeError, match='scalar'):
            transform.fwd_grad(lambda x: x, key=jax.random.key(0))(jnp.ones(2))

    @pytest.mark.parametrize('wrap', [lambda f: f, transform.jit], ids=['eager', 'jit'])
    def test_nan_gradients_are_named_when_asked_for(self, wrap):
        w = ParamState(jnp.array(0.0), name='rate')
        b = ParamState(jnp.array(1.0))
        f = wrap(transform.grad(lambda: jnp.sqrt(w.value) * 0.0 + b.value, {'w': w, 'b': b}, debug_nan=True))
        with pytest.raises(Exception, match=r"not finite for: ParamState 'rate' at \('w',\)\.") as error:
            f()
            jax.effects_barrier()
        assert "('b',)" not in str(error.value)
        w.value = jnp.array(4.0)
        assert f()['b'] == 1.0
        jax.effects_barrier()

    @pytest.mark.parametrize('name', FAMILY)
    def test_nothing_is_left_after_an_exception(self, name):
        s = State(jnp.array(1.0))

        def f(x):
            s.value = x
            raise RuntimeError('stop')

        with pytest.raises(RuntimeError, match='stop'):
            getattr(transform, name)(f, s)(2.0)
        assert current_trace() is None
        assert s.value == 1.0


class TestWrites:
    @pytest.mark.parametrize('name', FAMILY)
    def test_they_are_kept(self, name):
        w, seen = ParamState(jnp.array(2.0)), State(None)

        def f(x):
            seen.value = {'x': x, 'w': w.value}
            w.value = w.value + x
            return w.value**2

        _, value = getattr(transform, name)(f, w, 0, return_value=True)(3.0)
        assert float(value) == 25.0
        assert (float(w.value), float(seen.value['x']), float(seen.value['w'])) == (5.0, 3.0, 2.0)
        assert not holds_tracer((w.value, seen.value))

    def test_random_streams_advance(self):
        rng, eager = random.RandomState(0), random.RandomState(0)
        f = transform.grad(lambda x: x * rng.normal())
        assert [float(f(1.0)) for _ in range(3)] == [float(eager.normal()) for _ in range(3)]

    def test_states_created_inside(self):
        class Holder:
            pass

        h = Holder()

        def f(x):
            h.s = State(x * 2)
            return x**2

        transform.grad(f)(3.0)
        assert float(h.s.value) == 6.0


def test_vector_grad_sums_over_any_outputs():
    s = ParamState(jnp.array(2.0))
    f = lambda x: {'a': s.value * x, 'n': jnp.array(3), 'b': (x**2,)}
    of_s, of_x = transform.vector_grad(f, s, 0)(jnp.array([1.0, 2.0]))
    assert float(of_s) == 3.0
    np.testing.assert_allclose(of_x, [2.0 + 2.0, 2.0 + 4.0])


@pytest.mark.parametrize('name', ['jacrev', 'jacfwd'])
def test_jacobians_of_several_outputs(name):
    s = states()
    f = lambda x: {'p': s['w'].value * x, 'q': s['b'].value * x**2}
    of_states, of_args = getattr(transform, name)(f, s, 0)(2.0)
    assert of_states['p']['w'].shape == (2, 2)
    assert float(of_states['q']['b']) == 4.0
    assert of_args['p'].shape == (2,)
    assert transform.jacobian is transform.jacrev


def test_hessian_of_states_and_arguments_together(x64):
    s = states()
    x = jnp.array([0.3, 1.2])
    (rows, row_x) = transform.hessian(lambda x: value_of(*read(s), x), s, 0)(x)
    for k, state in s.items():
        for j, other in s.items():
            assert rows[k][0][j].shape == state.value.shape + other.value.shape
        assert rows[k][1].shape == state.value.shape + x.shape
        np.testing.assert_allclose(rows[k][1], np.moveaxis(row_x[0][k], 0, -1))


def test_fwd_grad_is_unbiased():
    """z-test at 5 standard errors of 4000 directions: false alarm 6e-7 each."""
    w = ParamState(jnp.array([1.0, -2.0]))
    f = lambda x: jnp.sum(w.value**2) * x
    estimate, value = transform.fwd_grad(f, w, return_value=True, key=jax.random.key(0), tangent_size=4000)(3.0)
    want = np.array([6.0, -12.0])
    spread = np.sqrt(np.sum(want**2) + want**2)
    assert np.all(np.abs(estimate - want) < 5 * spread / np.sqrt(4000))
    assert float(value) == 15.0
    random.seed(1)
    drawn = transform.fwd_grad(f, w)(3.0), transform.fwd_grad(f, w)(3.0)
    assert not np.allclose(*drawn)
    with pytest.raises(ValueError, match='tangent_size'):
        transform.fwd_grad(f, w, tangent_size=0)


class TestUnits:
    v = ParamState(jnp.array([3.0, 4.0]) * u.mV, name='v')
    r = ParamState(jnp.array(2.0) * u.ohm)

    def energy(self, scale=1.0):
        return u.math.sum(self.v.value**2) / self.r.value * scale

    @pytest.mark.parametrize('name', ['grad', 'vector_grad', 'jacrev', 'jacfwd', 'fwd_grad'])
    def test_gradients_have_the_units_of_loss_over_parameter(self, name):
        options = {'key': jax.random.key(0)} if name == 'fwd_grad' else {}
        make = functools.partial(getattr(transform, name), unit_aware=True, return_value=True, **options)
        (grads, of_scale), value = make(self.energy, {'v': self.v, 'r': self.r}, 0)(1.0)
        assert value.unit == u.mV**2 / u.ohm
        assert grads['v'].unit.has_same_dim(u.mV / u.ohm)
        assert grads['r'].unit.has_same_dim(u.mV**2 / u.ohm**2)
        assert of_scale.unit.has_same_dim(value.unit)
        if name != 'fwd_grad':
            np.testing.assert_allclose(grads['v'].to_decimal(u.mV / u.ohm), [3.0, 4.0])
            np.testing.assert_allclose(grads['r'].to_decimal(u.mV**2 / u.ohm**2), -25.0 / 4)

    def test_second_derivatives(self):
        rows = transform.hessian(self.energy, {'v': self.v, 'r': self.r}, unit_aware=True)()
        np.testing.assert_allclose(rows['v']['v'].to_decimal(u.siemens), np.eye(2))
        np.testing.assert_allclose(rows['v']['r'].to_decimal(u.mV / u.ohm**2), [-1.5, -2.0])

    def test_scaled_units_that_cancel_leave_a_plain_number(self):
        grads = transform.grad(lambda x: 2 * x.to(u.mV), unit_aware=True)(1.0 * u.volt)
        assert isinstance(grads, jax.Array)
        assert float(grads) == 2.0

    def test_without_it_a_loss_with_a_unit_is_refused(self):
        with pytest.raises(TypeError, match=r'returned a quantity in .*W.*unit_aware=True'):
            transform.grad(self.energy, self.v)()

    def test_without_it_gradients_are_like_their_parameters(self):
        loss = lambda: self.energy().to_decimal(u.mV**2 / u.ohm)
        grads = transform.grad(loss, {'v': self.v})()
        assert grads['v'].unit == u.mV
        np.testing.assert_allclose(grads['v'].mantissa, [3.0, 4.0])
        rows = transform.hessian(loss, {'v': self.v})()
        np.testing.assert_allclose(rows['v']['v'], np.eye(2))

    def test_a_dimensionless_quantity_is_a_number(self):
        assert transform.grad(lambda x: u.Quantity(x**2))(3.0) == 6.0


class TestGradientTransform:
    def scaled(self, fun, *, argnums, has_aux, scale=1.0):
        assert (argnums, has_aux) == (0, True)
        base = jax.grad(fun, argnums=argnums, has_aux=True)

        def wrapped(*args, **kwargs):
            grads, aux = base(*args, **kwargs)
            return jax.tree.map(lambda g: scale * g, grads), aux

        return wrapped

    def test_a_transform_of_ones_own(self):
        s = states()
        make = functools.partial(transform.GradientTransform, transform=self.scaled, transform_params={'scale': 10.0})
        want = transform.grad(lambda x: value_of(*read(s), x), s, 0)(2.0)
        got = make(lambda x: value_of(*read(s), x), grad_states=s, argnums=0)(2.0)
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, 10 * w, rtol=1e-6), got, want)

    def test_finite_differences(self, x64):
        """Any function of the one argument may be used, also one that calls the function several times."""

        def central(fun, *, argnums, has_aux, step):
            def wrapped(wrt):
                flat, unravel = jax.flatten_util.ravel_pytree(wrt)
                rows = [
                    (fun(unravel(flat + step * e))[0] - fun(unravel(flat - step * e))[0]) / (2 * step)
                    for e in jnp.eye(flat.size)
                ]
                return unravel(jnp.stack(rows)), fun(wrt)[1]

            return wrapped

        s, count = states(), State(0)

        def f(x):
            count.value = count.value + 1
            return value_of(*read(s), x)

        grads, value = transform.GradientTransform(f, central, s, return_value=True, transform_params={'step': 1e-6})(
            2.0
        )
        want = transform.grad(lambda x: value_of(*read(s), x), s)(2.0)
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-6), grads, want)
        np.testing.assert_allclose(value, value_of(*read(s), 2.0))
        assert count.value == 1

    def test_it_needs_functions(self):
        with pytest.raises(TypeError, match='GradientTransform.transform needs a function'):
            transform.GradientTransform(lambda x: x, 'grad')


class TestVjpAndJvp:
    def test_vjp(self):
        s, count = states(), State(0)

        def f(x):
            count.value = count.value + 1
            return (s['w'].value * x, 'aux')

        value, pullback, aux = transform.vjp(f, 3.0, grad_states=s['w'], has_aux=True)
        of_w, (of_x,) = pullback(jnp.array([1.0, 10.0]))
        np.testing.assert_allclose(value, [3.0, -6.0])
        np.testing.assert_allclose(of_w, [3.0, 30.0])
        assert (float(of_x), aux, count.value) == (-19.0, 'aux', 1)
        value, pullback = transform.vjp(lambda x: x**2, 3.0)
        assert float(pullback(1.0)[0]) == 6.0

    def test_jvp(self):
        s = states()
        f = lambda x: jnp.sum(s['w'].value) * s['b'].value * x
        tangents = {'w': jnp.array([1.0, 0.0]), 'b': jnp.array(1.0)}
        value, slope = transform.jvp(f, (2.0,), (1.0,), grad_states=s, state_tangents=tangents)
        assert float(value) == -1.0
        assert float(slope) == pytest.approx(1.0 * 0.5 * 2 + (-1.0) * 1.0 * 2 + (-1.0) * 0.5)
        value, slope, aux = transform.jvp(lambda x: (x**2, {'x': x}), (3.0,), (1.0,), has_aux=True)
        assert (float(value), float(slope), float(aux['x'])) == (9.0, 6.0, 3.0)

    @pytest.mark.parametrize(
        ('call', 'match'),
        [
            (lambda s: transform.jvp(lambda x: x, (1.0,), ()), 'one tangent per argument'),
            (lambda s: transform.jvp(lambda x: x, (1.0,), (1.0,), grad_states=s), 'state_tangents together'),
            (
                lambda s: transform.jvp(lambda x: x, (1.0,), (1.0,), grad_states=s, state_tangents={'w': 1.0}),
                'structure',
            ),
        ],
    )
    def test_what_is_refused(self, call, match):
        with pytest.raises(ValueError, match=match):
            call(states())
