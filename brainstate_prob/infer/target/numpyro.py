"""Any Module as an ordinary NumPyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from brainstate_prob import graph
from brainstate_prob.core import StateTrace
from brainstate_prob.core.calls import named
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.quantities import InUnit
from brainstate_prob.infer.data.support import Bounded, bounds_of
from brainstate_prob.infer.density.blocks import Entry, HorseshoeBlock, is_horseshoe
from brainstate_prob.infer.density.log_density import Density, density_of, find_entries, others_of, plain_values
from brainstate_prob.infer.density.observed import expanded_to
from brainstate_prob.infer.density.opened import ModelAt
from brainstate_prob.infer.density.refusals import refuse_for_sampling, refuse_narrow_priors
from brainstate_prob.infer.words import what_is_no_model
from brainstate_prob.nn.adoption import adopted
from brainstate_prob.nn.bijections.numpyro_compat import ParamSupport
from brainstate_prob.nn.memo import serve_values
from brainstate_prob.nn.module import Module
from brainstate_prob.random import RandomState

__all__ = ['ParamSite', 'sample_module', 'sites_model', 'to_numpyro']


class ParamSite(dist.Distribution):
    """The distribution of a parameter's constrained magnitude: its prior, or the flat density where it has none.

    Its support is that of the Param's transform, so that NumPyro's unconstrained value of the site is ``Param.val``.
    For a prior on theta the density is that of the value it implies.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (as NumPyro declares it)
    pytree_data_fields = ('bound',)
    pytree_aux_fields = ('entry', 'hypers')

    def __init__(self, entry: Entry, hypers: tuple[Entry, ...], pieces: Mapping[str, tuple]):
        self.entry = entry
        self.hypers = tuple(hypers)
        # NumPyro scores a site after the model has run, so the site keeps the hyper-parameters of its prior.
        states = {} if entry.reg is None else find_states(entry.reg)
        self.bound = (tuple(state.value for state in states.values()), tuple(pieces[h.name] for h in hypers))
        super().__init__((), entry.value_shape)

    @property
    def support(self) -> constraints.Constraint:
        """The transform's codomain, for the value as a whole."""
        base, rank = ParamSupport(self.entry.t), len(self.event_shape)
        return constraints.independent(base, rank - base.event_dim) if rank > base.event_dim else base

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """The weighted log density of the prior; 0 if there is none."""
        value = jnp.asarray(value)
        one = self._log_prob
        for _ in range(value.ndim - len(self.event_shape)):
            one = jax.vmap(one)
        return one(value)

    def _log_prob(self, value: jax.Array) -> jax.Array:
        entry = self.entry
        if entry.reg is None:
            return jnp.zeros((), value.dtype)
        with StateTrace() as trace, self._bind(trace):
            if entry.on_theta:
                theta = entry.t._inv(value)
                return -entry.reg.loss(theta) - jnp.sum(entry.t._ld(theta))
            return -entry.reg.loss(value if entry.unit.is_unitless else u.Quantity(value, unit=entry.unit))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw from the prior.

        Raises
        ------
        NotImplementedError
            Without a proper prior; NumPyro's initialization strategies then take a uniform start instead.
        """
        entry = self.entry
        if entry.reg is None or not entry.reg.proper:
            what = 'no prior' if entry.reg is None else f'the prior {entry.reg!r}, which cannot be normalized'
            raise NotImplementedError(
                f'{entry.name!r} has {what}, so there is nothing to draw it from. Give it a proper one '
                '(nn.Param(..., reg=...)), or its value (numpyro.handlers.substitute or condition).'
            )

        def draw(key: jax.Array) -> jax.Array:
            assert entry.param is not None  # only Params have priors
            with StateTrace() as trace, self._bind(trace):
                return jnp.asarray(u.get_magnitude(entry.param.sample_prior(key)), entry.dtype)

        if not sample_shape:
            return draw(key)
        keys = jax.random.split(key, int(np.prod(sample_shape)))
        return jax.vmap(draw)(keys).reshape(*sample_shape, *self.event_shape)

    def _bind(self, trace: StateTrace) -> Any:
        values, pieces = self.bound
        states = {} if self.entry.reg is None else find_states(self.entry.reg)
        for state, value in zip(states.values(), values, strict=True):
            trace.bind(state, value)
        return serve_values({h.param: p for h, p in zip(self.hypers, pieces, strict=True) if h.param is not None})


@named
def to_numpyro(
    model: Module,
    likelihood: Callable | None = None,
    *,
    log_likelihood: Callable | None = None,
    num_observations: int | None = None,
) -> Callable:
    """The model as a NumPyro model ``f(*inputs, targets=None)``.

    Every parameter is a site named by its dotted path, hyper-parameters of priors included; the site of the data is
    called ``targets``. A site holds the constrained magnitude in the Param's unit, and NumPyro's unconstrained value of
    it is ``Param.val``. A horseshoe prior is written as its scale mixture: sites ``<path>.z`` and
    ``<path>.local_scale``, and ``<path>`` as a deterministic one.

    Parameters
    ----------
    model
        Values of what is not fitted are read at each call.
    likelihood, log_likelihood
        As for `Posterior`.
    num_observations
        The number of all observations, where calls get a part of them: their log-likelihood then counts for all.

    Raises
    ------
    ValueError
        For a parameter that samplers cannot move (`ClipT`, ...), or one named ``targets``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> f = infer.to_numpyro(Mean())
    >>> log_density, trace = numpyro.infer.util.log_density(f, (), {'targets': jnp.array([1.0, 3.0])}, {'mu': 0.0})
    >>> round(float(log_density), 4), list(trace)
    (-7.7568, ['mu', 'targets'])
    """
    if not isinstance(model, Module):
        raise TypeError(
            f'to_numpyro takes a Module, got {type(model).__name__}. Write the model as a subclass of nn.Module.'
        )
    density = density_of(model, likelihood, log_likelihood, expand=True)
    run = sites_model(density)

    def numpyro_model(*args: Any, targets: Any = None, **kwargs: Any) -> Any:
        magnitude = None if targets is None else jnp.asarray(u.get_magnitude(targets))
        data = Data(
            args,
            kwargs,
            magnitude,
            others_of(model),
            unit=InUnit(targets.unit) if isinstance(targets, u.Quantity) else None,
        )
        scale = 1.0
        if num_observations is not None and targets is not None:
            scale = num_observations / (jnp.shape(targets) or (1,))[0]
        return run(data._replace(scale=scale))

    return numpyro_model


def sample_module(name: str, module: Module) -> Module:
    """A Module inside a NumPyro model: its parameters are sites, named ``<name>/<path>``.

    As NumPyro's ``random_nnx_module``, with the priors and transforms that the Params have; one without a prior has a
    flat density. The rest of the model is the user's: other sites, plates, enumeration.

    Parameters
    ----------
    name
        In front of the paths of the sites.
    module
        A Module, or a model that `brainstate_prob.interop.wrap` takes. It stays as it is.

    Returns
    -------
    Module
        A copy that has the values of the sites in its parameters.

    Raises
    ------
    ValueError
        As `to_numpyro`.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> network = nn.with_prior(nn.Linear(2, 1), {...: dist.Normal(0.0, 1.0)})
    >>> def model(x, y=None):
    ...     net = infer.sample_module('net', network)
    ...     sigma = numpyro.sample('sigma', dist.HalfNormal(1.0))
    ...     with numpyro.plate('data', x.shape[0]):
    ...         numpyro.sample('y', dist.Normal(net(x)[:, 0], sigma), obs=y)
    >>> trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(jnp.ones((3, 2)))
    >>> list(trace)
    ['net/weight.bias', 'net/weight.weight', 'sigma', 'data', 'y']
    """
    module = adopted(module)
    if not isinstance(module, Module):
        raise TypeError(what_is_no_model(module, 'sample_module'))
    structure, values = graph.flatten(module)
    copy = graph.unflatten(structure, values)
    entries = find_entries(copy)
    _refuse_unsampled(entries)
    with numpyro.handlers.scope(prefix=name, divider='/'):
        pieces: dict[str, tuple] = {}
        for entry, hypers in _hypers_first(entries):
            pieces[entry.name] = _sample(entry, hypers, pieces)
    thetas = {key: piece[0] for key, piece in pieces.items()}
    drawn = {entry.state: thetas[entry.name] for entry in entries if entry.param is not None}
    drawn |= plain_values(entries, thetas)
    for path, state in find_states(copy).items():
        if state in drawn:
            values[path] = drawn[state]
    return graph.unflatten(structure, values)


def sites_model(density: Density) -> Callable:
    """The model of `to_numpyro` as a function of a `Data`, whose scale its log-likelihood counts.

    Raises
    ------
    ValueError
        As `to_numpyro`.
    """
    _refuse_unsampled(density.entries)
    order = _hypers_first(density.entries)
    if any(entry.name == 'targets' for entry in density.entries):
        raise ValueError("A parameter is named 'targets', which is the site of the data. Rename the attribute.")

    def model(data: Data) -> Any:
        with StateTrace() as trace:
            for state, value in zip(density._others, data.states, strict=True):
                trace.bind(state, value)
            pieces: dict[str, tuple] = {}
            for entry, hypers in order:
                pieces[entry.name] = _sample(entry, hypers, pieces)
                if entry.param is not None:
                    trace.bind(entry.state, pieces[entry.name][0])
            thetas = {name: piece[0] for name, piece in pieces.items()}
            for state, value in plain_values(density.entries, thetas).items():
                trace.bind(state, value)
            with serve_values({entry.param: pieces[entry.name] for entry, _ in order if entry.param is not None}):
                opened = ModelAt(density.model, density.likelihood, density.own_log_likelihood, density.dtype, trace)
                own = density.own_log_likelihood is not None
                scored = opened.log_probs(data) if own else opened.distribution(data)
            if any(isinstance(state, RandomState) for state in trace.uses):
                raise ValueError(
                    'The model draws random numbers when it is called (dropout, noise), which NumPyro cannot see. Call '
                    'it under environ.context(fit=False), or make the noise a parameter.'
                )
        return _observe(scored, data.targets, data.scale)

    return model


def _refuse_unsampled(entries: list[Entry]) -> None:
    """Refuse parameters that are no sites of a NumPyro model."""
    refuse_for_sampling(entries)
    refuse_narrow_priors(entries)
    for entry in entries:
        if entry.on_theta and entry.reg is not None and not entry.t.bijective:
            raise ValueError(
                f'{entry.name!r}: a prior on theta defines no density for a value of {entry.t!r}, which many thetas '
                "have. Put it on the value (prior_on='value')."
            )


def _sample(entry: Entry, hypers: tuple[Entry, ...], pieces: Mapping[str, tuple]) -> tuple[jax.Array, jax.Array]:
    """(theta, constrained magnitude) of one parameter, from its site or sites."""
    if is_horseshoe(entry):
        block, shape = HorseshoeBlock([entry]), entry.shape
        z = numpyro.sample(f'{entry.name}.z', dist.Normal(jnp.zeros(shape, entry.dtype), 1).to_event())
        local = numpyro.sample(f'{entry.name}.local_scale', dist.HalfCauchy(jnp.ones(shape, entry.dtype)).to_event())
        with serve_values({h.param: pieces[h.name] for h in hypers if h.param is not None}):
            value = block.forward(jnp.concatenate([jnp.ravel(z), jnp.log(jnp.ravel(local))]))
        value = numpyro.deterministic(entry.name, value)
        return value, value
    value = jnp.asarray(numpyro.sample(entry.name, ParamSite(entry, hypers, pieces)), entry.dtype)
    return entry.t._inv(value), value


def _observe(scored: Any, targets: jax.Array | None, scale: Any) -> Any:
    """The site of the data: a distribution of them, or their log-likelihood as a factor."""
    with numpyro.handlers.scale(scale=scale):
        if not isinstance(scored, dist.Distribution):
            return numpyro.factor('targets', jnp.sum(scored))
        if targets is not None:
            scored = expanded_to(scored, targets)
            scored = Bounded(scored) if bounds_of(scored) else scored
        return numpyro.sample('targets', scored, obs=targets)


def _hypers_first(entries: list[Entry]) -> list[tuple[Entry, tuple[Entry, ...]]]:
    """The entries in an order in which hyper-parameters come before the priors that read them."""
    by_state = {entry.state: entry for entry in entries if entry.param is not None}
    ordered: dict[str, tuple[Entry, tuple[Entry, ...]]] = {}

    def visit(entry: Entry) -> None:
        if entry.name in ordered:
            return
        below = [] if entry.reg is None else [by_state[s] for s in find_states(entry.reg).values() if s in by_state]
        for hyper in below:
            visit(hyper)
        ordered[entry.name] = (entry, tuple(below))

    for entry in entries:
        visit(entry)
    return list(ordered.values())
