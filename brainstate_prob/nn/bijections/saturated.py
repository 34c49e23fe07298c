"""Saturated values: `forward` returns the bound itself, and `inverse` accepts it.

In floating point a bound is a value of `forward`: ``tanh(20)`` is 1. It is replaced by the nearest interior point.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

__all__ = ['at_ends', 'inward', 'part_ties']


def at_ends(transform, y):
    """Whether each entry of a concrete `y` is the value of `forward` at the largest or smallest theta."""
    return _is_end(transform, y, 1) | _is_end(transform, y, -1)


def _at(transform, y, theta):
    return transform._fwd(jnp.full(y.shape, theta, y.dtype))


def _furthest(transform, y, sign):
    """The value at an extreme theta."""
    most = float(jnp.finfo(y.dtype).max)
    return _at(transform, y, sign * most if sign > 0 or transform.unconstrained else 0.0)


def _is_end(transform, y, sign):
    end = _furthest(transform, y, sign)
    # Infinite only if the map overflows early, as an exponential does, or its input has overflowed.
    overflow = sign * 1e4 if transform.unconstrained else np.inf
    return (jnp.isfinite(y) & (y == end)) | (jnp.isinf(y) & (y == _at(transform, y, overflow)))


def inward(transform, y, where):
    """`y` with the entries at `where` moved from their bound to the nearest point inside with a finite theta."""
    eps, tiny, most = (float(getattr(jnp.finfo(y.dtype), name)) for name in ('eps', 'tiny', 'max'))
    up, down = (np.asarray(_furthest(transform, y, sign), 'f8') for sign in (1, -1))
    at_top = np.asarray(_is_end(transform, y, 1))
    start = np.clip(np.where(np.isfinite(np.asarray(y, 'f8')), y, np.where(at_top, up, down)), -most, most)
    # Steps of one unit in the last place, then of two, four, ...: most transforms need one.
    step = np.maximum(eps / 2 * np.abs(start), tiny)
    moved, open_ = y, where
    with np.errstate(all='ignore'):  # infinite ends, and steps that overflow
        towards = np.where(at_top, 1.0, -1.0) * np.where(up > down, -1.0, 1.0)
        for doubling in range(2 * jnp.finfo(y.dtype).nmant):
            if not np.any(np.asarray(open_)):
                break
            candidate = jnp.asarray(start + towards * step * 2.0**doubling, y.dtype)
            theta = transform._inv(candidate)
            good = open_ & transform._in(candidate) & jnp.isfinite(theta) & jnp.isfinite(transform._fwd(theta))
            moved, open_ = jnp.where(good, candidate, moved), open_ & ~good
    return moved


def part_ties(y):
    """A sorted vector along the last axis whose equal entries are moved up to the next numbers."""
    eps, tiny = (float(getattr(jnp.finfo(y.dtype), name)) for name in ('eps', 'tiny'))
    out = np.array(y, 'f8')
    for k in range(1, out.shape[-1]):
        before = out[..., k - 1]
        out[..., k] = np.maximum(out[..., k], before + np.maximum(2 * eps * np.abs(before), tiny))
    return jnp.asarray(out, y.dtype)
