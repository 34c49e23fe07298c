"""The phases of NUTS: a warm-up, a second one if the low-rank mass matrix of the first fails, the draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.ess import rank_r_hat
from brainstate_prob.infer.mcmc.adaptation import EARLY, EARLY_END, SLOW, SLOW_END
from brainstate_prob.infer.mcmc.kernel import Chain
from brainstate_prob.infer.run.driver import Driver
from brainstate_prob.infer.run.sampling import Run

__all__ = ['nuts_phases']

_MAX_STEP_SIZE_RATIO = 5.0  # ratio of step sizes above which chains have seen different regions
_MOST_DIVERGENT = 0.02
_WORST_R_HAT = 1.3
_FIRST, _SECOND = 'warm-up', 'second warm-up'
_KEPT = ('diverging', 'lp', 'n_steps', 'step_size')


def nuts_phases(run: Run) -> None:
    """Warm up, again if necessary, and draw."""
    driver = run.driver
    actions = run.algorithm.schedule(run.options.num_warmup)
    run.warm_up(actions, _FIRST, keep=_KEPT)
    problem = ''
    if run.algorithm.settings['mass_matrix'] == 'low_rank' and not driver.interrupted:
        problem = _problem_of_low_rank(driver)
    if problem:
        if driver.done(_SECOND) == 0:
            run.runner.take(_without_directions(run.runner.state()))
        # A diagonal matrix in the same program: the directions are never updated again.
        actions = np.where(actions == SLOW, EARLY, np.where(actions == SLOW_END, EARLY_END, actions)).astype(np.int32)
        run.warm_up(actions, _SECOND, 'Warm-up, diagonal', _KEPT)
        run.info |= {'mass_matrix': 'diagonal', 'low_rank_harmed': True}
        run.notes.append(
            f'The low-rank mass matrix fails here ({problem}): the chains were warmed up again with a diagonal one. '
            + advice('low_rank', 'nuts', {'mass_matrix': 'low_rank'})
        )
    run.draw()
    phases = [name for name in (_FIRST, _SECOND) if driver.done(name)]
    run.info['warmup_gradients'] = sum(int(driver.kept(name, 'n_steps').sum()) for name in phases)


def _problem_of_low_rank(driver: Driver) -> str:
    """Signs at the end of the warm-up that the low-rank mass matrix fails; empty if there are none."""
    if not driver.done(_FIRST):
        return ''
    step = driver.kept(_FIRST, 'step_size')[:, -1]
    diverging = driver.kept(_FIRST, 'diverging')
    share = diverging[:, -max(10, diverging.shape[1] // 10) :].mean()
    if share > _MOST_DIVERGENT:
        return f'{100 * share:.3g} % of the last transitions of the warm-up diverged'
    if step.max() > _MAX_STEP_SIZE_RATIO * step.min():
        return f'the step sizes of the chains lie between {step.min():.2g} and {step.max():.2g}'
    late = driver.kept(_FIRST, 'lp')[:, -max(20, diverging.shape[1] // 7) :]
    if late.shape[0] > 1 and (r_hat := float(rank_r_hat(late.astype(np.float64)[..., None])[0])) > _WORST_R_HAT:
        return f'R-hat of the log density is {r_hat:.2f} at the end of the warm-up'
    return ''


def _without_directions(chains: Chain) -> Chain:
    """The chains at their positions, with a diagonal mass matrix and a new adaptation state."""
    metric: Any = chains.adaptation.metric
    plain = metric._replace(vectors=jnp.zeros_like(metric.vectors), factors=jnp.ones_like(metric.factors))
    grad = jax.vmap(lambda old, new, grad: new.pull(old.push(grad)))(metric, plain, chains.grad)
    estimator = jax.tree.map(jnp.zeros_like, chains.adaptation.estimator)
    return chains._replace(grad=grad, adaptation=chains.adaptation._replace(metric=plain, estimator=estimator))
