"""Composed transforms: chains and masked transforms."""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from brainstate_prob.core.quantities import is_concrete
from brainstate_prob.nn.bijections.arguments import identity_key, show, tfp_bijectors, tidy
from brainstate_prob.nn.bijections.base import INF, Transform, from_family
from brainstate_prob.nn.bijections.numpyro_compat import ParamSupport
from brainstate_prob.nn.bijections.positive import PositiveT
from brainstate_prob.nn.bijections.value import derived
from brainstate_prob.nn.bijections.vector import OrderedT

__all__ = ['ChainT', 'MaskedT']


class ChainT(Transform):
    """Transforms applied from left to right: the first acts on theta, the last returns the value.

    The event rank is the largest among the parts, and log-determinants add up after summing to that rank. The unit is
    that of the last part that has one; all parts then work on numbers in it.

    Examples
    --------
    >>> t = ChainT(OrderedT(), PositiveT())
    >>> t([0.0, 0.0]).tolist()
    [1.0, 2.0]
    >>> t.log_abs_det_jacobian([0.0, 0.0]).shape
    ()
    """

    def __init__(self, *transforms):
        for i, part in enumerate(transforms):
            if not isinstance(part, Transform):
                raise TypeError(
                    f'ChainT: part {i} must be a Transform; got {part!r}'
                    f'{" (call the class first)" if isinstance(part, type) else ""}.'
                )
        if not transforms:
            raise ValueError('ChainT needs at least one transform; for none use IdentityT().')
        self.transforms = tuple(transforms)
        if self.unit is not None:
            self.with_unit(self.unit)
        self._check_domains()

    def _check_domains(self):
        lower, upper = -INF, INF
        for i, part in enumerate(self._plain().transforms):
            if i and not part.unconstrained and is_concrete(lower) and np.any(np.asarray(lower) < 0):
                raise ValueError(
                    f'ChainT: part {i}, {self.transforms[i]!r}, takes positive numbers, but the values '
                    f'of {self.transforms[i - 1]!r} reach down to {np.min(np.asarray(lower)):g}; '
                    'put PositiveT() before it.'
                )
            lower, upper = _image(part, lower, upper)

    @derived
    def event_rank(self) -> int:
        """The largest among the parts."""
        return max(part.event_rank for part in self.transforms)

    @derived
    def bijective(self) -> bool:
        """Whether all parts are bijections."""
        return all(part.bijective for part in self.transforms)

    @derived
    def has_density(self) -> bool:
        """Whether all parts have a density."""
        return all(part.has_density for part in self.transforms)

    @derived
    def unconstrained(self) -> bool:
        """Whether the first part accepts every theta."""
        return self.transforms[0].unconstrained

    @property
    def domain(self):
        """The domain of the first part, as events of the chain's rank."""
        first, more = self.transforms[0], self.event_rank - self.transforms[0].event_rank
        if not more:
            return first._plain().domain
        base = constraints.real if first.unconstrained else first.domain
        return constraints.independent(base, self.event_rank)

    @property
    def codomain(self):
        """The image of the chain."""
        plain = self._plain()
        if self.event_rank == 0:
            return super().codomain
        if len(plain.transforms) == 1:
            return plain.transforms[0].codomain
        if [type(part) for part in plain.transforms] == [OrderedT, PositiveT]:
            return constraints.positive_ordered_vector
        return ParamSupport(plain)

    def _make_bijector(self):
        tfb = tfp_bijectors()
        return tfb.Chain([part.bijector for part in reversed(self.transforms)])

    def _forward(self, x):
        for part in self.transforms:
            x = part._fwd(x)
        return x

    def _inverse(self, y):
        for part in reversed(self.transforms):
            y = part._inv(y)
        return y

    def _log_det(self, x):
        total: jax.Array | int = 0
        for part in self.transforms:
            log_det = part._ld(x)
            extra = tuple(range(log_det.ndim - (self.event_rank - part.event_rank), log_det.ndim))
            total = total + jnp.sum(log_det, axis=extra)
            x = part._fwd(x)
        return total

    def _bounds(self):
        lower, upper = -INF, INF
        for part in self.transforms:
            lower, upper = _image(part, lower, upper)
        return lower, upper

    def _contains(self, y):
        inside: jax.Array | bool = True
        for part in reversed(self.transforms):
            here = part._in(y)
            extra = tuple(range(here.ndim - (self.event_rank - part.event_rank), here.ndim))
            inside = inside & jnp.all(here, axis=extra)
            y = part._inv(y)
        return inside

    def _accept(self, y):
        inside: jax.Array | bool = True
        for part in reversed(self.transforms):
            here, y = part._accept(y)
            extra = tuple(range(here.ndim - (self.event_rank - part.event_rank), here.ndim))
            inside = inside & jnp.all(here, axis=extra)
        return inside, y

    def _to_interior(self, y):
        """Map back part by part to the nearest interior point; only moved points are mapped forward again."""
        inside = self._in(y)
        inside = inside.reshape(inside.shape + (1,) * (y.ndim - inside.ndim))
        values = y
        for part in reversed(self.transforms):
            values = part._inv(part._to_interior(values))
        return jnp.where(inside, y, self._fwd(values))

    def _codomain_text(self, index, shape):
        if self.event_rank == 0:
            return super()._codomain_text(index, shape)
        vector = next(part for part in self.transforms if part.event_rank)
        return f'come out of the chain, where the value of {vector!r} must {vector._codomain_text(index, shape)}'

    def _domain_problem(self, x):
        return self.transforms[0]._domain_problem(x)

    def forward_shape(self, shape):
        """Pass the shape through the parts."""
        shape = super().forward_shape(shape)
        for part in self.transforms:
            shape = part.forward_shape(shape)
        return shape

    def inverse_shape(self, shape):
        """Pass the shape back through the parts."""
        shape = super().inverse_shape(shape)
        for part in reversed(self.transforms):
            shape = part.inverse_shape(shape)
        return shape

    @property
    def unit(self):
        """The unit of the last part that has one."""
        return next((part.unit for part in reversed(self.transforms) if part.unit is not None), None)

    def with_unit(self, unit):
        """Return the chain with all parts on plain numbers in `unit`."""
        if self.unit is None:
            return self
        return self._build(transforms=tuple(part.with_unit(unit) for part in self.transforms))

    def family_key(self):
        """Keys of the parts; None if a part has none."""
        keys = tuple(part.family_key() for part in self.transforms)
        return None if None in keys else (ChainT, keys)

    def family_params(self):
        """Arguments of the parts, named `'<position>.<name>'`."""
        return {
            f'{i}.{name}': value
            for i, part in enumerate(self._plain().transforms)
            for name, value in part.family_params().items()
        }

    @classmethod
    def _from_family(cls, key, params):
        return cls._build(
            transforms=tuple(
                from_family(
                    part,
                    {
                        name.partition('.')[2]: value
                        for name, value in params.items()
                        if name.partition('.')[0] == str(i)
                    },
                )
                for i, part in enumerate(key[1])
            )
        )

    def _flatten_with_keys(self):
        return tuple((jax.tree_util.SequenceKey(i), part) for i, part in enumerate(self.transforms)), ()

    @classmethod
    def _unflatten(cls, flags, children):
        return cls._build(transforms=tuple(children))

    def _identity(self):
        return (ChainT, self.transforms)

    def __repr__(self):
        return f'ChainT({", ".join(map(repr, self.transforms))})'


