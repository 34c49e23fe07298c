# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Uncertainty, side by side
#
# A network that was trained says what it expects, not how sure it is. Six ways to ask it, from cheap to costly, all
# over the same parameters under the same log density:
#
# | | what it does |
# |---|---|
# | MAP | the best parameters, and nothing about others |
# | Laplace | a Gaussian around them, from the curvature |
# | SVI | the best Gaussian of a family (here: independent parameters) |
# | ensemble | the best parameters from several starts, each trained on a resampled data set |
# | SG-MCMC | a noisy descent that does not settle, on small batches |
# | NUTS | draws from the posterior itself; the others are judged by it |
#
# One regression and one classification task show what each is worth: how good the predictions are, whether the stated
# uncertainty is true, and what it costs.

# %%
import time
import warnings

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import optax
from sklearn.datasets import load_breast_cancer

from brainstate_prob import infer, nn, random

# %% [markdown]
# ## Two networks
#
# A Bayesian network is an ordinary one plus a line: `nn.with_prior` gives every weight a prior. The regression network
# also learns the size of the noise, a `Param` that stays positive.


# %%
def layers(num_features, num_hidden):
    network = nn.Sequential(nn.Linear(num_features, num_hidden), nn.Tanh(), nn.Linear(num_hidden, 1))
    return nn.with_prior(network, {...: lambda path, w: dist.Normal(0.0, 1.0 if len(w) == num_features else 0.5)})


