"""Models of the shared reference posteriors, written once for every test of a way to fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from brainstate_prob import infer, nn


class EightSchools(nn.Module):
    """Non-centred: ``effect = mu + tau * raw``."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfCauchy(5.0))
        self.raw = nn.Param(jnp.zeros(8), reg=dist.Normal(0.0, 1.0), dims=('school',))

    def __call__(self, sigma):
        return dist.Normal(self.mu.value() + self.tau.value() * self.raw.value(), sigma)

    @staticmethod
    def reference_values(draws):
        """The reference's parameters from the draws of this model's."""
        mu, tau = draws['mu'], draws['tau']
        return {'mu': mu, 'tau': tau, 'theta': mu[..., None] + tau[..., None] * draws['raw']}


class CentredEightSchools(nn.Module):
    """The form with a funnel, on purpose."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfCauchy(5.0))
        self.theta = nn.Param(jnp.zeros(8), reg=nn.GaussianReg(self.mu, self.tau), dims=('school',))

    def __call__(self, sigma):
        return dist.Normal(self.theta.value(), sigma)


class KidScore(nn.Module):
    def __init__(self):
        super().__init__()
        self.beta = nn.Param(jnp.zeros(4))
        self.sigma = nn.Param(20.0, t=nn.ExpT(0.0), reg=dist.HalfCauchy(2.5))

    def __call__(self, features):
        return dist.Normal(features @ self.beta.value(), self.sigma.value())


class Regression(nn.Module):
    def __init__(self, size=5, prior=dist.Normal(0.0, 10.0)):  # noqa: B008
        super().__init__()
        self.beta = nn.Param(jnp.zeros(size), reg=prior)
        self.sigma = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(10.0))

    def __call__(self, x):
        return dist.Normal(x @ self.beta.value(), self.sigma.value())


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(jnp.array([-1.0, 1.0]), t=nn.OrderedT(), reg=dist.Normal(0.0, 2.0))
        self.sigma = nn.Param(jnp.ones(2), t=nn.ExpT(0.0), reg=dist.HalfNormal(2.0))
        self.theta = nn.Param(0.5, t=nn.SigmoidT(0.0, 1.0), reg=dist.Beta(5.0, 5.0))

    def __call__(self):
        weight = self.theta.value()
        components = dist.Normal(self.mu.value(), self.sigma.value())
        return dist.MixtureSameFamily(dist.Categorical(jnp.stack([weight, 1 - weight])), components)


class Autoregression(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Param(0.0, reg=dist.Normal(0.0, 10.0))
        self.beta = nn.Param(jnp.zeros(5), reg=dist.Normal(0.0, 10.0))
        self.sigma = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfCauchy(2.5))

    def __call__(self, lags):
        return dist.Normal(self.alpha.value() + lags @ self.beta.value(), self.sigma.value())


class HiddenMarkov(nn.Module):
    """Two states, summed out by the forward recursion."""

    def __init__(self):
        super().__init__()
        self.theta1 = nn.Param(jnp.full(2, 0.5), t=nn.SimplexT(), reg=dist.Dirichlet(jnp.ones(2)))
        self.theta2 = nn.Param(jnp.full(2, 0.5), t=nn.SimplexT(), reg=dist.Dirichlet(jnp.ones(2)))
        positive_ordered = nn.ChainT(nn.OrderedT(), nn.PositiveT())
        self.mu = nn.Param(jnp.array([3.0, 10.0]), t=positive_ordered, reg=dist.Normal(jnp.array([3.0, 10.0]), 1.0))

    @staticmethod
    def log_likelihood(model, y):
        move = jnp.log(jnp.stack([model.theta1.value(), model.theta2.value()]))
        emit = dist.Normal(model.mu.value(), 1.0).log_prob(y[:, None])

        def step(log_p, emission):
            return logsumexp(log_p[:, None] + move, axis=0) + emission, None

        return logsumexp(jax.lax.scan(step, emit[0], emit[1:])[0])


class GaussianProcess(nn.Module):
    """Whitened; for 64 bits."""

    def __init__(self):
        super().__init__()
        self.rho = nn.Param(6.0, t=nn.ExpT(0.0), reg=dist.Gamma(25.0, 4.0))
        self.alpha = nn.Param(2.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(2.0))
        self.raw = nn.Param(jnp.zeros(11), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        cov = self.alpha.value() ** 2 * jnp.exp(-0.5 * ((x[:, None] - x) / self.rho.value()) ** 2)
        return dist.Poisson(jnp.exp(jnp.linalg.cholesky(cov + 1e-10 * jnp.eye(11)) @ self.raw.value()))

    @staticmethod
    def reference_values(draws):
        x = np.arange(-10.0, 11.0, 2.0)
        cov = np.exp(-0.5 * ((x[:, None] - x) / draws['rho'][..., None, None]) ** 2)
        cov = draws['alpha'][..., None, None] ** 2 * cov + 1e-10 * np.eye(11)
        f = np.einsum('...ij,...j->...i', np.linalg.cholesky(cov), draws['raw'])
        return {'rho': draws['rho'], 'alpha': draws['alpha'], 'f': f}


class OneCompartment(nn.Module):
    """A differential equation: absorption of a dose, saturating elimination. Measured every half hour."""

    def __init__(self):
        super().__init__()
        for name in ('k_a', 'K_m', 'V_m', 'sigma'):
            setattr(self, name, nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfCauchy(1.0)))

    def __call__(self, times):
        k_a, k_m, v_m = self.k_a.value(), self.K_m.value(), self.V_m.value()
        dt, steps = 0.1, 5

        def slope(t, c):
            return k_a * jnp.exp(-k_a * t) * 15.0 - v_m / 2.0 * c / (k_m + c)

        def step(c, t):
            k1 = slope(t, c)
            k2 = slope(t + dt / 2, c + dt / 2 * k1)
            k3 = slope(t + dt / 2, c + dt / 2 * k2)
            k4 = slope(t + dt, c + dt * k3)
            c = c + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return c, c

        grid = dt * jnp.arange(steps * times.size)
        concentration = jax.lax.scan(step, jnp.zeros_like(k_a), grid, unroll=5)[1][steps - 1 :: steps]
        return dist.LogNormal(jnp.log(jnp.maximum(concentration, 1e-6)), self.sigma.value())


class Logistic(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Param(jnp.zeros(25), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Bernoulli(logits=x @ self.weights.value())


class Radon(nn.Module):
    """County effects with a fitted mean and scale, written centred: samplers move them non-centred."""

    def __init__(self):
        super().__init__()
        self.county_effect_mean = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.county_effect_scale = nn.Param(1.0, t=None, reg=dist.Uniform(0.0, 100.0))
        self.county_effect = nn.Param(
            jnp.zeros(85), reg=nn.GaussianReg(self.county_effect_mean, self.county_effect_scale), dims=('county',)
        )
        self.weight = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))
        self.log_radon_scale = nn.Param(1.0, t=None, reg=dist.Uniform(0.0, 100.0))

    def __call__(self, features, county):
        mean = features @ self.weight.value() + self.county_effect.value()[county]
        return dist.Normal(mean, self.log_radon_scale.value())


def _kid_features(d):
    return np.stack([np.ones(len(d['mom_iq'])), d['mom_hs'], d['mom_iq'], d['mom_hs'] * d['mom_iq']], axis=1).astype(
        np.float32
    )


def _lags(d):
    return np.stack([d['y'][4 - k : 199 - k] for k in range(5)], axis=1)


def _scaled(d):
    x = (d['X_raw'] - d['X_raw'].mean(0)) / d['X_raw'].std(0)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _houses(d):
    county = d['county'].astype(int)
    floor_mean = np.array([d['floor'][county == j].mean() for j in range(85)])[county]
    return np.stack([d['log_uranium'], d['floor'], floor_mean], axis=1), county


# name: model, inputs and targets from the data, options of NUTS
POSTERIORS = {
    'eight_schools': (EightSchools, lambda d: d['sigma'], 'y', {}),
    'eight_schools_centred': (CentredEightSchools, lambda d: d['sigma'], 'y', {}),
    'kidscore_interaction': (KidScore, _kid_features, 'kid_score', {'mass_matrix': 'full'}),
    'linear_regression_corr': (Regression, lambda d: d['X'], 'y', {}),
    'gauss_mix': (Mixture, lambda d: None, 'y', {}),
    'ar5': (Autoregression, _lags, lambda d: d['y'][5:], {}),
    'hmm_gauss': (HiddenMarkov, lambda d: None, 'y', {}),
    'gp_poisson': (GaussianProcess, lambda d: d['x'], lambda d: d['k'].astype(int), {'target_accept': 0.95}),
    'pk_one_compartment': (
        OneCompartment,
        lambda d: d['times'],
        'C_hat',
        {'mass_matrix': 'full', 'target_accept': 0.95},
    ),
    'german_credit_logistic': (Logistic, _scaled, lambda d: d['y'].astype(int), {}),
    'radon_mn_contextual': (Radon, _houses, lambda d: np.log(d['radon']), {}),
}


def _array(x):
    """Numbers in the default float."""
    return jnp.asarray(x, float if np.issubdtype(np.asarray(x).dtype, np.floating) else None)


def reference_posterior(shared_dir, name):
    """The `Posterior` of a reference, in the default precision."""
    model, inputs, targets, _ = POSTERIORS[name]
    folder = shared_dir / 'data' / 'posteriors' / name.removesuffix('_centred')
    data = {
        k: np.asarray(v, str if k == 'county_name' else float)
        for k, v in json.loads((folder / 'data.json').read_text()).items()
    }
    x = inputs(data)
    y = data[targets] if isinstance(targets, str) else targets(data)
    x = None if x is None else tuple(map(_array, x)) if isinstance(x, tuple) else _array(x)
    return infer.Posterior(model(), x, _array(y), log_likelihood=getattr(model, 'log_likelihood', None))


def reference_of(shared_dir, name):
    """The reference's figures by parameter: mean, sd, quantiles."""
    folder = shared_dir / 'data' / 'posteriors' / name.removesuffix('_centred')
    return json.loads((folder / 'reference.json').read_text())['params']


def compare(draws, reference, *, mean=0.1, sd=(0.9, 1.1), quantile=0.08):
    """The deviations of draws (chains, draws, ...) from a reference that pass a bound; empty if all agree."""
    wrong = []
    for name, ref in reference.items():
        x = np.asarray(draws[name], np.float64).reshape(-1, *np.shape(ref['mean']))
        shift = np.abs(x.mean(0) - ref['mean']) / ref['sd']
        ratio = x.std(0) / ref['sd']
        if not shift.max() <= mean:  # written so that NaN does not pass
            wrong.append(f'{name}: mean off by {shift.max():.3f} sd')
        if not (ratio.min() >= sd[0] and ratio.max() <= sd[1]):
            wrong.append(f'{name}: sd ratio {ratio.min():.3f} to {ratio.max():.3f}')
        if 'q05' in ref and quantile is not None:
            width = np.asarray(ref['q95']) - ref['q05']
            for p in (5, 50, 95):
                off = np.abs(np.percentile(x, p, axis=0) - ref[f'q{p:02d}']) / width
                if not off.max() <= quantile:
                    wrong.append(f'{name}: {p} % quantile off by {off.max():.3f} of the range')
    return wrong
