"""Mistakes in the parts of a model, each with its answer in plain words.

A new mistake is one row: what was done, the call, the words that the message must have.
"""

import math
import re
import warnings

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.distributions import transforms as T

from brainstate_prob import ParamState, environ, nn, transform
from tests.infer.test_mistakes import INTERNAL

tfb = pytest.importorskip('tensorflow_probability.substrates.jax.bijectors')


def model():
    m = nn.Module()
    m.a = nn.Param(jnp.array([1.0, 2.0]))
    m.s = nn.Param(1.0)
    m.q = nn.Param(1.0 * u.mV)
    return m


M = model()
TABLE = jnp.ones((8, 3))
A = (r"Param 'a' is not a number: use its value, a\.value\(\)",)
S = (r"Param 's' is not a number: use its value, s\.value\(\)", r'nn\.GaussianReg\(mean=s')
NO_PRIOR = r'Param: reg: .* is not a prior\. Allowed: a Regularization'

# (what was done, the call, the words)
ROWS = [
    # `.value()` forgotten
    ('param + number', lambda: M.a + 1, (*A, r'in param \+')),
    ('number + param', lambda: 1 + M.a, (*A, r'in \.\.\. \+ param')),
    ('jax array * param', lambda: jnp.ones(2) * M.a, A),
    ('numpy array * param', lambda: np.ones(2) * M.a, A),
    ('quantity * param', lambda: 2 * u.mV * M.s, S),
    ('param @ array', lambda: M.a @ jnp.ones(2), A),
    ('array @ param', lambda: jnp.ones((2, 2)) @ M.a, A),
    ('param ** 2', lambda: M.a**2, A),
    ('-param', lambda: -M.a, A),
    ('abs(param)', lambda: abs(M.a), A),
    ('divmod(param, 2)', lambda: divmod(M.s, 2), S),
    ('param < number', lambda: M.s < 1, S),
    ('number < param', lambda: M.s > 1, S),
    ('max(param, number)', lambda: max(M.s, 1.0), S),
    ('param[0]', lambda: M.a[0], (*A, r'in param\[\.\.\.\]')),
    ('a loop over a param', lambda: list(M.a), A),
    ('number in param', lambda: 1.0 in M.a, A),
    ('len(param)', lambda: len(M.a), A),
    ('if param', lambda: 1 if M.s else 0, (*S, 'in a condition')),
    ('not param', lambda: not M.s, S),
    ('float(param)', lambda: float(M.s), S),
    ('int(param)', lambda: int(M.s), S),
    ('range(param)', lambda: range(M.s), S),
    ('a format', lambda: f'{M.s:.3f}', (*S, "the format '.3f'")),
    ('%-formatting', lambda: '%.2f' % M.s, S),  # noqa: UP031  (the mistake in question)
    ('math.sin(param)', lambda: math.sin(M.s), S),
    ('np.sin(param)', lambda: np.sin(M.a), (*A, 'in a function of NumPy')),
    ('np.mean(param)', lambda: np.mean(M.a), A),
    ('np.asarray(param)', lambda: np.asarray(M.a), A),
    ('jnp.sin(param)', lambda: jnp.sin(M.a), (*A, 'in a function of JAX')),
    ('jnp.mean(param)', lambda: jnp.mean(M.a), A),
    ('jnp.array(param)', lambda: jnp.array(M.a), A),
    ('jnp.array([param])', lambda: jnp.array([M.s, M.s]), S),
    ('jnp.where(.., param, ..)', lambda: jnp.where(True, M.a, 0), A),
    ('jax.nn.sigmoid(param)', lambda: jax.nn.sigmoid(M.a), A),
    ('u.math.exp(param)', lambda: u.math.exp(M.s), S),
    ('jax.jit of a param', lambda: jax.jit(lambda x: x)(M.s), S),
    ('param(x)', lambda: M.a(1.0), A),
    ('param.sum()', lambda: M.a.sum(), (r"Param 'a' is not an array and has no 'sum'", r'a\.value\(\)\.sum')),
    ('param.T', lambda: M.a.T, (r'a\.value\(\)\.T',)),
    ('a param without a path', lambda: nn.Param(2.0) + 1, (r'Param\(2\.\) is not a number', r'param\.value\(\)')),
    ('a named param', lambda: nn.Param(2.0, name='rate') + 1, (r"Param 'rate' is not a number",)),
    ('a const', lambda: nn.Const(2.0) * 3, (r'Const\(2\.\) is not a number',)),
    ('a param as input', lambda: nn.Linear(2, 3)(M.a), A),
    # Params and quantities in NumPyro's distributions
    ('dist.Normal(param, param)', lambda: dist.Normal(M.s, M.s), S),
    ('dist.Normal(0, param)', lambda: nn.Param(0.0, reg=dist.Normal(0.0, M.s)), S),
    ('dist.Normal(array param, 1)', lambda: dist.Normal(M.a, 1.0), A),
    ('dist.Gamma(param, param)', lambda: dist.Gamma(M.s, M.s), S),
    ('dist.HalfNormal(param)', lambda: dist.HalfNormal(M.s), S),
    ('a multivariate normal of a param', lambda: dist.MultivariateNormal(M.a, jnp.eye(2)), A),
    (
        'dist.HalfNormal(quantity)',
        lambda: nn.Param(1.0 * u.mV, t=None, reg=dist.HalfNormal(1.0 * u.mV)),
        ('quantities in mV', 'take plain numbers', r'nn\.GaussianReg'),
    ),
    # A class where an instance belongs, and its like
    ('t=nn.SoftplusT', lambda: nn.Param(1.0, t=nn.SoftplusT), ('the class SoftplusT', r't=nn\.SoftplusT\(\)')),
    ('t=nn.AffineT', lambda: nn.Param(1.0, t=nn.AffineT), ('the class AffineT', r't=nn\.AffineT\(\.\.\.\)')),
    ('t= a TFP bijector', lambda: nn.Param(1.0, t=tfb.Softplus()), ('Softplus, a bijector', r't=nn\.SoftplusT\(\)')),
    ('t= another TFP bijector', lambda: nn.Param(1.0, t=tfb.Power(2.0)), ('Power, a bijector', 'the same formula')),
    ("t= NumPyro's", lambda: nn.Param(1.0, t=T.ExpTransform()), ("NumPyro's ExpTransform", r't=nn\.PositiveT\(\)')),
    ('t= an affine map', lambda: nn.Param(1.0, t=T.AffineTransform(0.0, 2.0)), (r't=nn\.AffineT\(scale, shift\)',)),
    ('t= a constraint', lambda: nn.Param(1.0, t=constraints.positive), ('the constraint', r't=nn\.PositiveT\(\)')),
    ('t= a function', lambda: nn.Param(1.0, t=jnp.exp), ('the function exp', 'no inverse', r't=nn\.PositiveT\(\)')),
    ('t= a word', lambda: nn.Param(1.0, t='softplus'), ("got 'softplus'", r't=nn\.SoftplusT\(\)')),
    ('reg=dist.Normal', lambda: nn.Param(1.0, reg=dist.Normal), (NO_PRIOR, r'reg=dist\.Normal\(\.\.\.\)')),
    ('reg=nn.L2Reg', lambda: nn.Param(1.0, reg=nn.L2Reg), (NO_PRIOR, r'not the class\. Write reg=nn\.L2Reg\(')),
    ('reg=nn.Param', lambda: nn.Param(1.0, reg=nn.Param), (NO_PRIOR, 'the class Param')),
    ('reg= a param', lambda: nn.Param(1.0, reg=M.s), (NO_PRIOR, r'nn\.GaussianReg\(std=')),
    ('reg= a number', lambda: nn.Param(1.0, reg=0.1), (NO_PRIOR, r'reg=nn\.L2Reg\(0\.1\)')),
    ('reg= a word', lambda: nn.Param(1.0, reg='l2'), (NO_PRIOR,)),
    ('reg= a transform', lambda: nn.Param(1.0, reg=nn.SoftplusT()), (NO_PRIOR,)),
    ('a class first', lambda: nn.Sequential(nn.Linear), ('class Linear', r'with its sizes: nn\.Linear\(')),
    ('a list of layers', lambda: nn.Sequential([nn.ReLU()]), ('got list', r'nn\.Sequential\(\*layers\)')),
    (
        'a class that needs more',
        lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU, nn.Linear),
        (r'in_size=\(3,\), but it needs out_size', r'functools\.partial\(nn\.Linear, out_size='),
    ),
    ('a param among layers', lambda: nn.Sequential(nn.Linear(2, 3), nn.Param(1.0)), (r'got Param\(1\.\)',)),
    # Values
    ('None', lambda: nn.Param(None), ('got None', 'initial value')),
    ('a word', lambda: nn.Param('a'), ("real floating numbers, got 'a'",)),
    ('words', lambda: nn.Param(['a', 'b']), ('real floating numbers',)),
    ('a class', lambda: nn.Param(nn.Param), ('the class Param',)),
    ('a param in a param', lambda: nn.Param(nn.Param(1.0)), ('got a Param; pass its value',)),
    ('a state in a param', lambda: nn.Param(ParamState(1.0)), ('got a ParamState; pass its value',)),
    ('an initializer', lambda: nn.Param(jnp.zeros), (r'nn\.Param\.init\(initializer, sizes\)',)),
    ('a masked array', lambda: nn.Param(np.ma.array([1.0, 2.0], mask=[0, 1])), ('mask would be lost', 'filled')),
    ('a number beyond float32', lambda: nn.Param(1e300), ('size 1e.300, too large for float32',)),
    ('an integer without end', lambda: nn.Param(10**400), ('real floating numbers',)),
    ('bool', lambda: nn.Param(True), ('dtype bool',)),
    ('complex', lambda: nn.Param(1j), ('dtype complex64',)),
    ('nan', lambda: nn.Param([1.0, np.nan]), (r'1 NaN or infinite entries, the first at \[\(1,\)\]',)),
    ('a dict', lambda: nn.Param({'a': 1.0}), ('real floating numbers',)),
    ('a ragged list', lambda: nn.Param([[1.0], [1.0, 2.0]]), ('real floating numbers',)),
    ('fit= a word', lambda: nn.Param(1.0, fit='no'), ("fit must be True or False, got 'no'",)),
    # Shapes
    (
        'a prior of shape (3,) on a number',
        lambda: nn.Param(1.0, reg=dist.Normal(jnp.zeros(3), 1.0), name='w'),
        (r"Param 'w', a value of shape \(\)", r'about values of shape \(3,\)', 'Give the Param a value of the shape'),
    ),
    (
        'a prior of shape (3,) on (2,)',
        lambda: nn.Param(jnp.zeros(2), reg=dist.Normal(jnp.zeros(3), 1.0)),
        (r'of shape \(2,\)', r'\(3,\)'),
    ),
    (
        'a Dirichlet of 3 on 4',
        lambda: nn.Param(jnp.ones(4) / 4, t=None, reg=dist.Dirichlet(jnp.ones(3))),
        (r'Dirichlet', r'values of shape \(3,\); the value has shape \(4,\)'),
    ),
    (
        'a DirichletReg of 3 on 4',
        lambda: nn.Param(jnp.ones(4) / 4, t=None, reg=nn.DirichletReg(alpha=jnp.ones(3))),
        (r'alpha of shape \(3,\)', r'value of shape \(4,\)'),
    ),
    (
        'a vector law on a number',
        lambda: nn.Param(1.0, reg=dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))),
        (r'a value of shape \(\)', 'the last 1 axes'),
    ),
    (
        'a mean of shape (3,) on a number',
        lambda: nn.Param(1.0, reg=nn.GaussianReg(jnp.zeros(3), 1.0)),
        (r'mean of shape',),
    ),
    (
        'a hyper-parameter of shape (3,) on (2,)',
        lambda: nn.Param(jnp.zeros(2), reg=nn.GaussianReg(nn.Param(jnp.zeros(3)), 1.0)),
        (r'mean of shape \(3,\)', r'value of shape \(2,\)'),
    ),
    (
        'a member of a chain',
        lambda: nn.Param(jnp.zeros(3), reg=nn.ChainedReg(nn.L2Reg(), dist.Normal(jnp.zeros(2), 1.0))),
        (r'values of shape \(2,\); the value has shape \(3,\)',),
    ),
    # Hyper-parameters
    ('mean= a word', lambda: nn.GaussianReg('a', 1.0), ('GaussianReg: mean must be a number', "got 'a'")),
    ('std= a class', lambda: nn.GaussianReg(0.0, nn.Param), ('std must be a number', 'the class Param')),
    ('std= a law', lambda: nn.GaussianReg(0.0, dist.HalfNormal()), (r'nn\.Param\(value, t=None, reg=\.\.\.\)',)),
    ('std= a bool', lambda: nn.GaussianReg(0.0, True), ('std must be a number',)),
    ('std= a state', lambda: nn.GaussianReg(0.0, ParamState(1.0)), (r'Use nn\.Param for a hyper-parameter',)),
    ('std= a negative param', lambda: nn.GaussianReg(0.0, nn.Param(-1.0)), (r'std must be > 0',)),
    (
        'a prior in another unit',
        lambda: nn.Param(1.0 * u.mV, reg=nn.GaussianReg(0.0 * u.ms, 1.0 * u.ms)),
        ('about values in ms; the value is in mV',),
    ),
    (
        'positional hyper-parameters',
        lambda: nn.LogNormalReg(0.0, 0.5),
        (r'Write nn\.LogNormalReg\(mu=0\.0, sigma=0\.5\)',),
    ),
    ('a hyper-parameter by another name', lambda: nn.GaussianReg(loc=0.0), ("no argument 'loc'", 'mean, std')),
    # Layers
    (
        'BatchNorm1d of a table',
        lambda: nn.BatchNorm1d(3)(TABLE),
        (r'Use BatchNorm0d\(3\), for tables of shape \(N, f',),
    ),
    ('BatchNorm2d of a table', lambda: nn.BatchNorm2d(3)(TABLE), (r'Use BatchNorm0d\(3\), for tables',)),
    ('BatchNorm2d of a signal', lambda: nn.BatchNorm2d((5, 3)), (r'Use BatchNorm1d\(\(5, 3\)\)',)),
    ('BatchNorm1d of an image', lambda: nn.BatchNorm1d((5, 5, 3)), (r'Use BatchNorm2d\(\(5, 5, 3\)\)',)),
    ('Conv1d of a table', lambda: nn.Conv1d(3, 4, 3)(TABLE), (r'in_size must be \(width, channels\), got \(3,\)',)),
    ('MaxPool2d of a table', lambda: nn.MaxPool2d(2)(TABLE), (r'\(\.\.\., height, width, channels\), got \(8, 3\)',)),
    (
        'channels first',
        lambda: nn.Conv2d((8, 8, 3), 4, 3)(jnp.ones((2, 3, 8, 8))),
        (r'got \(2, 3, 8, 8\)\. Channels come last: jnp\.moveaxis\(x, -3, -1\)',),
    ),
    (
        'other features',
        lambda: nn.Linear(3, 2)(jnp.ones((8, 4))),
        (r'expected an input of shape \(\.\.\., 3\), got \(8, 4\)',),
    ),
    (
        'None into a layer',
        lambda: nn.Linear(3, 2)(None),
        (r'Linear\(3 -> 2\): the input must be an array of numbers, got None',),
    ),
    ('a word into a layer', lambda: nn.Linear(3, 2)('abc'), ("array of numbers, got 'abc'",)),
    (
        'words into a layer',
        lambda: nn.Linear(3, 2)(np.array([['a', 'b', 'c']])),
        ('array of numbers, got an array of dtype',),
    ),
    (
        'a masked array into a layer',
        lambda: nn.Linear(3, 2)(np.ma.ones((8, 3))),
        ('mask of a masked input would be lost',),
    ),
    ('both shares of dropout', lambda: nn.Dropout(0.8, rate=0.2), ('both prob=0.8', 'rate=0.2', 'Give one')),
    ('a share in percent', lambda: nn.Dropout(rate=20), (r'in \[0, 1\]; got 20',)),
]


