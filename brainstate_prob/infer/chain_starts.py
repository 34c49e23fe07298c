"""Where the chains start: around the model's parameters, the mode or a fit, at values or prior draws, or anywhere."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob import graph
from brainstate_prob.core.calls import nearest
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.advice import advice
from brainstate_prob.infer.density import Density
from brainstate_prob.infer.diagnostics import ConvergenceWarning
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.inits import chosen_rows, in_coordinates, of_values, started_from
from brainstate_prob.infer.kernel import Settings, start_function
from brainstate_prob.infer.map import fit_map
from brainstate_prob.infer.options import refuse
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.progress import as_a_part
from brainstate_prob.infer.start import checked_start
from brainstate_prob.nn.module import Module

__all__ = ['centres', 'draw_from_prior', 'shapes_of_chains', 'started_chains']

INITS = ('model', 'map', 'pathfinder', 'prior')

_TRIES = 100  # each of a radius of nine tenths

# In theta. Around the model's parameters as wide as a standard normal's bulk, so that R-hat can see chains that do not
# meet; around a mode, which stands for the posterior already, narrow.
_RADIUS = {'model': 1.0, 'map': 0.1, 'pathfinder': 0.0, 'prior': 0.0, 'draws': 0.0, 'array': 0.0}


def started_chains(
    posterior: Posterior, density: Density, settings: Settings, init: Any, keys: tuple[jax.Array, jax.Array]
) -> Any:
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
    kind, thetas = centres(posterior, density, init, keys[0])
    start, radii = _start_program(density, settings), np.full(len(keys[0]), _RADIUS[kind])
    for _ in range(_TRIES):
        states, found = start(*keys, thetas, radii, posterior.data)
        missed = np.flatnonzero(~np.asarray(found))
        if not missed.size:
            return states
        if not radii[missed].any():
            break
        radii[missed] *= 0.9
    checked_start(posterior, density, thetas[missed[0]])  # says why
    raise ValueError(
        f'The log density or its gradient is not finite around the start of {missed.size} of {len(keys[0])} chains, '
        f'with init={kind!r}. {advice("start", "nuts", {"init": kind})}'
    )


def shapes_of_chains(
    posterior: Posterior, density: Density, settings: Settings, keys: tuple[jax.Array, jax.Array]
) -> Any:
    """The shapes of what `started_chains` gives."""
    thetas = jax.ShapeDtypeStruct((len(keys[0]), density.size), density.dtype)
    radii = np.zeros(len(keys[0]))
    return jax.eval_shape(_start_program(density, settings), *keys, thetas, radii, posterior.data)[0]


def _start_program(density: Density, settings: Settings) -> Callable:
    what = (settings.mass_matrix, settings.warmup)
    return density.jit('chain_starts', what, lambda: _all_chains(start_function(density, settings)))


def _all_chains(start: Callable) -> Callable:
    # Mapped, not vectorized: it runs once, and compiles in two thirds of the time.
    def run(start_keys: jax.Array, keys: jax.Array, centres: jax.Array, radii: jax.Array, data: Any) -> tuple:
        radii = radii.astype(jnp.result_type(float))
        return lax.map(lambda chain: start(*chain, data), (start_keys, keys, centres, radii))

    return run


def centres(posterior: Posterior, density: Density, init: Any, keys: jax.Array) -> tuple[str, jax.Array]:
    """What kind of start ``init`` is, and a theta for each key."""
    num = len(keys)
    if isinstance(init, Fit):
        started_from(posterior, init, each=True)  # refuses a fit of other parameters
        rows = init.rows[chosen_rows(init, keys)]
        return 'map' if len(init.rows) == 1 else 'draws', in_coordinates(init, rows, posterior, density)
    if isinstance(init, Mapping):
        return 'array', jnp.broadcast_to(of_values(posterior, density, init), (num, density.size))
    if not isinstance(init, str):
        return 'array', _given(density, init, num)
    if init == 'model':
        return init, jnp.broadcast_to(posterior.start(density), (num, density.size))
    if init == 'map':
        with warnings.catch_warnings(), as_a_part():
            warnings.simplefilter('ignore', ConvergenceWarning)  # near the mode is good enough to start
            mode = fit_map(posterior, jacobian=True, progress=False)
        return init, jnp.repeat(in_coordinates(mode, mode.rows, posterior, density), num, axis=0)
    if init == 'pathfinder':
        from brainstate_prob.infer.pathfinder import pathfinder_starts

        return init, pathfinder_starts(posterior, density, keys)
    if init == 'prior':
        return init, jnp.stack([_prior_start(posterior, density, key) for key in keys])
    raise refuse(
        'init', f'one of {list(INITS)}, a Fit, values by path (a dict) or an array of theta', init, nearest(init, INITS)
    )


def _given(density: Density, init: Any, num: int) -> jax.Array:
    thetas = jnp.asarray(init, density.dtype)
    if thetas.shape not in ((density.size,), (num, density.size)):
        raise ValueError(
            f'init must have shape ({density.size},) or (num_chains, size) = ({num}, {density.size}), in theta '
            f'(posterior.unconstrain gives it), got {thetas.shape}.'
        )
    return jnp.broadcast_to(thetas, (num, density.size))


def _prior_start(posterior: Posterior, density: Density, key: jax.Array) -> jax.Array:
    drawn = copy.copy(posterior)
    drawn.model = draw_from_prior(posterior.model, key)
    return drawn.start(density)


def draw_from_prior(model: Module, key: jax.Array) -> Module:
    """A copy of the model whose trainable Params are a draw from their priors; those without a prior stay.

    A Param that is a hyper-parameter of another's prior is drawn first.
    """
    model = graph.clone(model)
    params = [p for _, p in model.named_param_modules() if p.fit and p.reg is not None]
    drawn: set[Any] = set()

    def draw(param: Any) -> None:
        if param.val in drawn:
            return
        drawn.add(param.val)
        above = set(find_states(param.reg).values())
        for other in params:
            if other.val in above:
                draw(other)
        param.init_from_prior(jax.random.fold_in(key, params.index(param)))

    for param in params:
        draw(param)
    return model