class Regression(nn.Module):
    def __init__(self, num_features, num_hidden=20):
        super().__init__()
        self.layers = layers(num_features, num_hidden)
        self.noise = nn.Param(0.3, t=nn.PositiveT(), reg=dist.LogNormal(-1.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.layers(x)[..., 0], self.noise.value())


class Classification(nn.Module):
    def __init__(self, num_features, num_hidden=5):
        super().__init__()
        self.layers = layers(num_features, num_hidden)

    def __call__(self, x):
        return dist.Bernoulli(logits=self.layers(x)[..., 0])


# %% [markdown]
# ## Two data sets
#
# *Yacht*: the resistance of a hull in the water from six measures of its shape and speed (308 trials in a towing
# tank, UCI). *Breast cancer*: benign or malignant, from 30 measures of the cells of 569 tissue samples (UCI, in
# scikit-learn).
# A part of each is held back, and nothing is tuned on it.

# %%
rng = np.random.default_rng(0)


def split(x, y, num_test):
    order = rng.permutation(len(x))
    test, train = order[:num_test], order[num_test:]
    x = (x - x[train].mean(0)) / x[train].std(0)
    return [jnp.asarray(a, jnp.float32) for a in (x[train], y[train], x[test], y[test])]


yacht = np.genfromtxt('data/yacht.csv', delimiter=',', skip_header=1)
target = (yacht[:, -1] - yacht[:, -1].mean()) / yacht[:, -1].std()
cancer = load_breast_cancer()
tasks = {
    'yacht': (Regression, split(yacht[:, :-1], target, 100)),
    'breast cancer': (Classification, split(cancer.data, cancer.target, 200)),
}
for name, (_, (x, _, x_test, _)) in tasks.items():
    print(f'{name}: {x.shape[1]} features, {len(x)} to learn from, {len(x_test)} to judge by')


# %% [markdown]
# ## Six ways
#
# Each takes the same `Posterior` and returns the same kind of `Fit`.


# %%
def adam(num_steps):
    return {
        'optimizer': optax.adam(optax.cosine_decay_schedule(1e-2, num_steps)),
        'num_steps': num_steps,
        'progress': False,
    }


def build(Model, x):
    random.seed(0)
    return Model(x.shape[1])


ways = {
    'MAP': lambda p, new: infer.fit_map(p, **adam(2000)),
    'Laplace': lambda p, new: infer.laplace(p, curvature='ggn', mode=infer.fit_map(p, **adam(2000)), progress=False),
    'SVI': lambda p, new: infer.fit_svi(p, guide='normal', num_draws=500, **adam(5000)),
    'ensemble': lambda p, new: infer.ensemble(p, num_members=10, init=new, bootstrap=True, **adam(1000)),
    'SG-MCMC': lambda p, new: infer.sgmcmc(
        p, step_size=1e-5, batch_size=50, num_warmup=4000, num_samples=100, thinning=20, progress=False
    ),
    'NUTS': lambda p, new: infer.nuts(
        p, num_warmup=300, num_samples=250, num_chains=2, max_tree_depth=8, progress=False
    ),
}
fits, seconds = {}, {}
for task, (Model, (x, y, *_)) in tasks.items():
    for way, run in ways.items():
        posterior = infer.Posterior(build(Model, x), x, y)
        began = time.perf_counter()
        with warnings.catch_warnings():
            # The weights of a network are not identified (hidden units can change places), which several of the checks
            # rightly remark on. What counts here are the predictions.
            warnings.simplefilter('ignore', infer.ConvergenceWarning)
            fits[task, way] = run(posterior, lambda Model=Model, x=x: Model(x.shape[1]))
        seconds[task, way] = time.perf_counter() - began

# %% [markdown]
# ## One table
#
# `nll` is minus the mean log density of what was held back: the score that counts both errors and false certainty;
# lower is better. For the regression, 90 % of the targets should lie in the 90 % interval. For the classification,
# `ece` is how far stated probabilities are from frequencies. Laplace predicts with the network linearized around the
# mode, the form in which it is known to work for networks. The seconds include compiling.

# %%
print(f'{"":14s} {"":10s} {"nll":>7s} {"rmse":>7s} {"accuracy":>9s} {"90 % covers":>12s} {"ece":>6s} {"seconds":>8s}')
for (task, way), fit in fits.items():
    x_test, y_test = tasks[task][1][2:]
    row = fit.score(x_test, y_test).to_dict()
    value = {k: v['value'] for k, v in row.items()}
    options = {'linearized': True} if way == 'Laplace' else {}
    value['nll'] = -float(np.mean(fit.predict(x_test, y_test, kind='log_density', **options)))
    if options and task == 'yacht':
        interval = fit.predict(x_test, kind='interval', prob=0.9, **options)
        value['rmse'] = float(np.sqrt(np.mean((interval.mean - y_test) ** 2)))
        value['coverage of 90 %'] = float(np.mean((interval.lower <= y_test) & (y_test <= interval.upper)))
    if options and task != 'yacht':
        probabilities = fit.predict(x_test, kind='probabilities', **options)
        value['accuracy'] = infer.scoring.accuracy(probabilities, np.asarray(y_test))
        value['ece'] = infer.scoring.ece(probabilities, np.asarray(y_test))
    cells = [
        f'{value[k]:{w}.3f}' if k in value else ' ' * w
        for k, w in (('nll', 7), ('rmse', 7), ('accuracy', 9), ('coverage of 90 %', 12), ('ece', 6))
    ]
    print(f'{task:14s} {way:10s} {" ".join(cells)} {seconds[task, way]:8.1f}')

# %% [markdown]
# ## One figure
#
# Left: intervals of the held-back hulls, in order of speed. MAP's are of one width, that of the noise, and too narrow;
# the others are wider where data were few. Right: of the samples that were given a probability, how many were benign.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
x_test, y_test = tasks['yacht'][1][2:]
order = np.argsort(np.asarray(x_test[:, -1]), kind='stable')[-40:]
left.plot(np.asarray(y_test)[order], 'k.', label='measured')
for way, color in (('MAP', 'tab:orange'), ('NUTS', 'tab:blue')):
    interval = fits['yacht', way].predict(x_test, kind='interval')
    left.fill_between(range(40), interval.lower[order], interval.upper[order], color=color, alpha=0.4, label=way)
left.set_xlabel('held-back hulls, the 40 fastest')
left.set_ylabel('resistance (standardized)')
left.legend()
x_test, y_test = tasks['breast cancer'][1][2:]
for way in ('MAP', 'ensemble', 'NUTS'):
    p = fits['breast cancer', way].predict(x_test, kind='probabilities')[:, 1]
    edges = np.linspace(0, 1, 6)
    place = np.clip(np.digitize(p, edges) - 1, 0, 4)
    seen = [i for i in range(5) if (place == i).any()]
    stated, found = ([a[place == i].mean() for i in seen] for a in (p, np.asarray(y_test)))
    right.plot(stated, found, 'o-', label=way)
right.plot([0, 1], [0, 1], 'k--', lw=1)
right.set_xlabel('stated probability')
right.set_ylabel('share that was benign')
right.legend()
