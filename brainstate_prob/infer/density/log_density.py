"""The log density of a model over one flat vector: prior + likelihood + log-determinant, pure and jit-able.

Everything that fits adds these terms up here and nowhere else. A `Density` belongs to a model structure, not to a
model: data, and the values of States that are not fitted, are arguments, so that a second fit compiles nothing.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from brainstate_prob import environ, graph
from brainstate_prob.core import BatchState, ParamState, State, StateTrace
from brainstate_prob.core.quantities import split_unit, with_unit
from brainstate_prob.core.structure import Cache, structural_key
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import dotted, find_states, walk
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.support import outside_of
from brainstate_prob.infer.density.blocks import Block, Entry, is_horseshoe, make_blocks
from brainstate_prob.infer.density.code import present_code, watched
from brainstate_prob.infer.density.opened import ModelAt
from brainstate_prob.nn.memo import serve_values
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param

__all__ = ['ChangedDensity', 'Density', 'density_of', 'find_entries']


class ChangedDensity(ValueError):
    """The log density is another one than when its posterior was made."""


def find_entries(model: Module) -> list[Entry]:
    """The trainable parameters of a model in the order of their paths, hyper-parameters of priors included.

    Raises
    ------
    TypeError
        For a trainable State that holds anything but real floating arrays.
    """
    entries: list[Entry] = []
    owned = set()
    states = []
    for path, _, x in walk(model):
        if isinstance(x, Param):
            owned.add(x.val)
            if isinstance(x.val, ParamState):
                theta = x.val.value
                entries.append(Entry(path, x.val, x, jnp.shape(theta), jnp.result_type(theta), x.unit))
        elif isinstance(x, ParamState):
            states.append((path, x))
    for path, state in states:
        if state not in owned:
            entries.extend(_plain_entries(path, state))
    return sorted(entries, key=lambda e: tuple(str(part) for part in e.path))


def _plain_entries(path: tuple, state: ParamState) -> Iterator[Entry]:
    """The arrays of a bare ParamState: unconstrained, without prior."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.value, is_leaf=_is_quantity)
    for i, (where, leaf) in enumerate(leaves):
        keys = tuple(getattr(k, 'key', getattr(k, 'idx', getattr(k, 'name', None))) for k in where)
        keys = tuple(k for k in keys if k is not None)
        magnitude, unit = split_unit(leaf, f'ParamState {dotted((*path, *keys))!r}')
        whole = len(leaves) == 1 and not where
        yield Entry((*path, *keys), state, None, magnitude.shape, magnitude.dtype, unit, None if whole else i)


