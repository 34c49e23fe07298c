"""Stochastic-gradient MCMC: draws from the posterior by noisy gradient steps over minibatches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.descent.step_size import sgmcmc_step_size
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import choice
from brainstate_prob.infer.run.algorithm import Algorithm, no_adaptation
from brainstate_prob.infer.run.inference_loop import chunk_length
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.members import checked_devices, plain_types
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.run.sampling import Run, sample
from brainstate_prob.infer.run.starts import member_keys, member_starts
from brainstate_prob.infer.target.minibatch import Batches, Batching, first_batch, loop_in_batches, take
from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['sgmcmc']

METHODS = ('sgld', 'sghmc', 'cyclical_sgld', 'cyclical_sghmc')
_DECAY, _FLOOR = 0.99, 1e-5  # of the preconditioner's mean square, as Li et al. (2016)


class _State(NamedTuple):
    """The state of a chain; a pytree."""

    theta: jax.Array
    velocity: jax.Array
    square: jax.Array  # running mean of the squared gradient per observation
    batches: Batches | None
    key: jax.Array
    step: jax.Array


class _Plan(NamedTuple):
    """The schedule of a run: arguments of the compiled steps."""

    step_size: Any
    friction: Any
    cycle: Any  # steps of a cycle
    exploring: Any  # of these, the steps of optimization without noise
    cyclical: Any
    adapting: Any  # steps that update the preconditioner; later it is fixed
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
        learned in the warm-up and then fixed, so that no correction for its change is needed.
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
    options = RunOptions.of(sgmcmc, locals(), method=choice(*METHODS, 'cyclical'))
    method = 'cyclical_sghmc' if method == 'cyclical' else method
    if precondition and num_warmup == 0:
        raise ValueError('precondition=True is learned in the warm-up; give num_warmup of at least 1.')
    cyclical, momentum = method.startswith('cyclical'), method.endswith('hmc')
    if not cyclical:
        num_cycles = 1
    elif num_samples % (num_cycles * thinning) or num_warmup % num_cycles:
        thinned = f' * thinning={thinning}' if thinning > 1 else ''
        raise ValueError(
            f'num_samples={num_samples} must be a multiple of num_cycles={num_cycles}{thinned}, and '
            f'num_warmup={num_warmup} one of num_cycles, since each cycle has its share of them.'
        )
    chain_method, devices = checked_devices(devices, chain_method, num_chains, posterior.data)
    options = dataclasses.replace(options, noncentered='auto', chain_method=chain_method, devices=devices)
    posterior = started_from(posterior, init)
    batching = Batching(posterior, batch_size, batches, num_observations)
    stream, num = batching.stream, batching.num_observations
    target = posterior.sampling_target('auto', None if stream is None else stream.stand_in())
    density = target.density
    keys = member_keys(density, options.key, num_chains)
    thetas = member_starts(target, init, keys)
    batching.check(density, thetas[0])
    if step_size is None:
        size = batch_size if stream is None else stream.mean_size
        step_size = sgmcmc_step_size(
            density,
            thetas[0],
            batching.example,
            batch_fraction=1.0 if size is None else size / num,
            friction=friction if momentum else 1.0,
            scale_by=num if precondition else None,
        )
    step_schedule, number = (step_size, 0.0) if callable(step_size) else (None, float(step_size))
    exploring, kept = num_warmup // num_cycles, num_samples // num_cycles // thinning
    cycle = exploring + kept * thinning
    numbers: dict[str, Any] = {} if step_schedule else {'step_size': number}
    numbers |= {'friction': float(friction)} if momentum else {}
    numbers |= {'num_cycles': num_cycles, 'steps_of_a_cycle': cycle} if cyclical else {}
    plan = _Plan(
        number,
        float(friction),
        cycle if cyclical else 1,
        exploring if cyclical else 0,
        cyclical,
        exploring,
        float(num),
    )

    def phases(run: Run) -> None:
        for i in range(1, num_cycles + 1):
            run.warm_up(no_adaptation(i * exploring))
            run.draw(i * kept)

    def report(stats: dict[str, np.ndarray]) -> dict[str, Any]:
        named = {'step_size': getattr(step_schedule, '__name__', 'schedule')} if step_schedule else {}
        counts = {'num_samples': stats['step_size'].shape[1] * thinning}
        return counts | named | batching.info()

    algorithm = Algorithm(
        name=method,
        init=lambda target, options: _starts(density, thetas, keys, batch_size, posterior.num_observations),
        step=lambda density: _step_function(density, momentum, step_schedule, precondition),
        stats={'step_size': float},
        settings={'step_size': step_schedule, 'batch_size': batch_size, 'precondition': precondition},
        numbers=numbers if stream is None else numbers | {'num_observations': num},
        arguments=(plan,),
        phases=phases,
        report=report,
        loop=functools.partial(_loop_over_batches, batch_size),
    )
    return sample(target, algorithm, options, stream)


def _starts(density: Density, thetas: jax.Array, keys: jax.Array, batch_size: int | None, num_observations: int) -> Any:
    def start(theta: jax.Array, key: jax.Array) -> _State:
        order, noise = jax.random.split(key)
        zeros = jnp.zeros_like(theta)
        batches = None if batch_size is None else first_batch(order, num_observations)
        # The mean square starts at one, since a zero first gradient at the mode would make a huge step.
        return plain_types(_State(theta, zeros, zeros + 1, batches, noise, jnp.zeros((), jnp.int32)))

    return density.jit(_starts, (batch_size, num_observations), lambda: jax.vmap(start))(thetas, keys)


def _step_function(density: Density, momentum: bool, schedule: Callable | None, precondition: bool) -> Callable:
    def size_of_step(step: jax.Array, plan: _Plan) -> jax.Array:
        eps = plan.step_size if schedule is None else schedule(step)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * (step % plan.cycle) / plan.cycle))
        return jnp.asarray(eps * jnp.where(plan.cyclical, cosine, 1.0), density.dtype)

    def run(state: _State, data: Data, action: Any, plan: _Plan) -> tuple:
        g = jax.grad(density.log_density)(state.theta, data)
        eps, square = size_of_step(state.step, plan), state.square
        scale: Any = 1.0
        if precondition:
            share = jnp.square(g / plan.num_observations)
            mean = _DECAY * square + (1 - _DECAY) * share
            square = jnp.where(state.step < plan.adapting, mean, square)
            scale = 1.0 / (_FLOOR + jnp.sqrt(square))
        xi = jax.random.normal(jax.random.fold_in(state.key, state.step), g.shape, g.dtype)
        xi = jnp.where(state.step % plan.cycle < plan.exploring, 0.0, xi)
        if momentum:
            noise = jnp.sqrt(2 * plan.friction * eps * scale) * xi
            velocity = (1 - plan.friction) * state.velocity + eps * scale * g + noise
        else:
            velocity = eps * scale * g + jnp.sqrt(2 * eps * scale) * xi
        velocity = velocity.astype(density.dtype)
        theta = state.theta + velocity
        new = _State(theta, velocity, square, state.batches, state.key, state.step + 1)
        return new, theta, {'step_size': eps}

    return run


def _loop_over_batches(
    batch_size: int | None, density: Density, step: Callable, stats: Mapping[str, Any], chains: tuple[int, ...]
) -> Callable:
    """`inference_loop` with a new minibatch at each step."""
    size = chunk_length(density)

    def advance(state: _State, data: Data, actions: Any, length: Any, thinning: Any, *args: Any) -> tuple:
        def body(index: Any, state: _State, i: jax.Array, draws: jax.Array, kept: dict[str, jax.Array]) -> tuple:
            state, theta, now = step(state, data if index is None else take(data, index), 0, *args)
            place = i // thinning  # the last write to a position wins
            return state, i + 1, draws.at[place].set(theta), {n: x.at[place].set(now[n]) for n, x in kept.items()}

        rest = (
            jnp.zeros((), jnp.int32),
            jnp.zeros((size, density.size), density.dtype),
            {name: jnp.zeros(size, kind) for name, kind in stats.items()},
        )
        state, _, draws, kept = loop_in_batches(lambda _, i, *__: i < length * thinning, body, state, rest, batch_size)
        return state, draws, kept

    return advance
