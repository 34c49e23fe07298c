"""A NumPyro model as a Module: its continuous latent sites are Params, by their names and with their priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.initialization import init_to_median

from brainstate_prob import random
from brainstate_prob.core import LongTermState
from brainstate_prob.core.program import depends_on
from brainstate_prob.core.structure import structural_key
from brainstate_prob.infer.density.statements import scored_statements
from brainstate_prob.nn.bijections import transform_for
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param
from brainstate_prob.nn.priors import Regularization

__all__ = ['NumPyroModel']


# What JAX raises where a program depends on the values of its arguments.
_LOOKS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class _Program:
    """A NumPyro model with the arguments that are no arrays; equal for models that are written alike.

    ``start`` has a possible value of every latent site, which stands for those that are not given.
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict[str, Any]):
        leaves, self.tree = jax.tree.flatten((args, kwargs))
        self.function = function
        self.is_array = tuple(hasattr(x, 'dtype') and hasattr(x, 'shape') for x in leaves)
        self.others = tuple(None if array else x for array, x in zip(self.is_array, leaves, strict=True))
        self.start: dict[str, np.ndarray] = {}

    def arrays(self, args: tuple, kwargs: dict[str, Any]) -> list[jax.Array]:
        leaves = jax.tree.leaves((args, kwargs))
        return [jnp.asarray(x) for array, x in zip(self.is_array, leaves, strict=True) if array]

    def run(self, arrays: Any, values: Mapping[str, Any] | None) -> dict[str, Any]:
        """The sites of one run, the latent ones at these values; at a typical point without any."""
        given = iter(arrays)
        leaves = [next(given) if array else x for array, x in zip(self.is_array, self.others, strict=True)]
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        if values is None:
            at: Any = handlers.substitute(substitute_fn=init_to_median)
        else:
            at = handlers.substitute(data=jax.tree.map(jnp.asarray, {**self.start, **values}))
        with scored_statements(), handlers.trace() as trace, at, handlers.seed(rng_seed=0):
            self.function(*args, **kwargs)
        return trace

    def _identity(self) -> tuple:
        return structural_key(self.function), self.tree, structural_key(self.others)

    def __eq__(self, other):
        return isinstance(other, _Program) and self._identity() == other._identity()

    def __hash__(self):
        return hash(self.is_array)


class SitePrior(Regularization):
    """The distribution of a site that other sites or the model's arguments go into."""

    _references: ClassVar[frozenset[str]] = frozenset({'parents', 'inputs'})

    def __init__(self, program: _Program, site: dict[str, Any], parents: dict[str, Param], inputs: tuple):
        super().__init__()
        self.program, self.site = program, site['name']
        self.parents, self.inputs = parents, inputs
        self.event_dim = site['fn'].event_dim
        self._support = site['fn'].support

    def _present(self) -> dict[str, Any]:
        values = {name: param.value() for name, param in self.parents.items()}
        return self.program.run([state.value for state in self.inputs], values)[self.site]

    def log_prob(self, value):
        return _log_prob(self._present(), value)

    def loss(self, value):
        return -jnp.sum(self.log_prob(value))

    @property
    def distribution(self):
        return self._present()['fn']

    @property
    def support(self):
        return self._support

    def sample_init(self, shape, key=None):
        return self.distribution.sample(random.split_key() if key is None else key)

    def reset_value(self, shape=None):
        return jnp.asarray(self.program.start[self.site])

    def __repr__(self) -> str:
        given = ', '.join(self.parents) or 'the arguments'
        return f'SitePrior({type(_innermost(self.distribution)).__name__}, given {given})'


