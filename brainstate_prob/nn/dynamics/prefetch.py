"""References to an attribute that is created later, to its past values, and to past outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np

from brainstate_prob import environ
from brainstate_prob.core import State
from brainstate_prob.core.units import u
from brainstate_prob.graph import Node
from brainstate_prob.nn.dynamics.delay import Delay
from brainstate_prob.nn.dynamics.state_delay import StateWithDelay
from brainstate_prob.nn.kinds import DynamicsNode, ParamNode
from brainstate_prob.nn.layers.shapes import label

__all__ = ['OutputDelayAt', 'Prefetch', 'PrefetchDelay', 'PrefetchDelayAt']


class Prefetch(Node):
    """A handle on ``module.item``, which may be created later; a call returns the current value.

    Parameters
    ----------
    module
        The module.
    item
        The name of the attribute: a State or `Param`, whose value is returned, or anything else.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> cell = nn.GRUCell(2, 3)
    >>> h = nn.Prefetch(cell, 'h')
    >>> cell.init_state()
    >>> h().shape
    (3,)
    """

    _references: ClassVar[frozenset[str]] = frozenset({'module'})

    def __init__(self, module: Node, item: str):
        self.module = module
        self.item = item

    @property
    def delay(self) -> PrefetchDelay:
        """Access to past values: ``.delay.at(5.0 * u.ms)``."""
        return PrefetchDelay(_dynamics(self, self.module), self.item)

    def get_item(self) -> Any:
        """The attribute itself.

        Raises
        ------
        AttributeError
            If it does not exist yet.
        """
        item = getattr(self.module, self.item, None)
        if item is None:
            raise AttributeError(
                f'{_label(self.module)} has no attribute {self.item!r} yet. If init_state creates it, call '
                'nn.init_all_states(model) first.'
            )
        return item

    def get_item_value(self) -> Any:
        """The current value."""
        item = self.get_item()
        return item.value if isinstance(item, State) else item.value() if isinstance(item, ParamNode) else item

    def __call__(self, *args, **kwargs):
        return self.get_item_value()

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.item!r} of {_label(self.module)})'


class PrefetchDelay(Node):
    """The past values of ``module.item``; see `at`.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> nn.PrefetchDelay(nn.Dynamics(3), 'V').at(5.0)
    PrefetchDelayAt('V' of Dynamics(3 -> 3), 5.0 ago)
    """

    _references: ClassVar[frozenset[str]] = frozenset({'module'})

    def __init__(self, module: DynamicsNode, item: str):
        self.module = _dynamics(self, module)
        self.item = item

    def at(self, *delay_time) -> PrefetchDelayAt:
        """A handle on the value a time ago; indices may follow as in `Delay.register_delay`."""
        return PrefetchDelayAt(self.module, self.item, *delay_time)


class PrefetchDelayAt(Node):
    """A handle on the value of the State ``module.item`` a time ago.

    The history is a `StateWithDelay` among the module's after-hooks, shared by all handles on the State and created by
    ``nn.init_all_states``. It stores the value after each step: before the module's own step, a delay of 0 is the
    value of the previous step.

    Parameters
    ----------
    module, item
        The module and the name of its State.
    *time_and_index
        The delay and indices: see `Delay.register_delay`. Empty or None: no delay.
    delay_init
        The history before the start: ``init`` of `Delay`.
    interpolation
        As of `Delay`; default: the nearest step.
    update_every, **kwargs
        As of `Delay`.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from brainstate_prob import HiddenState, environ, nn, transform
    >>> class Ramp(nn.Dynamics):
    ...     def init_state(self):
    ...         self.v = HiddenState(jnp.zeros(self.varshape))
    ...
    ...     def update(self):
    ...         self.v.value = self.v.value + 1.0
    >>> ramp = Ramp(1)
    >>> past = ramp.prefetch_delay('v', 0.2 * u.ms)
    >>> with environ.context(dt=0.1 * u.ms):
    ...     _ = nn.init_all_states(ramp)
    ...     print(transform.for_loop(lambda _: ramp() or past()[0], jnp.arange(4)))
    [0. 0. 1. 2.]
    """

    _references: ClassVar[frozenset[str]] = frozenset({'module', 'state_delay'})

    def __init__(
        self,
        module: DynamicsNode,
        item: str,
        *time_and_index,
        delay_init: Any = None,
        interpolation: str | Callable | None = None,
        update_every: Any = None,
        **kwargs,
    ):
        self.module = _dynamics(self, module)
        self.item = item
        self.delay_time = _unpacked(time_and_index)
        self.interpolation = interpolation
        if self.delay_time:
            delay = _shared(
                module,
                f'{item}-prefetch-delay-{update_every}',
                lambda: StateWithDelay(module, item, init=delay_init, update_every=update_every, **kwargs),
                delay_init,
            )
            self.state_delay = delay
            self.delay_info = delay.register_delay(*self.delay_time)

    def __call__(self, *args, **kwargs):
        if not self.delay_time:
            return Prefetch(self.module, self.item)()
        return self.state_delay.retrieve(self.delay_info, self.interpolation)

    def __repr__(self) -> str:
        ago = f'{self.delay_time[0]} ago' if self.delay_time else 'now'
        return f'{type(self).__name__}({self.item!r} of {_label(self.module)}, {ago})'


class OutputDelayAt(Node):
    """A handle on a past output of ``module``.

    The history is a `Delay` among the module's after-hooks, shared by all handles. Its values have the shape
    ``module.out_size`` (and the batch axis of ``init_state``), the default floating dtype, and the unit of
    ``delay_init``, else that of the first output.

    Parameters
    ----------
    module
        The dynamics.
    *delay_time
        The delay and indices: see `Delay.register_delay`.
    delay_init, interpolation, update_every, **kwargs
        As of `Delay`. If the output has a unit and is read before the first step, ``delay_init`` must have it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import environ, nn
    >>> class Double(nn.Dynamics):
    ...     def update(self, x):
    ...         return 2.0 * x
    >>> double = Double(1)
    >>> before = double.output_delay(0.1)
    >>> with environ.context(dt=0.1):
    ...     _ = nn.init_all_states(double)
    ...     for n in range(3):
    ...         _ = double(jnp.full(1, float(n)))
    ...     print(before())
    [2.]
    """

    _references: ClassVar[frozenset[str]] = frozenset({'module', 'out_delay'})

    def __init__(
        self,
        module: DynamicsNode,
        *delay_time,
        delay_init: Any = None,
        interpolation: str | Callable | None = None,
        update_every: Any = None,
        **kwargs,
    ):
        self.module = _dynamics(self, module)
        self.delay_time = _unpacked(delay_time)
        self.interpolation = interpolation

        def make() -> Delay:
            target = jax.ShapeDtypeStruct(module.out_size or (), environ.dftype())
            return Delay(target, init=delay_init, take_aware_unit=True, update_every=update_every, **kwargs)

        delay = _shared(module, f'output-delay-{update_every}', make, delay_init)
        self.out_delay = delay
        self.delay_info = delay.register_delay(*(self.delay_time or (None,)))

    def __call__(self, *args, **kwargs):
        return self.out_delay.retrieve(self.delay_info, self.interpolation)

    def __repr__(self) -> str:
        ago = f'{self.delay_time[0]} ago' if self.delay_time else 'last'
        return f'{type(self).__name__}(output of {_label(self.module)}, {ago})'


def _unpacked(time_and_index: tuple) -> tuple:
    """``at((5 ms, 0))`` is ``at(5 ms, 0)``."""
    if len(time_and_index) == 1 and isinstance(time_and_index[0], list | tuple):
        return tuple(time_and_index[0])
    return time_and_index


def _shared(module: DynamicsNode, key: str, make: Callable[[], Delay], init: Any) -> Delay:
    """The delay among the module's after-hooks, created at the first use."""
    if key not in module.after_updates:
        module.add_after_update(key, make())
    delay = module.after_updates[key]
    if not isinstance(delay, Delay):
        raise TypeError(f'{label(module)}: the hook {key!r} is a {type(delay).__name__}, not a Delay.')
    if init is not None and not _same(delay.init, init):
        if delay.init is not None:
            raise ValueError(f'{label(module)}: the delay {key!r} is shared, and has another init already.')
        delay.init = init
    return delay


def _same(a: Any, b: Any) -> bool:
    if a is b or a is None or callable(a) or callable(b):
        return a is b
    return u.get_unit(a) == u.get_unit(b) and np.array_equal(u.get_mantissa(a), u.get_mantissa(b))


def _dynamics(handle: Node, module: Any) -> DynamicsNode:
    if not isinstance(module, DynamicsNode):
        raise TypeError(f'A {type(handle).__name__} with a delay needs a Dynamics, got {type(module).__name__}.')
    return module


def _label(module: Any) -> str:
    return label(module) if hasattr(module, 'in_size') else type(module).__name__
