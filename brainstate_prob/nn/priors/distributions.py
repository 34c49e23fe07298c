"""Priors from NumPyro distributions, each with its hyper-parameters and reset value."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from numpyro.distributions import constraints

from brainstate_prob.core.units import u
from brainstate_prob.nn.priors.base import DistributionReg, Regularization
from brainstate_prob.nn.priors.densities import log_scaled_exp1
from brainstate_prob.nn.priors.hyper import Hyper, in_unit, is_param, trainable

__all__ = [
    'BetaReg',
    'CauchyReg',
    'DirichletReg',
    'ExponentialReg',
    'GammaReg',
    'GaussianReg',
    'HorseshoeReg',
    'InverseGammaReg',
    'LogNormalReg',
    'LogUniformReg',
    'SpikeAndSlabReg',
    'StudentTReg',
    'UniformReg',
]


class GaussianReg(DistributionReg):
    """Normal prior: N(mean, std^2). Reset: the mean.

    Examples
    --------
    >>> import brainunit as u
    >>> from brainstate_prob import nn
    >>> reg = nn.GaussianReg(-65.0 * u.mV, 5.0 * u.mV)
    >>> float(reg.loss(-60.0 * u.mV).round(3))
    3.02...
    """

    numpyro_class = dist.Normal
    hypers: ClassVar = {'mean': Hyper('loc', 'value'), 'std': Hyper('scale', 'value', 'positive')}

    def __init__(self, mean: Any = 0.0, std: Any = 1.0, *, weight: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'mean': mean, 'std': std}, weight)

    def _center(self, params):
        return params['loc']


class StudentTReg(DistributionReg):
    """Student's t prior with ``df`` degrees of freedom around 0. Reset: 0."""

    numpyro_class = dist.StudentT
    fixed: ClassVar = {'loc': 0.0}
    hypers: ClassVar = {'df': Hyper('df', 'none', 'positive'), 'scale': Hyper('scale', 'value', 'positive')}

    def __init__(self, *, weight: Any = 1.0, df: Any = 3.0, scale: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'df': df, 'scale': scale}, weight)


class CauchyReg(DistributionReg):
    """Cauchy prior around 0. Reset: 0."""

    numpyro_class = dist.Cauchy
    fixed: ClassVar = {'loc': 0.0}
    hypers: ClassVar = {'scale': Hyper('scale', 'value', 'positive')}

    def __init__(self, *, weight: Any = 1.0, scale: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'scale': scale}, weight)


class BetaReg(DistributionReg):
    """Beta(a, b) prior on (0, 1). Reset: the mode for a, b > 1, the mean otherwise."""

    numpyro_class = dist.Beta
    hypers: ClassVar = {
        'a': Hyper('concentration1', 'none', 'positive'),
        'b': Hyper('concentration0', 'none', 'positive'),
    }

    def __init__(self, *, weight: Any = 1.0, a: Any = 2.0, b: Any = 2.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'a': a, 'b': b}, weight)

    def _center(self, params):
        a, b = (jnp.asarray(params[name], float) for name in ('concentration1', 'concentration0'))
        inner = (a > 1) & (b > 1)
        return jnp.where(inner, (a - 1) / jnp.where(inner, a + b - 2, 1.0), a / (a + b))


class LogNormalReg(DistributionReg):
    """Log-normal prior: log(value) is N(mu, sigma^2), of the magnitude in the value's unit. Reset: the median e^mu."""

    numpyro_class = dist.LogNormal
    hypers: ClassVar = {'mu': Hyper('loc'), 'sigma': Hyper('scale', 'none', 'positive')}

    def __init__(self, *, weight: Any = 1.0, mu: Any = 0.0, sigma: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'mu': mu, 'sigma': sigma}, weight)

    def _center(self, params):
        return jnp.exp(params['loc'])


class ExponentialReg(DistributionReg):
    """Exponential prior of ``rate`` (in the inverse unit of the value). Reset: the mean (the mode is the edge)."""

    numpyro_class = dist.Exponential
    hypers: ClassVar = {'rate': Hyper('rate', 'rate', 'positive')}

    def __init__(self, *, weight: Any = 1.0, rate: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'rate': rate}, weight)

    def _center(self, params):
        return 1 / params['rate']


