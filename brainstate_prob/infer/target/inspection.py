"""Inspection of a model before it is fitted: the States it reads and creates, and the parameters it depends on.

A posterior traces its log density once. The trace shows every State that is read and every parameter on which a term
depends, and the traced program is the key of the cache of compiled programs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from brainstate_prob import environ
from brainstate_prob.core import ParamState, State, StateTrace
from brainstate_prob.core.calls import caller_of_named, users_line
from brainstate_prob.core.program import ProgramKey, depends_on, has_own_rules, has_while_loop, program_key
from brainstate_prob.core.structure import Identity
from brainstate_prob.graph.walk import dotted
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.code import present_code, watching
from brainstate_prob.infer.density.log_density import (
    ChangedDensity,
    Density,
    forget_density,
    kept_density,
)
from brainstate_prob.infer.density.statements import refused_handlers, refused_statements
from brainstate_prob.infer.target.forgotten import no_data_message, no_priors_message
from brainstate_prob.infer.target.gradients import stepped_messages
from brainstate_prob.infer.target.pairs import squared_messages, sums_all_pairs
from brainstate_prob.infer.target.reach import place_of
from brainstate_prob.infer.words import check_call, plain_words
from brainstate_prob.nn.module import Module

__all__ = [
    'Inspection',
    'ModelWarning',
    'inspected',
    'issue_model_warnings',
    'no_leaks',
    'refuse_changes',
    'unused_messages',
]


class Inspection(NamedTuple):
    """What one trace of a log density shows.

    Attributes
    ----------
    program : tuple of ProgramKey
        The key of the traced program: equal for densities that compute the same.
    unused : tuple of str
        The parameters that no term of the log density depends on, their own prior left out.
    frozen : tuple of (str, str)
        Pairs (parameter, other): the prior of the one was built with the number that the other, fitted too, had.
    without_gradient : tuple of str
        The parameters on which the likelihood depends by steps alone (comparisons, rounding): their gradient is zero.
    sums_pairs : bool
        Whether the log-likelihood sums over all pairs of a target and a prediction.
    has_loop : bool
        Whether there is a loop whose number of steps is not fixed.
    """

    program: tuple[ProgramKey, ...]
    unused: tuple[str, ...]
    frozen: tuple[tuple[str, str], ...]
    without_gradient: tuple[str, ...] = ()
    sums_pairs: bool = False
    has_loop: bool = False


def inspected(density: Density, model: Module, data: Data) -> tuple[Density, Inspection]:
    """The cached density equivalent to ``density``, whose compiled programs are reused, and its inspection.

    Models of one structure whose traces are equal have one density, so that a second fit compiles nothing.

    Parameters
    ----------
    model
        The user's object, where States are looked for that are read but not fitted.

    Raises
    ------
    ValueError
        For a trainable State that is read but is no parameter of the model, or is created by the call; for statements
        of NumPyro in the model.
    TypeError
        For inputs that the model does not take, and for a model whose control flow depends on traced values.
    """
    traces: list[_Seen] = []
    _check_call(density, data)
    data = _shapes_of(data)  # the program does not depend on the devices of the arrays
    code = (model, density.likelihood, density.own_log_likelihood)
    words = plain_words(model, *(e.name for e in density.entries))
    with _explained_if_swapped(density, data), words, watching(*code):
        program = jax.make_jaxpr(_terms(density, traces.append))(*_arguments(density), data)
    seen = traces[0]
    _refuse_unfitted(density, model, seen.trace)
    unused, without_gradient = _without_gradient(density, program, seen, data)
    sums_pairs = density.own_log_likelihood is not None and sums_all_pairs(program, data)
    key = _key_of(program, density, data)
    inspection = Inspection(key, unused, _frozen(model, unused), without_gradient, sums_pairs, has_while_loop(program))
    # A function that reads the user's own object, not the copy, can be shared with no other object.
    originals = {ref() for ref in density._originals.values()}
    own = Identity(model) if any(state in originals for state in seen.trace.reads) else None
    return kept_density(density, present_code(*code), (inspection.program, own)), inspection


@contextlib.contextmanager
def _explained_if_swapped(density: Density, data: Data) -> Iterator[None]:
    """Add a hint to an error of the trace if inputs and targets were swapped."""
    try:
        yield
    except Exception as error:
        if type(error) not in (TypeError, ValueError) or len(data.args) != 1 or data.kwargs or data.unit is not None:
            raise
        if data.targets is None or not _fits(density, data._replace(args=(data.targets,), targets=data.args[0])):
            raise
        raise type(error)(
            f'{error} Inputs come first, infer.Posterior(model, inputs, targets): the other way round these fit.'
        ) from error


def _fits(density: Density, data: Data) -> bool:
    """Whether the log density of these data can be traced."""
    try:
        jax.make_jaxpr(_terms(density, lambda _: None))(*_arguments(density), data)
    except Exception:  # any error of the user's model
        return False
    return True


def _check_call(density: Density, data: Data) -> None:
    """Check that the signature of the model, or of the likelihood, accepts the inputs."""
    model: Any = density.model
    if density.own_log_likelihood is not None:
        args = data.args if data.targets is None else (*data.args, data.targets)
        check_call(density.own_log_likelihood, (model, *args), data.kwargs, 'log_likelihood')
    elif data.targets is not None and density.likelihood is not None:
        check_call(density.likelihood, (model, *data.args), data.kwargs, 'likelihood')
    elif data.targets is not None:
        own = type(model).__call__ is not Module.__call__
        check_call(model if own else model.update, data.args, data.kwargs)


def refuse_changes(density: Density, data: Data, inspection: Inspection) -> None:
    """Make the density raise before it compiles a program that differs from the inspected one.

    The objects that a model reads may change after its posterior was made, but all programs must compute one density.
    """
    if density.verify is None:
        shapes = _shapes_of(data)  # the data themselves are not kept
        density.verify = _verifier(density, shapes, inspection.program)
        density.origin = unpickled_density, (density.model, density.likelihood, density.own_log_likelihood, shapes)


def unpickled_density(model: Module, likelihood: Any, log_likelihood: Any, shapes: Any) -> Density:
    """A density restored by pickle, or the equivalent one in this process's cache."""
    density, inspection = inspected(Density(model, likelihood, log_likelihood, expand=False), model, shapes)
    refuse_changes(density, shapes, inspection)
    return density


