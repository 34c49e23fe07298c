"""`sample`: a fit by an algorithm, with chains, devices, checkpoints, progress, warnings and the report."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.density.noncentered import described, is_auto
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.mcmc import mcmc_problems
from brainstate_prob.infer.diagnostics.prior_conflict import issue_warnings
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.algorithm import Algorithm
from brainstate_prob.infer.run.chain_starts import ChainStarts
from brainstate_prob.infer.run.chains import Runner, Together, choose_method
from brainstate_prob.infer.run.checkpoint import Checkpoint
from brainstate_prob.infer.run.driver import Driver, Phase
from brainstate_prob.infer.run.inference_loop import chunk_length
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.stream import Stream
from brainstate_prob.infer.target.target import Target

__all__ = ['Run', 'fit_of', 'sample']


def sample(target: Target, algorithm: Algorithm, options: RunOptions, batches: Stream | None = None) -> Fit:
    """The draws of an algorithm's chains.

    A second call for a model of the same structure, with the same settings, compiles nothing.

    Parameters
    ----------
    batches
        Minibatches, one a step, in place of the target's data.

    Raises
    ------
    ValueError
        For options that do not go together, starts without finite density, the checkpoint of another run, and where a
        chain becomes non-finite.
    KeyboardInterrupt
        Before the first draw.
    """
    run = Run(target, algorithm, options, batches)
    with run.driver:
        run.go()
    draws, stats, notes = run.driver.result()
    return fit_of(target, algorithm, options, draws, stats, run.info, notes + run.notes)


def fit_of(
    target: Target,
    algorithm: Algorithm,
    options: RunOptions,
    draws: np.ndarray,
    stats: dict[str, np.ndarray],
    more: dict[str, Any],
    notes: list[str],
) -> Fit:
    """The `Fit` of draws, with its report and its problems, which are issued as warnings.

    Parameters
    ----------
    more
        Of the report, what was seen during the run.
    notes
        Problems noticed during the run.
    """
    info = {
        'num_warmup': options.num_warmup,
        'num_samples': options.num_samples,
        'num_chains': options.num_chains,
        'thinning': options.thinning,
        **algorithm.settings,
        **algorithm.numbers,
        'noncentered': described(target.density),
        'form_by_data': is_auto(options.noncentered),
        **more,
        **algorithm.report(stats),
        'seconds': time.perf_counter() - options.began,
    }
    problems = mcmc_problems(target.density, draws, stats, algorithm.name, info, target.data)
    info['warnings'] = notes + problems + algorithm.problems(stats, info)
    return issue_warnings(Fit(target, draws, method=algorithm.name, stats=stats, info=info))


class Run:
    """A run of an algorithm's chains.

    Attributes
    ----------
    target, algorithm, options
        What is run.
    driver
        Its loop, to be entered as a context.
    runner
        The chains.
    notes
        Messages about problems during the run.
    info
        What of the run is reported.
    """

    def __init__(self, target: Target, algorithm: Algorithm, options: RunOptions, batches: Stream | None = None):
        self.target, self.algorithm, self.options, self._batches = target, algorithm, options, batches
        self.notes: list[str] = []
        density, num_chains = target.density, options.num_chains
        shape = (num_chains,) if algorithm.together else ()
        advance = algorithm.loop(density, algorithm.step(density), algorithm.stats, shape)
        if algorithm.together:
            method = 'vectorized'
            self.runner: Any = Together(density.jit, algorithm.key, advance, options.devices, num_chains, target.data)
        else:
            method = choose_method(options.chain_method, options.devices, num_chains, target.data)
            self.runner = Runner(density.jit, algorithm.key, advance, method, options.devices, num_chains)
        self.info: dict[str, Any] = {'chain_method': method, 'chains_ran': self.runner.description}
        most = chunk_length(density, *shape)
        self._no_actions = np.zeros(most, np.int32)
        saving = Checkpoint(options.checkpoint, options.checkpoint_every, self._fingerprint)
        self._prepare(method)
        self.driver = Driver(self.runner, options.num_draws, most, saving, options.progress)

    def _fingerprint(self) -> dict[str, Any]:
        algorithm, options = self.algorithm, self.options
        return fingerprint_of(
            self.target,
            algorithm.name,
            **{**algorithm.settings, **algorithm.numbers},
            num_warmup=options.num_warmup,
            num_chains=options.num_chains,
            thinning=options.thinning,
            init=options.init,
            seed=options.key,
            noncentered=str(list(self.target.density.noncentered)),
            chains=self.runner.arithmetic,
        )

    def _prepare(self, method: str) -> None:
        """Compile, with the chains at their starts. At first the program of the starts compiles at the same time."""
        target, algorithm, options = self.target, self.algorithm, self.options
        data = target.data if self._batches is None else self._batches.peek()
        nothing = (data, self._no_actions, 0, 1, *algorithm.given)
        wait = None
        if isinstance(algorithm.init, ChainStarts) and not algorithm.together:
            shapes = lambda: algorithm.init.shapes(target, options)
            key = (
                Runner.compile_early,
                algorithm.key,
                method,
                options.num_chains,
                _shapes(data),
                jnp.result_type(float),
            )
            wait = target.density.kept(key, lambda: self.runner.compile_early(shapes(), *nothing))
        states = algorithm.init(target, options)
        if wait is not None:
            wait()
        self.runner.prepare(states, *nothing)
        self.info['preparation_seconds'] = time.perf_counter() - options.began

    def go(self) -> None:
        """All phases."""
        options, driver = self.options, self.driver
        if self._batches is not None:
            self._batches.skip(driver.done('warm-up') + options.thinning * driver.done('draws'))
        self.algorithm.phases(self)
        if driver.ended and not driver.done('draws'):
            raise ValueError(
                f'batches ended before the first draw, after {driver.done("warm-up")} steps. Give an iterable that can '
                'be restarted (a list, a data loader), a longer generator, or fewer steps.'
            )
        if driver.ended:
            kept = f'{driver.done("draws")} of {options.num_draws} draws'
            self.notes.append(f'The batches ended after {kept}: these are kept.')

    def warm_up(
        self, actions: np.ndarray, name: str = 'warm-up', description: str = 'Warm-up', keep: tuple[str, ...] = ()
    ) -> None:
        """A warm-up with one step for each action.

        Parameters
        ----------
        keep
            The statistics that `Driver.kept` gives.
        """

        def step(done: int, length: int) -> tuple:
            padded = self._no_actions.copy()
            padded[:length] = actions[done : done + length]
            return self._step(padded, length, 1)

        self.driver.go(Phase(name, description, len(actions), step, keep))

    def draw(self, total: int | None = None) -> None:
        """Draw up to a total of ``total``, by default all."""
        total = self.options.num_draws if total is None else total
        self.driver.go(Phase.of_draws(total, lambda _, n: self._step(self._no_actions, n, self.options.thinning)))

    def _step(self, actions: np.ndarray, length: int, thinning: int) -> tuple:
        arguments = self.algorithm.given
        if self._batches is None:
            draws, stats = self.runner.step(self.target.data, actions, length, thinning, *arguments)
        else:
            draws, stats = self._step_by_batches(actions, length, thinning)
        last = draws[:, :length][:, -1:]
        if not np.isfinite(last).all():
            steps = self.driver.steps(self.options.thinning) + length * thinning
            used = {**self.algorithm.settings, **self.algorithm.numbers}
            raise ValueError(
                f'Chain {int(np.argmin(np.isfinite(last).all((1, 2))))} became non-finite within step {steps}. '
                + advice('not_finite', self.algorithm.name, used)
            )
        return draws, stats

    def _step_by_batches(self, actions: np.ndarray, length: int, thinning: int) -> tuple:
        """One compiled call for each batch; fewer draws than requested if the batches end."""
        assert self._batches is not None
        num, density = self.options.num_chains, self.target.density
        pieces: list = [
            (
                np.zeros((num, 0, density.size), density.dtype),
                {name: np.zeros((num, 0), jnp.zeros((), kind).dtype) for name, kind in self.algorithm.stats.items()},
            )
        ]
        for action in actions[:length]:
            one = self._no_actions.copy()
            one[0] = action
            before = self.runner.states
            for _ in range(thinning):
                batch = next(self._batches, None)
                if batch is None:
                    self.runner.states = before  # at the last draw that is kept
                    break
                draw = self.runner.step(batch, one, 1, 1, *self.algorithm.given)
            else:
                pieces.append(jax.tree.map(lambda x: x[:, :1], draw))
                continue
            break
        return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *pieces)


def _shapes(data: Any) -> tuple:
    leaves, tree = jax.tree.flatten(data)
    return tree, tuple((np.shape(x), str(jnp.result_type(x))) for x in leaves)
