"""Branches: cond, switch and ifelse; States that any branch writes are results of all branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.core import State, TraceError, current_trace
from brainstate_prob.core.functionalize import Discovery, Pure, discovering
from brainstate_prob.transform.base import check_callable, jit_is_disabled
from brainstate_prob.transform.carry import describe, stage, strong

__all__ = ['cond', 'ifelse', 'switch']


def cond(pred: Any, true_fun: Callable, false_fun: Callable, *operands) -> Any:
    """``true_fun(*operands)`` where ``pred`` is true, else ``false_fun(*operands)``.

    A State that only one branch writes keeps its value in the other.

    Raises
    ------
    TypeError
        If the branches leave a State in different shapes or types, with its name.

    Examples
    --------
    >>> from brainstate_prob import State, transform
    >>> hits = State(0)
    >>> def hit(x):
    ...     hits.value = hits.value + 1
    ...     return x
    >>> float(transform.cond(True, hit, lambda x: -x, 2.0)), int(hits.value)
    (2.0, 1)
    """
    return _branch(
        lambda branches, args: jax.lax.cond(pred, branches[1], branches[0], *args),
        [false_fun, true_fun],
        operands,
        ['false_fun', 'true_fun'],
    )


def switch(index: Any, branches: Sequence[Callable], *operands) -> Any:
    """``branches[index](*operands)``; an index out of range is clamped, as in ``jax.lax.switch``.

    Examples
    --------
    >>> from brainstate_prob import transform
    >>> float(transform.switch(1, [lambda x: x, lambda x: x + 10.0], 1.0))
    11.0
    """
    branches = list(branches)
    if not branches:
        raise ValueError('switch needs at least one branch.')
    return _branch(
        lambda pure, args: jax.lax.switch(index, pure, *args),
        branches,
        operands,
        [f'branch {n}' for n in range(len(branches))],
    )


def ifelse(conditions: Sequence[Any], branches: Sequence[Callable], *operands) -> Any:
    """The first branch whose condition is true; the last branch if none is.

    Parameters
    ----------
    conditions
        Scalars, one per branch, or one less, which makes the last branch the ``else``.
    branches
        Functions of ``*operands``.

    Examples
    --------
    >>> from brainstate_prob import transform
    >>> def sign(x):
    ...     return transform.ifelse([x > 0, x < 0], [lambda: 1, lambda: -1, lambda: 0])
    >>> int(sign(-3.0)), int(sign(0.0))
    (-1, 0)
    """
    conditions, branches = list(conditions), list(branches)
    if not branches or len(branches) - len(conditions) not in (0, 1):
        raise ValueError(
            f'ifelse takes one condition per branch, or one less if the last branch is the else; got '
            f'{len(conditions)} conditions and {len(branches)} branches.'
        )
    for n, condition in enumerate(conditions):
        if jnp.shape(condition) != ():
            raise ValueError(f'Condition {n} of ifelse must be a scalar; it has shape {jnp.shape(condition)}.')
    if len(branches) == 1:
        return branches[0](*operands)
    flags = jnp.stack([jnp.asarray(c, bool) for c in conditions[: len(branches) - 1]] + [jnp.asarray(True)])
    return switch(jnp.argmax(flags), branches, *operands)


def _branch(select: Callable, branches: list[Callable], operands: tuple, names: list[str]) -> Any:
    for name, branch in zip(names, branches, strict=True):
        check_callable(branch, name)
    if discovering():
        return _run_once(branches, operands)
    if jit_is_disabled():
        return select(branches, operands)
    discoveries = [Discovery(branch, *operands) for branch in branches]

    def run(states: list[State]) -> Any:
        shapes = [_common(state, discoveries, names) for state in states]
        values = [strong(state.value, shape) for state, shape in zip(states, shapes, strict=True)]

        def pure(branch):
            body = Pure(branch, states, discover=False)

            def call(values, *args):
                out, written, created = body(values, *args)
                if created:
                    labels = ', '.join(state._label() for n in created if (state := body.made[n]()) is not None)
                    raise TraceError(f'A branch creates {labels}, which the others do not. Create it before.')
                new = [written.get(n, value) for n, value in enumerate(values)]
                return out, [strong(v, shape) for v, shape in zip(new, shapes, strict=True)]

            return call

        out, new = select([pure(branch) for branch in branches], (values, *operands))
        for state, value in zip(states, new, strict=True):
            state.value = value
        return out

    return stage(run, *discoveries)


def _common(state: State, discoveries: list[Discovery], names: list[str]) -> Any:
    """Shape and type of a State after any branch."""
    shapes, untouched = {}, jax.eval_shape(lambda: state.value)
    for name, f in zip(names, discoveries, strict=True):
        written = {f.pure.states[n]: after for n, after in f.written.items()}
        shapes[name] = written.get(state, untouched)
    best = max(shapes.values(), key=lambda shape: sum(not leaf.weak_type for leaf in jax.tree.leaves(shape)))
    for name, shape in shapes.items():
        if describe(jax.eval_shape(lambda s: strong(s, best), shape)) != describe(best):
            listing = '; '.join(f'{n}: {describe(s)}{" (not written)" * (s is untouched)}' for n, s in shapes.items())
            raise TypeError(
                f'All branches must leave {state._label()} in one shape and type, but it has {listing}. Convert what '
                f'{name} writes, or the value before.'
            )
    return best


def _run_once(branches: list[Callable], operands: tuple) -> Any:
    """Run every branch once in a discovery, each from the same State values."""
    pures = [Pure(branch) for branch in branches]
    results = [pure((), *operands) for pure in pures]
    trace = current_trace()
    if trace is not None:
        trace.mark_unstaged()
    for pure, (_, written, _) in zip(pures, results, strict=True):
        for number in written:
            _ = pure.states[number].value  # the staged branches need the State's previous value
    for pure, (_, written, created) in zip(pures, results, strict=True):
        pure.commit(written, created)
    return results[0][0]
