"""jit: compile a function that uses States; a call costs as much as one of ``jax.jit``."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core import State, TraceError, current_trace
from brainstate_prob.core.functionalize import Discovery, Pure
from brainstate_prob.core.state import holds_tracer
from brainstate_prob.transform.base import check_callable, decorator, jit_is_disabled

__all__ = ['JitFunction', 'jit']


def jit(
    fun: Callable | None = None,
    *,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Iterable[str] | None = None,
    keep_unused: bool = False,
    inline: bool = False,
) -> Any:
    """Compile a function; States that it reads are inputs, States that it writes or creates are outputs.

    Parameters
    ----------
    fun
        The function or method; left out, a decorator comes back. The ``self`` of a method is static.
    static_argnums, static_argnames
        Arguments that are Python values known at compile time; they must be hashable.
    donate_argnums, donate_argnames
        Arguments whose memory may be used for the results.
    keep_unused, inline
        As in ``jax.jit``.

    Returns
    -------
    JitFunction
        With ``clear_cache()``, ``lower(*args)`` and ``num_traces``, the number of runs of ``fun`` itself.

    Notes
    -----
    The first call traces ``fun`` once to find the States that it uses and once more to compile; a function without
    States is traced once. Settings of `brainstate_prob.environ` are static: other settings compile anew.
    A Python number, or ``jnp.array(0.)``, has a weak type for JAX; a State that starts with one and then gets a
    result of strong type has two signatures, so start it with ``jnp.zeros(())``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import State, transform
    >>> total = State(jnp.zeros(2))
    >>> @transform.jit
    ... def add(x):
    ...     total.value = total.value + x
    ...     return total.value.sum()
    >>> float(add(1.0)), float(add(1.0)), total.value.tolist()
    (2.0, 4.0, [2.0, 2.0])
    """
    make = functools.partial(
        JitFunction,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        donate_argnums=donate_argnums,
        donate_argnames=donate_argnames,
        keep_unused=keep_unused,
        inline=inline,
    )
    return decorator(make, fun)


class _Arguments:
    """The static and donated arguments, by position and by name, as in ``jax.jit``."""

    def __init__(
        self, fun: Callable, static_argnums=None, static_argnames=None, donate_argnums=None, donate_argnames=None
    ):
        try:
            parameters = list(inspect.signature(fun).parameters.values())
        except (TypeError, ValueError):  # some builtins have no signature
            parameters = []
        kinds = inspect.Parameter
        self._names = [p.name for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        self._open = any(p.kind == kinds.VAR_POSITIONAL for p in parameters) or not parameters
        self.static = self._resolve('static', static_argnums, static_argnames)
        self.donated = self._resolve('donate', donate_argnums, donate_argnames)
        if both := {*self.static[0], *self.static[1]} & {*self.donated[0], *self.donated[1]}:
            raise ValueError(f'An argument cannot be both static and donated: {sorted(map(str, both))}.')

    def _resolve(self, what: str, nums, names) -> tuple[tuple[int, ...], tuple[str, ...]]:
        nums = () if nums is None else (nums,) if isinstance(nums, int | np.integer) else tuple(nums)
        names = () if names is None else (names,) if isinstance(names, str) else tuple(names)
        positions, count = set(), len(self._names)
        for num in nums:
            if not self._open and not -count <= num < count:
                raise ValueError(
                    f'{what}_argnums={num} is out of range: the function takes {count} positional arguments.'
                )
            positions.add(int(num) + count if num < 0 else int(num))
        return (
            tuple(sorted(positions | {self._names.index(n) for n in names if n in self._names})),
            tuple(dict.fromkeys((*names, *(self._names[p] for p in sorted(positions) if p < count)))),
        )

    def split(self, args: tuple, kwargs: dict) -> tuple[tuple, tuple, dict]:
        """The static arguments as a key, and the other arguments."""
        positions, names = self.static
        positional = tuple((p, args[p]) for p in positions if p < len(args))
        named = tuple((n, kwargs[n]) for n in names if n in kwargs)
        where: Any
        for where, value in (*positional, *named):
            try:
                hash(value)
            except TypeError as error:
                label = f'{where} ({self._names[where]!r})' if where in range(len(self._names)) else repr(where)
                raise TypeError(
                    f'The static argument {label} must be hashable; got {type(value).__name__} {value!r}.'
                ) from error
        taken = {p for p, _ in positional}
        key = tuple((where, type(value), value) for where, value in (*positional, *named))
        dynamic = tuple(a for p, a in enumerate(args) if p not in taken)
        return key, dynamic, {n: v for n, v in kwargs.items() if n not in names}

    def with_static(self, fun: Callable, key: tuple) -> Callable:
        """``fun`` as a function of its dynamic arguments."""
        if not key:
            return fun
        positional = [(where, value) for where, _, value in key if isinstance(where, int)]
        named = {where: value for where, _, value in key if isinstance(where, str)}

        def call(*args, **kwargs):
            full = list(args)
            for position, value in positional:
                full.insert(position, value)
            return fun(*full, **kwargs, **named)

        return call

    def donation(self, key: tuple) -> dict[str, Any]:
        """The donation options for ``jax.jit``; the first argument holds the values of the States."""
        taken = [where for where, _, _ in key if isinstance(where, int)]
        return {
            'donate_argnums': tuple(1 + p - sum(t < p for t in taken) for p in self.donated[0]),
            'donate_argnames': tuple(n for n in self.donated[1] if n not in self._names),
        }


class _Plan:
    """The compiled program for one set of static arguments and settings, with its input and output States."""

    def __init__(self, key: tuple, pure: Pure, compiled: Any, creates: bool, discovery: Discovery | None = None):
        self.key = key
        self.pure = pure
        self.compiled = compiled
        self.inputs = pure.inputs
        self.states = pure.states
        self.outside = pure.outside  # filled if a trace reads States that are not inputs
        self.creates = creates  # whether every call creates States
        self.discovery = discovery
        self.ready = False

    def check_values(self) -> None:
        """Raise for a State without value, by name."""
        for state in self.inputs:
            _ = state.value


class JitFunction:
    """A compiled function; see `jit`."""

    def __init__(
        self,
        fun: Callable,
        *,
        signature_of: Callable | None = None,
        keep_unused: bool = False,
        inline: bool = False,
        **arguments,
    ):
        check_callable(fun, 'jit')
        functools.update_wrapper(self, fun, updated=())
        self.fun = fun
        self._options = dict(keep_unused=keep_unused, inline=inline, **arguments)
        self._jax_options = {'keep_unused': keep_unused, 'inline': inline}
        self._arguments = _Arguments(signature_of or fun, **arguments)
        self._has_static = any(self._arguments.static)
        self._bound: dict[int, tuple[Callable[[], Any], JitFunction]] = {}
        self._array: type | None = None
        self.clear_cache()

    def clear_cache(self) -> None:
        """Clear the cache of compiled code."""
        self._plans: dict[Any, _Plan] = {}
        self._known: dict[Any, tuple[tuple[State, ...], bool]] = {}  # the States found in an outer discovery
        self._runs = 0
        for _, bound in list(self._bound.values()):
            bound.clear_cache()

    @property
    def num_traces(self) -> int:
        """The number of runs of the function itself, to find its States or to compile it."""
        return self._runs

    def __call__(self, *args, **kwargs):
        if environ.has_traced():  # compiled code would capture the tracer
            return self.fun(*args, **kwargs)
        static: tuple = ()
        if self._has_static:
            static, args, kwargs = self._arguments.split(args, kwargs)
        plan = self._plans.get((static, environ.static_key()))
        if plan is None or not plan.ready or current_trace() is not None:
            return self._call((static, environ.static_key()), args, kwargs)
        # The hot path of a training loop.
        try:
            out, written, created = plan.compiled([state._value for state in plan.inputs], *args, **kwargs)
        except TypeError:
            plan.check_values()
            raise
        if created or plan.outside:
            self._finish(plan, written, created)
            return out
        for value in written.values():
            if type(value) is not self._array:
                if set(map(type, jax.tree.leaves(written))) <= {self._array}:
                    break
                # Keys, or tracers of a transform of JAX, which raise: these first, so that nothing is written.
                plan.pure.commit({n: v for n, v in written.items() if holds_tracer(v)} | written, {})
                return out
        states = plan.states
        for number, value in written.items():
            states[number]._value = value
        return out

    def _call(self, key: tuple, args: tuple, kwargs: dict) -> Any:
        """A call that may trace first, or that is part of a trace."""
        if jit_is_disabled():
            return self._function(key)(*args, **kwargs)
        trace = current_trace()
        plan = self._plans.get(key)
        if plan is None:
            if trace is not None and trace.discovering and key not in self._known:
                return self._run_in_discovery(key, args, kwargs)
            plan = self._make_plan(key, args, kwargs)
        while True:
            try:
                values = [state.value for state in plan.inputs]
                out, written, created = plan.compiled(values, *args, **kwargs)
                break
            except TraceError:
                late = () if plan.discovery is None else plan.discovery.init_created()
                if not late:
                    raise
                plan = self._compile(key, (*plan.inputs, *late), creates=True)
        plan.discovery = None
        plan.ready = True
        self._array = _array_type()
        self._finish(plan, written, created)
        return out

    def _finish(self, plan: _Plan, written: dict, created: dict) -> None:
        incomplete = plan.outside or (created and not plan.creates)
        if incomplete and self._plans.get(plan.key) is plan:
            # A trace under other shapes read further States or created some: the next call compiles anew. The results
            # of this call are right, since the missing values went in as constants.
            del self._plans[plan.key]
            self._known[plan.key] = (*plan.inputs, *plan.outside), plan.creates or bool(created)
        plan.pure.commit(written, created)

    def _function(self, key: tuple) -> Callable:
        fun = self._arguments.with_static(self.fun, key[0])

        def counted(*args, **kwargs):
            self._runs += 1
            return fun(*args, **kwargs)

        return functools.update_wrapper(counted, self.fun, updated=())

    def _run_in_discovery(self, key: tuple, args: tuple, kwargs: dict) -> Any:
        """Run inside the discovery of an outer transform, and store the States for compiling."""
        pure = Pure(self._function(key))
        out, written, created = pure((), *args, **kwargs)
        self._known[key] = tuple(pure.outside), bool(created)
        pure.commit(written, created)
        return out

    def _make_plan(self, key: tuple, args: tuple, kwargs: dict) -> _Plan:
        if key in self._known:
            return self._compile(key, *self._known.pop(key))
        discovery = Discovery(self._function(key), *args, **kwargs)
        special = any(self._arguments.donated) or any(self._jax_options.values())
        if not (discovery.pure.outside or discovery.created or discovery.pure.unstaged or special):
            discovery.pure.discover = False  # nothing but arguments: the existing trace is enough
            plan = self._plans[key] = _Plan(key, discovery.pure, discovery.compiled, creates=False)
            return plan
        return self._compile(key, tuple(discovery.pure.outside), bool(discovery.created), discovery)

    def _compile(
        self, key: tuple, inputs: tuple[State, ...], creates: bool, discovery: Discovery | None = None
    ) -> _Plan:
        pure = Pure(self._function(key), inputs, discover=False)

        def named(values, /, *args, **kwargs):
            return pure(values, *args, **kwargs)

        named.__name__ = getattr(self.fun, '__name__', 'fun')  # shown in profiles and logs
        options: dict[str, Any] = self._jax_options | self._arguments.donation(key[0])
        compiled = jax.jit(named, **options)
        plan = self._plans[key] = _Plan(key, pure, compiled, creates, discovery)
        return plan

    def lower(self, *args, **kwargs):
        """The result of ``jax.jit(...).lower``, to inspect the compiled program or its cost."""
        static: tuple = ()
        if self._has_static:
            static, args, kwargs = self._arguments.split(args, kwargs)
        key = static, environ.static_key()
        plan = self._plans.get(key) or self._make_plan(key, args, kwargs)
        return plan.compiled.lower([state.value for state in plan.pure.inputs], *args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or not hasattr(self.fun, '__get__'):
            return self
        known = self._bound.get(id(instance))
        if known is None or known[0]() is not instance:
            known = self._bind(instance, owner)
        return _BoundJit(known[1], instance)

    def _bind(self, instance: Any, owner: type | None) -> tuple[Callable[[], Any], JitFunction]:
        """Compiled code for one instance, freed with the instance."""
        key, method = id(instance), self.fun
        try:
            ref: Callable[[], Any] = weakref.ref(instance, lambda _: self._bound.pop(key, None))
        except TypeError:
            ref = lambda: instance  # without weak references the code lives as long as the class

        def call(*args, **kwargs):
            return method.__get__(ref(), owner)(*args, **kwargs)

        functools.update_wrapper(call, self.fun, updated=())
        known = self._bound[key] = (
            ref,
            JitFunction(call, signature_of=method.__get__(instance, owner), **self._options),
        )
        return known

    def __deepcopy__(self, memo):
        return JitFunction(copy.deepcopy(self.fun, memo), **self._options)

    def __reduce__(self):
        attribute = sys.modules.get(self.fun.__module__)
        for name in getattr(self.fun, '__qualname__', '').split('.'):
            attribute = getattr(attribute, name, None)
        return self.fun.__qualname__ if attribute is self else (_rebuild, (self.fun, self._options))

    def __repr__(self) -> str:
        return f'<jit of {getattr(self.fun, "__qualname__", self.fun)!r}>'


class _BoundJit:
    # A compiled method with a reference to its instance.

    __slots__ = ('__self__', '_function')

    def __init__(self, function: JitFunction, instance: Any):
        self._function = function
        self.__self__ = instance

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    __doc__ = property(lambda self: self._function.__doc__)

    @property
    def __name__(self) -> str:
        return self._function.__name__  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._function, name)

    def __reduce__(self):
        return getattr, (self.__self__, self.__name__)

    def __repr__(self) -> str:
        return f'<bound {self._function!r}>'


def _rebuild(fun: Callable, options: dict) -> JitFunction:
    return JitFunction(fun, **options)


@functools.cache
def _array_type() -> type:
    """The type of concrete arrays; evaluated late, since it starts a backend."""
    with jax.ensure_compile_time_eval():
        return type(jax.numpy.zeros(()))
