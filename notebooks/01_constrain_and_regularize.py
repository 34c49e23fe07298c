# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Constrain and regularize parameters
#
# A bare `ParamState` holds an array that may take any value. Many models need more: a rate that stays positive, a
# mixing weight between 0 and 1, a probability vector that sums to one, a penalty that pulls weights towards zero.
# `nn.Param` adds two things to an array:
#
# * a **transform** (`t=`). The optimizer moves an unconstrained array, called theta; `.value()` maps it into the
#   domain. The map is a smooth bijection, not a hard clip, so gradients flow.
# * a **prior** (`reg=`). `.reg_loss()` is the penalty that you add to a loss.
#
# The first half of this notebook uses them for training by gradient descent. The second half shows what else the same
# objects know (densities, units, named axes) and ends with a posterior.

# %%
import brainunit as u
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

import brainstate_prob
from brainstate_prob import infer, nn

brainstate_prob.random.seed(0)
brainstate_prob.__version__

# %% [markdown]
# ## A positive parameter
#
# `SoftplusT(lower)` maps the real line onto (lower, ∞). The parameter is stored unconstrained and read through the
# transform, so it is positive wherever the optimizer lands.

# %%
rate = nn.Param(jnp.array(0.5), t=nn.SoftplusT(lower=0.0))
print('initial value :', float(u.get_magnitude(rate.value())))

# What if an optimizer step drives the unconstrained value far below zero?
rate.val.value = jnp.array(-10.0)
print('after a large negative update:', float(u.get_magnitude(rate.value())))

# %% [markdown]
# `rate.val` is the `ParamState` that the optimizer moves: theta. `rate.value()` is what the model uses. It comes close
# to the bound and does not cross it.
#
# `value()` of a parameter built from a plain array is a JAX array. (`u.get_magnitude` takes the number out of a
# quantity with a unit and leaves an array as it is. Units come further below.)
#
# ## Between two bounds
#
# `SigmoidT(lower, upper)` keeps a parameter in an open interval. The transforms that are needed most:
#
# | Transform | Values |
# |---|---|
# | `SoftplusT(lower)`, `ExpT(lower)` | (lower, ∞): positive quantities |
# | `SigmoidT(lower, upper)` | (lower, upper): bounded numbers |
# | `SimplexT()` | vectors of positive numbers that sum to 1: probabilities |
# | `OrderedT()` | increasing vectors |
# | `AffineT(scale, shift)` | all reals, rescaled |
# | `ChainT(t1, t2, ...)` | one after the other |

# %%
mix = nn.Param(jnp.array(0.5), t=nn.SigmoidT(lower=0.0, upper=1.0))

for unconstrained in (0.0, 100.0, -100.0):
    mix.val.value = jnp.array(unconstrained)
    print(f'unconstrained {unconstrained:>7} -> value {float(u.get_magnitude(mix.value())):.4f}')

# %% [markdown]
# The middle of the unconstrained axis maps to the middle of the interval. Far out, the value approaches a bound. (At
# theta = 100 it is nearer to 1 than single precision can tell.)
#
# The next picture shows three transforms. All are smooth and increasing, so a gradient with respect to the value
# always becomes a gradient with respect to theta.

# %%
theta = jnp.linspace(-4.0, 4.0, 200)
figure, ax = plt.subplots(figsize=(6, 3.4), constrained_layout=True)
for transform in (nn.ExpT(0.0), nn.SoftplusT(0.0), nn.SigmoidT(0.0, 1.0)):
    ax.plot(theta, transform.forward(theta), label=repr(transform))
ax.set(xlabel='theta (unconstrained)', ylabel='value', ylim=(-0.1, 4.0))
ax.axhline(0.0, color='0.8', linewidth=1, zorder=0)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# A probability vector takes `SimplexT`: whatever the optimizer does to theta, `.value()` is positive and sums to one.
# Three zeros are no probability vector, so the first line below **warns** and starts at the uniform vector. This is
# the one place where the library is lenient: a start outside the domain warns and is moved inside. Setting such a
# value later, with `set_value`, raises an error.

# %%
probs = nn.Param(jnp.zeros(3), t=nn.SimplexT())

