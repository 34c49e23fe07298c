"""The table of distributions: parameters, defaults, units and how to draw; `make_method` makes the methods.

A new distribution is an entry of `DISTRIBUTIONS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import ndtr, ndtri

from brainstate_prob import environ
from brainstate_prob.core.domains import check_domain
from brainstate_prob.core.quantities import NONE, RATE, SQUARE, VALUE, split_units, with_unit
from brainstate_prob.random.params import NO_DEFAULT, Par, draw_shape
from brainstate_prob.random.stream import to_key

__all__ = ['DISTRIBUTIONS', 'Distribution', 'make_method']


class Distribution(NamedTuple):
    """One distribution.

    ``draw(key, shape, dtype, *parameters)`` gets plain arrays of the default float type that broadcast to
    ``shape``. ``kind`` is the default type of draws. ``ordered`` names parameters that must not decrease.
    """

    summary: str
    pars: tuple[Par, ...]
    draw: Callable[..., Any]
    kind: str = 'float'
    ordered: tuple[str, ...] = ()


def _loc_scale(standard: Callable, what: str) -> Distribution:
    """The family ``loc + scale * standard``."""
    pars = (Par('loc', 0.0, VALUE), Par('scale', 1.0, VALUE, 'nonnegative'))
    return Distribution(what, pars, lambda key, shape, dtype, loc, scale: loc + scale * standard(key, shape, dtype))


def _scaled(standard: Callable, what: str, *pars: Par) -> Distribution:
    """The family ``scale * standard(*pars)``."""
    scale = Par('scale', 1.0, VALUE, 'nonnegative')
    return Distribution(
        what, (*pars, scale), lambda key, shape, dtype, *ps: ps[-1] * standard(key, shape, dtype, *ps[:-1])
    )


def _standard(standard: Callable, what: str) -> Distribution:
    return Distribution(what, (), standard)


def _shaped(draw: Callable) -> Callable:
    """A sampler of jax.random whose parameters come before the shape (not all of them broadcast)."""
    return lambda key, shape, dtype, *ps: draw(key, *(jnp.broadcast_to(p, shape) for p in ps), shape=shape, dtype=dtype)


def _truncated_normal(key, shape, dtype, lower, upper, loc, scale):
    # In the upper tail both bounds have probability 1 to rounding; the mirror image is exact.
    wide = jnp.promote_types(dtype, jnp.float32)  # ndtr has no half precision
    a, b = ((lower - loc) / scale).astype(wide), ((upper - loc) / scale).astype(wide)
    mirror = a > 0
    a, b = jnp.where(mirror, -b, a), jnp.where(mirror, -a, b)
    p = ndtr(a) + jr.uniform(key, shape, wide) * (ndtr(b) - ndtr(a))
    z = jnp.clip(ndtri(p), a, b)
    return jnp.clip(loc + scale * jnp.where(mirror, -z, z).astype(dtype), lower, upper)


def _multivariate_normal(key, shape, dtype, mean, cov):
    # svd as in NumPy, since the covariance may be singular
    wide = jnp.promote_types(dtype, jnp.float32)  # no svd in half precision
    draw = jr.multivariate_normal(key, mean.astype(wide), cov.astype(wide), shape=shape, dtype=wide, method='svd')
    return draw.astype(dtype)


def _generalized_normal(key, shape, dtype, p):
    key_sign, key_size = jr.split(key)
    return jr.rademacher(key_sign, shape, dtype) * jr.gamma(key_size, 1 / p, shape, dtype) ** (1 / p)


def _weibull(key, shape, dtype, a):
    return jr.exponential(key, shape, dtype) ** (1 / a)


def _rayleigh(key, shape, dtype):
    return jr.rayleigh(key, jnp.ones((), dtype), shape, dtype)


def _negative_binomial(key, shape, dtype, n, p):
    key_rate, key_count = jr.split(key)
    rate = jr.gamma(key_rate, n, shape, p.dtype) * (1 - p) / p
    return jr.poisson(key_count, rate, shape, dtype)


def _multinomial(key, shape, dtype, n, pvals):
    # without shape=, whose meaning changed between versions of JAX
    n, pvals = jnp.broadcast_to(n, shape), jnp.broadcast_to(pvals, (*shape, pvals.shape[-1]))
    return jr.multinomial(key, n, pvals, dtype=pvals.dtype).astype(dtype)


_POSITIVE_SHAPE = Par('shape', domain='positive')
_A = Par('a', domain='positive')
_DF = Par('df', domain='positive')

DISTRIBUTIONS: dict[str, Distribution] = {
    'normal': _loc_scale(jr.normal, 'Normal draws.'),
    'standard_normal': _standard(jr.normal, 'Normal draws of mean 0 and scale 1.'),
    'uniform': Distribution(
        'Uniform draws from [low, high).',
        (Par('low', 0.0, VALUE), Par('high', 1.0, VALUE)),
        lambda key, shape, dtype, low, high: low + (high - low) * jr.uniform(key, shape, dtype),
    ),
    'random': _standard(jr.uniform, 'Uniform draws from [0, 1).'),
    'random_sample': _standard(jr.uniform, 'Uniform draws from [0, 1).'),
    'truncated_normal': Distribution(
        'Normal draws cut to [lower, upper]; the bounds are on the scale of the draws.',
        (
            Par('lower', role=VALUE),
            Par('upper', role=VALUE),
            Par('loc', 0.0, VALUE),
            Par('scale', 1.0, VALUE, 'positive'),
        ),
        _truncated_normal,
        ordered=('lower', 'upper'),
    ),
    'laplace': _loc_scale(jr.laplace, 'Laplace draws.'),
    'logistic': _loc_scale(jr.logistic, 'Logistic draws.'),
    'gumbel': _loc_scale(jr.gumbel, 'Gumbel draws.'),
    'cauchy': _loc_scale(jr.cauchy, 'Cauchy draws.'),
    'standard_cauchy': _standard(jr.cauchy, 'Cauchy draws of location 0 and scale 1.'),
    'lognormal': Distribution(
        'Log-normal draws: exp(mean + sigma * normal).',
        (Par('mean', 0.0), Par('sigma', 1.0, NONE, 'nonnegative')),
        lambda key, shape, dtype, mean, sigma: jnp.exp(mean + sigma * jr.normal(key, shape, dtype)),
    ),
    'standard_t': Distribution("Student's t draws with ``df`` degrees of freedom.", (_DF,), _shaped(jr.t)),
    't': Distribution("Student's t draws with ``df`` degrees of freedom.", (_DF,), _shaped(jr.t)),
    'exponential': _scaled(jr.exponential, 'Exponential draws of mean ``scale``.'),
    'standard_exponential': _standard(jr.exponential, 'Exponential draws of mean 1.'),
    'gamma': _scaled(
        lambda key, shape, dtype, a: jr.gamma(key, a, shape, dtype),
        'Gamma draws of mean ``shape * scale``.',
        _POSITIVE_SHAPE,
    ),
    'standard_gamma': Distribution('Gamma draws of scale 1.', (_POSITIVE_SHAPE,), _shaped(jr.gamma)),
    'loggamma': Distribution('Logarithms of gamma draws, exact where those underflow.', (_A,), _shaped(jr.loggamma)),
    'beta': Distribution('Beta draws.', (_A, Par('b', domain='positive')), _shaped(jr.beta)),
    'chisquare': Distribution('Chi-square draws.', (_DF,), _shaped(jr.chisquare)),
    'f': Distribution(
        "Fisher's F draws.", (Par('dfnum', domain='positive'), Par('dfden', domain='positive')), _shaped(jr.f)
    ),
    'weibull': Distribution('Weibull draws of scale 1.', (_A,), _weibull),
    'weibull_min': _scaled(_weibull, 'Weibull draws.', _A),
    'pareto': Distribution(
        'Pareto II (Lomax) draws, from 0 on; add 1 for the classical Pareto.',
        (_A,),
        lambda key, shape, dtype, a: jnp.expm1(jr.exponential(key, shape, dtype) / a),
    ),
    'rayleigh': _scaled(_rayleigh, 'Rayleigh draws.'),
    'maxwell': _scaled(jr.maxwell, 'Maxwell draws.'),
    'double_sided_maxwell': _loc_scale(
        lambda key, shape, dtype: jr.double_sided_maxwell(key, 0.0, 1.0, shape, dtype), 'Two-sided Maxwell draws.'
    ),
    'generalized_normal': Distribution(
        'Draws with density proportional to exp(-abs(x)^p).', (Par('p', domain='positive'),), _generalized_normal
    ),
    'wald': Distribution(
        'Inverse Gaussian draws.',
        (Par('mean', role=VALUE, domain='positive'), Par('scale', 1.0, VALUE, 'positive')),
        lambda key, shape, dtype, mean, scale: scale * jr.wald(key, mean / scale, shape, dtype),
    ),
    'triangular': Distribution(
        'Triangular draws on [left, right].',
        (Par('left', role=VALUE), Par('mode', role=VALUE), Par('right', role=VALUE)),
        _shaped(jr.triangular),
        ordered=('left', 'mode', 'right'),
    ),
    'bernoulli': Distribution(
        'True with probability ``p``.',
        (Par('p', 0.5, NONE, 'probability'),),
        lambda key, shape, dtype, p: jr.bernoulli(key, p, shape).astype(dtype),
        'bool',
    ),
    'rademacher': Distribution('-1 or 1, each with probability one half.', (), jr.rademacher, 'int'),
    'poisson': Distribution(
        'Poisson counts of mean ``lam``.',
        (Par('lam', 1.0, NONE, 'nonnegative'),),
        lambda key, shape, dtype, lam: jr.poisson(key, lam, shape, dtype),
        'int',
    ),
    'binomial': Distribution(
        'Successes among ``n`` trials.',
        (Par('n', domain='nonnegative'), Par('p', domain='probability')),
        lambda key, shape, dtype, n, p: jr.binomial(key, n, p, shape, p.dtype).astype(dtype),
        'int',
    ),
    'negative_binomial': Distribution(
        'Failures before the ``n``-th success.',
        (Par('n', domain='positive'), Par('p', domain='positive probability')),
        _negative_binomial,
        'int',
    ),
    'geometric': Distribution(
        'Trials up to the first success.',
        (Par('p', domain='positive probability'),),
        lambda key, shape, dtype, p: jr.geometric(key, p, shape, dtype),
        'int',
    ),
    'multinomial': Distribution(
        'Counts of ``n`` trials over the categories ``pvals`` (last axis).',
        (Par('n', domain='nonnegative'), Par('pvals', domain='probability', event_rank=1)),
        _multinomial,
        'int',
    ),
    'dirichlet': Distribution(
        'Probability vectors (last axis).',
        (Par('alpha', domain='positive', event_rank=1),),
        lambda key, shape, dtype, alpha: jr.dirichlet(key, alpha, shape, dtype),
    ),
    'multivariate_normal': Distribution(
        'Normal vectors (last axis) of covariance ``cov``.',
        (Par('mean', role=VALUE, event_rank=1), Par('cov', role=SQUARE, event_rank=2)),
        _multivariate_normal,
    ),
}


def _default_dtype(kind: str) -> Any:
    return {'float': environ.dftype, 'int': environ.ditype, 'bool': lambda: np.dtype(bool)}[kind]()


def _draw(
    name: str, distribution: Distribution, stream: Any, values: dict[str, Any], size: Any, key: Any, dtype: Any
) -> Any:
    plain, unit = split_units(name, {par.name: par.role for par in distribution.pars}, values)
    for par in distribution.pars:
        check_domain(name, par.name, par.domain, plain[par.name])
    for low, high in zip(distribution.ordered, distribution.ordered[1:], strict=False):
        _check_order(name, low, plain[low], high, plain[high])
    shape = draw_shape(name, distribution.pars, plain, size)
    dtype = _default_dtype(distribution.kind) if dtype is None else jnp.dtype(dtype)
    if distribution.kind == 'float' and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f'{name}: dtype must be a floating type; got {dtype}.')
    inner = dtype if distribution.kind == 'float' else environ.dftype()
    pars = [jnp.asarray(plain[par.name], inner) for par in distribution.pars]
    out = distribution.draw(stream.split_key() if key is None else to_key(key), shape, dtype, *pars)
    return with_unit(out, unit)


def _check_order(distribution: str, low: str, low_value: Any, high: str, high_value: Any) -> None:
    try:
        ordered = bool(np.all(np.asarray(low_value) <= np.asarray(high_value)))
    except Exception:  # traced, or shapes that do not broadcast, which are checked later
        return
    if not ordered:
        raise ValueError(f'{distribution}: {low} must not be greater than {high}; got {low_value} and {high_value}.')


def make_method(name: str, distribution: Distribution) -> Callable:
    """The method ``name(self, <parameters>, size=None, key=None, dtype=None)`` that draws from ``distribution``."""
    defaults = {par.name: par.default for par in distribution.pars if par.default is not NO_DEFAULT}
    defaults_shown = defaults | dict.fromkeys(('size', 'key', 'dtype'))
    signature = inspect.Signature(
        [
            inspect.Parameter(
                par, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults_shown.get(par, inspect.Parameter.empty)
            )
            for par in ('self', *(par.name for par in distribution.pars), 'size', 'key', 'dtype')
        ]
    )

    def method(*args, **kwargs):
        try:
            values = signature.bind(*args, **kwargs).arguments
        except TypeError as e:
            raise TypeError(f'{name}{signature}: {e}.') from None
        stream = values.pop('self')
        size, key, dtype = (values.pop(option, None) for option in ('size', 'key', 'dtype'))
        values = {par.name: values.get(par.name) for par in distribution.pars}
        for par, default in defaults.items():
            if values[par] is None:
                values[par] = default
        return _draw(name, distribution, stream, values, size, key, dtype)

    method.__name__ = name
    method.__qualname__ = f'RandomState.{name}'
    method.__signature__ = signature  # type: ignore[attr-defined]
    method.__doc__ = _doc(distribution)
    return method


def _doc(distribution: Distribution) -> str:
    lines = [distribution.summary, '', 'Parameters', '----------']
    units = {
        VALUE: 'A quantity gives draws with its unit.',
        RATE: 'In the inverse unit of the draws.',
        SQUARE: 'In the square of the unit of the draws.',
        NONE: '',
    }
    for par in distribution.pars:
        head = par.name if par.default is NO_DEFAULT else f'{par.name}, default {par.default:g}'
        about = '' if par.domain == 'real' else f'{par.domain.capitalize()}. '
        lines += [head, f'    {about}{units[par.role]}'.rstrip() or '    A real number or array.']
    lines += [
        'size',
        '    The shape of the draw: int or tuple; None means what the parameters broadcast to.',
        'key',
        '    A key or an int seed; None draws from the stream.',
        'dtype',
        f'    The type of the draws; None means the default {distribution.kind}.',
    ]
    return '\n'.join(lines)
