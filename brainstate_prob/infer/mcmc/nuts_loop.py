"""The host's loop of NUTS: chunks of transitions of all chains, warm-up and then draws, kept in a checkpoint."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.data.sharding import next_length
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import buffer_length
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.ess import rank_r_hat
from brainstate_prob.infer.mcmc.adaptation import EARLY, EARLY_END, SLOW, SLOW_END, schedule
from brainstate_prob.infer.mcmc.chain_starts import shapes_of_chains, started_chains
from brainstate_prob.infer.mcmc.kernel import Chain, Settings, advance_function
from brainstate_prob.infer.run.chains import Runner, choose_method
from brainstate_prob.infer.run.checkpoint import Checkpoint, interruption, nothing_yet
from brainstate_prob.infer.run.progress import Chunks
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['Plan', 'sample']

_SECONDS_A_CHUNK = 1.0  # how long the progress bar may stand still
_MOST_APART = 5.0  # step sizes of chains that see one posterior differ by less
_MOST_DIVERGENT = 0.02
_WORST_R_HAT = 1.3


class Plan(NamedTuple):
    """What every backend needs."""

    posterior: Posterior
    density: Density
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
        return self.density.jit('chain_keys', None, lambda: _chain_keys)(self.key, np.arange(self.num_chains))


def _chain_keys(key: jax.Array, chains: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A key for the start and one for the run of each chain; chain i's do not depend on the number of chains."""
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(chains)
    return keys[:, 0], keys[:, 1]


