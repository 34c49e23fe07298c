# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Uncertainty, side by side
#
# A network that was trained says what it expects, not how sure it is. Six ways to ask it, all over the same parameters
# under the same log density:
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
from matplotlib.ticker import LogLocator, NullLocator
from numpyro.diagnostics import split_gelman_rubin
from sklearn.datasets import load_breast_cancer, load_diabetes

from brainstate_prob import infer, nn, random

# %% [markdown]
# ## Two networks
#
# A Bayesian network is an ordinary one plus a line: `nn.with_prior` gives every weight a prior. The regression network
# also learns the size of the noise, a `Param` that stays positive.


# %%
def layers(num_features, num_hidden=5):
    network = nn.Sequential(nn.Linear(num_features, num_hidden), nn.Tanh(), nn.Linear(num_hidden, 1))
    return nn.with_prior(network, {...: dist.Normal(0.0, 1.0)})


class Regression(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.layers = layers(num_features)
        self.noise = nn.Param(0.5, t=nn.PositiveT(), reg=dist.LogNormal(-1.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.layers(x)[..., 0], self.noise.value())


class Classification(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.layers = layers(num_features)

    def __call__(self, x):
        return dist.Bernoulli(logits=self.layers(x)[..., 0])


# %% [markdown]
# ## Two data sets
#
# *Diabetes*: how far the disease has progressed after a year, from ten measures of 442 patients. *Breast cancer*:
# benign or malignant, from 30 measures of the cells of 569 tissue samples. Both come with scikit-learn.
# A large part of each is held back, and nothing is tuned on it.

# %%
rng = np.random.default_rng(0)


def split(x, y, num_test):
    order = rng.permutation(len(x))
    test, train = order[:num_test], order[num_test:]
    x = (x - x[train].mean(0)) / x[train].std(0)
    return [jnp.asarray(a, jnp.float32) for a in (x[train], y[train], x[test], y[test])]


diabetes, cancer = load_diabetes(scaled=False), load_breast_cancer()
progression = (diabetes.target - diabetes.target.mean()) / diabetes.target.std()
tasks = {
    'diabetes': (Regression, split(diabetes.data, progression, 200)),
    'breast cancer': (Classification, split(cancer.data, cancer.target, 369)),
}
for name, (_, (x, _, x_test, _)) in tasks.items():
    print(f'{name}: {x.shape[1]} features, {len(x)} to learn from, {len(x_test)} to judge by')


# %% [markdown]
# ## Six ways
#
# Each takes the same `Posterior` and returns the same kind of `Fit`. The library looks at every fit and warns of what
# seems wrong. Some of that is expected here and not shown: hidden units can change places without any effect, so that
# no Gaussian of independent weights comes close to their posterior (k-hat), and single weights do not mix between
# chains. What counts are the predictions, by which networks are judged; the table below has their R-hat.

# %%
expected_of_networks = 'R-hat of|The bulk effective sample size of|k-hat of'


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
    'MAP': lambda p, new: infer.map(p, **adam(2000)),
    'Laplace': lambda p, new: infer.laplace(p, curvature='ggn', progress=False),
    'SVI': lambda p, new: infer.svi(p, guide='diagonal', num_draws=500, **adam(5000)),
    'ensemble': lambda p, new: infer.ensemble(p, num_members=10, init=new, bootstrap=True, **adam(1000)),
    'SG-MCMC': lambda p, new: infer.sgmcmc(
        p, step_size=2e-4, batch_size=50, num_warmup=4000, num_samples=4000, thinning=40, progress=False
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
            warnings.filterwarnings('ignore', expected_of_networks, infer.ConvergenceWarning)
            fits[task, way] = run(posterior, lambda Model=Model, x=x: Model(x.shape[1]))
        seconds[task, way] = time.perf_counter() - began

# %% [markdown]
# ## One table
#
# `nll` is minus the mean log density of what was held back: the score that counts both errors and false certainty;
# lower is better. For the regression, 90 % of the targets should lie in the 90 % interval. For the classification,
# `ece` (expected calibration error) is how far stated probabilities are from frequencies. `R-hat` compares the
# predictions of several chains, for the worst observation: 1 where the chains agree. The seconds include compiling.
# Laplace predicts with the network linearized around the mode, the form in which it is known to work for networks.


# %%
def predict(task, way, x, y=None, **what):
    return fits[task, way].predict(x, y, **what)


draws, probabilities, scores = {}, {}, {}
for (task, way), fit in fits.items():
    x_test, y_test = tasks[task][1][2:]
    row = {
        'nll': infer.scoring.nll(predict(task, way, x_test, y_test, kind='log_density')),
        'seconds': seconds[task, way],
    }
    if task == 'diabetes':
        draws[way] = predict(task, way, x_test, num_draws=1000)
        row['rmse'] = infer.scoring.rmse(draws[way].mean(0), y_test)
        row['90 % covers'] = infer.scoring.coverage(*np.quantile(draws[way], [0.05, 0.95], axis=0), y_test)
    else:
        probabilities[way] = predict(task, way, x_test, kind='probabilities')
        row['accuracy'] = infer.scoring.accuracy(probabilities[way], np.asarray(y_test))
        row['ece'] = infer.scoring.ece(probabilities[way], np.asarray(y_test))
    if way in ('SG-MCMC', 'NUTS'):
        means = predict(task, way, x_test, kind='mean')
        row['R-hat'] = split_gelman_rubin(means.reshape(fit.num_chains, -1, len(x_test))).max()
    scores[task, way] = row

columns = {'nll': 3, 'rmse': 3, '90 % covers': 3, 'accuracy': 3, 'ece': 3, 'R-hat': 2, 'seconds': 1}
print(f'{"":24s}', *(f'{name:>11s}' for name in columns))
for (task, way), row in scores.items():
    cells = (f'{row[name]:11.{digits}f}' if name in row else ' ' * 11 for name, digits in columns.items())
    print(f'{task:14s} {way:9s}', *cells)

# %% [markdown]
# ## One figure
#
# Above the diabetes, below the breast cancer. Left: what is predicted for some of those held back, intervals of 90 %
# and probabilities, with what came as black dashes. Middle: is it true? Of the intervals of every size, how many held
# the target; of the samples that got a probability, how many were as said. Below the diagonal is too sure; grey is
# where chance alone would take a way that is right. Right: what the truth costs.

# %%
colors = dict(zip(ways, ('tab:red', 'tab:orange', 'tab:green', 'tab:purple', 'tab:cyan', 'black'), strict=True))
fig, axes = plt.subplots(2, 3, figsize=(15, 9), layout='constrained')


def price(ax, task, score):
    """Every way by its seconds and a score, with its name in the margin."""
    points = {way: (seconds[task, way], scores[task, way][score]) for way in ways}
    for way, point in points.items():
        ax.plot(*point, 'o', ms=9, color=colors[way])
    ax.set(xscale='log', xlabel='seconds, compiling included', ylabel=score)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter('{x:g}')
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.2, y=0.2)
    low, high = ax.get_ylim()
    height = low
    for way in sorted(ways, key=lambda way: points[way][1]):
        height = max(height + 0.06 * (high - low), points[way][1])
        ax.annotate(
            way,
            points[way],
            (1.03, height),
            textcoords=ax.get_yaxis_transform(),
            color=colors[way],
            va='center',
            arrowprops={'arrowstyle': '-', 'color': colors[way], 'lw': 0.7, 'shrinkB': 5},
        )


y_test = np.asarray(tasks['diabetes'][1][3])
shown = np.argsort(draws['NUTS'].mean(0))[10::20]
ax = axes[0, 0]
for i, way in enumerate(ways):
    lower, upper = np.quantile(draws[way][:, shown], [0.05, 0.95], axis=0)
    ax.vlines(np.arange(len(shown)) + 0.12 * (i - 2.5), lower, upper, color=colors[way], lw=2.5, label=way)
ax.hlines(y_test[shown], np.arange(len(shown)) - 0.4, np.arange(len(shown)) + 0.4, color='black', lw=1.5)
ax.set(xticks=[], xlabel='ten patients', ylabel='progression (standardized)')
ax.set_title('intervals of 90 %')

ax = axes[0, 1]
stated = np.linspace(0, 1, 101)
ax.plot(stated, stated, '--', color='grey')
chance = 1.96 * np.sqrt(stated * (1 - stated) / len(y_test))
ax.fill_between(stated, stated - chance, stated + chance, color='0.9')
for way in ways:
    away = np.abs(infer.scoring.pit(draws[way], y_test) - 0.5)
    ax.plot(stated, [np.mean(away <= prob / 2) for prob in stated], color=colors[way], label=way)
ax.set(xlabel='probability of the interval', ylabel='share of targets inside')
ax.set_title('is it true?')
ax.legend()
price(axes[0, 2], 'diabetes', '90 % covers')
axes[0, 2].axhline(0.9, color='grey', ls='--')
axes[0, 2].set_title('the truth of 90 % and its price')

y_test = np.asarray(tasks['breast cancer'][1][3])
ax = axes[1, 0]
shown = np.argsort(probabilities['NUTS'].max(1))[:20]
shown = shown[np.argsort(probabilities['NUTS'][shown, 1])]
for i, way in enumerate(ways):
    ax.plot(np.arange(20) + 0.1 * (i - 2.5), probabilities[way][shown, 1], 'o', ms=5, color=colors[way])
ax.plot(y_test[shown], 'k_', ms=12, mew=2)
ax.set(xticks=[], xlabel='the 20 samples that NUTS is least sure of', ylabel='probability of benign')
ax.set_title('probabilities')

ax = axes[1, 1]
stated = np.linspace(0.5, 1, 101)
ax.plot(stated, stated, '--', color='grey')
chance = 1.96 * np.sqrt(stated * (1 - stated) / 30)
ax.fill_between(stated, stated - chance, np.minimum(stated + chance, 1), color='0.9')
for way in ways:
    named, sure = probabilities[way].argmax(1), probabilities[way].max(1)
    groups = np.argsort(sure)[:90].reshape(3, 30)
    ax.plot(sure[groups].mean(1), (named == y_test)[groups].mean(1), 'o-', color=colors[way])
ax.set(xlabel='probability of the class that was named', ylabel='share that was right')
ax.set_title('is it true? (the 90 least sure, by 30)')
price(axes[1, 2], 'breast cancer', 'nll')
axes[1, 2].set_title('the score and its price')
plt.show()

# %% [markdown]
# ## What it says
#
# *Cheap, and too sure.* MAP is the cheapest, and in the diabetes only about 70 % of its 90 % intervals hold what came:
# with 62 numbers to fit and 242 patients it has learned a part of the noise, and it has no other parameters to
# doubt with. Laplace adds the width around that same optimum and mends a part of this, not all: it cannot know that
# the optimum itself lies in the wrong place.
#
# *Right enough.* SVI, the ensemble and SG-MCMC come within chance of 90 % in the diabetes, at a score near that of
# NUTS, although none is the posterior. SVI takes the weights for independent, and is less sure of the breast cancer
# than it could be: the worst score there. The ensemble's intervals of 60 to 80 % are a little narrow. The chains of
# SG-MCMC still differ from each other (R-hat well above 1.01), so that they are closer to an ensemble than to draws of
# one posterior.
#
# *NUTS* is the one whose chains agree about the predictions (R-hat near 1), and nobody is better beyond chance. Here,
# with networks of 62 and 161 numbers, it costs a few seconds, compiling included. But it takes the gradient over all
# data up to 255 times for a draw: with a hundred times the data or the weights it is what one can no longer afford, and
# the others are for.
#
# *An easy task needs none of this.* In the breast cancer nearly all samples are clear, the accuracies differ by a few
# samples of 369, and of the scores of MAP, Laplace, SVI and the ensemble only that of SVI differs from that of NUTS by
# more than chance (two standard errors of the mean difference).
