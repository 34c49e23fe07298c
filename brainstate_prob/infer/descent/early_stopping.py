"""Early stopping: stop descents when the loss, or the loss on held-out data, no longer improves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import environ
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.descent.steps import State
from brainstate_prob.infer.rules import count, not_negative, refuse
from brainstate_prob.infer.target.data import new_arguments
from brainstate_prob.infer.target.target import Target

__all__ = ['EarlyStopping', 'Monitor', 'early_stopping_of', 'early_stopping_rule']


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop after ``patience`` evaluations in a row without improvement.

    Parameters
    ----------
    patience
        How many evaluations without gain are waited for.
    held_out
        Data that the fit does not see, a pair ``(inputs, targets)`` as `Posterior` takes them. What is watched is then
        their mean negative log-likelihood (under ``environ.context(fit=False)``: without dropout), and the result is
        the point where it was lowest. None: the mean loss since the last evaluation is watched (batches count by
        their sizes), and the result is the last point.
    every
        Steps between two evaluations.
    min_gain
        What counts as a gain: a value lower than the lowest one by more than this.

    Raises
    ------
    ValueError
        For numbers out of range.

    Examples
    --------
    >>> EarlyStopping(patience=5, every=20).patience
    5
    """

    patience: int = 10
    held_out: Any = None
    every: int = 50
    min_gain: float = 0.0

    def __post_init__(self):
        for name, rule in (('patience', count()), ('every', count()), ('min_gain', not_negative)):
            rule(f'EarlyStopping: {name}', getattr(self, name))
        if self.held_out is not None and not (isinstance(self.held_out, tuple | list) and len(self.held_out) == 2):
            raise ValueError('EarlyStopping: held_out must be a pair (inputs, targets).')


def early_stopping_of(option: Any) -> EarlyStopping | None:
    """The `EarlyStopping` given by ``early_stopping=``: an int is the patience.

    Raises
    ------
    ValueError
        For anything else.
    """
    if option is None or isinstance(option, EarlyStopping):
        return option
    if isinstance(option, int | np.integer) and not isinstance(option, bool):
        return EarlyStopping(int(option))
    raise refuse('early_stopping', 'an int (the patience), infer.EarlyStopping(...) or None', option)


def early_stopping_rule(name: str, value: Any) -> None:
    """`early_stopping_of` as a rule for options."""
    early_stopping_of(value)


class Monitor:
    """Monitors several descents, which stop when all have stalled."""

    reason = 'early stopping'

    def __init__(self, target: Target, rule: EarlyStopping, num: int):
        self._rule, self.every = rule, rule.every
        self.name = 'mean_loss' if rule.held_out is None else 'held_out_loss'
        self.values = np.zeros((num, 0))
        self.best = np.full(num, np.inf)
        self.best_theta = np.zeros((num, target.size), target.dtype)
        start = tuple(target.data.states[i] for i in target.density.carried)  # running statistics
        self.best_carried = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], num, axis=0), start)
        self._num_stalled = np.zeros(num, int)
        self._evaluate: Callable | None = None
        if rule.held_out is not None:
            self._evaluate = _held_out_loss(target, rule.held_out)

    def holds(self, state: State, losses: np.ndarray, shares: Sequence[float] | None) -> bool:
        """Whether to stop.

        Parameters
        ----------
        losses
            Those so far, (num, steps).
        shares
            The size of each step's batch over the mean size: a short batch has a lower loss, which is no gain.
        """
        thetas, carried = np.asarray(state.theta), state.carried
        if self._evaluate is None:
            recent = losses[:, -self.every :]
            steps = losses.shape[1]
            sizes = np.ones(steps) if shares is None else np.asarray(shares[:steps])
            counts = np.where(np.isfinite(recent), sizes[-self.every :], 0.0).sum(1)
            value = np.where(np.isfinite(recent), recent, 0.0).sum(1) / np.where(counts > 0, counts, 1.0)
        else:
            value = np.asarray(self._evaluate(thetas, carried), float)
        gained = value < self.best - self._rule.min_gain
        self.values = np.concatenate([self.values, value[:, None]], axis=1)
        self.best = np.where(gained, value, self.best)
        self.best_theta = _where(gained, thetas, self.best_theta)
        self.best_carried = jax.tree.map(lambda new, old: _where(gained, new, old), carried, self.best_carried)
        self._num_stalled = np.where(gained, 0, self._num_stalled + 1)
        return bool((self._num_stalled >= self._rule.patience).all())

    def result(self, thetas: np.ndarray, carried: tuple = ()) -> tuple[np.ndarray, tuple]:
        """The points to keep, and their running statistics."""
        if self._evaluate is None:
            return thetas, carried
        seen = np.isfinite(self.best)
        keep = jax.tree.map(lambda best, last: _where(seen, best, last), self.best_carried, carried)
        return _where(seen, self.best_theta, thetas), keep

    # For checkpoints

    def arrays(self) -> dict[str, np.ndarray]:
        """The state for a checkpoint."""
        return {
            'watched': self.values,
            'best': self.best,
            'best_theta': self.best_theta,
            'waited': self._num_stalled,
            **{f'carried_{i}': x for i, x in enumerate(jax.tree.leaves(self.best_carried))},
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the state from `arrays`."""
        self.values, self.best = arrays['watched'], arrays['best']
        self.best_theta, self._num_stalled = arrays['best_theta'], arrays['waited']
        leaves, tree = jax.tree.flatten(self.best_carried)
        self.best_carried = jax.tree.unflatten(tree, [arrays[f'carried_{i}'] for i in range(len(leaves))])


def _held_out_loss(target: Target, held_out: Any) -> Callable:
    posterior, density = target.posterior, target.density
    if posterior.log_likelihood_function is None and held_out[1] is None:
        raise ValueError('EarlyStopping: held_out must be a pair (inputs, targets), but the targets are None.')
    args, kwargs = new_arguments(posterior.data, held_out[0])
    targets = None if held_out[1] is None else posterior.targets_of(held_out[1])
    data = posterior.data._replace(args=args, kwargs=kwargs, targets=targets)
    count = 1 if targets is None else max(1, int(np.shape(targets)[0]) if np.ndim(targets) else 1)

    def evaluate(thetas: Any, carried: tuple) -> np.ndarray:
        with environ.context(fit=False):
            run = density.compiled(_loss, in_axes=(0, 0, None))
            return np.asarray(run(thetas, carried, data)) / count

    return evaluate


def _loss(density: Density, theta: jax.Array, carried: tuple, data: Data) -> jax.Array:
    return -jnp.sum(density.pointwise(theta, density.with_carried(data, carried)))


def _where(condition: np.ndarray, a: Any, b: Any) -> np.ndarray:
    """By the first axis."""
    return np.where(condition.reshape(-1, *(1,) * (np.ndim(b) - 1)), a, b)
