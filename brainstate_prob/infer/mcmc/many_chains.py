"""Samplers for many chains in one vectorized program, as an accelerator likes them: ChEES, MEADS and MCLMC."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import along_chains, devices_of, is_sharded, on_host
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noncentered import described, is_auto
from brainstate_prob.infer.diagnostics.mcmc import mcmc_problems
from brainstate_prob.infer.diagnostics.prior_conflict import warned
from brainstate_prob.infer.mcmc.chain_starts import started_chains
from brainstate_prob.infer.mcmc.kernel import Settings
from brainstate_prob.infer.mcmc.many_chain_kernels import ALGORITHMS, Algorithm
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.chains import keys_of_chains
from brainstate_prob.infer.run.checkpoint import Checkpoint
from brainstate_prob.infer.run.driver import Driver, Phase
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.members import plain_types
from brainstate_prob.infer.run.optional import import_blackjax
from brainstate_prob.infer.run.stretch import chunk_length, stretch_function
from brainstate_prob.infer.target.fingerprint import fingerprint_of
from brainstate_prob.infer.target.options import check_options, check_thinning
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key

__all__ = ['chees', 'mclmc', 'meads']

_FOLDS = 4  # of MEADS


@named
def chees(
    posterior: Posterior,
    *,
    num_warmup: int = 500,
    num_samples: int = 500,
    num_chains: int = 64,
    init: Any = 'model',
    noncentered: Any = 'auto',
    target_accept: float = 0.651,
    thinning: int = 1,
    seed: Any = 0,
    devices: Any = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample with ChEES-HMC (Hoffman, Radul & Sountsov 2021): HMC whose trajectories are tuned over many chains.

    All chains take equally many gradients, so on an accelerator hundreds cost hardly more than one; NUTS' chains would
    wait for the longest tree. A second call for a model of the same structure with other data of the same shape,
    another seed or more samples compiles nothing; another ``num_warmup`` or ``num_chains`` does.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        Steps of the warm-up and after it, of each of the chains, at least two, better dozens.
    init, noncentered
        As for `nuts`.
    target_accept
        The acceptance rate (a harmonic mean over chains) that the step size is adapted to.
    thinning
        Keep every ``thinning``-th draw, ``num_samples // thinning`` of each chain.
    seed
        An int or a key.
    devices
        Devices to spread the chains over, their number, or a Mesh; they divide the number of chains. Default: one.
    checkpoint, checkpoint_every
        As for `nuts`, but from the end of the warm-up on, which is one program: what is killed in it begins anew.
    progress
        Show progress bars.

    Returns
    -------
    Fit
        With ``stats`` lp, energy, acceptance_rate, n_steps and diverging; problems of the run are issued as
        `ConvergenceWarning` and kept in ``info['warnings']``.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, starts without finite density, bad numbers; for the checkpoint of another
        run.
    ImportError
        Without BlackJAX: ``pip install 'brainstate-prob[samplers]'``.

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
    >>> fit = infer.chees(posterior, num_warmup=200, num_samples=100, num_chains=16, progress=False)
    >>> fit.draws['mu'].shape, bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.15)
    ((16, 100), True)
    """
    check_options(chees, locals())
    check_thinning(thinning, num_samples)
    counts = {'num_warmup': num_warmup, 'num_samples': num_samples, 'num_chains': num_chains, 'thinning': thinning}
    tuned = {'target_accept': target_accept}
    return _sample(
        posterior, 'chees', counts, tuned, seed, init, noncentered, devices, checkpoint, checkpoint_every, progress
    )


