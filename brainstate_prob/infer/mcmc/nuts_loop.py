"""A run of NUTS: the starts of its chains, its warm-ups, its draws."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.density.potential import buffer_length
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.ess import rank_r_hat
from brainstate_prob.infer.mcmc.adaptation import EARLY, EARLY_END, SLOW, SLOW_END, schedule
from brainstate_prob.infer.mcmc.chain_starts import shapes_of_chains, started_chains
from brainstate_prob.infer.mcmc.kernel import Chain, Settings, advance_function
from brainstate_prob.infer.run.chains import Runner, choose_method, keys_of_chains
from brainstate_prob.infer.run.checkpoint import Checkpoint
from brainstate_prob.infer.run.driver import Driver, Phase
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.target import Target

__all__ = ['Plan', 'sample']

_MOST_APART = 5.0  # step sizes of chains that see one posterior differ by less
_MOST_DIVERGENT = 0.02
_WORST_R_HAT = 1.3


class Plan(NamedTuple):
    """What every backend needs."""

    target: Target
    settings: Settings
    num_warmup: int
    num_samples: int
    thinning: int
    num_chains: int
    init: Any
    key: jax.Array
    target_accept: float
    progress: bool

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """A key for the start and one for the run of each chain."""
        return keys_of_chains(self.target.density, self.key, self.num_chains)


def sample(
    plan: Plan, chain_method: str | None, devices: Any, checkpoint: Any, checkpoint_every: int | None
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Draws, statistics and what to report."""
    began = time.perf_counter()
    method = choose_method(chain_method, devices, plan.num_chains, plan.target.data)
    density, settings, data = plan.target.density, plan.settings, plan.target.data
    advance = advance_function(density, settings)
    runner = Runner(density.jit, (advance_function, settings), advance, method, devices, plan.num_chains)
    saving = Checkpoint(checkpoint, checkpoint_every, lambda: _fingerprint(plan, runner))
    keys, nothing = plan.keys(), (data, np.zeros(buffer_length(density), np.int32), 0, 1, 0.5)
    # The first time, the program compiles while that of the starts does.
    wait = density.kept(
        (Runner.compile_early, settings, method, plan.num_chains, _shapes(data), str(jnp.result_type(float))),
        lambda: runner.compile_early(shapes_of_chains(plan.target, settings, keys), *nothing),
    )
    states = started_chains(plan.target, settings, plan.init, keys)
    wait()
    runner.prepare(states, *nothing)
    found: dict[str, Any] = {'chain_method': method, 'chains_ran': runner.description}
    found['preparation_seconds'] = time.perf_counter() - began
    num_draws = plan.num_samples // plan.thinning
    with Driver(runner, num_draws, buffer_length(density), saving, plan.progress) as driver:
        run = _Run(driver, runner, plan)
        run.all()
    draws, stats, notes = driver.result()
    found['warmup_gradients'], found['problems'] = run.warmup_gradients, notes
    if run.low_rank_problem:
        found |= {'mass_matrix': 'diagonal', 'low_rank_harmed': True}
        found['problems'] += [
            f'The low-rank mass matrix fails here ({run.low_rank_problem}): the chains were warmed up again with a '
            'diagonal one. ' + advice('low_rank', 'nuts', {'mass_matrix': 'low_rank'})
        ]
    return draws, stats, found


def _shapes(data: Any) -> tuple:
    leaves, tree = jax.tree.flatten(data)
    return tree, tuple((np.shape(x), str(jnp.result_type(x))) for x in leaves)


def _fingerprint(plan: Plan, runner: Runner) -> dict[str, Any]:
    return fingerprint_of(
        plan.target,
        'nuts',
        **plan.settings._asdict(),
        num_warmup=plan.num_warmup,
        num_chains=plan.num_chains,
        thinning=plan.thinning,
        target_accept=plan.target_accept,
        init=plan.init,
        seed=plan.key,
        noncentered=str(list(plan.target.density.noncentered)),
        chains=runner.arithmetic,
    )


