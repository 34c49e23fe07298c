"""MAP: the parameters of highest posterior density, by any optax optimizer or L-BFGS."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from brainstate_prob.infer.density import Data, Density
from brainstate_prob.infer.diagnostics import ConvergenceWarning
from brainstate_prob.infer.fit import Fit
from brainstate_prob.infer.minibatch import check_batch_size, first_batch, next_batch, take
from brainstate_prob.infer.posterior import Posterior
from brainstate_prob.infer.progress import Chunks
from brainstate_prob.infer.start import checked_start, to_key

__all__ = ['fit_map']

_CHUNK = 200
_STALE = 20  # steps without a gain beyond rounding: the precision has no better point to offer


def fit_map(
    posterior: Posterior,
    *,
    optimizer: optax.GradientTransformation | str = 'lbfgs',
    num_steps: int = 2000,
    batch_size: int | None = None,
    jacobian: bool = False,
    tol: float | None = None,
    seed: Any = 0,
    progress: bool = True,
) -> Fit:
    """Find the mode of the posterior by gradient descent from the model's present parameters.

    Parameters
    ----------
    optimizer
        An optax optimizer; ``'lbfgs'`` (default; for full data) is ``optax.lbfgs()``, ``'adam'`` is
        ``optax.adam(1e-2)``.
    num_steps
        The most steps. They run fused, many to a compiled call.
    batch_size
        See this many observations a step, in a new random order each pass; their log-likelihood counts N/B times.
    jacobian
        False gives the mode of the constrained values' density, the classical MAP estimate (of flat priors: maximum
        likelihood), which does not depend on the transforms. True gives the mode of theta's density, with the
        log-determinant: the point around which Laplace's approximation is made.
    tol
        Stop when the largest entry of the gradient falls below ``tol * max(1, |loss|)``, or when the loss has not
        fallen by more than rounding for 20 steps. Default: 1e-5 for full data
        with L-BFGS (1e-8 in float64), else never.
    seed
        An int or a key, for the order of minibatches.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        With one draw, the mode; ``fit.history['loss']`` is minus the log density at each step.

    Raises
    ------
    ValueError
        For a start that is not finite, a loss that becomes so, or minibatches under L-BFGS.

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
    >>> fit = infer.fit_map(infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0])), progress=False)
    >>> round(float(fit.estimate['mu']), 4)
    1.3333
    """
    density = posterior.density
    optimizer, tol = _resolve(optimizer, batch_size, tol, density)
    check_batch_size(posterior.data, batch_size, posterior.num_observations)
    theta = checked_start(posterior, density, jacobian=jacobian)
    start = density.jit(
        'map_start', (optimizer, batch_size), lambda: _start_function(optimizer, batch_size, posterior.num_observations)
    )
    advance = density.jit(
        'map', (optimizer, batch_size, jacobian), lambda: _advance_function(density, optimizer, batch_size, jacobian)
    )
    began = time.perf_counter()
    carry, losses, gradient = start(theta, to_key(seed)), [], np.inf
    chunks = Chunks(num_steps, _CHUNK, 'MAP', progress)
    for length in chunks:
        carry, chunk_losses, done, gradient = advance(carry, posterior.data, length, -1.0 if tol is None else tol)
        losses.append(np.asarray(chunk_losses)[: int(done)])
        chunks.note(loss=f'{losses[-1][-1]:.6g}')
        if not np.isfinite(losses[-1]).all():
            history = np.concatenate(losses)
            step = int(np.argmin(np.isfinite(history)))
            raise ValueError(
                f'The loss became {history[step]} at step {step}. Use a smaller learning rate, or scale the inputs.'
            )
        if int(done) < length:
            break
    history = np.concatenate(losses) if losses else np.zeros(0)
    scale = max(1.0, abs(history[-1])) if len(history) else 1.0
    converged = tol is not None and (float(gradient) <= tol * scale or int(carry[3][1]) >= _STALE)
    if tol is not None and not converged:
        warnings.warn(
            f'MAP stopped after {len(history)} steps before it converged: the largest entry of the gradient is '
            f'{float(gradient):.2g}, and {tol * scale:.2g} was asked for. Take more steps (num_steps), scale the '
            'inputs, or look whether the mode lies at infinity (a scale that goes to zero, say).',
            ConvergenceWarning,
            stacklevel=2,
        )
    info = {
        'num_steps': len(history),
        'seconds': time.perf_counter() - began,
        'jacobian': jacobian,
        'gradient': float(gradient),
        'converged': bool(converged),
    }
    return Fit(posterior, density, carry[0][None, None], method='map', history={'loss': history}, info=info)


def _resolve(optimizer: Any, batch_size: int | None, tol: float | None, density: Density) -> tuple[Any, float | None]:
    if optimizer == 'lbfgs':
        if batch_size is not None:
            raise ValueError(
                "L-BFGS needs the full data; with batch_size use optimizer='adam' or another optax optimizer."
            )
        default = 1e-8 if density.dtype == jnp.float64 else 1e-5
        return optax.lbfgs(), default if tol is None else tol
    if optimizer == 'adam':
        return optax.adam(1e-2), tol
    if not (hasattr(optimizer, 'init') and hasattr(optimizer, 'update')):
        raise TypeError(f"optimizer must be an optax optimizer, 'lbfgs' or 'adam', got {optimizer!r}.")
    return optimizer, tol


def _start_function(optimizer: Any, batch_size: int | None, num_observations: int) -> Callable:
    def start(theta: jax.Array, key: jax.Array) -> tuple:
        batches = None if batch_size is None else first_batch(key, num_observations)
        return theta, optimizer.init(theta), batches, (jnp.full((), jnp.inf, theta.dtype), jnp.zeros((), int))

    return start


def _advance_function(density: Density, optimizer: Any, batch_size: int | None, jacobian: bool) -> Callable:
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry: tuple, data: Data) -> tuple[tuple, jax.Array, jax.Array]:
        theta, opt_state, batches, (best, stale) = carry
        if batch_size is not None:
            index, batches = next_batch(batches, batch_size)
            data = take(data, index)

        def loss_of(t: jax.Array) -> jax.Array:
            return -density.log_density(t, data, jacobian)

        loss, grad = jax.value_and_grad(loss_of)(theta)
        updates, opt_state = optimizer.update(grad, opt_state, theta, value=loss, grad=grad, value_fn=loss_of)
        better = loss < best - 2 * jnp.finfo(loss.dtype).eps * jnp.abs(best)
        progress = jnp.where(better, loss, best), jnp.where(better, 0, stale + 1)
        return (optax.apply_updates(theta, updates), opt_state, batches, progress), loss, jnp.max(jnp.abs(grad))

    def advance(carry: tuple, data: Data, length: jax.Array, tol: jax.Array):
        def unfinished(loop: tuple) -> jax.Array:
            i, carry, losses, gradient = loop
            flat = gradient <= tol * jnp.maximum(1.0, jnp.abs(losses[i - 1]))
            stuck = (tol >= 0) & (carry[3][1] >= _STALE)
            return (i < length) & ((i == 0) | ~(flat | stuck))

        def body(loop: tuple) -> tuple:
            i, carry, losses, _ = loop
            carry, loss, gradient = step(carry, data)
            return i + 1, carry, losses.at[i].set(loss), gradient

        init = (0, carry, jnp.full(_CHUNK, jnp.nan, density.dtype), jnp.full((), jnp.inf, density.dtype))
        done, carry, losses, gradient = lax.while_loop(unfinished, body, init)
        return carry, losses, done, gradient

    return advance