for unconstrained in ([0.0, 0.0, 0.0], [2.0, -1.0, 0.5]):
    probs.val.value = jnp.array(unconstrained)
    p = u.get_magnitude(probs.value())
    print('probabilities', [round(float(x), 4) for x in p], 'sum', round(float(p.sum()), 6))

# %% [markdown]
# Three unconstrained numbers make four probabilities, since the last one follows from the sum. To begin with a vector
# of your own, pass the probabilities themselves; this start does not warn.

# %%
start = nn.Param(jnp.array([0.7, 0.2, 0.1]), t=nn.SimplexT())
print('value', start.value(), ' theta', start.val.value)

try:
    start.set_value(jnp.array([0.7, 0.7, 0.1]))
except ValueError as error:
    print(f'ValueError: {error}')

# %% [markdown]
# ## Adding a prior
#
# With `reg=` a parameter has a penalty. `.reg_loss()` is its contribution, one number, which you add to the loss.
# Among the built-in ones are `L1Reg` (sparse weights), `L2Reg` (weight decay) and `ElasticNetReg` (a blend).

# %%
weights = nn.Param(jnp.array([3.0, -4.0]), reg=nn.L2Reg(weight=0.1))
print('L2 penalty:', float(u.get_magnitude(weights.reg_loss())))  # 0.1 * sum(w**2)

sparse = nn.Param(jnp.array([3.0, -4.0]), reg=nn.L1Reg(weight=0.1))
print('L1 penalty:', float(u.get_magnitude(sparse.reg_loss())))  # 0.1 * sum(|w|)


# %% [markdown]
# ## Values that are not trained
#
# `Const` holds a value that takes part in the forward pass and is never trained. It is not among the `ParamState`s, so
# optimizers and `grad` pass it by.


