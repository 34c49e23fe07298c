"""The common options of MCMC samplers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from brainstate_prob.infer.run.chains import keys_of_chains
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.target.options import check_options, check_thinning
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.target.target import Target

__all__ = ['RunOptions']


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run of chains.

    Attributes
    ----------
    num_warmup, num_samples, num_chains
        Steps of the warm-up and after it, of each chain.
    thinning
        Keep every ``thinning``-th draw.
    init
        Where the chains start.
    noncentered
        Which hierarchical parameters are moved in standardized form.
    seed
        An int or a key.
    devices, chain_method
        Where and how the chains run: see `choose_method`.
    checkpoint, checkpoint_every
        The file that the run is saved to, and after how many steps of each chain.
    progress
        Whether progress bars are shown.
    began
        When the call began, by `time.perf_counter`.
    """

    num_warmup: int
    num_samples: int
    num_chains: int
    thinning: int = 1
    init: Any = 'model'
    noncentered: Any = False
    seed: Any = 0
    devices: Any = None
    chain_method: str | None = None
    checkpoint: Any = None
    checkpoint_every: int | None = None
    progress: bool = True
    began: float = dataclasses.field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, sampler: Callable, given: Mapping[str, Any], **rules: Any) -> RunOptions:
        """The run options among a sampler's arguments, after a check of all of them; its first statement.

        Parameters
        ----------
        sampler, given, **rules
            As of `check_options`.

        Raises
        ------
        ValueError, TypeError
            As `check_options`, and for a thinning that keeps no draw.
        """
        check_options(sampler, given, **rules)
        check_thinning(given['thinning'], given['num_samples'])
        return cls(**{field.name: given[field.name] for field in dataclasses.fields(cls) if field.name in given})

    @property
    def num_draws(self) -> int:
        """The number of draws kept of each chain."""
        return self.num_samples // self.thinning

    @property
    def key(self) -> jax.Array:
        """The random key of the run."""
        return to_key(self.seed)

    def keys(self, target: Target) -> tuple[jax.Array, jax.Array]:
        """Keys for the start and the run of each chain."""
        return keys_of_chains(target.density, self.key, self.num_chains)

    def target(self, posterior: Posterior) -> Target:
        """The target of the chains, with the running statistics of the fit that they start from."""
        return started_from(posterior, self.init).sampling_target(self.noncentered)