def _verifier(density: Density, shapes: Any, program: tuple[ProgramKey, ...]) -> Callable[[], None]:
    """A function that raises if the density no longer traces to ``program``."""
    settings = environ.static_key(), _double()

    def verify() -> None:
        if (environ.static_key(), _double()) != settings:
            return
        now = jax.make_jaxpr(_terms(density, lambda _: None))(*_arguments(density), shapes)
        if [key.digest for key in _key_of(now, density, shapes)] != [key.digest for key in program]:
            forget_density(density)
            raise ChangedDensity(
                'The log density has changed since this Posterior was made: what the model or its likelihood reads (a '
                'global, an attribute, a method, an array) is different now. Make a new Posterior. An existing fit '
                'keeps its draws: undo the change, or predict with the changed model by '
                'fit.with_posterior(posterior). If it changes at each call, the model draws from a generator of '
                'Python or NumPy: use brainstate_prob.random.'
            )

    return verify


def _shapes_of(data: Data) -> Data:
    """The data with arrays replaced by shapes and dtypes."""

    def shape_of(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), weak_type=getattr(x, 'weak_type', False))

    return jax.tree.map(shape_of, data)


def _double() -> bool:
    return jnp.result_type(float) == jnp.float64


class _Seen(NamedTuple):
    """The trace of a log density, and the States that its priors read (hyper-parameters)."""

    trace: StateTrace
    by_priors: frozenset[State]


def _terms(density: Density, note: Callable[[_Seen], None]) -> Callable:
    """The traced function: ``(pieces, theta, data)`` to the likelihood and the terms of each block.

    The likelihood gets the parameters as separate arguments (pairs of theta and constrained value by name), so that the
    traced program shows on which of them it depends; transforms and priors get ``theta``. Each call returns a new
    function, since JAX caches traces by function.
    """

    def inspected_terms(pieces: dict[str, tuple], theta: jax.Array, data: Data) -> tuple:
        with refused_statements(), refused_handlers(), density.open_at(pieces, data) as model:
            likelihood = model.log_probs(data)
            with StateTrace() as of_priors:
                blocks = _by_block(density, theta)
            note(_Seen(model.trace, frozenset(of_priors.reads)))
        return likelihood, blocks

    return inspected_terms