# %%
class Scaler(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Param(jnp.ones(3))  # trained
        self.gain = nn.Const(jnp.array(2.0))  # fixed

    def __call__(self, x):
        return x * self.weight.value() * self.gain.value()


model = Scaler()
trainable = model.states(brainstate_prob.ParamState)
print('trainable parameters:', list(trainable.keys()))  # gain is absent


# %% [markdown]
# ## A training step
#
# `transform.grad` differentiates with respect to theta, so an update can be applied as it is. Constraints and
# penalties look after themselves.


# %%
class ConstrainedLinear(nn.Module):
    def __init__(self, din, dout):
        super().__init__()
        self.w = nn.Param(brainstate_prob.random.randn(din, dout) * 0.1, reg=nn.L2Reg(1e-3))
        self.gain = nn.Param(jnp.array(1.0), t=nn.SoftplusT(lower=0.0))

    def __call__(self, x):
        return (x @ self.w.value()) * self.gain.value()


model = ConstrainedLinear(4, 2)
params = model.states(brainstate_prob.ParamState)
x = brainstate_prob.random.randn(16, 4)
y = brainstate_prob.random.randn(16, 2)


def loss_fn():
    mse = jnp.mean((model(x) - y) ** 2)
    penalty = model.w.reg_loss()
    return mse + u.get_magnitude(penalty)


@brainstate_prob.transform.jit
def train_step():
    grads, loss = brainstate_prob.transform.grad(loss_fn, params, return_value=True)()
    for key in params:
        params[key].value -= 0.1 * grads[key]
    return loss


losses = [float(train_step()) for _ in range(5)]
print('loss trajectory:', [round(v, 4) for v in losses])
print('gain stays positive:', float(u.get_magnitude(model.gain.value())) > 0)

# %% [markdown]
# A model with many parameters has its penalties summed by `model.reg_loss()`.
#
# So far a transform is a way to keep an optimizer in bounds and a prior is a penalty. From here on they are more than
# that: a change of variables and a probability density.
#
# ## A prior is a density
#
# The penalty of a prior that is a probability distribution is its **negative log density**, with the normalizing
# constant. So `.reg_loss()` of a normal prior is not just the squared distance:

# %%
slope = nn.Param(jnp.array([0.3, -1.2]), reg=nn.GaussianReg(mean=0.0, std=2.0))
print('reg_loss       :', float(slope.reg_loss()))
print('minus log_prob :', float(-dist.Normal(0.0, 2.0).log_prob(slope.value()).sum()))

# %% [markdown]
# A penalty states the density that it stands for. `L2Reg(weight=w)` is the normal distribution with standard
# deviation sqrt(1 / 2w), up to the constant, and it draws from that distribution:

# %%
print(nn.L2Reg.__doc__.splitlines()[0])
print('constant left out :', float(nn.L2Reg(0.1).loss(slope.value())))
print('constant included :', float(nn.L2Reg(0.1, normalized=True).loss(slope.value())))
normal = dist.Normal(0.0, np.sqrt(1 / 0.2))
print('the same normal   :', float(-normal.log_prob(slope.value()).sum()))

# %% [markdown]
# Any NumPyro distribution can be given as it is. With `t=None` the transform is the one for its support.

# %%
for prior in (dist.Beta(2.0, 3.0), dist.LogNormal(0.0, 1.0)):
    print(nn.Param(0.5, t=None, reg=prior).t)

# %% [markdown]
# ## Log-determinants, and when they count
#
# Take a rate with an exponential prior, moved in softplus coordinates. What is the density of theta? A transform
# stretches the axis in some places and squeezes it in others, and a density has to make up for it:
#
# $$
# \log p(\theta) = \log p(v) + \log \left| \frac{\partial v}{\partial \theta} \right|, \qquad v = t(\theta).
# $$
#
# Every bijection has the exact last term, `log_abs_det_jacobian`. It is what automatic differentiation finds:

# %%
t = nn.SoftplusT(0.0)
for theta_0 in (-3.0, 0.0, 3.0):
    exact = float(t.log_abs_det_jacobian(theta_0, t.forward(theta_0)))
    autodiff = float(jnp.log(jax.grad(t.forward)(theta_0)))
    print(f'theta {theta_0:4}: exact {exact:8.5f}, autodiff {autodiff:8.5f}')

# %% [markdown]
# The picture shows why the term matters. The bars are draws from the exponential prior, mapped to theta. The density
# *with* the log-determinant fits them. Without it the curve does not even fall to the left, so it is no density of
# theta at all: a sampler that left the term out would drift off to minus infinity.

# %%
prior = dist.Exponential(1.0)
draws = prior.sample(jax.random.key(0), (20_000,))
theta = jnp.linspace(-8.0, 6.0, 300)
value = t.forward(theta)
with_term = jnp.exp(prior.log_prob(value) + t.log_abs_det_jacobian(theta, value))
without = jnp.exp(prior.log_prob(value))

figure, ax = plt.subplots(figsize=(6, 3.4), constrained_layout=True)
thetas = np.asarray(t.inverse(draws))
ax.hist(thetas, bins=80, density=True, color='0.85', label='draws of the prior')
ax.plot(theta, with_term, color='C0', label='with the log-determinant')
ax.plot(theta, without, color='C1', linestyle='--', label='without')
ax.set(xlabel='theta', ylabel='density', ylim=(0, 1.05))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Samplers and variational inference explore the density of theta, so they keep the term. A **maximum a posteriori**
# (MAP) estimate in the classical sense is the mode of the density of the *value*, so it leaves the term out: the
# estimate then does not depend on the transform. `infer.map` does that, unless you ask for `jacobian=True`.
#
# ## Priors with parameters of their own
#
# A hyper-parameter may be a `Param`, with a transform and a prior. That makes a hierarchical model. Here the spread of
# eight effects is unknown. (Centred at zero for brevity.)

# %%
observed = jnp.array([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])
spread = nn.Param(1.0, t=nn.SoftplusT(0.0), reg=dist.HalfNormal(5.0))
effects = nn.Param(observed, reg=nn.GaussianReg(mean=0.0, std=spread))

for path, state in effects.states(brainstate_prob.ParamState).items():
    print(path, state.value.shape)

# %% [markdown]
# The spread is a parameter like any other: it is trained, and it is sampled. Because the normal prior has its
# constant, a spread that grows without limit has a price. With the plain sum of squares as penalty, the best
# spread would be infinite, and every effect would be unpenalized.
#
# ## Units and named axes
#
# A parameter built from a quantity gives quantities back. Theta stays a plain array, and the prior is about the
# number in the parameter's own unit. Bounds and hyper-parameters may have any unit of the same dimension.

# %%
between = nn.SigmoidT(1.0 * u.ms, 0.5 * u.second)
tau = nn.Param(80.0 * u.ms, t=between, reg=nn.GammaReg(alpha=4.0, beta=0.05 / u.ms))
print('value :', tau.value())
print('theta :', tau.val.value)
tau.set_value(0.1 * u.second)
print('0.1 s :', tau.value())

try:
    tau.set_value(3.0 * u.mV)
except u.UnitMismatchError as error:
    print(f'UnitMismatchError: {error}')


# %% [markdown]
# `dims=` names the axes of an array. The names and the units reach every table of results.
#
# ## A posterior
#
# Now all of it in one model. Six cells respond to a stimulus: each jumps to a rate of its own and adapts with a common
# time constant to a common steady rate. The peaks of the six cells come from a population, whose typical value and
# spread are parameters too. They are attributes of the model *and* hyper-parameters of the prior of `peak`: one
# object in two places is one parameter. Called with the times, the model returns the **distribution of the counts**.


# %%
class Adaptation(nn.Module):
    def __init__(self, num_cells):
        super().__init__()
        self.typical = nn.Param(3.0, reg=dist.Normal(3.0, 1.0))  # mean of log(peak in Hz)
        self.spread = nn.Param(0.5, t=nn.ExpT(0.0), reg=dist.LogNormal(-0.7, 0.5))
        self.peak = nn.Param(
            jnp.full(num_cells, 20.0) * u.Hz,
            t=nn.ExpT(0.0 * u.Hz),
            reg=nn.LogNormalReg(mu=self.typical, sigma=self.spread),
            dims=('cell',),
        )
        self.steady = nn.Param(
            5.0 * u.Hz,
            t=nn.SoftplusT(0.0 * u.Hz),
            reg=nn.GammaReg(alpha=2.0, beta=0.2 / u.Hz),
        )
        self.tau = nn.Param(
            50.0 * u.ms,
            t=nn.ExpT(0.0 * u.ms),
            reg=dist.LogNormal(4.0, 0.7),
        )

    def rate(self, time):
        decay = jnp.exp(-time[:, None] / self.tau.value())
        return self.steady.value() + self.peak.value() * decay

    def __call__(self, time, exposure):
        return dist.Poisson(u.get_magnitude(self.rate(time) * exposure))


model = Adaptation(num_cells=6)
model.summary()

# %% [markdown]
# We simulate data, so that the truth is known: counts in 20 bins of 20 ms, summed over 50 trials, so each bin has been
# observed for one second.

# %%
truth = Adaptation(num_cells=6)
truth.peak.set_value(jnp.array([12.0, 45.0, 25.0, 8.0, 33.0, 18.0]) * u.Hz)
truth.steady.set_value(6.0 * u.Hz)
truth.tau.set_value(80.0 * u.ms)

time = (jnp.arange(20) + 0.5) * 20.0 * u.ms
exposure = 1.0 * u.second
counts = truth(time, exposure).sample(jax.random.key(1))
print('counts (time, cell):', counts.shape, '- first bins:', counts[0])

# %% [markdown]
# A `Posterior` is the model with its data. It knows the log density of theta and its parts: the priors, the
# log-determinants and the likelihood.

# %%
cells = ['A', 'B', 'C', 'D', 'E', 'F']
posterior = infer.Posterior(model, (time, exposure), counts, coords={'cell': cells})
print(posterior)
terms = posterior.terms()
for part in ('prior', 'log_det'):
    rounded = {name: round(float(x), 2) for name, x in terms[part].items()}
    print(f'{part:10}', rounded)
print(f'{"likelihood":10}', round(float(terms['likelihood']), 2))
print(f'{"sum":10}', round(float(posterior.log_density()), 2))

# %% [markdown]
# First the mode. `infer.map` takes L-BFGS unless told otherwise.
#
# A word of warning about modes of hierarchical models: where all peaks are equal, the density grows without limit as
# the spread shrinks to zero, if the prior of the spread allows zero. That spike has no mass worth mentioning, so
# samplers pass it by, but an optimizer runs into it. The log-normal prior of the spread above goes to zero faster
# than the spike grows. With a half-normal one MAP would make all cells alike.

# %%
best = infer.map(posterior, progress=False)
best.assign_to(model)
best.summary()

# %% [markdown]
# One point says nothing about uncertainty. NUTS draws from the posterior, here from a start near the mode, which
# `assign_to` has written into the model. The run is small to keep this page quick; for results you report, take the
# defaults (1000 draws after 1000 steps of warm-up, in each of four chains).

# %%
fit = infer.nuts(posterior, num_warmup=500, num_samples=500, seed=0, progress=False)
fit.summary()

# %% [markdown]
# Read the last columns first. `r_hat` compares the chains: near 1, they agree. `ess_bulk` and `ess_tail` say how many
# independent draws the means and the interval ends are worth. Then `mean`, `sd` and the central 90 % interval, in the
# unit of the last column. Most of the true values (peaks 12, 45, 25, 8, 33 and 18 Hz, steady rate 6 Hz, time constant
# 80 ms) should lie inside, and about one in ten outside: here the 18 Hz of cell F are just above their interval.
#
# Predictions take new inputs. `kind='mean'` gives the mean of the predicted counts at each draw, so dividing
# by the exposure gives the rate, with its uncertainty. The band is where the rate lies with 90 % probability.

# %%
grid = jnp.linspace(0.0, 400.0, 81) * u.ms
rates = np.asarray(fit.predict((grid, exposure), kind='mean')) / float(exposure / u.second)
low, middle, high = np.quantile(rates, [0.05, 0.5, 0.95], axis=0)
true_rate = np.asarray(truth.rate(grid) / u.Hz)

figure, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True, sharey=True, constrained_layout=True)
for i, ax in enumerate(axes.flat):
    ax.plot(time / u.ms, counts[:, i] / (exposure / u.second), '.', color='0.5', label='observed')
    band = {'color': 'C0', 'alpha': 0.35, 'label': '90 % credible band'}
    ax.fill_between(grid / u.ms, low[:, i], high[:, i], **band)
    ax.plot(grid / u.ms, middle[:, i], color='C0', label='posterior median')
    ax.plot(grid / u.ms, true_rate[:, i], color='k', linestyle=':', label='truth')
    ax.set_title(f'cell {cells[i]}')
