"""Where the chains start: around the model's parameters, the mode or a fit, at values or prior draws, or anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.mcmc.kernel import Settings, start_function
from brainstate_prob.infer.run.starts import centres
from brainstate_prob.infer.target.start import checked_start
from brainstate_prob.infer.target.target import Target

__all__ = ['shapes_of_chains', 'started_chains']

_TRIES = 100  # each of a radius of nine tenths

# In theta. Around the model's parameters as wide as a standard normal's bulk, so that R-hat can see chains that do not
# meet; around a mode, which stands for the posterior already, narrow.
_RADIUS = {'model': 1.0, 'map': 0.1, 'pathfinder': 0.0, 'prior': 0.0, 'draws': 0.0, 'array': 0.0}


def started_chains(target: Target, settings: Settings, init: Any, keys: tuple[jax.Array, jax.Array]) -> Any:
    """The chains' states before their first transition, stacked.

    Parameters
    ----------
    keys
        One for the start and one for the run of each chain.

    Raises
    ------
    ValueError
        For an unknown ``init``, an array of another shape, or a start without finite density.
    """
    density, data = target.density, target.data
    kind, thetas = centres(target, init, keys[0])
    start, radii = _start_program(density, settings), np.full(len(keys[0]), _RADIUS[kind])
    for _ in range(_TRIES):
        states, found = start(*keys, thetas, radii, data)
        missed = np.flatnonzero(~np.asarray(found))
        if not missed.size:
            return states
        if not radii[missed].any():
            break
        radii[missed] *= 0.9
    checked_start(target, thetas[missed[0]])  # says why
    raise ValueError(
        f'The log density or its gradient is not finite around the start of {missed.size} of {len(keys[0])} chains, '
        f'with init={kind!r}. {advice("start", "nuts", {"init": kind})}'
    )


def shapes_of_chains(target: Target, settings: Settings, keys: tuple[jax.Array, jax.Array]) -> Any:
    """The shapes of what `started_chains` gives."""
    thetas = jax.ShapeDtypeStruct((len(keys[0]), target.size), target.dtype)
    radii = np.zeros(len(keys[0]))
    return jax.eval_shape(_start_program(target.density, settings), *keys, thetas, radii, target.data)[0]


def _start_program(density: Density, settings: Settings) -> Callable:
    what = (settings.mass_matrix, settings.warmup)
    return density.jit(started_chains, what, lambda: _all_chains(start_function(density, settings)))


def _all_chains(start: Callable) -> Callable:
    # Mapped, not vectorized: it runs once, and compiles in two thirds of the time.
    def run(start_keys: jax.Array, keys: jax.Array, centres: jax.Array, radii: jax.Array, data: Any) -> tuple:
        radii = radii.astype(jnp.result_type(float))
        return lax.map(lambda chain: start(*chain, data), (start_keys, keys, centres, radii))

    return run
