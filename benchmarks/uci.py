"""Bayesian neural networks on the UCI regression sets, every way to fit one model, beside published figures.

The protocol of Hernandez-Lobato and Adams (2015): 20 splits of 90/10, one hidden layer of 50 ReLU units, features and
target scaled by the training set; RMSE and mean log density per test point in the target's own units, mean and standard
error over the splits. Also how many test targets the 90 % intervals cover: those of the fit, and those that
split-conformal calibration puts on top of a fit to four fifths of the training set (its other fifth calibrates).

    python benchmarks/uci.py --data ../shared/data/uci --sets yacht --methods map laplace --splits 20
    python benchmarks/uci.py --data ../shared/data/uci --table docs/uci.md

Results are kept split by split in benchmarks/uci.json, so a run that was stopped goes on where it was.
Without the file all is run anew, which takes hours.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from brainstate_prob import infer, nn, random

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / 'uci.json'
SETS = ('concrete', 'energy', 'yacht', 'wine_red')
PUBLISHED = {'pbp': 'PBP', 'mc_dropout_repo_gridsearch': 'MC dropout (2018)', 'deep_ensemble_5': 'Deep ensemble'}


READING = """What the tables say:

* Four ways or more have at least PBP's log-likelihood on each set. On concrete, energy and yacht NUTS has the best of
  all, at 20 to 50 times the ensemble's cost.
* The intervals of NUTS cover what they promise on every set. Those of MAP, which takes the weights for known, are far
  too narrow; Laplace's slightly so on energy and wine. On yacht, of 277 training rows, all but these two are too wide,
  and on energy the ensemble's and SG-MCMC's, to whose spread bootstrap samples and minibatches add.
* With split-conformal calibration on top every way covers 88 to 93 % on every set, for a fifth of the training data.
"""


class Network(nn.Module):
    """Features -> 50 ReLU units -> the mean of a normal target whose noise is learned."""

    def __init__(self, num_features: int, num_hidden: int = 50):
        super().__init__()
        layers = nn.Sequential(nn.Linear(num_features, num_hidden), nn.ReLU(), nn.Linear(num_hidden, 1))
        self.layers = nn.with_prior(
            layers,
            {
                '*.bias': dist.Normal(0.0, 1.0),
                ...: lambda path, weight: dist.Normal(0.0, 1.0 if weight.shape[0] == num_features else 0.3),
            },
        )
        self.noise = nn.Param(0.3, t=nn.PositiveT(), reg=dist.LogNormal(jnp.log(0.3), 1.0))

    def __call__(self, features):
        return dist.Normal(self.layers(features)[..., 0], self.noise.value())


def descend(posterior: infer.Posterior, **options) -> infer.Fit:
    """The mode of theta's density, from which the others start."""
    schedule = optax.cosine_decay_schedule(1e-2, 3000)
    return infer.map(posterior, optimizer=optax.adam(schedule), num_steps=3000, progress=False, **options)


def laplace(posterior: infer.Posterior) -> infer.Fit:
    return infer.laplace(posterior, curvature='ggn', init=descend(posterior, jacobian=True), progress=False)


def ensemble(posterior: infer.Posterior) -> infer.Fit:
    schedule = optax.cosine_decay_schedule(1e-2, 1000)

    return infer.ensemble(
        posterior,
        num_members=10,
        init=lambda: Network(posterior.data.args[0].shape[1]),
        optimizer=optax.adam(schedule),
        num_steps=1000,
        bootstrap=True,
        progress=False,
    )


def svi(posterior: infer.Posterior) -> infer.Fit:
    schedule = optax.cosine_decay_schedule(1e-2, 8000)
    return infer.svi(
        posterior, guide='diagonal', optimizer=optax.adam(schedule), num_steps=8000, num_draws=500, progress=False
    )


def sgmcmc(posterior: infer.Posterior) -> infer.Fit:
    return infer.sgmcmc(
        posterior,
        method='sghmc',
        step_size=3e-6,
        batch_size=100,
        num_warmup=4000,
        num_samples=2000,
        thinning=20,
        num_chains=4,
        progress=False,
    )


def nuts(posterior: infer.Posterior) -> infer.Fit:
    return infer.nuts(
        posterior,
        init=descend(posterior),
        num_warmup=300,
        num_samples=300,
        num_chains=2,
        max_tree_depth=8,
        progress=False,
    )


# One entry a method: how the posterior is fitted, and what its predictions are asked for beside.
METHODS: dict[str, tuple[Callable[[infer.Posterior], infer.Fit], dict[str, Any]]] = {
    'map': (descend, {}),
    'laplace': (laplace, {'linearized': True}),
    'ensemble': (ensemble, {}),
    'svi': (svi, {}),
    'sgmcmc': (sgmcmc, {}),
    'nuts': (nuts, {}),
}


