"""Distributions of quantities: a NumPyro distribution of magnitudes with a unit."""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from brainstate_prob.core.calls import users_line
from brainstate_prob.core.quantities import unit_name
from brainstate_prob.core.units import u

__all__ = [
    'InUnit',
    'QuantityDistribution',
    'UncheckedUnitWarning',
    'kind_of',
    'magnitudes_explained',
    'magnitudes_in',
    'of_quantities',
    'quantities_explained',
    'refuse_quantities',
    'warn_of_unchecked',
    'with_unit',
]


def kind_of(x: Any) -> str:
    """A description of ``x`` for messages."""
    if isinstance(x, jax.Array):
        return f'an array of shape {x.shape}'
    if isinstance(x, type):
        return f'the class {x.__name__}'
    return type(x).__name__


class UncheckedUnitWarning(UserWarning):
    """The targets have a unit, and the unit of the predictions is unknown."""


class InUnit:
    """A unit as static part of the data."""

    def __init__(self, unit: u.Unit):
        self.unit = unit

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, InUnit) and self.unit == other.unit

    def __hash__(self) -> int:
        return hash(self.unit)

    def __repr__(self) -> str:
        return f'InUnit({self.unit})'


jax.tree_util.register_pytree_node(InUnit, lambda x: ((), x), lambda x, _: x)

# The power of the observations' unit of each parameter, by distribution; other parameters are plain numbers.
_LOCATION_SCALE = {'loc': 1, 'scale': 1}
_BOUNDED = {**_LOCATION_SCALE, 'low': 1, 'high': 1}
_POWERS: dict[Callable, dict[str, int]] = {
    dist.AsymmetricLaplace: _LOCATION_SCALE,
    dist.AsymmetricLaplaceQuantile: _LOCATION_SCALE,
    dist.Cauchy: _LOCATION_SCALE,
    dist.Delta: {'v': 1},
    dist.Exponential: {'rate': -1},
    dist.Gamma: {'rate': -1},
    dist.GaussianRandomWalk: {'scale': 1},
    dist.Gumbel: _LOCATION_SCALE,
    dist.HalfCauchy: {'scale': 1},
    dist.HalfNormal: {'scale': 1},
    dist.InverseGamma: {'rate': 1},
    dist.Laplace: _LOCATION_SCALE,
    dist.Levy: _LOCATION_SCALE,
    dist.Logistic: _LOCATION_SCALE,
    dist.LogUniform: {'low': 1, 'high': 1},
    dist.LowRankMultivariateNormal: {'loc': 1, 'cov_factor': 1, 'cov_diag': 2},
    dist.MultivariateNormal: {'loc': 1, 'scale_tril': 1, 'covariance_matrix': 2, 'precision_matrix': -2},
    dist.MultivariateStudentT: {'loc': 1, 'scale_tril': 1},
    dist.Normal: _LOCATION_SCALE,
    dist.Pareto: {'scale': 1},
    dist.SoftLaplace: _LOCATION_SCALE,
    dist.StudentT: _LOCATION_SCALE,
    dist.TruncatedCauchy: _BOUNDED,
    dist.TruncatedNormal: _BOUNDED,
    dist.Uniform: {'low': 1, 'high': 1},
    dist.Weibull: {'scale': 1},
}


