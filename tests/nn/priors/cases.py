"""The table of density priors. One more prior, one more line of `CASES`."""

from typing import Any, NamedTuple

import numpy as np
import scipy.special as sp
import scipy.stats as st

from brainstate_prob.nn import priors as P


class _Horseshoe(st.rv_continuous):
    """The marginal by its textbook formula; the distribution function by quadrature of the mixture over lambda."""

    def _logpdf(self, x):
        xi = x**2 / 2
        small, big = np.minimum(xi, 500), np.maximum(xi, 500)
        scaled = np.where(xi < 500, np.exp(small) * sp.exp1(small), (1 - 1 / big + 2 / big**2) / big)
        return np.log(scaled) - 0.5 * np.log(2 * np.pi**3)

    def _cdf(self, x):
        u = (np.arange(4000) + 0.5) / 4000  # lambda = tan(pi u / 2) is half-Cauchy for uniform u
        return st.norm.cdf(np.asarray(x)[..., None] / np.tan(np.pi * u / 2)).mean(-1)


class _Mixture:
    def __init__(self, *parts):
        self.parts = parts

    def logpdf(self, x):
        return sp.logsumexp([np.log(w) + law.logpdf(x) for w, law in self.parts], axis=0)

    def cdf(self, x):
        return sum(w * law.cdf(x) for w, law in self.parts)


class Case(NamedTuple):
    """A prior with its law in SciPy, points inside the support (tails included) and outside it."""

    make: Any
    law: Any
    inside: list
    outside: list = []
    fit: Any = None  # the hyper-parameters that 500 draws of the law are fitted from, and their starting values
    tolerance: float = 0.25  # relative, of the fitted hyper-parameters


CASES = {
    'GaussianReg': Case(
        lambda **k: P.GaussianReg(1.0, 2.0, **k),
        st.norm(1, 2),
        [-1e8, -3.0, 0.0, 1.0, 7.0, 1e4],
        fit={'mean': 0.0, 'std': 1.0},
    ),
    'StudentTReg': Case(
        lambda **k: P.StudentTReg(df=3.0, scale=2.0, **k),
        st.t(3, scale=2),
        [-1e12, -3.0, 0.0, 1e-3, 9.0],
        fit={'df': 6.0, 'scale': 1.0},
        tolerance=0.5,
    ),
    'CauchyReg': Case(
        lambda **k: P.CauchyReg(scale=2.0, **k), st.cauchy(0, 2), [-1e12, -3.0, 0.0, 1.0, 1e100], fit={'scale': 1.0}
    ),
    'UniformReg': Case(
        lambda **k: P.UniformReg(lower=-1.0, upper=3.0, hard=True, **k),
        st.uniform(-1, 4),
        [-0.999, 0.0, 2.999],
        [-1.001, 3.001, 1e6],
    ),
    'BetaReg': Case(
        lambda **k: P.BetaReg(a=2.0, b=3.5, **k),
        st.beta(2, 3.5),
        [1e-12, 0.1, 0.5, 1 - 1e-9],
        [-0.5, 1.7],
        fit={'a': 1.0, 'b': 1.0},
    ),
    'BetaReg, open at both ends': Case(
        lambda **k: P.BetaReg(a=0.5, b=0.5, **k), st.beta(0.5, 0.5), [1e-9, 0.3, 1 - 1e-9], [-0.5, 1.7]
    ),
    'LogNormalReg': Case(
        lambda **k: P.LogNormalReg(mu=0.5, sigma=0.7, **k),
        st.lognorm(0.7, scale=np.exp(0.5)),
        [1e-20, 1e-12, 0.1, 1.0, 1e9],
        [-3.0, 0.0],
        fit={'mu': 0.0, 'sigma': 1.0},
    ),
    'ExponentialReg': Case(
        lambda **k: P.ExponentialReg(rate=0.5, **k),
        st.expon(scale=2),
        [0.0, 1e-9, 1.0, 500.0],
        [-3.0],
        fit={'rate': 2.0},
    ),
    'GammaReg': Case(
        lambda **k: P.GammaReg(alpha=2.0, beta=3.0, **k),
        st.gamma(2, scale=1 / 3),
        [1e-12, 0.5, 100.0],
        [-3.0, 0.0],
        fit={'alpha': 1.0, 'beta': 1.0},
    ),
    'GammaReg, shape below 1': Case(
        lambda **k: P.GammaReg(alpha=0.5, beta=3.0, **k), st.gamma(0.5, scale=1 / 3), [1e-12, 0.5, 100.0], [-3.0]
    ),
    'InverseGammaReg': Case(
        lambda **k: P.InverseGammaReg(alpha=2.0, beta=3.0, **k),
        st.invgamma(2, scale=3),
        [1e-10, 1e-3, 1.0, 1e8],
        [-3.0, 0.0],
        fit={'alpha': 1.0, 'beta': 1.0},
    ),
    'LogUniformReg': Case(
        lambda **k: P.LogUniformReg(lower=1.0, upper=10.0, **k),
        st.loguniform(1, 10),
        [1.0001, 3.0, 9.999],
        [50.0, -50.0, 0.5, 0.0],
    ),
    'HorseshoeReg': Case(
        lambda **k: P.HorseshoeReg(tau=2.0, **k),
        _Horseshoe()(scale=2),
        [1e-100, 1e-4, 0.1, 1.0, 4.0, 60.0, 1e3, -3.0],
        fit={'tau': 1.0},
    ),
    'SpikeAndSlabReg': Case(
        lambda **k: P.SpikeAndSlabReg(spike_scale=0.05, slab_scale=2.0, pi=0.3, **k),
        _Mixture((0.3, st.norm(0, 0.05)), (0.7, st.norm(0, 2))),
        [-1e3, -10.0, 0.0, 0.04, 1.0, 1e4],
        fit={'spike_scale': 0.2, 'slab_scale': 1.0, 'pi': 0.5},
    ),
}
