"""States that are no parameters: running statistics, random streams, hidden states, when their model is fitted.

The rule: without the setting ``fit`` a posterior sees the model as in use (``fit=False``). A density evaluation starts
from the States that the model had, and what it writes is dropped; descents under ``fit=True`` carry running statistics
from step to step and give the model's own random numbers another key at each. Samplers refuse a random density.
"""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import BatchState, HiddenState, environ, infer, nn, random

# Chains of a few draws: whether they run, not what they find.
pytestmark = pytest.mark.filterwarnings('ignore::brainstate_prob.infer.ConvergenceWarning')

RNG = np.random.default_rng(0)
X = (3.0 + 2.0 * RNG.normal(size=(64, 3))).astype(np.float32)
Y = (X @ np.array([1.0, -1.0, 0.5]) + 0.1 * RNG.normal(size=64)).astype(np.float32)


def normal(model, x):
    return dist.Normal(model(x)[..., 0], 0.5)


def normed():
    random.seed(0)
    return nn.with_prior(nn.Sequential(nn.BatchNorm0d(3, momentum=0.9), nn.Linear(3, 1)), {...: dist.Normal(0.0, 10.0)})


def statistics(model):
    return {path[-1]: np.ravel(state.value) for path, state in model.states(BatchState).items()}


def test_running_statistics_are_frozen_where_fit_is_not_set():
    model = normed()
    posterior = infer.Posterior(model, X, Y, likelihood=normal)
    fit = infer.map(posterior, optimizer=optax.adam(0.1), num_steps=20, progress=False)
    fit.assign_to(model)
    found = statistics(model)
    np.testing.assert_array_equal(found['running_mean'], 0.0)
    np.testing.assert_array_equal(found['running_var'], 1.0)
    assert infer.nuts(posterior, num_warmup=5, num_samples=5, num_chains=1, progress=False).num_draws == 5


@pytest.mark.parametrize('batch_size', [None, 16])
def test_descents_under_fit_true_carry_running_statistics(batch_size):
    model = normed()
    posterior = infer.Posterior(model, X, Y, likelihood=normal)
    with environ.context(fit=True):
        fit = infer.map(posterior, optimizer=optax.adam(0.05), num_steps=300, batch_size=batch_size, progress=False)
    # Of the posterior that was given nothing has changed; the fit and the model it is assigned to have the new ones.
    assert all(np.ptp(v) == 0 for v in statistics(model).values())
    fit.assign_to(model)
    found = statistics(model)
    # Full batches: an average over steps of one and the same number. Batches of 16: of numbers around it, which vary by
    # sd / sqrt(16) a step and by a fifth of that after averaging over some twenty; four such errors.
    np.testing.assert_allclose(found['running_mean'], X.mean(0), atol=1e-3 if batch_size is None else 0.4)
    np.testing.assert_allclose(found['running_var'], X.var(0), rtol=1e-3 if batch_size is None else 0.4)
    predicted = fit.predict(X, kind='mean')[0]
    assert np.sqrt(np.mean((predicted - Y) ** 2)) < (0.2 if batch_size is None else 0.6)
    with environ.context(fit=False):
        np.testing.assert_allclose(model(jnp.asarray(X))[:, 0], predicted, rtol=1e-4, atol=1e-4)


def test_a_second_descent_starts_from_the_same_statistics():
    model = normed()
    posterior = infer.Posterior(model, X, Y, likelihood=normal)
    with environ.context(fit=True):
        first, second = (
            infer.map(posterior, optimizer=optax.adam(0.05), num_steps=30, progress=False) for _ in range(2)
        )
    np.testing.assert_array_equal(first.thetas, second.thetas)
    for a, b in zip(first.posterior.data.states, second.posterior.data.states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_is_off_unless_asked_for_and_samplers_refuse_it():
    random.seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    posterior = infer.Posterior(nn.with_prior(network, {...: dist.Normal(0.0, 1.0)}), X, Y, likelihood=normal)
    assert float(posterior.log_density()) == float(posterior.log_density())
    infer.nuts(posterior, num_warmup=2, num_samples=2, num_chains=1, progress=False)
    with environ.context(fit=True):
        for fit in (infer.nuts, infer.svi, infer.laplace):
            with pytest.raises(ValueError, match='random'):
                fit(posterior, progress=False)


class Walk(nn.Module):
    """Hidden state: h <- a h + x; the density must not depend on what ran before."""

    def __init__(self):
        super().__init__()
        self.a = nn.Param(0.5, t=nn.SigmoidT(), reg=dist.Uniform(0.0, 1.0))
        self.h = HiddenState(jnp.zeros(()))

    def __call__(self, x):
        self.h.value = self.a.value() * self.h.value + x[:, 0]
        return dist.Normal(self.h.value, 1.0)


def test_hidden_states_start_anew_at_every_evaluation():
    model = Walk()
    model.h.value = jnp.ones(64)
    posterior = infer.Posterior(model, X, Y)
    before = float(posterior.log_density())
    fit = infer.map(posterior, num_steps=20, progress=False)
    assert float(posterior.log_density()) == before
    fit.assign_to(model)
    np.testing.assert_array_equal(model.h.value, 1.0)
    expected = dist.Normal(model.a.value() + X[:, 0], 1.0).log_prob(Y).sum()
    np.testing.assert_allclose(posterior.terms()['likelihood'], expected, rtol=1e-5)