@named
def meads(
    posterior: Posterior,
    *,
    num_warmup: int = 2000,
    num_samples: int = 2000,
    num_chains: int = 64,
    init: Any = 'model',
    noncentered: Any = 'auto',
    thinning: int = 4,
    seed: Any = 0,
    devices: Any = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample with MEADS (Hoffman & Sountsov 2022): generalized HMC, one gradient a step, tuned over folds of chains.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        As for `chees`; ``num_chains`` is a multiple of 4. A step is one gradient, so it takes more of them.
    seed, init, noncentered, thinning, devices, checkpoint, checkpoint_every, progress
        As for `chees`.

    Returns
    -------
    Fit
        With ``stats`` lp, energy, n_steps and diverging.

    Raises
    ------
    ValueError, ImportError
        As `chees`.
    """
    check_options(meads, locals())
    check_thinning(thinning, num_samples)
    if num_chains % _FOLDS or num_chains < 2 * _FOLDS:
        raise ValueError(
            f'num_chains of MEADS, which tunes each of {_FOLDS} folds of chains by the others, must be a multiple of '
            f'{_FOLDS} and at least {2 * _FOLDS}, got {num_chains}.'
        )
    counts = {'num_warmup': num_warmup, 'num_samples': num_samples, 'num_chains': num_chains, 'thinning': thinning}
    return _sample(
        posterior, 'meads', counts, {}, seed, init, noncentered, devices, checkpoint, checkpoint_every, progress
    )


@named
def mclmc(
    posterior: Posterior,
    *,
    num_warmup: int = 2000,
    num_samples: int = 2000,
    num_chains: int = 16,
    init: Any = 'model',
    noncentered: Any = 'auto',
    energy_variance: float = 5e-4,
    thinning: int = 4,
    seed: Any = 0,
    devices: Any = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample with microcanonical Langevin Monte Carlo (Robnik et al. 2023), for many parameters.

    No step is ever rejected, so the draws have a bias that falls with ``energy_variance``; compare with `nuts` where it
    matters. Step size, trajectory length and variances are tuned in each chain, and their medians serve all chains.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        As for `chees`; at least 100 of the first. A step is two gradients.
    energy_variance
        The variance of the energy error, a parameter, that the step size is tuned to.
    seed, init, noncentered, thinning, devices, checkpoint, checkpoint_every, progress
        As for `chees`.

    Returns
    -------
    Fit
        With ``stats`` lp, n_steps (gradients) and diverging (a step that ended nowhere and was undone).

    Raises
    ------
    ValueError
        As `chees`; for a single parameter, since it moves on a sphere of directions.
    ImportError
        Without BlackJAX.
    """
    check_options(mclmc, locals())
    check_thinning(thinning, num_samples)
    if num_warmup < 100:
        raise ValueError(f'num_warmup of MCLMC, which estimates autocorrelations, must be at least 100: {num_warmup}.')
    if posterior.sampling_target(False).size < 2:
        raise ValueError(
            'MCLMC moves in a direction on the sphere, which takes at least two numbers; this posterior has one. Use '
            'infer.nuts.'
        )
    counts = {'num_warmup': num_warmup, 'num_samples': num_samples, 'num_chains': num_chains, 'thinning': thinning}
    tuned = {'energy_variance': float(energy_variance)}
    return _sample(
        posterior, 'mclmc', counts, tuned, seed, init, noncentered, devices, checkpoint, checkpoint_every, progress
    )


def _warm_up_function(algorithm: Algorithm, density: Density, num_warmup: int, target: float) -> Callable:
    run = algorithm.warm_up(density, num_warmup, target)

    def warm_up(keys: jax.Array, thetas: jax.Array, data: Data) -> tuple:
        states, parameters, told = run(keys[0], thetas, data)
        return plain_types(((states, keys[1]), parameters, told))

    return warm_up


class _Chains:
    """All chains and what they were tuned to, as `collect` saves them; before their warm-up some of the same shapes."""

    def __init__(self, shapes: Callable[[], Any], spread: Callable[[Any], Any]):
        self._shapes, self._spread = shapes, spread
        self.held: Any = None

    def state(self) -> Any:
        blank = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._shapes())
        return blank() if self.held is None else self.held

    def take(self, held: Any) -> None:
        self.held = self._spread(held)  # the same layout after a checkpoint as before it