class _Run:
    """The phases of NUTS: a warm-up, a second one where the low-rank mass matrix of the first fails, the draws."""

    def __init__(self, driver: Driver, runner: Runner, plan: Plan):
        self._driver, self._runner, self._plan = driver, runner, plan
        self._padding = np.zeros(buffer_length(plan.target.density), np.int32)
        self.low_rank_problem = ''  # what the first warm-up shows against a low-rank mass matrix

    def all(self) -> None:
        """Warm up, again if need be, and draw."""
        driver, plan = self._driver, self._plan
        codes = schedule(plan.num_warmup, plan.settings.warmup)
        driver.go(self._warm_up('warmup', 'Warm-up', codes))
        if plan.settings.mass_matrix == 'low_rank' and not driver.interrupted:
            self.low_rank_problem = self._problem_of_low_rank()
        if self.low_rank_problem:
            if driver.done('again') == 0:
                self._runner.take(_without_directions(self._runner.state()))
            # A diagonal matrix, in the same program: its directions are never set again.
            codes = np.where(codes == SLOW, EARLY, np.where(codes == SLOW_END, EARLY_END, codes)).astype(np.int32)
            driver.go(self._warm_up('again', 'Warm-up, diagonal', codes))
        driver.go(Phase.of_draws(plan.num_samples // plan.thinning, self._draw))

    @property
    def warmup_gradients(self) -> int:
        """How many gradients the warm-ups took."""
        phases = [name for name in ('warmup', 'again') if self._driver.done(name)]
        return sum(int(self._driver.kept(name, 'n_steps').sum()) for name in phases)

    def _warm_up(self, name: str, description: str, codes: np.ndarray) -> Phase:
        def step(done: int, length: int) -> tuple:
            padded = self._padding.copy()
            padded[:length] = codes[done : done + length]
            return self._step(padded, length, 1)

        return Phase(name, description, len(codes), step, keep=('diverging', 'lp', 'n_steps', 'step_size'))

    def _draw(self, done: int, length: int) -> tuple:
        return self._step(self._padding, length, self._plan.thinning)

    def _step(self, codes: np.ndarray, length: int, thinning: int) -> tuple:
        plan = self._plan
        return self._runner.step(plan.target.data, codes, length, thinning, plan.target_accept)

    def _problem_of_low_rank(self) -> str:
        """What the end of the warm-up shows against the low-rank mass matrix; empty where nothing does."""
        if not self._driver.done('warmup'):
            return ''
        step = self._driver.kept('warmup', 'step_size')[:, -1]
        diverging = self._driver.kept('warmup', 'diverging')
        share = diverging[:, -max(10, diverging.shape[1] // 10) :].mean()
        if share > _MOST_DIVERGENT:
            return f'{100 * share:.3g} % of the last transitions of the warm-up diverged'
        if step.max() > _MOST_APART * step.min():
            return f'the step sizes of the chains lie between {step.min():.2g} and {step.max():.2g}'
        late = self._driver.kept('warmup', 'lp')[:, -max(20, diverging.shape[1] // 7) :]
        if late.shape[0] > 1 and (r_hat := float(rank_r_hat(late.astype(np.float64)[..., None])[0])) > _WORST_R_HAT:
            return f'R-hat of the log density is {r_hat:.2f} at the end of the warm-up'
        return ''


def _without_directions(chains: Chain) -> Chain:
    """The chains where they are, with a diagonal mass matrix and nothing learnt for the next."""
    metric: Any = chains.adaptation.metric
    plain = metric._replace(vectors=jnp.zeros_like(metric.vectors), stretch=jnp.ones_like(metric.stretch))
    grad = jax.vmap(lambda old, new, grad: new.pull(old.push(grad)))(metric, plain, chains.grad)
    estimator = jax.tree.map(jnp.zeros_like, chains.adaptation.estimator)
    return chains._replace(grad=grad, adaptation=chains.adaptation._replace(metric=plain, estimator=estimator))
