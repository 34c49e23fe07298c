"""What is forgotten, misspelt or in the wrong order where a posterior is made, and containers without an end."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from brainstate_prob.infer import ModelWarning
from tests.infer.mistakes.model import Line, X, Y
from tests.infer.mistakes.row import Mistake

TABLE = np.ones((8, 3))
FREE = ('nuts', 'barker', 'chees', 'meads', 'mclmc', 'sgmcmc', 'hmc_ecs', 'svi', 'pathfinder')


class Flat(nn.Module):
    """A line without priors."""

    def __init__(self, t=nn.IdentityT()):  # noqa: B008  (a value object without state)
        super().__init__()
        self.slope = nn.Param(0.5, t=t)

    def __call__(self, x):
        return dist.Normal(self.slope.value() * x, 1.0)


class Regression(nn.Module):
    def __init__(self, layer=False):
        super().__init__()
        self.layer = nn.Linear(3, 1) if layer else None
        self.w = nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(x @ self.w.value() if self.layer is None else self.layer(x)[:, 0], 1.0)


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(self.mu.value(), 1.0)


@dataclasses.dataclass
class Held:
    p: Any
    up: Any = None


def in_itself(kind):
    """A model that holds a container which holds itself."""

    if kind == 'a dict':
        held: Any = {'p': nn.Param(1.0)}
        held['up'] = [held]
    elif kind == 'a list':
        held = [nn.Param(1.0)]
        held.append(held)
    elif kind == 'a namespace':
        held = types.SimpleNamespace(p=nn.Param(1.0))
        held.up = held
    elif kind == 'a dataclass':
        held = Held(nn.Param(1.0))
        held.up = held
    else:
        held = np.empty(2, object)
        held[1] = held
    return lambda: infer.Posterior(Line(o=held), X, Y)


def later():
    """A list that was made to hold itself after the model had it."""
    model = Line(o=[[]])
    model.o[0].append(model.o)
    return infer.Posterior(model, X, Y)


def misspelt(name, make, *words):
    return Mistake(name, make, words, TypeError)


ENDLESS = 'contains itself, at '

ROWS = [
    Mistake(
        'no prior at all',
        lambda: infer.Posterior(Flat(), X, Y),
        ('No parameter of the model has a prior', "'slope'", r'reg=dist\.Normal', r'nn\.with_prior', 'ImproperUniform'),
        ModelWarning,
        FREE,
        warns=True,
    ),
    Mistake(
        'no prior of a half line',
        lambda: infer.Posterior(Flat(nn.SoftplusT(0.0)), X, Y),
        ('No parameter of the model has a prior', "'slope'"),
        ModelWarning,
        ('nuts',),
        warns=True,
    ),
    Mistake(
        'no targets and no inputs of a model that takes some',
        lambda: infer.Posterior(Line()),
        (
            'no targets',
            'Line is never called',
            'only the priors',
            r'Posterior\(model, inputs, targets\)',
            'sample_prior',
        ),
        ModelWarning,
        warns=True,
    ),
    Mistake(
        'no targets of a model that takes no inputs',
        lambda: infer.Posterior(Mean()),
        ('no targets', 'Mean is never called', r'Posterior\(model, targets=targets\)'),
        ModelWarning,
        ('map', 'nuts'),
        warns=True,
    ),
    # The wrong order
    Mistake(
        'targets before inputs of a matrix product',
        lambda: infer.Posterior(Regression(), Y, TABLE),
        ('Inputs come first', r'Posterior\(model, inputs, targets\)', 'the other way round these fit'),
    ),
    Mistake(
        'targets before inputs of a layer',
        lambda: infer.Posterior(Regression(layer=True), Y, TABLE),
        ('expected an input of shape', 'Inputs come first'),
    ),
    Mistake(
        'targets before inputs of a likelihood',
        lambda: infer.Posterior(Regression(), Y, TABLE, likelihood=lambda m, x: dist.Normal(x @ m.w.value(), 1.0)),
        ('Inputs come first',),
    ),
    Mistake(
        'inputs of too many columns, which are not swapped',
        lambda: infer.Posterior(Regression(), np.ones((8, 4)), Y),
        (r'\A(?!.*Inputs come first)',),
    ),
    # Names of arguments
    Mistake(
        'seed misspelt',
        lambda: infer.Posterior(Line(), X, Y),
        ("has no argument 'sead'", "Did you mean 'seed'", 'arguments are: posterior, '),
        TypeError,
        options={'sead': 1},
    ),
    Mistake(
        'num_samples misspelt',
        lambda: infer.Posterior(Line(), X, Y),
        ("has no argument 'num_sample'. Did you mean 'num_samples'",),
        TypeError,
        ('nuts', 'sgmcmc', 'chees'),
        {'num_sample': 10},
    ),
    Mistake(
        'num_warmup by the name that it has in PyMC',
        lambda: infer.Posterior(Line(), X, Y),
        ("nuts has no argument 'tune'. Did you mean 'num_warmup'",),
        TypeError,
        ('nuts',),
        {'tune': 10},
    ),
    misspelt('targets misspelt', lambda: infer.Posterior(Line(), X, target=Y), "Posterior .*'target'.* 'targets'"),
    misspelt(
        'reg by another name', lambda: nn.Param(1.0, priors=dist.Normal(0.0, 1.0)), "Param .*'priors'.*mean 'reg'"
    ),
    misspelt(
        'prior and reg', lambda: nn.Param(1.0, reg=nn.L2Reg(1.0), prior=nn.L2Reg(1.0)), 'reg= and prior= are the same'
    ),
    misspelt('reg misspelt', lambda: nn.Param(1.0, regs=dist.Normal(0.0, 1.0)), "Param .*'regs'.*mean 'reg'"),
    misspelt('an argument of a prior', lambda: nn.GaussianReg(mean=0.0, sd=1.0), r"nn\.GaussianReg .*'sd'.*mean 'std'"),
    misspelt('an argument of a transform', lambda: nn.SigmoidT(0.0, uper=1.0), "SigmoidT .*'uper'.*mean 'upper'"),
    # Containers without an end
    *(
        Mistake(f'{kind} in itself', in_itself(kind), (rf'The {name} at o {ENDLESS}{where}', 'Take it out'), ValueError)
        for kind, name, where in [
            ('a dict', 'dict', r"o\['up'\]\[0\]"),
            ('a list', 'list', r'o\[1\]'),
            ('a namespace', 'SimpleNamespace', r"o\['up'\]"),
            ('a dataclass', 'Held', r"o\['up'\]"),
            ('an array of objects', 'ndarray', r'o\[1\]'),
        ]
    ),
    Mistake('a list that is put in itself later', later, (rf'The list at o {ENDLESS}o\[0\]\[0\]',), ValueError),
]
