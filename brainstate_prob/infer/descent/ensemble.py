"""Deep ensembles: many descents from different starts, each of which is one draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import optax

from brainstate_prob import environ
from brainstate_prob.core.calls import named
from brainstate_prob.infer.density.noise import draws_noise
from brainstate_prob.infer.descent.descent import Descent, Descents
from brainstate_prob.infer.descent.early_stopping import early_stopping_of, early_stopping_rule
from brainstate_prob.infer.descent.map import resolved_optimizer
from brainstate_prob.infer.descent.steps import Settings
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.fit_check import unfinished_members
from brainstate_prob.infer.diagnostics.mcmc import warn_of
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import optax_optimizer
from brainstate_prob.infer.run.inits import started_from
from brainstate_prob.infer.run.starts import member_keys, member_starts
from brainstate_prob.infer.target.minibatch import Batching, check_parts
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.running_statistics import each_with_its_own
from brainstate_prob.infer.target.start import to_key

__all__ = ['ensemble']


@named
def ensemble(
    posterior: Posterior,
    *,
    num_members: int = 5,
    optimizer: optax.GradientTransformation | str = 'adam',
    num_steps: int = 2000,
    batch_size: int | None = None,
    batches: Iterable | None = None,
    num_observations: int | None = None,
    init: Any = 'prior',
    bootstrap: bool = False,
    jacobian: bool = False,
    tol: float | None = None,
    early_stopping: Any = None,
    callbacks: Callable | Sequence[Callable] = (),
    seed: Any = 0,
    devices: Any = None,
    chain_method: str | None = 'vectorized',
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Train a deep ensemble (Lakshminarayanan et al. 2017): MAP from several starts, all members in one program.

    Parameters
    ----------
    num_members
        How many. Member i is the same whatever their number.
    optimizer, num_steps, batch_size, batches, num_observations, jacobian, tol, early_stopping, callbacks
        As for `infer.map`; each member has its own order of minibatches, and of early stopping its own best point. The
        members stop together, when none gains.
    init
        ``'prior'``: draws from the priors; a parameter without one starts from the model's own entries in a random
        order. A function without arguments that builds the model anew: what its initializers draw. ``'model'``, a
        `Fit`, values by path, an array of theta.
    bootstrap
        Let each member see a sample of the observations, drawn with replacement.
    seed
        An int or a key.
    devices, chain_method
        Devices to spread the members over, their number, or a Mesh; ``'vectorized'`` (one program), ``'sequential'``,
        ``'parallel'`` (threads) or None (chosen for the machine).
    checkpoint, checkpoint_every
        Save to this file every so many steps, and go on from it if it exists.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        One chain of ``num_members`` draws. ``fit.history`` has the mean loss and that of each member,
        ``fit.info['losses']`` where each ended. Under ``environ.context(fit=True)`` each member has its own running
        statistics (BatchNorm) and predicts with them; see ``fit.running_statistics``.

    Raises
    ------
    ValueError
        For members that would all be the same, a loss that does not stay finite, more devices than there are, and as
        `infer.map`.

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
    >>> infer.ensemble(posterior, num_members=4, progress=False).draws['mu'].round(2)
    array([[1.33, 1.33, 1.33, 1.33]], dtype=float32)
    """
    check_options(ensemble, locals(), optimizer=optax_optimizer('lbfgs', 'adam'), early_stopping=early_stopping_rule)
    began = time.perf_counter()
    posterior = started_from(posterior, init, each=True)
    target, density, key = posterior.target, posterior.density, to_key(seed)
    batching = Batching(posterior, batch_size, batches, num_observations)
    if bootstrap:
        if batching.stream is not None:
            raise ValueError('bootstrap=True draws from the data of the Posterior; it does not go with batches=.')
        check_parts(posterior, 1, 'bootstrap=True', 'Leave bootstrap out')  # it takes parts of the data, too
    optimizer, tol = resolved_optimizer(posterior, optimizer, batching.in_parts, tol)
    settings = Settings(optimizer, batch_size, jacobian, bootstrap)
    keys = member_keys(density, key, num_members)
    thetas = member_starts(target, init, keys, jacobian=jacobian)
    differ = bootstrap or batch_size is not None or len(np.unique(np.asarray(thetas), axis=0)) > 1
    if num_members > 1 and not differ and not draws_noise(density, thetas[0], posterior.data):
        raise ValueError(
            'All members would start from the same point and see the same data, so all would be equal. Give the '
            "Params priors (init='prior'), init=a function that builds the model, batch_size, or bootstrap=True."
        )
    batching.check(density, thetas[0])

    def as_fit(descent: Descent) -> Fit:
        steps = np.isfinite(descent.losses).sum(1)
        last = [losses[n - 1] if n else np.nan for losses, n in zip(descent.losses, steps, strict=True)]
        info = {
            'num_members': num_members,
            **descent.info,
            'seconds': time.perf_counter() - began,
            'members_ran': descent.description,
            'jacobian': jacobian,
            'bootstrap': bootstrap,
            'losses': [float(x) for x in last],
            'converged': [bool(x) for x in descent.converged],
            'gradients': [float(x) for x in descent.gradients],
        }
        running = np.isfinite(descent.losses)
        history = {'loss': np.where(running, descent.losses, 0).sum(0) / running.sum(0)} if steps.max() else {}
        history |= {f'loss_{i}': losses[:n] for i, (losses, n) in enumerate(zip(descent.losses, steps, strict=True))}
        for name, watched in descent.watched.items():
            history |= {f'{name}_{i}': values for i, values in enumerate(watched)}
        each = environ.get('fit', False) or (isinstance(init, Fit) and init.has_own_statistics)
        members = descent.thetas[None]
        wide, members = each_with_its_own(target, members, descent.carried) if each else (target, members)
        return Fit(wide, members, method='ensemble', history=history, info=info)

    fit, _ = Descents(
        target,
        'ensemble',
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
        chain_method=chain_method,
        devices=devices,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        label='Ensemble',
        progress=progress,
    ).run()
    if tol is None:
        problems = unfinished_members(fit)
    elif fit.info['stopped'] == 'num_steps' and not all(fit.info['converged']):
        missed = [i for i, converged in enumerate(fit.info['converged']) if not converged]
        more = advice('few_steps', 'ensemble', {'num_steps': num_steps})
        problems = [f'Members {missed} stopped after {num_steps} steps before they converged. {more}']
    else:
        problems = []
    fit.info['warnings'] = problems
    warn_of(problems)
    return fit
