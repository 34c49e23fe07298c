"""Regularization: a prior or penalty on a parameter's value, as a Module whose hyper-parameters may be Params."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from brainstate_prob import random
from brainstate_prob.core.quantities import with_unit
from brainstate_prob.core.shapes import to_shape
from brainstate_prob.core.units import u
from brainstate_prob.graph import path_of
from brainstate_prob.graph.walk import dotted
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.priors.arguments import check_call
from brainstate_prob.nn.priors.densities import log_density
from brainstate_prob.nn.priors.hyper import Hyper, checked, in_unit, trainable, value_unit

__all__ = ['DistributionReg', 'Regularization', 'broadcasts_to']


class Regularization(Module):
    """Base of all priors and penalties.

    A subclass names its hyper-parameters in ``hypers``, calls ``_set`` with them in its constructor and defines
    ``_log_prob(x, params)``, ``_sample(key, shape, params)`` and ``_center(params)`` on plain numbers.

    Parameters
    ----------
    fit_hyper
        Make every hyper-parameter trainable, with the transform of its domain.

    Attributes
    ----------
    event_dim
        The number of trailing axes of a value that are scored together; 0 is elementwise.
    proper
        Whether exp(-loss / weight) can be normalized; `sample_init` then draws from it.

    Notes
    -----
    Hyper-parameters are numbers, arrays that broadcast against the value, quantities, or Params. Plain numbers are
    read in the unit of the value; losses and log densities are those of the value's magnitude in its own unit.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> class Ridge(nn.Regularization):
    ...     def loss(self, value):
    ...         return jnp.sum(jnp.square(value))
    >>> float(nn.Param([3.0, 4.0], reg=Ridge()).reg_loss())
    25.0
    """

    hypers: ClassVar[dict[str, Hyper]] = {}
    event_dim: int = 0
    proper: bool = True
    weight: Any = 1.0
    unit: u.Unit | None = None
    fit_hyper: bool = False

    def __new__(cls, *args: Any, **kwargs: Any):
        check_call(cls, args, kwargs)
        return super().__new__(cls)

    def __init__(self, fit_hyper: bool = False):
        super().__init__()
        self.fit_hyper = bool(fit_hyper)

    def _set(self, fit_hyper: bool, values: dict[str, Any], weight: Any = 1.0) -> None:
        """Check and store the hyper-parameters and the weight."""
        self.fit_hyper = bool(fit_hyper)
        label = type(self).__name__
        values = {name: checked(label, name, self.hypers[name], value) for name, value in values.items()}
        self.unit = value_unit(label, self.hypers, values)
        for name, value in values.items():
            setattr(self, name, trainable(self.hypers[name], value) if self.fit_hyper else value)
        if 'weight' not in self.hypers:
            self.weight = checked(label, 'weight', _WEIGHT, weight)
            value_unit(label, {'weight': _WEIGHT}, {'weight': self.weight})

    # Hyper-parameters as plain numbers

    def hyper_values(self, unit: u.Unit | None = None) -> dict[str, Any]:
        """The parameters of the density as plain numbers for a value in ``unit`` (None: the prior's own)."""
        unit = self._resolved(unit)
        return {hyper.arg: in_unit(hyper, getattr(self, name), unit) for name, hyper in self.hypers.items()}

    def _resolved(self, unit: u.Unit | None) -> u.Unit | None:
        if unit is None:
            return self.unit
        if self.unit is not None and not unit.has_same_dim(self.unit):
            raise u.UnitMismatchError(
                f'{self._label()} is about values in {self.unit}; the value '
                f'{"has no unit" if unit.is_unitless else f"is in {unit}"}. Give the value, or the hyper-parameters, '
                'the unit of the other.'
            )
        return unit

    def weight_value(self) -> Any:
        """The factor of the log density, plain; 1 if the weight is a hyper-parameter of the density itself."""
        return 1.0 if 'weight' in self.hypers else in_unit(_WEIGHT, self.weight, None)

    # The density

    def log_prob(self, value: Any) -> jax.Array:
        """The log density without the weight, one number per event (per entry, if ``event_dim`` is 0)."""
        x, unit = self._take(value)
        params = self.hyper_values(unit)
        self._check_shapes(x.shape, params)
        params = {k: jnp.asarray(v, x.dtype) if isinstance(v, float | np.ndarray) else v for k, v in params.items()}
        return self._log_prob(x, params)

    def loss(self, value: Any) -> jax.Array:
        """Weight * -sum(log density) (or penalty), a scalar without unit; +inf outside the support.

        An array-valued weight applies event by event.
        """
        log_prob = self.log_prob(value)
        weight = self.weight_value()
        if not broadcasts_to(jnp.shape(weight), log_prob.shape):
            raise ValueError(
                f'{self._label()}: weight of shape {jnp.shape(weight)} does not broadcast against the '
                f'{log_prob.shape} events of the value. Give one weight, or one per event.'
            )
        weight = jnp.asarray(weight, log_prob.dtype)
        return jnp.sum(weight * jnp.where(weight == 0, 0.0, -log_prob))

    def _log_prob(self, x: jax.Array, params: dict[str, Any]) -> jax.Array:
        raise NotImplementedError(f'{type(self).__name__} gives no log density; it must define loss or _log_prob.')

    def _take(self, value: Any) -> tuple[jax.Array, u.Unit]:
        unit = u.UNITLESS
        if isinstance(value, u.Quantity):
            value, unit = value.mantissa, value.unit
            if unit.is_unitless:
                value = u.Quantity(value, unit=unit).to_decimal(u.UNITLESS)
        if isinstance(value, str):
            raise TypeError(f'{self._label()} scores real numbers; got {value!r}.')
        x = jnp.asarray(value)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            if not jnp.issubdtype(x.dtype, jnp.integer):
                raise TypeError(f'{self._label()} scores real numbers; got an array of dtype {x.dtype}.')
            x = x.astype(float)
        if x.ndim < self.event_dim:
            raise ValueError(
                f'{self._label()} scores the last {self.event_dim} axes of a value; got one of shape {x.shape}.'
            )
        return x, unit

    def check_shape(self, shape: tuple[int, ...], unit: u.Unit | None = None) -> None:
        """Raise if the prior does not fit values of this shape in ``unit``."""
        self._check_event(shape)
        self._check_shapes(shape, self.hyper_values(unit))

    def _check_shapes(self, shape: tuple[int, ...], params: dict[str, Any]) -> None:
        names = {hyper.arg: name for name, hyper in self.hypers.items()}
        for arg, value in params.items():
            name = names.get(arg, arg)
            if not broadcasts_to(jnp.shape(value), shape):
                raise ValueError(
                    f'{self._label()}: {name} of shape {jnp.shape(value)} does not broadcast against a value of shape '
                    f'{shape}; a hyper-parameter never enlarges the value. Give the Param a value of the full shape.'
                )

    # Support, draws and reset value

    @property
    def support(self) -> constraints.Constraint:
        """The support as a NumPyro constraint; bounds carry the prior's unit, if it has one."""
        return constraints.real

    def support_in(self, unit: u.Unit) -> constraints.Constraint:
        """The support of values in ``unit``, with plain bounds."""
        return self.support

    @property
    def distribution(self) -> dist.Distribution:
        """The NumPyro distribution with the current hyper-parameters, over magnitudes in the prior's own unit."""
        raise NotImplementedError(f'{self!r} has no NumPyro distribution; use its log_prob and sample_init.')

    def sample_init(self, shape: Any, key: Any = None) -> Any:
        """Draw a value of ``shape``; a quantity if the hyper-parameters are.

        Parameters
        ----------
        shape
            The full shape of the parameter: int or tuple.
        key
            A random key; None draws one from `brainstate_prob.random.DEFAULT`.
        """
        shape = to_shape(shape)
        self._check_event(shape)
        params = self.hyper_values(None)
        self._check_shapes(shape, params)
        self._check_proper(params)
        return self._with_unit(self._sample(random.split_key() if key is None else key, shape, params))

    def reset_value(self, shape: Any = None) -> Any:
        """A finite point inside the support (mode or mean), of ``shape``; None: the shape of the hyper-parameters."""
        params = self.hyper_values(None)
        center = jnp.asarray(self._center(params), float)
        if shape is None:
            return self._with_unit(center)
        self._check_shapes(to_shape(shape), params)
        return self._with_unit(jnp.broadcast_to(center, to_shape(shape)))

    def _sample(self, key: jax.Array, shape: tuple[int, ...], params: dict[str, Any]) -> jax.Array:
        raise NotImplementedError(f'{type(self).__name__} cannot draw values.')

    def _center(self, params: dict[str, Any]) -> Any:
        return 0.0

    def _check_proper(self, params: dict[str, Any]) -> None:
        """Raise if the current hyper-parameters do not define a density to draw from."""

    def _refuse_zero(self, weight: Any) -> None:
        if not isinstance(weight, jax.core.Tracer) and np.any(np.asarray(weight) == 0):
            raise ValueError(f'{self._label()}: a weight of 0 defines no density to draw from. Give a positive weight.')

    def _check_event(self, shape: tuple[int, ...]) -> None:
        if len(shape) < self.event_dim:
            raise ValueError(
                f'{self._label()} is about the last {self.event_dim} axes of a value; got shape {shape}. Give the '
                'Param a value with these axes.'
            )

    def _with_unit(self, x: jax.Array) -> Any:
        return with_unit(x, self.unit)

    # Many parameters at once

    def family_key(self) -> Hashable | None:
        """A key of priors with one elementwise expression that differ in `hyper_values` only, or None."""
        return None

    def family_log_prob(self, params: dict[str, Any], value: jax.Array) -> jax.Array:
        """The log density of each entry without the weight; ``params`` broadcast elementwise."""
        return self._log_prob(value, params)

    # Representation

    def _label(self) -> str:
        path = dotted(path_of(self))
        return f'{type(self).__name__} {path!r}' if path else type(self).__name__

    def _shown(self) -> dict[str, Any]:
        """The arguments in the repr, with options that are not at their default."""
        return {name: getattr(self, name) for name in self.hypers}

    def __repr__(self) -> str:
        shown = self._shown()
        if not (isinstance(self.weight, float) and self.weight == 1.0) and 'weight' not in shown:
            shown['weight'] = self.weight
        if self.fit_hyper:
            shown['fit_hyper'] = True
        return f'{type(self).__name__}({", ".join(f"{k}={_short(v)}" for k, v in shown.items())})'


_WEIGHT = Hyper('weight', 'none', 'nonnegative')


class DistributionReg(Regularization):
    """Base of the priors over a NumPyro class.

    A subclass defines ``numpyro_class``, its ``hypers`` (name -> argument of that class, unit role, domain), ``fixed``
    arguments, and ``_center``.
    """

    numpyro_class: ClassVar[type[dist.Distribution]]
    fixed: ClassVar[dict[str, Any]] = {}

    def __new__(cls, *args: Any, **kwargs: Any):
        if cls is DistributionReg:
            raise TypeError(
                'nn.DistributionReg is the base class of priors over a NumPyro class, not a prior itself. Give the '
                'distribution as the prior, reg=dist.Normal(0.0, 0.5), or use a prior with its own name, '
                'nn.GaussianReg(mean=0.0, std=0.5).'
            )
        return super().__new__(cls, *args, **kwargs)

    def hyper_values(self, unit=None):
        return self.fixed | super().hyper_values(unit)

    def _log_prob(self, x, params):
        return log_density(self.numpyro_class, params, x)

    def _sample(self, key, shape, params):
        return self._build(params).expand(shape[: len(shape) - self.event_dim]).sample(key)

    def _build(self, params: dict[str, Any]) -> dist.Distribution:
        return self.numpyro_class(**params, validate_args=False)

    @property
    def distribution(self):
        return self._build(self.hyper_values(None))

    @property
    def support(self):
        return self.numpyro_class.support

    def family_key(self):
        return (self.numpyro_class,) if self.event_dim == 0 else None


def broadcasts_to(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of ``shape`` broadcasts against one of shape ``to`` without enlarging it."""
    if math.prod(shape) == 1 and len(shape) <= len(to):
        return True
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False))


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
        return np.array2string(np.asarray(value), precision=4, threshold=6, edgeitems=2, separator=', ')
    if isinstance(value, u.Quantity):
        return f'{_short(value.mantissa)} * {value.unit}'
    if isinstance(value, float):
        return f'{value:.6g}'
    return repr(value)
