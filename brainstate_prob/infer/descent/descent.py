"""Simultaneous descents from several points, shared by MAP, ensembles and SWAG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.noncentered import able_entries
from brainstate_prob.infer.descent.early_stopping import EarlyStopping, Monitor
from brainstate_prob.infer.descent.steps import Settings, State, advance_function, start_function
from brainstate_prob.infer.diagnostics.mcmc import warn_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.chains import Runner
from brainstate_prob.infer.run.checkpoint import Checkpoint
from brainstate_prob.infer.run.inits import statistics_of_rows
from brainstate_prob.infer.run.members import checked_devices
from brainstate_prob.infer.run.optimization import Optimization
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.minibatch import Batching
from brainstate_prob.infer.target.target import Target

__all__ = ['Descent', 'Descents']


class Descent(NamedTuple):
    """The end of descents: points, losses, largest entries of the last gradients, and why they stopped."""

    thetas: np.ndarray
    carried: tuple  # the running statistics of each, with the descents as first axis
    losses: np.ndarray  # (num, steps); NaN after the end of one
    gradients: np.ndarray
    converged: np.ndarray
    lost: np.ndarray  # the descents whose loss became non-finite
    opt_state: Any
    watched: dict[str, np.ndarray]  # the quantity monitored by early stopping, by name
    description: str  # the method and devices
    info: dict[str, Any]  # the entries of `Fit.info`


class Descents:
    """Descents from several points.

    Parameters
    ----------
    method
        The name of the way to fit.
    thetas, keys
        Where each starts, (num, size), and its random key.
    as_fit
        Makes the result of how they ended; for callbacks.
    init
        The fit that they start from, if it is one: each starts with the running statistics of its draw.
    tol
        Stop one when the largest entry of its gradient falls below ``tol * max(1, |loss|)``; None: never.
    adjust
        Changes the states, stacked, before the first step.
    strict
        Whether all must stay finite; else one that does is enough.
    """

    def __init__(
        self,
        target: Target,
        method: str,
        settings: Settings,
        thetas: jax.Array,
        keys: jax.Array,
        *,
        batching: Batching,
        num_steps: int,
        as_fit: Callable[[Descent], Fit],
        init: Any = None,
        tol: float | None = None,
        early_stopping: EarlyStopping | None = None,
        callbacks: Callable | Sequence[Callable] = (),
        chain_method: str | None = 'vectorized',
        devices: Any = None,
        adjust: Callable[[State], State] | None = None,
        strict: bool = True,
        checkpoint: Any = None,
        checkpoint_every: int | None = None,
        label: str,
        progress: bool,
    ):
        density, num, size = target.density, len(thetas), batching.num_observations
        self._target, self._batching, self._as_fit = target, batching, as_fit
        self._tol = -1.0 if tol is None else float(tol)
        starts = density.jit(start_function, (settings, size), lambda: jax.vmap(start_function(settings, size)))
        states = starts(thetas, keys)._replace(carried=statistics_of_rows(target, init, keys))
        how, devices = checked_devices(devices, chain_method, num, target.data)
        advance = advance_function(density, settings)
        self._runner = Runner(density.jit, (advance_function, settings), advance, how, devices, num)
        self._runner.prepare(states if adjust is None else adjust(states), batching.example, 0, -1.0)
        self.state, self.take = self._runner.state, self._runner.take
        self._monitor = None if early_stopping is None else Monitor(target, early_stopping, num)
        self._run = Optimization(
            self,
            batching,
            num,
            num_steps,
            rule=self._monitor,
            callbacks=(callbacks,) if callable(callbacks) else tuple(callbacks),
            as_fit=lambda: as_fit(self._descent()),
            strict=strict,
            label=label,
            progress=progress,
        )
        self._saving = Checkpoint(
            checkpoint,
            checkpoint_every,
            lambda: fingerprint_of(
                target,
                method,
                settings=settings,
                tol=tol,
                starts=thetas,
                seed=keys,
                early_stopping=early_stopping,
                num_observations=size,
                chain_method=how,
                num_devices=None if devices is None else len(devices),
            ),
        )

    def run(self) -> tuple[Fit, Descent]:
        """Run the descents; the fit, and their end: see `Optimization.run`."""
        self._run.run(self._saving)
        warn_of(self._run.notes)
        descent = self._descent()
        return self._as_fit(descent), descent

    def step(self, data: Data, length: int) -> tuple[np.ndarray, np.ndarray]:
        return self._runner.step(data, length, self._tol)

    def shown(self, losses: np.ndarray) -> dict[str, str]:
        return {'loss': f'{np.nanmin(losses[:, -1], initial=np.inf):.6g}'}

    def failure(self, point: int, step: int, loss: Any) -> str:
        which = f' of member {point}' if len(self._run.lost) > 1 else ''
        opt_state = self._runner.state().opt_state
        is_lbfgs = lambda x: isinstance(x, optax.ScaleByLBFGSState)  # it has no learning rate
        searches = any(is_lbfgs(x) for x in jax.tree.leaves(opt_state, is_leaf=is_lbfgs))
        rate = 'Scale the inputs' if searches else 'Use a smaller learning rate, or scale the inputs'
        fix = f'{rate}.'
        if scaled := ', '.join(repr(e.name) for e in able_entries(self._target.posterior.entries)):
            fix = (
                f'The joint density of {scaled} and its scale may have no mode: it grows without bound where the scale '
                "goes to zero. Sample with infer.nuts (init='model' or 'pathfinder'), use infer.laplace, or write it "
                f'non-centred, value = mean + scale * raw with raw ~ Normal(0, 1). Otherwise: {rate[0].lower()}'
                f'{rate[1:]}.'
            )
        return f'The loss{which} became {loss} at step {step}. {fix}'

    def _descent(self) -> Descent:
        """The current end of the descents."""
        run, state = self._run, self._runner.state()
        thetas, carried, watched = np.asarray(state.theta), state.carried, {}
        if self._monitor is not None:
            thetas, carried = self._monitor.result(thetas, carried)
            watched = {self._monitor.name: self._monitor.values}
        info = {
            'num_steps': int(np.isfinite(run.losses).sum(1).max()),
            'stopped': run.stopped or 'num_steps',
            **self._batching.info(),
        }
        return Descent(
            thetas,
            carried,
            run.losses,
            np.asarray(state.gradient),
            np.asarray(state.finished) & ~run.lost,
            run.lost,
            state.opt_state,
            watched,
            self._runner.description,
            info,
        )
