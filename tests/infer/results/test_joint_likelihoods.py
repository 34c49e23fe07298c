"""A likelihood of one number for all observations has no scores, and a joint law no predictions without its data."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from brainstate_prob import infer, nn
from tests.support.rich_model import scattered

X = np.linspace(0.0, 3.0, 12).astype('f4')
Y = np.sin(X).astype('f4')
NEW = np.linspace(3.0, 4.0, 7).astype('f4')


def kernel(a, b):
    return jnp.exp(-0.5 * (a[:, None] - b) ** 2)


class Process(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.MultivariateNormal(self.mean.value() * jnp.ones_like(x), kernel(x, x) + 0.1 * jnp.eye(len(x)))


class LowRank(Process):
    def __call__(self, x):
        mean = self.mean.value() * jnp.ones_like(x)
        return dist.LowRankMultivariateNormal(mean, x[:, None], 0.1 * jnp.ones_like(x))


class Walk(Process):
    def __call__(self, x):
        return dist.GaussianRandomWalk(jnp.exp(self.mean.value()), num_steps=len(x))


class Batched(Process):
    """One event in a batch of one."""

    def __call__(self, x):
        return super().__call__(x).expand((1,))


class Independent(Process):
    def __call__(self, x):
        return dist.Normal(self.mean.value() * x, 1.0).to_event(1)


class Line(Process):
    def __call__(self, x):
        return dist.Normal(self.mean.value() * x, 1.0)


def fitted(model, y=Y, **kwargs):
    return scattered(infer.Posterior(model, X, y, **kwargs), chains=2, draws=100)


def joint_normal(fit):
    """The joint log density of all targets at each draw, by scipy."""
    covariance = np.asarray(kernel(X, X), float) + 0.1 * np.eye(12)
    return [st.multivariate_normal(np.full(12, m), covariance).logpdf(Y) for m in fit.rows[:, 0]]


def summed(model, x, y):
    return model(x).log_prob(y).sum()


LIKELIHOODS = {
    'process': (Process, {}, 'a joint MultivariateNormal of all 12, of one log density'),
    'low rank': (LowRank, {}, 'a joint LowRankMultivariateNormal of all 12'),
    'walk': (Walk, {}, 'a joint GaussianRandomWalk of all 12'),
    'event': (Independent, {}, r'all 12 as one event of Normal, shape \(12,\). Leave out .to_event\(1\)'),
    'sum': (Line, {'log_likelihood': summed}, 'log_likelihood= of this posterior returns one number for all 12'),
}
USES = {
    'score': lambda fit: fit.score(),
    'new score': lambda fit: fit.score(NEW, np.sin(NEW)),
    'log density': lambda fit: fit.predict(kind='log_density'),
    'new log density': lambda fit: fit.predict(NEW, np.sin(NEW), kind='log_density'),
    'loo': lambda fit: fit.loo(),
    'compare': lambda fit: infer.compare({'a': fit, 'b': fit}),
    'group': lambda fit: fit.to_arviz(log_likelihood=True, posterior_predictive=False),
    'khat': lambda fit: fit.plot_khat(),
    'loo_pit': lambda fit: fit.plot_loo_pit(),
}


@pytest.mark.parametrize('use', USES)
@pytest.mark.parametrize('likelihood', LIKELIHOODS)
def test_what_needs_terms_says_that_there_are_none(likelihood, use):
    model, kwargs, words = LIKELIHOODS[likelihood]
    words = words.replace('12', '7') if use.startswith('new') else words
    with pytest.raises(ValueError, match=f'needs the log density of each observation, but .*{words}'):
        USES[use](fitted(model(), **kwargs))


def test_waic_and_files_too(tmp_path):
    from brainstate_prob.infer.results.arviz_io import import_arviz

    fit = fitted(Process())
    with pytest.raises(ValueError, match='log density of each observation'):
        fit.save(tmp_path / 'fit.nc', log_likelihood=True)
    fit.save(tmp_path / 'fit.nc', posterior_predictive=True)
    if hasattr(import_arviz(), 'waic'):
        with pytest.raises(ValueError, match='waic needs the log density of each observation'):
            fit.waic()


def test_the_joint_log_density_is_there_and_arviz_gets_none_of_it():
    fit = fitted(Process())
    np.testing.assert_allclose(fit.log_likelihood().ravel(), joint_normal(fit), rtol=1e-4)
    data = fit.to_arviz()
    groups = getattr(data, 'children', None) or data.groups()
    assert 'log_likelihood' not in groups and 'posterior_predictive' in groups
    assert 'log_likelihood' in (getattr(d := fitted(Line()).to_arviz(), 'children', None) or d.groups())


@pytest.mark.parametrize(
    'use',
    [
        lambda fit: fit.predict(NEW),
        lambda fit: fit.predict(NEW[:1]),
        lambda fit: fit.predict(X + 0.01, kind='mean'),
        lambda fit: fit.predict(NEW, kind='interval'),
        lambda fit: fit.predict((NEW,), batch_size=3),
        lambda fit: infer.conformal(fit, NEW, np.sin(NEW), prob=0.5),
    ],
)
@pytest.mark.parametrize('model', [Process, LowRank, Walk])
def test_new_inputs_are_refused_by_a_joint_law(model, use):
    with pytest.raises(ValueError, match=r'joint .* of all 12 targets. At new inputs .*without the targets .*evaluate'):
        use(fitted(model()))
    with pytest.raises(ValueError, match='At new inputs'):
        use(fitted(Batched(), Y[None]))


def test_replicates_at_the_inputs_are_those_of_the_joint_law():
    fit = fitted(Process())
    covariance = np.asarray(kernel(X, X)) + 0.1 * np.eye(12)
    draws = fit.predict(X, num_draws=4000) - fit.rows[np.repeat(np.arange(200), 20)]
    # 4000 draws: standard error of a covariance below 1.1 sqrt(2 / 4000), 0.025; five of them.
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.125)
    np.testing.assert_array_equal(fit.predict(num_draws=5), fit.predict(X, num_draws=5))
    with pytest.raises(ValueError, match='Leave batch_size out'):
        fit.predict(batch_size=4)


def test_what_the_message_advises_gives_the_conditional_prediction():
    """f(model, new) returns the mean of a Gaussian process given its targets."""
    covariance = np.asarray(kernel(X, X), float) + 0.1 * np.eye(12)

    def mean(model, new):
        weights = jnp.linalg.solve(jnp.asarray(covariance, new.dtype), Y - model.mean.value())
        return model.mean.value() + kernel(new, X) @ weights

    fit = fitted(Process())
    m = fit.rows.astype(float)
    expected = m + (Y - m) @ np.linalg.solve(covariance, np.asarray(kernel(X, NEW), float))
    np.testing.assert_allclose(fit.evaluate(mean, NEW), expected, rtol=1e-3, atol=1e-3)


def test_what_is_no_joint_law_of_rows_predicts_as_ever():
    prior = infer.sample_prior(infer.Posterior(Process(), X, Y), 20)
    assert prior.predict(NEW).shape == (20, 7)  # the prior's law there is what is asked for
    assert fitted(Independent()).predict(NEW).shape == (200, 7)

    class Vectors(nn.Module):
        """Rows of dependent numbers are independent of each other."""

        def __init__(self):
            super().__init__()
            self.mean = nn.Param(jnp.zeros(3))

        def __call__(self, x):
            return dist.MultivariateNormal(self.mean.value() * x[:, None], jnp.eye(3))

    fit = fitted(Vectors(), np.stack([Y] * 3, axis=1))
    assert fit.predict(NEW).shape == (200, 7, 3) and fit.predict(NEW[:1]).shape == (200, 1, 3)
    assert fit.predict(kind='log_density').shape == (12,)

    class Composition(nn.Module):
        """One observation of three shares; the input is no row of it."""

        def __init__(self):
            super().__init__()
            self.strength = nn.Param(1.0, t=nn.PositiveT())

        def __call__(self, x):
            return dist.Dirichlet(jnp.exp(self.strength.value() * x[0] * jnp.array([1.0, 0.0, -1.0])))

    posterior = infer.Posterior(Composition(), np.ones(1, 'f4'), np.array([0.5, 0.3, 0.2], 'f4'))
    assert scattered(posterior).predict(2 * np.ones(1, 'f4')).shape == (60, 3)


class Inside(nn.Module):
    """A model that holds its places itself, and predicts ``law(self.mean.value())`` of all targets."""

    def __init__(self, law):
        super().__init__()
        self.mean = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.law = law

    def __call__(self):
        return self.law(self.mean.value())


WITHOUT_INPUTS = {
    'process': lambda m: dist.MultivariateNormal(m * jnp.ones(12), kernel(X, X) + 0.1 * jnp.eye(12)),
    'low rank': lambda m: dist.LowRankMultivariateNormal(m * jnp.ones(12), X[:, None], 0.1 * jnp.ones(12)),
    'walk': lambda m: dist.GaussianRandomWalk(jnp.exp(m), num_steps=12),
}


@pytest.mark.parametrize('kind', ['mean', 'interval'])
@pytest.mark.parametrize('law', WITHOUT_INPUTS)
def test_a_joint_law_without_inputs_is_not_predicted_as_if_it_had_no_data(law, kind):
    fit = scattered(infer.Posterior(Inside(WITHOUT_INPUTS[law]), targets=Y))
    with pytest.raises(ValueError, match=r'joint .* of all 12 targets. .*without those that .*evaluate\(f\), where'):
        fit.predict(kind=kind)
    assert fit.predict().shape == (60, 12)  # replicates of the data


def test_shares_and_counts_without_inputs_have_a_mean():
    counts, shares = np.array([3, 5, 2]), np.array([0.5, 0.3, 0.2], 'f4')
    p = jnp.array([0.2, 0.5, 0.3])
    for law, y, mean in (
        (lambda m: dist.Dirichlet(jnp.exp(m) * p), shares, p),
        (lambda m: dist.Multinomial(10, p + 0 * m), counts, 10 * p),
    ):
        found = scattered(infer.Posterior(Inside(law), targets=y)).predict(kind='mean')
        np.testing.assert_allclose(found, np.broadcast_to(mean, (60, 3)), rtol=1e-5)


def test_one_observation_is_not_left_out():
    posterior = infer.Posterior(Line(), X[:1], Y[:1])
    with pytest.raises(ValueError, match='loo leaves out one observation after another, but there is only one'):
        scattered(posterior, draws=100).loo()
    assert np.isfinite(scattered(posterior).score()['value', 'nll'])
