"""Wrong options of the ways to fit: refused before anything is computed, in one form of words."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import ALL, IN_BATCHES, MARKOV, Mistake


class Line(nn.Module):
    """Two Params of which the second keeps dropout's company, so that every way to fit takes it."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.offset = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.drop = nn.Dropout(0.8)

    def __call__(self, x):
        return dist.Normal(self.drop(x) * self.slope.value() + self.offset.value(), 1.0)


X = np.linspace(-1.0, 1.0, 8).astype('f4')


@functools.cache
def line():
    return infer.Posterior(Line(), X, X)


def made(value):
    return lambda: value


SAMPLERS = ('nuts', 'barker', 'chees', 'meads', 'hmc_ecs', 'elliptical_slice', 'mclmc', 'sgmcmc')
DESCENTS = ('map', 'ensemble', 'mc_dropout')
WITH_STEPS = ('map', 'svi', 'ensemble', 'swag', 'mc_dropout')
WITH_DRAWS = ('laplace', 'svi', 'pathfinder', 'swag', 'mc_dropout')
SAVED = tuple(way for way in ALL if way not in ('laplace', 'pathfinder'))
ON_DEVICES = ('nuts', 'barker', 'sgmcmc', 'ensemble', 'chees', 'meads', 'mclmc', 'hmc_ecs', 'elliptical_slice')
BY_METHOD = ('nuts', 'barker', 'sgmcmc', 'ensemble', 'hmc_ecs', 'elliptical_slice')
STARTED = (
    'map',
    'svi',
    'nuts',
    'sgmcmc',
    'pathfinder',
    'ensemble',
    'chees',
    'meads',
    'mclmc',
    'barker',
    'elliptical_slice',
)


def wrong(name, options, *words, ways=ALL, error=ValueError):
    return Mistake(name, line, words, error, ways, options)


def counts(option, ways, least=1):
    """What no count is: each value, in every way to fit that has the option."""
    values = [1.5, True, '100', float('nan'), -1, *([0] if least == 1 else [])]
    return [
        wrong(
            f'{option}={value!r}', {option: value}, f'^{option} must be an int of at least', f'got {value!r}', ways=ways
        )
        for value in values
    ]


