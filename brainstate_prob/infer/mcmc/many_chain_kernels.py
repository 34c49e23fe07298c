"""BlackJAX's many-chain samplers as two functions: a warm-up and a step of all chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import potential_of
from brainstate_prob.infer.run.optional import import_blackjax

__all__ = ['KERNELS', 'Kernel']

# ChEES: binary digits of the Halton sequence that jitters trajectory lengths.
_BITS = 22
_LEARNING_RATE = 0.025
_FIRST_STEP = 0.1
_PARTS = (0.3, 0.3, 0.3)  # of MCLMC's warm-up: step size, variances (plus a third of that), length


class Kernel(NamedTuple):
    """``warm_up(density, num_warmup, *tuned)`` builds ``f(key, thetas, data) -> (states, parameters, report)``.

    ``step(density)`` builds ``f((states, key), data, parameters) -> ((states, key), thetas, stats)``; ``stats`` names
    their types.
    """

    warm_up: Callable[..., Callable]
    step: Callable[[Density], Callable]
    stats: dict[str, Any]


class _WarmUpInfo(NamedTuple):
    """Statistics that are kept of the warm-up."""

    num_steps: jax.Array
    diverging: jax.Array


def _warm_up_info(states: Any, info: Any, adaptation: Any) -> _WarmUpInfo:
    return _WarmUpInfo(jnp.sum(info.num_integration_steps), jnp.sum(info.is_divergent))


def _log_density(density: Density, data: Data) -> Callable:
    potential = potential_of(density, data)
    return lambda theta: -potential(theta)


def _all_chains(density: Density, kernel: Callable, arguments: Callable, stats: Callable) -> Callable:
    """A step of every chain: ``kernel(key, state, log density, *arguments(parameters))``."""

    def step(state: tuple, data: Data, parameters: Any) -> tuple:
        states, key = state
        key, own = jax.random.split(key)
        keys = jax.random.split(own, states.position.shape[0])
        log_density = _log_density(density, data)
        states, info = jax.vmap(lambda key, one: kernel(key, one, log_density, *arguments(parameters)))(keys, states)
        return (states, key), states.position, {'lp': states.logdensity, **stats(info)}

    return step


# ChEES: HMC whose trajectory length is adapted over chains


def _dynamic_hmc() -> Callable:
    from blackjax.mcmc import dynamic_hmc

    def num_steps(i: jax.Array, mean: jax.Array) -> jax.Array:
        return jnp.asarray(jnp.ceil(dynamic_hmc.halton_sequence(i, _BITS) * mean), int)

    return dynamic_hmc.build_kernel(next_random_arg_fn=lambda i: i + 1, integration_steps_fn=num_steps)


def _warm_up_chees(density: Density, num_warmup: int, target: float) -> Callable:
    def run(key: jax.Array, thetas: jax.Array, data: Data) -> tuple:
        warm_up = import_blackjax().chees_adaptation(
            _log_density(density, data),
            thetas.shape[0],
            target_acceptance_rate=target,
            adaptation_info_fn=_warm_up_info,
            mass_matrix_estimation='diagonal',
        )
        optimizer = optax.adam(_LEARNING_RATE)
        (states, tuned), info = warm_up.run(key, thetas, _FIRST_STEP, optimizer, num_warmup, max_sampling_steps=2**20)
        parameters = (tuned['step_size'], tuned['inverse_mass_matrix'], tuned['integration_steps_params'])
        report = {'step_size': tuned['step_size'], 'trajectory_steps': tuned['integration_steps_params'][0]}
        return states, parameters, {**report, 'warmup_gradients': jnp.sum(info.num_steps)}

    return run


def _chees_step(density: Density) -> Callable:
    def stats(info: Any) -> dict[str, jax.Array]:
        return {
            'energy': info.energy,
            'acceptance_rate': info.acceptance_rate,
            'n_steps': info.num_integration_steps,
            'diverging': info.is_divergent,
        }

    return _all_chains(density, _dynamic_hmc(), lambda parameters: parameters, stats)


# MEADS: generalized HMC, one gradient a step, everything adapted over folds of chains


def _warm_up_meads(density: Density, num_warmup: int) -> Callable:
    def run(key: jax.Array, thetas: jax.Array, data: Data) -> tuple:
        warm_up = import_blackjax().meads_adaptation(
            _log_density(density, data), thetas.shape[0], adaptation_info_fn=_warm_up_info
        )
        (states, tuned), _ = warm_up.run(key, thetas, num_warmup)
        parameters = tuple(tuned[name] for name in ('step_size', 'momentum_inverse_scale', 'alpha', 'delta'))
        report = {name: tuned[name] for name in ('step_size', 'alpha', 'delta')}
        return states, parameters, {**report, 'warmup_gradients': jnp.asarray(num_warmup * thetas.shape[0])}

    return run


def _meads_step(density: Density) -> Callable:
    def stats(info: Any) -> dict[str, jax.Array]:
        return {'energy': info.energy, 'n_steps': info.num_integration_steps, 'diverging': info.is_divergent}

    return _all_chains(density, import_blackjax().mcmc.ghmc.build_kernel(), lambda parameters: parameters, stats)


# MCLMC: motion at constant energy, without a test of acceptance


def _warm_up_mclmc(density: Density, num_warmup: int, target: float) -> Callable:
    def run(key: jax.Array, thetas: jax.Array, data: Data) -> tuple:
        blackjax = import_blackjax()
        log_density = _log_density(density, data)
        kernel = blackjax.mcmc.mclmc.build_kernel()

        def one(key: jax.Array, theta: jax.Array) -> tuple:
            start_key, tune_key = jax.random.split(key)
            return blackjax.mclmc_find_L_and_step_size(
                mclmc_kernel=kernel,
                num_steps=num_warmup,
                state=blackjax.mcmc.mclmc.init(theta, log_density, start_key),
                rng_key=tune_key,
                logdensity_fn=log_density,
                frac_tune1=_PARTS[0],
                frac_tune2=_PARTS[1],
                frac_tune3=_PARTS[2],
                desired_energy_var=target,
            )

        states, tuned, _ = jax.vmap(one)(jax.random.split(key, thetas.shape[0]), thetas)
        # The medians serve all chains, so that a chain tuned at an atypical point does no damage.
        length, step_size = jnp.nanmedian(tuned.L), jnp.nanmedian(tuned.step_size)
        parameters = (jnp.nanmedian(tuned.inverse_mass_matrix, axis=0), length, step_size)
        gradients = jnp.asarray(2 * num_warmup * thetas.shape[0])
        return states, parameters, {'step_size': step_size, 'length': length, 'warmup_gradients': gradients}

    return run


def _mclmc_step(density: Density) -> Callable:
    def stats(info: Any) -> dict[str, jax.Array]:
        return {'n_steps': jnp.full_like(info.nonans, 2, int), 'diverging': ~info.nonans}

    return _all_chains(density, import_blackjax().mcmc.mclmc.build_kernel(), lambda parameters: parameters, stats)


KERNELS = {
    'chees': Kernel(
        _warm_up_chees,
        _chees_step,
        {'lp': float, 'energy': float, 'acceptance_rate': float, 'n_steps': int, 'diverging': bool},
    ),
    'meads': Kernel(_warm_up_meads, _meads_step, {'lp': float, 'energy': float, 'n_steps': int, 'diverging': bool}),
    'mclmc': Kernel(_warm_up_mclmc, _mclmc_step, {'lp': float, 'n_steps': int, 'diverging': bool}),
}
