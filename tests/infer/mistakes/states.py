"""Mistakes in names and labels, and in what a fit starts from."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from brainstate_prob import environ, infer, nn
from tests.infer.mistakes.row import Mistake

X = np.linspace(-1.0, 1.0, 8, dtype=np.float32)
STARTED = ('map', 'ensemble', 'svi', 'sgmcmc', 'nuts', 'barker', 'pathfinder', 'chees', 'elliptical_slice')


class Named(nn.Module):
    """Params under any names."""

    def __init__(self, **params):
        super().__init__()
        for name, param in params.items():
            setattr(self, name, param)

    def __call__(self, x):
        values = [p.value() for p in vars(self).values() if isinstance(p, nn.Param)]
        return dist.Normal(sum(jnp.sum(v) for v in values) * x, 1.0)


class Kept(nn.Module):
    """A Param in a dict."""

    def __init__(self, key):
        super().__init__()
        self.parts = {key: nn.Param(0.0, reg=dist.Normal(0.0, 1.0))}

    def __call__(self, x):
        return dist.Normal(next(iter(self.parts.values())).value() * x, 1.0)


class Line(nn.Module):
    """A slope, two offsets and a scale."""

    def __init__(self, scale=True):
        super().__init__()
        self.slope = nn.Param(0.5, reg=dist.Normal(0.0, 1.0))
        self.offset = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))
        if scale:
            self.noise = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.LogNormal(0.0, 1.0))

    def __call__(self, x):
        noise = self.noise.value() if hasattr(self, 'noise') else 1.0
        return dist.Normal(self.slope.value() * x + self.offset.value().sum(), noise)


class Normed(nn.Module):
    """A slope behind running statistics."""

    def __init__(self, size=1):
        super().__init__()
        self.norm = nn.BatchNorm0d(size, momentum=0.5, affine=False)
        self.slope = nn.Param(0.5, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        columns = jnp.stack([x] * self.norm.in_size[-1], axis=-1)
        return dist.Normal(self.norm(columns)[:, 0] * self.slope.value(), 1.0)


def normal(shape=(), **options):
    return nn.Param(jnp.zeros(shape), reg=dist.Normal(0.0, 1.0), **options)


def named(*, coords=None, dims=None, **params):
    return lambda: infer.Posterior(Named(**params), X, X, coords=coords, dims=dims)


@functools.cache
def line():
    return infer.Posterior(Line(scale=False), X, X)


@functools.cache
def scaled():
    return infer.Posterior(Line(), X, X)


@functools.cache
def normed():
    return infer.Posterior(Normed(), X, X)


@functools.cache
def members():
    with environ.context(fit=True):
        return infer.ensemble(normed(), num_members=2, optimizer=optax.adam(1e-2), num_steps=2, progress=False)


@functools.cache
def other_fit():
    return infer.map(infer.Posterior(Named(a=normal()), X, X), progress=False)


@functools.cache
def wide_fit():
    return infer.map(infer.Posterior(Normed(2), X, X), progress=False)


def started(name, init, words, make=line, ways=STARTED):
    return Mistake(name, make, words, ways=ways, options={'init': init})


class Lazily(Mapping):
    """Options that need a fit, which is made when they are asked for."""

    def __init__(self, name, make):
        self._name, self._make = name, make

    def __iter__(self):
        return iter([self._name])

    def __len__(self):
        return 1

    def __getitem__(self, name):
        return self._make()


ROWS = [
    # Names
    Mistake('a Param named chain', named(chain=normal()), ("Param 'chain' has the name of an axis", "'chain_'")),
    Mistake('a Param named draw', named(draw=normal()), ("Param 'draw' has the name of an axis", "'draw_'")),
    Mistake(
        'a slash in the key of a Param', lambda: infer.Posterior(Kept('a/b'), X, X), (r"Param 'parts\.a/b'", "'/'")
    ),
    Mistake('a space behind a key', lambda: infer.Posterior(Kept('a '), X, X), (r"Param 'parts\.a '", 'spaces')),
    Mistake(
        'a Param named as the axis of another',
        named(w=normal(2), w_dim_0=normal()),
        ("Param 'w_dim_0' has the name of an axis of Param 'w'", 'dims='),
    ),
    Mistake(
        'a Param named as its own dim',
        named(group=normal(2, dims=('group',))),
        ("Param 'group'", 'name of an axis', 'Rename'),
    ),
    Mistake('a dim named chain', named(w=normal(2, dims=('chain',))), ("Param 'w'", "dim 'chain'", 'Rename')),
    Mistake('a slash in a dim', named(w=normal(2, dims=('a/b',))), ("Param 'w': the dim 'a/b'", "'/'")),
    Mistake('an empty dim', named(w=normal(2, dims=('',))), ("Param 'w': the dim ''", 'Rename')),
    Mistake('a dim of the data named draw', named(w=normal(), dims={'targets': 'draw'}), ("dim 'draw'", 'Rename')),
    Mistake(
        'a dim of the data named as the data',
        named(w=normal(), dims={'targets': 'targets'}),
        (r"dims\['targets'\] has the axis 'targets'", "data's arrays"),
    ),
    Mistake('a slash in a dim of the data', named(w=normal(), dims={'targets': 'a/b'}), ("dim 'a/b'", "'/'")),
    Mistake(
        'labels of a dim that nothing has',
        named(w=normal(2), coords={'group': ['a', 'b']}),
        ("labels for 'group'", r'Param\(\.\.\., dims='),
    ),
    Mistake(
        'too few labels',
        named(w=normal(2, dims=('group',)), coords={'group': ['a']}),
        (r"coords\['group'\]", 'one label an entry: 2'),
    ),
    # Starts by values
    started('a start of an unknown path', {'slop': 1.0}, ("'slop'", "Did you mean 'slope'", "'offset'")),
    started('a start of another shape', {'offset': [1.0, 2.0, 3.0]}, (r"init\['offset'\] must have shape \(2,\)",)),
    started(
        'a start outside its transform',
        {'noise': -1.0},
        (r"init\['noise'\] is not a possible value", '-1'),
        scaled,
        ('map', 'ensemble', 'svi', 'sgmcmc', 'nuts', 'pathfinder', 'chees'),
    ),
    started('a start that is text', {'slope': 'one'}, (r"init\['slope'\]", 'numbers', "'one'")),
    started('a start that is nan', {'slope': np.nan}, (r"init\['slope'\]", 'NaN')),
    started('an array of the wrong size as start', np.zeros(7), (r'init must have shape \(3,\)', r'got \(7,\)')),
    Mistake(
        'a mode by an unknown path',
        line,
        ("'slop'", "Did you mean 'slope'"),
        ways=('laplace',),
        options={'init': {'slop': 1.0}},
    ),
    # Starts by fits
    Mistake(
        'a start from the fit of another model',
        line,
        ('init is the fit of another model', "'slope' is missing|'slope' is not a parameter"),
        ways=STARTED,
        options=Lazily('init', other_fit),
    ),
    Mistake(
        'a mode from the fit of another model',
        line,
        ('init is the fit of another model',),
        ways=('laplace',),
        options=Lazily('init', other_fit),
    ),
    Mistake(
        'a reference from the fit of another model',
        line,
        ('init is the fit of another model',),
        ways=('hmc_ecs',),
        options=Lazily('init', other_fit),
    ),
    Mistake(
        'chains from members with running statistics of their own',
        normed,
        ("fit by 'ensemble'", 'each of 2 draws has running statistics of its own', 'map'),
        ways=('svi', 'sgmcmc', 'nuts', 'barker', 'pathfinder', 'chees', 'elliptical_slice'),
        options=Lazily('init', members),
    ),
    Mistake(
        'running statistics of another shape',
        normed,
        (r'running statistics do not match', r"'norm\.running_mean' has shape"),
        ways=STARTED,
        options=Lazily('init', wide_fit),
    ),
]
