"""Mistakes in how a result is read: as if all data, all steps and all draws had been enough."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import Mistake
from tests.infer.mistakes.scores import process, walk

NOISE = np.random.default_rng(0).normal(size=10)


class Funnel(nn.Module):
    def __init__(self):
        super().__init__()
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(10.0))
        self.effect = nn.Param(jnp.zeros(10), reg=nn.GaussianReg(0.0, self.tau))

    def __call__(self):
        return dist.Normal(self.effect.value(), 3.0)


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(jnp.ones((10, 1)) * self.w.value(), 1.0).to_event(2)


@functools.cache
def funnel():
    return infer.Posterior(Funnel(), targets=np.float32(0.5 * NOISE))


@functools.cache
def table():
    return infer.Posterior(Table(), targets=np.float32(NOISE[:, None] * np.ones(3)))


@functools.cache
def mean():
    model = Table()
    return infer.Posterior(
        model, targets=np.full((10, 3), 5.0, 'f4'), likelihood=lambda m: dist.Normal(m.w.value(), 1.0)
    )


def base_class():
    return nn.Param(0.0, reg=nn.DistributionReg(0.0, 0.5))


JOINT = {'a Gaussian process': (process, 'MultivariateNormal'), 'a random walk': (walk, 'GaussianRandomWalk')}

ROWS = [
    *(
        Mistake(
            f'the {kind} of {name} at its own inputs',
            make,
            (f'joint {law} of all 12 targets', 'without those that were fitted', 'fit.evaluate', "kind='draws'"),
            ValueError,
            ('laplace', 'nuts'),
            then=lambda fit, kind=kind: fit.predict(kind=kind),
        )
        for name, (make, law) in JOINT.items()
        for kind in ('mean', 'interval')
    ),
    Mistake(
        'a table declared as one event',
        table,
        ('all 10 as one event', r'Write \.to_event\(1\) in place of \.to_event\(2\)', '10 observations'),
        ValueError,
        ('laplace',),
        then=lambda fit: fit.loo(),
    ),
    Mistake(
        'a sampler that is to start at a mode that is none',
        funnel,
        ("joint density of 'effect'", "init='model' or 'pathfinder'", r'(?s)\A(?!.*learning rate)'),
        ValueError,
        ('nuts',),
        {'init': 'map'},
    ),
    Mistake(
        'a guide of a few steps and draws',
        mean,
        ("k-hat of the guide 'diagonal'", r'num_steps \(now 5\)'),
        infer.ConvergenceWarning,
        ('svi',),
        {'num_steps': 5, 'num_draws': 20},
        warns=True,
    ),
    Mistake('the base class as a prior', base_class, ('nn.DistributionReg is the base class', r'dist\.Normal')),
]
