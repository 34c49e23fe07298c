"""Module and Sequential: objects whose attributes are States, Params and submodules."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from brainstate_prob import graph
from brainstate_prob.core import ParamState, State
from brainstate_prob.graph.walk import children, dotted, walk
from brainstate_prob.nn.collective import init_all_states, reset_all_states
from brainstate_prob.nn.kinds import ModuleNode, ParamNode
from brainstate_prob.nn.memo import serve_values
from brainstate_prob.nn.no_arithmetic import NoArithmetic
from brainstate_prob.nn.summary import summarize

__all__ = ['ElementWiseBlock', 'Module', 'Sequential']

Size = int | tuple[int, ...]
_ALL = (0, float('inf'))


def _size(size: Any) -> tuple[int, ...] | None:
    if size is None:
        return None
    return tuple(int(n) for n in size) if isinstance(size, list | tuple) else (int(size),)


class Module(ModuleNode):
    """Base class of models, layers, parameters and priors.

    Attributes may be States, Modules, containers of them, or plain values. Calling a module calls ``update``;
    ``x >> module`` is ``module(x)``.

    Parameters
    ----------
    name
        A label for messages and tables.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import ParamState, nn
    >>> class Line(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.slope = nn.Param(jnp.array(2.0))
    ...
    ...     def update(self, x):
    ...         return self.slope.value() * x
    >>> model = Line()
    >>> float(model(3.0)), list(model.states(ParamState))
    (6.0, [('slope', 'val')])
    """

    name: str | None = None
    _in_size: tuple[int, ...] | None = None
    _out_size: tuple[int, ...] | None = None
    _hidden_in_repr: ClassVar[frozenset[str]] = frozenset({'name', '_in_size', '_out_size'})

    def __init__(self, name: str | None = None):
        if name is not None:
            self.name = name

    @property
    def in_size(self) -> tuple[int, ...] | None:
        """The shape of one input without batch axes, or None if the module takes any."""
        return self._in_size

    @in_size.setter
    def in_size(self, size: Any) -> None:
        self._in_size = _size(size)

    @property
    def out_size(self) -> tuple[int, ...] | None:
        """The shape of one output without batch axes, or None if unknown."""
        return self._out_size

    @out_size.setter
    def out_size(self, size: Any) -> None:
        self._out_size = _size(size)

    def update(self, *args, **kwargs):
        """Compute the output; subclasses define this, or ``__call__``."""
        raise NotImplementedError(f'{type(self).__name__} defines neither update nor __call__.')

    def __call__(self, *args, **kwargs):
        return self.update(*args, **kwargs)

    def __rrshift__(self, x):
        return self(x)

    def init_state(self, *args, **kwargs) -> None:
        """Create the module's own short-term States; nothing by default."""

    def reset_state(self, *args, **kwargs) -> None:
        """Reset the module's own short-term States; nothing by default."""

    def init_all_states(self, *args, **kwargs) -> Module:
        """Call ``init_state`` of this and every module below: see `brainstate_prob.nn.init_all_states`."""
        return init_all_states(self, *args, **kwargs)

    def reset_all_states(self, *args, **kwargs) -> Module:
        """Call ``reset_state`` of this and every module below: see `brainstate_prob.nn.reset_all_states`."""
        return reset_all_states(self, *args, **kwargs)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """What functions of the model get (``likelihood``, ``fit.evaluate``): itself, or the model it stands for."""
        yield self

    # Walking the tree

    def states(self, *filters, allowed_hierarchy=_ALL):
        """The States below by path: see `brainstate_prob.graph.states`."""
        return graph.states(self, *filters, allowed_hierarchy=allowed_hierarchy)

    def state_trees(self, *filters):
        """The States below as nested mappings of `TreefyState`."""
        return graph.treefy_states(self, *filters)

    def nodes(self, *filters, allowed_hierarchy=_ALL):
        """The nodes below and including this one by path: see `brainstate_prob.graph.nodes`."""
        return graph.nodes(self, *filters, allowed_hierarchy=allowed_hierarchy)

    def named_modules(self, prefix: str = '', include_self: bool = True) -> Iterator[tuple[str, Module]]:
        """Pairs (dotted path, module), this one first."""
        for path, level, node in walk(self):
            if isinstance(node, Module) and (include_self or level > 0):
                yield dotted(path, prefix), node

    def modules(self, include_self: bool = True) -> Iterator[Module]:
        """All modules below."""
        return (node for _, node in self.named_modules(include_self=include_self))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Pairs (name, module) of the modules one level down."""
        return ((dotted(p), n) for p, level, n in walk(self, 1) if level == 1 and isinstance(n, Module))

    def children(self) -> Iterator[Module]:
        """The modules one level down."""
        return (node for _, node in self.named_children())

    def named_parameters(self, prefix: str = '', recurse: bool = True) -> Iterator[tuple[str, ParamState]]:
        """Pairs (dotted path, trainable State)."""
        states = self.states(ParamState, allowed_hierarchy=_ALL if recurse else (0, 1))
        return ((dotted(path, prefix), state) for path, state in states.items())

    def parameters(self, recurse: bool = True) -> Iterator[ParamState]:
        """The trainable States below."""
        return (state for _, state in self.named_parameters(recurse=recurse))

    def named_param_modules(self, allowed_hierarchy=_ALL) -> Iterator[tuple[tuple, Any]]:
        """Pairs (path, `Param` or `Const`), hyper-parameters of priors included."""
        return iter(self.nodes(ParamNode, allowed_hierarchy=allowed_hierarchy).items())

    def param_modules(self, allowed_hierarchy=_ALL) -> Iterator[Any]:
        """All `Param` and `Const` below."""
        return (param for _, param in self.named_param_modules(allowed_hierarchy))

    # The parameters as a whole

    def reg_loss(self) -> jax.Array:
        """The sum of ``reg_loss()`` over all Params below, to add to a data loss: a scalar without unit.

        Examples
        --------
        >>> from brainstate_prob import nn
        >>> model = nn.Module()
        >>> model.w = nn.Param([3.0, -4.0], reg=nn.L2Reg(0.1))
        >>> float(model.reg_loss())
        2.5
        """
        return sum((p.reg_loss() for p in self.param_modules()), jnp.zeros(()))

    def log_prior(self) -> jax.Array:
        """The log prior density of all Params below at their values: minus `reg_loss`."""
        return -self.reg_loss()

    @contextlib.contextmanager
    def param_precompute(self, allowed_hierarchy=_ALL):
        """Cache every constrained value in the block, also while traced.

        Use it inside the transformed function if a model reads the same Param many times.

        Examples
        --------
        >>> from brainstate_prob import nn
        >>> model = nn.Module()
        >>> model.w = nn.Param(2.0, t=nn.SoftplusT())
        >>> with model.param_precompute():
        ...     value = model.w.value() + model.w.value()
        """
        present = ((param, param.val.value) for param in self.param_modules(allowed_hierarchy))
        with serve_values({param: (raw, param._magnitude(raw)) for param, raw in present}):
            yield

    def summary(self):
        """A table of the parameters (path, shape, unit, transform, prior, trainable, value), as text and HTML."""
        return summarize(self)

    def __repr__(self) -> str:
        inner = []
        for key, value in children(self):
            if key not in self._hidden_in_repr and not key.startswith('_'):
                text = repr(value).replace('\n', '\n  ')
                inner.append(f'  {key}={text},\n')
        if self.name is not None:
            inner.insert(0, f'  name={self.name!r},\n')
        if self._in_size is not None or self._out_size is not None:
            inner.insert(0, f'  in_size={self._in_size}, out_size={self._out_size},\n')
        return f'{type(self).__name__}(\n{"".join(inner)})' if inner else f'{type(self).__name__}()'


class ElementWiseBlock(Module):
    """Base of modules whose output has the shape of the input; `Sequential` passes the size on."""


class Sequential(Module):
    """Apply layers from left to right.

    Parameters
    ----------
    first
        A Module; its ``out_size`` is passed on.
    *layers
        Modules, plain callables (assumed to keep the size), or deferred constructors: a Module class or a
        ``functools.partial`` of one, which is called with ``in_size=`` of the item before.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> class Double(nn.ElementWiseBlock):
    ...     def update(self, x):
    ...         return 2 * x
    >>> float(nn.Sequential(Double(), jnp.negative, Double())(1.0))
    -4.0
    """

    def __init__(self, first: Module, *layers: Any, name: str | None = None):
        super().__init__(name)
        if not isinstance(first, Module):
            got = f'the class {first.__name__}' if isinstance(first, type) else type(first).__name__
            hint = ''
            if _is_module_class(first):
                hint = f' Nothing comes before it, so call it with its sizes: nn.{first.__name__}(...).'
            elif isinstance(first, list | tuple):
                hint = ' Unpack it: nn.Sequential(*layers).'
            raise TypeError(f'The first item of a Sequential must be a Module, got {got}.{hint}')
        self.layers: list[Any] = [first]
        self.in_size = first.in_size
        self.out_size = first.out_size
        self.extend(layers)

    def update(self, x, *args, **kwargs):
        x = self.layers[0](x, *args, **kwargs)
        for layer in self.layers[1:]:
            x = layer(x)
        return x

    def append(self, layer: Any) -> Sequential:
        """Add one item at the end."""
        return self.insert(len(self.layers), layer)

    def extend(self, layers) -> Sequential:
        """Add items at the end."""
        for layer in layers:
            self.append(layer)
        return self

    def insert(self, index: int, layer: Any) -> Sequential:
        """Put an item before position ``index``."""
        index = range(len(self.layers) + 1)[index]
        layers = list(self.layers)
        layers.insert(index, _build(layer, self._size_before(index)))
        self.layers = layers
        self.in_size = layers[0].in_size
        self.out_size = self._size_before(len(layers))
        return self

    def _size_before(self, index: int) -> tuple[int, ...] | None:
        size = None
        for layer in self.layers[:index]:
            size = _size_after(layer, size)
        return size

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Sequential(*self.layers[index])
        return self.layers[index]


def _size_after(layer: Any, size: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The output size of an item; unknown for a Module without ``out_size``."""
    known = getattr(layer, 'out_size', None)
    if known is not None:
        return known
    if isinstance(layer, Sequential):
        return functools.reduce(lambda before, item: _size_after(item, before), layer.layers, size)
    return size if isinstance(layer, ElementWiseBlock) or not isinstance(layer, Module) else None


def _is_module_class(x: Any) -> bool:
    return isinstance(x, type) and issubclass(x, Module)


def _build(layer: Any, in_size: tuple[int, ...] | None) -> Any:
    deferred = _is_module_class(layer) or (isinstance(layer, functools.partial) and _is_module_class(layer.func))
    if not deferred:
        if isinstance(layer, State | NoArithmetic) or not callable(layer):
            raise TypeError(f'A Sequential holds Modules, callables and deferred constructors, got {layer!r}.')
        return layer
    constructor: Any = layer.func if isinstance(layer, functools.partial) else layer
    if issubclass(constructor, ElementWiseBlock):
        return layer()
    if in_size is None:
        raise ValueError(
            f'{constructor.__name__} needs an in_size, but the item before it has no known out_size. Give it its '
            'in_size, or pass its class or a functools.partial of it, which gets the size of the item before.'
        )
    missing = _missing(layer)
    if missing:
        raise TypeError(
            f'{constructor.__name__} in a Sequential is given in_size={in_size}, but it needs {" and ".join(missing)} '
            f'too. Call it, or give the rest: functools.partial(nn.{constructor.__name__}, {missing[0]}=...).'
        )
    return layer(in_size=in_size)


def _missing(constructor: Any) -> list[str]:
    """The required arguments of a deferred constructor besides ``in_size``."""
    parameters = inspect.signature(constructor).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable and p.name != 'in_size']
