"""The host's loop of the further samplers: compiled stretches of any length, a progress bar, draws, a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import next_length
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import buffer_length
from brainstate_prob.infer.run.checkpoint import Checkpoint, interruption, nothing_yet
from brainstate_prob.infer.run.progress import Chunks

__all__ = [
    'Phase',
    'block_slices',
    'chunk_length',
    'collect',
    'keys_of_chains',
    'split_log_density',
    'stretch_function',
]

_SECONDS_A_CHUNK = 1.0  # how long the progress bar may stand still


def stretch_function(
    density: Density, step: Callable, stats: Mapping[str, Any], chains: tuple[int, ...] = ()
) -> Callable:
    """``advance(state, data, length, thinning, *args) -> (state, draws, stats)`` of a sampler's step.

    The first ``length`` entries are filled; ``length`` and ``thinning`` are dynamic. Of the steps between kept draws
    ``n_steps`` is the sum, and ``diverging`` whether any did.

    Parameters
    ----------
    step
        ``step(state, data, *args) -> (state, theta, stats)``.
    stats
        Their types by name.
    chains
        The leading shape of theta and statistics, where one state is that of many chains.
    """
    size = chunk_length(density, *chains)

    def advance(state: Any, data: Any, length: Any, thinning: Any, *args: Any) -> tuple:
        nothing = jnp.zeros((*chains, density.size), density.dtype)
        none = {name: jnp.zeros(chains, kind) for name, kind in stats.items()}

        def thin(_: Any, inner: tuple) -> tuple:
            state, _, before = inner
            state, theta, now = step(state, data, *args)
            found = {name: jnp.asarray(now[name], none[name].dtype) for name in none}
            if 'n_steps' in found:
                found['n_steps'] = found['n_steps'] + before['n_steps']
            if 'diverging' in found:
                found['diverging'] = found['diverging'] | before['diverging']
            return state, theta.astype(density.dtype), found

        def kept(i: Any, loop: tuple) -> tuple:
            state, draws, held = loop
            state, theta, found = lax.fori_loop(0, thinning, thin, (state, nothing, none))
            return state, draws.at[i].set(theta), {name: held[name].at[i].set(found[name]) for name in held}

        draws = jnp.zeros((size, *nothing.shape), density.dtype)
        held = {name: jnp.zeros((size, *chains), kind) for name, kind in stats.items()}
        return lax.fori_loop(0, length, kept, (state, draws, held))

    return advance


def chunk_length(density: Density, num_chains: int = 1) -> int:
    """The most draws of one compiled call: fewer for large models and many chains, whose draws fill memory."""
    return min(buffer_length(density), max(1, 8_000_000 // (num_chains * density.size)))


class Phase(NamedTuple):
    """A part of a run: ``step(done, length) -> (draws, stats)`` goes ``length`` steps on from its ``done``-th."""

    description: str
    total: int
    step: Callable[[int, int], tuple]
    at_once: bool = False  # all steps in one call


class Chains(Protocol):
    """What a checkpoint holds of the chains: a `Runner`, say."""

    def state(self) -> Any: ...

    def take(self, states: Any) -> None: ...


def collect(
    chains: Chains, phases: Sequence[Phase], most: int, saving: Checkpoint, progress: bool
) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Draws and statistics, (chains, total, ...), of the last phase, from wherever the checkpoint stands, and notes.

    It is saved at the end of each phase too. Ctrl-C ends the run with the draws that there are, which a note says. The
    numbers must not depend on where calls end, of at most ``most`` steps.

    Raises
    ------
    ValueError
        For the checkpoint of another run, or of more draws than the last phase is to have.
    KeyboardInterrupt
        Before the first draw.
    """
    pieces: dict[str, list[np.ndarray]] = {}
    step, first, length, interrupted = 0, 0, min(10, most), False

    def held() -> dict[str, np.ndarray]:
        joined = {name: np.concatenate(arrays, axis=1) for name, arrays in pieces.items()}
        pieces.update({name: [array] for name, array in joined.items()})
        return joined

    with saving:
        saved = None if saving.path is None else saving.load(chains.state())
        if saved is not None:
            drawn, wanted = saved.step - sum(phase.total for phase in phases[:-1]), phases[-1].total
            if drawn > wanted:
                raise ValueError(
                    f'{saving.path!r} holds {drawn} draws of each chain, more than the {wanted} asked for. Ask for at '
                    'least as many, give another path, or remove the file to start anew.'
                )
            chains.take(saved.state)
            step, pieces = saved.step, {name: [array] for name, array in saved.arrays.items()}
        for phase in phases:
            divergences = sum(int(x.sum()) for x in pieces.get('diverging', []))
            chunks = Chunks(
                phase.total,
                phase.total if phase.at_once else length,
                phase.description,
                progress and phase.total > 0,
                done=min(step - first, phase.total),
                every=None if phase.at_once else saving.every,
            )
            with chunks:
                for this in chunks:
                    began = time.perf_counter()
                    draws, stats = phase.step(step - first, this)
                    if not phase.at_once:
                        length = chunks.size = next_length(this, time.perf_counter() - began, _SECONDS_A_CHUNK, most)
                    found = {name: np.asarray(x)[:, :this].copy() for name, x in {'draws': draws, **stats}.items()}
                    if phase is phases[-1]:
                        for name, x in found.items():
                            pieces.setdefault(name, []).append(x)
                    if 'diverging' in found:
                        divergences += int(found['diverging'].sum())
                        chunks.note(divergences=str(divergences))
                    step += this
                    if saving.due(step):
                        saving.save(chains.state(), held())
            interrupted = interrupted or chunks.interrupted
            if saving.path is not None and chunks.whole:
                saving.finish(chains.state(), held())
            if interrupted:
                break
            first += phase.total
    found = held()
    if interrupted and 'draws' not in found:
        raise nothing_yet('before the first draw', saving)
    drawn, wanted = found['draws'].shape[1], phases[-1].total
    notes = [interruption(f'{drawn} of {wanted} draws of each chain', saving)] if drawn < wanted else []
    return found.pop('draws'), found, notes


def split_log_density(density: Density, theta: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
    """The log-likelihood and the log density."""
    with density.open(theta.astype(density.dtype), data) as (computed, _):
        likelihood = density._log_likelihood(data).astype(theta.dtype)
        prior = sum(block.log_joint(stretch, value) for block, stretch, value in computed)
        return likelihood, likelihood + prior.astype(theta.dtype)


def block_slices(density: Density) -> list[slice]:
    """Where each block's stretch lies in theta."""
    ends = np.cumsum([block.size for block in density.blocks])
    return [slice(int(end) - block.size, int(end)) for block, end in zip(density.blocks, ends, strict=True)]


def keys_of_chains(density: Density, key: jax.Array, num_chains: int) -> tuple[jax.Array, jax.Array]:
    """A key for the start and one for the run of each chain; chain i's do not depend on the number of chains."""

    def build() -> Callable:
        def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(jnp.arange(num_chains))
            return keys[:, 0], keys[:, 1]

        return run

    return density.jit('keys_of_chains', num_chains, build)(key)
