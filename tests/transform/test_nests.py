"""Random nests of all transforms equal the same computation in pure JAX that threads a dict of values."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import State, transform
from brainstate_prob.core import current_trace
from brainstate_prob.core.state import holds_tracer

NAMES = ('a', 'b', 'c')
START = {'a': 0.3, 'b': -0.7, 'c': 1.1}
LANES = 2


# A program is a tree of nodes, each a function of a scalar to a scalar that uses the States of NAMES.
@dataclasses.dataclass(frozen=True)
class Node:
    kind: str
    name: str = 'a'
    below: tuple = ()

    def kinds(self):
        return {self.kind}.union(*(b.kinds() for b in self.below))


def stateful(node, states):
    """The program over States, with the transforms of this package."""
    below = [stateful(b, states) for b in node.below]
    state = states[node.name]
    f = below[0] if below else None

    def update(x):
        out = jnp.sin(x) + state.value
        state.value = 0.5 * state.value + 0.3 * jnp.tanh(x)
        return out

    def looped(x):
        x, ys = transform.scan(lambda c, y: (0.5 * f(c) + y, f(y)), x, jnp.arange(2.0))
        return x + ys.sum()

    def each(x):
        ys = transform.for_loop(lambda y: f(x * y), jnp.arange(3.0), reverse=True)
        return ys.mean()

    def while_(x):
        return transform.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, f(c[1]) * 0.5), (0, x))[1]

    def gradient(x):
        mode = transform.jacfwd if 'while' in node.kinds() else transform.grad
        (of_state, of_x), value = mode(f, {'s': state}, 0, return_value=True, check_states=False)(x)
        return of_state['s'] + of_x + value

    def mapped(x):
        for s in states.values():
            s.value = jnp.broadcast_to(s.value, (LANES,))
        out = transform.vmap(f, in_states=states)(x * jnp.arange(1.0, 1.0 + LANES))
        for s in states.values():
            s.value = s.value.mean()
        return out.sum()

    return {
        'update': update,
        'read': lambda x: x * state.value,
        'seq': lambda x: below[1](below[0](x)),
        'jit': transform.jit(f) if f else None,
        'remat': transform.checkpoint(f) if f else None,
        'cond': lambda x: transform.cond(x > 0.1, *below, x),
        'switch': lambda x: transform.switch(jnp.asarray(x < 0, int), below, x),
        'scan': looped,
        'for': each,
        'while': while_,
        'grad': gradient,
        'vmap': mapped,
    }[node.kind]


def pure(node):
    """The program as a function of (values, x) to (values, out), in JAX alone."""
    below = [pure(b) for b in node.below]
    name = node.name
    f = below[0] if below else None

    def update(s, x):
        return s | {name: 0.5 * s[name] + 0.3 * jnp.tanh(x)}, jnp.sin(x) + s[name]

    def looped(s, x):
        def body(carry, y):
            s, c = carry
            s, out = f(s, c)
            c = 0.5 * out + y
            s, out = f(s, y)
            return (s, c), out

        (s, x), ys = jax.lax.scan(body, (s, x), jnp.arange(2.0))
        return s, x + ys.sum()

    def each(s, x):
        s, ys = jax.lax.scan(lambda s, y: f(s, x * y), s, jnp.arange(3.0), reverse=True)
        return s, ys.mean()

    def while_(s, x):
        def body(c):
            s, x = f(c[1], c[2])
            return c[0] + 1, s, x * 0.5

        return jax.lax.while_loop(lambda c: c[0] < 2, body, (0, s, x))[1:]

    def gradient(s, x):
        def loss(of, x):
            after, out = f(s | {name: of}, x)
            return out, (after, out)

        mode = jax.jacfwd if 'while' in node.kinds() else jax.grad
        (of_state, of_x), (after, value) = mode(loss, (0, 1), has_aux=True)(s[name], x)
        return after, of_state + of_x + value

    def mapped(s, x):
        tiled = {k: jnp.broadcast_to(v, (LANES,)) for k, v in s.items()}
        after, out = jax.vmap(f)(tiled, x * jnp.arange(1.0, 1.0 + LANES))
        return {k: v.mean() for k, v in after.items()}, out.sum()

    def seq(s, x):
        return below[1](*below[0](s, x))

    return {
        'update': update,
        'read': lambda s, x: (s, x * s[name]),
        'seq': seq,
        'jit': f,
        'remat': f,
        'cond': lambda s, x: jax.lax.cond(x > 0.1, *below, s, x),
        'switch': lambda s, x: jax.lax.switch(jnp.asarray(x < 0, int), below, s, x),
        'scan': looped,
        'for': each,
        'while': while_,
        'grad': gradient,
        'vmap': mapped,
    }[node.kind]


names = st.sampled_from(NAMES)
leaves = st.builds(Node, st.sampled_from(['update', 'read', 'update']), names)


def larger(inner):
    one = st.sampled_from(['jit', 'remat', 'scan', 'for', 'while', 'grad', 'vmap', 'jit'])
    two = st.sampled_from(['seq', 'cond', 'switch'])
    return st.builds(Node, one, names, st.tuples(inner)) | st.builds(Node, two, names, st.tuples(inner, inner))


programs = leaves
for _ in range(4):
    programs = leaves | larger(programs)
programs = larger(programs)


def new_states():
    return {name: State(jnp.array(value), name=name) for name, value in START.items()}


def check(program, x=0.6):
    states = new_states()
    f = stateful(program, states)
    reference = jax.jit(pure(program))
    values = {name: jnp.array(value) for name, value in START.items()}
    for _ in range(2):  # the second call may run what the first has compiled
        out = f(jnp.array(x))
        values, want = reference(values, jnp.array(x))
        np.testing.assert_allclose(out, want, rtol=1e-9, atol=1e-12)
        for name, state in states.items():
            assert not holds_tracer(state.value)
            np.testing.assert_allclose(state.value, values[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert current_trace() is None


@hypothesis.given(programs, st.sampled_from([-0.4, 0.6]))
def test_random_nests(program, x):
    with jax.enable_x64(True):
        check(program, x)


leaf = Node('update', 'b')


def nest(*kinds):
    """The kinds from the inside out."""
    node = leaf
    for kind in kinds:
        node = Node(kind, 'b', (node, Node('update', 'a')) if kind in ('seq', 'cond', 'switch') else (node,))
    return node


# One row for a nest that should never be missed by the random ones.
@pytest.mark.parametrize(
    'kinds',
    [
        ('grad', 'jit'),
        ('jit', 'grad', 'jit'),
        ('vmap', 'scan', 'grad', 'jit'),
        ('grad', 'grad'),
        ('cond', 'for', 'cond'),
        ('scan', 'vmap', 'grad'),
        ('while', 'jit', 'while'),
        ('while', 'grad', 'jit'),
        ('remat', 'grad', 'scan', 'jit'),
        ('switch', 'vmap', 'jit'),
        ('vmap', 'vmap'),
        ('for', 'remat', 'grad'),
    ],
    ids='-'.join,
)
def test_chosen_nests(kinds, x64):
    check(nest(*kinds))


class Boom(Exception):
    pass


def failing(x):
    raise Boom


@pytest.mark.parametrize('outermost', ['jit', 'grad', 'scan', 'for', 'while', 'cond', 'remat'])
@hypothesis.settings(max_examples=8)
@hypothesis.given(programs)
def test_an_exception_at_any_level_leaves_all_states_as_they_were(outermost, program):
    states = new_states()
    before = {name: state.value for name, state in states.items()}
    inner = stateful(Node('seq', 'a', (Node('update', 'a'), Node('jit', 'a', (program,)))), states)

    def f(x):
        return failing(inner(x))

    wrapped = {
        'jit': lambda x: transform.jit(f)(x),
        'grad': lambda x: transform.grad(f)(x),
        'scan': lambda x: transform.scan(lambda c, _: (f(c), None), x, length=2),
        'for': lambda x: transform.for_loop(f, x * jnp.ones(2)),
        'while': lambda x: transform.while_loop(lambda c: c > 0, f, x),
        'cond': lambda x: transform.cond(x > 0, lambda: x, lambda: f(x)),
        'remat': lambda x: transform.checkpoint(f)(x),
    }[outermost]
    with pytest.raises(Boom):
        wrapped(jnp.array(0.6))
    assert current_trace() is None
    for name, state in states.items():
        assert state.value is before[name]


@pytest.mark.parametrize('outer', ['jit', 'none'])
def test_a_deep_nest_runs_the_function_linearly_often(outer):
    runs, s = 0, State(0.0)

    def body(x):
        nonlocal runs
        runs += 1
        s.value = s.value + x
        return s.value

    def deepen(inner, kind):
        return {
            'for': lambda x: transform.for_loop(inner, x * jnp.ones(2)).sum(),
            'scan': lambda x: transform.scan(lambda c, y: (c + inner(y), None), 0, x * jnp.ones(1))[0],
            'cond': lambda x: transform.cond(x > 0, inner, lambda x: x, x),
            'while': lambda x: transform.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, inner(c[1])), (0, x))[1],
            'jit': transform.jit(inner),
        }[kind]

    for depth_kinds in (['for'] * 6, ['for', 'scan', 'cond', 'while', 'jit', 'for']):
        runs = 0
        f = functools.reduce(deepen, depth_kinds, body)
        (transform.jit(f) if outer == 'jit' else f)(1.0)
        assert runs <= 8, depth_kinds
