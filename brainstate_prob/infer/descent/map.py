"""MAP: the parameters of highest posterior density, by any optax optimizer or L-BFGS."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from brainstate_prob.core.calls import named
from brainstate_prob.core.structure import structural_key
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noise import draws_noise
from brainstate_prob.infer.descent.descent import Descent, Descents
from brainstate_prob.infer.descent.early_stopping import early_stopping_of, early_stopping_rule
from brainstate_prob.infer.descent.infinity import modes_at_infinity
from brainstate_prob.infer.descent.steps import Settings
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.mcmc import ConvergenceWarning, warn_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import optax_optimizer
from brainstate_prob.infer.run.inits import in_coordinates, started_from
from brainstate_prob.infer.run.progress import nested_fit
from brainstate_prob.infer.run.starts import member_keys, member_starts, starts_named
from brainstate_prob.infer.target.minibatch import Batching
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import checked_start, to_key
from brainstate_prob.infer.target.stream import Stream
from brainstate_prob.infer.target.target import Target

__all__ = ['map', 'resolved_optimizer']


@named
def map(
    posterior: Posterior,
    *,
    optimizer: optax.GradientTransformation | str = 'lbfgs',
    num_steps: int = 2000,
    batch_size: int | None = None,
    batches: Iterable | None = None,
    num_observations: int | None = None,
    jacobian: bool = False,
    tol: float | None = None,
    num_starts: int = 1,
    init: Any = None,
    early_stopping: Any = None,
    callbacks: Callable | Sequence[Callable] = (),
    seed: Any = 0,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Find the mode of the posterior by gradient descent from the model's present parameters, or from several points.

    Parameters
    ----------
    optimizer
        An optax optimizer, with its learning rate or schedule; ``'lbfgs'`` (default; for full data) is
        ``optax.lbfgs()``, ``'adam'`` is ``optax.adam(1e-2)``.
    num_steps
        The most steps. They run fused, many to a compiled call.
    batch_size
        See this many observations a step, in a new random order each pass, of which the last N modulo B are left out;
        their log-likelihood counts N/B times. The rows must be independent given the parameters, which is looked at
        before the fit begins.
    batches, num_observations
        In place of it: an iterable of pairs ``(inputs, targets)``, one a step, and the number N of all observations.
        A list or data loader begins anew when it ends, a generator ends the fit. Batches may have any sizes: the
        log-likelihood of each counts as often as there are batches in a pass, N / (mean size), whatever its own size,
        so that all observations count alike. The sizes in a list are known. Of other iterables the mean is that of the
        whole passes so far, in the first pass that of the batches so far; a generator has passed over the data
        whenever N more observations were seen. ``fit.info`` has the scale.
    jacobian
        False gives the mode of the constrained values' density, the classical MAP estimate (of flat priors: maximum
        likelihood), which does not depend on the transforms. True gives the mode of theta's density, with the
        log-determinant: the point around which Laplace's approximation is made.
    tol
        Stop when the largest entry of the gradient falls below ``tol * max(1, |loss|)``, or when the loss has not
        fallen by more than rounding for 20 steps. Default: 1e-5 for full data
        with L-BFGS (1e-8 in float64), else never.
    num_starts
        Go down from so many points at once, and keep the best; ``fit.info['losses']`` has where each ended.
    init
        Where to start: ``'model'`` (default for one start), ``'prior'`` (default for several: draws from the priors;
        parameters without one start from the model's own entries in a random order), a function that builds the model
        anew, a `Fit` (with its running statistics), values by path such as ``{'a': 1.0}`` (the rest from the model), or
        an array of theta.
    early_stopping
        `infer.EarlyStopping`, or its patience as an int.
    callbacks
        Functions of a `FitProgress` (``step``, ``loss``, ``losses``, ``fit()``), called after each chunk of at most
        200 steps; one that returns True ends the fit. An error in one comes through: the `Fit` until then is its
        attribute ``fit``, and a checkpoint is saved.
    seed
        An int or a key, for the order of minibatches, the starts and the model's own random numbers.
    checkpoint, checkpoint_every
        Save to this file every so many steps, and go on from it if it exists: the numbers are those of an
        uninterrupted run. ``batches`` must then give the same again.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        With one draw, the mode; ``fit.history['loss']`` is minus the log density at each step, ``fit.info['stopped']``
        says why it stopped.

    Raises
    ------
    ValueError
        For a start that is not finite, a loss that becomes so, L-BFGS with minibatches or a model that draws random
        numbers, ``batches`` without ``num_observations`` or with a wrong one, minibatches of rows that depend on each
        other.

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
    >>> fit = infer.map(infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0])), progress=False)
    >>> round(float(fit.estimate['mu']), 4)
    1.3333
    """
    check_options(map, locals(), optimizer=optax_optimizer('lbfgs', 'adam'), early_stopping=early_stopping_rule)
    began = time.perf_counter()
    posterior = started_from(posterior, init, each=True)
    target, density, key = posterior.target, posterior.density, to_key(seed)
    batching = Batching(posterior, batch_size, batches, num_observations)
    optimizer, tol = resolved_optimizer(posterior, optimizer, batching.in_parts, tol)
    settings = Settings(optimizer, batch_size, jacobian)
    init = ('model' if num_starts == 1 else 'prior') if init is None else init
    if num_starts == 1 and isinstance(init, str) and init == 'model':
        keys, thetas = key[None], checked_start(target, jacobian=jacobian)[None]
    else:
        keys = member_keys(density, key, num_starts) if num_starts > 1 else key[None]
        thetas = member_starts(target, init, keys, jacobian=jacobian)
    batching.check(density, thetas[0])

    def as_fit(descent: Descent) -> Fit:
        final = _final_losses(target, descent, settings, batching.stream)
        best = int(np.argmin(final))
        losses = descent.losses[best]
        losses = losses[: int(np.isfinite(losses).sum())]
        info = {
            **descent.info,
            'num_steps': len(losses),
            'seconds': time.perf_counter() - began,
            'jacobian': jacobian,
            'gradient': float(descent.gradients[best]),
            'converged': bool(descent.converged[best]),
        }
        if num_starts > 1:
            info |= {'losses': [float(x) for x in final], 'best_start': best}
        history = {'loss': losses} | {name: values[best] for name, values in descent.watched.items()}
        trained = target.with_carried(jax.tree.map(lambda x: x[best], descent.carried))
        return Fit(trained, descent.thetas[best][None, None], method='map', history=history, info=info)

    fit, _ = Descents(
        target,
        'map',
        settings,
        thetas,
        keys,
        batching=batching,
        num_steps=num_steps,
        as_fit=as_fit,
        init=init,
        tol=tol,
        early_stopping=early_stopping_of(early_stopping),
        callbacks=callbacks,
        strict=num_starts == 1,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        label='MAP',
        progress=progress,
    ).run()
    if tol is not None and not fit.info['converged'] and fit.info['stopped'] == 'num_steps':
        wanted = tol * max(1.0, abs(fit.history['loss'][-1]))
        problem = (
            f'MAP stopped after {fit.info["num_steps"]} steps before it converged: the largest entry of the gradient '
            f'is {fit.info["gradient"]:.2g}, and {wanted:.2g} was asked for. '
        )
        warn_of([problem + advice('few_steps', 'map', {'num_steps': num_steps})])
    elif tol is not None and fit.info['stopped'] == 'converged':
        start = np.asarray(thetas)[fit.info.get('best_start', 0)]
        fit.info['warnings'] = modes_at_infinity(target, start, fit.thetas[0, 0], jacobian)
        warn_of(fit.info['warnings'])
    return fit