class Density:
    """The log density of one model structure.

    Parameters
    ----------
    model
        Copied, so that later changes of the user's object do not reach compiled code.
    likelihood
        ``likelihood(model, *args, **kwargs)`` gives a NumPyro distribution of the targets.
    log_likelihood
        In place of it: ``log_likelihood(model, *args, **kwargs)``, with the targets last among ``args`` if there are
        any, gives the log density of each observation, or their sum.
    expand
        Whether horseshoe priors are written as scale mixtures, as samplers and guides need.
    noncentered
        The names of hierarchical parameters that are moved in standardized form.
    source
        The density of which this is a view: ``model`` is its copy of the user's.
    """

    def __init__(
        self,
        model: Module,
        likelihood: Callable | None,
        log_likelihood: Callable | None,
        expand: bool,
        noncentered: tuple[str, ...] = (),
        source: Density | None = None,
    ):
        self.structure, values = graph.flatten(model)
        self.model = graph.unflatten(self.structure, values)
        # Functions that the copy does not reach (a likelihood that reads an outer model) see the original's States:
        # these have the values of the copy's wherever the density is evaluated.
        copies = find_states(self.model)
        given = find_states(model)
        self._originals: dict[State, weakref.ref[State]] = {
            copies[path]: weakref.ref(state) if source is None else source._originals[state]
            for path, state in given.items()
        }
        self.param_shapes = _shapes_of(values)
        self.likelihood = likelihood
        self.own_log_likelihood = log_likelihood
        self.entries = find_entries(self.model)
        self.blocks: list[Block] = make_blocks(self.entries, expand, noncentered)
        self.expand, self.noncentered = expand, noncentered
        self.size = sum(block.size for block in self.blocks)
        self.dtype = jnp.result_type(*(e.dtype for e in self.entries)) if self.entries else jnp.result_type(float)
        fitted = {e.state for e in self.entries}
        others = {path: state for path, state in copies.items() if state not in fitted}
        self._others, self.other_paths = list(others.values()), tuple(others)
        # Running statistics: descents carry them from step to step; everything else sees them as they are.
        self.carried = tuple(i for i, state in enumerate(self._others) if isinstance(state, BatchState))
        self.programs = Cache()
        self._last_code: Hashable = None  # under which programs were built
        # Called before a new program is compiled: raises where the model computes something else by now.
        self.verify: Callable[[], None] | None = None if source is None else source.verify
        # The function, and its arguments, that make it again in another process.
        self.origin: tuple[Callable, tuple] | None = None
        if source is not None:
            self.origin = Density.variant, (source, expand, noncentered)

    def __reduce__(self) -> tuple:
        # The compiled functions stay here; the process that reads it has, or makes, a density of the same structure.
        if self.origin is None:
            return Density, (self.model, self.likelihood, self.own_log_likelihood, self.expand, self.noncentered)
        return self.origin

    # Coordinates

    # A scale mixture reads hyper-parameters. Those that are not fitted come from ``states``, that is ``data.states``.

    def flatten(self, thetas: dict[str, Any], states: tuple = ()) -> jax.Array:
        """The flat vector of the entries' own theta, by name."""
        with StateTrace() as trace:
            self._bind_others(trace, states)
            for entry in self.entries:
                if entry.param is not None:
                    self._bind_state(trace, entry.state, jnp.asarray(thetas[entry.name], entry.dtype))
            parts = [part for block in self.blocks for part in block.start([thetas[e.name] for e in block.entries])]
        return jnp.concatenate([jnp.asarray(part, self.dtype) for part in parts])

    def constrain(self, theta: jax.Array, states: tuple = ()) -> dict[str, jax.Array]:
        """The constrained magnitudes by name, in the order of the model's paths."""
        with StateTrace() as trace:
            self._bind_others(trace, states)
            pieces = self._bind(trace, theta)[0]
        return {e.name: pieces[e.name][1].astype(e.dtype) for e in self.entries}

    def thetas(self, theta: jax.Array, states: tuple = ()) -> dict[str, jax.Array]:
        """The entries' own theta by name (what their States hold)."""
        with StateTrace() as trace:
            self._bind_others(trace, states)
            pieces = self._bind(trace, theta)[0]
        return {e.name: pieces[e.name][0].astype(e.dtype) for e in self.entries}

    # Evaluation

    def _bind_state(self, trace: StateTrace, state: State, value: Any) -> None:
        trace.bind(state, value)
        original = self._originals[state]()
        if original is not None:
            trace.bind(original, value)

    def _bind_others(self, trace: StateTrace, states: tuple) -> None:
        for state, value in zip(self._others, states, strict=bool(states)):
            self._bind_state(trace, state, value)

    def _bind(self, trace: StateTrace, theta: jax.Array) -> tuple[dict[str, tuple], list[tuple]]:
        """Give the States the values that ``theta`` stands for.

        Returns by name (theta, constrained magnitude), and by block (block, theta, value).
        """
        pieces: dict[str, tuple] = {}
        computed = []
        for block, segment in zip(self.blocks, lax.split(theta, [b.size for b in self.blocks]), strict=True):
            value = block.forward(segment)  # a scale mixture reads hyper-parameters, which earlier blocks have bound
            computed.append((block, segment, value))
            for entry, piece in zip(block.entries, block.pieces(segment, value), strict=True):
                pieces[entry.name] = piece
                if entry.param is not None:
                    self._bind_state(trace, entry.state, piece[0])
        self._bind_plain(trace, {name: piece[0] for name, piece in pieces.items()})
        return pieces, computed

    def _bind_plain(self, trace: StateTrace, thetas: dict[str, Any]) -> None:
        for state, value in plain_values(self.entries, thetas).items():
            self._bind_state(trace, state, value)

    @contextlib.contextmanager
    def open(self, theta: jax.Array, data: Data) -> Iterator[ModelAt]:
        """The model with the values that ``theta`` and ``data`` give; what it writes is dropped afterwards."""
        with self._traced(data) as trace:
            pieces, computed = self._bind(trace, theta)
            with self._serving(pieces):
                yield self._model_at(trace, computed)

    @contextlib.contextmanager
    def open_at(self, pieces: dict[str, tuple[Any, Any]], data: Data) -> Iterator[ModelAt]:
        """As `open`, with pairs (theta, constrained magnitude) by name in place of the flat vector."""
        with self._traced(data) as trace:
            for entry in self.entries:
                if entry.param is not None:
                    self._bind_state(trace, entry.state, pieces[entry.name][0])
            self._bind_plain(trace, {name: piece[0] for name, piece in pieces.items()})
            with self._serving(pieces):
                yield self._model_at(trace)

    def _model_at(self, trace: StateTrace, computed: Sequence[tuple] = ()) -> ModelAt:
        return ModelAt(self.model, self.likelihood, self.own_log_likelihood, self.dtype, trace, computed)

    def _serving(self, pieces: dict[str, tuple[Any, Any]]) -> contextlib.AbstractContextManager:
        return serve_values({e.param: pieces[e.name] for e in self.entries if e.param is not None})

    @contextlib.contextmanager
    def _traced(self, data: Data) -> Iterator[StateTrace]:
        with contextlib.ExitStack() as settings, StateTrace() as trace:
            if environ.get('fit', None) is None:
                settings.enter_context(environ.context(fit=False))  # layers compute what they do in use
            self._bind_others(trace, data.states)
            yield trace

    def terms(self, theta: jax.Array, data: Data, jacobian: bool = True) -> dict[str, Any]:
        """``{'prior': {name: ...}, 'log_det': {name: ...}, 'likelihood': ...}``, whose sum is the log density.

        Without ``jacobian`` the log-determinants are left out.
        """
        return {
            'prior': self.log_priors(theta, data.states),
            'log_det': self.log_dets(theta, data.states) if jacobian else {},
            'likelihood': self.log_likelihood(theta, data),
        }

    def log_priors(self, theta: jax.Array, states: tuple) -> dict[str, jax.Array]:
        """By name, the log density of each parameter's value under its prior; 0 without one."""
        return self._by_entry(theta, states, lambda block, *at: block.log_prior(*at))

    def log_dets(self, theta: jax.Array, states: tuple) -> dict[str, jax.Array]:
        """By name, the log-determinant of each parameter's transform."""
        return self._by_entry(theta, states, lambda block, *at: block.log_det(*at))

    def _by_entry(self, theta: jax.Array, states: tuple, term: Callable) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        with self.open(theta, Data((), {}, None, states)) as model:
            for block, segment, value in model.computed:
                parts = block.split_terms(term(block, segment, value))
                found.update(zip((e.name for e in block.entries), parts, strict=True))
        return {e.name: found[e.name] for e in self.entries}

    def log_prior(self, theta: jax.Array, states: tuple) -> jax.Array:
        """The log density of the constrained values under their priors."""
        return sum(self.log_priors(theta, states).values(), jnp.zeros((), self.dtype))

    def log_det(self, theta: jax.Array, states: tuple) -> jax.Array:
        """The log-determinant of the map from theta to the constrained values."""
        return sum(self.log_dets(theta, states).values(), jnp.zeros((), self.dtype))

    def log_prior_of_theta(self, theta: jax.Array, states: tuple) -> jax.Array:
        """Log prior and log-determinant together: the log density of theta where there are no data."""
        with self.open(theta, Data((), {}, None, states)) as model:
            return sum(block.log_joint(segment, value) for block, segment, value in model.computed)

    def log_likelihood(self, theta: jax.Array, data: Data) -> jax.Array:
        """The log-likelihood of all observations, times ``data.scale``."""
        with self.open(theta, data) as model:
            return model.log_likelihood(data)

    def log_likelihood_and_density(self, theta: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
        """`log_likelihood` and `log_density` in one evaluation, in the precision of ``theta``."""
        with self.open(theta.astype(self.dtype), data) as model:
            likelihood = model.log_likelihood(data).astype(theta.dtype)
            prior = sum(block.log_joint(segment, value) for block, segment, value in model.computed)
            return likelihood, likelihood + prior.astype(theta.dtype)

    def value_and_grad(self, theta: jax.Array, data: Data, jacobian: bool = True) -> tuple[jax.Array, jax.Array]:
        """`log_density` and its gradient by theta."""
        return jax.value_and_grad(self.log_density)(theta, data, jacobian)

    def log_density(self, theta: jax.Array, data: Data, jacobian: bool = True) -> jax.Array:
        """The log density at ``theta``; without ``jacobian`` that of the constrained value, as in classical MAP."""
        return self.training_log_density(theta, data, jacobian)[0]

    def training_log_density(self, theta: jax.Array, data: Data, jacobian: bool = True) -> tuple[jax.Array, tuple]:
        """`log_density`, and the running statistics as the model's layers left them."""
        with self.open(theta, data) as model:
            total = model.log_likelihood(data).astype(self.dtype)
            for block, segment, value in model.computed:
                if jacobian:
                    total = total + block.log_joint(segment, value)
                elif (prior := block.log_prior(segment, value)) is not None:
                    total = total + jnp.sum(prior)
            return total, tuple(model.trace.value_of(self._others[i]) for i in self.carried)

    def with_carried(self, data: Data, values: tuple) -> Data:
        """``data`` with these running statistics."""
        states = list(data.states)
        for i, value in zip(self.carried, values, strict=True):
            states[i] = value
        return data._replace(states=tuple(states))

    def pointwise(self, theta: jax.Array, data: Data) -> jax.Array:
        """The log-likelihood of each observation."""
        with self.open(theta, data) as model:
            return model.log_probs(data)

    def predict(self, theta: jax.Array, data: Data, key: jax.Array) -> jax.Array:
        """One draw of the targets at ``data``'s inputs."""
        with self.open(theta, data) as model:
            return model.distribution_of_each(data).sample(key)

    def predict_mean(self, theta: jax.Array, data: Data) -> jax.Array:
        """The mean of the targets at ``data``'s inputs."""
        with self.open(theta, data) as model:
            return model.distribution_of_each(data).mean

    def evaluate(self, function: Callable, theta: jax.Array, data: Data, args: tuple) -> Any:
        """``function(model, *args)`` of the model with the values of ``theta``."""
        with self.open(theta, data), self.model.opened() as model:
            return function(model, *args)

    def num_outside(self, theta: jax.Array, data: Data) -> jax.Array:
        """How many targets lie outside the support of what the model predicts; shapes and types are checked."""
        with self.open(theta, data) as model:
            model.log_probs(data)
            if self.own_log_likelihood is not None or data.targets is None:
                return jnp.zeros((), int)
            return jnp.sum(outside_of(model.distribution(data), data.targets))

    def compiled(self, function: Callable, /, *, in_axes: tuple | None = None, **settings: Any) -> Callable:
        """``function(density, *args, **settings)`` as a compiled function of ``args``, compiled once.

        It is kept under the function itself and the structure of the settings, so that no two programs are confused.

        Parameters
        ----------
        function
            A method of `Density`, or a function of a module: what it depends on beside its arguments are settings.
        in_axes
            As for `jax.vmap`, to map it over rows of ``args``.
        """
        if function.__closure__:
            raise TypeError(f'{function.__qualname__} closes over values that its key would not have.')

        def build() -> Callable:
            run = functools.partial(function, self, **settings)
            return run if in_axes is None else jax.vmap(run, in_axes)

        return self.jit(function, (in_axes, settings), build)

    def jit(self, owner: Callable, key: Any, build: Callable[[], Callable], **options: Any) -> Callable:
        """What ``build()`` gives, compiled once for ``owner`` and the structure of ``key``; options of `jax.jit`.

        For programs that are built as closures, see `compiled`: ``owner`` is the function or class that builds them.
        """

        def program() -> Callable:
            if self.verify is not None:
                self.verify()
            return jax.jit(watched(build(), *self._code()), **options)

        return self.kept((owner, structural_key(key)), program)

    def kept(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What is kept under ``key``, the present settings, and what the model's code reads now; built once for them.

        What code reads beside its arguments may change after a program was compiled: a config object, a global. Where
        the log density is another then, what was built before stays, and nothing new is built.
        """
        code = present_code(*self._code())
        try:
            found = self.programs.get((key, environ.static_key(), code), build)
        except ChangedDensity:
            before = (key, environ.static_key(), self._last_code)
            if before not in self.programs:
                raise
            return self.programs.get(before, build)
        self._last_code = code
        return found

    def _code(self) -> tuple[Module, Callable | None, Callable | None]:
        return self.model, self.likelihood, self.own_log_likelihood

    def variant(self, expand: bool, noncentered: tuple[str, ...]) -> Density:
        """The same log density in other coordinates: see the parameters of `Density`."""

        def build() -> Density:
            return Density(self.model, self.likelihood, self.own_log_likelihood, expand, noncentered, self)

        return self.programs.get((Density.variant, expand, noncentered, environ.static_key()), build)


def plain_values(entries: list[Entry], thetas: dict[str, Any]) -> dict[Any, Any]:
    """By bare ParamState, its value with the entries' arrays in their places and units."""
    values: dict[Any, Any] = {}
    leaves: dict[Any, dict[int, Any]] = {}
    for entry in entries:
        if entry.param is not None:
            continue
        if entry.leaf is None:
            values[entry.state] = with_unit(thetas[entry.name], entry.unit)
        else:
            leaves.setdefault(entry.state, {})[entry.leaf] = with_unit(thetas[entry.name], entry.unit)
    for state, by_index in leaves.items():
        tree = jax.tree.structure(state._stored(), is_leaf=_is_quantity)
        values[state] = jax.tree.unflatten(tree, [by_index[i] for i in range(len(by_index))])
    return values


def _is_quantity(x: Any) -> bool:
    return isinstance(x, u.Quantity)


_densities = Cache(size=64)


def density_of(
    model: Module,
    likelihood: Callable | None,
    log_likelihood: Callable | None,
    *,
    expand: bool,
    noncentered: tuple[str, ...] = (),
) -> Density:
    """The `Density` for the structure of ``model``; the same object for every model built alike."""
    structure, values = graph.flatten(model)
    functions = present_code(model, likelihood, log_likelihood)
    key = (structure, _shapes_of(values), functions, environ.static_key(), expand, noncentered)
    return _densities.get(key, lambda: Density(model, likelihood, log_likelihood, expand, noncentered))


def kept_density(density: Density, code: Hashable, program: Hashable) -> Density:
    """The density that is kept for its structure, ``code`` and the traced ``program``; this one, if none is yet.

    Two models of one structure that compute the same have one density, whose compiled programs serve both.
    """
    key = (density.structure, density.param_shapes, code, environ.static_key(), program)
    return _densities.get(key, lambda: density)


def forget_density(density: Density) -> None:
    """Keep a density no longer."""
    _densities.drop(density)


def _shapes_of(values: Mapping[tuple, Any]) -> Hashable:
    """The shapes and dtypes of the trainable States by path."""
    return structural_key(
        tuple(
            (
                path,
                jax.tree.structure(state.value),
                [(jnp.shape(x), str(jnp.result_type(x))) for x in jax.tree.leaves(state.value)],
            )
            for path, state in values.items()
            if issubclass(state.type, ParamState)
        )
    )


def others_of(model: Module) -> tuple:
    """The values of the States that are not fitted, in the order that `Density` expects them."""
    fitted = {e.state for e in find_entries(model)}
    return tuple(state.value for state in find_states(model).values() if state not in fitted)


def scores_horseshoe(entries: list[Entry]) -> bool:
    return any(is_horseshoe(e) for e in entries)
