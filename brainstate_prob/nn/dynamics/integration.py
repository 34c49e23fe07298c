"""Exponential Euler steps of ordinary and stochastic differential equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob import environ, random
from brainstate_prob.core.quantities import with_unit
from brainstate_prob.core.units import u
from brainstate_prob.nn.dynamics.diagonal import value_and_diagonal

__all__ = ['exp_euler_step']


def exp_euler_step(fn: Callable, *args, **kwargs) -> Any:
    """One step of ``dx = f(x, ...) dt (+ g(x, ...) dW)``.

    x <- x + dt phi(dt J) f(x), with phi(z) = (exp(z) - 1) / z and J the diagonal of the drift's Jacobian at x; with a
    diffusion g, plus g(x) sqrt(dt) times standard normal noise from `brainstate_prob.random`. Exact for a linear drift
    without coupling, otherwise of order one (Hochbruck and Ostermann 2010).

    Parameters
    ----------
    fn
        The drift ``f(x, *args, **kwargs)``, in the unit of x over the unit of ``dt``. It may read and write States.
    *args
        ``x``, then the other arguments; before them, if there is one, the diffusion ``g`` of the same arguments, in
        the unit of x over the square root of the unit of ``dt``.
    **kwargs
        Further arguments of both.

    Returns
    -------
    ``x`` one time step ``dt`` (of `environ`) later, in the unit and dtype of x.

    Raises
    ------
    TypeError
        If x is not floating, or an argument is not a function.
    ValueError
        If the drift has another shape than x.
    brainunit.UnitMismatchError
        If units do not fit, with the expected unit.

    Notes
    -----
    For an elementwise drift, detected from its operations, J costs one derivative, otherwise one for each entry of x.
    Coupling through another argument costs nothing.

    Examples
    --------
    >>> import brainunit as u
    >>> from brainstate_prob import environ, nn
    >>> def drift(v):
    ...     return (-60.0 * u.mV - v) / (10.0 * u.ms)
    >>> with environ.context(dt=1.0 * u.ms):
    ...     v = nn.exp_euler_step(drift, -50.0 * u.mV)
    >>> round(float(v / u.mV), 4)  # -60 + 10 exp(-1/10)
    -50.9516
    """
    if not callable(fn):
        raise TypeError(f'exp_euler_step needs a drift as its first argument, got {type(fn).__name__}.')
    diffusion = args[0] if args and callable(args[0]) else None
    args = args if diffusion is None else args[1:]
    if not args:
        raise TypeError('exp_euler_step needs the state: exp_euler_step(drift, x) or exp_euler_step(drift, noise, x).')
    dt = environ.get_dt()
    x, *rest = args
    unit, dt_unit = u.get_unit(x), u.get_unit(dt)
    x, step = jnp.asarray(u.get_mantissa(x)), u.get_mantissa(dt)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f'The state of exp_euler_step must hold floating numbers, got {x.dtype}.')

    def drift(x: jax.Array) -> jax.Array:
        value = fn(with_unit(x, unit), *rest, **kwargs)
        rate = _magnitude(value, unit / dt_unit, 'drift')
        if rate.shape != x.shape:
            raise ValueError(f'The drift must have the shape of the state, {x.shape}; it returned {rate.shape}.')
        return rate.astype(x.dtype)

    rate, slope = value_and_diagonal(drift, x)
    new = x + step * _phi(step * slope) * rate
    if diffusion is not None:
        scale = _magnitude(diffusion(with_unit(x, unit), *rest, **kwargs), unit / dt_unit**0.5, 'diffusion')
        new = new + scale * jnp.sqrt(step) * random.randn(*x.shape, dtype=x.dtype)
        if new.shape != x.shape:
            raise ValueError(f'The diffusion must broadcast to the state, {x.shape}; it returned {scale.shape}.')
    return with_unit(new.astype(x.dtype), unit)


def _magnitude(value: Any, unit: Any, what: str) -> jax.Array:
    """The numbers of ``value`` in ``unit``."""
    if not u.get_unit(value).has_same_dim(unit):
        raise u.UnitMismatchError(
            f'The {what} must be in {unit} (that of the state over that of dt, for a diffusion over its square root), '
            f'it returned {u.get_unit(value)}.'
        )
    return jnp.asarray(u.Quantity(value).to_decimal(unit))


def _phi(z: jax.Array) -> jax.Array:
    """(exp(z) - 1) / z, and its derivatives, without loss of digits around 0."""
    small = jnp.abs(z) < 0.5
    near = jnp.ones_like(z)
    for n in range(15, 1, -1):  # 1 + z/2 (1 + z/3 (1 + ...)): to rounding in double precision
        near = 1 + jnp.where(small, z, 0) / n * near
    return jnp.where(small, near, jnp.expm1(z) / jnp.where(small, 1, z))
