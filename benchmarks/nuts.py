"""NUTS: smallest bulk effective sample size a second, of every backend and option, beside the libraries' own drivers.

    python benchmarks/nuts.py [eight_schools logistic radon] [--repeats 5] [--markdown FILE]

4 chains of 1000 + 1000 steps. Seconds are those of the whole call, starts, warm-up and diagnostics included. The first
fit compiles. The others have new data of the same shape and another seed; they take turns in one run, so that a noisy
machine hits all alike, and the median counts. NumPyro and BlackJAX are driven in their fastest documented way:
``jit_model_args`` and one `MCMC` object, or one jitted function of the data, so that they compile once too.

The data of radon, and of logistic regression if they are there, come from $BRAINSTATE_PROB_SHARED.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

from brainstate_prob import infer, nn
from brainstate_prob.infer.diagnostics.ess import bulk_ess

CHAINS, WARMUP, SAMPLES = 4, 1000, 1000
SHARED = pathlib.Path(
    os.environ.get('BRAINSTATE_PROB_SHARED') or pathlib.Path(__file__).resolve().parents[2] / 'shared'
)


# The three models, for us, for NumPyro, and as a log density for BlackJAX (all non-centred)


class Schools(nn.Module):
    """Eight schools."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(), reg=dist.HalfCauchy(5.0))
        self.theta = nn.Param(jnp.zeros(8), reg=nn.GaussianReg(self.mu, self.tau))

    def __call__(self, sigma):
        return dist.Normal(self.theta.value(), sigma)


def schools_numpyro(sigma, y):
    mu = numpyro.sample('mu', dist.Normal(0.0, 5.0))
    tau = numpyro.sample('tau', dist.HalfCauchy(5.0))
    raw = numpyro.sample('raw', dist.Normal(0.0, 1.0).expand([8]))
    numpyro.sample('y', dist.Normal(mu + tau * raw, sigma), obs=y)


def schools_density(theta, sigma, y):
    mu, log_tau, raw = theta['mu'], theta['log_tau'], theta['raw']
    tau = jnp.exp(log_tau)
    prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + log_tau - 0.5 * jnp.sum(raw**2)
    return prior - 0.5 * jnp.sum(((y - mu - tau * raw) / sigma) ** 2)


def schools_data(k):
    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]), y + 0.1 * k


class Logistic(nn.Module):
    """1000 x 25."""

    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(25), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Bernoulli(logits=x @ self.w.value())


def logistic_numpyro(x, y):
    w = numpyro.sample('w', dist.Normal(0.0, 1.0).expand([25]))
    numpyro.sample('y', dist.Bernoulli(logits=x @ w), obs=y)


def logistic_density(theta, x, y):
    logits = x @ theta['w']
    return jnp.sum(y * logits - jax.nn.softplus(logits)) - 0.5 * jnp.sum(theta['w'] ** 2)


def logistic_data(k):
    path = SHARED / 'data/posteriors/german_credit_logistic/data.json'
    rng = np.random.default_rng(k)
    if path.exists():
        d = json.loads(path.read_text())
        raw, y = np.asarray(d['X_raw'], float), np.asarray(d['y'])
        x = np.concatenate([(raw - raw.mean(0)) / raw.std(0), np.ones((1000, 1))], axis=1)
    else:
        x = rng.normal(size=(1000, 25))
        y = rng.uniform(size=1000) < 1 / (1 + np.exp(-x @ np.linspace(-1, 1, 25)))
    keep = rng.permutation(1000) if k else np.arange(1000)
    return jnp.asarray(x[keep], jnp.float32), jnp.asarray(y[keep], jnp.int32)