def _by_block(density: Density, theta: jax.Array) -> list[tuple]:
    """The constrained value, the log-determinant and the log prior of each block."""
    terms = []
    for block, part in zip(density.blocks, lax.split(theta, [b.size for b in density.blocks]), strict=True):
        value = block.forward(part)
        log_det = block.log_det(part, value) if block.t.has_density else None
        terms.append((value, log_det, block.log_prior(part, value)))
    return terms


def _key_of(program: Any, density: Density, data: Any) -> tuple[ProgramKey, ...]:
    """The key of a traced program, with that of its gradient where there are custom derivative rules."""
    if not has_own_rules(program):
        return (program_key(program),)
    terms = _terms(density, lambda _: None)

    def derivative(pieces: dict[str, tuple], theta: jax.Array, data: Any) -> Any:
        out, pull = jax.vjp(lambda pieces, theta: terms(pieces, theta, data), pieces, theta)
        return pull(jax.tree.map(jnp.ones_like, out))

    return program_key(program), program_key(jax.make_jaxpr(derivative)(*_arguments(density), data))


def _arguments(density: Density) -> tuple[dict[str, tuple], Any]:
    pieces = {
        e.name: (jax.ShapeDtypeStruct(e.shape, e.dtype), jax.ShapeDtypeStruct(e.value_shape, e.dtype))
        for e in density.entries
    }
    return pieces, jax.ShapeDtypeStruct((density.size,), density.dtype)


