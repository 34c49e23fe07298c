"""`Transform`: a differentiable map from unconstrained numbers to the values of a parameter."""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from brainstate_prob.core.quantities import is_concrete, magnitude, magnitude_in, unit_of
from brainstate_prob.core.units import u
from brainstate_prob.nn.bijections.arguments import as_floating, show
from brainstate_prob.nn.bijections.saturated import at_ends, inward
from brainstate_prob.nn.bijections.tfp import as_tfp_bijector
from brainstate_prob.nn.bijections.value import Value

__all__ = ['NoDensityError', 'Transform', 'from_family']

INF = float('inf')


class NoDensityError(NotImplementedError):
    """A transform that is not a bijection has no log-determinant."""


class Transform(Value):
    """A map of unconstrained numbers (theta) to constrained values, with inverse and log-determinant.

    Theta is always a plain array. The value is a `Quantity` if the arguments of the transform carry a unit and a
    plain array otherwise. Arguments may be numbers, arrays that broadcast to the value, quantities, or traced;
    Python numbers never change the dtype of the value.

    A transform is a value: equal arguments make equal (and equally hashed) transforms, it is a JAX pytree whose
    leaves are its numeric arguments, it pickles, and its repr rebuilds it.

    Attributes
    ----------
    event_rank : int
        The number of coupled trailing axes; 0 is element-wise.
    bijective : bool
        Whether each value has exactly one theta and the log-determinant exists.
    has_density : bool
        Whether samplers can use it: every bijection, and `UnitVectorT` by its stated measure.
    unconstrained : bool
        Whether every theta is allowed, as optimizers and samplers assume.

    Notes
    -----
    A subclass names its numeric arguments in `_args`, gives the range of its values in `_bounds` and either
    `_make_bijector` (a TFP bijector for given arguments) or `_forward`, `_inverse` and `_log_det`. These work on
    arrays of one dtype and get the numeric arguments by keyword, so one formula serves a scalar bound, an array of
    bounds, and a whole family of parameters computed at once.

    Examples
    --------
    >>> from brainstate_prob.nn.bijections import SoftplusT
    >>> t = SoftplusT(lower=1.0)
    >>> float(t.forward(0.0)).__round__(4)
    1.6931
    >>> float(t.inverse(t(2.0))).__round__(4)
    2.0
    """

    event_rank: int = 0
    bijective: bool = True
    has_density: bool = True
    unconstrained: bool = True

    _numbers: tuple[str, ...] = ()  # arguments of the formulas: the numeric arguments, and constants of a special case
    _family: type | None = None  # the class that has the formulas, if another
    _closed: bool = False  # whether the bounds themselves are values

    # -- defined by subclasses ------------------------------------------------------------------------------------

    # A subclass names its numeric arguments in place of `*_, **numbers`; they are passed by keyword.

    def _make_bijector(self, *_, **numbers):
        """Build the TFP bijector for the given arguments; by default one around this transform's own formulas."""
        return as_tfp_bijector(self)

    def _forward(self, x, *_, **numbers):
        return self._make_bijector(**numbers).forward(x)

    def _inverse(self, y, *_, **numbers):
        return self._make_bijector(**numbers).inverse(y)

    def _log_det(self, x, *_, **numbers):
        return self._make_bijector(**numbers).forward_log_det_jacobian(x, event_ndims=self.event_rank)

    def _bounds(self, *_, **numbers):
        """Lowest and highest value of an entry."""
        return -INF, INF

    def _contains(self, y, *_, **numbers):
        lower, upper = self._bounds(**numbers)
        if self._closed:
            return (y >= lower) & (y <= upper) & jnp.isfinite(y)
        return (y > lower) & (y < upper)

    def _nearest(self, y, *_, **numbers):
        """Move numbers inside the bounds, on float64 NumPy arrays (`eps` is that of the value's dtype)."""
        eps = numbers.pop('eps')
        lower, upper = (np.asarray(b, 'f8') for b in self._bounds(**numbers))
        if self._closed:
            return np.clip(y, lower, upper)
        size = np.maximum(np.where(np.isfinite(lower), abs(lower), 0), np.where(np.isfinite(upper), abs(upper), 0))
        width = np.where(np.isfinite(upper) & np.isfinite(lower), upper - lower, 1.0)
        # Far enough inside to survive rounding in the value's dtype next to a bound of that size.
        most = np.where(upper - lower < INF, width / 2, INF)
        margin = np.minimum(np.maximum(np.sqrt(eps) * width, 4 * eps * size), most)
        return np.clip(y, lower + margin, upper - margin)

    def _domain_problem(self, x) -> str | None:
        """Why a concrete theta is not allowed; None if it is."""
        return None

    # -- the map --------------------------------------------------------------------------------------------------

    def forward(self, x):
        """Map theta to the constrained value.

        Parameters
        ----------
        x : array_like
            Plain numbers, with at least `event_rank` axes.

        Returns
        -------
        jax.Array or brainunit.Quantity
            A quantity if the transform has a `unit`; of the dtype of `x`.
        """
        plain = self._plain()
        x = plain._take(x, 'theta', plain._theta_shape)
        problem = plain._domain_problem(x) if is_concrete(x) else None
        if problem:
            raise ValueError(f'{self!r}: {problem}')
        y = plain._fwd(x)
        return y if self.unit is None else u.Quantity(y, unit=self.unit)

    __call__ = forward

    def inverse(self, y):
        """Map a constrained value to theta, a plain array.

        A concrete value outside the open codomain raises `ValueError`; under tracing it gives nan or inf. A bound that
        `forward` returns by saturation is accepted and moved to the nearest point inside. A quantity is converted
        to the unit of the transform, or `brainunit.UnitMismatchError` is raised.
        """
        plain, y = self._take_value(y)
        if not is_concrete(y):
            return plain._inv(y)
        inside, theta = plain._accept(y)
        self._raise_outside(plain, y, inside)
        return theta

    def log_abs_det_jacobian(self, x, y=None):
        """Log of the absolute Jacobian determinant of the numbers at `x`, one per event.

        Computed from `x`, which keeps the digits that a saturated `y` has lost; `y` is not used.

        Returns
        -------
        jax.Array
            The shape of `x` without its last `event_rank` axes: element-wise transforms keep it whole.

        Raises
        ------
        NoDensityError
            For transforms that are not bijections; the message names one to use instead.
        """
        plain = self._plain()
        return plain._ld(plain._take(x, 'theta', plain._theta_shape))

    def forward_shape(self, shape):
        """Shape of the value for a theta of `shape`; raises `ValueError` if there is none."""
        return self._checked_shape(tuple(shape), 'theta')

    def inverse_shape(self, shape):
        """Shape of theta for a value of `shape`; raises `ValueError` if there is none."""
        return self._checked_shape(tuple(shape), 'the value')

    # The same three on plain numbers of one dtype without checks, for composed transforms and families.

    def _fwd(self, x):
        return self._forward(x, **self._cast(x.dtype)).astype(x.dtype)

    def _inv(self, y):
        return self._inverse(y, **self._cast(y.dtype)).astype(y.dtype)

    def _ld(self, x):
        log_det = self._log_det(x, **self._cast(x.dtype)).astype(x.dtype)
        return jnp.broadcast_to(log_det, x.shape[: x.ndim - self.event_rank])

    def _in(self, y):
        return self._contains(y, **self._cast(y.dtype))

    # Concrete values that are saturated.

    def _accept(self, y):
        """Whether each event of a concrete `y` is a value of `forward`, saturated ones included, and their theta."""
        inside = self._in(y)
        if np.all(np.asarray(inside)):
            return inside, self._inv(y)
        saturated = ~inside & self._saturated(y)
        if not np.any(np.asarray(saturated)):
            return inside, self._inv(y)
        wide = saturated.reshape(saturated.shape + (1,) * (y.ndim - saturated.ndim))
        return inside | saturated, self._inv(self._inward(y, jnp.broadcast_to(wide, y.shape)))

    def _saturated(self, y):
        """Whether each event lies at a bound that `forward` reaches in floating point."""
        return at_ends(self, y)

    def _inward(self, y, where):
        """`y`, moved inside at the entries `where` of saturated events."""
        return inward(self, y, where)

    # -- domain and codomain --------------------------------------------------------------------------------------

    @property
    def domain(self) -> constraints.Constraint:
        """The domain of theta, as a NumPyro constraint."""
        if self.event_rank:
            return constraints.independent(constraints.real, self.event_rank)
        return constraints.real

    @property
    def codomain(self) -> constraints.Constraint:
        """The range of the value, as a NumPyro constraint on numbers in the transform's own unit."""
        lower, upper = self.bounds
        no_lower, no_upper = _is_float(lower, -INF), _is_float(upper, INF)
        if no_lower and no_upper:
            return constraints.real
        if no_upper:
            if self._closed:
                return constraints.greater_than_eq(lower)
            return constraints.positive if _is_float(lower, 0.0) else constraints.greater_than(lower)
        if no_lower:
            return constraints.less_than(upper)
        return constraints.interval(lower, upper) if self._closed else constraints.open_interval(lower, upper)

    @property
    def bounds(self):
        """Lowest and highest value of an entry, as numbers in the transform's own unit."""
        plain = self._plain()
        return plain._bounds(**{name: getattr(plain, name) for name in plain._numbers})

    def contains(self, y):
        """Whether each event of `y` lies in the (open) codomain, as a boolean array; may be traced."""
        plain, y = self._take_value(y)
        return plain._in(y)

    def check(self, y) -> None:
        """Raise `ValueError` if a concrete value does not lie in the codomain, with the entries and their number."""
        plain, y = self._take_value(y)
        if is_concrete(y):
            self._raise_outside(plain, y, plain._in(y))

    def nearest_interior(self, y):
        """Move a concrete value to a nearby point of the codomain whose theta is finite.

        Entries inside are unchanged. Not-a-number and infinite entries raise `ValueError`.
        """
        plain, numbers = self._take_value(y)
        if not np.all(np.isfinite(np.asarray(numbers, 'f8'))):
            raise ValueError(f'{self!r}: a value must be finite to be moved inside; got {show(numbers)}.')
        moved = plain._to_interior(numbers)
        return moved if self.unit is None else u.Quantity(moved, unit=self.unit)

    def _to_interior(self, y):
        numbers = {name: np.asarray(value, 'f8') for name, value in self._cast(y.dtype).items()}
        moved = self._nearest(np.asarray(y, 'f8'), eps=float(jnp.finfo(y.dtype).eps), **numbers)
        inside = self._in(y)
        inside = inside.reshape(inside.shape + (1,) * (y.ndim - inside.ndim))
        return jnp.where(inside, y, jnp.asarray(moved, y.dtype))

    def _codomain_text(self, index, shape) -> str:
        """The requirement on the event at `index` of a value of `shape`, for messages."""
        low, high = (float(np.broadcast_to(np.asarray(b, 'f8'), shape)[index]) for b in self.bounds)
        return f'lie in {"[" if self._closed else "("}{low:g}, {high:g}{"]" if self._closed and high < INF else ")"}'

    def _raise_outside(self, plain, y, inside):
        inside = np.asarray(inside)
        if inside.all():
            return
        where = np.argwhere(~inside)
        shown = ', '.join(f'{list(map(int, i)) if len(i) else "value"}: {_entry(y[tuple(i)])}' for i in where[:5])
        more = ', ...' if len(where) > 5 else ''
        text = plain._codomain_text(tuple(where[0]), y.shape)
        text = text if self.unit is None else f'{text} {self.unit}'
        events = 'vectors' if self.event_rank else 'entries'
        raise ValueError(f'{self!r}: a value must {text}; {len(where)} of {inside.size} {events} do not: {shown}{more}')

    # -- shapes, units, dtypes ------------------------------------------------------------------------------------

    @property
    def unit(self):
        """Unit of the value, from the arguments that are quantities; None for plain numbers."""
        for name in self._args:
            unit = unit_of(getattr(self, name))
            if unit is not None:
                return unit
        return None

    def with_unit(self, unit) -> 'Transform':
        """Return the same transform with its arguments as plain numbers in `unit`, and no unit of its own.

        Plain arguments are numbers in that unit already. Raises `brainunit.UnitMismatchError` if an argument has
        another dimension.

        Examples
        --------
        >>> import brainunit as u
        >>> from brainstate_prob.nn.bijections import SoftplusT
        >>> SoftplusT(5.0 * u.Hz).with_unit(u.kHz)
        SoftplusT(lower=0.005)
        """
        if self.unit is None:
            return self
        unit = None if unit is None or unit.is_unitless else unit
        attributes = dict(self.__dict__)
        for name in self._args:
            if name not in self._unitless:
                attributes[name] = magnitude_in(getattr(self, name), unit, f'{type(self).__name__}: {name}')
        return type(self)._build(**attributes)

    def _keep(self, **arguments):
        super()._keep(**arguments)
        unit = self.unit
        if unit is not None:  # raises if the arguments do not share a dimension
            self.with_unit(unit)

    def _plain(self):
        unit = self.unit
        return self if unit is None else self.with_unit(unit)

    def _cast(self, dtype):
        return {name: jnp.asarray(getattr(self, name), dtype) for name in self._numbers}

    def _dtype(self, array):
        return jnp.result_type(array, *(value for value in jax.tree.leaves(self) if hasattr(value, 'dtype')))

    def _take(self, x, what, shape_of):
        if unit_of(x) is not None:
            raise u.UnitMismatchError(f'{self!r}: {what} is a plain array; got the unit {unit_of(x)}.')
        x = as_floating(magnitude(x), f'{type(self).__name__}: {what}')
        shape_of(x.shape)
        return x.astype(self._dtype(x))

    def _take_value(self, y):
        own, unit = unit_of(y), self.unit
        if unit is None and own is not None:
            raise u.UnitMismatchError(
                f'{self!r} has no unit, but the value carries {own}; give its arguments as '
                f'quantities, or take its magnitude first.'
            )
        if unit is not None:
            y = magnitude_in(y, unit, f'{self!r} has values in {unit}; the value')
        plain = self._plain()
        return plain, plain._take(y, 'the value', plain._value_shape)

    def _theta_shape(self, shape):
        return self.forward_shape(shape)

    def _value_shape(self, shape):
        return self.inverse_shape(shape)

    def _checked_shape(self, shape, what):
        if len(shape) < self.event_rank:
            raise ValueError(
                f'{self!r} works on vectors along the last axis; {what} has shape {shape}. '
                f'Give it at least {self.event_rank} axis.'
            )
        for name in self._args:
            argument = np.shape(magnitude(getattr(self, name)))
            if argument and not _broadcasts_to(argument, shape):
                raise ValueError(
                    f'{self!r}: {name} of shape {argument} does not broadcast to {what} of shape {shape}; '
                    f'an argument never enlarges the value.'
                )
        return shape

    # -- other forms ----------------------------------------------------------------------------------------------

    @property
    def bijector(self):
        """The TFP bijector of this transform, on plain numbers in its own unit; built anew at each access."""
        plain = self._plain()
        dtype = jnp.result_type(float, *(v for v in jax.tree.leaves(plain) if hasattr(v, 'dtype')))
        return plain._make_bijector(**plain._cast(dtype))

    def family_key(self):
        """A key of transforms that can be computed as one expression over stacked arguments; None if not possible.

        Transforms with equal keys differ in `family_params` only. Call it on `with_unit(...)`.
        """
        return (self._family or type(self), *(getattr(self, name) for name in self._flags))

    def family_params(self) -> dict:
        """The numeric arguments of the family's formulas, constants of a special case included."""
        plain = self._plain()
        return {name: getattr(plain, name) for name in plain._numbers}

    @classmethod
    def _from_family(cls, key, params):
        return cls._build(**params, **dict(zip(cls._flags, key[1:], strict=True)))


def from_family(key, params: dict) -> Transform:
    """Build the transform of a `family_key` whose numeric arguments may be arrays, one entry per member.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob.nn.bijections import ExpT, PositiveT, from_family
    >>> PositiveT().family_key() == ExpT(3.0).family_key()
    True
    >>> both = from_family(ExpT().family_key(), {'lower': jnp.array([0.0, 3.0])})
    >>> both.forward(jnp.zeros(2))
    Array([1., 4.], dtype=float32)
    """
    return key[0]._from_family(key, params)


def _is_float(value, number) -> bool:
    return isinstance(value, float) and value == number


def _broadcasts_to(small, large) -> bool:
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(small[::-1], large[::-1], strict=False))


def _entry(entry) -> str:
    numbers = np.asarray(entry, 'f8')
    return f'{float(numbers):g}' if numbers.ndim == 0 else np.array2string(numbers, precision=6, threshold=8)
