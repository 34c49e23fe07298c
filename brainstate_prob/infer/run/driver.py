"""The loop of all samplers: phases of compiled calls, with progress bar, draws and checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from brainstate_prob.infer.data.sharding import next_length
from brainstate_prob.infer.run.checkpoint import Checkpoint, interruption, nothing_yet
from brainstate_prob.infer.run.progress import Chunks

__all__ = ['Driver', 'Phase']

_SECONDS_A_CHUNK = 1.0  # seconds between updates of the progress bar
_DRAWS = 'draws'  # the phase whose draws are the result


class Phase(NamedTuple):
    """A phase of a run, such as the warm-up.

    Attributes
    ----------
    name
        ``'draws'`` for the phase whose draws and statistics are the result; any other for a warm-up.
    description
        What the progress bar says.
    total
        How many steps, or draws, it has.
    step
        ``step(done, length) -> (draws, stats)`` goes ``length`` steps on from the ``done``-th, for all chains. Where it
        gives fewer draws, the run ends with them.
    keep
        Of a warm-up, the statistics that are kept: see `Driver.kept`.
    at_once
        Whether all steps are one call.
    """

    name: str
    description: str
    total: int
    step: Callable[[int, int], tuple]
    keep: tuple[str, ...] = ()
    at_once: bool = False

    @classmethod
    def of_draws(cls, total: int, step: Callable[[int, int], tuple]) -> Phase:
        """The phase whose draws are the result."""
        return cls(_DRAWS, 'Sampling', total, step)


class Chains(Protocol):
    """The interface to the chains' state, implemented by `Runner`."""

    def state(self) -> Any: ...

    def take(self, states: Any) -> None: ...


class Driver:
    """A run of chains through phases, resumed from its checkpoint; used as a context.

    A checkpoint is written when it is due, and at the end of each phase. Ctrl-C ends the run and keeps the draws so
    far. Results must not depend on where calls end.

    Parameters
    ----------
    chains
        Whose state is saved.
    num_draws
        How many draws the run is to have.
    most
        The most steps of one call.

    Raises
    ------
    ValueError
        On entering, for the checkpoint of another run, or of more draws than the run is to have.
    """

    def __init__(self, chains: Chains, num_draws: int, most: int, saving: Checkpoint, progress: bool):
        self._chains, self._num_draws, self._most = chains, num_draws, most
        self._saving, self._progress = saving, progress
        self._length = min(10, most)
        self._done: dict[str, int] = {}
        self._arrays: dict[str, list[np.ndarray]] = {}
        self.interrupted = self.ended = False

    def __enter__(self) -> Driver:
        self._saving.__enter__()
        try:
            self._load()
        except BaseException:
            self._saving.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._saving.__exit__(*error)

    def _load(self) -> None:
        saved = None if self._saving.path is None else self._saving.load(self._chains.state())
        if saved is None:
            return
        if saved.extra['done'].get(_DRAWS, 0) > self._num_draws:
            raise ValueError(
                f'{self._saving.path!r} holds {saved.extra["done"][_DRAWS]} draws of each chain, more than the '
                f'{self._num_draws} asked for. Ask for at least as many, give another path, or remove the file to '
                'start anew.'
            )
        self._done = saved.extra['done']
        self._arrays = {name: [array] for name, array in saved.arrays.items()}
        self._chains.take(saved.state)

    def done(self, name: str) -> int:
        """The number of completed steps of a phase."""
        return self._done.get(name, 0)

    def steps(self, thinning: int) -> int:
        """The number of completed steps of the chains, with ``thinning`` steps for each draw."""
        return sum(done * (thinning if name == _DRAWS else 1) for name, done in self._done.items())

    def kept(self, phase: str, name: str) -> np.ndarray:
        """A statistic kept from a warm-up, (chains, steps)."""
        pieces = self._arrays[f'{phase} {name}']
        self._arrays[f'{phase} {name}'] = joined = [np.concatenate(pieces, axis=1)]
        return joined[0]

    def go(self, phase: Phase) -> None:
        """Run the rest of a phase; do nothing after an interruption or the end of the batches."""
        if self.interrupted or self.ended:
            return
        saving, divergences = self._saving, 0
        chunks = Chunks(
            phase.total,
            phase.total if phase.at_once else self._length,
            phase.description,
            self._progress and phase.total > 0,
            done=min(self.done(phase.name), phase.total),
            every=None if phase.at_once else saving.every,
        )
        with chunks:
            for length in chunks:
                began = time.perf_counter()
                draws, stats = phase.step(self.done(phase.name), length)
                self.ended = draws.shape[1] < length
                length = min(length, draws.shape[1])
                stats = {name: np.asarray(x)[:, :length].copy() for name, x in stats.items()}
                if not phase.at_once:
                    seconds = time.perf_counter() - began
                    self._length = chunks.size = next_length(length, seconds, _SECONDS_A_CHUNK, self._most)
                if phase.name == _DRAWS:
                    self._add({_DRAWS: np.asarray(draws)[:, :length].copy()})
                self._add({f'{phase.name} {n}': x for n, x in stats.items() if phase.name == _DRAWS or n in phase.keep})
                self._done[phase.name] = self.done(phase.name) + length
                divergences += self._note(chunks, stats, divergences)
                if saving.due(sum(self._done.values())):
                    saving.save(*self._contents())
                if self.ended:
                    chunks.stop(length)
                    break
        self.interrupted = self.interrupted or chunks.interrupted
        if saving.path is not None and chunks.whole:
            saving.finish(*self._contents())

    @staticmethod
    def _note(chunks: Chunks, stats: dict[str, np.ndarray], before: int) -> int:
        """Show statistics next to the progress bar; return the number of divergences."""
        divergences, shown = int(stats['diverging'].sum()) if 'diverging' in stats else 0, {}
        if 'diverging' in stats:
            shown['divergences'] = str(before + divergences)
        for name in ('step_size', 'temperature'):
            if name in stats and stats[name].size:
                shown[name] = f'{np.median(stats[name][:, -1]):.2g}'
        if shown:
            chunks.note(**shown)
        return divergences

    def _add(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self._arrays.setdefault(name, []).append(array)

    def _joined(self) -> dict[str, np.ndarray]:
        arrays = {name: np.concatenate(pieces, axis=1) for name, pieces in self._arrays.items()}
        self._arrays = {name: [array] for name, array in arrays.items()}
        return arrays

    def _contents(self) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
        """The contents of a checkpoint: chains, collected arrays, and completed steps of each phase."""
        return self._chains.state(), self._joined(), {'done': dict(self._done)}

    def result(self) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
        """Draws and statistics, (chains, draws, ...), and a note if Ctrl-C ended the run early.

        Raises
        ------
        KeyboardInterrupt
            Where it has ended before the first draw.
        """
        arrays = self._joined()
        if self.interrupted and _DRAWS not in arrays:
            raise nothing_yet('before the first draw', self._saving)
        draws = arrays[_DRAWS]
        stats = {name[len(_DRAWS) + 1 :]: x for name, x in arrays.items() if name.startswith(f'{_DRAWS} ')}
        notes = []
        if self.interrupted and draws.shape[1] < self._num_draws:
            notes = [interruption(f'{draws.shape[1]} of {self._num_draws} draws of each chain', self._saving)]
        return draws, stats, notes