axes[0, 0].legend(frameon=False, fontsize=8)
figure.supxlabel('time after the stimulus (ms)')
figure.supylabel('firing rate (Hz)')
plt.show()

# %% [markdown]
# The dots scatter more than the band is wide. That is right: the band is about the rate, and counts vary around it.
# `fit.predict` without `kind` draws counts. The share of observed counts inside their central 90 % predictive interval
# should then be about 90 % (more, as counts are whole numbers and these very counts have been fitted):

# %%
predicted = fit.predict()
low, high = np.quantile(predicted, [0.05, 0.95], axis=0)
inside = float(np.mean((counts >= low) & (counts <= high)))
print('draws (draw, time, cell):', predicted.shape)
print(f'inside the 90 % interval: {100 * inside:.0f} %')

# %% [markdown]
# For everything that ArviZ offers (diagnostics, model comparison, plots) there is `to_arviz`. The axis keeps its name
# and its labels.

# %%
data = fit.to_arviz()
print('groups:', list(data))
data['posterior']['peak'].mean(('chain', 'draw'))

# %% [markdown]
# ## Summary
#
# * `nn.Param(value, t=..., reg=...)` is an array with a constraint and a prior. `.val` holds theta, which
#   optimizers and samplers move; `.value()` is the constrained value, which the model uses.
# * A transform is a smooth bijection with an exact log-determinant. Samplers need that term, the classical MAP estimate
#   leaves it out.
# * A prior is a density: `.reg_loss()` is its negative logarithm, with the constant. Its hyper-parameters may be
#   Params. Any NumPyro distribution will do.
# * `nn.Const` is a value that is not trained.
# * A quantity in, a quantity out; `dims=` names the axes.
# * `infer.Posterior(model, inputs, targets)`, then `infer.map`, `infer.svi` or `nuts`: the same parameters, in the same
#   coordinates, under the same log density.
