"""Barker proposals (Livingstone & Zanella 2022): each coordinate moves by z or -z, at odds of exp(z * gradient)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid

from brainstate_prob.core.calls import named
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.potential import potential_of
from brainstate_prob.infer.mcmc.adaptation import adapted, schedule
from brainstate_prob.infer.mcmc.kernel import Chain, Settings, nuts_starts
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.run.algorithm import Algorithm
from brainstate_prob.infer.run.options import RunOptions
from brainstate_prob.infer.run.sampling import sample
from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['barker']


@named
def barker(
    posterior: Posterior,
    *,
    num_warmup: int = 2000,
    num_samples: int = 2000,
    num_chains: int = 4,
    init: Any = 'model',
    noncentered: Any = 'auto',
    target_accept: float = 0.4,
    thinning: int = 1,
    seed: Any = 0,
    devices: Any = None,
    chain_method: str | None = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fit:
    """Sample by Barker proposals, one gradient a step.

    Unlike Langevin steps they are robust to large step sizes and to unequal scales; their draws are more correlated
    than those of `nuts`. A second call for a model of the same structure compiles nothing.

    Parameters
    ----------
    target_accept
        The acceptance rate that the step size is adapted to.
    num_warmup, num_samples, num_chains, init, noncentered, thinning, seed, devices, chain_method, checkpoint
        As for `nuts`, like ``checkpoint_every`` and ``progress``.

    Returns
    -------
    Fit
        With ``stats`` lp, acceptance_rate, step_size and n_steps (gradients).

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> line, x = nn.with_prior(nn.Linear(1, 1), {...: dist.Normal(0.0, 1.0)}), jnp.linspace(-1.0, 1.0, 50)[:, None]
    >>> posterior = infer.Posterior(line, x, 2 * x, likelihood=lambda model, x: dist.Normal(model(x), 1.0))
    >>> infer.barker(posterior, progress=False).draws['weight.weight'].shape
    (4, 2000, 1, 1)
    """
    options = RunOptions.of(barker, locals())
    algorithm = Algorithm(
        name='barker',
        init=nuts_starts(Settings()),
        step=_step_function,
        stats={'lp': float, 'acceptance_rate': float, 'step_size': float, 'n_steps': int},
        numbers={'target_accept': target_accept},
        schedule=lambda num_warmup: schedule(num_warmup, settle=0.3),  # noise of the acceptance rate
    )
    return sample(options.target(posterior), algorithm, options)


def _step_function(density: Density) -> Any:
    def step(chain: Chain, data: Data, action: jax.Array, target_accept: jax.Array) -> tuple:
        a, dtype, potential = chain.adaptation, chain.theta.dtype, potential_of(density, data)
        key, move_key, sign_key, accept_key = jax.random.split(chain.key, 4)
        z = a.step_size * jax.random.normal(move_key, chain.theta.shape, dtype)  # in the metric's coordinates
        w = jnp.where(jax.random.uniform(sign_key, z.shape, dtype) < sigmoid(-z * chain.grad), z, -z)
        theta = chain.theta + a.metric.forward(w)
        value, grad = jax.value_and_grad(potential)(theta)
        grad = a.metric.pull(grad)
        log_ratio = chain.potential - value + jnp.sum(log_sigmoid(w * grad) - log_sigmoid(-w * chain.grad))
        accept = jnp.nan_to_num(jnp.minimum(1.0, jnp.exp(log_ratio)))
        moves = jax.random.uniform(accept_key, (), dtype) < accept
        theta, value, grad = jax.tree.map(lambda x, y: jnp.where(moves, x, y), (theta, value, grad), chain[:3])
        a, grad = adapted(action, a, theta, grad, chain.potential - value, accept, target_accept, ('diagonal', 'stan'))
        stats = {'lp': -value, 'acceptance_rate': accept, 'step_size': a.step_size, 'n_steps': 1}
        return Chain(theta, value, grad, key, a), theta, stats

    return step
