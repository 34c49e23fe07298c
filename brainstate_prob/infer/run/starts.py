"""Starting points of several descents or chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import graph, random
from brainstate_prob.core.calls import nearest
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density, find_entries
from brainstate_prob.infer.density.variables import differences, variables_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import refuse
from brainstate_prob.infer.run.inits import chosen_rows, in_coordinates, of_values, started_from
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import checked_start
from brainstate_prob.infer.target.target import Target
from brainstate_prob.nn.module import Module

__all__ = ['draw_from_prior', 'member_keys', 'member_starts', 'start_points', 'starts_named']

INITS = ('model', 'map', 'pathfinder', 'prior')

_TRIES = 10

# (target, keys) -> a theta for each key, by the name of the start. Ways to fit that serve as starts register
# themselves, so that this module does not import them.
_COMPUTED: dict[str, Callable[[Target, jax.Array], jax.Array]] = {}


def starts_named(name: str) -> Callable:
    """A decorator that registers a function for the starts of this name."""

    def enter(function: Callable) -> Callable:
        _COMPUTED[name] = function
        return function

    return enter


def member_keys(density: Density, key: jax.Array, num: int) -> jax.Array:
    """A key for each member, independent of their number."""
    return density.compiled(_folded, in_axes=(None, 0))(key, np.arange(num))


def _folded(density: Density, key: jax.Array, i: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, i)


def member_starts(target: Target, init: Any, keys: jax.Array, *, jacobian: bool = True) -> jax.Array:
    """A theta for each key, where the log density is finite, (num, size).

    Parameters
    ----------
    init
        ``'prior'``: draws from the priors, hyper-parameters first. A parameter without a prior (the plain weights of
        a layer) starts from the model's own entries in a random order, as an initializer could have drawn them; a
        scalar stays. Draws without finite density are drawn again. A function without arguments that builds the model
        anew: what its initializers draw, each time from another seed. Or as for `infer.nuts`: ``'model'``, ``'map'``,
        a `Fit`, an array of theta.

    Raises
    ------
    ValueError
        For an unknown ``init``, a prior that cannot be drawn from, or a start without finite density.
    """
    if builds_model(init) or (isinstance(init, str) and init == 'prior'):
        draw = _built_by(init) if builds_model(init) else _from_prior
        return jnp.stack([_finite(target, draw, key, jacobian) for key in keys])
    thetas = start_points(target, init, keys)[1]
    for theta in np.unique(np.asarray(thetas), axis=0):
        checked_start(target, jnp.asarray(theta), jacobian=jacobian)
    return thetas


def _finite(target: Target, draw: Callable, key: jax.Array, jacobian: bool) -> jax.Array:
    posterior, density = target.posterior, target.density
    run = density.compiled(_is_finite, jacobian=jacobian)
    for i in range(_TRIES):
        drawn = draw(posterior, key if i == 0 else jax.random.fold_in(key, i))
        theta = posterior.replaced(model=drawn).start(density)
        if run(theta, posterior.data):
            return theta
    return checked_start(target, theta, jacobian=jacobian)  # raises with the reason


def _is_finite(density: Density, theta: jax.Array, data: Data, jacobian: bool) -> jax.Array:
    value, grad = jax.value_and_grad(density.log_density)(theta, data, jacobian)
    return jnp.isfinite(value) & jnp.isfinite(grad).all()


def _from_prior(posterior: Posterior, key: jax.Array) -> Module:
    model = draw_from_prior(posterior.model, key)
    shuffle = np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint64)).permutation
    for state in dict.fromkeys(e.state for e in find_entries(model) if e.reg is None):
        state.value = jax.tree.map(
            lambda x: jnp.asarray(shuffle(np.ravel(x)).reshape(np.shape(x))),
            state.value,
            is_leaf=lambda x: not isinstance(x, u.Quantity) and jax.tree_util.all_leaves([x]),
        )
    return model


def builds_model(init: Any) -> bool:
    """Whether ``init`` is a function that builds a new model."""
    return callable(init) and not isinstance(init, Module)


def _built_by(build: Callable[[], Module]) -> Callable:
    def draw(posterior: Posterior, key: jax.Array) -> Module:
        with random.seed_context(key):
            model = build()
        if not isinstance(model, Module):
            raise TypeError(f'init() must build the model anew, but it returned {type(model).__name__}.')
        differing = differences(variables_of(find_entries(model)), variables_of(posterior.entries))
        if differing:
            raise ValueError(f'init() builds another model than that of the posterior: {"; ".join(differing)}.')
        return model

    return draw


def start_points(target: Target, init: Any, keys: jax.Array) -> tuple[str, jax.Array]:
    """The kind of start that ``init`` is, and a theta for each key."""
    posterior, density, num = target.posterior, target.density, len(keys)
    if isinstance(init, Fit):
        started_from(posterior, init, each=True)  # raises for a fit of other parameters
        rows = init.rows[chosen_rows(init, keys)]
        return 'map' if len(init.rows) == 1 else 'draws', in_coordinates(init, rows, target)
    if isinstance(init, Mapping):
        return 'array', jnp.broadcast_to(of_values(target, init), (num, density.size))
    if builds_model(init):
        draw = _built_by(init)
        return 'array', jnp.stack([posterior.replaced(model=draw(posterior, k)).start(density) for k in keys])
    if not isinstance(init, str):
        return 'array', _given(density, init, num)
    if init == 'model':
        return init, jnp.broadcast_to(target.start, (num, density.size))
    if init == 'prior':
        return init, jnp.stack([_prior_start(target, key) for key in keys])
    if init in _COMPUTED:
        return init, _COMPUTED[init](target, keys)
    allowed = (
        f'one of {list(INITS)}, a Fit, values by path (a dict), an array of theta or a function that builds the model'
    )
    raise refuse('init', allowed, init, nearest(init, INITS))


def _given(density: Density, init: Any, num: int) -> jax.Array:
    thetas = jnp.asarray(init, density.dtype)
    if thetas.shape not in ((density.size,), (num, density.size)):
        several = f', or ({num}, {density.size}) for {num} starts' if num > 1 else ''
        raise ValueError(
            f'init must have shape ({density.size},){several}, in theta (posterior.unconstrain gives it), got '
            f'{thetas.shape}.'
        )
    return jnp.broadcast_to(thetas, (num, density.size))


def _prior_start(target: Target, key: jax.Array) -> jax.Array:
    posterior = target.posterior
    return posterior.replaced(model=draw_from_prior(posterior.model, key)).start(target.density)


def draw_from_prior(model: Module, key: jax.Array) -> Module:
    """A copy of the model whose trainable Params are a draw from their priors; those without a prior are unchanged.

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