ROWS = [
    *counts('num_samples', SAMPLERS),
    *counts('num_chains', SAMPLERS),
    *counts('thinning', SAMPLERS),
    *counts('num_steps', WITH_STEPS),
    *counts('num_draws', WITH_DRAWS),
    *counts('num_members', ('ensemble',)),
    *counts('num_particles', ('svi', 'smc')),
    *counts('max_tree_depth', ('nuts', 'smc', 'hmc_ecs')),
    *counts('batch_size', (*IN_BATCHES, 'hmc_ecs')),
    *counts('num_warmup', SAMPLERS, least=0),
    wrong('num_samples=1e3', {'num_samples': 1e3}, 'at least 1, got 1000.0. Write 1000.', ways=SAMPLERS),
    wrong(
        'num_samples huge', {'num_samples': 2**40}, 'num_samples must be an int of at most 2147483647', ways=SAMPLERS
    ),
    wrong('a tree of depth 1000', {'max_tree_depth': 1000}, 'at most 30, got 1000', ways=('nuts', 'smc', 'hmc_ecs')),
    wrong(
        'thinning of more than all', {'thinning': 3}, 'thinning=3 keeps none of num_samples=2 draws', ways=SAMPLERS[:6]
    ),
    wrong('saves without a file', {'checkpoint_every': 10}, 'checkpoint_every=10 needs checkpoint=path', ways=SAVED),
    wrong('checkpoint_every=0', {'checkpoint_every': 0}, 'checkpoint_every must be an int of at least', ways=SAVED),
    wrong('a checkpoint that is no path', {'checkpoint': True}, 'checkpoint must be the path of a file', ways=SAVED),
    wrong('a checkpoint that is a folder', {'checkpoint': '/'}, "got '/'. This is a folder", ways=SAVED),
    wrong(
        'a checkpoint in no folder',
        {'checkpoint': '/no/such/folder/run'},
        "there is no folder '/no/such/folder'. Make it first",
        ways=SAVED,
        error=FileNotFoundError,
    ),
    wrong("seed='a'", {'seed': 'a'}, "^seed must be an int or a random key .*got 'a'"),
    wrong('seed=1.5', {'seed': 1.5}, '^seed must be an int or a random key .*got 1.5'),
    wrong('seed=None', {'seed': None}, '^seed must be an int or a random key .*got None'),
    wrong('seed=True', {'seed': True}, '^seed must be an int or a random key .*got True'),
    wrong('several keys as a seed', {'seed': jax.random.split(jax.random.key(0), 3)}, 'must be one random key'),
    wrong("progress='no'", {'progress': 'no'}, "progress must be True or False, got 'no'"),
    wrong("jacobian='no'", {'jacobian': 'no'}, "jacobian must be True or False, got 'no'", ways=DESCENTS),
    wrong('bootstrap=1', {'bootstrap': 1}, 'bootstrap must be True or False, got 1', ways=('ensemble',)),
    wrong('precondition=1', {'precondition': 1}, 'precondition must be True or False', ways=('sgmcmc',)),
    *(
        wrong(
            f'target_accept={value!r}',
            {'target_accept': value},
            'target_accept must be a number between 0 and 1, got',
            ways=('nuts', 'chees', 'hmc_ecs'),
        )
        for value in (0, 1, 80, -0.1, float('nan'), '0.8', None)
    ),
    wrong('target_ess=2', {'target_ess': 2.0}, 'target_ess must be a number between 0 and 1', ways=('smc',)),
    wrong('friction=1', {'friction': 1.0}, 'friction must be a number between 0 and 1, got 1.0', ways=('sgmcmc',)),
    *(
        wrong(
            f'step_size={value!r}',
            {'step_size': value},
            'step_size must be a positive number or a function of the step, got',
            ways=('sgmcmc',),
        )
        for value in (0.0, -1e-3, float('nan'), float('inf'), 'auto')
    ),
    wrong('energy_variance=0', {'energy_variance': 0.0}, 'must be a positive number, got 0.0', ways=('mclmc',)),
    wrong('tol=-1', {'tol': -1.0}, 'tol must be a number of at least 0, got -1.0', ways=('map', 'ensemble')),
    wrong('scale=-1', {'scale': -1.0}, 'scale must be a number of at least 0, got -1.0', ways=('swag',)),
    wrong('r_hat=0.9', {'r_hat': 0.9}, 'r_hat must be a number above 1, got 0.9', ways=('svi',)),
    wrong('init_scale=0', {'init_scale': 0.0}, 'init_scale must be a positive number, got 0.0', ways=('svi',)),
    wrong('mass_matrix misspelt', {'mass_matrix': 'diag'}, "Did you mean 'diagonal'", ways=('nuts', 'hmc_ecs')),
    wrong('backend misspelt', {'backend': 'BlackJax'}, "Did you mean 'blackjax'", ways=('nuts',)),
    wrong('warmup misspelt', {'warmup': 'gradients'}, "Did you mean 'gradient'", ways=('nuts',)),
    wrong('chain_method misspelt', {'chain_method': 'vectorised'}, "Did you mean 'vectorized'", ways=BY_METHOD),
    wrong('method misspelt', {'method': 'sgdl'}, "Did you mean 'sgld'", ways=('sgmcmc',)),
    wrong('structure misspelt', {'structure': 'lowrank'}, "Did you mean 'low_rank'", ways=('laplace',)),
    wrong('curvature misspelt', {'curvature': 'hesian'}, "Did you mean 'hessian'", ways=('laplace',)),
    wrong('guide misspelt', {'guide': 'low_rnak'}, "Did you mean 'low_rank'", ways=('svi',)),
    wrong('init misspelt', {'init': 'pathfider'}, "Did you mean 'pathfinder'", ways=STARTED),
    wrong('init is a number', {'init': 1.0}, "init must be 'model', 'map', .*got 1.0", ways=STARTED),
    wrong('init of another length', {'init': np.zeros(3)}, r'init must have shape \(2,\)', r'got \(3,\)', ways=STARTED),
    wrong(
        'params= misspelt', {'params': 'slpe'}, "params='slpe' matches no", "Did you mean 'slope'", ways=('laplace',)
    ),
    wrong('devices=99', {'devices': 99}, 'devices=99, but there are 2', ways=ON_DEVICES),
    wrong('devices=True', {'devices': True}, 'devices= takes devices', ways=ON_DEVICES),
    wrong('an optimizer not called', {'optimizer': optax.adam}, r'call it, optax.adam\(1e-2\)', ways=WITH_STEPS),
    wrong("optimizer='sgd'", {'optimizer': 'sgd'}, r'got .sgd.\. Write optax.sgd\(1e-2\)', ways=WITH_STEPS),
    wrong("optimizer='adm'", {'optimizer': 'adm'}, "Did you mean 'adam'", ways=DESCENTS),
    wrong(
        'a rate for an optimizer', {'optimizer': 0.1}, r'learning rate of 0.1 write optax.adam\(0.1\)', ways=WITH_STEPS
    ),
    wrong('early_stopping=yes', {'early_stopping': 'yes'}, "early_stopping must be .*got 'yes'", ways=DESCENTS),
    wrong('early_stopping=0', {'early_stopping': 0}, 'patience must be an int of at least 1, got 0', ways=DESCENTS),
    wrong(
        'callbacks that are no functions', {'callbacks': [3]}, 'callbacks must be a function', ways=(*DESCENTS, 'swag')
    ),
    wrong(
        'batches is an array',
        {'batches': X, 'num_observations': 8},
        r'batches must be an iterable of pairs \(inputs, targets\), got an array of shape \(8,\)',
        'with batch_size=',
        ways=IN_BATCHES,
    ),
    # What is given in place of a posterior, or of a model.
    Mistake(
        'a model in place of a posterior', Line, ('takes a Posterior, got Line', r'infer.Posterior\(model, inputs')
    ),
    Mistake('a class in place of a posterior', made(Line), ('takes a Posterior', 'the class Line')),
    Mistake('None in place of a posterior', made(None), ('takes a Posterior, got NoneType',)),
    Mistake(
        'a result in place of a posterior',
        lambda: infer.map(line(), num_steps=1, optimizer='adam', progress=False),
        ('takes a Posterior, got Fit', 'fit.posterior', 'init=fit'),
    ),
]
assert set(MARKOV) == set(SAMPLERS)


