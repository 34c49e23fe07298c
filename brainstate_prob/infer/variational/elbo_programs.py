"""The compiled functions of SVI: NumPyro's update, with many steps in a call, and draws from the fitted guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO, autoguide
from numpyro.infer.util import log_density

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.blocks import HorseshoeBlock
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.run.members import plain_types
from brainstate_prob.infer.run.optimization import MOST_STEPS
from brainstate_prob.infer.target.minibatch import Batches, first_batch, next_batch, take
from brainstate_prob.infer.target.numpyro import sites_model
from brainstate_prob.infer.variational.guides import flat_model, make_guide

__all__ = ['Carry', 'Programs', 'Settings', 'Window', 'drawn']

DRAWS = 1000  # of one compiled call


class Settings(NamedTuple):
    """Static settings of the compiled functions, apart from the model's structure."""

    family: Callable
    sites: bool
    optimizer: Any
    num_particles: int
    batch_size: int | None
    windows: bool


class Window(NamedTuple):
    """Running mean and sum of squared deviations of the guide's parameters over the last steps."""

    steps: jax.Array
    mean: jax.Array
    squares: jax.Array


class Carry(NamedTuple):
    """The state of a fit; a pytree."""

    svi: Any
    batches: Batches | None
    window: Window | None


class Programs:
    """The compiled functions of a guide, optimizer and minibatch size, cached with the density.

    All take ``given``: the data, the start and the number of steps.
    """

    def __init__(self, density: Density, settings: Settings, streamed: bool, num_observations: int):
        self.density, self.settings, self.num = density, settings, num_observations
        self.whole = settings.batch_size is None and not streamed  # whether the data are all of them
        self.start = density.jit(Programs._start, settings, lambda: self._start)
        self.advance = density.jit(Programs._advance, settings, lambda: self._advance)
        self.params = density.jit(Programs._params, settings, lambda: self._params)
        self.draw = density.jit(Programs._draw, (settings.family, settings.sites, self.whole), lambda: self._draw)

    def _setup(self, key: jax.Array, data: Data, theta: jax.Array, total: jax.Array) -> tuple[SVI, Any, _Model, Any]:
        """SVI, guide, model and initial state, rebuilt in each trace, since guides cache their setup."""
        settings = self.settings
        model = (_Sites if settings.sites else _Flat)(self.density)
        args, kwargs = model.arguments(data)
        guide = make_guide(settings.family, model.run, model.values(theta, data), args, kwargs)
        optimizer = settings.optimizer
        if optimizer is None:
            optimizer = optax.adam(1e-2) if settings.windows else _decaying_adam(total)
        svi = SVI(model.run, guide, optimizer, Trace_ELBO(settings.num_particles))
        return svi, guide, model, svi.init(key, *args, **kwargs)

    def _start(self, key: jax.Array, *given: Any) -> Carry:
        key, sub = jax.random.split(key)
        svi, _, _, state = self._setup(key, *given)
        batches = None if self.settings.batch_size is None else first_batch(sub, self.num)
        window = None
        if self.settings.windows:
            zeros = jnp.zeros_like(_flat_params(svi, state))
            window = Window(jnp.zeros((), jnp.int32), zeros, zeros)
        return plain_types(Carry(state, batches, window))

    def _advance(self, carry: Carry, length: jax.Array, *given: Any) -> tuple[Carry, jax.Array]:
        svi, _, model, _ = self._setup(jax.random.key(0), *given)

        def step(i: jax.Array, loop: tuple) -> tuple:
            carry, losses = loop
            batch, batches = given[0], carry.batches
            if batches is not None:
                index, batches = next_batch(batches, self.settings.batch_size)  # type: ignore[arg-type]
                batch = take(batch, index)
            args, kwargs = model.arguments(batch)
            state, loss = svi.update(carry.svi, *args, **kwargs)
            window = None if carry.window is None else _welford_update(carry.window, _flat_params(svi, state))
            return Carry(state, batches, window), losses.at[i].set(loss)

        carry, losses = lax.fori_loop(0, length, step, (carry, jnp.zeros(MOST_STEPS)))
        return carry, losses[None]

    def _params(self, carry: Carry, average: jax.Array | None, *given: Any) -> dict:
        """The guide's parameters; or ``average`` in their place."""
        svi = self._setup(jax.random.key(0), *given)[0]
        if average is None:
            return svi.get_params(carry.svi)
        unravel = ravel_pytree(svi.optim.get_params(carry.svi.optim_state))[1]
        return svi.constrain_fn(unravel(average))

    def _draw(self, params: dict, key: jax.Array, *given: Any) -> tuple[jax.Array, dict]:
        _, guide, model, _ = self._setup(jax.random.key(0), *given)
        data, dtype = given[0], self.density.dtype
        if isinstance(guide, autoguide.AutoDelta):
            return model.theta(guide.median(params)).astype(dtype)[None], {}

        def draw(key: jax.Array) -> tuple[jax.Array, dict]:
            theta, log_q = self._drawn(guide, model, params, key, data)
            theta = theta.astype(dtype)
            lp = {'lp': self.density.log_density(theta, data)} if self.whole else {}
            return theta, {'log_q': log_q, **lp}

        # Mapped, since vectorized random numbers take more than a second to compile.
        return lax.map(draw, jax.random.split(key, DRAWS))

    def _drawn(self, guide: Any, model: _Model, params: dict, key: jax.Array, data: Data) -> tuple:
        """A theta, and the guide's log density there (with that of auxiliary variables, where it has some)."""
        if isinstance(guide, autoguide.AutoLaplaceApproximation):
            normal = guide.get_posterior(params)
            theta = normal.sample(key)
            return theta, normal.log_prob(theta)
        log_q, trace = log_density(handlers.seed(guide, key), *model.arguments(data), params)
        theta = model.theta({name: site['value'] for name, site in trace.items()})
        return theta, log_q + model.log_det(theta, data)