@pytest.mark.parametrize('name, call, words', ROWS, ids=[row[0] for row in ROWS])
def test_mistake(name, call, words):
    errors = (TypeError, ValueError, AttributeError, u.UnitMismatchError)
    with environ.context(fit=True), pytest.raises(errors) as caught:
        call()
    message = str(caught.value)
    missing = [w for w in words if not re.search(w, message)]
    assert not missing, f'{message!r} does not say {missing}'
    assert not INTERNAL.search(message), message


def test_names_are_distinct():
    names = [row[0] for row in ROWS]
    assert sorted(set(names)) == sorted(names)


def test_what_is_no_mistake():
    """A Param is an object like others: compared and hashed by identity, printed, copied."""
    p = M.a
    assert p == p and p != M.s and p in [M.s, p] and {p: 1}[p] == 1 and len({p, M.s, p}) == 2
    assert f'{p}' == str(p) == repr(p)
    assert not hasattr(p, 'ndim') and hasattr(p, 'shape')
    assert nn.Param(2**40).value() == 2.0**40  # which 32 bits of an integer do not hold
    assert nn.Param(np.array([2**40, 1])).value()[0] == 2.0**40


def test_params_as_hyper_parameters_stay_hierarchical():
    mean, std = nn.Param(0.5), nn.Param(2.0, t=nn.PositiveT())
    prior = nn.GaussianReg(mean, std)
    gradient = transform.grad(lambda: prior.loss(jnp.array(1.5)), {'mean': mean.val})()
    np.testing.assert_allclose(gradient['mean'], (0.5 - 1.5) / 4.0, rtol=1e-6)


def test_values_at_a_bound_warn_as_before():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        nn.Param(0.0, t=nn.SoftplusT())
    assert 'a value must lie in (0, inf)' in str(caught[0].message)
