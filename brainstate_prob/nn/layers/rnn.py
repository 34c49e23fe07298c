"""Recurrent cells: one step per call, with hidden values in States."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob import random
from brainstate_prob.core import HiddenState, ParamState
from brainstate_prob.nn import functional, init
from brainstate_prob.nn.layers.linear import Linear
from brainstate_prob.nn.layers.shapes import check_input, label
from brainstate_prob.nn.module import Module

__all__ = ['GRUCell', 'LSTMCell', 'MGUCell', 'RNNCell', 'URLSTMCell', 'ValinaRNNCell', 'VanillaRNNCell']

_ZERO, _XAVIER, _ORTHOGONAL = init.ZeroInit(), init.XavierNormal(), init.Orthogonal()


class RNNCell(Module):
    """Base of recurrent cells: creates, resets and checks the hidden values.

    A call advances one step: ``x`` of shape ``(..., num_in)`` gives ``h`` of shape ``(..., num_out)``. The hidden
    values are created by ``init_state(batch_size=None)`` and reset by ``reset_state(batch_size=None)``; their leading
    axes must be those of ``x``. Under `transform.for_loop` a cell runs over time. A subclass names its hidden
    values in ``hidden`` and defines ``update``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn, transform
    >>> cell = nn.GRUCell(3, 4)
    >>> cell.init_state(batch_size=2)
    >>> transform.for_loop(cell, jnp.ones((10, 2, 3))).shape
    (10, 2, 4)
    """

    hidden: tuple[str, ...] = ('h',)
    h: HiddenState
    c: HiddenState

    def __init__(self, name: str | None = None):
        super().__init__(name)

    def _sizes(self, num_in: int, num_out: int, state_init: Any, activation: str | Callable) -> None:
        self.num_in, self.num_out = int(num_in), int(num_out)
        self.in_size, self.out_size = self.num_in, self.num_out
        self.state_init = state_init
        self.activation = activation
        _activation(activation)  # an unknown name raises here

    def _gates(self, n: int, w_init: Any, b_init: Any) -> Linear:
        """The affine map of [x, h] to ``n`` vectors of the size of h."""
        return Linear(self.num_in + self.num_out, n * self.num_out, w_init=w_init, b_init=b_init)

    def init_state(self, batch_size: int | None = None, **kwargs) -> None:
        """Create the hidden values, of shape ``(num_out,)`` or ``(batch_size, num_out)``."""
        for name in self.hidden:
            setattr(self, name, HiddenState(self._first(batch_size)))

    def reset_state(self, batch_size: int | None = None, **kwargs) -> None:
        """Reset the hidden values."""
        for name in self.hidden:
            getattr(self, name).value = self._first(batch_size)

    def _act(self, x: jax.Array) -> jax.Array:
        return _activation(self.activation)(x)

    def _first(self, batch_size: int | None) -> jax.Array:
        shape = (self.num_out,) if batch_size is None else (batch_size, self.num_out)
        return jnp.broadcast_to(init.param(self.state_init, self.num_out, batch_size, allow_none=False), shape)

    def _read(self, x: Any) -> list[jax.Array]:
        """The input, checked, and the hidden values."""
        check_input(self, x)
        if self.hidden[0] not in vars(self):
            raise RuntimeError(
                f'{label(self)}: the hidden values are not there yet. Call init_state(batch_size) or '
                'nn.init_all_states(model, batch_size) first.'
            )
        x = jnp.asarray(x)
        values = [getattr(self, name).value for name in self.hidden]
        if x.shape[:-1] != values[0].shape[:-1]:
            raise ValueError(
                f'{label(self)}: expected an input of shape {(*values[0].shape[:-1], self.num_in)}, as the hidden '
                f'values have the shape {values[0].shape}; got {x.shape}. The batch size is given in '
                'init_state(batch_size).'
            )
        return [x, *values]


class ValinaRNNCell(RNNCell):
    """The plain recurrent cell: h <- activation(W [x, h] + b). `VanillaRNNCell` is the same class.

    Parameters
    ----------
    num_in, num_out
        Sizes of the input and of the hidden value.
    state_init
        Initializer, array, number or `Param` for the hidden value.
    w_init, b_init
        Of the `Linear` layer ``W`` that maps [x, h]; ``b_init=None`` drops the bias.
    activation
        A callable, or the name of a function of ``nn.functional``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> cell = nn.ValinaRNNCell(3, 4, activation='tanh')
    >>> cell.init_state()
    >>> cell(jnp.ones(3)).shape, list(cell.states())
    ((4,), [('W', 'weight'), ('h',)])
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        state_init: Any = _ZERO,
        w_init: Any = _XAVIER,
        b_init: Any = _ZERO,
        activation: str | Callable = 'relu',
        name: str | None = None,
    ):
        super().__init__(name)
        self._sizes(num_in, num_out, state_init, activation)
        self.W = self._gates(1, w_init, b_init)

    def update(self, x):
        x, h = self._read(x)
        self.h.value = self._act(self.W(_join(x, h)))
        return self.h.value


