"""Gradient descent on the log density: the compiled steps and the host's loop that MAP, ensembles and SWAG share.

All that a descent needs stands in one `State`; steps run fused, many to a compiled call of any length, so that the
numbers do not depend on where the calls end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from brainstate_prob import environ
from brainstate_prob.core.calls import users_line
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noise import noise
from brainstate_prob.infer.density.noncentered import able_entries
from brainstate_prob.infer.descent.early_stopping import Monitor
from brainstate_prob.infer.diagnostics.mcmc import ConvergenceWarning
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.checkpoint import Checkpoint, interruption, keep_in, nothing_yet
from brainstate_prob.infer.run.members import Members, plain_types, until_save
from brainstate_prob.infer.run.progress import Chunks
from brainstate_prob.infer.target.minibatch import Batches, first_batch, loop_in_batches, take
from brainstate_prob.infer.target.stream import Stream
from brainstate_prob.infer.target.target import Target

__all__ = [
    'Descent',
    'Descents',
    'FitProgress',
    'Settings',
    'State',
    'start_function',
    'step_function',
]

CHUNK = 200  # steps of one compiled call, at most
STALE = 20  # steps without a gain beyond rounding: the precision has no better point to offer


_LBFGS = optax.ScaleByLBFGSState  # it has no learning rate


def _is_lbfgs(x: Any) -> bool:
    return isinstance(x, _LBFGS)


class Settings(NamedTuple):
    """What the compiled steps depend on beside the model's structure."""

    optimizer: Any
    batch_size: int | None
    jacobian: bool
    bootstrap: bool = False


class State(NamedTuple):
    """Where one descent stands; a pytree."""

    theta: jax.Array
    opt_state: Any
    batches: Batches | None
    rows: jax.Array | None  # which observations it sees, where that is a bootstrap sample
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
    """``step(index, state, data) -> (state, loss)``: one step of the optimizer down minus the log density.

    ``index`` is the batch that it sees; None: all ``data``.
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
    """``advance(state, data, length, tol) -> (state, losses, done)``; a finished descent stands still."""
    step = step_function(density, settings)

    def advance(state: State, data: Data, length: jax.Array, tol: jax.Array) -> tuple:
        if settings.bootstrap and settings.batch_size is None:
            data = take(data, state.rows)  # type: ignore[arg-type]

        def body(index: Any, state: State, i: jax.Array, losses: jax.Array) -> tuple:
            state, loss = step(index, state, data)
            flat = state.gradient <= tol * jnp.maximum(1.0, jnp.abs(loss))
            stuck = (tol >= 0) & (state.stale >= STALE)
            return state._replace(finished=flat | stuck | ~jnp.isfinite(loss)), i + 1, losses.at[i].set(loss)

        rest = (jnp.zeros((), jnp.int32), jnp.full(CHUNK, jnp.nan, density.dtype))
        state, done, losses = loop_in_batches(
            lambda state, i, _: (i < length) & ~state.finished, body, state, rest, settings.batch_size
        )
        return state, losses, done

    return advance


class FitProgress:
    """Where a fit stands; what callbacks get.

    Attributes
    ----------
    step : int
        How many steps were done.
    loss : float
        The last loss (the lowest, where there are several starts).
    losses : numpy.ndarray
        All losses, of shape (starts, steps).
    """

    def __init__(self, step: int, losses: np.ndarray, fit: Callable[[], Fit]):
        self.step, self.losses, self._fit = step, losses, fit
        last = losses[:, -1:]
        self.loss = float(np.nanmin(last)) if np.isfinite(last).any() else float('nan')

    def fit(self) -> Fit:
        """The result as it would be if the fit ended here."""
        return self._fit()

    def __repr__(self) -> str:
        return f'FitProgress(step={self.step}, loss={self.loss:.6g})'


def _for_each(value: Any, num: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *jnp.shape(x))), value)


class Descent(NamedTuple):
    """How descents ended: for each a point, its losses and the last gradient's largest entry; and why they stopped."""

    thetas: np.ndarray
    carried: tuple  # the running statistics of each, with the descents as first axis
    losses: np.ndarray  # (num, steps); NaN after the end of one
    gradients: np.ndarray
    converged: np.ndarray
    lost: np.ndarray  # whose loss did not stay finite
    stopped: str
    watched: np.ndarray | None
    opt_state: Any
    description: str


