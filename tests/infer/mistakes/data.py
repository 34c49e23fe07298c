"""Mistakes in data: kinds, dtypes, missing entries, numbers that the precision does not hold."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import scipy.sparse
import xarray as xr

from brainstate_prob import infer, nn
from brainstate_prob.core.units import u
from tests.infer.mistakes.row import Mistake

X, Y = np.arange(3.0), np.array([0.1, 0.9, 2.2])
BEYOND = np.array([2**40, 2**40 + 1, 3])
WIDE = 'enable_x64'


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Param(1.0, reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        return dist.Normal(self.b.value() * (x if x.ndim < 2 else x[:, 0]), 1.0)


def inputs(x, *, targets=Y):
    return lambda: infer.Posterior(Line(), x() if callable(x) else x, targets)


def targets(y):
    return lambda: infer.Posterior(Line(), X, y)


def refused(name, make, *words):
    return Mistake(name, make, words)


KINDS = [
    refused('text in inputs', inputs(['a', 'b', 'c']), r'inputs\[0\] holds text', 'return_inverse'),
    refused('one word as inputs', inputs('file.csv'), r"inputs\[0\] is text: 'file.csv'", 'arrays of numbers'),
    refused('text in targets', targets(['a', 'b', 'c']), 'targets holds text', 'return_inverse'),
    refused('numbers written as text', targets(np.array(['1', '2', '3'])), "holds text: '1'", 'astype'),
    refused('bytes in inputs', inputs((X, b'x')), r'inputs\[1\] is text'),
    refused('text in a dict of inputs', inputs({'x': np.array(['a'])}), r"inputs\['x'\] holds text"),
    refused('a number as key of inputs', inputs({0: X}), 'by name', 'has the key 0'),
    refused('a set of inputs', inputs({0.0, 1.0, 2.0}), r'inputs\[0\] is a set', 'no order', 'list'),
    refused('a set of targets', targets({0.0, 1.0}), 'targets is a set', 'no order'),
    refused('a generator of inputs', inputs(lambda: (i for i in X)), r'is a generator', 'only once', 'np.array'),
    refused('a map of targets', targets(map(float, 'abc')), 'targets is a map', 'only once'),
    refused('a function as input', inputs((X, np.sin)), r'inputs\[1\] is a ufunc', 'attributes of the model'),
    refused('a class as input', inputs((X, nn.Param)), r'inputs\[1\] is a type', 'attributes of the model'),
    refused('a Param as input', inputs(lambda: nn.Param(1.0)), r'inputs\[0\] is a Param', 'part of a model'),
    refused('a model as input', inputs(lambda: (Line(), X)), r'inputs\[0\] is a Line', 'attribute of the model'),
    refused('dates as inputs', inputs(np.arange('2020-01-01', '2020-01-04', dtype='M8[D]')), 'dates', r't - t\[0\]'),
    refused('durations as targets', targets(np.arange(3).astype('m8[s]')), 'dates or times', 'timedelta64'),
    refused('dates from pandas', inputs(lambda: pd.Series(pd.date_range('2020', periods=3))), 'dates or times'),
    refused('labels from pandas', inputs(lambda: pd.Series(list('aba')).astype('category')), 'holds text', 'unique'),
    refused('a table of mixed columns', inputs(lambda: pd.DataFrame({'x': X, 's': list('abc')})), "text: 'a'"),
    refused('pandas NA', targets(pd.array([1, None, 3], dtype='Int64')), 'targets has 1 ', r'at \(1,\)', 'impute'),
    refused(
        'None in a list', inputs([1.0, None, 3.0]), r'inputs\[0\] has 1 missing entries', r'at \(1,\)', 'Drop or impute'
    ),
    refused('None in targets', targets([1.0, None, 3.0]), 'targets has 1 missing entries', r'at \(1,\)'),
    refused('lists of unequal length', inputs([[1.0, 2.0], [3.0]]), 'unequal lengths', 'Pad them and mask'),
    refused('targets of unequal length', targets([[1.0, 2.0], [3.0]]), 'targets is a list', 'unequal lengths'),
    refused('arrays of unequal length', targets([X, X[:2]]), r'shapes \[\(2,\), \(3,\)\]', 'concatenate'),
    refused('objects as inputs', inputs(np.array([X, None, 1], dtype=object)), 'missing entries', r'at \(1,\)'),
    refused('an array of arrays', inputs(np.array([X, Y[:2]], dtype=object)), 'Python objects', 'ndarray', 'padded'),
    refused('a sparse matrix', inputs(lambda: scipy.sparse.eye(3)), 'sparse matrix', 'toarray'),
    refused('an xarray Dataset', targets(xr.Dataset({'y': ('i', Y)})), 'targets must be one array, got Dataset'),
    refused('named columns', inputs(np.zeros(3, [('a', 'f4'), ('b', 'f4')])), r"named columns \('a', 'b'\)", 'dict'),
    refused('a dict of targets', targets({'y': Y}), 'targets must be one array, got dict', 'stack them'),
    refused('a masked array of inputs', inputs(np.ma.masked_less(X, 1)), '1 masked entries of 3', 'mask', 'filled'),
    refused('a masked array of targets', targets(np.ma.masked_less(Y, 1)), '2 masked entries', r'\.mask\(mask\)'),
    refused('NaN in inputs', inputs(np.array([0.0, np.nan, 1.0])), r'inputs\[0\] has 1 NaN', r'\(1,\)', 'impute'),
    refused('NaN in a list', targets([0.0, 1.0, float('nan')]), 'targets has 1 NaN', r'\(2,\)'),
    refused('NaN in complex inputs', inputs(np.array([0, 1j, np.nan])), '1 NaN entries'),
    refused('NaN from bfloat16', targets(jnp.array([0, jnp.nan, 1], jnp.bfloat16)), '1 NaN entries'),
]

PRECISION = [
    refused('integers beyond 32 bits in inputs', inputs(BEYOND), '1099511627777', '32 bits', 'origin', WIDE),
    refused('integers beyond 32 bits in targets', targets(BEYOND), 'targets has integers from 3', '32 bits', WIDE),
    refused('unsigned integers beyond 32 bits', inputs(BEYOND.astype(np.uint64)), '0 to 4294967295', WIDE),
    refused('a list of large integers', inputs([2**40, 1, 2]), '1099511627776', '32 bits'),
    refused('one large integer', inputs((X, 2**40)), r'inputs\[1\]', '32 bits'),
    refused('integers beyond 64 bits', inputs([2**70, 1, 2]), 'beyond 64 bits', 'floating'),
    refused('times in nanoseconds', inputs(np.array([17, 18, 19]) * 10**17), '32 bits', r't - t\[0\]'),
    refused('numbers too large', inputs(np.array([1e39, 0.0, 1.0])), r'1e\+39', 'too large for float32', 'scale', WIDE),
    refused('targets too large', targets(np.array([0.0, -1e300, 1.0])), r'\(1,\)', 'infinite', WIDE),
    refused('a complex number too large', inputs(np.array([1e39j, 0.0, 1.0])), 'too large for complex64'),
    refused('only numbers too small', inputs(np.array([1e-46, 0.0, 2e-50])), '2 of 3 numbers', 'become 0', 'scale'),
    refused(
        'unsigned targets that would wrap', targets(np.array([2**32 - 1, 0, 1], np.uint32)),
        'targets has unsigned integers up to 4294967295', '2147483647', 'origin', WIDE,
    ),
    refused('complex targets', targets(np.array([1 + 1j, 2, 3])), 'complex', 'real', r'jnp.real'),
]  # fmt: skip


def warned(name, make, *words):
    return Mistake(name, make, words, infer.PrecisionWarning, ('map',), warns=True)


TOLD = [
    warned('times in seconds since 1970', inputs(1.7e9 + 0.001 * np.arange(3)), '3 different values', 'tells 1 apart'),
    warned('a column of times', inputs(np.stack([X, 1.7e9 + X], 1)), r'Column 1 of inputs\[0\]', r't - t\[0\]'),
    warned(
        'whole seconds since 1970 as targets', targets(1_700_000_000 + np.arange(3)),
        'targets has 3 different integers between 1700000000 and 1700000002', 'tells 1 apart', r't - t\[0\]',
    ),
    warned('whole seconds of JAX', inputs(jnp.arange(3) + 1_700_000_000), r'inputs\[0\] has 3 different integers'),
    warned(
        'a column of whole seconds', inputs(np.stack([np.arange(3), np.arange(3) + 1_700_000_000], 1)),
        r'Column 1 of inputs\[0\]', '3 different integers', WIDE,
    ),
    warned(
        'large integers in a log-likelihood',
        lambda: infer.Posterior(
            Line(), X, 1_700_000_000 + np.arange(3), log_likelihood=lambda m, x, y: m(x).log_prob(y)
        ),
        'targets has 3 different integers',
    ),
    warned('some numbers too small', inputs(np.array([1e-46, 1.0, 2.0])), '1 of 3 numbers', 'become 0', WIDE),
]  # fmt: skip


def own(function, *, x=X, y=Y):
    return lambda: infer.Posterior(Line(), x, y, log_likelihood=function)


def labels(y, law=lambda b: dist.Categorical(logits=b * jnp.ones((3, 3)))):
    return lambda: infer.Posterior(Line(), X, np.array(y), likelihood=lambda m, x: law(m.b.value()))


COLUMN = Y[:, None]
LOG_LIKELIHOODS = [
    refused(
        'a log-likelihood that broadcasts',
        own(lambda m, x, y: m(x).log_prob(y), y=COLUMN),
        r'shape \(3, 3\) for targets of shape \(3, 1\)', r'\(\) or \(3,\) or \(3, 1\)', r'targets\[:, 0\]',
    ),
    refused(
        'a log-likelihood of some observations',
        own(lambda m, x, y: m(x).log_prob(y)[1:]),
        r'shape \(2,\) for targets of shape \(3,\)', 'one for each observation',
    ),
    refused('a sum that keeps its axis', own(lambda m, x, y: m(x).log_prob(y).sum(keepdims=True)), r'shape \(1,\)'),
    refused('a log-likelihood that is a distribution', own(lambda m, x, y: m(x)), 'distribution', 'likelihood='),
    refused('a log-likelihood without return', own(lambda m, x, y: None), 'returned None', 'return'),
    refused('a pair as log-likelihood', own(lambda m, x, y: (m(x).log_prob(y), 0.0)), 'returned a tuple', 'one real'),
    refused('a list as log-likelihood', own(lambda m, x, y: [0.0, 1.0, 2.0]), 'returned a list', 'jnp.stack'),
    refused('a dict as log-likelihood', own(lambda m, x, y: {'y': 0.0}), 'returned a dict'),
    refused('text as log-likelihood', own(lambda m, x, y: 'normal'), 'returned a str'),
    refused('a Param as log-likelihood', own(lambda m, x, y: m.b), 'returned a Param', r'param.value\(\)'),
    refused('a log-likelihood with a unit', own(lambda m, x, y: m(x).log_prob(y) * u.mV), 'in mV', 'plain number'),
    refused('a complex log-likelihood', own(lambda m, x, y: m(x).log_prob(y) + 0j), 'complex64', 'floating'),
    refused('an integer log-likelihood', own(lambda m, x, y: jnp.zeros(3, int)), 'dtype int32', 'floating'),
    refused('a log-likelihood of hits', own(lambda m, x, y: m(x).mean == y), 'dtype bool', 'floating'),
    refused(
        'a log-likelihood that is NaN in a row',
        own(lambda m, x, y: m.b.value() * jnp.log(y - 0.5)),
        'NaN for 1 of 3 observations', r'the first at \(0,\)', 'logarithms', r'-jnp\.inf',
    ),
    refused(
        'a sum that is NaN', own(lambda m, x, y: m.b.value() * jnp.sqrt(-y).sum()), 'NaN for their sum', 'wherever'
    ),
    refused(
        'a table as log-likelihood without targets',
        lambda: infer.Posterior(Line(), X, log_likelihood=lambda m, x: m(x).log_prob(COLUMN)),
        r'shape \(3, 3\), and there are no targets', 'sum it', 'targets=',
    ),
    refused(
        'a matrix of log densities beside a matrix of inputs',
        lambda: infer.Posterior(
            Line(), (np.eye(3), COLUMN), log_likelihood=lambda m, w, y: dist.Normal(m.b.value() * X, 1.0).log_prob(y)
        ),
        r'shape \(3, 3\), and there are no targets', 'sum it', r'\(N, 1\)', 'targets=',
    ),
    refused(
        'a log-likelihood that is infinite', own(lambda m, x, y: jnp.exp(m.b.value()) / (0.0 * y)),
        r'is \+inf for 3 of 3 observations', r'the first at \(0,\)', 'divisions by zero',
    ),
    refused(
        'an infinite sum', own(lambda m, x, y: m.b.value() ** 2 - jnp.log(0.0 * y).sum()), r'is \+inf for their sum'
    ),
    refused(
        'one row of inputs for all targets', inputs(X[1:2]),
        r'shape \(1,\), the targets have shape \(3,\)', 'axis of length 1', r'mean\[0\]',
    ),
    refused(
        'one column for all outputs',
        lambda: infer.Posterior(
            Line(), COLUMN, np.ones((3, 2)), likelihood=lambda m, x: dist.Normal(m.b.value() * x, 1.0)
        ),
        r'shape \(3, 1\), the targets have shape \(3, 2\)', r'jnp\.broadcast_to\(mean, targets\.shape\)',
    ),
    refused(
        'labels as floating numbers', labels([0.0, 1.0, 2.0]),
        'CategoricalLogits', 'targets are float32', r'y\.astype\(int\)',
    ),
    refused(
        'labels as bools', labels([True, False, True]), 'CategoricalLogits', 'targets are bool', r'y\.astype\(int\)'
    ),
    refused(
        'grades as floating numbers',
        labels([0.0, 1.0, 2.0], lambda b: dist.OrderedLogistic(b * X, jnp.array([0.0, 1.0]))),
        'OrderedLogistic', 'integer dtype',
    ),
    refused(
        'waiting times as bools', labels([True, False, True], lambda b: dist.Geometric(logits=b)), 'GeometricLogits',
        'targets are bool',
    ),
    refused('a likelihood that broadcasts', targets(COLUMN), r'predicts .* shape \(3,\)', r'have shape \(3, 1\)'),
    refused(
        'a model that returns an array',
        lambda: infer.Posterior(Line(), X, Y, likelihood=lambda m, x: m(x).mean),
        r'returned an array of shape \(3,\)', r'dist\.Normal\(mean, sigma\)',
    ),
    refused(
        'a model that returns a class',
        lambda: infer.Posterior(Line(), X, Y, likelihood=lambda m, x: dist.Normal),
        'returned the class Normal', r'dist\.Normal\(mean, sigma\)',
    ),
    refused(
        'negative counts',
        lambda: infer.Posterior(Line(), X, [1, -2, 3], likelihood=lambda m, x: dist.Poisson(jnp.exp(m(x).mean))),
        '1 of the targets have probability zero', 'whatever the parameters',
    ),
]  # fmt: skip


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.rest = nn.Param(1.0 * u.mV, reg=nn.GaussianReg(0.0 * u.mV, 1.0 * u.mV))


def cell(predict, y=Y * u.mV):
    return lambda: infer.Posterior(Cell(), targets=y, likelihood=lambda m: predict(m.rest.value()))


def units(name, predict, *words, y=Y * u.mV):
    return Mistake(name, cell(predict, y), words, (TypeError, ValueError, u.UnitMismatchError))


NO_QUANTITIES = ('got a Quantity in mV', 'of plain numbers', r'infer\.of_quantities\(dist', r'infer\.with_unit')
UNITS = [
    units('a Quantity in a Normal', lambda v: dist.Normal(v, v), r'dist\.Normal', *NO_QUANTITIES),
    units('one Quantity in a Normal', lambda v: dist.Normal(v / u.mV, v), r'dist\.Normal', *NO_QUANTITIES),
    units('a Quantity in a Poisson', lambda v: dist.Poisson(v), r'dist\.Poisson', *NO_QUANTITIES),
    units('a Quantity in a Uniform', lambda v: dist.Uniform(-v, v), r'dist\.Uniform', *NO_QUANTITIES),
    units('a Quantity in a StudentT', lambda v: dist.StudentT(3.0, v, v), r'dist\.StudentT', *NO_QUANTITIES),
    units(
        'a Quantity in a MultivariateNormal',
        lambda v: dist.MultivariateNormal(v * jnp.ones(3), jnp.eye(3)),
        r'dist\.MultivariateNormal', *NO_QUANTITIES,
    ),
    units(
        'a Quantity in a log-likelihood',
        lambda v: infer.with_unit(dist.Exponential(v), u.mV), r'dist\.Exponential', *NO_QUANTITIES,
    ),
    units(
        'targets of another dimension', lambda v: infer.of_quantities(dist.Normal, v, v),
        'in mV', 'in ms', 'another dimension', y=Y * u.ms,
    ),
    units(
        'plain targets of a model in mV', lambda v: infer.of_quantities(dist.Normal, v, v),
        'in mV', 'plain numbers', 'Multiply', y=Y,
    ),
    units(
        'a scale in another dimension', lambda v: infer.of_quantities(dist.Normal, v, 1.0 * u.ms),
        'scale of Normal has the unit mV', 'ms cannot be converted',
    ),
    units(
        'a scale without a unit', lambda v: infer.of_quantities(dist.Normal, v, 1.0),
        'scale of Normal has the unit mV', 'plain numbers',
    ),
    units(
        'a law of quantities without any', lambda v: infer.of_quantities(dist.Normal, 1.0, 1.0),
        'no parameter of Normal is a Quantity', 'loc',
    ),
    units(
        'counts of quantities', lambda v: infer.of_quantities(dist.Poisson, v), 'parameters of Poisson', 'with_unit'
    ),
    units('the unit of a number', lambda v: infer.with_unit(v / u.mV, u.mV), 'with_unit takes a NumPyro distribution'),
    units(
        'a unit as text', lambda v: infer.with_unit(dist.Normal(v / u.mV, 1.0), 'mV'),
        'takes a unit such as u.mV', 'got str',
    ),
    units(
        'a unit that cannot be converted', lambda v: infer.with_unit(dist.VonMises(v / u.mV, 1.0), u.mV),
        'VonMises in mV', 'targets are in V', 'how this distribution scales', y=Y / 1000 * u.volt,
    ),
    Mistake(
        'targets in mV of a model of plain numbers', cell(lambda v: dist.Normal(v / u.mV, 1.0)),
        ('targets are in mV', 'predicts plain numbers', r'infer\.of_quantities', r'u\.mV\)', r'targets / u\.mV'),
        infer.UncheckedUnitWarning, ('map', 'laplace'), warns=True,
    ),
    Mistake(
        'targets in mV of a log-likelihood',
        lambda: infer.Posterior(Line(), X, Y * u.mV, log_likelihood=lambda m, x, y: m(x).log_prob(y)),
        ('magnitudes of the targets, in mV', 'cannot be checked', r'targets / u\.mV'),
        infer.UncheckedUnitWarning, ('map', 'laplace'), warns=True,
    ),
    Mistake(
        'targets of another unit later',
        lambda: infer.map(cell(lambda v: infer.of_quantities(dist.Normal, v, v))(), progress=False).predict(
            targets=Y * u.ms, kind='log_density'
        ),
        ('has the unit mV', 'ms cannot be converted'), u.UnitMismatchError,
    ),
    refused(
        'a list of quantities as inputs', inputs([1.0 * u.ms, 2.0 * u.ms, 3.0 * u.ms]),
        r'inputs\[0\] is a list of quantities', 'one Quantity', r'\* u\.ms', 'tuple',
    ),
    refused(
        'a list of quantities in a dict', inputs({'x': [1.0 * u.ms, 2.0 * u.second]}),
        r"inputs\['x'\] is a list of quantities",
    ),
    refused(
        'a list of quantities', targets([1.0 * u.mV, 2.0 * u.mV]), 'list of quantities', 'one Quantity'
    ),
]  # fmt: skip

ROWS = [*KINDS, *PRECISION, *TOLD, *LOG_LIKELIHOODS, *UNITS]
