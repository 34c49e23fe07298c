"""A jitted SGD step over States against raw ``jax.jit`` over a tuple of arrays. Run: python benchmarks/step.py.

Both run in turns in one process; the figures are medians. Goal: within 5 %.
"""

import jax
import jax.numpy as jnp
from _timing import interleaved

from brainstate_prob import ParamState, transform

SIZES = (2, 10, 50, 200)
CALLS = 10


def loss_of(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


def raw_step(weights, x):
    return tuple(w - 0.1 * g for w, g in zip(weights, jax.grad(loss_of)(weights, x), strict=True))


def stateful(initial):
    states = [ParamState(w) for w in initial]
    gradient = transform.grad(lambda x: loss_of([s.value for s in states], x), states)

    @transform.jit
    def step(x):
        for state, g in zip(states, gradient(x), strict=True):
            state.value = state.value - 0.1 * g

    return states, step


def measure(n, width=64, batch=64):
    """Median seconds of one call of the raw step and of the step over States, with ``n`` arrays."""
    keys = jax.random.split(jax.random.key(0), n)
    initial = tuple(jax.random.normal(k, (width, width)) / width**0.5 for k in keys)
    x = jnp.ones((batch, width))
    states, step = stateful(initial)
    raw, weights = jax.jit(raw_step), initial

    def call_raw():
        nonlocal weights
        for _ in range(CALLS):
            weights = raw(weights, x)
        return weights

    def call_states():
        for _ in range(CALLS):
            step(x)
        return [state.value for state in states]

    times = interleaved({'raw': call_raw, 'states': call_states}, repeats=max(30, 4000 // n))
    return times['raw'] / CALLS, times['states'] / CALLS


def main():
    print('a jitted SGD step: arrays, raw jax.jit, jit over States, ratio')
    for n in SIZES:
        raw, ours = measure(n)
        print(f'{n:4d}  {raw * 1e6:8.1f} us  {ours * 1e6:8.1f} us  {ours / raw:5.3f}')


if __name__ == '__main__':
    main()
