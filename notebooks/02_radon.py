# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Bayesian inference: radon in 85 counties
#
# Radon is a gas that comes out of the soil and causes lung cancer. It was measured in 919 houses of Minnesota. Some of
# the 85 counties have a hundred houses in the data, many have one or two. What can be said about a county with two
# houses?
#
# Three answers are possible: take the state's average (*pooling*: ignores the county), take the county's own two houses
# (*no pooling*: believes two numbers), or something in between, with the data saying how far in between. The third is a
# **hierarchical model**: the counties' levels are parameters with a common prior, and the width of that prior is a
# parameter too. In this library a prior's hyper-parameter may be a `Param`; that is all there is to it.

# %%
import warnings

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn

table = np.genfromtxt('data/radon.csv', delimiter=',', names=True, dtype=None, encoding='utf-8')
names, county = np.unique(table['county'], return_inverse=True)
houses = np.bincount(county)
log_radon = jnp.asarray(np.log(table['radon']), jnp.float32)
inputs = {
    'county': jnp.asarray(county),
    'floor': jnp.asarray(table['floor'], jnp.float32),
    'uranium': jnp.asarray(table['log_uranium'], jnp.float32),
}
print(f'{len(county)} houses in {len(names)} counties; the median county has {np.median(houses):.0f}')

# %% [markdown]
# ## The model
#
# The logarithm of a house's radon is normal around
#
# > level of the county + effect of the uranium in the soil + effect of the floor,
#
# and the county levels are normal around a state-wide level. `Param` says where each number may live (`t`), what is
# known about it (`reg`), and what its axes are called (`dims`).


# %%
class Radon(nn.Module):
    def __init__(self, num_counties):
        super().__init__()
        self.state = nn.Param(1.0, reg=dist.Normal(0.0, 2.0))
        self.spread = nn.Param(0.5, t=nn.SoftplusT(), reg=dist.HalfNormal(1.0))
        self.level = nn.Param(
            jnp.ones(num_counties), reg=nn.GaussianReg(mean=self.state, std=self.spread), dims='county'
        )
        self.uranium = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.floor = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.noise = nn.Param(1.0, t=nn.SoftplusT(), reg=dist.HalfNormal(1.0))

    def __call__(self, county, floor, uranium):
        mean = self.level.value()[county] + self.uranium.value() * uranium + self.floor.value() * floor
        return dist.Normal(mean, self.noise.value())


posterior = infer.Posterior(Radon(len(names)), inputs, log_radon, coords={'county': names})
posterior

# %% [markdown]
# Before the work, a look at whether the pieces fit: the start, the shapes, the gradients, the priors.

# %%
posterior.check()

# %% [markdown]
# ## What the prior says
#
# Priors are easier to judge by the data that they imply than by their formulas. Radon levels above a few hundred pCi/L
# are not found in houses; a prior that expects millions would be silly, one that excludes 50 would be too narrow.

# %%
imagined = infer.prior_predictive(posterior, num_draws=500, seed=0)
low, middle, high = np.quantile(np.exp(imagined), [0.05, 0.5, 0.95])
print(f'the prior expects {middle:.1f} pCi/L, and nine houses of ten between {low:.2f} and {high:.0f}')
print(
    f'measured:         {np.median(table["radon"]):.1f} pCi/L, and between {np.quantile(table["radon"], 0.05):.2f} and',
    f'{np.quantile(table["radon"], 0.95):.0f}',
)

# %% [markdown]
# The prior is wide, not silly: it leaves room on both sides of what was measured.
#
# ## The posterior
#
# NUTS follows the gradient of the log density through the space of all 90 parameters. The county levels depend on
# `spread`: where it is small they must lie close together, a funnel that samplers get stuck in. `infer.nuts` therefore
# moves the levels of counties with few houses in standardized form, (level - state) / spread. Where many houses
# determine a level, that form would only tie it to `state` and `spread`, and it is moved as it is. Which is which
# follows from the data (`fit.info['noncentered']` tells); what comes back are the levels themselves.

# %%
fit = infer.nuts(posterior, num_warmup=500, num_samples=500, num_chains=2, seed=0, progress=False)
fit

# %% [markdown]
# Did it work? `check()` looks at what can go wrong with a chain (R-hat, effective sample sizes, divergences, tree
# depth, energy) and says in words which parameter is worst and what to do. It has nothing to say when all is well.

# %%
fit.check()

# %%
table_of_fit = fit.summary(prob=0.9)
for name in ('state', 'spread', 'uranium', 'floor', 'noise'):
    mean, lower, upper = (table_of_fit[column, name] for column in ('mean', 'lower', 'upper'))
    print(f'{name:8s} {mean:6.2f}  [{lower:5.2f}, {upper:5.2f}]')

# %% [markdown]
# Measured on the first floor, radon is about half of that in the basement (exp(floor)); uranium in the soil raises it.
# Counties differ by `spread` beyond what uranium explains: about a fifth of what houses of one county differ by
# (`noise`), which is why pooling pays.
#
# The draws go to ArviZ with their names and labels, so its plots know the counties. `fit.plot_...` are ArviZ's own.