VanillaRNNCell = ValinaRNNCell


class GRUCell(RNNCell):
    """The gated recurrent unit.

    r, z = sigmoid(Wrz [x, h]);  c = activation(Wh [x, r * h]);  h <- (1 - z) * h + z * c.

    Parameters
    ----------
    num_in, num_out
        Sizes of the input and of the hidden value.
    w_init, b_init
        Of the `Linear` layers ``Wrz`` (gates) and ``Wh`` (candidate); ``b_init=None`` drops the biases.
    state_init
        Initializer, array, number or `Param` for the hidden value.
    activation
        A callable, or the name of a function of ``nn.functional``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> cell = nn.GRUCell(3, 4)
    >>> cell.init_state()
    >>> cell(jnp.ones(3)).shape, list(cell.states())
    ((4,), [('Wh', 'weight'), ('Wrz', 'weight'), ('h',)])
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Any = _ORTHOGONAL,
        b_init: Any = _ZERO,
        state_init: Any = _ZERO,
        activation: str | Callable = 'tanh',
        name: str | None = None,
    ):
        super().__init__(name)
        self._sizes(num_in, num_out, state_init, activation)
        self.Wrz = self._gates(2, w_init, b_init)
        self.Wh = self._gates(1, w_init, b_init)

    def update(self, x):
        x, h = self._read(x)
        r, z = jnp.split(jax.nn.sigmoid(self.Wrz(_join(x, h))), 2, axis=-1)
        candidate = self._act(self.Wh(_join(x, r * h)))
        self.h.value = (1 - z) * h + z * candidate
        return self.h.value


class MGUCell(RNNCell):
    """The minimal gated unit: a GRU with one gate.

    f = sigmoid(Wf [x, h]);  c = activation(Wh [x, f * h]);  h <- (1 - f) * h + f * c.

    Parameters
    ----------
    num_in, num_out, w_init, b_init, state_init, activation
        As of `GRUCell`; the layers are ``Wf`` (gate) and ``Wh`` (candidate).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> cell = nn.MGUCell(3, 4)
    >>> cell.init_state()
    >>> cell(jnp.ones(3)).shape, list(cell.states())
    ((4,), [('Wf', 'weight'), ('Wh', 'weight'), ('h',)])
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Any = _ORTHOGONAL,
        b_init: Any = _ZERO,
        state_init: Any = _ZERO,
        activation: str | Callable = 'tanh',
        name: str | None = None,
    ):
        super().__init__(name)
        self._sizes(num_in, num_out, state_init, activation)
        self.Wf = self._gates(1, w_init, b_init)
        self.Wh = self._gates(1, w_init, b_init)

    def update(self, x):
        x, h = self._read(x)
        f = jax.nn.sigmoid(self.Wf(_join(x, h)))
        candidate = self._act(self.Wh(_join(x, f * h)))
        self.h.value = (1 - f) * h + f * candidate
        return self.h.value


