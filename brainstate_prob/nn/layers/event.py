"""Sparse random and event-driven connections, by gather and scatter."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob import random
from brainstate_prob.core import ParamState, State
from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.core.units import u
from brainstate_prob.nn.layers.shapes import as_array, check_input, label
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.weights import weights

__all__ = ['EventFixedNumConn', 'EventFixedProb', 'EventLinear', 'FixedNumConn']


class _Connection(Module):
    """Base of connections along the last axis; the other axes are the same in ``in_size`` and ``out_size``."""

    def __init__(self, in_size: Any, out_size: Any, name: str | None):
        super().__init__(name)
        self.in_size, self.out_size = in_size, out_size
        if not self.in_size or not self.out_size or self.in_size[:-1] != self.out_size[:-1]:
            raise ValueError(
                f'{label(self)}: only the last axis is mixed, the axes before it must agree: got in_size='
                f'{self.in_size}, out_size={self.out_size}.'
            )
        self.num_pre, self.num_post = self.in_size[-1], self.out_size[-1]


class FixedNumConn(_Connection):
    """A sparse random connection with a fixed number of connections per unit: y = x W.

    Parameters
    ----------
    in_size, out_size
        Sizes of the input (pre) and output (post) units, ints or tuples that differ only in the last axis.
    conn_num
        The number of connections per unit: an int, or a float for a fraction of the units on the other side.
    conn_weight
        One weight for all (a number or a Quantity), an initializer or an array of shape (units, connections), a
        `Param` or a `ParamSpec`.
    efferent_target
        ``'post'``: every pre unit has ``conn_num`` targets. ``'pre'``: every post unit has ``conn_num`` sources.
    afferent_ratio
        The share of pre units, drawn at random, that have connections.
    allow_multi_conn
        Whether a pair of units may have several connections; otherwise the targets of a unit are distinct.
    seed
        The seed of the connectivity; default: the stream of `brainstate_prob.random`.
    conn_init
        How distinct targets are drawn: ``'vmap'`` at once, or ``'for_loop'`` per unit, with less memory.
    param_type
        The State that holds the weight.

    Raises
    ------
    ValueError
        For more distinct connections than units, ratios outside (0, 1], unknown options.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.FixedNumConn(100, 50, conn_num=0.1, conn_weight=2.0, seed=0)
    >>> layer.indices.value.shape, float(layer(jnp.ones(100)).sum())
    ((100, 5), 1000.0)
    """

    def __init__(
        self,
        in_size: Any,
        out_size: Any,
        conn_num: int | float,
        conn_weight: Any,
        efferent_target: str = 'post',
        afferent_ratio: int | float = 1.0,
        allow_multi_conn: bool = True,
        seed: int | None = None,
        name: str | None = None,
        conn_init: str = 'vmap',
        param_type: type[State] = ParamState,
    ):
        super().__init__(in_size, out_size, name)
        for option, allowed in ((efferent_target, ('post', 'pre')), (conn_init, ('vmap', 'for_loop'))):
            if option not in allowed:
                raise ValueError(f'{label(self)}: {option!r} is not one of {allowed}.')
        self.efferent_target = efferent_target
        pre, post = self.num_pre, self.num_post
        key, kept_key = jax.random.split(random.split_key() if seed is None else jax.random.key(seed))
        kept = round(afferent_ratio * pre)
        if not 0 < afferent_ratio <= 1 or kept == 0:
            raise ValueError(
                f'{label(self)}: afferent_ratio must be above 0, at most 1, and leave one of {pre} units; '
                f'got {afferent_ratio}.'
            )
        sources = None
        if kept < pre:
            sources = jnp.sort(jax.random.choice(kept_key, pre, (kept,), replace=False))
            self.sources = State(sources)
        rows, others = (kept, post) if efferent_target == 'post' else (post, kept)
        shape = rows, self._number(conn_num, others, allow_multi_conn)
        indices = _draw(key, shape, others, allow_multi_conn, conn_init)
        self.indices = State(indices if efferent_target == 'post' or sources is None else sources[indices])
        self.weight = weights(self, param_type, keep_scalars=True, weight=(conn_weight, shape))

    def _number(self, conn_num: Any, others: int, multiple: bool) -> int:
        fraction = isinstance(conn_num, float | np.floating)
        if not fraction:
            try:
                number = operator.index(conn_num)
            except TypeError:
                raise TypeError(f'{label(self)}: conn_num is an int or a fraction, got {conn_num!r}.') from None
        else:
            number = round(float(conn_num) * others) if 0 <= conn_num <= 1 else -1
        if number < 0 or isinstance(conn_num, bool) or (number > others and not multiple):
            raise ValueError(
                f'{label(self)}: conn_num must be an int or a float from 0 to 1, and not above {others} where '
                f'connections are distinct; got {conn_num!r}.'
            )
        return number

    def update(self, x):
        check_input(self, x)
        return self._sum(x)

    def _sum(self, x: Any) -> Any:
        x, unit_x = magnitude_and_unit(x)
        w, unit_w = magnitude_and_unit(self.weight.value['weight'])
        unit: Any = (unit_x or u.UNITLESS) * (unit_w or u.UNITLESS)
        indices = self.indices.value
        if self.efferent_target == 'pre':
            y = (x[..., indices] * w).sum(-1)
        else:
            if 'sources' in vars(self):
                x = x[..., self.sources.value]
            each = jnp.broadcast_to(x[..., None] * w, (*x.shape, indices.shape[1]))
            y = jnp.zeros((*x.shape[:-1], self.num_post), each.dtype).at[..., indices].add(each)
        return with_unit(y, unit)

    def dense(self) -> Any:
        """The connection as a matrix (pre, post)."""
        w, unit = magnitude_and_unit(self.weight.value['weight'])
        indices = self.indices.value
        w = jnp.broadcast_to(w, indices.shape)
        if self.efferent_target == 'pre':
            rows, columns = indices, jnp.arange(self.num_post)[:, None]
        else:
            rows = self.sources.value if 'sources' in vars(self) else jnp.arange(self.num_pre)
            rows, columns = rows[:, None], indices
        return with_unit(jnp.zeros((self.num_pre, self.num_post), w.dtype).at[rows, columns].add(w), unit)


class EventFixedNumConn(FixedNumConn):
    """`FixedNumConn` for spikes: sums the weights of the units that are active.

    Nonzero inputs count as 1. The derivative by a floating input is that of x W, so that surrogate gradients of spikes
    pass.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.EventFixedNumConn(100, 1, conn_num=1, conn_weight=0.5 * u.nS, seed=0)
    >>> spikes = jnp.arange(100) < 3
    >>> float(layer(spikes)[0] / u.nS)
    1.5
    """

    def update(self, spk):
        check_input(self, spk)
        return self._sum(_events(spk, self.weight.value['weight']))


EventFixedProb = EventFixedNumConn


class EventLinear(_Connection):
    """A dense connection for spikes: the sum of the weights of the units that are active.

    Parameters
    ----------
    in_size, out_size
        As of `FixedNumConn`.
    weight
        One weight for all (a number or a Quantity), an initializer or an array (in, out), a `Param` or a `ParamSpec`.
    float_as_event
        Whether a nonzero floating number counts as 1; otherwise it counts by its value.
    block_size
        The block size of kernels; results do not depend on it.
    param_type
        The State that holds the weight.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> layer = nn.EventLinear(3, 2, jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    >>> layer(jnp.array([True, False, True])).tolist()
    [6.0, 8.0]
    """

    def __init__(
        self,
        in_size: Any,
        out_size: Any,
        weight: Any,
        float_as_event: bool = True,
        block_size: int = 64,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(in_size, out_size, name)
        self.float_as_event, self.block_size = float_as_event, block_size
        shape = (self.num_pre, self.num_post)
        self.weight = weights(self, param_type, keep_scalars=True, weight=(weight, shape))

    def update(self, spk):
        check_input(self, spk)
        weight = self.weight.value['weight']
        floating = jnp.issubdtype(jnp.asarray(u.get_mantissa(spk)).dtype, jnp.floating)
        x = as_array(spk) if floating and not self.float_as_event else _events(spk, weight)
        if weight.ndim:
            return x @ weight
        total = x.sum(-1, keepdims=True) * weight
        magnitude, unit = magnitude_and_unit(total)
        return with_unit(jnp.broadcast_to(magnitude, (*magnitude.shape[:-1], self.num_post)), unit)


def _events(spikes: Any, weight: Any) -> jax.Array:
    """1 for spikes, 0 elsewhere, with the derivative of the identity."""
    spikes = jnp.asarray(u.get_mantissa(spikes))
    if not jnp.issubdtype(spikes.dtype, jnp.floating):
        return (spikes != 0).astype(u.get_mantissa(weight).dtype)
    return spikes + jax.lax.stop_gradient((spikes != 0).astype(spikes.dtype) - spikes)


def _draw(key: jax.Array, shape: tuple[int, int], high: int, multiple: bool, how: str) -> jax.Array:
    """Indices below ``high``, in each row with repetition or distinct."""
    if multiple:
        return jax.random.randint(key, shape, 0, high)

    def row(key: jax.Array) -> jax.Array:
        return jax.random.choice(key, high, shape[1:], replace=False)

    keys = jax.random.split(key, shape[0])
    return jax.vmap(row)(keys) if how == 'vmap' else jax.lax.map(row, keys)
