"""Wrappers of layers: with settings of their own, or mapped over an axis."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from brainstate_prob import environ
from brainstate_prob.core import State, any_of
from brainstate_prob.nn.collective import call_all_fns, init_all_states
from brainstate_prob.nn.layers.shapes import label
from brainstate_prob.nn.module import Module
from brainstate_prob.transform import pmap2, vmap, vmap2, vmap2_new_states

__all__ = ['EnvironContext', 'ModuleMapper', 'Vmap']


class EnvironContext(Module):
    """Call a layer inside ``environ.context(**context)``.

    Parameters
    ----------
    layer
        The layer; its States have paths ``('layer', ...)``.
    **context
        The settings, such as ``fit=False`` or ``dt=0.1 * u.ms``. A call can add settings by ``context=``.

    Examples
    --------
    >>> from brainstate_prob import environ, nn
    >>> class Mode(nn.Module):
    ...     def update(self):
    ...         return environ.get('fit'), environ.get('dt', None)
    >>> frozen = nn.EnvironContext(Mode(), fit=False)
    >>> frozen(), frozen(context={'dt': 0.1})
    ((False, None), (False, 0.1))
    """

    def __init__(self, layer: Module, **context):
        super().__init__()
        self.layer = _module(layer, 'EnvironContext')
        self.in_size, self.out_size = layer.in_size, layer.out_size
        self.context = context

    def update(self, *args, context: dict[str, Any] | None = None, **kwargs):
        with environ.context(**{**self.context, **(context or {})}):
            return self.layer(*args, **kwargs)

    def add_context(self, **context) -> None:
        """Add or replace settings."""
        self.context = {**self.context, **context}


class Vmap(Module):
    """A module whose call is mapped over an axis.

    Parameters
    ----------
    module
        The module; its States have paths ``('module', ...)``.
    in_axes, out_axes, axis_name, axis_size
        As in ``jax.vmap``.
    vmap_states
        The module's States with a value for every lane: a filter (a type, a tag, a predicate; see
        `brainstate_prob.core.filters`) for axis 0, or ``{filter: axis}``. All others are shared by the lanes.
    vmap_out_states
        The States with a value for every lane after they are written; as ``vmap_states``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import HiddenState, nn
    >>> cell = nn.vmap_init_all_states(nn.GRUCell(3, 4), axis_size=5)
    >>> nn.Vmap(cell, vmap_states=HiddenState)(jnp.ones((5, 3))).shape
    (5, 4)
    """

    def __init__(
        self,
        module: Module,
        in_axes: Any = 0,
        out_axes: Any = 0,
        vmap_states: Any = None,
        vmap_out_states: Any = None,
        axis_name: Any = None,
        axis_size: int | None = None,
    ):
        super().__init__()
        self.module = _module(module, 'Vmap')
        self.in_size, self.out_size = module.in_size, module.out_size
        self.in_axes, self.out_axes = in_axes, out_axes
        self.vmap_states, self.vmap_out_states = vmap_states, vmap_out_states
        self.axis_name, self.axis_size = axis_name, axis_size

    def _states(self, spec: Any) -> dict[int, list[State]]:
        return {axis: list(self.module.states(wanted).values()) for axis, wanted in _by_axis(spec).items()}

    def update(self, *args, **kwargs):
        mapped = vmap(
            self.module,
            in_axes=self.in_axes,
            out_axes=self.out_axes,
            axis_name=self.axis_name,
            axis_size=self.axis_size,
            in_states=self._states(self.vmap_states),
            out_states=self._states(self.vmap_out_states),
        )
        return mapped(*args, **kwargs)


class ModuleMapper(Module):
    """Copies of a module's States, with calls mapped over them; call `init_all_states` first.

    Parameters
    ----------
    module
        The module; its States have paths ``('module', ...)``, each with an axis for the copies.
    init_map_size
        The number of copies.
    init_state_axes
        The axis of new States: a filter for axis 0, or ``{axis: filter}``; default: axis 0 for all.
    state_tag
        The tag that new States get.
    in_axes, out_axes, axis_name, spmd_axis_name
        As in ``jax.vmap``.
    call_state_axes
        Other States that have a value for every copy: a filter for axis 0, or ``{axis: filter}``.
    behavior
        ``'vmap'``, or ``'pmap'`` to spread the copies over devices.

    Notes
    -----
    Collective calls such as ``nn.init_all_states(model)`` reach the module through the mapper, so that a mapper may
    be part of a larger model.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> cells = nn.ModuleMapper(nn.GRUCell(3, 4), init_map_size=5)
    >>> cells.init_all_states().module.h.value.shape, cells(jnp.ones((5, 3))).shape
    ((5, 4), (5, 4))
    """

    _not_in_graph: ClassVar[frozenset[str]] = Module._not_in_graph | {'_calls'}

    def __init__(
        self,
        module: Module,
        init_map_size: int,
        init_state_axes: Any = None,
        state_tag: str | None = None,
        in_axes: Any = 0,
        out_axes: Any = 0,
        axis_name: Any = None,
        spmd_axis_name: Any = None,
        call_state_axes: Any = None,
        behavior: str = 'vmap',
    ):
        super().__init__()
        if behavior not in ('vmap', 'pmap'):
            raise ValueError(f"behavior must be 'vmap' or 'pmap', got {behavior!r}.")
        if isinstance(init_map_size, bool) or not isinstance(init_map_size, int) or init_map_size < 1:
            raise ValueError(f'init_map_size must be a positive int, the number of copies; got {init_map_size!r}.')
        self.module = _module(module, 'ModuleMapper')
        self.in_size, self.out_size = module.in_size, module.out_size
        self.init_map_size, self.init_state_axes, self.state_tag = init_map_size, init_state_axes, state_tag
        self.in_axes, self.out_axes = in_axes, out_axes
        self.axis_name, self.spmd_axis_name = axis_name, spmd_axis_name
        self.call_state_axes, self.behavior = call_state_axes, behavior
        self.created: dict[int, tuple[tuple, ...]] | None = None

    def init_all_states(self, *args, **kwargs) -> ModuleMapper:
        """Create the States by ``module.init_all_states(*args, **kwargs)``, mapped over the copies."""
        new = vmap2_new_states(
            types.SimpleNamespace(init_all_states=lambda: init_all_states(self.module, *args, **kwargs)),
            None,
            self.state_tag,
            self.init_map_size,
            _filters(self.init_state_axes),
            spmd_axis_name=self.spmd_axis_name,
        )
        axes = {id(state): axis for axis, states in new.items() for state in states}
        created: dict[int, tuple[tuple, ...]] = {}
        for path, state in self.module.states().items():
            if id(state) in axes:
                axis = axes[id(state)]
                created[axis] = (*created.get(axis, ()), path)
        self.created = created
        vars(self).pop('_calls', None)
        return self

    def call_below(self, fn_name: str, *args, fn_if_not_exist: str = 'raise', **kwargs) -> None:
        """Apply a collective call to the module, mapped over the copies."""
        if fn_name == 'init_state':
            self.init_all_states(*args, **kwargs)
            return

        def call() -> None:
            call_all_fns(self.module, fn_name, args, kwargs, fn_if_not_exist=fn_if_not_exist)

        self._mapped(call)()

    def update(self, *args, **kwargs):
        return self.map('__call__', self.in_axes, self.out_axes, self.axis_name)(*args, **kwargs)

    def map(
        self,
        fn: str | Callable,
        in_axes: Any = 0,
        out_axes: Any = 0,
        axis_name: Any = None,
        state_axes: Any = None,
    ) -> Callable:
        """Map a method of the module, by name, or a function that uses its States, over the copies.

        Parameters
        ----------
        fn
            The name of a method, or a function.
        in_axes, out_axes, axis_name
            As in ``jax.vmap``.
        state_axes
            Other States with a value for every copy: a filter for axis 0, or ``{axis: filter}``.
        """
        calls = vars(self).setdefault('_calls', {})
        key = (fn, repr((in_axes, out_axes, axis_name)), id(state_axes))
        if key not in calls:
            function = getattr(self.module, fn) if isinstance(fn, str) else fn
            mapped = self._mapped(function, in_axes, out_axes, axis_name, state_axes)
            calls[key] = mapped, state_axes  # a reference to the latter keeps its id unique
        return calls[key][0]

    def _mapped(
        self, function: Callable, in_axes: Any = 0, out_axes: Any = 0, axis_name: Any = None, state_axes: Any = None
    ) -> Callable:
        if self.created is None:
            raise RuntimeError(
                f'{label(self)}: the States of its {type(self.module).__name__} are not there yet. '
                'Call init_all_states() first.'
            )
        states = self.module.states()
        by_axis: dict[int, list] = {a: [_OneOf(states[path] for path in paths)] for a, paths in self.created.items()}
        for spec in (_filters(self.call_state_axes), _filters(state_axes)):
            for axis, wanted in spec.items():
                by_axis.setdefault(axis, []).append(wanted)
        axes = {axis: any_of(*wanted) for axis, wanted in by_axis.items()}
        options = {'in_axes': in_axes, 'out_axes': out_axes, 'axis_name': axis_name, 'axis_size': self.init_map_size}
        options |= {'state_in_axes': axes, 'state_out_axes': axes}
        if self.behavior == 'pmap':
            return pmap2(function, **options)
        return vmap2(function, spmd_axis_name=self.spmd_axis_name, **options)


class _OneOf:
    """A filter of the given States."""

    def __init__(self, states: Iterable[State]):
        self.states = frozenset(states)

    def __call__(self, path: tuple, state: Any) -> bool:
        return state in self.states


def _filters(spec: Any) -> dict[int, Any]:
    """``{axis: filter}`` of a filter or such a dict."""
    return spec if isinstance(spec, dict) else {} if spec is None else {0: spec}


def _by_axis(spec: Any) -> dict[int, Any]:
    """``{axis: filter}`` of a filter, ``{filter: axis}`` or ``{axis: filter}``."""
    if not isinstance(spec, dict) or all(isinstance(key, int) and not isinstance(key, bool) for key in spec):
        return _filters(spec)
    by_axis: dict[int, list] = {}
    for wanted, axis in spec.items():
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f'States are chosen by a filter, or by {{filter: axis}} with int axes; got {spec!r}.')
        by_axis.setdefault(axis, []).append(wanted)
    return {axis: any_of(*wanted) for axis, wanted in by_axis.items()}


def _module(module: Any, wrapper: str) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f'{wrapper} wraps a Module, got {type(module).__name__}.')
    return module