class LSTMCell(RNNCell):
    """The long short-term memory, with 1 added to the forget gate.

    i, g, f, o = W [x, h] + b;  c <- sigmoid(f + 1) * c + sigmoid(i) * activation(g);
    h <- sigmoid(o) * activation(c).

    Parameters
    ----------
    num_in, num_out
        Sizes of the input and of the hidden values.
    w_init, b_init
        Of the `Linear` layer ``W``; ``b_init=None`` drops the bias.
    state_init
        Initializer, array, number or `Param` for the hidden values ``h`` and ``c``.
    activation
        A callable, or the name of a function of ``nn.functional``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> cell = nn.LSTMCell(3, 4)
    >>> cell.init_state()
    >>> cell(jnp.ones(3)).shape, list(cell.states())
    ((4,), [('W', 'weight'), ('c',), ('h',)])
    """

    hidden = ('h', 'c')

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Any = _XAVIER,
        b_init: Any = _ZERO,
        state_init: Any = _ZERO,
        activation: str | Callable = 'tanh',
        name: str | None = None,
    ):
        super().__init__(name)
        self._sizes(num_in, num_out, state_init, activation)
        self.W = self._gates(4, w_init, b_init)

    def update(self, x):
        x, h, c = self._read(x)
        i, g, f, o = jnp.split(self.W(_join(x, h)), 4, axis=-1)
        self.c.value = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * self._act(g)
        self.h.value = jax.nn.sigmoid(o) * self._act(self.c.value)
        return self.h.value


class URLSTMCell(RNNCell):
    """The LSTM with uniform gate initialization and refine gates (Gu et al. 2020).

    f, r, u, o = W [x, h];  F = sigmoid(f + b);  R = sigmoid(r - b);  g = 2 R F + (1 - 2 R) F^2;
    c <- g * c + (1 - g) * activation(u);  h <- sigmoid(o) * activation(c).

    The trained ``bias`` b starts at the logit of U(1/n, 1 - 1/n), n = ``num_out``, which spreads the time scales of
    the units.

    Parameters
    ----------
    num_in, num_out, w_init, state_init, activation
        As of `LSTMCell`; ``W`` has no bias.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> cell = nn.URLSTMCell(3, 4)
    >>> cell.init_state()
    >>> cell(jnp.ones(3)).shape, list(cell.states())
    ((4,), [('W', 'weight'), ('bias',), ('c',), ('h',)])
    """

    hidden = ('h', 'c')

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Any = _XAVIER,
        state_init: Any = _ZERO,
        activation: str | Callable = 'tanh',
        name: str | None = None,
    ):
        super().__init__(name)
        self._sizes(num_in, num_out, state_init, activation)
        self.W = self._gates(4, w_init, None)
        # With one or two units the interval (1/n, 1 - 1/n) is empty or a point: start in the middle.
        edge = min(1 / self.num_out, 0.5)
        self.bias = ParamState(jax.scipy.special.logit(random.uniform(edge, 1 - edge, size=self.num_out)))

    def update(self, x):
        x, h, c = self._read(x)
        f, r, candidate, o = jnp.split(self.W(_join(x, h)), 4, axis=-1)
        forget, refine = jax.nn.sigmoid(f + self.bias.value), jax.nn.sigmoid(r - self.bias.value)
        gate = 2 * refine * forget + (1 - 2 * refine) * forget**2
        self.c.value = gate * c + (1 - gate) * self._act(candidate)
        self.h.value = jax.nn.sigmoid(o) * self._act(self.c.value)
        return self.h.value


def _join(x: jax.Array, h: jax.Array) -> jax.Array:
    return jnp.concatenate([x, h], axis=-1)


def _activation(spec: str | Callable) -> Callable:
    if callable(spec):
        return spec
    function = getattr(functional, spec, None) if isinstance(spec, str) else None
    if not callable(function):
        raise ValueError(
            f"activation must be a callable or the name of a function of nn.functional, such as 'tanh'; got {spec!r}."
        )
    return function