class GammaReg(DistributionReg):
    """Gamma prior of shape ``alpha`` and rate ``beta`` (in the inverse unit of the value).

    Reset: the mode for alpha > 1, the mean otherwise.

    Examples
    --------
    >>> import brainunit as u
    >>> from brainstate_prob import nn
    >>> nn.GammaReg(alpha=2.0, beta=0.1 / u.Hz).reset_value()
    Quantity(10., "Hz")
    """

    numpyro_class = dist.Gamma
    hypers: ClassVar = {'alpha': Hyper('concentration', 'none', 'positive'), 'beta': Hyper('rate', 'rate', 'positive')}

    def __init__(self, *, weight: Any = 1.0, alpha: Any = 2.0, beta: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'alpha': alpha, 'beta': beta}, weight)

    def _center(self, params):
        alpha = params['concentration']
        return jnp.where(jnp.asarray(alpha) > 1, alpha - 1, alpha) / params['rate']


class InverseGammaReg(DistributionReg):
    """Inverse gamma prior of shape ``alpha`` and scale ``beta`` (in the unit of the value). Reset: the mode."""

    numpyro_class = dist.InverseGamma
    hypers: ClassVar = {'alpha': Hyper('concentration', 'none', 'positive'), 'beta': Hyper('rate', 'value', 'positive')}

    def __init__(self, *, weight: Any = 1.0, alpha: Any = 2.0, beta: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'alpha': alpha, 'beta': beta}, weight)

    def _center(self, params):
        return params['rate'] / (params['concentration'] + 1)


class _Bounded(DistributionReg):
    """Base of priors between ``lower`` and ``upper``; ``fit_hyper`` trains ``lower`` and ``width``."""

    lower: Any
    width: Any = None

    def _set_bounds(self, fit_hyper, weight, lower, upper):
        self._set(False, {'lower': lower, 'upper': upper}, weight)
        magnitudes = [in_unit(self.hypers['lower'], bound, self.unit) for bound in (self.lower, self.upper)]
        if not any(isinstance(m, jax.core.Tracer) for m in magnitudes) and not jnp.all(magnitudes[0] < magnitudes[1]):
            raise ValueError(f'{type(self).__name__}: lower must be less than upper; got {lower} and {upper}.')
        if fit_hyper:
            if is_param(self.lower) or is_param(self.upper):
                raise ValueError(
                    f'{type(self).__name__}: fit_hyper=True trains the bounds; omit it if they are Params already.'
                )
            self.fit_hyper = True
            self.width = trainable(Hyper('width', 'value', 'positive'), self.upper - self.lower)
            self.lower = trainable(self.hypers['lower'], self.lower)
            del self.upper

    def __getattr__(self, name):
        if name == 'upper' and self.width is not None:
            return self.lower.value() + self.width.value()
        raise AttributeError(f'{type(self).__name__} has no attribute {name!r}.')

    @property
    def support(self):
        return self._interval(*(b.value() if is_param(b) else b for b in (self.lower, self.upper)))

    def support_in(self, unit):
        unit = self._resolved(unit)
        return self._interval(*(in_unit(self.hypers['lower'], b, unit) for b in (self.lower, self.upper)))

    @staticmethod
    def _interval(lower, upper):
        return constraints.interval(lower, upper)


class UniformReg(_Bounded):
    """Soft bounds: zero between ``lower`` and ``upper``, weight * distance^2 outside; ``hard=True``: Uniform.

    Parameters
    ----------
    weight
        Strength of the soft bound, a plain number for distances in the value's unit.
    lower, upper
        The bounds.
    fit_hyper
        Train the bounds (as ``lower`` and ``width``) and normalize a soft bound.
    hard
        The Uniform density: +inf outside the bounds.
    normalized
        Add the constant of the soft density, log(upper - lower + sqrt(pi / weight)).

    Notes
    -----
    A soft bound has the density exp(-loss), flat with half a normal at each end, and `sample_init` draws from
    it: values may lie outside the bounds. Draws of ``hard=True`` never do. Reset: the middle.
    """

    numpyro_class = dist.Uniform
    hypers: ClassVar = {'lower': Hyper('low', 'value'), 'upper': Hyper('high', 'value')}

    def __init__(
        self,
        *,
        weight: Any = 1.0,
        lower: Any = -1.0,
        upper: Any = 1.0,
        fit_hyper: bool = False,
        hard: bool = False,
        normalized: bool = False,
    ):
        super().__init__(fit_hyper)
        self.hard = bool(hard)
        self.normalized = bool(normalized or fit_hyper or hard)
        self._set_bounds(fit_hyper, weight, lower, upper)
        if self.normalized and not hard:
            self._refuse_zero(self._strength())

    def _strength(self):
        """The strength of the soft bound, plain."""
        return super().weight_value()

    def _check_proper(self, params):
        if not self.hard:
            self._refuse_zero(params['strength'])

    def hyper_values(self, unit=None):
        values = super().hyper_values(unit)
        return values if self.hard else values | {'strength': self._strength()}

    def weight_value(self):
        return super().weight_value() if self.hard else 1.0

    def _log_prob(self, x, params):
        if self.hard:
            return super()._log_prob(x, params)
        low, high, strength = params['low'], params['high'], params['strength']
        outside = jnp.maximum(low - x, 0.0) + jnp.maximum(x - high, 0.0)
        constant = jnp.log(high - low + jnp.sqrt(jnp.pi / strength)) if self.normalized else 0.0
        return -strength * outside**2 - constant

    def _sample(self, key, shape, params):
        if self.hard:
            return super()._sample(key, shape, params)
        low, high = params['low'], params['high']
        key_where, key_tail = jax.random.split(key)
        flat, tails = high - low, jnp.sqrt(jnp.pi / params['strength'])
        place = jax.random.uniform(key_where, shape) * (flat + tails)
        tail = jax.random.normal(key_tail, shape) / jnp.sqrt(2 * params['strength'])
        return jnp.where(place < flat, low + place, jnp.where(tail > 0, high + tail, low + tail))

    def _center(self, params):
        return (params['low'] + params['high']) / 2

    @property
    def support(self):
        return super().support if self.hard else constraints.real

    def support_in(self, unit):
        return super().support_in(unit) if self.hard else constraints.real

    def family_key(self):
        return super().family_key() if self.hard else (UniformReg, self.normalized)

    @property
    def distribution(self):
        if not self.hard:
            raise NotImplementedError('The soft UniformReg has no NumPyro distribution; use hard=True for the Uniform.')
        return super().distribution

    def _shown(self):
        options = {name: True for name in ('hard', 'normalized') if getattr(self, name)}
        if self.hard or self.fit_hyper:
            options.pop('normalized', None)
        return super()._shown() | options


