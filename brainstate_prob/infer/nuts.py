"""NUTS: draws from the posterior by NumPyro's No-U-Turn sampler on the flat log density."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from brainstate_prob.infer.chain_starts import started_chains
from brainstate_prob.infer.chains import Runner, choose_method
from brainstate_prob.infer.density import Density
from brainstate_prob.infer.diagnostics import mcmc_problems, warn_of
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.kernel import Settings, advance_function, buffer_length, schedule
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.progress import Chunks
from brainstate_prob.infer.start import to_key

__all__ = ['nuts']

_SECONDS_A_CHUNK = 1.0  # how long the progress bar may stand still


def nuts(
    posterior: Posterior,
    *,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    seed: Any = 0,
    init: Any = 'model',
    dense_mass: bool = False,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    thinning: int = 1,
    chain_method: str | None = None,
    devices: Sequence[Any] | None = None,
    progress: bool = True,
) -> Fit:
    """Sample the posterior with NUTS.

    Each chain takes ``num_warmup`` steps to adapt its step size and mass matrix (Stan's schedule) and then
    ``num_samples`` steps. A second call for a model of the same structure, whatever its data (of the same shape), seed
    and numbers of steps, compiles nothing.

    Parameters
    ----------
    num_warmup, num_samples, num_chains
        Steps of the warm-up and after it, of each chain.
    seed
        An int or a key. The same seed gives the same draws: bit for bit in threads or one after another, up to rounding
        (which grows along a chain) if vectorized or over devices. They do not depend on how many chains there are.
    init
        ``'model'``: the model's present theta plus Uniform(-1, 1), redrawn nearer where the density is not finite;
        ``'map'``: the mode of theta's density, plus Uniform(-0.1, 0.1); ``'prior'``: draws from the priors; a `Fit`:
        draws of it; an array of theta, shape (size,) or (num_chains, size).
    dense_mass
        Adapt a full mass matrix, for correlated parameters; else a diagonal one.
    target_accept
        The acceptance rate that the step size is adapted to. Higher: smaller steps, fewer divergences.
    max_tree_depth
        A trajectory has at most ``2 ** max_tree_depth - 1`` steps.
    thinning
        Keep every so-manieth of the ``num_samples`` draws. Of the steps between, ``n_steps`` is the sum and
        ``diverging`` tells whether any did.
    chain_method
        ``'parallel'`` (on a CPU one thread a chain; else spread over the devices), ``'vectorized'`` (one program),
        ``'sequential'``. None: parallel on a CPU with several cores, vectorized on an accelerator.
    devices
        Spread the chains over these devices.
    progress
        Show progress bars.

    Returns
    -------
    Fit
        With ``stats`` lp, energy, acceptance_rate, step_size, n_steps, tree_depth and diverging. Problems of the run
        are issued as `ConvergenceWarning` and kept in ``fit.info['warnings']``.

    Raises
    ------
    ValueError
        For parameters that cannot be sampled, starts without finite density, numbers out of range.

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
    >>> fit = infer.nuts(posterior, num_warmup=300, num_samples=500, progress=False)
    >>> fit.draws['mu'].shape, bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.1)
    ((4, 500), True)
    """
    _check_numbers(
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        max_tree_depth=max_tree_depth,
        thinning=thinning,
    )
    if not 0 < target_accept < 1:
        raise ValueError(f'target_accept is an acceptance rate between 0 and 1, got {target_accept}.')
    if not isinstance(dense_mass, bool):
        raise TypeError(f'dense_mass must be True or False, got {dense_mass!r}.')
    if thinning > num_samples:
        raise ValueError(f'thinning={thinning} keeps none of num_samples={num_samples} draws. Lower it.')
    method = choose_method(chain_method, devices, num_chains)
    density = posterior.sampling_density
    settings = Settings(dense_mass, int(max_tree_depth))
    began = time.perf_counter()
    runner = _prepared(posterior, density, settings, method, devices, num_chains, init, to_key(seed))
    prepared = time.perf_counter()
    run = _Run(runner, posterior.data, buffer_length(density), float(target_accept), progress)
    run.go('Warm-up', schedule(num_warmup), num_warmup, 1)
    draws, stats = run.go('Sampling', None, num_samples // thinning, thinning)
    stats['tree_depth'] = np.log2(stats.pop('last_n_steps')).astype(int) + 1
    problems = mcmc_problems(density, draws, stats, max_tree_depth=max_tree_depth, target_accept=target_accept)
    info = {
        'num_warmup': num_warmup,
        'num_samples': num_samples,
        'thinning': thinning,
        'chain_method': method,
        'chains_ran': runner.description,
        'dense_mass': dense_mass,
        'target_accept': target_accept,
        'divergences': int(stats['diverging'].sum()),
        'warnings': problems,
        'preparation_seconds': prepared - began,
        'seconds': time.perf_counter() - began,
    }
    fit = Fit(posterior, density, draws, method='nuts', stats=stats, info=info)
    warn_of(problems, stacklevel=3)
    return fit


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f'{name} must be an int, got {value!r}.')
        if value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}.')


def _prepared(
    posterior: Posterior,
    density: Density,
    settings: Settings,
    method: str,
    devices: Sequence[Any] | None,
    num_chains: int,
    init: Any,
    key: jax.Array,
) -> Runner:
    """The chains at their starts, and the program compiled."""
    keys = density.jit('chain_keys', None, lambda: _chain_keys)(key, np.arange(num_chains))
    states = started_chains(posterior, density, settings, init, keys)
    runner = Runner(density.jit, ('nuts', settings), advance_function(density, settings), method, devices, num_chains)
    runner.prepare(states, posterior.data, np.zeros(buffer_length(density), np.int32), 0, 1, 0.5)
    return runner


def _chain_keys(key: jax.Array, chains: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A key for the start and one for the run of each chain; chain i's do not depend on the number of chains."""
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(chains)
    return keys[:, 0], keys[:, 1]