class MaskedT(Transform):
    """A transform on the entries where `mask` is true, the identity elsewhere.

    On the other entries the inner transform gets a safe number, so that neither values nor gradients are nan. The
    log-determinant is that of the inner transform where the mask is true and zero elsewhere.

    Parameters
    ----------
    mask : array_like of bool
        Concrete; broadcasts to the value.
    transform : Transform
        Element-wise (`event_rank` 0).
    safe_value : number, optional
        A theta that the inner transform accepts; by default 0, or 1 if it takes positive numbers only.

    Examples
    --------
    >>> MaskedT([True, False], PositiveT())([0.0, 0.0])
    Array([1., 0.], dtype=float32)
    """

    def __init__(self, mask, transform, safe_value=None):
        if not isinstance(transform, Transform):
            raise TypeError(f'MaskedT: transform must be a Transform; got {transform!r}.')
        if transform.event_rank:
            raise ValueError(f'MaskedT works on element-wise transforms; {transform!r} couples the last axis.')
        if isinstance(mask, jax.core.Tracer):
            raise TypeError(
                'MaskedT: mask must be concrete; it was traced. Build the transform outside the traced function.'
            )
        mask = np.array(mask)
        if mask.dtype != bool:
            raise TypeError(f'MaskedT: mask must hold booleans; got dtype {mask.dtype}. Write mask != 0 for numbers.')
        default = 0.0 if transform.unconstrained else 1.0
        safe_value = default if safe_value is None else tidy(safe_value, 'MaskedT: safe_value', unitless=True)
        if is_concrete(safe_value) and not np.all(transform._plain().domain(jnp.asarray(safe_value))):
            raise ValueError(
                f'MaskedT: safe_value {show(safe_value)} does not lie in the domain of {transform!r}; '
                f'omit it to use {default}.'
            )
        self.mask, self.transform, self.safe_value = mask, transform, safe_value

    @derived
    def bijective(self) -> bool:
        """Whether the inner transform is a bijection."""
        return self.transform.bijective

    @derived
    def has_density(self) -> bool:
        """Whether the inner transform has a density."""
        return self.transform.has_density

    @derived
    def unconstrained(self) -> bool:
        """Whether the inner transform accepts every theta."""
        return self.transform.unconstrained

    @property
    def domain(self):
        """The domain of the inner transform where the mask is true."""
        if self.unconstrained:
            return constraints.real
        return constraints.open_interval(np.where(self.mask, 0.0, -INF), INF)

    def _safe(self, values, inside):
        return jnp.where(self.mask, values, jnp.asarray(inside, values.dtype))

    def _forward(self, x):
        return jnp.where(self.mask, self.transform._fwd(self._safe(x, self.safe_value)), x)

    def _inverse(self, y):
        inside = self.transform._fwd(jnp.broadcast_to(jnp.asarray(self.safe_value, y.dtype), y.shape))
        return jnp.where(self.mask, self.transform._inv(self._safe(y, inside)), y)

    def _log_det(self, x):
        return jnp.where(self.mask, self.transform._ld(self._safe(x, self.safe_value)), 0)

    def _bounds(self):
        lower, upper = self.transform.bounds
        where = jnp.where if not (is_concrete(lower) and is_concrete(upper)) else np.where
        return where(self.mask, lower, -INF), where(self.mask, upper, INF)

    def _contains(self, y):
        return jnp.where(self.mask, self.transform._in(y), jnp.isfinite(y))

    def _accept(self, y):
        inside_point = self.transform._fwd(jnp.broadcast_to(jnp.asarray(self.safe_value, y.dtype), y.shape))
        inside, theta = self.transform._accept(self._safe(y, inside_point))
        return jnp.where(self.mask, inside, jnp.isfinite(y)), jnp.where(self.mask, theta, y)

    def _to_interior(self, y):
        return jnp.where(self.mask, self.transform._to_interior(y), y)

    def _domain_problem(self, x):
        return self.transform._domain_problem(self._safe(x, self.safe_value))

    def _checked_shape(self, shape, what):
        try:
            fits = np.broadcast_shapes(self.mask.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f'{self!r}: the mask of shape {self.mask.shape} does not broadcast to {what} of shape {shape}.'
            )
        return self.transform._checked_shape(shape, what)

    @property
    def unit(self):
        """The unit of the inner transform."""
        return self.transform.unit

    def with_unit(self, unit):
        """The same with the inner transform on plain numbers in `unit`."""
        if self.unit is None:
            return self
        return self._build(mask=self.mask, transform=self.transform.with_unit(unit), safe_value=self.safe_value)

    def family_key(self):
        """None: masked transforms are computed one by one."""

    def _flatten_with_keys(self):
        keys = jax.tree_util.GetAttrKey('transform'), jax.tree_util.GetAttrKey('safe_value')
        return tuple(zip(keys, (self.transform, self.safe_value), strict=True)), _Mask(self.mask)

    @classmethod
    def _unflatten(cls, flags, children):
        return cls._build(mask=flags.mask, transform=children[0], safe_value=children[1])

    def _identity(self):
        return (MaskedT, _Mask(self.mask), self.transform, identity_key(self.safe_value))

    def __repr__(self):
        default = 0.0 if self.transform.unconstrained else 1.0
        safe = '' if isinstance(self.safe_value, float) and self.safe_value == default else f', {show(self.safe_value)}'
        return f'MaskedT({self.mask.tolist()}, {self.transform!r}{safe})'


class _Mask:
    """A boolean array that compares by value, for the static part of a pytree."""

    def __init__(self, mask):
        self.mask = mask

    def __eq__(self, other):
        return isinstance(other, _Mask) and np.array_equal(self.mask, other.mask)

    def __hash__(self):
        return hash((self.mask.shape, self.mask.tobytes()))


def _image(part, lower, upper):
    """Bounds of the entries of `part` where its input lies between `lower` and `upper`."""
    if part.event_rank:
        return part.bounds
    if isinstance(lower, float) and lower == -INF and isinstance(upper, float) and upper == INF:
        return part.bounds
    ends = [part._fwd(jnp.asarray(end, jnp.result_type(float, end))) for end in (lower, upper)]
    ends = [jnp.minimum(*ends), jnp.maximum(*ends)]  # element-wise maps are monotone, up or down
    return tuple(float(end) if is_concrete(end) and end.ndim == 0 else end for end in ends)