class LogUniformReg(_Bounded):
    """Log-uniform (Jeffreys) prior: density 1/(v log(upper/lower)) between the bounds. Reset: sqrt(lower upper)."""

    numpyro_class = dist.LogUniform
    hypers: ClassVar = {'lower': Hyper('low', 'value', 'positive'), 'upper': Hyper('high', 'value', 'positive')}

    def __init__(self, *, weight: Any = 1.0, lower: Any = 0.001, upper: Any = 1000.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set_bounds(fit_hyper, weight, lower, upper)

    def _center(self, params):
        return jnp.sqrt(params['low']) * jnp.sqrt(params['high'])


class HorseshoeReg(Regularization):
    """Horseshoe prior: v given lambda is N(0, (lambda tau)^2), lambda half-Cauchy(1). Reset: 0.

    The loss is that of the exact marginal, p(v) = e^xi E1(xi) / (tau sqrt(2 pi^3)) with xi = v^2 / (2 tau^2)
    (Carvalho, Polson and Scott 2010). It has a log-log pole at 0; values closer to 0 than the smallest normal
    float are scored there, so that the loss is finite. Samplers use `scale_mixture`.
    """

    hypers: ClassVar = {'tau': Hyper('tau', 'value', 'positive')}

    def __init__(self, *, weight: Any = 1.0, tau: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'tau': tau}, weight)

    def _log_prob(self, x, params):
        tau = params['tau']
        tiny = jnp.finfo(x.dtype).tiny
        size = jnp.abs(x)
        size = jnp.where(size < tiny, tiny, size)
        log_xi = 2 * (jnp.log(size) - jnp.log(tau)) - math.log(2.0)
        return log_scaled_exp1(log_xi) - jnp.log(tau) - 0.5 * math.log(2 * math.pi**3)

    def _sample(self, key, shape, params):
        key_z, key_lambda = jax.random.split(key)
        local = jnp.abs(jax.random.cauchy(key_lambda, shape))
        return params['tau'] * local * jax.random.normal(key_z, shape)

    def scale_mixture(self, unit: u.Unit | None = None) -> dict[str, Any]:
        """``{'tau': ...}`` of the non-centred form value = z * lambda * tau, z normal, lambda half-Cauchy(1)."""
        return self.hyper_values(unit)

    def family_key(self):
        return (HorseshoeReg,)