class _Run:
    """The host's loop: chunks of transitions of all chains, as long as a progress bar may stand still."""

    def __init__(self, runner: Runner, data: Any, size: int, target_accept: float, progress: bool):
        self._runner, self._data, self._buffer = runner, data, size
        self._target, self._progress = target_accept, progress
        self._length = min(10, size)

    def go(self, description: str, codes: np.ndarray | None, total: int, thinning: int) -> tuple[np.ndarray, dict]:
        """Run ``total`` kept draws; those of the warm-up (``codes``) are not collected."""
        pieces: list[tuple] = []
        done = divergences = 0
        chunks = Chunks(total, self._length, description, self._progress)
        for length in chunks:
            padded = np.zeros(self._buffer, np.int32)
            if codes is not None:
                padded[:length] = codes[done : done + length]
            began = time.perf_counter()
            draws, stats = self._runner.step(self._data, padded, length, thinning, self._target)
            self._adjust(length, time.perf_counter() - began)
            chunks.size = self._length
            stats = {name: values[:, :length] for name, values in stats.items()}
            if codes is None:
                pieces.append((draws[:, :length].copy(), stats))
            done += length
            divergences += int(stats['diverging'].sum())
            chunks.note(divergences=str(divergences), step_size=f'{np.median(stats["step_size"][:, -1]):.2g}')
        if not pieces:
            return np.zeros(0), {}
        stats = {name: np.concatenate([s[name] for _, s in pieces], axis=1) for name in pieces[0][1]}
        return np.concatenate([d for d, _ in pieces], axis=1), stats

    def _adjust(self, length: int, seconds: float) -> None:
        wanted = length * _SECONDS_A_CHUNK / max(seconds, 1e-6)
        self._length = int(np.clip(wanted, 1, min(10 * length, self._buffer)))
