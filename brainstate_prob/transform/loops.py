"""Loops: for_loop, scan and while_loop; States that the body writes are part of the carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core import State
from brainstate_prob.core.functionalize import Discovery, Pure, discovering, run_once
from brainstate_prob.transform.base import check_callable, jit_is_disabled
from brainstate_prob.transform.carry import Carried, describe, stage, strong
from brainstate_prob.transform.progress import Progress, ProgressBar

__all__ = ['for_loop', 'scan', 'while_loop']


def scan(
    f: Callable,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    pbar: ProgressBar | int | None = None,
) -> tuple[Any, Any]:
    """``carry, y = f(carry, x)`` over the leading axis of ``xs``, compiled as one loop.

    Parameters
    ----------
    f
        The body; it may read, write and create States. Written States keep shape and type.
    init, xs, length, reverse, unroll
        As in ``jax.lax.scan``.
    pbar
        A progress bar: a `ProgressBar`, or the number of steps between two updates.

    Returns
    -------
    The last carry, and all ``y`` stacked.

    Raises
    ------
    TypeError
        If the body changes shape or type of a State, with its name.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import State, transform
    >>> count = State(0)
    >>> def body(total, x):
    ...     count.value = count.value + 1
    ...     return total + x, total
    >>> total, before = transform.scan(body, 0.0, jnp.arange(4.0))
    >>> float(total), before.tolist(), int(count.value)
    (6.0, [0.0, 0.0, 1.0, 3.0], 4)
    """
    check_callable(f, 'scan')
    steps = _length(xs, length)
    if discovering():
        carry, y = run_once(f, init, _first(xs))
        return carry, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *jnp.shape(leaf))), y)
    if jit_is_disabled():
        return _plain_scan(f, init, xs, steps, reverse)
    discovery = Discovery(lambda carry, xs: f(carry, _first(xs)), init, xs)
    if isinstance(discovery.out, tuple) and len(discovery.out) == 2:
        init = strong(init, discovery.out[0])
    progress = Progress.start(pbar, steps)

    def run(states: list[State]) -> tuple[Any, Any]:
        body = Carried(f, discovery, states)
        carried = body.initial()
        _check_kept(body, carried[0], discovery)

        def step(carry, x):
            (n, carried, user), x = carry, x
            progress.update(n)
            carried, out = body(carried, user, x)
            if not isinstance(out, tuple | list) or len(out) != 2:
                raise TypeError(f'The body of a scan must return (carry, y); it returned a {type(out).__name__}.')
            return (progress.count(n), carried, out[0]), out[1]

        with progress:
            (_, carried, user), ys = jax.lax.scan(
                step, (progress.first(), carried, init), xs, length=steps, reverse=reverse, unroll=unroll
            )
        body.commit(carried)
        return user, ys

    return stage(run, discovery)


def for_loop(
    f: Callable,
    *xs,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    pbar: ProgressBar | int | None = None,
) -> Any:
    """``f(*x)`` for every entry along the leading axis of ``xs``, with stacked results. Otherwise as `scan`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import State, transform
    >>> v = State(0.0)
    >>> def step(x):
    ...     v.value = 0.5 * v.value + x
    ...     return v.value
    >>> transform.for_loop(step, jnp.ones(3)).tolist()
    [1.0, 1.5, 1.75]
    """
    check_callable(f, 'for_loop')
    return scan(lambda _, x: (None, f(*x)), None, xs, length, reverse, unroll, pbar)[1]


def while_loop(cond_fun: Callable, body_fun: Callable, init_val: Any) -> Any:
    """``x = body_fun(x)`` as long as ``cond_fun(x)`` is true.

    Both may read States; the body may write them, the condition may not.

    Examples
    --------
    >>> from brainstate_prob import State, transform
    >>> n = State(0)
    >>> def halve(x):
    ...     n.value = n.value + 1
    ...     return x / 2
    >>> float(transform.while_loop(lambda x: x > 1.0, halve, 10.0)), int(n.value)
    (0.625, 4)
    """
    check_callable(cond_fun, 'while_loop')
    check_callable(body_fun, 'while_loop')
    if discovering():
        run_once(cond_fun, init_val)
        return run_once(body_fun, init_val)
    if jit_is_disabled():
        while cond_fun(init_val):
            init_val = body_fun(init_val)
        return init_val
    tested, discovery = Discovery(cond_fun, init_val), Discovery(body_fun, init_val)
    if tested.states or tested.created:
        names = ', '.join(s._label() for s in tested.states) or 'new States'
        raise ValueError(f'The condition of a while_loop writes {names}. It may only read; write in the body.')
    init_val = strong(init_val, discovery.out)

    def run(states: list[State]) -> Any:
        body, test = Carried(body_fun, discovery, states), Pure(cond_fun, states, discover=False)
        carried = body.initial()
        _check_kept(body, carried[0], discovery)
        carried, user = jax.lax.while_loop(
            lambda carry: test(carry[0][0], carry[1])[0],
            lambda carry: body(carry[0], carry[1]),
            (carried, init_val),
        )
        body.commit(carried)
        return user

    return stage(run, tested, discovery)


def _plain_scan(f: Callable, carry: Any, xs: Any, steps: int, reverse: bool) -> tuple[Any, Any]:
    """The loop in Python, for ``jax.disable_jit``."""
    if steps == 0:
        raise ValueError('A loop of no steps cannot run under jax.disable_jit: the shape of its result is unknown.')
    ys = []
    for n in reversed(range(steps)) if reverse else range(steps):
        carry, y = f(carry, jax.tree.map(lambda x: jnp.asarray(x)[n], xs))  # noqa: B023
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *(reversed(ys) if reverse else ys))


def _check_kept(body: Carried, values: list, discovery: Discovery) -> None:
    """Raise if the body changes the shape or type of a State."""
    after = {discovery.pure.states[n]: shapes for n, shapes in discovery.written.items()}
    for state, value in zip(body.states, values, strict=True):
        if state not in after:
            continue
        old, new = describe(jax.eval_shape(lambda x: x, value)), describe(after[state])
        if old != new:
            raise TypeError(
                f'A loop must keep shape and type of the States that its body writes; {state._label()} has {old} '
                f'before and {new} after. Start with the latter, or convert what the body writes.'
            )


def _first(xs: Any) -> Any:
    """The first entry of every array."""

    def first(x):
        x = jnp.asarray(x)
        return x[0] if x.shape[0] else jnp.zeros(x.shape[1:], x.dtype)

    return jax.tree.map(first, xs)


def _length(xs: Any, length: int | None) -> int:
    shapes = [jnp.shape(x) for x in jax.tree.leaves(xs)]
    if any(shape == () for shape in shapes):
        raise ValueError(
            'A loop runs over the leading axis of its arrays; one of them is a scalar. Use length= for '
            'a number of steps, and a closure for what all steps share.'
        )
    sizes = {shape[0] for shape in shapes} | (set() if length is None else {int(length)})
    if len(sizes) != 1:
        raise ValueError(
            f'The arrays of a loop (and length) must have one leading size; got {sorted(sizes)}.'
            if sizes
            else 'A loop needs arrays to run over, or length=.'
        )
    return sizes.pop()
