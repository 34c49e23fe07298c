"""Every kind of result, small, and all that follows from one; run as a program: the same of files and pickles.

``python -m tests.support.result_kinds folder`` reads every fit that `tests/infer/results/test_kinds_in_files.py` has
written there and writes what follows from it beside it.
"""

import pathlib
import pickle
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from brainstate_prob import environ, infer, nn, random

QUIET = {'progress': False}
CHAINS = {**QUIET, 'num_warmup': 10, 'num_samples': 8, 'num_chains': 2}
STEPS = {**QUIET, 'optimizer': optax.adam(0.05), 'num_steps': 30}
X = np.random.default_rng(0).normal(3.0, 2.0, size=(12, 2)).astype(np.float32)
Y = (X @ np.array([1.0, -1.0]) + 0.1 * np.random.default_rng(1).normal(size=12)).astype(np.float32)


class Line(nn.Module):
    """A matrix and a scale."""

    def __init__(self):
        super().__init__()
        self.w = nn.Param(0.1 * jnp.ones((2, 1)), reg=dist.Normal(0.0, 1.0))
        self.s = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.LogNormal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal((x @ self.w.value())[:, 0], self.s.value())


class Curve(nn.Module):
    """Weights alone, whose prior is Gaussian, behind running statistics and dropout."""

    def __init__(self, normed=True):
        super().__init__()
        self.w = nn.Param(0.1 * jnp.ones(2), reg=dist.Normal(0.0, 1.0))
        self.inner = nn.BatchNorm0d(2, momentum=0.5, affine=False) if normed else nn.Dropout(0.8)

    def __call__(self, x):
        return dist.Normal(jnp.sin(self.inner(x)) @ self.w.value(), 0.5)


class Groups(nn.Module):
    """Means that are moved in standardized form."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))
        self.b = nn.Param(jnp.zeros(12), reg=nn.GaussianReg(self.mu, self.tau))

    def __call__(self, x):
        return dist.Normal(self.b.value()[:2].sum() + x[:, 0], 1.0)


def posterior_of(model):
    random.seed(0)
    return infer.Posterior(model(), X, Y)


def dropped():
    return Curve(normed=False)


def trained(run, **options):
    def fit(posterior):
        with environ.context(fit=True):
            return run(posterior, **options)

    return fit


def way(run, **options):
    return lambda posterior: run(posterior, **options)


def after_map(run, **options):
    def fit(posterior):
        first = trained(infer.map, **STEPS)(posterior)
        return run(posterior, init=first, **options)

    return fit


SVI = {**QUIET, 'num_steps': 10, 'num_draws': 5}
LAPLACE = {**QUIET, 'num_draws': 6}
KINDS = {
    'map': (Curve, trained(infer.map, **STEPS)),
    'laplace full': (Curve, after_map(infer.laplace, **LAPLACE)),
    'laplace diagonal': (Line, way(infer.laplace, structure='diagonal', **LAPLACE)),
    'laplace low_rank': (Line, way(infer.laplace, structure='low_rank', rank=1, **LAPLACE)),
    'laplace kronecker': (Line, way(infer.laplace, structure='kronecker', **LAPLACE)),
    'laplace params': (Line, way(infer.laplace, params='w', **LAPLACE)),
    'laplace groups': (Groups, way(infer.laplace, **LAPLACE)),
    'marginal_likelihood': (Line, way(infer.marginal_likelihood, params='s', num_steps=3, **LAPLACE)),
    'svi diagonal': (Curve, after_map(infer.svi, **SVI)),
    'svi full': (Line, way(infer.svi, guide='full', **SVI)),
    'svi laplace': (Line, way(infer.svi, guide='laplace', **SVI)),
    'svi delta': (Line, way(infer.svi, guide='delta', **SVI)),
    'svi iaf': (Line, way(infer.svi, guide='iaf', **SVI)),
    'nuts': (Groups, way(infer.nuts, **CHAINS)),
    'sgmcmc': (Curve, after_map(infer.sgmcmc, step_size=1e-4, **CHAINS)),
    'smc': (Line, way(infer.smc, num_particles=20, num_moves=1, **QUIET)),
    'pathfinder': (Line, way(infer.pathfinder, num_paths=2, num_draws=30)),
    'ensemble': (Curve, trained(infer.ensemble, num_members=2, **STEPS)),
    'swag': (Curve, trained(infer.swag, init='model', num_steps=20, snapshot_every=2, num_draws=4, **QUIET)),
    'mc_dropout': (dropped, way(infer.mc_dropout, num_draws=4, **STEPS)),
    'chees': (Line, way(infer.chees, **CHAINS)),
    'meads': (Line, way(infer.meads, **{**CHAINS, 'num_chains': 8})),
    'mclmc': (Line, way(infer.mclmc, **{**CHAINS, 'num_warmup': 100})),
    'barker': (Line, way(infer.barker, **CHAINS)),
    'hmc_ecs': (Line, way(infer.hmc_ecs, batch_size=4, **CHAINS)),
    'elliptical_slice': (Curve, way(infer.elliptical_slice, **CHAINS)),
    'prior': (Line, lambda posterior: infer.sample_prior(posterior, 5)),
}


def outcomes(fit):
    """All that follows from a fit, by name, as arrays; texts as arrays of text."""
    found = {
        'kind': np.asarray(repr(fit)),
        'draws': fit.predict(num_draws=7),
        'mean': fit.predict(kind='mean'),
        'new': fit.predict(X[:3] + 1.0, kind='mean'),
        'interval': np.stack(fit.predict(kind='interval', num_draws=50)),
        'summary': np.asarray(str(fit.summary())),
        'score': np.asarray(str(fit.score(num_draws=50))),
        'log_likelihood': fit.log_likelihood(),
        'info': np.asarray(repr(fit.info)),
        'noncentered': np.asarray(repr(fit.noncentered)),
    }
    found |= {f'stats {name}': x for name, x in fit.stats.items()}
    found |= {f'history {name}': x for name, x in fit.history.items()}
    found |= {f'guide {i}': np.asarray(x) for i, x in enumerate(jax.tree.leaves(fit.guide_params))}
    found |= {f'statistics {path}': np.asarray(x) for path, x in fit.running_statistics.items()}
    if isinstance(fit, infer.LaplaceFit):
        found['linearized'] = fit.predict(linearized=True, num_draws=7)
        found['closed form'] = fit.predictive(X[:3]).variance
        found['covariance'] = fit.covariance
        found['evidence'] = np.asarray(fit.log_marginal_likelihood)
        found |= {f'mode {path}': np.asarray(x) for path, x in fit.mode.items()}
    return {name: np.asarray(x) for name, x in found.items()}


def main(folder):
    """What follows from each file and pickle in a folder, written beside it."""
    warnings.simplefilter('ignore')
    for path in sorted(pathlib.Path(folder).iterdir()):
        name, _, kind = path.name.rpartition('.')
        if kind in ('nc', 'zarr'):
            fit = infer.load(path, posterior_of(KINDS[name][0]))
        elif kind == 'pickle':
            fit = pickle.loads(path.read_bytes())
        else:
            continue
        np.savez(f'{path}.npz', **outcomes(fit))


if __name__ == '__main__':
    main(sys.argv[1])
