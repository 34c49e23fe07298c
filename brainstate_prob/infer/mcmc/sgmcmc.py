"""Stochastic-gradient MCMC: draws from the posterior by noisy gradient steps over minibatches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noncentered import described
from brainstate_prob.infer.descent.map import batch_info, check_first_batch
from brainstate_prob.infer.descent.step_size import sgmcmc_step_size
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.mcmc import mcmc_problems
from brainstate_prob.infer.diagnostics.prior_conflict import warned
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import choice
from brainstate_prob.infer.run.checkpoint import Checkpoint, interruption, nothing_yet
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.members import Members, checked_devices, plain_types, until_save
from brainstate_prob.infer.run.progress import Chunks
from brainstate_prob.infer.run.starts import member_keys, member_starts
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.minibatch import Batches, first_batch, loop_in_batches, stream_of, take
from brainstate_prob.infer.target.options import check_options, check_thinning
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.target.stream import Stream
from brainstate_prob.infer.target.target import Target

__all__ = ['sgmcmc']

METHODS = ('sgld', 'sghmc', 'cyclical_sgld', 'cyclical_sghmc')
_DECAY, _FLOOR = 0.99, 1e-5  # of the preconditioner's mean square, as Li et al. (2016)


class _Settings(NamedTuple):
    """What the compiled steps depend on beside the model's structure."""

    momentum: bool
    step_size: Callable | None  # a schedule; else the number is an argument
    batch_size: int | None
    precondition: bool


class _State(NamedTuple):
    """Where one chain stands; a pytree."""

    theta: jax.Array
    velocity: jax.Array
    square: jax.Array  # running mean of the squared gradient of one observation's share
    batches: Batches | None
    key: jax.Array
    step: jax.Array


class _Plan(NamedTuple):
    """The numbers that a run is steered by: arguments of the compiled steps."""

    step_size: Any
    friction: Any
    cycle: Any  # steps of a cycle
    exploring: Any  # of these, how many go down without noise
    cyclical: Any
    adapting: Any  # steps in which the preconditioner learns; later it stands still
    num_observations: Any


