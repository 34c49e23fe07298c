"""Mistakes with Params, transforms and priors that a Posterior or a way to fit comes upon."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import Mistake

X = jnp.linspace(-1.0, 1.0, 4)
VALUE = r"Param 'slope' is not a number: use its value, slope\.value\(\)"


class Line(nn.Module):
    """A line whose mean is computed by a function of the slope, a Param, as a user may forget its `.value()`."""

    def __init__(self, mean, **param):
        super().__init__()
        self.slope = nn.Param(0.5, **{'reg': dist.Normal(0.0, 1.0), **param})
        self.mean = mean

    def __call__(self, x):
        return dist.Normal(self.mean(self.slope, x), 1.0)


def read(mean, **param):
    """The posterior of a line whose likelihood reads the Param in this way."""
    return lambda: infer.Posterior(Line(mean, **param), X, X)


def plain(slope, x):
    return slope.value() * x


def built(**param):
    """The posterior of a line whose Param is built in this way."""
    return read(plain, **param)


class Returned(nn.Module):
    """A model that hands a Param to the likelihood's distribution."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.5, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.slope, 1.0)


class Schools(nn.Module):
    """A hierarchy whose prior is written by a function of the model."""

    def __init__(self, prior):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))
        self.tau = nn.Param(1.0, t=nn.PositiveT(), reg=dist.HalfCauchy(5.0))
        self.theta = nn.Param(jnp.zeros(4), reg=prior(self))

    def __call__(self, x):
        return dist.Normal(self.theta.value(), 1.0)


def hierarchy(prior):
    return lambda: infer.Posterior(Schools(prior), X, X)


class Network(nn.Module):
    """A layer in front of a number of outputs, to be given what it does not take."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer()

    def __call__(self, x):
        return dist.Normal(self.layer(x).reshape(-1), 1.0)


def network(layer, x=jnp.ones((4, 3))):  # noqa: B008  (never written to)
    return lambda: infer.Posterior(Network(layer), x, X)


def replaced():
    """A prior put in place after the Param was built."""
    model = Line(plain)
    model.slope.reg = nn.Prior(dist.HalfNormal(1.0))
    return infer.Posterior(model, X, X)


def replaced_by_unknown():
    model = Schools(lambda m: dist.Normal(0.0, 1.0))
    model.theta.reg = nn.Prior(dist.ZeroSumNormal(1.0, (4,)))
    return infer.Posterior(model, X, X)


ROWS = [
    # `.value()` forgotten in the model
    Mistake('slope * x', read(lambda s, x: s * x), (VALUE, r'in param \* \.\.\.')),
    Mistake('x * slope', read(lambda s, x: x * s), (VALUE,)),
    Mistake('np.array * slope', read(lambda s, x: np.ones(4) * s), (VALUE, 'a function of NumPy')),
    Mistake('jnp.exp(slope)', read(lambda s, x: jnp.exp(s) * x), (VALUE, 'a function of JAX')),
    Mistake('np.exp(slope)', read(lambda s, x: np.exp(s) * x), (VALUE, 'a function of NumPy')),
    Mistake('jax.nn.softplus(slope)', read(lambda s, x: jax.nn.softplus(s) * x), (VALUE,)),
    Mistake('if slope', read(lambda s, x: x if s else -x), (VALUE, 'in a condition')),
    Mistake('slope > 0', read(lambda s, x: jnp.where(s > 0, x, -x)), (VALUE, 'in param > ')),
    Mistake('float(slope)', read(lambda s, x: float(s) * x), (VALUE, r'in float\(param\)')),
    Mistake('slope[0]', read(lambda s, x: s[0] * x), (VALUE, r'in param\[')),
    Mistake('slope(x)', read(lambda s, x: s(x)), (VALUE, r'in param\(\.\.\.\)')),
    Mistake(
        'slope.mean()', read(lambda s, x: s.mean() * x), (r"slope.*no 'mean'", r'slope\.value\(\)'), AttributeError
    ),
    Mistake('a Param as the mean', lambda: infer.Posterior(Returned(), X, X), (VALUE,)),
    # Hierarchies by NumPyro's distributions
    Mistake(
        'dist.Normal(mu, tau) as prior', hierarchy(lambda m: dist.Normal(m.mu, m.tau)), (r"Param '(mu|tau)'", 'Reg')
    ),
    Mistake('dist.Normal(0, tau) as prior', hierarchy(lambda m: dist.Normal(0.0, m.tau)), ("Param 'tau'", 'Reg')),
    Mistake('dist.Normal(mu * 2, 1) as prior', hierarchy(lambda m: dist.Normal(m.mu * 2, 1.0)), ("Param 'mu'", 'Reg')),
    Mistake('a Param as prior', hierarchy(lambda m: m.tau), ('is not a prior', r'nn\.GaussianReg\(std=')),
    # Supports
    Mistake(
        'a sum of zero on the line',
        hierarchy(lambda m: dist.ZeroSumNormal(1.0, (4,))),
        (r'support ZeroSum\(\)', r'IdentityT\(\) is not known to stay within it'),
    ),
    Mistake('an unknown support, put in later', replaced_by_unknown, ("Param 'theta'", r'support ZeroSum\(\)')),
    Mistake('a narrow prior, put in later', replaced, ("Param 'slope'", 'narrower than the codomain', 't=None')),
    Mistake('a discrete prior', built(reg=dist.Poisson(1.0)), ('is discrete', 'Sum discrete')),
    Mistake('a point as prior', built(reg=dist.Delta(0.5)), ('is a point, not a density', r'nn\.Const')),
    Mistake(
        'a law of censored data as prior', built(reg=dist.RightCensoredDistribution(dist.Gamma(2.0))), ('censored',)
    ),
    Mistake('a law with a mass at 0 as prior', built(reg=dist.HurdleGamma(0.5, 1.0)), ('a probability of its own',)),
    Mistake('a half line on theta', built(reg=dist.HalfNormal(), prior_on='unconstrained'), ('scores theta',)),
    # Shapes and arguments
    Mistake(
        'a prior of shape (3,) on a number', built(reg=dist.Normal(jnp.zeros(3), 1.0)), (r'values of shape \(3,\)',)
    ),
    Mistake('a prior of shape (3,) on four', hierarchy(lambda m: dist.Normal(jnp.zeros(3), 1.0)), (r'shape \(4,\)',)),
    Mistake(
        'a mean of shape (3,) on four', hierarchy(lambda m: nn.GaussianReg(jnp.zeros(3))), (r'mean of shape \(3,\)',)
    ),
    Mistake(
        'unnamed hyper-parameters',
        hierarchy(lambda m: nn.LogNormalReg(0.0, 0.5)),
        (r'Write nn\.LogNormalReg\(mu=0\.0',),
    ),
    Mistake('the class of a prior', hierarchy(lambda m: dist.Normal), ('the class Normal', r'dist\.Normal\(')),
    Mistake('the class of a transform', built(t=nn.PositiveT), ('the class PositiveT', r't=nn\.PositiveT\(\)')),
    # Layers
    Mistake('BatchNorm1d on a table', network(lambda: nn.BatchNorm1d(3)), (r'BatchNorm0d\(3\), for tables',)),
    Mistake(
        'a layer of other features', network(lambda: nn.Linear(5, 1)), (r'layer \(Linear\(5 -> 1\)\)', r'\(4, 3\)')
    ),
    Mistake('a class of a layer first', network(lambda: nn.Sequential(nn.Linear)), ('the class Linear', 'sizes')),
]