class Given(nn.Module):
    """A model that is a function of itself and its inputs."""

    def __init__(self, call):
        super().__init__()
        self.scale = nn.Param(1.0, t=nn.ExpT(), reg=dist.HalfNormal(1.0))
        self.weights = nn.Param(np.zeros(8, 'f4'), reg=dist.Normal(0.0, 1.0))
        self.call = call

    def __call__(self, *inputs):
        return self.call(self, *inputs)


class OfTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x, z):
        return dist.Normal(self.slope.value() * x + z, 1.0)


def if_of_a_value(m, x):
    if m.scale.value() > 0:
        return dist.Normal(x, 1.0)
    return dist.Normal(-x, 1.0)


def while_of_a_value(m, x):
    total = m.scale.value()
    while total < 1:
        total = total + 0.1
    return dist.Normal(total * x, 1.0)


def if_of_inputs(m, x):
    return dist.Normal(m.scale.value() * (x if x.sum() > 0 else -x), 1.0)


def range_of_a_value(m, x):
    return dist.Normal(sum(x for _ in range(m.scale.value().astype(int))), 1.0)


def index_of_a_list(m, x):
    return dist.Normal([1.0, 2.0, 3.0][m.scale.value().astype(int)] * x, 1.0)


def assignment_in_place(m, x):
    mean = m.weights.value()
    mean[0] = 1.0
    return dist.Normal(mean, 1.0)


def numpyro_model(x):
    return numpyro.sample('y', dist.Normal(numpyro.sample('slope', dist.Normal(0.0, 1.0)) * x, 1.0))


def at_the_door(name, make, *words):
    return Mistake(name, make, words, TypeError)


def called(name, call, *words):
    return at_the_door(name, lambda: infer.Posterior(Given(call), X, X), *words)


def other_library(module, name):
    return type(name, (), {'__module__': module, '__call__': lambda self, x: x})()