class SpikeAndSlabReg(Regularization):
    """Spike-and-slab prior: pi N(0, spike_scale^2) + (1 - pi) N(0, slab_scale^2); ``pi`` is the spike's share.

    Reset: 0.
    """

    hypers: ClassVar = {
        'spike_scale': Hyper('spike_scale', 'value', 'positive'),
        'slab_scale': Hyper('slab_scale', 'value', 'positive'),
        'pi': Hyper('pi', 'none', 'probability'),
    }

    def __init__(
        self,
        *,
        weight: Any = 1.0,
        spike_scale: Any = 0.01,
        slab_scale: Any = 1.0,
        pi: Any = 0.5,
        fit_hyper: bool = False,
    ):
        super().__init__(fit_hyper)
        self._set(fit_hyper, {'spike_scale': spike_scale, 'slab_scale': slab_scale, 'pi': pi}, weight)

    def _log_prob(self, x, params):
        pi = jnp.asarray(params['pi'], x.dtype)
        spike = dist.Normal(0.0, params['spike_scale'], validate_args=False).log_prob(x)
        slab = dist.Normal(0.0, params['slab_scale'], validate_args=False).log_prob(x)
        only_slab, only_spike = pi == 0, pi == 1
        safe = jnp.where(only_slab | only_spike, 0.5, pi)
        both = jnp.logaddexp(jnp.log(safe) + spike, jnp.log1p(-safe) + slab)
        return jnp.where(only_slab, slab, jnp.where(only_spike, spike, both))

    def _sample(self, key, shape, params):
        key_which, key_z = jax.random.split(key)
        is_spike = jax.random.bernoulli(key_which, params['pi'], shape)
        return jnp.where(is_spike, params['spike_scale'], params['slab_scale']) * jax.random.normal(key_z, shape)

    @property
    def distribution(self):
        params = self.hyper_values(None)
        pi = jnp.asarray(params['pi'])
        scales = jnp.stack(jnp.broadcast_arrays(params['spike_scale'], params['slab_scale'], pi)[:2], -1)
        mixing = dist.Categorical(probs=jnp.stack([pi, 1 - pi], -1))
        return dist.MixtureSameFamily(mixing, dist.Normal(0.0, scales))

    def family_key(self):
        return (SpikeAndSlabReg,)


class DirichletReg(DistributionReg):
    """Dirichlet(alpha) prior on probability vectors along the last axis. Reset: the uniform vector.

    Parameters
    ----------
    alpha
        One concentration for all entries, or one per entry.
    logits
        The value is a vector of logits and softmax(value) is scored. The density is then that of the logits: the
        Jacobian of softmax (the sum of the log-probabilities) is included, and since softmax ignores a constant
        shift, the mean of the logits has a standard normal distribution. It integrates to 1 over all logits.
    """

    numpyro_class = dist.Dirichlet
    event_dim = 1
    hypers: ClassVar = {'alpha': Hyper('concentration', 'none', 'positive')}

    def __init__(self, *, weight: Any = 1.0, alpha: Any = 1.0, fit_hyper: bool = False, logits: bool = False):
        super().__init__(fit_hyper)
        self.logits = bool(logits)
        self._set(fit_hyper, {'alpha': alpha}, weight)

    def _log_prob(self, x, params):
        if not self.logits:
            return super()._log_prob(x, params)
        alpha = jnp.broadcast_to(params['concentration'], x.shape)
        log_p = jax.nn.log_softmax(x)
        constant = gammaln(alpha.sum(-1)) - gammaln(alpha).sum(-1)
        # |d (p, mean) / d logits| = prod(p), for (p_1 .. p_{k-1}) and the mean of the logits
        return jnp.sum(alpha * log_p, -1) + constant + dist.Normal(validate_args=False).log_prob(jnp.mean(x, -1))

    def _sample(self, key, shape, params):
        alpha = jnp.broadcast_to(jnp.asarray(params['concentration'], float), shape)
        if not self.logits:
            return jax.random.dirichlet(key, alpha)
        key_p, key_mean = jax.random.split(key)
        log_gamma = jax.random.loggamma(key_p, alpha)
        mean = jax.random.normal(key_mean, (*shape[:-1], 1))
        return log_gamma - log_gamma.mean(-1, keepdims=True) + mean

    def reset_value(self, shape=None):
        """The uniform vector (zeros for logits); ``shape`` is needed if ``alpha`` is one number."""
        length = jnp.shape(self.hyper_values(None)['concentration']) if shape is None else shape
        length = length if isinstance(length, tuple | list) else (length,)
        if not length:
            raise ValueError(f'{self._label()} has one alpha for any number of entries: reset_value needs the shape.')
        return jnp.zeros(tuple(length)) if self.logits else jnp.full(tuple(length), 1 / length[-1])

    @property
    def distribution(self):
        if self.logits:
            raise NotImplementedError('DirichletReg(logits=True) has no NumPyro distribution; use its log_prob.')
        alpha = jnp.asarray(self.hyper_values(None)['concentration'])
        if alpha.ndim == 0:
            raise ValueError(
                'DirichletReg has one alpha for any number of entries; NumPyro needs one per entry: '
                'give alpha as an array, e.g. alpha=jnp.ones(3).'
            )
        return dist.Dirichlet(alpha)

    @property
    def support(self):
        return constraints.real_vector if self.logits else constraints.simplex

    def _shown(self):
        return super()._shown() | ({'logits': True} if self.logits else {})