class Descents:
    """Descents from several points, and the host's loop over them.

    Parameters
    ----------
    thetas, keys
        Where each starts, (num, size), and its random key.
    tol
        Stop one when the largest entry of its gradient falls below ``tol * max(1, |loss|)``; None: never.
    as_fit
        Makes the result of how they ended; for callbacks.
    carried
        The running statistics that each starts with, see `statistics_of_rows`. Default: the posterior's.
    adjust
        Changes the states, stacked, before the first step.
    strict
        Whether all must stay finite; else one that does is enough.
    label
        What the progress bar says.
    """

    def __init__(
        self,
        target: Target,
        settings: Settings,
        thetas: jax.Array,
        keys: jax.Array,
        *,
        num_steps: int,
        as_fit: Callable[[Descent], Fit],
        tol: float | None = None,
        stream: Stream | None = None,
        monitor: Monitor | None = None,
        callbacks: Sequence[Callable] = (),
        method: str = 'vectorized',
        devices: Sequence[Any] | None = None,
        adjust: Callable[[State], State] | None = None,
        carried: tuple | None = None,
        strict: bool = True,
        label: str = 'MAP',
        progress: bool = True,
    ):
        posterior, density = target.posterior, target.density
        self._posterior, self._density, self._settings = posterior, density, settings
        self._num_steps, self._tol, self._as_fit, self._strict = num_steps, tol, as_fit, strict
        self._stream, self._monitor, self._callbacks = stream, monitor, tuple(callbacks)
        self._method, self._devices, self._label, self._progress = method, devices, label, progress
        num = posterior.num_observations
        starts = density.jit(start_function, (settings, num), lambda: jax.vmap(start_function(settings, num)))
        if carried is None:
            carried = tuple(_for_each(posterior.data.states[i], len(thetas)) for i in density.carried)
        self._states = starts(thetas, keys)._replace(carried=carried)
        self._states = self._states if adjust is None else adjust(self._states)
        self._losses = np.zeros((len(thetas), 0), density.dtype)
        self._lost = np.zeros(len(thetas), bool)
        self._stopped = ''

    def run(self, checkpoint: Checkpoint) -> Descent:
        """Go down.

        Raises
        ------
        ValueError
            For a loss that is not finite.
        KeyboardInterrupt
            Before the first steps were done; later Ctrl-C ends the descents where they are, with a warning.
        """
        with checkpoint:
            self._resume(checkpoint)
            self._members = self._prepared()
            chunks = Chunks(
                checkpoint.step if self._stopped else self._num_steps,
                CHUNK,
                self._label,
                self._progress,
                done=checkpoint.step,
                every=None if self._monitor is None else self._monitor.rule.every,
            )
            chunks.size = until_save(checkpoint, CHUNK)
            with chunks:
                for length in chunks:
                    done = self._advance(length)
                    if done and self._called(checkpoint, done):
                        self._stopped = 'a callback'
                    chunks.note(loss=f'{np.nanmin(self._losses[:, -1:], initial=np.inf):.6g}')
                    if checkpoint.due(checkpoint.step + done) and not self._stopped:
                        checkpoint.save(self._members.state(), *self._held())
                    chunks.size = until_save(checkpoint, CHUNK)
                    if self._stopped:
                        chunks.stop(done)
                        break
            if chunks.whole:
                checkpoint.finish(self._members.state(), *self._held())
        done = self._losses.shape[1]
        if chunks.interrupted and not self._stopped and done < self._num_steps:
            if not done:
                raise nothing_yet('before the first steps were done', checkpoint)
            self._stopped = 'interrupted'
            warnings.warn(
                interruption(f'{done} of {self._num_steps} steps', checkpoint),
                ConvergenceWarning,
                stacklevel=users_line(),
            )
        return self._descent()

    def _resume(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.load(self._states, total=self._num_steps)
        if saved is None:
            return
        self._states, self._losses, self._lost = saved.state, saved.arrays['losses'], saved.arrays['lost']
        self._stopped = saved.extra['stopped']
        if self._monitor is not None:
            self._monitor.restore(saved.arrays)
        if self._stream is not None:
            self._stream.skip(saved.step)

    def _prepared(self) -> Members:
        example = self._posterior.data if self._stream is None else self._stream.peek()
        return Members(
            self._density,
            ('descent', self._settings, environ.static_key()),
            advance_function(self._density, self._settings),
            self._states,
            len(self._losses),
            *(example, 0, -1.0),
            method=self._method,
            devices=self._devices,
        )

    def _held(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a checkpoint has beside the states."""
        watched = {} if self._monitor is None else self._monitor.arrays()
        return {'losses': self._losses, 'lost': self._lost, **watched}, {'stopped': self._stopped}

    def _advance(self, length: int) -> int:
        """Take at most ``length`` steps, and see whether to stop; how many were done."""
        tol = -1.0 if self._tol is None else float(self._tol)
        if self._stream is None:
            losses, dones = self._members.step(self._posterior.data, length, tol)
        else:
            losses, dones = self._advance_by_batches(length, tol)
        done = int(dones.max())
        self._losses = np.concatenate([self._losses, losses[:, :done]], axis=1)
        self._check_finite(done, dones)
        if done < length and not self._stopped:
            self._stopped = 'converged'
        if done and self._stalled():
            self._stopped = 'early stopping'
        return done

    def _advance_by_batches(self, length: int, tol: float) -> tuple[np.ndarray, np.ndarray]:
        losses = np.full((len(self._losses), length), np.nan, self._losses.dtype)
        dones = np.zeros(len(losses), int)
        for i in range(length):
            try:
                data = next(self._stream)  # type: ignore[arg-type]
            except StopIteration:
                self._stopped = 'the batches ended'
                break
            found, done = self._members.step(data, 1, tol)
            if not done.any():
                break
            losses[:, i] = found[:, 0]
            dones = dones + done
        return losses, dones

    def _check_finite(self, done: int, dones: np.ndarray) -> None:
        recent = self._losses[:, self._losses.shape[1] - done :]
        bad = ~np.isfinite(recent) & (np.arange(done) < dones[:, None])
        self._lost |= bad.any(axis=1)
        if bad.any() and (self._strict or self._lost.all()):
            member, step = (int(i) for i in np.argwhere(bad)[0])
            which = f' of member {member}' if len(bad) > 1 else ''
            raise ValueError(
                f'The loss{which} became {recent[member, step]} at step {self._losses.shape[1] - done + step}. '
                + self._remedy()
            )

    def _remedy(self) -> str:
        """What helps where a loss did not stay finite."""
        searches = any(isinstance(x, _LBFGS) for x in jax.tree.leaves(self._states.opt_state, is_leaf=_is_lbfgs))
        rate = 'Scale the inputs' if searches else 'Use a smaller learning rate, or scale the inputs'
        scaled = ', '.join(repr(e.name) for e in able_entries(self._posterior.entries))
        if not scaled:
            return f'{rate}.'
        return (
            f'The joint density of {scaled} and its scale may have no mode: it grows without bound where the scale '
            "goes to zero. Sample with infer.nuts (init='model' or 'pathfinder'), use infer.laplace, or write it "
            f'non-centred, value = mean + scale * raw with raw ~ Normal(0, 1). Otherwise: {rate[0].lower()}{rate[1:]}.'
        )

    def _stalled(self) -> bool:
        monitor = self._monitor
        if monitor is None or not monitor.due(self._losses.shape[1]):
            return False
        state = self._members.state()
        shares = None if self._stream is None else self._stream.shares
        return monitor.look(np.asarray(state.theta), self._losses, state.carried, shares)

    def _called(self, checkpoint: Checkpoint, done: int) -> bool:
        """Whether a callback ends the descents, ``done`` steps after the last one; an error in one loses nothing."""
        if not self._callbacks:
            return False
        progress = FitProgress(self._losses.shape[1], self._losses, lambda: self._as_fit(self._descent()))
        try:
            answers = [callback(progress) for callback in self._callbacks]
        except Exception as error:
            checkpoint.step += done
            checkpoint.finish(self._members.state(), *self._held())
            self._stopped = self._stopped or 'interrupted'
            keep_in(error, progress.fit, f'{progress.step} of {self._num_steps} steps', checkpoint)
            raise
        return any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in answers)

    def _descent(self) -> Descent:
        state = self._members.state()
        thetas, carried = np.asarray(state.theta), state.carried
        if self._monitor is not None:
            thetas, carried = self._monitor.result(thetas, carried)
        return Descent(
            thetas,
            carried,
            self._losses,
            np.asarray(state.gradient),
            np.asarray(state.finished) & ~self._lost,
            self._lost,
            self._stopped or 'num_steps',
            None if self._monitor is None else self._monitor.values,
            state.opt_state,
            self._members.description,
        )
