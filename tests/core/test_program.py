"""Traced programs as keys, and what their results depend on."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from brainstate_prob.core.program import depends_on, has_own_rules, program_key

S = 1.0


def scanned(x):
    return lax.scan(lambda c, _: (c * S + jnp.arange(3.0), None), x, None, length=2)[0]


def by_parts(x):
    return jax.jit(lambda x: lax.cond(x[0] > 0, lambda x: S * x, jnp.sin, x))(x)


def with_noise(x):
    return x + S * jax.random.normal(jax.random.key(3), x.shape)


PROGRAMS = {
    'arithmetic': lambda x: S * x + 1.0,
    'a constant array': lambda x: jnp.array([S, 2.0, 3.0]) * x,
    'a loop': scanned,
    'a branch under jit': by_parts,
    'random numbers': with_noise,
    'a rule of the library': lambda x: jax.nn.softplus(S * x),
    'a gradient': lambda x: jax.grad(lambda x: jnp.sum(S * jax.nn.relu(x) ** 2))(x),
}


def key(f):
    return program_key(jax.make_jaxpr(lambda x: f(x))(jnp.ones(3)))


@pytest.mark.parametrize('name', PROGRAMS)
def test_the_key_follows_what_is_computed(name, monkeypatch):
    before = key(PROGRAMS[name])
    assert key(PROGRAMS[name]) == before
    monkeypatch.setitem(globals(), 'S', 2.0)
    assert key(PROGRAMS[name]) != before


def test_the_key_has_shapes_and_dtypes():
    f = PROGRAMS['arithmetic']
    assert program_key(jax.make_jaxpr(lambda x: f(x))(jnp.ones(2))) != key(f)
    assert program_key(jax.make_jaxpr(lambda x: f(x))(jnp.ones(3, jnp.bfloat16))) != key(f)


def test_a_python_callback_counts_by_identity():
    def called(g):
        return key(lambda x: jax.pure_callback(g, x, x))

    f = lambda x: x
    assert called(f) != called(lambda x: x)


def test_rules_of_the_user_are_noticed():
    @jax.custom_jvp
    def f(x):
        return x

    f.defjvp(lambda x, dx: (f(*x), dx[0]))
    assert has_own_rules(jax.make_jaxpr(lambda x: jax.jit(f)(x))(1.0))
    assert not has_own_rules(jax.make_jaxpr(lambda x: jax.nn.relu(jax.nn.softplus(x)))(1.0))


def two_results(a, b, c):
    first, second = jax.jit(lambda a, b: (a + 1, 2 * b))(a, b)
    return first, jnp.where(second > 0, second, c)


def test_results_depend_on_what_they_use():
    program = jax.make_jaxpr(two_results)(1.0, 2.0, 3.0)
    assert depends_on(program, [0]) == {0}
    assert depends_on(program, [1]) == {1, 2}


def test_a_loop_counts_as_a_whole():
    def f(a, b):
        return lax.fori_loop(0, 3, lambda i, c: (c[0] + 1, c[1]), (a, b))[0]

    assert depends_on(jax.make_jaxpr(f)(1.0, 2.0), [0]) == {0, 1}
