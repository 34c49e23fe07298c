"""The table of transforms: a new one joins with one line, and every shared property is tested on it."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import scipy.special as sp

from brainstate_prob.nn.bijections import (
    AffineT,
    ChainT,
    ClipT,
    ExpT,
    IdentityT,
    LogT,
    MaskedT,
    NegativeT,
    NegSoftplusT,
    OrderedT,
    PositiveT,
    PowerT,
    ReluT,
    ScaledSigmoidT,
    SigmoidT,
    SimplexT,
    SoftplusT,
    SoftsignT,
    TanhT,
    Transform,
    UnitVectorT,
)


def softplus(x):
    return np.logaddexp(0.0, x)


def stick_breaking(x):
    left, out = 1.0, []
    for z in sp.expit(x):
        out.append(left * z)
        left = left * (1 - z)
    return np.array([*out, left])


def ordered(x):
    return np.cumsum(np.concatenate([x[:1], softplus(x[1:])]))


@dataclasses.dataclass(frozen=True)
class Case:
    """A transform with its textbook formula on a float64 vector, and how far its tails are followed."""

    t: Transform
    formula: Callable
    length: int = 3
    low: float = -4.0  # thetas are drawn between low and high
    high: float = 4.0
    far32: float = 50.0  # the derivative is still a normal number of the dtype here
    far64: float = 500.0
    far_gradients: tuple = (1e-3, 30.0, 80.0)  # the true gradients are finite in float32 here
    half: bool = True  # whether its numbers exist in half precision

    @property
    def id(self):
        return repr(self.t)

    def theta(self, shape=(), seed=0, dtype=None):
        """Draw thetas, with the vector on the last axis."""
        draws = np.random.default_rng(seed).uniform(self.low, self.high, (*shape, self.length))
        return jnp.asarray(draws, dtype)


CASES = [
    Case(IdentityT(), lambda x: x),
    Case(AffineT(scale=-3.0, shift=0.5), lambda x: 0.5 - 3 * x),
    Case(AffineT(scale=1e-9, shift=0.0), lambda x: 1e-9 * x, half=False),
    Case(AffineT([2.0, -1.0, 0.5], [0.0, 1.0, 2.0]), lambda x: np.array([2.0, -1.0, 0.5]) * x + [0.0, 1.0, 2.0]),
    Case(SigmoidT(), sp.expit),
    Case(SigmoidT(-1.0, 4.0), lambda x: -1 + 5 * sp.expit(x)),
    Case(SigmoidT([0.0, -2.0, 1.0], [1.0, 5.0, 1.5]), lambda x: [0.0, -2.0, 1.0] + np.array([1, 7, 0.5]) * sp.expit(x)),
    Case(TanhT(-1.0, 1.0), np.tanh, far32=40.0, far64=350.0),
    Case(TanhT(-1.0, 4.0), lambda x: -1 + 2.5 * (np.tanh(x) + 1), far32=40.0, far64=350.0),
    Case(SoftsignT(), lambda x: (x / (1 + abs(x)) + 1) / 2),
    Case(SoftsignT(-1.0, 4.0), lambda x: -1 + 2.5 * (x / (1 + abs(x)) + 1)),
    Case(ScaledSigmoidT(0.0, 10.0, beta=0.5), lambda x: 10 * sp.expit(x / 2)),
    Case(ScaledSigmoidT(0.0, 1.0, [0.5, 1, 2]), lambda x: sp.expit(np.array([0.5, 1, 2]) * x), far32=40.0, far64=350.0),
    Case(SoftplusT(), softplus),
    Case(SoftplusT(lower=1.5), lambda x: 1.5 + softplus(x)),
    Case(SoftplusT(jnp.array([0.0, -1.0, 2.0])), lambda x: np.array([0.0, -1.0, 2.0]) + softplus(x)),
    Case(NegSoftplusT(), lambda x: -softplus(-x)),
    Case(NegSoftplusT(upper=1.5), lambda x: 1.5 - softplus(-x)),
    Case(NegativeT(), lambda x: -softplus(-x)),
    Case(ExpT(), np.exp),
    Case(ExpT(lower=-2.0), lambda x: -2 + np.exp(x)),
    Case(LogT(), np.exp),
    Case(LogT(lower=1.0), lambda x: 1 + np.exp(x)),
    Case(PositiveT(), np.exp),
    Case(PowerT(), lambda x: sp.boxcox(x, 0.5), low=0.1),
    Case(PowerT(lmbda=0.0), np.log, low=0.1),
    Case(PowerT(lmbda=-0.7), lambda x: sp.boxcox(x, -0.7), low=0.1),
    Case(PowerT([1e-5, 0.0, 1.0]), lambda x: sp.boxcox(x, np.array([1e-5, 0.0, 1.0])), low=0.1),
    Case(OrderedT(), ordered),
    Case(SimplexT(), stick_breaking),
    Case(UnitVectorT(), lambda x: x / np.linalg.norm(x)),
    Case(ChainT(PositiveT(), PowerT(lmbda=0.3)), lambda x: sp.boxcox(np.exp(x), 0.3)),
    Case(ChainT(SigmoidT(), AffineT(-100.0, 30.0)), lambda x: 30 - 100 * sp.expit(x)),
    Case(ChainT(OrderedT(), PositiveT()), lambda x: np.exp(ordered(x)), far64=200.0, far_gradients=(1e-3, 30.0)),
    Case(ChainT(AffineT(0.5, 0.0), SimplexT()), lambda x: stick_breaking(x / 2)),
    Case(ChainT(ChainT(IdentityT(), SoftplusT()), AffineT(2.0, 1.0)), lambda x: 1 + 2 * softplus(x)),
    Case(MaskedT([True, False, True], SoftplusT(1.0)), lambda x: np.where([1, 0, 1], 1 + softplus(x), x)),
    Case(MaskedT([True, False, False], SigmoidT(2.0, 3.0)), lambda x: np.where([1, 0, 0], 2 + sp.expit(x), x)),
    Case(ClipT(-1.0, 2.0), lambda x: np.clip(x, -1, 2)),
    Case(ClipT(-1.0, 2.0, straight_through=True), lambda x: np.clip(x, -1, 2)),
    Case(ReluT(), lambda x: np.maximum(x, 0)),
    Case(ReluT(lower_bound=1.0, straight_through=True), lambda x: 1 + np.maximum(x, 0)),
]
BIJECTIVE = [case for case in CASES if case.t.bijective]
WITH_DENSITY = [case for case in CASES if case.t.has_density]


def ids(cases):
    return [case.id for case in cases]