class NumPyroModel(Module):
    """A NumPyro model, with the arrays among its arguments as States.

    Attributes
    ----------
    observed
        The names of the observed sites.
    factors
        Those of the factors.
    targets
        The values of the observed site, where there is one and no factor.
    """

    _not_in_graph: ClassVar[frozenset[str]] = Module._not_in_graph | {'targets'}

    def __init__(self, function: Callable, args: tuple, kwargs: dict[str, Any]):
        super().__init__()
        self._function = function
        self._program = program = _Program(function, args, kwargs)
        arrays = program.arrays(args, kwargs)
        self._inputs = tuple(LongTermState(x) for x in arrays)
        trace = program.run(arrays, None)
        sites = {name: site for name, site in trace.items() if site['type'] == 'sample'}
        for site in trace.values():
            _check(site)
        latent = {name: site for name, site in sites.items() if not site['is_observed']}
        if not latent:
            raise ValueError('The NumPyro model has no latent site (numpyro.sample without obs=), so nothing to fit.')
        self.factors = tuple(name for name, s in sites.items() if isinstance(s['fn'], dist.Unit))
        self.observed = tuple(n for n, s in sites.items() if s['is_observed'] and n not in self.factors)
        program.start = {name: np.asarray(s['fn'].support.feasible_like(s['value'])) for name, s in latent.items()}
        self._plain = len(self.observed) == 1 and not self.factors and sites[self.observed[0]]['scale'] is None
        self.targets = sites[self.observed[0]]['value'] if self._plain else None
        used = self._dependencies(latent, arrays)
        self._names = {name: f'{name}_' if hasattr(self, name) else name for name in latent}
        params: dict[str, Param] = {}
        for name, site in latent.items():
            reg: Any = site['fn']
            if isinstance(_innermost(reg), dist.ImproperUniform):
                reg = None
            elif used[name] or site['scale'] is not None:
                parents = {other: params[other] for other in latent if other in used[name]}
                reg = SitePrior(program, site, parents, self._inputs)
            params[name] = Param(site['value'], t=transform_for(site['fn'].support), reg=reg, dims=_dims(site, latent))
            setattr(self, self._names[name], params[name])

        self._given = self._taken_as_inputs(arrays)

    def _dependencies(self, latent: Mapping[str, Any], arrays: list[jax.Array]) -> dict[str, set[str]]:
        """The other sites that each one's density depends on; with '' where it depends on the arguments."""
        names = list(latent)

        def densities(values: list[jax.Array], arrays: list[jax.Array]) -> list[jax.Array]:
            sites = self._program.run(arrays, dict(zip(names, values, strict=True)))
            return [jnp.sum(_log_prob(sites[name], sites[name]['value'])) for name in names]

        try:
            program = jax.make_jaxpr(densities)([latent[name]['value'] for name in names], arrays)
        except _LOOKS as error:
            raise TypeError(
                'The NumPyro model looks at the values of its array arguments (len(np.unique(group)), max(index) + 1), '
                'which a compiled program does not know. Compute such numbers before, and pass Python ints.'
            ) from error
        arguments = [*names, *('' for _ in arrays)]
        return {name: {arguments[i] for i in depends_on(program, [k])} - {name} for k, name in enumerate(names)}

    def _taken_as_inputs(self, arrays: list[jax.Array]) -> tuple[int, ...]:
        """The numbers of the array arguments that the predictions need: all, or all but the observed one itself."""
        everything = tuple(range(len(arrays)))
        rest = tuple(i for i in everything if arrays[i] is not self.targets)
        if self.targets is None or rest == everything:
            return everything
        try:
            shape = self._distribution([x if i in rest else None for i, x in enumerate(arrays)]).shape()
        except Exception:  # whatever the model says to None
            return everything
        return rest if shape == jnp.shape(self.targets) else everything

    def values(self) -> dict[str, jax.Array]:
        """The present value of every latent site."""
        return {name: getattr(self, attribute).value() for name, attribute in self._names.items()}

    def _distribution(self, arrays: Any) -> dist.Distribution:
        return self._program.run(arrays, self.values())[self.observed[0]]['fn']

    @property
    def inputs(self) -> tuple[jax.Array, ...]:
        """The array arguments that predictions depend on, in the order of the model's arguments."""
        return tuple(self._inputs[i].value for i in self._given)

    def predicted(self, *inputs: jax.Array) -> dist.Distribution:
        """The distribution of the observed site, where there is one and no factor."""
        given = dict(zip(self._given, inputs, strict=True))
        return self._distribution([given.get(i) for i in range(len(self._inputs))])

    def log_likelihood(self) -> jax.Array:
        """The log density of each observation, site after site; with factors their sum."""
        sites = self._sites()
        terms = [jnp.ravel(_log_prob(sites[n], sites[n]['value'])) for n in (*self.observed, *self.factors)]
        if not terms:
            return jnp.zeros(())
        flat = jnp.concatenate(terms)
        return jnp.sum(flat) if self.factors else flat

    def deterministic(self) -> dict[str, jax.Array]:
        """The deterministic sites at the present values: ``fit.evaluate(lambda m: m.deterministic()['x'])``."""
        return {name: site['value'] for name, site in self._sites().items() if site['type'] == 'deterministic'}

    def _sites(self) -> dict[str, Any]:
        return self._program.run([state.value for state in self._inputs], self.values())


def _log_prob(site: dict[str, Any], value: Any) -> jax.Array:
    log_prob = site['fn'].log_prob(value)
    return log_prob if site['scale'] is None else site['scale'] * log_prob


def _innermost(fn: Any) -> Any:
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def _check(site: dict[str, Any]) -> None:
    """Refuse the statements of a NumPyro model that no Posterior has.

    Raises
    ------
    ValueError
        Naming the site and the fix.
    """
    name, kind = site['name'], site['type']
    if kind == 'param':
        raise ValueError(
            f'The site {name!r} is a numpyro.param, an optimized number. Give it a prior by numpyro.sample.'
        )
    if kind == 'plate' and site['args'][1] not in (None, site['args'][0]):
        raise ValueError(
            f'The plate {name!r} takes a random part of the data (subsample_size={site["args"][1]}). Leave it out, and '
            'give batch_size= to the way to fit.'
        )
    if kind == 'sample' and not site['is_observed'] and site['fn'].support.is_discrete:
        raise ValueError(
            f'The latent site {name!r} is discrete ({type(site["fn"]).__name__}), and a Posterior is of real numbers. '
            'Sum it out: a mixture as dist.MixtureSameFamily or numpyro.factor of its log-sum-exp; or fit the model by '
            "NumPyro's own MCMC, which enumerates it."
        )


def _dims(site: dict[str, Any], latent: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the plates that a site is in, one an axis; None without any."""
    plates = {frame.dim: frame.name for frame in site['cond_indep_stack'] if frame.name not in latent}
    batch, event = len(site['fn'].batch_shape), len(site['fn'].event_shape)
    if not plates:
        return None
    name = site['name']
    axes = [plates.get(i - batch, f'{name}_dim_{i}') for i in range(batch)]
    return (*axes, *(f'{name}_dim_{batch + i}' for i in range(event)))
