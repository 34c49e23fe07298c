"""MC dropout: training and predictions with dropout, where each draw has its own masks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from brainstate_prob import environ
from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.batching import chosen_draws
from brainstate_prob.infer.density.noise import draws_noise, noise
from brainstate_prob.infer.density.wider import WiderDensity
from brainstate_prob.infer.descent.early_stopping import early_stopping_rule
from brainstate_prob.infer.descent.map import map as fit_map
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.rules import optax_optimizer
from brainstate_prob.infer.run.inits import in_coordinates, started_from
from brainstate_prob.infer.target.options import check_options
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.target.target import Target

__all__ = ['MaskedDensity', 'mc_dropout']


class MaskedDensity(WiderDensity):
    """A density whose flat vector has an extra number, the seed of the model's random numbers.

    The model is in training mode (``environ.context(fit=True)``), but for norms, which use the running statistics that
    they were trained with (``keep_statistics=True``). Everything that is computed from a draw, predictions
    and log-likelihoods alike, sees the masks that belong to it.
    """

    kind = 'masks'

    def _width(self) -> int:
        return 1

    @contextlib.contextmanager
    def open(self, theta: jax.Array, data: Data) -> Iterator[Any]:
        key = jax.random.fold_in(jax.random.key(0), theta[-1].astype(jnp.uint32))
        settings = environ.context(fit=True, keep_statistics=True)
        with settings, noise(self, key, data) as noisy, super().open(theta, noisy) as opened:
            yield opened


@named
def mc_dropout(
    posterior: Posterior,
    *,
    init: Any = 'model',
    num_draws: int = 100,
    optimizer: optax.GradientTransformation | str = 'adam',
    num_steps: int = 2000,
    batch_size: int | None = None,
    batches: Iterable | None = None,
    num_observations: int | None = None,
    jacobian: bool = False,
    early_stopping: Any = None,
    callbacks: Callable | Sequence[Callable] = (),
    seed: Any = 0,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Monte Carlo dropout (Gal and Ghahramani 2016): train with dropout, and predict with it, too.

    A draw is the trained parameters with one set of masks; all masks are those of training mode
    (``environ.context(fit=True)``), where each row of the inputs has its own. What follows from a draw, predictions as
    well as log-likelihoods, has its masks. Norms with running statistics (BatchNorm) use those that were trained.

    Parameters
    ----------
    init
        A `Fit` that was trained with dropout, e.g. `infer.map` under ``environ.context(fit=True)``, or an ensemble: its
        parameters are used, and nothing is trained. Else where the training starts, as for `infer.map`.
    num_draws
        How many draws of masks.
    optimizer, num_steps, batch_size, batches, num_observations, jacobian, early_stopping, callbacks
        As for `infer.map`; held-out data are predicted without dropout.
    seed
        An int or a key.
    checkpoint, checkpoint_every
        As for `infer.map`.
    progress
        Show a progress bar.

    Returns
    -------
    Fit
        One chain of ``num_draws`` draws.

    Raises
    ------
    ValueError
        For a model that draws no random numbers in training mode, or an ``init`` each of whose draws has running
        statistics (BatchNorm) of its own.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Line(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.w = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...         self.drop = nn.Dropout(0.8)
    ...
    ...     def __call__(self, x):
    ...         return dist.Normal(self.drop(x) * self.w.value(), 1.0)
    >>> posterior = infer.Posterior(Line(), jnp.arange(5.0), jnp.arange(5.0))
    >>> fit = infer.mc_dropout(posterior, num_steps=500, progress=False)
    >>> fit.predict(jnp.ones(3), kind='mean').shape
    (100, 3)
    """
    check_options(mc_dropout, locals(), optimizer=optax_optimizer('lbfgs', 'adam'), early_stopping=early_stopping_rule)
    density = posterior.density
    with environ.context(fit=True):
        if not draws_noise(density, posterior.theta, posterior.data):
            raise ValueError(
                'The model draws no random numbers in training mode: there is no dropout. Add nn.Dropout layers, or '
                'use infer.ensemble or infer.swag.'
            )
        if isinstance(init, Fit):
            fit = init
        else:
            fit = fit_map(
                posterior,
                init=init,
                optimizer=optimizer,
                num_steps=num_steps,
                batch_size=batch_size,
                batches=batches,
                num_observations=num_observations,
                jacobian=jacobian,
                early_stopping=early_stopping,
                callbacks=callbacks,
                checkpoint=checkpoint,
                checkpoint_every=checkpoint_every,
                seed=seed,
                progress=progress,
            )
    rows, target = _rows_of(fit, posterior, num_draws)
    seeds = _seeds(to_key(seed), num_draws, density.dtype)
    kept = {
        'num_steps',
        'seconds',
        'jacobian',
        'stopped',
        'num_observations',
        'batch_size',
        'scale',
    } & fit.info.keys()
    info = {name: fit.info[name] for name in sorted(kept)} | {'trained_by': fit.method}
    return _masked_fit(target, rows[None], seeds[None], dict(fit.history), info)


def _rows_of(fit: Fit, posterior: Posterior, num_draws: int) -> tuple[np.ndarray, Target]:
    """The parameters of each draw, evenly spread over the draws of ``fit``, in the parameters' own coordinates.

    Also the target with the running statistics of the fit.
    """
    chosen = chosen_draws(num_draws, fit.num_chains * fit.num_draws, fit.weights)
    target = started_from(posterior, fit).target  # raises for a fit of another model
    used, which = np.unique(chosen, return_inverse=True)
    return np.asarray(in_coordinates(fit, fit.rows[used], target))[which], target


def _seeds(key: jax.Array, num: int, dtype: Any) -> np.ndarray:
    """Integers that ``dtype`` represents exactly."""
    most = int(min(2 ** (jnp.finfo(dtype).nmant + 1), 2**31 - 1))
    rng = np.random.default_rng(np.ravel(jax.random.key_data(key)).tolist())
    return rng.integers(0, most, num).astype(dtype)


def _masked_fit(target: Target, thetas: np.ndarray, seeds: np.ndarray, history: dict, info: dict) -> Fit:
    info = info | {'num_draws': int(seeds.size), 'mask_seeds': [int(s) for s in seeds.ravel()]}
    return Fit(
        Target(target.posterior, MaskedDensity.of(target.density)),
        np.concatenate([thetas, seeds[..., None]], axis=-1),
        method='mc_dropout',
        history=history,
        info=info,
    )