class QuantityDistribution:
    """A distribution of quantities, from `with_unit` or `of_quantities`.

    Attributes
    ----------
    distribution
        The NumPyro distribution of the magnitudes.
    unit
        Their unit.
    """

    def __init__(self, distribution: dist.Distribution, unit: u.Unit):
        self.distribution, self.unit = distribution, unit

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """See the distribution."""
        return self.distribution.batch_shape

    @property
    def event_shape(self) -> tuple[int, ...]:
        """See the distribution."""
        return self.distribution.event_shape

    @property
    def mean(self) -> Any:
        """The mean, a Quantity."""
        return u.Quantity(self.distribution.mean, unit=self.unit)

    @property
    def variance(self) -> Any:
        """The variance, a Quantity."""
        return u.Quantity(self.distribution.variance, unit=self.unit**2)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draws, a Quantity."""
        return u.Quantity(self.distribution.sample(key, sample_shape), unit=self.unit)

    def log_prob(self, value: Any) -> jax.Array:
        """The log density of the magnitude of ``value`` in its own unit."""
        if not isinstance(value, u.Quantity):
            raise u.UnitMismatchError(
                f'The distribution is over quantities in {self.unit}; got plain numbers. Give a Quantity: '
                f'log_prob(x * {_spelled(self.unit)}).'
            )
        return magnitudes_in(self, value.unit).log_prob(value.mantissa)

    def mask(self, mask: Any) -> QuantityDistribution:
        """See the distribution."""
        return QuantityDistribution(self.distribution.mask(mask), self.unit)

    def expand(self, batch_shape: tuple[int, ...]) -> QuantityDistribution:
        """See the distribution."""
        return QuantityDistribution(self.distribution.expand(batch_shape), self.unit)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> QuantityDistribution:
        """See the distribution."""
        return QuantityDistribution(self.distribution.to_event(reinterpreted_batch_ndims), self.unit)

    def __repr__(self) -> str:
        return f'QuantityDistribution({type(self.distribution).__name__}, {self.unit})'


jax.tree_util.register_pytree_node(
    QuantityDistribution,
    lambda x: ((x.distribution,), InUnit(x.unit)),
    lambda unit, children: QuantityDistribution(children[0], unit.unit),
)


def with_unit(distribution: dist.Distribution, unit: u.Unit) -> QuantityDistribution:
    """Attach a unit to a distribution, which a `Posterior` compares with the unit of its targets.

    Parameters
    ----------
    distribution
        A NumPyro distribution of magnitudes.
    unit
        Their unit. Targets in another unit of the same dimension are scored in their unit, if it is known how the
        distribution scales; targets of another dimension are refused.

    Examples
    --------
    >>> import brainunit as u, numpyro.distributions as dist
    >>> from brainstate_prob import infer
    >>> mean, sigma = -65.0 * u.mV, 0.5 * u.mV
    >>> infer.with_unit(dist.Normal(mean / u.mV, sigma / u.mV), u.mV).mean
    Quantity(-65., "mV")
    """
    if isinstance(distribution, QuantityDistribution) or not isinstance(distribution, dist.Distribution):
        raise TypeError(
            f'with_unit takes a NumPyro distribution of magnitudes, got {kind_of(distribution)}, e.g. '
            'infer.with_unit(dist.Normal(mean / u.mV, sigma / u.mV), u.mV).'
        )
    if not isinstance(unit, u.Unit):
        raise TypeError(f'with_unit takes a unit such as u.mV, got {type(unit).__name__}.')
    refuse_quantities(distribution)
    return QuantityDistribution(distribution, unit)


def of_quantities(law: Callable[..., dist.Distribution], *args: Any, **kwargs: Any) -> QuantityDistribution:
    """A distribution with quantities as parameters, in the unit of its location or scale.

    Parameters
    ----------
    law
        A NumPyro distribution whose parameters have known units: that of the observations (location, scale), or its
        inverse (rate).
    args, kwargs
        Its parameters: quantities where they carry a unit, plain numbers otherwise.

    Raises
    ------
    brainunit.UnitMismatchError
        For a parameter of another dimension, or a plain number in place of a quantity.
    TypeError
        For a distribution whose parameters have unknown units.

    Examples
    --------
    >>> import brainunit as u, numpyro.distributions as dist
    >>> from brainstate_prob import infer
    >>> infer.of_quantities(dist.Normal, -65.0 * u.mV, 0.0005 * u.volt)
    QuantityDistribution(Normal, mV)
    """
    name = getattr(law, '__name__', type(law).__name__)
    if law not in _POWERS:
        raise TypeError(
            f'of_quantities does not know which parameters of {name} carry the unit of the observations. Divide by '
            f'units and say it: infer.with_unit(dist.{name}(...), u.mV).'
        )
    powers = _POWERS[law]
    given = inspect.signature(law).bind(*args, **kwargs).arguments
    extra = given.pop('kwargs', {})
    given = {**given, **extra}
    unit = None
    for parameter in sorted(powers, key=lambda p: powers[p] != 1):  # the unit of the location or scale
        if isinstance(given.get(parameter), u.Quantity):
            unit = given[parameter].unit
            unit = unit if powers[parameter] == 1 else unit ** (1 / powers[parameter])
            break
    if unit is None:
        raise TypeError(f'of_quantities: no parameter of {name} is a Quantity, of {list(powers)}.')
    return QuantityDistribution(
        law(**{k: _plain(v, powers.get(k, 0), unit, f'{k} of {name}') for k, v in given.items()}), unit
    )


def _plain(value: Any, power: int, unit: u.Unit, label: str) -> Any:
    """The magnitude of a parameter in its expected unit."""
    if value is None or isinstance(value, bool):
        return value
    wanted = unit**power if power else u.UNITLESS
    if not isinstance(value, u.Quantity):
        if power:
            raise u.UnitMismatchError(f'The {label} has the unit {unit_name(wanted)}; got plain numbers.')
        return value
    if not value.unit.has_same_dim(wanted):
        raise u.UnitMismatchError(
            f'The {label} has the unit {unit_name(wanted)}; a value in {unit_name(value.unit)} cannot be converted.'
        )
    return value.to_decimal(wanted)


def magnitudes_in(d: QuantityDistribution, unit: u.Unit) -> dist.Distribution:
    """The distribution of magnitudes in another unit of the same dimension.

    Raises
    ------
    brainunit.UnitMismatchError
        For another dimension.
    ValueError
        If it is not known how the distribution scales.
    """
    if d.unit == unit:
        return d.distribution
    if not d.unit.has_same_dim(unit):
        raise u.UnitMismatchError(
            f'The model predicts quantities in {unit_name(d.unit)}, but the targets are in {unit_name(unit)}, which is '
            'another dimension. Correct the unit of one of them.'
        )
    factor = float(u.Quantity(1.0, unit=d.unit).to_decimal(unit))
    try:
        return _scaled(d.distribution, factor)
    except NotImplementedError:
        raise ValueError(
            f'The model predicts {type(d.distribution).__name__} in {d.unit}, the targets are in {unit}, and it is not '
            f'known how this distribution scales. Give the targets in {d.unit}, or predict them in {unit}.'
        ) from None


def _scaled(d: dist.Distribution, factor: float) -> dist.Distribution:
    """The distribution of ``factor`` times a variable with distribution ``d``."""
    if isinstance(d, dist.MaskedDistribution):
        return _scaled(d.base_dist, factor).mask(d._mask)
    if isinstance(d, dist.ExpandedDistribution):
        return _scaled(d.base_dist, factor).expand(d.batch_shape)
    if isinstance(d, dist.Independent):
        return _scaled(d.base_dist, factor).to_event(d.reinterpreted_batch_ndims)
    if isinstance(d, dist.MixtureSameFamily):
        return dist.MixtureSameFamily(d.mixing_distribution, _scaled(d.component_distribution, factor))
    if isinstance(d, dist.LeftTruncatedDistribution):
        return dist.LeftTruncatedDistribution(_scaled(d.base_dist, factor), low=d.low * factor)
    if isinstance(d, dist.RightTruncatedDistribution):
        return dist.RightTruncatedDistribution(_scaled(d.base_dist, factor), high=d.high * factor)
    if isinstance(d, dist.TwoSidedTruncatedDistribution):
        return dist.TwoSidedTruncatedDistribution(
            _scaled(d.base_dist, factor), low=d.low * factor, high=d.high * factor
        )
    if type(d) is dist.LogNormal:
        return dist.LogNormal(d.loc + jnp.log(factor), d.scale)
    if type(d) not in _POWERS:
        raise NotImplementedError
    powers = _POWERS[type(d)]
    names = ('loc', 'scale_tril') if isinstance(d, dist.MultivariateNormal) else tuple(d.arg_constraints)
    return type(d)(**{name: getattr(d, name) * factor ** powers.get(name, 0) for name in names})


def _spelled(unit: u.Unit) -> str:
    """A unit as Python code, if it has a name."""
    return f'u.{unit}' if str(unit).isidentifier() and hasattr(u, str(unit)) else 'unit'


def warn_of_unchecked(unit: u.Unit, own: bool) -> None:
    """Warn that the unit of the targets cannot be checked."""
    spelled = _spelled(unit)
    plain = f'or give the targets as plain numbers, targets / {spelled}, if these are what it takes'
    if own:
        text = (
            f'log_likelihood= takes the magnitudes of the targets, in {unit}; whether it means this unit cannot be '
            'checked. Pass likelihood= with a distribution that says its unit (infer.with_unit), '
        )
    else:
        text = (
            f'The targets are in {unit}, but the model predicts plain numbers: whether these are in {unit} cannot be '
            'checked. Return infer.of_quantities(dist.Normal, mean, sigma) of quantities, or say the unit of '
            f'magnitudes, infer.with_unit(dist.Normal(mean / {spelled}, sigma / {spelled}), {spelled}); '
        )
    warnings.warn(text + plain + '.', UncheckedUnitWarning, stacklevel=users_line())


# Quantities as parameters of NumPyro distributions


def refuse_quantities(d: dist.Distribution) -> None:
    """Refuse a NumPyro distribution built from quantities.

    Raises
    ------
    TypeError
        With the code that states the unit.
    """
    for leaf in jax.tree.leaves(d, is_leaf=lambda x: isinstance(x, u.Quantity)):
        if isinstance(leaf, u.Quantity):
            raise TypeError(_no_quantities(type(d).__name__, leaf))


@contextlib.contextmanager
def quantities_explained() -> Iterator[None]:
    """Replace errors of NumPyro about quantities."""
    try:
        yield
    except Exception as error:
        cause = _quantity_in_numpyro(error)
        if cause is None:
            raise
        raise TypeError(_no_quantities(*cause)) from error


# Errors of brainunit, and of this module, about a plain number beside a quantity.
_UNIT_ERROR = re.compile(r'\b1 != |!= 1\b|plain numbers')


@contextlib.contextmanager
def magnitudes_explained(unit: InUnit | None) -> Iterator[None]:
    """Explain unit errors in ``log_likelihood=``, which gets the magnitudes of targets with a unit.

    Raises
    ------
    brainunit.UnitMismatchError
        In place of the one that was raised, which is its cause.
    """
    try:
        yield
    except u.UnitMismatchError as error:
        if unit is None or not _UNIT_ERROR.search(str(error)):
            raise
        spelled = _spelled(unit.unit)
        raise u.UnitMismatchError(
            f'log_likelihood= gets the targets as plain numbers, their magnitudes in {unit.unit}, and computes with '
            f'quantities beside them. Write targets * {spelled} in it where quantities are meant, and mean / {spelled} '
            f'where plain numbers are. A density is a plain number: it takes ((targets * {spelled} - mean) / sigma) '
            f'whose unit is none, or infer.of_quantities(dist.Normal, mean, sigma).log_prob(targets * {spelled}).'
        ) from error


def _no_quantities(name: str, quantity: Any) -> str:
    unit = quantity.unit
    return (
        f"dist.{name} got a Quantity in {unit_name(unit)}; NumPyro's distributions are of plain numbers. Write "
        f'infer.of_quantities(dist.{name}, ...), which keeps the unit, or divide by it and say it: '
        f'infer.with_unit(dist.{name}(... / {_spelled(unit)}), {_spelled(unit)}).'
    )


def _quantity_in_numpyro(error: BaseException) -> tuple[str, Any] | None:
    """The distribution that an error comes from and a Quantity among its arguments, or None."""
    place = error.__traceback__
    while place is not None:
        frame = place.tb_frame
        if frame.f_globals.get('__name__', '').startswith('numpyro.distributions'):
            values = frame.f_locals
            owner = values.get('cls', values.get('self'))
            name = getattr(owner, '__name__', frame.f_code.co_name if owner is None else type(owner).__name__)
            arguments = [*values.get('args', ()), *dict(values.get('kwargs', {})).values(), *values.values()]
            for x in arguments:
                if isinstance(x, u.Quantity):
                    return name, x
        place = place.tb_next
    return None