def _sample(
    posterior: Posterior,
    method: str,
    counts: dict[str, int],
    tuned: dict[str, float],
    seed: Any,
    init: Any,
    noncentered: Any,
    devices: Any,
    checkpoint: Any,
    checkpoint_every: int | None,
    progress: bool,
) -> Fit:
    num_warmup, num_chains, thinning = counts['num_warmup'], counts['num_chains'], counts['thinning']
    if num_warmup < 1 or num_chains < 2:
        raise ValueError(
            f'{method} adapts over chains in its warm-up: num_warmup must be at least 1 and num_chains at least 2, got '
            f'num_warmup={num_warmup}, num_chains={num_chains}.'
        )
    devices = devices_of(devices)
    if devices is not None and is_sharded(posterior.data):
        raise ValueError(
            'The observations are spread over devices (posterior.shard), which compute all chains together: leave '
            'devices= out, or spread the chains, of the posterior as it was before .shard().'
        )
    blackjax = import_blackjax()
    algorithm, aim = ALGORITHMS[method], next(iter(tuned.values()), 0.0)
    posterior = started_from(posterior, init)
    target = posterior.sampling_target(noncentered)
    density, data = target.density, target.data
    began = time.perf_counter()
    key = to_key(seed)
    saving = Checkpoint(
        checkpoint,
        checkpoint_every,
        lambda: fingerprint_of(
            target,
            method,
            blackjax=blackjax.__version__,
            **{name: number for name, number in counts.items() if name != 'num_samples'},
            **tuned,
            init=init,
            devices=1 if devices is None else len(devices),
            noncentered=str(list(density.noncentered)),
            seed=key,
        ),
    )
    keys = keys_of_chains(density, key, num_chains)
    settings = (method, num_warmup, aim)
    warm_up = density.jit(_warm_up_function, settings, lambda: _warm_up_function(algorithm, density, num_warmup, aim))
    stretch = stretch_function(density, algorithm.step(density), algorithm.stats, (num_chains,))
    advance = density.jit(_sample, (method, num_chains), lambda: stretch)
    shape = jax.ShapeDtypeStruct((num_chains, density.size), jnp.result_type(float))
    spread = (lambda tree: along_chains(tree, num_chains, devices)) if devices else lambda tree: tree
    chains = _Chains(lambda: jax.eval_shape(warm_up, keys[1], shape, data), spread)

    def begin(done: int, length: int) -> tuple:
        thetas = spread(started_chains(target, Settings(), init, keys).theta)
        chains.take(warm_up(keys[1], thetas, data))
        return np.zeros((num_chains, 0)), {}

    def draw(done: int, length: int) -> tuple:
        state, parameters, told = chains.held
        state, draws, stats = advance(state, data, length, thinning, parameters)
        chains.take((state, parameters, told))
        return jax.tree.map(lambda x: np.swapaxes(x, 0, 1), on_host((draws, stats)))

    with Driver(
        chains, counts['num_samples'] // thinning, chunk_length(density, num_chains), saving, progress
    ) as driver:
        driver.go(Phase('warm-up', 'Warm-up', num_warmup, begin, at_once=True))
        driver.go(Phase.of_draws(counts['num_samples'] // thinning, draw))
    draws, stats, notes = driver.result()
    told = chains.held[2]
    info = {
        **counts,
        **tuned,
        **{name: float(x) for name, x in told.items()},
        'chain_method': 'vectorized',
        'chains_ran': f'vectorized on {len(devices)} devices' if devices else 'vectorized',
        'noncentered': described(density),
        'form_by_data': is_auto(noncentered),
        'seconds': time.perf_counter() - began,
    }
    info['warnings'] = notes + mcmc_problems(density, draws, stats, method, info, data)
    return warned(Fit(target, draws, method=method, stats=stats, info=info))