def _final_losses(target: Target, descent: Descent, settings: Settings, stream: Stream | None) -> np.ndarray:
    """The losses by which starts are compared: over all data at the end, or the mean over the last batches."""
    if len(descent.thetas) == 1:
        return np.zeros(1)
    if stream is not None:
        final = np.nanmean(descent.losses[:, -50:], axis=1)
    else:
        density = target.density
        run = density.compiled(Density.log_density, in_axes=(0, None), jacobian=settings.jacobian)
        final = -np.asarray(run(descent.thetas, target.data))
    return np.where(descent.lost | ~np.isfinite(final), np.inf, final)


def resolved_optimizer(
    posterior: Posterior, optimizer: Any, in_batches: bool, tol: float | None = None
) -> tuple[Any, float | None]:
    """The optax optimizer, and the tolerance.

    Raises
    ------
    TypeError
        For what is no optimizer.
    ValueError
        For L-BFGS where the loss changes from step to step.
    """
    density = posterior.density
    named = {'lbfgs': optax.lbfgs, 'adam': lambda: optax.adam(1e-2)}
    if isinstance(optimizer, str) and optimizer in named:
        if optimizer == 'lbfgs' and tol is None:
            tol = 1e-8 if density.dtype == jnp.float64 else 1e-5
        optimizer = named[optimizer]()
    if not _searches(optimizer, density):
        return optimizer, tol
    if in_batches:
        raise ValueError(
            'L-BFGS needs the full data, as does every line search; with minibatches use '
            "optimizer='adam' or another optax optimizer."
        )
    if draws_noise(density, posterior.theta, posterior.data):
        raise ValueError(
            'The model draws random numbers when it is called (dropout, noise), so its loss changes from step to '
            "step, which L-BFGS cannot follow. Use optimizer='adam', or fit it under environ.context(fit=False)."
        )
    return optimizer, tol


_SEARCHES = (
    optax.ScaleByLBFGSState,
    optax.ScaleByZoomLinesearchState,
    optax.ScaleByBacktrackingLinesearchState,
)


def _searches(optimizer: Any, density: Density) -> bool:
    """Whether the optimizer has a line search, which needs a deterministic loss."""

    def find() -> bool:
        state = jax.eval_shape(optimizer.init, jax.ShapeDtypeStruct((density.size,), density.dtype))
        leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, _SEARCHES))
        return any(isinstance(leaf, _SEARCHES) for leaf in leaves)

    return density.programs.get((_searches, structural_key(optimizer)), find)


@starts_named('map')
def _near_the_mode(target: Target, keys: jax.Array) -> jax.Array:
    with warnings.catch_warnings(), nested_fit():
        warnings.simplefilter('ignore', ConvergenceWarning)  # a point near the mode is enough for a start
        mode = map(target.posterior, jacobian=True, progress=False)
    return jnp.repeat(in_coordinates(mode, mode.rows, target), len(keys), axis=0)
