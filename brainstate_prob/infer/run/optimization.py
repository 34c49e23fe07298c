"""The loop of every optimization: compiled calls of many steps, a progress bar, a checkpoint, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from brainstate_prob.infer.run.checkpoint import Checkpoint, interruption, keep_in, nothing_yet
from brainstate_prob.infer.run.progress import Chunks
from brainstate_prob.infer.target.minibatch import Batching, Stream

if TYPE_CHECKING:
    from brainstate_prob.infer.results.fit import Fit

__all__ = ['MOST_STEPS', 'FitProgress', 'Optimization', 'Points', 'Rule']

MOST_STEPS = 200  # steps in one compiled call


class Points(Protocol):
    """The optimized points, one or several, which take steps together."""

    def state(self) -> Any:
        """The state for a checkpoint."""

    def take(self, state: Any) -> None:
        """Set the state."""

    def step(self, data: Any, length: int) -> tuple[Any, np.ndarray]:
        """Take at most ``length`` steps; the losses, (points, ``length`` or more), and the steps of each point."""

    def shown(self, losses: np.ndarray) -> dict[str, str]:
        """The values to show in the progress bar."""

    def failure(self, point: int, step: int, loss: Any) -> str:
        """The message for a loss that is not finite."""


class Rule(Protocol):
    """A stopping rule of an optimization."""

    reason: str

    @property
    def every(self) -> int:
        """The number of steps between two checks."""

    def holds(self, state: Any, losses: np.ndarray, shares: Sequence[float] | None) -> bool:
        """Whether to stop; ``shares`` are the sizes of the batches over their mean."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The state for a checkpoint."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the state from `arrays`."""


class FitProgress:
    """The progress of a fit, the argument of callbacks.

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
        """The result if the fit ended now."""
        return self._fit()

    def __repr__(self) -> str:
        return f'FitProgress(step={self.step}, loss={self.loss:.6g})'


