"""Algorithm: the mathematics of a sampler, separate from chains, devices, files and progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from brainstate_prob.infer.run.inference_loop import inference_loop

if TYPE_CHECKING:
    from brainstate_prob.infer.run.sampling import Run

__all__ = ['Algorithm', 'no_adaptation', 'warm_up_and_draw']


def no_adaptation(num_warmup: int) -> np.ndarray:
    """The actions of a warm-up without adaptation."""
    return np.zeros(num_warmup, np.int32)


def warm_up_and_draw(run: Run) -> None:
    """The phases of most samplers."""
    run.warm_up(run.algorithm.schedule(run.options.num_warmup))
    run.draw()


class Algorithm(NamedTuple):
    """A sampler as functions, after BlackJAX; `sample` runs it.

    Attributes
    ----------
    name
        The way to fit, `Fit.method`.
    init
        ``init(target, options) -> states``: the initial states of the chains, stacked; for example a `ChainStarts`.
    step
        ``step(density) -> f(state, data, action, *arguments) -> (state, theta, stats)``. ``action`` selects what this
        step of the warm-up adapts; it is 0 after the warm-up.
    stats
        The types of a step's statistics, by their names in ArviZ.
    settings
        Hashable settings of the compiled programs, by name.
    numbers
        Other values that the draws depend on, by name. Settings and numbers are a part of the run's fingerprint and of
        `Fit.info`.
    arguments
        The arguments of each step: arrays, or pytrees of them. Default: the numbers.
    schedule
        ``schedule(num_warmup)``: the actions of the warm-up's steps.
    phases
        ``phases(run)`` takes a `Run` through its warm-ups and draws.
    report
        ``report(stats)``: what is added to `Fit.info`.
    problems
        ``problems(stats, info)``: findings of this sampler alone, in words.
    loop
        How steps become a compiled program, as `inference_loop`.
    together
        Whether one state holds all chains, and a step moves all of them.
    """

    name: str
    init: Callable
    step: Callable
    stats: Mapping[str, Any]
    settings: Mapping[str, Any] = {}
    numbers: Mapping[str, Any] = {}
    arguments: tuple | None = None
    schedule: Callable[[int], np.ndarray] = no_adaptation
    phases: Callable[[Run], None] = warm_up_and_draw
    report: Callable[[dict], dict[str, Any]] = lambda stats: {}
    problems: Callable[[dict, dict], list[str]] = lambda stats, info: []
    loop: Callable = inference_loop
    together: bool = False

    @property
    def given(self) -> tuple:
        """The arguments of each step."""
        return tuple(self.numbers.values()) if self.arguments is None else self.arguments

    @property
    def key(self) -> tuple:
        """The cache key of its compiled programs."""
        return self.name, tuple(self.settings.items())
