"""Gradient descent on the negative log density, with many steps in a compiled call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noise import noise
from brainstate_prob.infer.run.members import plain_types
from brainstate_prob.infer.run.optimization import MOST_STEPS
from brainstate_prob.infer.target.minibatch import Batches, first_batch, loop_in_batches, take

__all__ = ['Settings', 'State', 'advance_function', 'start_function']

MAX_STALLED_STEPS = 20  # steps without improvement beyond rounding, after which the precision is exhausted


class Settings(NamedTuple):
    """Static settings of the compiled steps, apart from the model's structure."""

    optimizer: Any
    batch_size: int | None
    jacobian: bool
    bootstrap: bool = False


class State(NamedTuple):
    """The state of a descent; a pytree."""

    theta: jax.Array
    opt_state: Any
    batches: Batches | None
    rows: jax.Array | None  # the observations of a bootstrap sample, if any
    carried: tuple  # running statistics of the model's layers
    key: jax.Array  # of the model's own random numbers
    step: jax.Array
    best: jax.Array
    stale: jax.Array
    gradient: jax.Array  # the largest entry of the last one
    finished: jax.Array


def start_function(settings: Settings, num_observations: int) -> Callable:
    """``start(theta, key) -> State``."""

    def start(theta: jax.Array, key: jax.Array) -> State:
        rows = None
        if settings.bootstrap:
            rows = jax.random.randint(jax.random.fold_in(key, 1), (num_observations,), 0, num_observations)
        return plain_types(
            State(
                theta,
                settings.optimizer.init(theta),
                None if settings.batch_size is None else first_batch(key, num_observations),
                rows,
                (),
                jax.random.fold_in(key, 2),
                jnp.zeros((), jnp.int32),
                jnp.full((), jnp.inf, theta.dtype),
                jnp.zeros((), jnp.int32),
                jnp.full((), jnp.inf, theta.dtype),
                jnp.zeros((), bool),
            )
        )

    return start


def step_function(density: Density, settings: Settings) -> Callable:
    """``step(index, state, data) -> (state, loss)``: one optimizer step on the negative log density.

    ``index`` selects the batch; None means all ``data``.
    """
    optimizer = optax.with_extra_args_support(settings.optimizer)

    def step(index: jax.Array | None, state: State, data: Data) -> tuple[State, jax.Array]:
        if index is not None:
            data = take(data, index if state.rows is None else state.rows[index])
        key = jax.random.fold_in(state.key, state.step)
        data = density.with_carried(data, state.carried)

        def loss_of(theta: jax.Array) -> tuple[jax.Array, tuple]:
            with noise(density, key, data) as noisy:
                value, carried = density.training_log_density(theta, noisy, settings.jacobian)
                return -value, carried

        (loss, carried), grad = jax.value_and_grad(loss_of, has_aux=True)(state.theta)
        updates, opt_state = optimizer.update(
            grad, state.opt_state, state.theta, value=loss, grad=grad, value_fn=lambda t: loss_of(t)[0]
        )
        rounding = 2 * jnp.finfo(loss.dtype).eps * jnp.abs(state.best)
        better = loss < jnp.where(jnp.isfinite(state.best), state.best - rounding, jnp.inf)
        return state._replace(
            theta=optax.apply_updates(state.theta, updates),
            opt_state=opt_state,
            carried=carried,
            step=state.step + 1,
            best=jnp.where(better, loss, state.best),
            stale=jnp.where(better, 0, state.stale + 1),
            gradient=jnp.max(jnp.abs(grad)),
        ), loss

    return step


def advance_function(density: Density, settings: Settings) -> Callable:
    """``advance(state, data, length, tol) -> (state, losses, done)``; a finished descent does not move."""
    step = step_function(density, settings)

    def advance(state: State, data: Data, length: jax.Array, tol: jax.Array) -> tuple:
        if settings.bootstrap and settings.batch_size is None:
            data = take(data, state.rows)  # type: ignore[arg-type]

        def body(index: Any, state: State, i: jax.Array, losses: jax.Array) -> tuple:
            state, loss = step(index, state, data)
            flat = state.gradient <= tol * jnp.maximum(1.0, jnp.abs(loss))
            stuck = (tol >= 0) & (state.stale >= MAX_STALLED_STEPS)
            return state._replace(finished=flat | stuck | ~jnp.isfinite(loss)), i + 1, losses.at[i].set(loss)

        rest = (jnp.zeros((), jnp.int32), jnp.full(MOST_STEPS, jnp.nan, density.dtype))
        state, done, losses = loop_in_batches(
            lambda state, i, _: (i < length) & ~state.finished, body, state, rest, settings.batch_size
        )
        return state, losses, done

    return advance