class Radon(nn.Module):
    """85 counties."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.scale = nn.Param(1.0, t=None, reg=dist.Uniform(0.0, 100.0))
        self.county = nn.Param(jnp.zeros(85), reg=nn.GaussianReg(self.mean, self.scale))
        self.weight = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))
        self.noise = nn.Param(1.0, t=None, reg=dist.Uniform(0.0, 100.0))

    def __call__(self, x, county):
        return dist.Normal(x @ self.weight.value() + self.county.value()[county], self.noise.value())


def radon_numpyro(x, county, y):
    mean = numpyro.sample('mean', dist.Normal(0.0, 1.0))
    scale = numpyro.sample('scale', dist.Uniform(0.0, 100.0))
    raw = numpyro.sample('raw', dist.Normal(0.0, 1.0).expand([85]))
    weight = numpyro.sample('weight', dist.Normal(0.0, 1.0).expand([3]))
    noise = numpyro.sample('noise', dist.Uniform(0.0, 100.0))
    numpyro.sample('y', dist.Normal(x @ weight + (mean + scale * raw)[county], noise), obs=y)


def radon_density(theta, x, county, y):
    scale, noise = 100 * jax.nn.sigmoid(theta['scale']), 100 * jax.nn.sigmoid(theta['noise'])
    effect = theta['mean'] + scale * theta['raw']
    prior = -0.5 * (theta['mean'] ** 2 + jnp.sum(theta['raw'] ** 2) + jnp.sum(theta['weight'] ** 2))
    for t in (theta['scale'], theta['noise']):
        prior = prior + jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t)
    return prior - 0.5 * jnp.sum(((y - x @ theta['weight'] - effect[county]) / noise) ** 2) - y.size * jnp.log(noise)


def radon_data(k):
    d = json.loads((SHARED / 'data/posteriors/radon_mn_contextual/data.json').read_text())
    county, floor = np.asarray(d['county']), np.asarray(d['floor'], float)
    floor_mean = np.array([floor[county == j].mean() for j in range(85)])[county]
    x = np.stack([np.asarray(d['log_uranium']), floor, floor_mean], axis=1)
    y = np.log(np.asarray(d['radon'])) + 0.01 * k
    return jnp.asarray(x, jnp.float32), jnp.asarray(county, jnp.int32), jnp.asarray(y, jnp.float32)


BLACKJAX_START = {
    'eight_schools': {'mu': 0.0, 'log_tau': 0.0, 'raw': jnp.zeros(8)},
    'logistic': {'w': jnp.zeros(25)},
    'radon': {'mean': 0.0, 'scale': -4.6, 'raw': jnp.zeros(85), 'weight': jnp.zeros(3), 'noise': -4.6},
}
MODELS = {
    'eight_schools': (Schools, schools_numpyro, schools_density, schools_data),
    'logistic': (Logistic, logistic_numpyro, logistic_density, logistic_data),
    'radon': (Radon, radon_numpyro, radon_density, radon_data),
}


# The drivers: a function of k (data and seed) that gives draws (chains, draws, size)


def ours(name: str, **options) -> Callable:
    """`infer.nuts`."""
    model, _, _, data = MODELS[name]

    def run(k):
        *inputs, y = data(k)
        posterior = infer.Posterior(model(), tuple(inputs), y)
        settings = {'num_warmup': WARMUP, 'num_samples': SAMPLES, 'num_chains': CHAINS, 'progress': False, 'seed': k}
        return infer.nuts(posterior, **settings, **options).thetas

    return run


def by_numpyro(name: str, method: str) -> Callable:
    """`numpyro.infer.MCMC`."""
    _, model, _, data = MODELS[name]
    mcmc = MCMC(
        NUTS(model),
        num_warmup=WARMUP,
        num_samples=SAMPLES,
        num_chains=CHAINS,
        chain_method=method,
        jit_model_args=True,
        progress_bar=False,
    )

    def run(k):
        mcmc.run(jax.random.key(k), *data(k))
        return _flat(mcmc.get_samples(group_by_chain=True))

    return run


def by_blackjax(name: str, method: str) -> Callable:
    """`blackjax.window_adaptation` and `blackjax.nuts`."""
    _, _, density, data = MODELS[name]

    def chain(key, *values):
        def logdensity(theta):
            return density(theta, *values)

        start_key, warmup_key, sample_key = jax.random.split(key, 3)
        flat, unravel = jax.flatten_util.ravel_pytree(BLACKJAX_START[name])
        start = unravel(flat + jax.random.uniform(start_key, flat.shape, minval=-1.0, maxval=1.0))
        warmup = blackjax.window_adaptation(blackjax.nuts, logdensity)
        (state, parameters), _ = warmup.run(warmup_key, start, WARMUP)
        kernel = blackjax.nuts(logdensity, **parameters)
        keys = jax.random.split(sample_key, SAMPLES)
        return jax.lax.scan(lambda s, key: (lambda new: (new, new.position))(kernel.step(key, s)[0]), state, keys)[1]

    def all_chains(keys, *values):
        one = lambda key: chain(key, *values)
        return jax.vmap(one)(keys) if method == 'vectorized' else jax.lax.map(one, keys)

    jitted = jax.jit(all_chains)
    return lambda k: _flat(jitted(jax.random.split(jax.random.key(k), CHAINS), *data(k)))


def _flat(samples):
    leaves = [np.asarray(x) for x in jax.tree.leaves(samples)]
    return np.concatenate([x.reshape(*x.shape[:2], -1) for x in leaves], axis=2)


OURS = {
    'ours: numpyro': {},
    'ours: numpyro, gradient': {'warmup': 'gradient'},
    'ours: numpyro, low rank': {'mass_matrix': 'low_rank'},
    'ours: blackjax': {'backend': 'blackjax'},
    'ours: blackjax, gradient': {'backend': 'blackjax', 'warmup': 'gradient'},
    'ours: blackjax, low rank': {'backend': 'blackjax', 'mass_matrix': 'low_rank'},
    'ours: nutpie': {'backend': 'nutpie'},
}
THEIRS = {
    'NumPyro, sequential': lambda name: by_numpyro(name, 'sequential'),
    'NumPyro, vectorized': lambda name: by_numpyro(name, 'vectorized'),
    'BlackJAX, sequential': lambda name: by_blackjax(name, 'sequential'),
    'BlackJAX, vectorized': lambda name: by_blackjax(name, 'vectorized'),
}


def measure(name: str, repeats: int, only: str = '') -> list[tuple[str, float, float, float, float, float]]:
    """By driver: first and later seconds, smallest bulk ESS, and that a second, first and later."""
    drivers = {label: ours(name, **options) for label, options in OURS.items()}
    drivers |= {label: make(name) for label, make in THEIRS.items()}
    drivers = {label: run for label, run in drivers.items() if only in label}
    seconds: dict[str, list[float]] = {label: [] for label in drivers}
    sizes: dict[str, list[float]] = {label: [] for label in drivers}
    for k in range(repeats + 1):
        for label, run in drivers.items():
            began = time.perf_counter()
            draws = np.asarray(run(k))
            seconds[label].append(time.perf_counter() - began)
            sizes[label].append(float(bulk_ess(draws).min()))
    rows = []
    for label in drivers:
        first, later = seconds[label][0], float(np.median(seconds[label][1:]))
        ess = float(np.median(sizes[label]))
        rows.append((label, first, later, ess, ess / first, ess / later))
    return rows


def main() -> None:
    """Print, and write, a table a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('models', nargs='*', help=f'of {list(MODELS)}; default: all')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--only', default='')
    parser.add_argument('--markdown')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    text = []
    for name in args.models or list(MODELS):
        text.append(f'\n**{name}**\n')
        text.append('| driver | first fit, s | later fits, s | min bulk ESS | ESS/s, first | ESS/s, later |')
        text.append('|---|---:|---:|---:|---:|---:|')
        for label, first, later, ess, fast, faster in measure(name, args.repeats, args.only):
            text.append(f'| {label} | {first:.2f} | {later:.2f} | {ess:.0f} | {fast:.0f} | {faster:.0f} |')
        print('\n'.join(text[text.index(f'\n**{name}**\n') :]), flush=True)
    if args.markdown:
        pathlib.Path(args.markdown).write_text('\n'.join(text) + '\n')


if __name__ == '__main__':
    main()
