"""Models of the shared reference posteriors, written once for every test of a way to fit."""

import json

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

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


def _kid_features(d):
    return np.stack([np.ones(len(d['mom_iq'])), d['mom_hs'], d['mom_iq'], d['mom_hs'] * d['mom_iq']], axis=1).astype(
        np.float32
    )


# name: model, inputs and targets from the data, mass matrix
POSTERIORS = {
    'eight_schools': (EightSchools, lambda d: d['sigma'], 'y', 'diagonal'),
    'eight_schools_centred': (CentredEightSchools, lambda d: d['sigma'], 'y', 'diagonal'),
    'kidscore_interaction': (KidScore, _kid_features, 'kid_score', 'dense'),
    'linear_regression_corr': (Regression, lambda d: d['X'], 'y', 'diagonal'),
    'gauss_mix': (Mixture, lambda d: None, 'y', 'diagonal'),
}


def reference_posterior(shared_dir, name):
    """The `Posterior` of a reference, in single precision."""
    model, inputs, targets, _ = POSTERIORS[name]
    folder = shared_dir / 'data' / 'posteriors' / name.removesuffix('_centred')
    data = {k: np.asarray(v) for k, v in json.loads((folder / 'data.json').read_text()).items()}
    x = inputs(data)
    return infer.Posterior(
        model(), None if x is None else jnp.asarray(x, jnp.float32), jnp.asarray(data[targets], jnp.float32)
    )


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
        if shift.max() > mean:
            wrong.append(f'{name}: mean off by {shift.max():.3f} sd')
        if ratio.min() < sd[0] or ratio.max() > sd[1]:
            wrong.append(f'{name}: sd ratio {ratio.min():.3f} to {ratio.max():.3f}')
        if 'q05' in ref and quantile is not None:
            width = np.asarray(ref['q95']) - ref['q05']
            for p in (5, 50, 95):
                off = np.abs(np.percentile(x, p, axis=0) - ref[f'q{p:02d}']) / width
                if off.max() > quantile:
                    wrong.append(f'{name}: {p} % quantile off by {off.max():.3f} of the range')
    return wrong
