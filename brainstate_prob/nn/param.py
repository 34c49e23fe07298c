"""Param and Const: a value with a transform, a prior and a unit.

A `Param` holds theta, the unconstrained array that optimizers and samplers update, in ``.val`` (a `ParamState`);
``value()`` is the constrained value, in the Param's unit.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import ParamState, State, StateTrace, current_trace
from brainstate_prob.core.calls import named, synonyms, users_line
from brainstate_prob.core.quantities import short, split_unit, unit_name, with_unit
from brainstate_prob.core.shapes import to_shape
from brainstate_prob.core.state import holds_tracer
from brainstate_prob.core.units import u
from brainstate_prob.graph import path_of
from brainstate_prob.graph.walk import dotted
from brainstate_prob.nn.bijections import IdentityT, Transform, transform_for
from brainstate_prob.nn.bijections.suggestions import suggestion_for
from brainstate_prob.nn.dims import checked_dims
from brainstate_prob.nn.kinds import ParamNode
from brainstate_prob.nn.memo import served_value
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.no_arithmetic import NoArithmetic
from brainstate_prob.nn.prior_check import check_prior
from brainstate_prob.nn.priors import Regularization, as_regularization
from brainstate_prob.nn.priors.hyper import makes_hyper_parameters

__all__ = ['Const', 'Param']

logger = logging.getLogger(__name__)


@makes_hyper_parameters
class Param(NoArithmetic, ParamNode, Module):
    """A parameter with an optional bijective transform, prior and unit.

    Parameters
    ----------
    value
        The initial value in constrained space: numbers, an array or a `brainunit.Quantity`. Floating dtypes are
        kept, integers become the default float; bool and complex raise. A value outside the transform's codomain
        is moved to the nearest interior point, with a warning.
    t
        The transform from theta to the value; None: the transform onto the prior's support. Alias ``transform=``.
    reg
        A `Regularization`, or a NumPyro distribution over numbers in the Param's unit. Alias ``prior=``.
    precompute
        Applied to the constrained value before ``value()`` returns it; the prior does not see it.
    fit
        Whether the Param is trained. Otherwise its State is not a `ParamState`.
    enable_cache_logging
        Log hits, misses and invalidations of the cache at level INFO.
    dims
        Names of the axes, for results.
    prior_on
        Whether ``reg`` scores the constrained value (``'value'``) or theta (``'unconstrained'``).
    name
        A label for messages.

    Raises
    ------
    TypeError
        If the value is not real, or ``t`` or ``reg`` is not a transform or prior.
    ValueError
        For non-finite values, shapes that the transform would change, more dims than axes.
    brainunit.UnitMismatchError
        If the unit of the transform or prior does not fit that of the value.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> rate = nn.Param(jnp.array([1.0, 2.0]), t=nn.SoftplusT(0.0), reg=nn.L2Reg(weight=0.01))
    >>> rate.value()
    Array([1., 2.], dtype=float32)
    >>> round(float(rate.reg_loss()), 4)
    0.05
    """

    _not_in_graph: ClassVar[frozenset[str]] = Module._not_in_graph | {'_memo'}
    _memo: tuple[Any, ...] | None = None

    @synonyms(transform='t', prior='reg')
    @named
    def __init__(
        self,
        value: Any,
        t: Transform | None = IdentityT(),  # noqa: B008  (a value object without state)
        reg: Any = None,
        precompute: Callable | None = None,
        fit: bool = True,
        enable_cache_logging: bool = False,
        *,
        dims: Sequence[str] | str | None = None,
        prior_on: Literal['value', 'unconstrained'] = 'value',
        name: str | None = None,
    ):
        super().__init__(name)
        try:
            self.reg: Regularization | None = as_regularization(reg)
        except TypeError as error:
            raise TypeError(f'{self._label()}: reg: {error}') from None
        if prior_on not in ('value', 'unconstrained'):
            raise ValueError(f"{self._label()}: prior_on must be 'value' or 'unconstrained', got {prior_on!r}.")
        self.prior_on = prior_on
        if t is None:
            t = self._chosen_t()
        if not isinstance(t, Transform):
            raise TypeError(f'{self._label()}: t must be a Transform such as nn.SoftplusT(); {suggestion_for(t)}')
        if not isinstance(fit, bool | np.bool_):
            raise TypeError(f'{self._label()}: fit must be True or False, got {fit!r}.')
        if precompute is not None and not callable(precompute):
            raise TypeError(f'{self._label()}: precompute must be a callable of the value, got {short(precompute)}.')
        self.t = t
        self.precompute = precompute
        self.fit = bool(fit)
        self.enable_cache_logging = enable_cache_logging
        magnitude, self.unit = split_unit(value, self._label())
        try:
            numeric = self._numeric_t()
        except u.UnitMismatchError as error:
            raise u.UnitMismatchError(f'{self._label()}, a value in {unit_name(self.unit)}: {error}') from None
        theta, magnitude = self._start(numeric, magnitude)
        self.dims = checked_dims(dims, magnitude.ndim, self._label())
        self.val: State = ParamState(theta) if self.fit else State(magnitude)
        if self.reg is not None and self.fit:
            on_theta = prior_on == 'unconstrained'
            shape = jnp.shape(theta) if on_theta else magnitude.shape
            check_prior(
                self._label(), self.reg, self.t, numeric, shape, u.UNITLESS if on_theta else self.unit, on_theta
            )

    # Values

    def value(self) -> Any:
        """The constrained value, after ``precompute``: an array, or a Quantity if the Param has a unit.

        The first eager read fills the cache; any write of the State invalidates it.
        """
        raw = self.val.value
        memo = self._valid_memo(raw)
        if memo is not None:
            self._log('hit')
            return memo[-1]
        value, cacheable = self._compute(raw)
        if cacheable:
            self._log('miss')
            self._memo = (raw, self.t, self.precompute, value)
        return value

    def constrained(self) -> Any:
        """The constrained value before ``precompute``, which the prior scores."""
        return with_unit(self._magnitude(self.val.value), self.unit)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the constrained value."""
        shape = jnp.shape(self.val.value)
        return tuple(self._numeric_t().forward_shape(shape)) if self.fit else shape

    @property
    def dtype(self):
        """The dtype of theta and of the value's magnitude."""
        return jnp.result_type(self.val.value)

    def set_value(self, value: Any) -> None:
        """Set the parameter from constrained space. Shape, dtype and unit stay.

        Raises
        ------
        ValueError
            For another shape, or a value outside the transform's codomain. A value
            that equals a bound in floating point is moved to the nearest point inside.
        brainunit.UnitMismatchError
            For a unit of another dimension.
        """
        self._write(self._convert(value))

    def clip(self, min_val: Any = None, max_val: Any = None) -> None:
        """Clip the constrained value (before ``precompute``) to the bounds, which must lie inside the codomain."""
        low, high = (None if b is None else self._bound(b) for b in (min_val, max_val))
        clipped = jnp.clip(self._magnitude(self.val.value), low, high)
        try:
            self._numeric_t().check(clipped)  # at a bound that `set_value` accepts, an optimizer cannot move
        except ValueError as error:
            raise ValueError(f'{self._label()}: {error}') from None
        self._write(clipped)

    def reset_to_prior(self) -> None:
        """Set the value to the prior's reset value (mode, mean or another inner point), if there is a prior."""
        if self.reg is None:
            return
        value = self._prior_point(self.reg.reset_value)
        if self.prior_on == 'unconstrained':
            self.val.value = value
        else:
            self._write(self._inside(value))

    def sample_prior(self, key: Any = None) -> Any:
        """One draw of the constrained value from the prior.

        Raises
        ------
        ValueError
            Without a prior.
        """
        value = self._prior_draw(key)
        if self.prior_on == 'unconstrained':
            value = self._numeric_t().forward(value)
        return with_unit(value, self.unit)

    def init_from_prior(self, key: Any = None) -> None:
        """Set the value to a draw from the prior."""
        value = self._prior_draw(key)
        if self.prior_on == 'unconstrained':
            self.val.value = value
        else:
            self._write(self._inside(value))

    # Densities

    def reg_loss(self) -> jax.Array:
        """The prior's loss (weight times minus log density): a scalar without unit; 0 without a prior."""
        if self.reg is None or not self.fit:
            return jnp.zeros(())
        if self.prior_on == 'unconstrained':
            return self.reg.loss(self.val.value)
        return self.reg.loss(self.constrained())

    def log_prior(self) -> jax.Array:
        """Minus `reg_loss`: the log prior density of the value (of theta for ``prior_on='unconstrained'``)."""
        return -self.reg_loss()

    def log_abs_det_jacobian(self) -> jax.Array:
        """log|d value / d theta|, summed over the events: a scalar; 0 if the Param is not fitted."""
        if not self.fit:
            return jnp.zeros(())
        raw, numeric = self.val.value, self._numeric_t()
        return jnp.sum(numeric.log_abs_det_jacobian(raw, numeric.forward(raw)))

    # The cache

    def cache(self) -> None:
        """Compute and cache the value, unless traced."""
        self._memo = None
        self.value()

    def clear_cache(self) -> None:
        """Clear the cache."""
        self._memo = None
        self._log('cleared')

    @property
    def cache_stats(self) -> dict[str, bool]:
        """``{'valid': ..., 'has_cached_value': ...}``."""
        return {'valid': self._own_memo_valid(self.val.value), 'has_cached_value': self._memo is not None}

    @property
    def kept_value(self) -> Any:
        """The cached value, or None."""
        return self._memo[-1] if self._memo is not None else None

    # Construction from a specification

    @classmethod
    def init(cls, data: Any, sizes: Any = None, allow_none: bool = True, **param_kwargs) -> Param | None:
        """A Param from a specification.

        Parameters
        ----------
        data
            None (stays None if ``allow_none``), a Param (checked and returned), a callable of ``sizes`` such as an
            initializer, or a value, broadcast to ``sizes``.
        sizes
            The shape, an int or a tuple.
        **param_kwargs
            Arguments of the Param: ``t``, ``reg``, ``dims``, ...

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> from brainstate_prob import nn
        >>> nn.Param.init(jnp.ones, (2, 3), t=nn.SoftplusT()).shape
        (2, 3)
        """
        shape = None if sizes is None else to_shape(sizes, 'Param.init: sizes')
        if data is None:
            if not allow_none:
                raise ValueError(
                    'Param.init got None, and allow_none is False. Pass a value, an initializer or a Param.'
                )
            return None
        if isinstance(data, Param):
            if shape is not None and data.shape != shape:
                raise ValueError(f'Param.init got a Param of shape {data.shape}, but sizes asks for {shape}.')
            return data
        if callable(data):
            if shape is None:
                raise ValueError('Param.init got a callable; it needs sizes=(...) to call it with.')
            data = data(shape)
        if shape is not None:
            magnitude, unit = split_unit(data, 'Param.init')
            try:
                magnitude = jnp.broadcast_to(magnitude, shape)
            except ValueError:
                raise ValueError(
                    f'Param.init got data of shape {magnitude.shape}, which does not broadcast to {shape}.'
                ) from None
            data = with_unit(magnitude, unit)
        return cls(data, **param_kwargs)

    # Internals

    def _label(self) -> str:
        path = dotted(path_of(self)) or self.name
        return f'{type(self).__name__} {path!r}' if path else type(self).__name__

    def _chosen_t(self) -> Transform:
        """The transform onto the prior's support."""
        if self.reg is None or self.prior_on == 'unconstrained':
            return IdentityT()
        try:
            return transform_for(self.reg.support)
        except NotImplementedError as error:
            raise NotImplementedError(f'{self._label()}: the prior {self.reg!r}: {error}') from None

    def _log(self, event: str) -> None:
        if self.enable_cache_logging:
            logger.info('%s: cache %s', self._label(), event)

    def _numeric_t(self) -> Transform:
        """The transform on plain numbers in the Param's unit."""
        return self.t.with_unit(self.unit)

    def _magnitude(self, raw: Any) -> jax.Array:
        return self._numeric_t().forward(raw) if self.fit else raw

    def _own_memo_valid(self, raw: Any) -> bool:
        memo = self._memo
        return memo is not None and memo[0] is raw and memo[1] is self.t and memo[2] is self.precompute

    def _valid_memo(self, raw: Any) -> tuple[Any, ...] | None:
        served = served_value(self)
        if served is not None and served[0] is raw:
            return served
        memo = self._memo  # read once: another thread may replace it
        if memo is not None and memo[0] is raw and memo[1] is self.t and memo[2] is self.precompute:
            return memo
        if memo is not None:
            self._log('invalid')
        return None

    def _compute(self, raw: Any) -> tuple[Any, bool]:
        """The value, and whether it can be cached: it is concrete and depends only on ``raw``."""
        value = with_unit(self._magnitude(raw), self.unit)
        foreign = False
        if self.precompute is not None:
            with StateTrace() as trace:
                value = self.precompute(value)
            for state in trace.writes:
                state.value = trace.value_of(state)
            foreign = bool(trace.uses)
        return value, not (foreign or current_trace() is not None or holds_tracer((raw, value)))

    def _finish(self, magnitude: Any) -> Any:
        """The result of ``value()`` for a constrained magnitude."""
        value = with_unit(magnitude, self.unit)
        return value if self.precompute is None else self.precompute(value)

    def _start(self, numeric: Transform, magnitude: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Theta of the initial value, moved inside the codomain with a warning if outside."""
        traced = isinstance(magnitude, jax.core.Tracer)
        try:
            shape = tuple(numeric.forward_shape(numeric.inverse_shape(magnitude.shape)))
        except ValueError as error:
            raise ValueError(f'{self._label()}: {error}') from None
        if shape != magnitude.shape:
            raise ValueError(
                f'{self._label()}: {numeric!r} turns a value of shape {magnitude.shape} into one of shape {shape}. '
                'Give the value its full shape, or scalar bounds.'
            )
        if traced:
            return numeric.inverse(magnitude), magnitude
        try:
            numeric.check(magnitude)
            if not numeric.unconstrained and self.fit:
                warnings.warn(
                    f'{self._label()}: theta of {numeric!r} is itself confined to {numeric.domain}: an optimizer step '
                    'can leave it, and samplers refuse it. Compose it, e.g. ChainT(PositiveT(), ...).',
                    stacklevel=users_line(),
                )
            return numeric.inverse(magnitude), magnitude
        except ValueError as error:
            inside = numeric.nearest_interior(magnitude)
            warnings.warn(f'{self._label()}: {error} Starting at {short(inside)} instead.', stacklevel=users_line())
            return numeric.inverse(inside), inside

    def _convert(self, value: Any) -> jax.Array:
        """The magnitude of ``value`` in the Param's unit, after checks of its shape and dtype."""
        magnitude, _ = split_unit(value, self._label(), self.unit)
        if magnitude.shape != self.shape:
            raise ValueError(
                f'{self._label()} has shape {self.shape}, got a value of shape {magnitude.shape}. Broadcast it first, '
                'or write param.val.value to change the shape on purpose.'
            )
        return magnitude.astype(self.dtype)

    def _bound(self, bound: Any) -> jax.Array:
        return split_unit(bound, self._label(), self.unit)[0].astype(self.dtype)

    def _write(self, magnitude: jax.Array) -> None:
        try:
            theta = self._numeric_t().inverse(magnitude)
        except ValueError as error:
            raise ValueError(f'{self._label()}: {error}') from None
        self.val.value = theta if self.fit else magnitude

    def _inside(self, magnitude: jax.Array) -> jax.Array:
        """``magnitude``, with entries on or beyond the edge of the codomain moved inside."""
        return magnitude if holds_tracer(magnitude) else self._numeric_t().nearest_interior(magnitude)

    def _prior_point(self, make: Callable) -> jax.Array:
        shape = jnp.shape(self.val.value) if self.prior_on == 'unconstrained' else self.shape
        unit = u.UNITLESS if self.prior_on == 'unconstrained' else self.unit
        value = make(shape)
        magnitude, _ = split_unit(value, self._label(), unit if isinstance(value, u.Quantity) else None)
        return jnp.broadcast_to(magnitude, shape).astype(self.dtype)

    def _prior_draw(self, key: Any) -> jax.Array:
        if self.reg is None:
            raise ValueError(f'{self._label()} has no prior to draw from; give it one with reg=.')
        reg = self.reg
        return self._prior_point(lambda shape: reg.sample_init(shape, key=key))

    def __repr__(self) -> str:
        parts = [short(self.constrained())]
        if type(self.t) is not IdentityT:
            parts.append(f't={self.t!r}')
        if self.reg is not None:
            parts.append(f'reg={self.reg!r}')
        if self.prior_on != 'value':
            parts.append(f'prior_on={self.prior_on!r}')
        if self.precompute is not None:
            parts.append(f'precompute={getattr(self.precompute, "__name__", self.precompute)}')
        if self.dims is not None:
            parts.append(f'dims={self.dims!r}')
        if not self.fit and type(self) is Param:
            parts.append('fit=False')
        return f'{type(self).__name__}({", ".join(parts)})'


class Const(Param):
    """A value that is never trained: in ``states()``, but not in ``states(ParamState)``; its `reg_loss` is 0.

    Takes what `Param` takes, except ``fit=True``.

    Examples
    --------
    >>> from brainstate_prob import ParamState, nn
    >>> gain = nn.Const(2.0)
    >>> float(gain.value()), dict(gain.states(ParamState))
    (2.0, {})
    """

    def __init__(self, value: Any, *args, **param_kwargs):
        if param_kwargs.pop('fit', False):
            raise ValueError('A Const is never trained: drop fit=True, or use nn.Param.')
        param_kwargs['fit'] = False
        super().__init__(value, *args, **param_kwargs)