def load_split(folder: pathlib.Path, split: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The table scaled by the training set, the rows to train and to test on, and the target's unit."""
    table = np.loadtxt(folder / 'data.csv', delimiter=',', skiprows=1)
    test = np.load(folder / 'splits.npz')['test'][split]
    train = np.setdiff1d(np.arange(len(table)), test)
    center, spread = table[train].mean(0), table[train].std(0)
    spread[spread == 0] = 1.0
    return (table - center) / spread, train, test, spread[-1]


def run_split(folder: pathlib.Path, split: int, method: str) -> dict[str, float]:
    """Fit one split and score its test set."""
    # The curvatures of a network's posterior span more than float32 has digits.
    with jax.enable_x64(method == 'laplace'):
        table, train, test, unit = load_split(folder, split)
        data = jnp.asarray(table[:, :-1]), jnp.asarray(table[:, -1])
        fit, seconds, options = fitted(*(x[train] for x in data), split, method)
        features, target = (x[test] for x in data)
        log_density = fit.predict(features, target, kind='log_density', **options) - np.log(unit)
        interval = fit.predict(features, kind='interval', prob=0.9, num_draws=max(1000, len(fit.rows)), **options)
        return {
            'rmse': float(unit * np.sqrt(np.mean((interval.mean - np.asarray(target)) ** 2))),
            'll': float(np.mean(log_density)),
            'coverage': covered(interval, target),
            'seconds': seconds,
        }


def run_conformal(folder: pathlib.Path, split: int, method: str) -> dict[str, float]:
    """Fit four fifths of one split's training set, calibrate on the rest, and count what the intervals cover."""
    with jax.enable_x64(method == 'laplace'):
        table, train, test, _ = load_split(folder, split)
        order = np.random.default_rng(split).permutation(train)
        first, held = order[len(order) // 5 :], order[: len(order) // 5]
        data = jnp.asarray(table[:, :-1]), jnp.asarray(table[:, -1])
        fit, _, options = fitted(*(x[first] for x in data), split, method)
        calibrated = infer.conformal(fit, *(x[held] for x in data), prob=0.9, **options)
        return {'conformal': covered(calibrated.predict(data[0][test], **options), data[1][test])}


def fitted(features: jax.Array, target: jax.Array, split: int, method: str) -> tuple[infer.Fit, float, dict]:
    """The fit, the seconds it took, and what its predictions are asked for."""
    random.seed(split)
    posterior = infer.Posterior(Network(features.shape[1]), features, target)
    run, options = METHODS[method]
    began = time.perf_counter()
    return run(posterior), time.perf_counter() - began, options


def covered(interval: Any, target: jax.Array) -> float:
    actual = np.asarray(target)
    return float(np.mean((interval.lower <= actual) & (actual <= interval.upper)))


def load_results() -> dict[str, dict[str, float]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def mean_and_error(values: list[float], digits: int = 2) -> str:
    spread = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f'{np.mean(values):.{digits}f} ± {spread:.{digits}f}'


def table(results: dict[str, dict[str, float]], published: dict) -> str:
    """A Markdown table a data set: ours, then the published figures."""
    lines = []
    for name in SETS:
        lines += [f'### {name}', '']
        lines += ['| method | splits | RMSE | log likelihood | 90 % covers | conformal covers | seconds a fit |']
        lines += ['|---|---|---|---|---|---|---|']
        for method in METHODS:
            rows = [r for key, r in results.items() if key.split('/')[:2] == [name, method]]
            if rows:
                cells = (mean_and_error([r[k] for r in rows]) for k in ('rmse', 'll'))
                cover, seconds = np.mean([r['coverage'] for r in rows]), np.median([r['seconds'] for r in rows])
                calibrated = [r['conformal'] for r in rows if 'conformal' in r]
                conformal = f'{np.mean(calibrated):.1%}' if calibrated else ''
                cells = ' | '.join(cells)
                lines.append(f'| {method} | {len(rows)} | {cells} | {cover:.1%} | {conformal} | {seconds:.1f} |')
        for key, label in PUBLISHED.items():
            entry = published[name].get(key)
            if entry:
                cells = (f'{entry[k][0]:.2f} ± {entry[k][1]:.2f}' for k in ('rmse', 'll'))
                lines.append(f'| *{label}, published ({entry["pm"]})* | 20 | {" | ".join(cells)} | | | |')
        lines.append('')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(os.environ.get('BRAINSTATE_PROB_SHARED', '../shared')) / 'data' / 'uci'
    parser.add_argument('--data', type=pathlib.Path, default=default, help='folder with concrete/, energy/, ...')
    parser.add_argument('--sets', nargs='+', default=SETS, choices=SETS)
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    parser.add_argument('--splits', type=int, default=20)
    parser.add_argument('--conformal', action='store_true', help='add conformal coverage to what was run')
    parser.add_argument('--table', type=pathlib.Path, help='only write the tables of what was run to this page')
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f'no data at {options.data}: give --data')
        return
    results = load_results()
    published = json.loads((options.data / 'published.json').read_text())
    if options.table is None:
        for name in options.sets:
            for method in options.methods:
                for split in range(options.splits if method != 'nuts' else min(3, options.splits)):
                    key = f'{name}/{method}/{split}'
                    known = load_results().get(key, {})
                    run = run_conformal if options.conformal else run_split
                    if not known or (options.conformal and 'conformal' not in known):
                        scored = run(options.data / name, split, method)
                        results = load_results()
                        results[key] = {**results.get(key, {}), **scored}
                        RESULTS.write_text(json.dumps(results, indent=1) + '\n')
        print(table(results, published))
    else:
        title, protocol = __doc__.split('\n\n')[:2]
        options.table.write_text(
            f'# {title.rstrip(".")}\n\n{protocol}\n\n{READING}\n{table(results, published)}'.replace('###', '##')
        )


if __name__ == '__main__':
    main()