class Optimization:
    """A run of optimization steps, resumed from its checkpoint.

    A checkpoint is written when it is due and at the end. Results must not depend on where compiled calls end.

    Parameters
    ----------
    batching
        Which data each step sees.
    num
        How many points there are.
    rule, callbacks
        What may stop it, beside points that have converged and so take no more steps.
    as_fit
        Makes the result of what there is now; for callbacks.
    strict
        Whether the losses of all points must stay finite; else those of one are enough.
    label
        What the progress bar says.

    Attributes
    ----------
    lost : numpy.ndarray
        Whose loss did not stay finite.
    stopped : str
        Why it stopped early; empty after the last step.
    notes : list
        What there is to say about the run: that Ctrl-C has ended it.
    """

    def __init__(
        self,
        points: Points,
        batching: Batching,
        num: int,
        num_steps: int,
        *,
        rule: Rule | None = None,
        callbacks: Sequence[Callable] = (),
        as_fit: Callable[[], Fit] | None = None,
        strict: bool = True,
        label: str,
        progress: bool,
    ):
        self._points, self._batching, self._num_steps, self._rule = points, batching, num_steps, rule
        self._callbacks, self._as_fit, self._strict = callbacks, as_fit, strict
        self._label, self._progress = label, progress
        self._pieces: list[np.ndarray] = []
        self.steps = 0
        self.lost = np.zeros(num, bool)
        self.stopped = ''
        self.notes: list[str] = []

    @property
    def losses(self) -> np.ndarray:
        """The losses of each step so far, (points, steps); NaN after a point has stopped."""
        self._pieces = [np.concatenate(self._pieces, axis=1)]
        return self._pieces[0]

    def run(self, saving: Checkpoint) -> None:
        """Run the remaining steps.

        Raises
        ------
        ValueError
            For a loss that is not finite, the checkpoint of another run or of more steps than this one is to have.
        KeyboardInterrupt
            Before the first steps were done; later Ctrl-C ends the run where it is.
        """
        with saving:
            self._load(saving)
            chunks = Chunks(
                self.steps if self.stopped else self._num_steps,
                MOST_STEPS,
                self._label,
                self._progress,
                done=self.steps,
                every=tuple(n for n in (saving.every, self._rule and self._rule.every) if n),
            )
            with chunks:
                for length in chunks:
                    losses = self._advance(length)
                    due = saving.due(self.steps)
                    if losses.size:
                        chunks.note(**self._points.shown(losses))
                        if self._ended_by_callback(saving):
                            self.stopped = 'a callback'
                    if self.stopped:
                        chunks.stop(losses.shape[1])
                        break
                    if due:
                        saving.save(*self._saved())
            if chunks.whole:
                saving.finish(*self._saved())
        if chunks.interrupted and not self.stopped and self.steps < self._num_steps:
            if not self.steps:
                raise nothing_yet('before the first steps were done', saving)
            self.stopped = 'interrupted'
            self.notes.append(interruption(f'{self.steps} of {self._num_steps} steps', saving))

    def _load(self, saving: Checkpoint) -> None:
        saved = None if saving.path is None else saving.load(self._points.state(), total=self._num_steps)
        if saved is None:
            return
        self._points.take(saved.state)
        self._pieces, self.steps = [saved.arrays['losses']], saved.step
        self.lost, self.stopped = saved.arrays['lost'], saved.extra['stopped']
        if self._rule is not None:
            self._rule.restore(saved.arrays)
        if self._batching.stream is not None:
            self._batching.stream.skip(saved.step)

    def _saved(self) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
        """The contents of a checkpoint: points, losses, and why the run stopped."""
        of_rule = {} if self._rule is None else self._rule.arrays()
        return self._points.state(), {'losses': self.losses, 'lost': self.lost, **of_rule}, {'stopped': self.stopped}

    def _advance(self, length: int) -> np.ndarray:
        """Take at most ``length`` steps and check the stopping rule; return the losses, (points, steps)."""
        stream = self._batching.stream
        if stream is None:
            losses, taken = self._points.step(self._batching.example, length)
        else:
            losses, taken = self._over_batches(stream, length)
        done = int(taken.max())
        losses = np.asarray(losses)[:, :done]
        self._pieces.append(losses)
        self._refuse_failure(losses, taken)
        self.steps += done
        if done < length and not self.stopped:
            self.stopped = 'converged'
        rule = self._rule
        if done and rule is not None and self.steps % rule.every == 0:
            shares = None if stream is None else stream.shares
            self.stopped = rule.reason if rule.holds(self._points.state(), self.losses, shares) else self.stopped
        return losses

    def _over_batches(self, stream: Stream, length: int) -> tuple[np.ndarray, np.ndarray]:
        """One step for each batch; fewer if all points have stopped or the batches have ended."""
        pieces = [np.empty((len(self.lost), 0), self._pieces[0].dtype)] if self._pieces else []
        taken = np.zeros(len(self.lost), int)
        for _ in range(length):
            batch = next(stream, None)
            if batch is None:
                self.stopped = 'the batches ended'
                break
            losses, one = self._points.step(batch, 1)
            if not one.any():
                break
            pieces.append(losses[:, :1])
            taken = taken + one
        return np.concatenate(jax.device_get(pieces), axis=1), taken

    def _refuse_failure(self, losses: np.ndarray, taken: np.ndarray) -> None:
        failed = ~np.isfinite(losses) & (np.arange(losses.shape[1]) < taken[:, None])
        self.lost |= failed.any(axis=1)
        if failed.any() and (self._strict or self.lost.all()):
            point, step = (int(i) for i in np.argwhere(failed)[0])
            raise ValueError(self._points.failure(point, self.steps + step, losses[point, step]))

    def _ended_by_callback(self, saving: Checkpoint) -> bool:
        """Whether a callback ends the run; after an error in a callback the partial result is kept."""
        if not self._callbacks or self._as_fit is None:
            return False
        progress = FitProgress(self.steps, self.losses, self._as_fit)
        try:
            answers = [callback(progress) for callback in self._callbacks]
        except Exception as error:
            saving.finish(*self._saved())
            self.stopped = self.stopped or 'interrupted'
            keep_in(error, progress.fit, f'{progress.step} of {self._num_steps} steps', saving)
            raise
        return any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in answers)