class _Model:
    """The posterior as a NumPyro model, with the map between its sites and theta."""

    run: Callable

    def __init__(self, density: Density):
        self.density = density

    def arguments(self, data: Data) -> tuple[tuple, dict]:
        """The arguments of the model and its guide."""
        raise NotImplementedError

    def values(self, theta: jax.Array, data: Data) -> dict[str, jax.Array]:
        """The sites' values at ``theta``."""
        raise NotImplementedError

    def theta(self, sites: dict[str, jax.Array]) -> jax.Array:
        """The flat theta of the sites' values."""
        raise NotImplementedError

    def log_det(self, theta: jax.Array, data: Data) -> Any:
        """The log-determinant from the sites' values to theta."""
        return 0.0


class _Flat(_Model):
    """A model with a single site ``'theta'``."""

    def __init__(self, density: Density):
        super().__init__(density)
        self.run = flat_model(density)

    def arguments(self, data):
        return (data,), {}

    def values(self, theta, data):
        return {'theta': theta.astype(jnp.result_type(float))}

    def theta(self, sites):
        return sites['theta']


class _Sites(_Model):
    """A model with one site for each parameter, as in `to_numpyro`, with the arguments of the user's model."""

    def __init__(self, density: Density):
        super().__init__(density)
        for e in density.entries:
            if not e.t.bijective:
                raise ValueError(
                    f'Param {e.name!r}: many thetas have the same value of {e.t!r}, so a guide over values says '
                    'nothing about theta. Use a guide of theta (sites=False).'
                )
        model = sites_model(density)
        self._now: Any = None  # the data of this call, as a guide takes no States or scale

        def run(*args: Any, targets: Any = None, **kwargs: Any) -> Any:
            return model(self._now._replace(args=args, kwargs=kwargs, targets=targets))

        self.run = run

    def arguments(self, data):
        self._now = data
        return data.args, {**data.kwargs, 'targets': data.targets}

    def values(self, theta, data):
        values = self.density.constrain(theta, data.states)
        for block, block_theta in zip(self.density.blocks, self._by_block(theta), strict=True):
            if isinstance(block, HorseshoeBlock):
                z, log_local = (x.reshape(block.entry.shape) for x in jnp.split(block_theta, 2))
                name = block.entry.name
                del values[name]
                values |= {f'{name}.z': z, f'{name}.local_scale': jnp.exp(log_local)}
        return values

    def theta(self, sites):
        parts = []
        for block in self.density.blocks:
            if isinstance(block, HorseshoeBlock):
                name = block.entry.name
                parts += [sites[f'{name}.z'], jnp.log(sites[f'{name}.local_scale'])]
            else:
                parts += [e.t._inv(sites[e.name]) for e in block.entries]
        return jnp.concatenate([jnp.ravel(part).astype(self.density.dtype) for part in parts])

    def log_det(self, theta, data):
        total = jnp.zeros((), theta.dtype)
        for block, block_theta in zip(self.density.blocks, self._by_block(theta), strict=True):
            if isinstance(block, HorseshoeBlock):
                total = total + jnp.sum(jnp.split(block_theta, 2)[1])
                continue
            for e, own in zip(block.entries, lax.split(block_theta, block.sizes), strict=True):
                own = own.reshape(e.shape)
                total = total + jnp.sum(e.t.log_abs_det_jacobian(own, e.t.forward(own)))
        return total

    def _by_block(self, theta: jax.Array) -> list[jax.Array]:
        return list(lax.split(theta, [block.size for block in self.density.blocks]))


def _decaying_adam(total: jax.Array) -> optax.GradientTransformation:
    """The default optimizer with a decaying rate; ``total`` may be traced, so that its changes compile nothing."""
    return optax.adam(lambda count: 5e-3 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / total, 1.0))))


def _flat_params(svi: SVI, state: Any) -> jax.Array:
    return ravel_pytree(svi.optim.get_params(state.optim_state))[0]


def _welford_update(window: Window, x: jax.Array) -> Window:
    """Welford's update; a new window starts after `MOST_STEPS` steps."""
    fresh = window.steps == MOST_STEPS
    steps = jnp.where(fresh, 0, window.steps) + 1
    mean = jnp.where(fresh, 0.0, window.mean)
    squares = jnp.where(fresh, 0.0, window.squares)
    off = x - mean
    mean = mean + off / steps
    return Window(steps, mean, squares + off * (x - mean))


def drawn(programs: Programs, params: dict, given: tuple, key: jax.Array, num_draws: int) -> tuple[Any, dict]:
    """Draws in blocks of fixed size, so that another number of draws compiles nothing and has the same first ones."""
    blocks = [programs.draw(params, jax.random.fold_in(key, i), *given) for i in range(-(-num_draws // DRAWS))]
    if blocks[0][0].shape[0] == 1:  # a point
        return np.asarray(blocks[0][0])[None], {}
    return jax.tree.map(lambda *x: np.concatenate(x)[None, :num_draws], *blocks)