@named
def sgmcmc(
    posterior: Posterior,
    *,
    method: str = 'sghmc',
    step_size: float | Callable | None = None,
    batch_size: int | None = None,
    batches: Iterable | None = None,
    num_observations: int | None = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    thinning: int = 1,
    num_cycles: int = 4,
    friction: float = 0.1,
    precondition: bool = False,
    init: Any = 'model',
    seed: Any = 0,
    devices: Any = None,
    chain_method: str | None = 'vectorized',
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample the posterior with stochastic-gradient Langevin dynamics or Hamiltonian Monte Carlo.

    With g the gradient of the log density, where a batch of B of N observations counts N/B times, and xi standard
    normal:

    * ``'sgld'`` (Welling and Teh 2011): theta += eps * g + sqrt(2 * eps) * xi
    * ``'sghmc'`` (Chen et al. 2014): v += -friction * v + eps * g + sqrt(2 * friction * eps) * xi; theta += v
    * ``'cyclical_sgld'``, ``'cyclical_sghmc'`` or ``'cyclical'`` (Zhang et al. 2020): eps falls along a half cosine in
      each of ``num_cycles`` cycles; in the first part of a cycle the steps have no noise and look for a mode, in the
      rest draws are kept.

    There is no Metropolis correction: the draws are off by a bias that goes to zero with the step size (and, for
    minibatches, with the noise of the gradient beside the noise that is added). Of two step sizes that agree, the
    larger one mixes faster.

    Parameters
    ----------
    step_size
        eps, or a function of the number of steps done (an optax schedule). Default: by the largest curvature L of the
        log density where the first chain starts, such that the step and the gradient's noise make the narrowest
        variance too large by about a tenth each: 0.2 / L, for batches times their share of the observations (and the
        friction). It is as good as the start: with ``init='map'`` it is that of the mode.
    batch_size
        See this many observations a step, in a new random order each pass; default: all.
    batches, num_observations
        In place of it, an iterable of pairs ``(inputs, targets)``, of any sizes, and the number of all observations;
        see `infer.map`. Where it ends early, the draws so far are kept.
    num_warmup
        Steps that are not kept; with cycles, the steps without noise of all cycles together.
    num_samples, num_chains
        Steps after the warm-up, and chains.
    thinning
        Keep every ``thinning``-th draw, ``num_samples // thinning`` of each chain; with cycles ``num_samples`` is a
        multiple of ``num_cycles * thinning``.
    friction
        Of ``'sghmc'``, between 0 and 1: one minus the momentum.
    precondition
        Scale steps and noise by 1 / (1e-5 + sqrt(mean square gradient of one observation's share)) (Li et al. 2016),
        learned in the warm-up and then held, so that no correction for its change is needed.
    init
        ``'model'``, ``'map'``, ``'prior'``, a function that builds the model anew, a `Fit`, values by path, or an array
        of theta, (size,) or (num_chains, size).
    seed
        An int or a key.
    devices, chain_method
        Devices to spread the chains over, their number, or a Mesh; ``'vectorized'`` (one program), ``'sequential'``,
        ``'parallel'`` (threads) or None (chosen for the machine).
    checkpoint, checkpoint_every
        Save to this file every so many steps, and go on from it if it exists.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        With ``stats['step_size']`` of each draw; ``fit.info`` has the batches' scale. Problems of the run are issued as
        `ConvergenceWarning` and kept in ``info['warnings']``.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, a model that draws random numbers, numbers out of range, a start or a
        chain that is not finite.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> fit = infer.sgmcmc(posterior, num_samples=2000, progress=False)
    >>> fit.draws['mu'].shape, bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.1)
    ((4, 2000), True)
    """
    check_options(sgmcmc, locals(), method=choice(*METHODS, 'cyclical'))
    check_thinning(thinning, num_samples)
    began = time.perf_counter()
    method = 'cyclical_sghmc' if method == 'cyclical' else method
    if precondition and num_warmup == 0:
        raise ValueError('precondition=True is learned in the warm-up; give num_warmup of at least 1.')
    cyclical = method.startswith('cyclical')
    if not cyclical:
        num_cycles = 1
    elif num_samples % (num_cycles * thinning) or num_warmup % num_cycles:
        thinned = f' * thinning={thinning}' if thinning > 1 else ''
        raise ValueError(
            f'num_samples={num_samples} must be a multiple of num_cycles={num_cycles}{thinned}, and '
            f'num_warmup={num_warmup} one of num_cycles, since each cycle has its share of them.'
        )
    chain_method, devices = checked_devices(devices, chain_method, num_chains, posterior.data)
    posterior = started_from(posterior, init)
    key = to_key(seed)
    stream = stream_of(posterior, batch_size, batches, num_observations)
    target = posterior.sampling_target('auto', None if stream is None else stream.stand_in())
    density = target.density
    keys = member_keys(density, key, num_chains)
    thetas = member_starts(target, init, keys)
    check_first_batch(density, thetas[0], stream)
    num = (stream.num_observations if stream is not None else posterior.num_observations) or 1
    if step_size is None:
        example = posterior.data if stream is None else stream.stand_in()
        size = batch_size if stream is None else stream.mean_size
        step_size = sgmcmc_step_size(
            density,
            thetas[0],
            example,
            batch_fraction=1.0 if size is None else size / num,
            friction=friction if method.endswith('hmc') else 1.0,
            scale_by=num if precondition else None,
        )
    settings = _Settings(method.endswith('hmc'), step_size if callable(step_size) else None, batch_size, precondition)
    exploring, kept = num_warmup // num_cycles, num_samples // num_cycles // thinning
    sampling = kept * thinning
    plan = _Plan(
        0.0 if callable(step_size) else float(step_size),
        float(friction),
        exploring + sampling if cyclical else 1,
        exploring if cyclical else 0,
        cyclical,
        exploring,
        float(num),
    )
    run = _Run(target, settings, plan, stream, thinning, progress)
    run.start(thetas, keys, chain_method, devices)
    saving = Checkpoint(
        checkpoint,
        checkpoint_every,
        lambda: fingerprint_of(
            target,
            method,
            settings=settings,
            plan=tuple(plan),
            num_warmup=num_warmup,
            thinning=thinning,
            num_cycles=num_cycles,
            starts=thetas,
            seed=key,
            chain_method=run.members.description,
        ),
    )
    draws, step_sizes = run.go(saving, num_cycles, exploring, kept)
    info = {
        'num_warmup': num_warmup,
        'num_samples': draws.shape[1] * thinning,
        'thinning': thinning,
        'step_size': getattr(step_size, '__name__', 'schedule') if callable(step_size) else float(step_size),
        'precondition': precondition,
        'chains_ran': run.members.description,
        'noncentered': described(density),
        **({'friction': friction} if settings.momentum else {}),
        **({'num_cycles': num_cycles} if cyclical else {}),
        **batch_info(posterior, batch_size, stream),
        'seconds': time.perf_counter() - began,
    }
    info['warnings'] = [*run.notes, *mcmc_problems(density, draws, {}, method, info)]
    return warned(Fit(target, draws, method=method, stats={'step_size': step_sizes}, info=info))


def _buffer(density: Density) -> int:
    """The most draws of one compiled call; fewer for large models, whose draws fill memory."""
    return int(np.clip(2_000_000 // density.size, 1, 500))


def _start_function(settings: _Settings, num_observations: int) -> Callable:
    def start(theta: jax.Array, key: jax.Array) -> _State:
        order, noise = jax.random.split(key)
        zeros = jnp.zeros_like(theta)
        batches = None if settings.batch_size is None else first_batch(order, num_observations)
        # The mean square starts at one: at the mode the first gradient is zero, and would make a huge step.
        return plain_types(_State(theta, zeros, zeros + 1, batches, noise, jnp.zeros((), jnp.int32)))

    return start


def _advance_function(density: Density, settings: _Settings) -> Callable:
    """``advance(state, data, plan, length, thinning) -> (state, draws, step sizes)``: ``length`` draws."""
    size = _buffer(density)

    def size_of_step(step: jax.Array, plan: _Plan) -> jax.Array:
        eps = plan.step_size if settings.step_size is None else settings.step_size(step)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * (step % plan.cycle) / plan.cycle))
        return jnp.asarray(eps * jnp.where(plan.cyclical, cosine, 1.0), density.dtype)

    def step(index: jax.Array | None, state: _State, data: Data, plan: _Plan) -> _State:
        data = data if index is None else take(data, index)
        g = jax.grad(density.log_density)(state.theta, data)
        eps, square = size_of_step(state.step, plan), state.square
        scale: Any = 1.0
        if settings.precondition:
            share = jnp.square(g / plan.num_observations)
            mean = _DECAY * square + (1 - _DECAY) * share
            square = jnp.where(state.step < plan.adapting, mean, square)
            scale = 1.0 / (_FLOOR + jnp.sqrt(square))
        xi = jax.random.normal(jax.random.fold_in(state.key, state.step), g.shape, g.dtype)
        xi = jnp.where(state.step % plan.cycle < plan.exploring, 0.0, xi)
        if settings.momentum:
            noise = jnp.sqrt(2 * plan.friction * eps * scale) * xi
            velocity = (1 - plan.friction) * state.velocity + eps * scale * g + noise
        else:
            velocity = eps * scale * g + jnp.sqrt(2 * eps * scale) * xi
        velocity = velocity.astype(density.dtype)
        theta = state.theta + velocity
        return _State(theta, velocity, square, state.batches, state.key, state.step + 1)

    def advance(state: _State, data: Data, plan: _Plan, length: jax.Array, thinning: jax.Array) -> tuple:
        def body(index: Any, state: _State, i: jax.Array, draws: jax.Array, sizes: jax.Array) -> tuple:
            eps = size_of_step(state.step, plan)
            state, kept = step(index, state, data, plan), i // thinning  # the last one of its place stays
            return state, i + 1, draws.at[kept].set(state.theta), sizes.at[kept].set(eps)

        rest = (
            jnp.zeros((), jnp.int32),
            jnp.zeros((size, density.size), density.dtype),
            jnp.zeros(size, density.dtype),
        )
        state, _, draws, sizes = loop_in_batches(
            lambda _, i, *__: i < length * thinning, body, state, rest, settings.batch_size
        )
        return state, draws, sizes

    return advance


class _Run:
    """The host's loop over warm-up and draws, cycle after cycle."""

    def __init__(
        self,
        target: Target,
        settings: _Settings,
        plan: _Plan,
        stream: Stream | None,
        thinning: int,
        progress: bool,
    ):
        self._posterior, self._density, self._settings, self._plan = target.posterior, target.density, settings, plan
        self._stream, self._thinning, self._progress = stream, thinning, progress
        self.notes: list[str] = []
        self._beyond = False  # whether the chains have moved beyond the last draw

    def start(self, thetas: jax.Array, keys: jax.Array, method: str, devices: Sequence[Any] | None) -> None:
        """Compile, with all chains at their starts."""
        density, num = self._density, self._posterior.num_observations
        starts = density.jit(
            _start_function,
            (self._settings.batch_size, num),
            lambda: jax.vmap(_start_function(self._settings, num)),
        )
        self._keys, self._method, self._devices = keys, method, devices
        self._prepare(starts(thetas, keys))

    def _prepare(self, states: _State) -> None:
        example = self._posterior.data if self._stream is None else self._stream.peek()
        self.members = Members(
            self._density,
            (_advance_function, self._settings),
            _advance_function(self._density, self._settings),
            states,
            len(self._keys),
            *(example, self._plan, 0, 1),
            method=self._method,
            devices=self._devices,
        )

    def go(
        self, checkpoint: Checkpoint, num_cycles: int, num_warmup: int, num_samples: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The draws (chains, draws, size) and their step sizes; numbers of warm-up steps and draws are a cycle's."""
        chains, thinning = len(self._keys), self._thinning
        draws = np.empty((chains, num_cycles * num_samples, self._density.size), self._density.dtype)
        sizes = np.empty(draws.shape[:2], self._density.dtype)
        cycle, kept = num_warmup + num_samples * thinning, 0
        with checkpoint:
            saved = checkpoint.load(self.members.state(), total=num_cycles * cycle)
            if saved is not None:
                kept = saved.arrays['draws'].shape[1]
                draws[:, :kept], sizes[:, :kept] = saved.arrays['draws'], saved.arrays['step_size']
                self._prepare(saved.state)
                if self._stream is not None:
                    self._stream.skip(saved.step)

            def held() -> dict[str, np.ndarray]:
                return {'draws': draws[:, :kept], 'step_size': sizes[:, :kept]}

            total = num_cycles * cycle
            chunks = Chunks(total, _buffer(self._density), 'SG-MCMC', self._progress, done=checkpoint.step)
            chunks.size = self._length(checkpoint, cycle, num_warmup)
            with chunks:
                for length in chunks:
                    warming = checkpoint.step % cycle < num_warmup
                    number = length if warming else length // thinning
                    found, found_sizes = self._advance(number, 1 if warming else thinning)
                    ended, number = found.shape[1] < number, min(number, found.shape[1])
                    length = number * (1 if warming else thinning)
                    if ended and (warming or not number) and not kept:
                        raise ValueError(
                            f'batches ended before the first draw, after {checkpoint.step + length} steps. Give an '
                            'iterable that can be begun anew (a list, a data loader), a longer generator, or fewer '
                            'steps.'
                        )
                    if number and not np.isfinite(found[:, number - 1]).all():
                        lost = int(np.argmin(np.isfinite(found[:, number - 1]).all(1)))
                        step_size = None if self._settings.step_size else self._plan.step_size
                        used = {'step_size': step_size, 'precondition': self._settings.precondition}
                        raise ValueError(
                            f'Chain {lost} left the finite numbers within step {checkpoint.step + length}. '
                            + advice('not_finite', 'sgmcmc', used)
                        )
                    if not warming:
                        draws[:, kept : kept + number] = found[:, :number]
                        sizes[:, kept : kept + number] = found_sizes[:, :number]
                        kept += number
                    if checkpoint.due(checkpoint.step + length):
                        checkpoint.save(self.members.state(), held())
                    if ended:
                        self.notes = [
                            f'The batches ended after {kept} of {num_cycles * num_samples} draws: these are kept.'
                        ]
                        chunks.stop(length)
                        break
                    chunks.size = self._length(checkpoint, cycle, num_warmup)
            if chunks.whole and not self._beyond:
                checkpoint.finish(self.members.state(), held())
        if not kept:
            raise nothing_yet('before the first draw', checkpoint)
        if kept < draws.shape[1] and not self.notes:
            self.notes = [interruption(f'{kept} of {draws.shape[1]} draws of each chain', checkpoint)]
        return draws[:, :kept], sizes[:, :kept]

    def _length(self, checkpoint: Checkpoint, cycle: int, num_warmup: int) -> int:
        """Steps up to the end of this phase or the next save, in whole draws, that fit the buffer."""
        within, most = checkpoint.step % cycle, _buffer(self._density)
        if within < num_warmup:
            return min(most, num_warmup - within, until_save(checkpoint, most))
        thinning = self._thinning
        save = -(-until_save(checkpoint, most * thinning) // thinning) * thinning
        return min(most * thinning, cycle - within, save)

    def _advance(self, number: int, thinning: int) -> tuple[np.ndarray, np.ndarray]:
        if self._stream is None:
            return self.members.step(self._posterior.data, self._plan, number, thinning)
        chains, dtype = len(self._keys), self._density.dtype
        pieces = [(np.empty((chains, 0, self._density.size), dtype), np.empty((chains, 0), dtype))]
        for _ in range(number):
            for i in range(thinning):
                batch = next(self._stream, None)
                if batch is None:
                    self._beyond = i > 0
                    break
                found = self.members.step(batch, self._plan, 1, 1)
            else:
                pieces.append(tuple(x[:, :1] for x in found))
                continue
            break
        draws, sizes = zip(*pieces, strict=True)
        return np.concatenate(draws, axis=1), np.concatenate(sizes, axis=1)
