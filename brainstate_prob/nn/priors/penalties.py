"""Elementwise penalties (L1, L2, elastic net, Huber) with their densities."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import erf, erfinv

from brainstate_prob.nn.priors.base import Regularization
from brainstate_prob.nn.priors.densities import log_erfcx
from brainstate_prob.nn.priors.hyper import Hyper

__all__ = ['ElasticNetReg', 'HuberReg', 'L1Reg', 'L2Reg', 'Penalty']


class Penalty(Regularization):
    """Base of the penalties: ``loss`` is the penalty, plus the log normalizing constant if ``normalized``.

    A subclass defines ``_penalty(x, params)``, one number per event, and, if there is a density,
    ``_log_constant(x, params)`` and ``_sample``.

    Parameters
    ----------
    fit_hyper
        Train the hyper-parameters. This implies ``normalized``, since a weight without the constant would go
        to 0.
    normalized
        Add the log of the integral of exp(-penalty) to the loss.
    """

    normalized: bool = False
    normalizable: bool = True  # whether the constant has a closed form

    def _set_penalty(self, fit_hyper: bool, normalized: bool, values: dict[str, Any]) -> None:
        self.normalized = bool(normalized or fit_hyper)
        if self.normalized and not self.normalizable:
            asked = 'fit_hyper=True' if fit_hyper else 'normalized=True'
            raise ValueError(
                f'{type(self).__name__} has no normalizing constant in closed form, which {asked} needs: without it a '
                'trained weight would go to 0. Omit it, or choose another prior.'
            )
        self._set(fit_hyper, values)

    def _log_prob(self, x, params):
        log_prob = -self._penalty(x, params)
        return log_prob - self._log_constant(x, params) if self.normalized else log_prob

    def _penalty(self, x: jax.Array, params: dict[str, Any]) -> jax.Array:
        raise NotImplementedError

    def _log_constant(self, x: jax.Array, params: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _check_proper(self, params):
        self._refuse_zero(params['strength'])

    def _shown(self):
        return super()._shown() | ({'normalized': True} if self.normalized and not self.fit_hyper else {})


class EntrywisePenalty(Penalty):
    """Base of elementwise penalties: parameters that share one are scored as one expression."""

    def family_key(self):
        return (type(self), self.normalized)


class L1Reg(EntrywisePenalty):
    """weight * sum(abs(value)): the density Laplace(0, 1/weight). Reset: 0.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.L1Reg(weight=0.5).loss([3.0, -4.0]))
    3.5
    """

    hypers: ClassVar = {'weight': Hyper('strength', 'rate', 'nonnegative')}

    def __init__(self, weight: Any = 1.0, *, fit_hyper: bool = False, normalized: bool = False):
        super().__init__(fit_hyper)
        self._set_penalty(fit_hyper, normalized, {'weight': weight})

    def _penalty(self, x, params):
        return params['strength'] * _abs(x)

    def _log_constant(self, x, params):
        return math.log(2.0) - jnp.log(params['strength'])

    def _sample(self, key, shape, params):
        return jax.random.laplace(key, shape) / params['strength']


class L2Reg(EntrywisePenalty):
    """weight * sum(value^2): the density Normal(0, 1/sqrt(2 weight)). Reset: 0.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> float(nn.L2Reg(weight=0.1).loss([3.0, -4.0]))
    2.5
    """

    hypers: ClassVar = {'weight': Hyper('strength', 'rate2', 'nonnegative')}

    def __init__(self, weight: Any = 1.0, *, fit_hyper: bool = False, normalized: bool = False):
        super().__init__(fit_hyper)
        self._set_penalty(fit_hyper, normalized, {'weight': weight})

    def _penalty(self, x, params):
        return params['strength'] * x**2

    def _log_constant(self, x, params):
        return 0.5 * (math.log(math.pi) - jnp.log(params['strength']))

    def _sample(self, key, shape, params):
        return jax.random.normal(key, shape) / jnp.sqrt(2 * params['strength'])


class ElasticNetReg(EntrywisePenalty):
    """alpha l1_weight sum(abs(value)) + (1 - alpha) l2_weight sum(value^2). Reset: 0.

    The density is the product of a Laplace and a normal one; its constant is sqrt(pi/b) erfcx(a / (2 sqrt(b))) with
    a = alpha l1_weight and b = (1 - alpha) l2_weight.
    """

    hypers: ClassVar = {
        'l1_weight': Hyper('l1', 'rate', 'nonnegative'),
        'l2_weight': Hyper('l2', 'rate2', 'nonnegative'),
        'alpha': Hyper('alpha', 'none', 'probability'),
    }

    def __init__(
        self,
        l1_weight: Any = 1.0,
        l2_weight: Any = 1.0,
        alpha: Any = 0.5,
        *,
        fit_hyper: bool = False,
        normalized: bool = False,
    ):
        super().__init__(fit_hyper)
        self._set_penalty(fit_hyper, normalized, {'l1_weight': l1_weight, 'l2_weight': l2_weight, 'alpha': alpha})

    @staticmethod
    def _weights(params):
        return params['alpha'] * params['l1'], (1 - params['alpha']) * params['l2']

    def _penalty(self, x, params):
        a, b = self._weights(params)
        return a * _abs(x) + b * x**2

    def _log_constant(self, x, params):
        a, b = self._weights(params)
        b = _nonzero(a, b, x.dtype)
        return 0.5 * (math.log(math.pi) - jnp.log(b)) + log_erfcx(a / (2 * jnp.sqrt(b)))

    def _check_proper(self, params):
        self._refuse_zero(sum(self._weights(params)))

    def _sample(self, key, shape, params):
        # abs(value) has the survival function erfcx-ratio(x) exp(-a x - b x^2). Newton's method on its logarithm,
        # which is concave, from the right of the root: it converges from every start.
        key_size, key_sign = jax.random.split(key)
        e = jax.random.exponential(key_size, shape)
        a, b = self._weights(params)
        b = _nonzero(a, b, e.dtype)
        root_b = jnp.sqrt(b)
        t = a / (2 * root_b)
        x = 2 * e / (a + jnp.sqrt(a**2 + 4 * b * e))
        for _ in range(8):
            tail = log_erfcx(t + root_b * x)
            log_survival = -(a * x + b * x**2) + tail - log_erfcx(t)
            hazard = 2 * root_b / math.sqrt(math.pi) * jnp.exp(-tail)
            x = jnp.maximum(x + (log_survival + e) / hazard, 0.0)
        return jax.random.rademacher(key_sign, shape, x.dtype) * x


def _nonzero(a, b, dtype):
    """``b``, or if it is 0 a number negligible beside ``a``."""
    b = jnp.asarray(b, dtype)
    return jnp.maximum(b, float(jnp.finfo(dtype).eps) * 1e-3 * jnp.asarray(a, dtype) ** 2)


class HuberReg(EntrywisePenalty):
    """weight * sum(h(value)), h = v^2/2 up to ``delta`` and delta (abs(v) - delta/2) beyond. Reset: 0.

    The density has a normal core and exponential tails.
    """

    hypers: ClassVar = {
        'weight': Hyper('strength', 'rate2', 'nonnegative'),
        'delta': Hyper('delta', 'value', 'positive'),
    }

    def __init__(self, *, weight: Any = 1.0, delta: Any = 1.0, fit_hyper: bool = False, normalized: bool = False):
        super().__init__(fit_hyper)
        self._set_penalty(fit_hyper, normalized, {'weight': weight, 'delta': delta})

    def _penalty(self, x, params):
        delta, size = params['delta'], _abs(x)
        core = jnp.minimum(size, delta)
        return params['strength'] * (0.5 * core**2 + delta * (size - core))

    @staticmethod
    def _parts(strength, delta):
        """The log integrals over the core and over both tails."""
        log_core = 0.5 * jnp.log(2 * jnp.pi / strength) + jnp.log(erf(delta * jnp.sqrt(strength / 2)))
        return log_core, math.log(2.0) - 0.5 * strength * delta**2 - jnp.log(strength) - jnp.log(delta)

    def _log_constant(self, x, params):
        return jnp.logaddexp(*self._parts(params['strength'], params['delta']))

    def _sample(self, key, shape, params):
        strength, delta = params['strength'], params['delta']
        key_which, key_core, key_tail, key_sign = jax.random.split(key, 4)
        log_core, log_tails = self._parts(strength, delta)
        in_core = jax.random.bernoulli(key_which, jax.nn.sigmoid(log_core - log_tails), shape)
        width = jnp.sqrt(strength / 2)
        core = erfinv(jax.random.uniform(key_core, shape) * erf(delta * width)) / width
        tail = delta + jax.random.exponential(key_tail, shape) / (strength * delta)
        return jax.random.rademacher(key_sign, shape, core.dtype) * jnp.where(in_core, core, tail)


def _abs(x: jax.Array) -> jax.Array:
    """abs(x) with gradient 0 at 0, so that zeros stay zero."""
    return jnp.where(x == 0, 0.0, jnp.abs(x))