def _without_gradient(
    density: Density, program: Any, seen: _Seen, data: Data
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parameters that are unused (except by their own prior), and those whose gradient is always zero."""
    if data.targets is None and density.own_log_likelihood is None:
        return (), ()  # the model has priors only
    used, differentiable = depends_on(program, [0]), depends_on(program, [0], by_gradient=True)
    places = {name: {2 * i, 2 * i + 1} for i, name in enumerate(sorted(e.name for e in density.entries))}  # as in JAX
    no_gradient = [
        e.name for e in density.entries if e.state not in seen.by_priors and differentiable.isdisjoint(places[e.name])
    ]
    return (
        tuple(name for name in no_gradient if used.isdisjoint(places[name])),
        tuple(name for name in no_gradient if not used.isdisjoint(places[name])),
    )


def _frozen(model: Module, unused: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pairs (parameter, other) whose prior keeps the array that the other's ``value()`` returned."""
    params = [(dotted(path), param) for path, param in model.named_param_modules()]
    values = {id(p.kept_value): name for name, p in params if p.fit and p.kept_value is not None}
    return tuple(
        (name, values[id(number)])
        for name, p in params
        for number in getattr(p.reg, 'given', ())
        if p.fit and id(number) in values and values[id(number)] not in (name, *unused)
    )


def _refuse_unfitted(density: Density, model: Module, trace: StateTrace) -> None:
    """Refuse trainable States that are read but not part of the model, and writes to parameters.

    Raises
    ------
    ValueError
        Saying where the State is read from, and how to attach it.
    """
    created = [state for state in trace.created if isinstance(state, ParamState)]
    if created:
        raise ValueError(
            f'Calling the model creates {len(created)} new trainable parameter{"s" * (len(created) > 1)} at each '
            'call, which cannot be fitted. Create layers and Params in __init__, as attributes.'
        )
    entries: dict[Any, str] = {e.state: e.name for e in density.entries}
    entries |= {density._originals[state](): name for state, name in entries.items()}
    for state in trace.writes:
        if state in entries:
            raise ValueError(
                f'Calling the model writes to its parameter {entries[state]!r}: what is written is dropped after each '
                'evaluation, and would not be fitted. Compute with its value (p.value()) and keep the result in a '
                'variable, or write to an nn.LongTermState that is not a parameter.'
            )
    for state in trace.outside:
        if isinstance(state, ParamState):
            where = place_of(
                state, {'the model': model, 'the likelihood': density.own_log_likelihood or density.likelihood}
            )
            raise ValueError(
                f'The log density reads a trainable parameter that is not part of the model: {where}. It would stay a '
                f'constant in every fit. Make it an attribute of the model, of an nn.Module in it, or of a list, dict '
                f'or dataclass in it (self.name = param); or use nn.Const in place of nn.Param to keep it constant.'
            )


class ModelWarning(UserWarning):
    """A probable mistake in a model or its data that changes the fitted posterior."""


def unused_messages(posterior: Any) -> list[str]:
    """Messages about the parameters that no term of the log density depends on."""
    return [
        f'No term of the log density depends on Param {name!r} except its own prior, if it has one, so the fit '
        'returns that prior. If it is a hyper-parameter of another prior, pass the Param instead of its value, as in '
        f'nn.GaussianReg(mean=0.0, std=self.{name}): a NumPyro distribution of self.{name}.value() keeps the number '
        'that it had when the model was built. A value that was cached before (cached_property, jax.jit) is '
        'a number too. Else use it in the model, or make it nn.Const.'
        for name in posterior.inspection.unused
    ] + [
        f'The prior of Param {name!r} was built with the number that Param {other!r} had, and keeps it while {other!r} '
        f'is fitted. Pass the Param instead of its value, as in nn.GaussianReg(mean=0.0, std=self.{other}); if a '
        f'number is meant, write it, or float(self.{other}.value()).'
        for name, other in posterior.inspection.frozen
    ]


def _check_precision(density: Density) -> str | None:
    """A message if the model's precision differs from that of JAX now; None otherwise.

    Raises
    ------
    ValueError
        For a model of double precision in single: JAX would take half of its digits.
    """
    if density.dtype == jnp.float64 and not _double():
        raise ValueError(
            'The posterior is in double precision, and JAX is in single precision now. Fit it where it was made: '
            'inside jax.enable_x64(True).'
        )
    if density.dtype != jnp.float32 or not _double():
        return None
    return (
        'The parameters of the model are float32, and JAX is in double precision now: the model was built before '
        'jax.enable_x64(True), so the fit is in single precision. Build the model, the data and the Posterior inside '
        'it.'
    )


def issue_model_warnings(posterior: Any, *, accepts_improper: bool, in_batches: bool, by_gradient: bool) -> None:
    """Issue the warnings of the inspection, at the user's line that calls a way to fit.

    Parameters
    ----------
    accepts_improper
        Whether the way to fit does not notice that a posterior is improper.
    in_batches
        Whether the way to fit takes its own data.
    by_gradient
        Whether the way to fit uses gradients only.

    Raises
    ------
    ValueError
        For a posterior of double precision where JAX is in single.
    """
    precision = _check_precision(posterior.density)
    no_data = None if in_batches else no_data_message(posterior)
    no_priors = no_priors_message(posterior) if accepts_improper and no_data is None else None
    texts = unused_messages(posterior) + squared_messages(posterior)
    texts += stepped_messages(posterior) if by_gradient else []
    texts += [text for text in (precision, no_data, no_priors) if text is not None]
    # A fit that starts with another one (MAP before NUTS) warns once.
    if not caller_of_named().startswith('brainstate_prob.'):
        for text in texts:
            warnings.warn(text, ModelWarning, stacklevel=users_line())


@contextlib.contextmanager
def no_leaks() -> Iterator[None]:
    """Explain JAX's error about leaked tracers: the model uses a value of an earlier call.

    Raises
    ------
    TypeError
        In place of JAX's error, which is its cause.
    """
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise TypeError(
            'The model uses a value that it has kept from an earlier call: by functools.cached_property or lru_cache, '
            'by an attribute that the call sets, or by jax.jit or jax.checkpoint of a function that reads its '
            'parameters. Compute it in each call; in place of the transformations of JAX use those of '
            'brainstate_prob.transform (transform.jit, transform.checkpoint), which know parameters.'
        ) from error
