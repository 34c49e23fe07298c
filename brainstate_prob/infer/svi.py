"""Stochastic variational inference: the best guide of a family, by NumPyro's SVI on the flat log density."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpyro.infer import SVI, Trace_ELBO, autoguide

from brainstate_prob.infer.chain_starts import centres
from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.guides import check_guide, flat_model, guide_draw, make_guide
from brainstate_prob.infer.minibatch import check_batch_size, first_batch, next_batch, take
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.progress import Chunks
from brainstate_prob.infer.start import checked_start, to_key

__all__ = ['fit_svi']

_CHUNK = 200
_DRAWS = 1000


def fit_svi(
    posterior: Posterior,
    *,
    guide: Any = 'normal',
    num_steps: int = 5000,
    optimizer: optax.GradientTransformation | None = None,
    num_particles: int = 1,
    batch_size: int | None = None,
    num_draws: int = 1000,
    init: Any = 'model',
    init_scale: float | None = None,
    seed: Any = 0,
    progress: bool = True,
) -> Fit:
    """Fit a guide to the posterior by maximizing the evidence lower bound (ELBO).

    The guide is a distribution of theta, the unconstrained parameters. It begins around the model's present parameters
    with standard deviation 0.1. Where the posterior is much narrower than that, or the likelihood at the start is far
    from its maximum, it needs many steps: begin at the mode and narrower (``init='map', init_scale=0.001``).

    Parameters
    ----------
    guide
        ``'normal'`` or ``'diagonal'`` (independent normals), ``'multivariate'``, ``'low_rank'``, ``'laplace'`` (mode
        and curvature there), ``'delta'`` (the mode of theta's density), ``'iaf'`` and ``'bnaf'`` (normalizing
        flows), ``'dais'`` (annealed importance sampling); a NumPyro autoguide class; or a function of the NumPyro model
        ``model(data)``, whose one site is ``'theta'``, that returns an autoguide or a guide function.
    num_steps
        Steps of the optimizer. They run fused, many to a compiled call.
    optimizer
        An optax optimizer; default: Adam with a learning rate that falls from 0.01 to 0 along a half cosine. One that
        stays constant leaves the guide's parameters with its noise.
    num_particles
        Draws from the guide a step.
    batch_size
        See this many observations a step, in a new random order each pass; their log-likelihood counts N/B times.
    num_draws
        Draws from the fitted guide (one for ``'delta'``).
    init
        ``'model'``: the model's present theta; ``'map'``: the mode of theta's density; ``'prior'``: a draw from the
        priors; a `Fit`: a draw of it; or an array of theta.
    init_scale
        The standard deviation of theta that a guide by name begins with; default 0.1.
    seed
        An int or a key.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        One chain of independent draws. ``fit.history['elbo']`` has the estimate of each step, ``fit.info['elbo']`` the
        mean of the last ones, ``fit.guide_params`` the guide's parameters; ``fit.stats`` the log density ``lp`` of
        theta (for full data) and that of the guide, ``log_q``, of each draw.

    Raises
    ------
    ValueError
        For parameters that guides cannot move, an unknown guide, a start or an ELBO that is not finite.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist, optax
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> fit = infer.fit_svi(posterior, optimizer=optax.adam(0.01), num_steps=2000, progress=False)
    >>> bool(abs(fit.draws['mu'].mean() - 4 / 3) < 0.1)
    True
    """
    for name, value in (('num_steps', num_steps), ('num_particles', num_particles), ('num_draws', num_draws)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f'{name} must be an int from 1 on, got {value!r}.')
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f'optimizer must be an optax optimizer such as optax.adam(5e-3), got {optimizer!r}.')
    density = posterior.sampling_density
    check_batch_size(posterior.data, batch_size, posterior.num_observations)
    family = check_guide(guide, init_scale, density.size, batch_size)
    began = time.perf_counter()
    start_key, key, draw_key = jax.random.split(to_key(seed), 3)
    theta = checked_start(posterior, density, centres(posterior, density, init, start_key[None])[1][0])
    given = posterior.data, theta, float(num_steps)
    programs = _Programs(density, family, optimizer, int(num_particles), batch_size, posterior.num_observations)
    carry, losses = _optimize(programs, given, key, num_steps, progress)
    params = programs.params(carry, *given)
    thetas, stats = _draws(programs, params, given, draw_key, num_draws)
    elbo = -losses
    info = {
        'guide': guide if isinstance(guide, str) else getattr(guide, '__name__', repr(guide)),
        'num_steps': num_steps,
        'num_particles': num_particles,
        'batch_size': batch_size,
        'elbo': float(np.mean(elbo[-min(100, num_steps) :])),
        'seconds': time.perf_counter() - began,
    }
    fit = Fit(posterior, density, thetas, method='svi', stats=stats, history={'elbo': elbo}, info=info)
    fit.guide_params = jax.tree.map(np.asarray, params)
    return fit


def _falling(total: jax.Array) -> optax.GradientTransformation:
    """The default optimizer; ``total`` may be traced, so that another number of steps compiles nothing."""
    return optax.adam(lambda count: 5e-3 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / total, 1.0))))


class _Programs:
    """The compiled functions of one guide, optimizer and minibatch size, kept with the density.

    All take ``given``: the data, the start and the number of steps.
    """

    def __init__(
        self, density: Density, family: Callable, optimizer: Any, num_particles: int, batch_size: int | None, num: int
    ):
        self.density, self.family, self.optimizer = density, family, optimizer
        self.num_particles, self.batch_size, self.num = num_particles, batch_size, num
        key = (family, optimizer, num_particles, batch_size)
        self.start = density.jit('svi_start', key, lambda: self._start)
        self.advance = density.jit('svi', key, lambda: self._advance)
        self.params = density.jit('svi_params', key, lambda: self._params)
        self.draw = density.jit('svi_draws', (family, batch_size is None), lambda: self._draw)

    def _svi(self, key: jax.Array, data: Data, theta: jax.Array, total: jax.Array) -> tuple[SVI, Any, Any]:
        """The SVI object, guide and first state, made anew in each trace, as guides keep what they were set up with."""
        model = flat_model(self.density)
        guide = make_guide(self.family, model, theta, data)
        optimizer = _falling(total) if self.optimizer is None else self.optimizer
        svi = SVI(model, guide, optimizer, Trace_ELBO(self.num_particles))
        return svi, guide, svi.init(key, data)

    def _start(self, key: jax.Array, *given: Any) -> tuple:
        key, sub = jax.random.split(key)
        state = self._svi(key, *given)[2]
        batches = None if self.batch_size is None else first_batch(sub, self.num)
        # Without weak types: else the state that comes back would be a new signature, compiled once more.
        return jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), (state, batches))

    def _advance(self, carry: tuple, length: jax.Array, *given: Any) -> tuple:
        svi = self._svi(jax.random.key(0), *given)[0]

        def step(i: jax.Array, loop: tuple) -> tuple:
            (state, batches), losses = loop
            batch = given[0]
            if self.batch_size is not None:
                index, batches = next_batch(batches, self.batch_size)
                batch = take(batch, index)
            state, loss = svi.update(state, batch)
            return (state, batches), losses.at[i].set(loss)

        return lax.fori_loop(0, length, step, (carry, jnp.zeros(_CHUNK)))

    def _params(self, carry: tuple, *given: Any) -> dict:
        return self._svi(jax.random.key(0), *given)[0].get_params(carry[0])

    def _draw(self, params: dict, key: jax.Array, *given: Any) -> tuple[jax.Array, dict]:
        guide, data = self._svi(jax.random.key(0), *given)[1], given[0]
        if isinstance(guide, autoguide.AutoDelta):
            return guide.median(params)['theta'][None].astype(self.density.dtype), {}

        def draw(key: jax.Array) -> tuple[jax.Array, dict]:
            theta, log_q = guide_draw(guide, params, key, data)
            theta = theta.astype(self.density.dtype)
            whole = {} if self.batch_size is not None else {'lp': self.density.log_density(theta, data)}
            return theta, {'log_q': log_q, **whole}

        # Mapped, not vectorized: random numbers for a batch of keys compile for more than a second.
        return lax.map(draw, jax.random.split(key, _DRAWS))


def _optimize(
    programs: _Programs, given: tuple, key: jax.Array, num_steps: int, progress: bool
) -> tuple[Any, np.ndarray]:
    carry = programs.start(key, *given)
    losses: list[np.ndarray] = []
    chunks = Chunks(num_steps, _CHUNK, 'SVI', progress)
    for length in chunks:
        carry, found = programs.advance(carry, length, *given)
        losses.append(np.asarray(found)[:length])
        chunks.note(elbo=f'{-np.mean(losses[-1]):.6g}')
        if not np.isfinite(losses[-1]).all():
            step = int(np.argmin(np.isfinite(np.concatenate(losses))))
            raise ValueError(
                f'The ELBO became {-np.concatenate(losses)[step]} at step {step}. Use a smaller learning rate, e.g. '
                "optimizer=optax.adam(1e-3), more particles, init='map', or scale the inputs."
            )
    return carry, np.concatenate(losses)


def _draws(programs: _Programs, params: dict, given: tuple, key: jax.Array, num_draws: int) -> tuple[Any, dict]:
    """Draws in blocks of one size, so that another number of them compiles nothing and keeps the first ones."""
    blocks = [programs.draw(params, jax.random.fold_in(key, i), *given) for i in range(-(-num_draws // _DRAWS))]
    if blocks[0][0].shape[0] == 1:  # a point
        return np.asarray(blocks[0][0])[None], {}
    return jax.tree.map(lambda *x: np.concatenate(x)[None, :num_draws], *blocks)
