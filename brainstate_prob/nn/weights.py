"""The trainable arrays of a layer: one State, or Params if transforms, priors or dims are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp

from brainstate_prob.core import ParamState, State
from brainstate_prob.core.calls import synonyms
from brainstate_prob.core.quantities import split_unit, with_unit
from brainstate_prob.nn import init
from brainstate_prob.nn.bijections import IdentityT, Transform
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param
from brainstate_prob.nn.priors import as_regularization

__all__ = ['ParamSpec', 'Weights', 'weights']


class ParamSpec:
    """A `Param` without shape, given to a layer in place of an initializer.

    Parameters
    ----------
    initializer
        The initial value in constrained space: an initializer of ``nn.init``, a number, an array or a Quantity.
        Default: a draw from the prior.
    t, reg, precompute, fit, dims, prior_on
        As for `Param`, aliases included.

    Raises
    ------
    ValueError
        Without an initializer and without a prior.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> from brainstate_prob import nn
    >>> layer = nn.Linear(3, 2, w_init=nn.ParamSpec(reg=dist.Normal(0.0, 0.5), dims=('feature', 'unit')))
    >>> list(layer.states())
    [('weight', 'bias', 'val'), ('weight', 'weight', 'val')]
    """

    @synonyms(transform='t', prior='reg')
    def __init__(
        self,
        initializer: Any = None,
        *,
        t: Transform | None = IdentityT(),  # noqa: B008  (a value object without state)
        reg: Any = None,
        precompute: Callable | None = None,
        fit: bool = True,
        dims: Sequence[str] | str | None = None,
        prior_on: Literal['value', 'unconstrained'] = 'value',
    ):
        self.initializer = initializer
        self.reg = as_regularization(reg)
        self.t = t
        self.options: dict[str, Any] = {'precompute': precompute, 'fit': fit, 'dims': dims, 'prior_on': prior_on}

    def make(self, shape: tuple[int, ...]) -> Param:
        """The Param, of this shape."""
        if self.initializer is not None:
            return self.of(_full(self.initializer, shape))
        if self.reg is None:
            raise ValueError(f'A ParamSpec for an array of shape {shape} needs an initializer or a prior (reg=).')
        return self.of(self.reg.sample_init(shape))

    def of(self, value: Any) -> Param:
        """A Param of this value."""
        return Param(value, t=self.t, reg=self.reg, **self.options)

    def __repr__(self) -> str:
        given = {'initializer': self.initializer, 't': self.t, 'reg': self.reg, **self.options}
        defaults = {'fit': True, 'prior_on': 'value', 't': IdentityT()}
        shown = (f'{k}={v!r}' for k, v in given.items() if v is not None and v != defaults.get(k))
        return f'ParamSpec({", ".join(shown)})'


class Weights(Module):
    """Params in place of a layer's State; ``.value`` has the structure of the State's value.

    Parameters
    ----------
    params
        A dict of Params by entry, or one Param for a State that holds one array.
    """

    def __init__(self, params: dict[str, Param] | Param):
        super().__init__()
        if isinstance(params, Param):
            self.param = params
        for name, param in params.items() if isinstance(params, dict) else ():
            setattr(self, name, param)

    def _params(self) -> dict[str, Param]:
        return {name: x for name, x in vars(self).items() if isinstance(x, Param)}

    @property
    def value(self) -> Any:
        """The constrained values."""
        params = self._params()
        return params['param'].value() if list(params) == ['param'] else {k: p.value() for k, p in params.items()}

    @value.setter
    def value(self, value: Any) -> None:
        params = self._params()
        for name, x in ({'param': value} if list(params) == ['param'] else value).items():
            params[name].set_value(x)


def weights(
    layer: Module,
    param_type: type[State] = ParamState,
    *,
    keep_scalars: bool = False,
    **entries: tuple[Any, tuple[int, ...]],
) -> State | Weights:
    """Create the trainable arrays of a layer; ``.value`` of the result is a dict of them.

    Parameters
    ----------
    layer
        Named in errors.
    param_type
        The State that holds the dict if no entry is a Param.
    keep_scalars
        Whether a number stays one shared weight; otherwise numbers and arrays are broadcast to the shape.
    **entries
        ``name=(specification, shape)``. The specification is None (no such entry), an initializer, a number,
        an array, a Quantity, a `ParamSpec`, or a `Param`, which may be shared with other layers.

    Raises
    ------
    ValueError
        For a Param of another shape.
    """
    made = {name: _entry(layer, name, *entry, keep_scalars) for name, entry in entries.items() if entry[0] is not None}
    if not any(isinstance(x, Param) for x in made.values()):
        return param_type(made)
    trained = issubclass(param_type, ParamState)
    return Weights({k: x if isinstance(x, Param) else Param(x, fit=trained) for k, x in made.items()})


def _entry(layer: Module, name: str, spec: Any, shape: tuple[int, ...], keep_scalars: bool) -> Any:
    shape = tuple(shape)
    if isinstance(spec, ParamSpec):
        initializer = spec.initializer
        scalar = keep_scalars and initializer is not None and not callable(initializer) and jnp.ndim(initializer) == 0
        return spec.make(() if scalar else shape)
    if not isinstance(spec, Param):
        return _full(spec, shape, keep_scalars)
    if spec.shape != shape and not (keep_scalars and spec.shape == ()):
        raise ValueError(
            f'{layer.name or type(layer).__name__}: the Param given for {name!r} has shape {spec.shape}, the layer '
            f'needs {shape}.'
        )
    return spec


def _full(spec: Any, shape: tuple[int, ...], keep_scalars: bool = False) -> Any:
    """The array of an initializer, number or array, broadcast to the shape."""
    value = init.param(spec, shape, allow_none=False)
    magnitude, unit = split_unit(value, 'a weight')
    return with_unit(magnitude if keep_scalars and not magnitude.shape else jnp.broadcast_to(magnitude, shape), unit)