# %%
fit.plot_trace(var_names=['spread', 'noise'])
plt.tight_layout()

# %% [markdown]
# ## What the prior does
#
# The same model twice more: once with counties that have nothing to do with each other (a fixed, very wide prior: no
# pooling), once with no difference between counties beyond uranium (pooling). Without pooling the uranium has nothing
# to say: it is the same for all houses of a county, so that the county's free level swallows it.


# %%
class Separate(Radon):
    def __init__(self, num_counties):
        super().__init__(num_counties)
        self.level = nn.Param(jnp.ones(num_counties), reg=dist.Normal(0.0, 10.0), dims='county')
        del self.state, self.spread, self.uranium

    def __call__(self, county, floor, uranium):
        return dist.Normal(self.level.value()[county] + self.floor.value() * floor, self.noise.value())


class Pooled(Radon):
    def __init__(self, num_counties):
        super().__init__(num_counties)
        del self.level, self.spread

    def __call__(self, county, floor, uranium):
        mean = self.state.value() + self.uranium.value() * uranium + self.floor.value() * floor
        return dist.Normal(mean, self.noise.value())


fits = {'hierarchical': fit}
for name, Model in {'no pooling': Separate, 'pooling': Pooled}.items():
    labels = {'county': names} if Model is Separate else None
    other = infer.Posterior(Model(len(names)), inputs, log_radon, coords=labels)
    fits[name] = infer.nuts(other, num_warmup=500, num_samples=500, num_chains=2, seed=0, progress=False)

# %%
order = np.argsort(houses, kind='stable')
fig, ax = plt.subplots(figsize=(10, 4))
for shift, name, color in ((-0.15, 'no pooling', 'tab:orange'), (0.15, 'hierarchical', 'tab:blue')):
    draws = np.asarray(fits[name].draws['level']).reshape(-1, len(names))[:, order]
    lower, upper = np.quantile(draws, [0.05, 0.95], axis=0)
    ax.vlines(np.arange(len(names)) + shift, lower, upper, color=color, lw=1.5, label=name)
ax.set_xticks(np.arange(0, len(names), 7), houses[order][::7])
ax.set_xlabel('houses measured in the county')
ax.set_ylabel('level of the county (log)')
ax.set_title('90 % intervals of the county levels')
ax.legend()
plt.show()

# %% [markdown]
# On the left, the counties with one or two houses: without pooling their intervals are as wide as the data scatter; the
# hierarchical model borrows strength from the other counties and is far more certain, and rightly so: in the next
# table it predicts better. On the right, counties with many houses: both agree, the data speak for themselves.
#
# ## Which model predicts best?
#
# Leave-one-out cross-validation (by ArviZ, from the draws, without fitting again) estimates how well each model would
# predict a house that it has not seen. Higher is better.

# %%
with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Estimated shape parameter of Pareto', UserWarning)  # what it means is said below
    comparison = infer.compare(fits)
elpd = 'elpd_loo' if 'elpd_loo' in comparison else 'elpd'  # ArviZ 0.23, and 1.x
comparison[['rank', elpd, 'elpd_diff', 'dse', 'weight']]

# %% [markdown]
# `elpd_diff` is how far a model is from the best, summed over all houses, and `dse` the standard error of that
# difference. The model without pooling is behind by more than three of them: it pays for its 85 free levels. Between
# the hierarchical model and pooling the difference is little more than one standard error: the hierarchical one comes
# first, but these data do not settle it, and most of what can be predicted comes from the floor and the uranium. What
# speaks for it is that it gives each county a level of its own without a loss.
#
# The estimate has to guess from the draws what they would be without one house. Where a county's level hangs on that
# very house, this is rough, and ArviZ warns of it (a Pareto shape above 0.67, here for the model without pooling); its
# figure is then to be taken for approximate, which a difference of this size survives.
#
# ## A new house
#
# What should the owner of a house in a county expect? Predictions are draws, so every question about them is a
# count. For the basement of a house in the county with the fewest measurements, and in the one with the most:

# %%
where = np.array([order[0], order[-1]])
uranium_of = np.array([table['log_uranium'][county == c][0] for c in where])
new = {
    'county': jnp.asarray(where),
    'floor': jnp.zeros(2),
    'uranium': jnp.asarray(uranium_of, jnp.float32),
}
draws = np.exp(fit.predict(new, seed=1))
for i, c in enumerate(where):
    lower, upper = np.quantile(draws[:, i], [0.05, 0.95])
    above = np.mean(draws[:, i] > 4.0)
    print(f'{names[c]}, {houses[c]} measured: 90 % between {lower:.1f} and {upper:.1f} pCi/L,')
    print(f'    above the limit of 4 pCi/L with probability {above:.2f}')

# %% [markdown]
# `fit.save('radon.nc')` keeps all of it (draws, sampler statistics, data, labels, units) in one file that ArviZ and
# xarray read, and `infer.load('radon.nc')` brings it back.
