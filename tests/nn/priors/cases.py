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
    fit: Any = None       # the hyper-parameters that 500 draws of the law are fitted from, and their starting values
    tolerance: float = 0.25  # relative, of the fitted hyper-parameters


CASES = {
    'GaussianReg': Case(lambda **k: P.GaussianReg(1., 2., **k), st.norm(1, 2), [-1e8, -3., 0., 1., 7., 1e4],
                        fit={'mean': 0., 'std': 1.}),
    'StudentTReg': Case(lambda **k: P.StudentTReg(df=3., scale=2., **k), st.t(3, scale=2), [-1e12, -3., 0., 1e-3, 9.],
                        fit={'df': 6., 'scale': 1.}, tolerance=0.5),
    'CauchyReg': Case(lambda **k: P.CauchyReg(scale=2., **k), st.cauchy(0, 2), [-1e12, -3., 0., 1., 1e100],
                      fit={'scale': 1.}),
    'UniformReg': Case(lambda **k: P.UniformReg(lower=-1., upper=3., hard=True, **k), st.uniform(-1, 4),
                       [-0.999, 0., 2.999], [-1.001, 3.001, 1e6]),
    'BetaReg': Case(lambda **k: P.BetaReg(a=2., b=3.5, **k), st.beta(2, 3.5), [1e-12, 0.1, 0.5, 1 - 1e-9],
                    [-0.5, 1.7], fit={'a': 1., 'b': 1.}),
    'BetaReg, open at both ends': Case(lambda **k: P.BetaReg(a=.5, b=.5, **k), st.beta(.5, .5), [1e-9, 0.3, 1 - 1e-9],
                                       [-0.5, 1.7]),
    'LogNormalReg': Case(lambda **k: P.LogNormalReg(mu=.5, sigma=.7, **k), st.lognorm(.7, scale=np.exp(.5)),
                         [1e-20, 1e-12, 0.1, 1., 1e9], [-3., 0.], fit={'mu': 0., 'sigma': 1.}),
    'ExponentialReg': Case(lambda **k: P.ExponentialReg(rate=.5, **k), st.expon(scale=2), [0., 1e-9, 1., 500.], [-3.],
                           fit={'rate': 2.}),
    'GammaReg': Case(lambda **k: P.GammaReg(alpha=2., beta=3., **k), st.gamma(2, scale=1 / 3), [1e-12, 0.5, 100.],
                     [-3., 0.], fit={'alpha': 1., 'beta': 1.}),
    'GammaReg, shape below 1': Case(lambda **k: P.GammaReg(alpha=.5, beta=3., **k), st.gamma(.5, scale=1 / 3),
                                    [1e-12, 0.5, 100.], [-3.]),
    'InverseGammaReg': Case(lambda **k: P.InverseGammaReg(alpha=2., beta=3., **k), st.invgamma(2, scale=3),
                            [1e-10, 1e-3, 1., 1e8], [-3., 0.], fit={'alpha': 1., 'beta': 1.}),
    'LogUniformReg': Case(lambda **k: P.LogUniformReg(lower=1., upper=10., **k), st.loguniform(1, 10),
                          [1.0001, 3., 9.999], [50., -50., 0.5, 0.]),
    'HorseshoeReg': Case(lambda **k: P.HorseshoeReg(tau=2., **k), _Horseshoe()(scale=2),
                         [1e-100, 1e-4, 0.1, 1., 4., 60., 1e3, -3.], fit={'tau': 1.}),
    'SpikeAndSlabReg': Case(lambda **k: P.SpikeAndSlabReg(spike_scale=.05, slab_scale=2., pi=.3, **k),
                            _Mixture((.3, st.norm(0, .05)), (.7, st.norm(0, 2))), [-1e3, -10., 0., .04, 1., 1e4],
                            fit={'spike_scale': .2, 'slab_scale': 1., 'pi': .5}),
}