def sample(
    plan: Plan, chain_method: str | None, devices: Any, checkpoint: Any, every: int | None
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Draws, statistics and what to report."""
    began = time.perf_counter()
    method = choose_method(chain_method, devices, plan.num_chains, plan.posterior.data)
    density, settings, data = plan.density, plan.settings, plan.posterior.data
    advance = advance_function(density, settings)
    runner = Runner(density.jit, ('nuts', settings), advance, method, devices, plan.num_chains)
    saving = Checkpoint(checkpoint, every, lambda: _fingerprint(plan, runner))
    keys, nothing = plan.keys(), (data, np.zeros(buffer_length(density), np.int32), 0, 1, 0.5)
    # The first time, the program compiles while that of the starts does.
    wait = density.kept(
        ('compiled early', settings, method, plan.num_chains, _shapes(data), str(jnp.result_type(float))),
        lambda: runner.compile_early(shapes_of_chains(plan.posterior, density, settings, keys), *nothing),
    )
    states = started_chains(plan.posterior, density, settings, plan.init, keys)
    wait()
    runner.prepare(states, *nothing)
    found: dict[str, Any] = {'chain_method': method, 'chains_ran': runner.description}
    found['preparation_seconds'] = time.perf_counter() - began
    with saving:
        run = _Run(runner, plan, saving)
        run.all()
    found['warmup_gradients'] = run.warmup_gradients
    found['problems'] = run.notes
    if run.harm:
        found |= {'mass_matrix': 'diagonal', 'low_rank_harmed': True}
        found['problems'] += [
            f'The low-rank mass matrix harms here ({run.harm}): the chains were warmed up again with a diagonal one. '
            + advice('low_rank', 'nuts', {'mass_matrix': 'low_rank'})
        ]
    return *run.collected(), found


def _shapes(data: Any) -> tuple:
    leaves, tree = jax.tree.flatten(data)
    return tree, tuple((np.shape(x), str(jnp.result_type(x))) for x in leaves)


def _fingerprint(plan: Plan, runner: Runner) -> dict[str, Any]:
    return fingerprint_of(
        plan.posterior,
        plan.density,
        'nuts',
        **plan.settings._asdict(),
        num_warmup=plan.num_warmup,
        num_chains=plan.num_chains,
        thinning=plan.thinning,
        target_accept=plan.target_accept,
        init=plan.init,
        seed=plan.key,
        noncentered=str(list(plan.density.noncentered)),
        chains=runner.arithmetic,
    )


class _Run:
    """A run from wherever its checkpoint stands. Its numbers do not depend on where chunks end."""

    def __init__(self, runner: Runner, plan: Plan, saving: Checkpoint):
        self._runner, self._plan, self._saving = runner, plan, saving
        self._buffer = buffer_length(plan.density)
        self._length = min(10, self._buffer)
        self._kept = plan.num_samples // plan.thinning
        self._done = {'warmup': 0, 'again': 0, 'draws': 0}
        self._arrays: dict[str, list[np.ndarray]] = {}
        self.warmup_gradients = 0
        self._interrupted, self._whole = False, True
        self.harm = ''  # what the first warm-up said against its mass matrix
        saved = None if saving.path is None else saving.load(runner.state())
        if saved is not None:
            self._done, self.harm = saved.extra['done'], saved.extra['harm']
            self.warmup_gradients = saved.extra['warmup_gradients']
            self._arrays = {name: [array] for name, array in saved.arrays.items()}
            if self._done['draws'] > self._kept:
                raise ValueError(
                    f'{saving.path!r} holds {self._done["draws"]} draws of each chain, more than the {self._kept} '
                    'asked for. Ask for at least as many, give another path, or remove the file to start anew.'
                )
            runner.take(saved.state)

    def all(self) -> None:
        """Warm up, again if need be, and draw."""
        settings = self._plan.settings
        codes = schedule(self._plan.num_warmup, settings.warmup)
        if self._done['draws'] == 0 and not self.harm:
            self._go('warmup', 'Warm-up', codes, len(codes))
            if settings.mass_matrix == 'low_rank' and not self._interrupted and (harm := self._what_harms()):
                self.harm = harm
                self._runner.take(_without_directions(self._runner.state()))
        if self._done['draws'] == 0 and self.harm:
            # A diagonal matrix, in the same program: its directions are never set again.
            codes = np.where(codes == SLOW, EARLY, np.where(codes == SLOW_END, EARLY_END, codes)).astype(np.int32)
            self._go('again', 'Warm-up, diagonal', codes, len(codes))
        self._go('draws', 'Sampling', None, self._kept)
        if self._saving.path is not None and self._whole:
            self._saving.finish(*self._held())
        if not self._done['draws']:
            raise nothing_yet('in the warm-up', self._saving)

    @property
    def notes(self) -> list[str]:
        """That Ctrl-C has ended it early."""
        drawn = self._done['draws']
        if drawn == self._kept:
            return []
        return [interruption(f'{drawn} of {self._kept} draws of each chain', self._saving)]

    def collected(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """All draws and statistics."""
        arrays = {name: np.concatenate(pieces, axis=1) for name, pieces in self._arrays.items()}
        stats = {name[6:]: array for name, array in arrays.items() if name.startswith('stats ')}
        return arrays['draws'], stats

    def _go(self, phase: str, description: str, codes: np.ndarray | None, total: int) -> None:
        """Run what is left of a phase; of the warm-up (``codes``) a few statistics alone are collected."""
        if self._interrupted:
            return
        plan, divergences = self._plan, 0
        chunks = Chunks(
            total, self._length, description, plan.progress, done=self._done[phase], every=self._saving.every
        )
        with chunks:
            for length in chunks:
                padded = np.zeros(self._buffer, np.int32)
                if codes is not None:
                    padded[:length] = codes[self._done[phase] : self._done[phase] + length]
                began = time.perf_counter()
                thinning = plan.thinning if codes is None else 1
                draws, stats = self._runner.step(plan.posterior.data, padded, length, thinning, plan.target_accept)
                self._adjust(length, time.perf_counter() - began)
                chunks.size = self._length
                stats = {name: values[:, :length].copy() for name, values in stats.items()}
                if codes is None:
                    self._add({'draws': draws[:, :length].copy()} | {f'stats {name}': x for name, x in stats.items()})
                else:
                    self._add({f'{phase} {name}': stats[name] for name in ('diverging', 'step_size', 'lp')})
                    self.warmup_gradients += int(stats['n_steps'].sum())
                self._done[phase] += length
                divergences += int(stats['diverging'].sum())
                chunks.note(divergences=str(divergences), step_size=f'{np.median(stats["step_size"][:, -1]):.2g}')
                if self._saving.due(sum(self._done.values())):
                    self._saving.save(*self._held())
        self._interrupted = self._interrupted or chunks.interrupted
        self._whole = self._whole and chunks.whole

    def _add(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self._arrays.setdefault(name, []).append(array)

    def _held(self) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
        """What a checkpoint has: the chains, what was collected, and where the run stands."""
        arrays = {name: np.concatenate(pieces, axis=1) for name, pieces in self._arrays.items()}
        self._arrays = {name: [array] for name, array in arrays.items()}
        extra = {'done': dict(self._done), 'harm': self.harm, 'warmup_gradients': self.warmup_gradients}
        return self._runner.state(), arrays, extra

    def _what_harms(self) -> str:
        """What the end of the warm-up says against its mass matrix; nothing if all is well."""
        step = np.concatenate(self._arrays['warmup step_size'], axis=1)[:, -1]
        diverging = np.concatenate(self._arrays['warmup diverging'], axis=1)
        share = diverging[:, -max(10, diverging.shape[1] // 10) :].mean()
        if share > _MOST_DIVERGENT:
            return f'{100 * share:.3g} % of the last transitions of the warm-up diverged'
        if step.max() > _MOST_APART * step.min():
            return f'the step sizes of the chains lie between {step.min():.2g} and {step.max():.2g}'
        late = np.concatenate(self._arrays['warmup lp'], axis=1)[:, -max(20, diverging.shape[1] // 7) :]
        if late.shape[0] > 1 and (r_hat := float(rank_r_hat(late.astype(np.float64)[..., None])[0])) > _WORST_R_HAT:
            return f'R-hat of the log density is {r_hat:.2f} at the end of the warm-up'
        return ''

    def _adjust(self, length: int, seconds: float) -> None:
        self._length = next_length(length, seconds, _SECONDS_A_CHUNK, self._buffer)


def _without_directions(chains: Chain) -> Chain:
    """The chains where they are, with a diagonal mass matrix and nothing learnt for the next."""
    metric: Any = chains.adaptation.metric
    plain = metric._replace(vectors=jnp.zeros_like(metric.vectors), stretch=jnp.ones_like(metric.stretch))
    grad = jax.vmap(lambda old, new, grad: new.pull(old.push(grad)))(metric, plain, chains.grad)
    estimator = jax.tree.map(jnp.zeros_like, chains.adaptation.estimator)
    return chains._replace(grad=grad, adaptation=chains.adaptation._replace(metric=plain, estimator=estimator))
