"""Data and densities that every library is compared with, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

_rng = np.random.default_rng(1)
X = _rng.normal(size=(24, 2))
GROUP = _rng.integers(0, 4, 24)
Y = X @ np.array([1.0, -0.5]) + 0.3 + 0.4 * _rng.normal(size=24)
N = dist.Normal()


def glm_density(b, sigma, w):
    """A linear regression; standard normal priors of ``w`` and ``b``, none of ``sigma``."""
    return N.log_prob(w).sum() + N.log_prob(b) + dist.Normal(X @ w + b, sigma).log_prob(Y).sum()


def network_density(w1, b1, w2, b2):
    """A network with 3 tanh units, (in, out) kernels; standard normal priors, noise 0.5."""
    mean = (jnp.tanh(X @ w1 + b1) @ w2 + b2)[:, 0]
    return sum(N.log_prob(p).sum() for p in (w1, b1, w2, b2)) + dist.Normal(mean, 0.5).log_prob(Y).sum()


def hierarchy_density(mu, tau, effect, slope):
    """Groups' intercepts N(mu, tau), slope and noise 0.5; the density of the values."""
    prior = N.log_prob(mu) + dist.HalfNormal().log_prob(tau) + dist.Normal(mu, tau).log_prob(effect).sum()
    return prior + N.log_prob(slope) + dist.Normal(effect[GROUP] + slope * X[:, 0], 0.5).log_prob(Y).sum()


def same_density(posterior, names, density, positive=()):
    """Log densities of the values, and their gradients, at ten points; ``names`` in the order of the arguments.

    Parameters
    ----------
    positive
        The names of those with a bound at zero.
    """
    shapes = {e.name: e.value_shape for e in posterior.entries}
    assert sorted(shapes) == sorted(names)
    rng = np.random.default_rng(2)
    thetas = []
    for _ in range(10):
        values = {n: 0.5 * rng.normal(size=shapes[n]) for n in names}
        thetas.append(posterior.unconstrain(values | {n: np.exp(values[n]) for n in positive}))

    def truth(theta):
        found = posterior.density.constrain(theta)
        return density(*(found[n] for n in names))

    def ours(theta):
        return posterior.density.log_density(theta, posterior.data, False)

    (a, da), (b, db) = (jax.jit(jax.vmap(jax.value_and_grad(f)))(jnp.stack(thetas)) for f in (truth, ours))
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-6)
    np.testing.assert_allclose(db, da, rtol=0, atol=1e-6)
