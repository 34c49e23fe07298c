"""The transform onto the support of a distribution."""

from math import pi

from numpyro.distributions import constraints

from brainstate_prob.nn.bijections.base import Transform
from brainstate_prob.nn.bijections.compose import ChainT
from brainstate_prob.nn.bijections.interval import SigmoidT
from brainstate_prob.nn.bijections.linear import IdentityT
from brainstate_prob.nn.bijections.numpyro_compat import ParamSupport
from brainstate_prob.nn.bijections.positive import ExpT, NegSoftplusT, PositiveT, SoftplusT
from brainstate_prob.nn.bijections.vector import OrderedT, SimplexT, UnitVectorT

__all__ = ['transform_for']


def _interval(constraint):
    return SigmoidT(constraint.lower_bound, constraint.upper_bound)


# For each constraint its name and its transform. NumPyro hides the classes of some singletons.
_TABLE = {
    'real': (constraints.real, lambda c: IdentityT()),
    'positive': (constraints.positive, lambda c: PositiveT()),
    'nonnegative': (constraints.nonnegative, lambda c: PositiveT()),
    'softplus_positive': (constraints.softplus_positive, lambda c: SoftplusT()),
    'greater_than': (constraints.greater_than, lambda c: ExpT(c.lower_bound)),
    'greater_than_eq': (constraints.greater_than_eq, lambda c: ExpT(c.lower_bound)),
    'less_than': (constraints.less_than, lambda c: NegSoftplusT(c.upper_bound)),
    'less_than_eq': (constraints.less_than_eq, lambda c: NegSoftplusT(c.upper_bound)),
    'unit_interval': (constraints.unit_interval, lambda c: SigmoidT()),
    'interval': (constraints.interval, _interval),
    'open_interval': (constraints.open_interval, _interval),
    'circular': (constraints.circular, lambda c: SigmoidT(-pi, pi)),
    'simplex': (constraints.simplex, lambda c: SimplexT()),
    'ordered_vector': (constraints.ordered_vector, lambda c: OrderedT()),
    'positive_ordered_vector': (constraints.positive_ordered_vector, lambda c: ChainT(OrderedT(), PositiveT())),
    'sphere': (constraints.sphere, lambda c: UnitVectorT()),
    'real_vector': (constraints.real_vector, lambda c: IdentityT()),
    'real_matrix': (constraints.real_matrix, lambda c: IdentityT()),
    'independent': (constraints.independent, lambda c: transform_for(c.base_constraint)),
    'the support of a transform': (ParamSupport, lambda c: c.transform),
}
_MAKERS = {(key if isinstance(key, type) else type(key)): make for key, make in _TABLE.values()}


def transform_for(constraint) -> Transform:
    """Return the transform onto a NumPyro constraint, such as `distribution.support`.

    Raises
    ------
    NotImplementedError
        For constraints without a transform: discrete ones, matrices, and those that depend on parameters.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> transform_for(dist.Gamma(2.0, 1.0).support)
    PositiveT()
    >>> transform_for(dist.Uniform(-1.0, 3.0).support)
    SigmoidT(lower=-1.0, upper=3.0)
    """
    make = _MAKERS.get(type(constraint))
    if make is None:
        depends = type(constraint) is type(constraints.dependent)  # which has no is_discrete
        discrete = not depends and getattr(constraint, 'is_discrete', False)
        raise NotImplementedError(
            f'No transform reaches the support {constraint!r}, which {"is discrete" if discrete else "has none here"}. '
            f'There is one for: {", ".join(_TABLE)}. Give t= yourself for another support.'
        )
    return make(constraint)