IN_PYTHON = "uses the value of 'scale' in "
ROWS += [
    at_the_door('the class of a model', lambda: infer.Posterior(Line, X, X), 'takes a Module', r'Call it.*Line\('),
    at_the_door('a function for a model', lambda: infer.Posterior(lambda x: x, X, X), 'takes a Module, got function'),
    at_the_door(
        'a NumPyro model for a model',
        lambda: infer.Posterior(numpyro_model, X, X),
        'numpyro_model is a NumPyro model',
        r'infer.Posterior.from_numpyro\(numpyro_model, \*args\)',
    ),
    at_the_door(
        'a Flax Linen module',
        lambda: infer.Posterior(other_library('flax.linen.module', 'Net'), X, X),
        'a module of Flax',
        r'\(module.apply, variables\)',
    ),
    at_the_door(
        'an object of Equinox that is no module',
        lambda: infer.Posterior(other_library('equinox.nn', 'MLP'), X, X),
        'got MLP, a module of Equinox',
    ),
    at_the_door(
        'a PyTorch module', lambda: infer.Posterior(other_library('torch.nn', 'Linear'), X, X), 'a module of PyTorch'
    ),
    at_the_door(
        'a posterior for a model', lambda: infer.Posterior(line(), X, X), 'is a Posterior already', 'posterior.model'
    ),
    at_the_door('data for a model', lambda: infer.Posterior(X, Line(), X), r'arguments are \(model, inputs, targets\)'),
    called('a model returns nothing', lambda m, x: None, 'NoneType: nothing. Does __call__ end with return'),
    called('a model returns an array', lambda m, x: x, 'must return a NumPyro distribution of the targets'),
    called('a model returns a class', lambda m, x: dist.Normal, 'the class Normal. Call it'),
    called(
        'a model returns a tuple',
        lambda m, x: (dist.Normal(x, 1.0), dist.Normal(x, 1.0)),
        'returned tuple of 2',
        'return one distribution of an array',
    ),
    called('a model returns a Param', lambda m, x: m.scale, 'returned Param', r'param.value\(\)'),
    called('if of a value', if_of_a_value, IN_PYTHON + "Python's if", 'jnp.where', 'if m.scale.value'),
    called('while of a value', while_of_a_value, "in Python's if, while", 'while total < 1'),
    called('if of inputs', if_of_inputs, "in Python's if", 'jnp.where'),
    called('float of a value', lambda m, x: dist.Normal(x, float(m.scale.value())), r'in float\(\)', 'Leave the value'),
    called('int of a value', lambda m, x: dist.Normal(x, int(m.scale.value())), r'in int\(\)'),
    called('item of a value', lambda m, x: dist.Normal(x, m.scale.value().item()), r'in item\(\)'),
    called('a format of a value', lambda m, x: f'{m.scale.value():.2f}', 'in a format string', 'jax.debug.print'),
    called(
        'NumPy of a value', lambda m, x: dist.Normal(np.sin(m.scale.value()) * x, 1.0), 'function of NumPy', 'jax.numpy'
    ),
    called('an array of a value', lambda m, x: dist.Normal(np.asarray(m.scale.value()) * x, 1.0), 'function of NumPy'),
    called(
        'math of a value', lambda m, x: dist.Normal(x, math.exp(m.scale.value())), 'math module', 'jnp in place of math'
    ),
    called('max of a value', lambda m, x: dist.Normal(x, max(m.scale.value(), 0.1)), 'jnp.maximum in place of max'),
    called(
        'a shape of a value', lambda m, x: dist.Normal(jnp.ones(m.scale.value()), 1.0), 'as a shape', 'from the shapes'
    ),
    called('entries chosen by a value', lambda m, x: dist.Normal(x[x > m.scale.value()], 1.0), 'that selects entries'),
    called('a range of a value', range_of_a_value, r'the length of range\(\)', 'from shapes or constants'),
    called('an index of a list', index_of_a_list, 'an index of a list', 'Index arrays of jnp'),
    called('assignment in place', assignment_in_place, 'assigns to entries of an array in place', r'x.at\[i\].set'),
    at_the_door(
        'both inputs forgotten', lambda: infer.Posterior(OfTwo(), targets=X), r'takes \(x, z\)', 'gives it nothing'
    ),
    at_the_door('one input of two', lambda: infer.Posterior(OfTwo(), X, X), r'takes \(x, z\)', "argument: 'z'"),
    at_the_door('inputs too many', lambda: infer.Posterior(OfTwo(), (X, X, X), X), 'gives it 3 positional'),
    at_the_door(
        'inputs in a list', lambda: infer.Posterior(OfTwo(), [X, X], X), 'A list is one argument: write a tuple'
    ),
    at_the_door(
        'inputs by wrong names', lambda: infer.Posterior(OfTwo(), {'x': X, 'y': X}, X), r"keywords \['x', 'y'\]", "'z'"
    ),
    at_the_door(
        'a likelihood of too few arguments',
        lambda: infer.Posterior(Line(), X, X, likelihood=lambda m: dist.Normal(0.0, 1.0)),
        r'likelihood takes \(m\)',
        'gives it 2 positional',
    ),
    at_the_door(
        'a log_likelihood without targets',
        lambda: infer.Posterior(Line(), X, X, log_likelihood=lambda m, x: 0.0),
        r'log_likelihood takes \(m, x\)',
    ),
    Mistake(
        'targets forgotten',
        lambda: infer.Posterior(Line(), X),
        ('has no targets, so that only the priors',),
        ValueError,
    ),
]
