"""Composed priors: NumPyro distributions as priors, and sums of priors."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from brainstate_prob import random
from brainstate_prob.core.quantities import short
from brainstate_prob.core.shapes import to_shape
from brainstate_prob.nn.priors.base import Regularization
from brainstate_prob.nn.priors.densities import log_density, masked_log_prob
from brainstate_prob.nn.priors.hyper import Hyper, checked, is_param, trainable
from brainstate_prob.nn.priors.numpyro_distributions import check_density, described
from brainstate_prob.nn.supports import bounds, is_known, is_narrower

__all__ = ['ChainedReg', 'Prior', 'as_regularization']


class Prior(Regularization):
    """Any NumPyro distribution over real values as a prior, on plain numbers in the Param's own unit.

    ``reg=dist.Normal(0., 1.)`` creates one. Reset: the mean if it is finite and inside the support, otherwise
    another point of the support.

    Raises
    ------
    TypeError
        For anything but a continuous NumPyro distribution.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> from brainstate_prob import nn
    >>> nn.Param(3.0, reg=dist.Normal(0.0, 1.0)).reg
    Prior(Normal(loc=0, scale=1))
    """

    _not_in_graph: ClassVar[frozenset[str]] = Regularization._not_in_graph | {'given'}
    given: tuple[jax.Array, ...] = ()

    def __init__(self, distribution: dist.Distribution, *, weight: Any = 1.0):
        super().__init__()
        if not isinstance(distribution, dist.Distribution):
            raise TypeError(f'Prior takes a NumPyro distribution, got {distribution!r}.')
        check_density(distribution)
        self._set(False, {}, weight)
        # Priors are equal if their class and plain numbers are.
        self._kind, self._params = _family(distribution)
        self._law = type(distribution)  # whose code is compiled
        leaves, self._tree = jax.tree.flatten(distribution)
        self.given = tuple(leaf for leaf in leaves if isinstance(leaf, jax.Array))  # a Param's value, by mistake
        self._leaves = tuple(_constant(leaf) for leaf in leaves)
        self._described = described(distribution)
        self.proper = not isinstance(distribution, dist.ImproperUniform)
        self.event_dim = distribution.event_dim

    def __getstate__(self):
        # The order of a distribution's leaves differs between processes, and their tree does not keep its shapes.
        state = super().__getstate__()
        return {k: v for k, v in state.items() if k not in ('_tree', '_leaves')} | {'sent': self.distribution}

    def __setstate__(self, state):
        self.__dict__.update(state)
        leaves, self._tree = jax.tree.flatten(self.__dict__.pop('sent'))
        self._leaves = tuple(map(_constant, leaves))

    @property
    def distribution(self):
        return jax.tree.unflatten(self._tree, self._leaves)

    def hyper_values(self, unit=None):
        return {} if self._params is None else dict(self._params)

    def _log_prob(self, x, params):
        if self._kind is not None:
            return log_density(self._kind, params, x)
        return masked_log_prob(self.distribution, x)

    def log_prob(self, value):
        x, _ = self._take(value)
        self._check_batch(x.shape)
        return super().log_prob(value)

    def check_shape(self, shape, unit=None):
        self._check_event(shape)
        self._check_batch(shape)

    def _check_batch(self, shape: tuple[int, ...]) -> None:
        d = self.distribution
        batch = shape[: len(shape) - self.event_dim]
        event = shape[len(shape) - self.event_dim :]
        try:
            fits = np.broadcast_shapes(d.batch_shape, batch) == batch and event == d.event_shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f'{self._label()}: {self._described} is about values of shape '
                f'{(*d.batch_shape, *d.event_shape)}; the value has shape {shape}. Give the Param a value of the '
                'shape of its prior, or the prior parameters that broadcast to the value.'
            )

    def sample_init(self, shape, key=None):
        shape = to_shape(shape)
        self._check_event(shape)
        self._check_batch(shape)
        d = self.distribution.expand(shape[: len(shape) - self.event_dim])
        return d.sample(random.split_key() if key is None else key)

    def reset_value(self, shape=None):
        d = self.distribution
        full = (*d.batch_shape, *d.event_shape) if shape is None else to_shape(shape)
        self._check_batch(full)
        inner = jnp.asarray(d.support.feasible_like(jnp.zeros(full)), float)
        try:
            mean = jnp.broadcast_to(jnp.asarray(d.mean, float), full)
        except (NotImplementedError, AttributeError):
            return inner
        good = jnp.isfinite(mean) & jnp.isfinite(
            masked_log_prob(d, mean).reshape(full[: len(full) - self.event_dim] + (1,) * self.event_dim)
        )
        return jnp.where(good, mean, inner)

    @property
    def support(self):
        support = self.distribution.support
        # NumPyro's Levy does not keep it in its pytree
        if support is None and self._kind is not None and self._params is not None:
            support = self._kind(**self._params, validate_args=False).support
        return constraints.dependent if support is None else support

    def family_key(self):
        return None if self._kind is None else (self._kind,)

    def __repr__(self):
        weight = '' if isinstance(self.weight, float) and self.weight == 1.0 else f', weight={self.weight!r}'
        return f'Prior({self._described}{weight})'


def _family(distribution: dist.Distribution) -> tuple[type | None, dict[str, Any] | None]:
    """The class and parameters of an elementwise distribution that they rebuild; (None, None) for others."""
    base = distribution
    while type(base) is dist.ExpandedDistribution:
        base = base.base_dist
    kind = type(base)
    if base.event_dim or kind.__module__.split('.')[0] != 'numpyro' or not kind.arg_constraints:
        return None, None
    params = {name: _constant(getattr(base, name, None)) for name in kind.arg_constraints}
    try:
        rebuilt = kind(**params)
    except (TypeError, ValueError):
        return None, None
    same = rebuilt.batch_shape == base.batch_shape and rebuilt.event_shape == base.event_shape
    return (kind, params) if same else (None, None)


def _constant(x: Any) -> Any:
    """Concrete arrays as NumPy arrays or floats, so that equal constants compare equal."""
    if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array | np.ndarray | int | float) or isinstance(x, bool):
        return x
    array = np.asarray(x)
    if not np.issubdtype(array.dtype, np.floating):
        return array if array.ndim or not np.issubdtype(array.dtype, np.integer) else float(array)
    return float(array) if array.ndim == 0 else array


class ChainedReg(Regularization):
    """weight * sum of the losses of several priors. Draws and the reset value come from the first.

    An empty chain has loss 0, draws zeros and resets to 0. ``regularizations`` is the tuple of members; NumPyro
    distributions are accepted. With ``fit_hyper=True`` the weight is trained. The sum of several penalties has no
    known constant, so that only the data keep a trained weight from going to zero.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> reg = nn.ChainedReg(nn.L1Reg(1.0), nn.L2Reg(1.0), weight=2.0)
    >>> float(reg.loss([1.0, -2.0]))
    16.0
    """

    def __init__(self, *regularizations: Any, weight: Any = 1.0, fit_hyper: bool = False):
        super().__init__(fit_hyper)
        if any(reg is None for reg in regularizations):
            raise TypeError('ChainedReg: a member is None. Pass regularizations or NumPyro distributions.')
        members = tuple(reg for reg in map(as_regularization, regularizations) if reg is not None)
        units = [reg.unit for reg in members if reg.unit is not None]
        if any(not unit.has_same_dim(units[0]) for unit in units):
            raise ValueError(f'ChainedReg: the members have different units: {units}.')
        self.regularizations = members
        self.unit = units[0] if units else None
        hyper = Hyper('weight', 'none', 'nonnegative')
        self.weight = checked('ChainedReg', 'weight', hyper, weight)
        if not is_param(self.weight) and jnp.ndim(self.weight):
            raise ValueError(f'ChainedReg: weight must be one number; got shape {jnp.shape(self.weight)}.')
        if fit_hyper:
            self.weight = trainable(hyper, self.weight)
        self.proper = len(members) == 1 and members[0].proper
        self.event_dim = max((reg.event_dim for reg in members), default=0)

    def check_shape(self, shape, unit=None):
        for reg in self.regularizations:
            reg.check_shape(shape, unit)

    def loss(self, value):
        x, _ = self._take(value)
        losses = [reg.loss(value) for reg in self.regularizations]
        total = sum(losses[1:], losses[0]) if losses else jnp.zeros((), x.dtype)
        weight = jnp.asarray(self.weight_value(), total.dtype)
        return jnp.where(weight == 0, 0.0, weight * total)

    def log_prob(self, value):
        """The sum of the members' weighted log densities, a scalar, without the chain's own weight."""
        x, _ = self._take(value)
        return -sum((reg.loss(value) for reg in self.regularizations), jnp.zeros((), x.dtype))

    def sample_init(self, shape, key=None):
        return self.regularizations[0].sample_init(shape, key) if self.regularizations else jnp.zeros(to_shape(shape))

    def reset_value(self, shape=None):
        if self.regularizations:
            return self.regularizations[0].reset_value(shape)
        return jnp.zeros(() if shape is None else to_shape(shape))

    @property
    def support(self):
        return _intersection([reg.support for reg in self.regularizations])

    def support_in(self, unit):
        return _intersection([reg.support_in(unit) for reg in self.regularizations])

    def __repr__(self):
        parts = [repr(reg) for reg in self.regularizations]
        if not (isinstance(self.weight, float) and self.weight == 1.0):
            parts.append(f'weight={self.weight!r}')
        return f'ChainedReg({", ".join(parts)})'


def _intersection(supports: list[Any]) -> Any:
    """The intersection of the supports: the smallest, or the common interval; else unknown."""
    narrow = [s for s in supports if s is not constraints.real and s is not constraints.real_vector]
    if not narrow:
        return constraints.real
    for support in narrow:
        if not any(is_narrower(other, support) for other in narrow if other is not support):
            return support
    if not all(is_known(s) for s in narrow) or any(s.event_dim for s in narrow):
        return constraints.dependent
    lows, highs = zip(*(bounds(s) for s in narrow), strict=True)
    lower, upper = functools.reduce(_max, lows), functools.reduce(_min, highs)
    if _is_number(upper, np.inf):
        return constraints.positive if _is_number(lower, 0) else constraints.greater_than(lower)
    return constraints.less_than(upper) if _is_number(lower, -np.inf) else constraints.interval(lower, upper)


def _max(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(a, float) and isinstance(b, float) else jnp.maximum(a, b)


def _min(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(a, float) and isinstance(b, float) else jnp.minimum(a, b)


def _is_number(value: Any, number: float) -> bool:
    return isinstance(value, float) and value == number


def as_regularization(reg: Any) -> Regularization | None:
    """Convert ``reg`` of a Param to a `Regularization`; None stays None, a NumPyro distribution becomes a `Prior`.

    Raises
    ------
    TypeError
        For anything else.
    """
    if reg is None or isinstance(reg, Regularization):
        return reg
    if isinstance(reg, dist.Distribution):
        return Prior(reg)
    raise TypeError(
        f'{_called(reg)} is not a prior. Allowed: a Regularization such as nn.GaussianReg(0., 1.), a NumPyro '
        f'distribution such as dist.Normal(0., 1.), None.{_instead(reg)}'
    )


def _called(reg: Any) -> str:
    return f'the class {reg.__name__}' if isinstance(reg, type) else short(reg)


def _instead(reg: Any) -> str:
    """A suggestion what to write instead of ``reg``, or nothing."""
    if isinstance(reg, type):
        prefix = 'nn' if issubclass(reg, Regularization) else 'dist' if issubclass(reg, dist.Distribution) else None
        write = f' Write reg={prefix}.{reg.__name__}(...).' if prefix else ''
        return f' Pass an instance, not the class.{write}'
    if isinstance(reg, float | int | np.number | jax.Array | np.ndarray) and not isinstance(reg, bool):
        return f' For a penalty of that weight write reg=nn.L2Reg({short(reg)}).'
    if is_param(reg):
        return ' A Param can be a hyper-parameter of a prior, e.g. nn.GaussianReg(std=...).'
    if callable(getattr(reg, 'log_prob', None)):
        return ' Write the distribution of another library with NumPyro.'
    return ''
