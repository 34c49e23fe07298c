"""Standardization of activations and of the weights of a layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from brainstate_prob.nn.functional.units import takes_numbers

__all__ = ['standardize', 'weight_standardization']


@takes_numbers
def standardize(x: Any, axis: Any = -1, variance: Any = None, epsilon: float = 1e-5, where: Any = None) -> jax.Array:
    """(x − mean) / √(variance + ε) along ``axis``, an int or several.

    Parameters
    ----------
    variance
        Used in place of the variance of ``x``; it broadcasts against ``x``.
    where
        Whether an entry counts in mean and variance.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> nn.standardize(jnp.array([1.0, 3.0]))
    Array([-0.999995,  0.999995], dtype=float32)
    """
    x = jnp.asarray(x)
    if variance is None:  # in two passes: the default of jax.nn subtracts squares and loses digits
        variance = jnp.var(x, axis, keepdims=True, where=where)
    return jax.nn.standardize(x, axis, variance=variance, epsilon=epsilon, where=where)


@takes_numbers
def weight_standardization(w: Any, eps: float = 1e-4, gain: Any = None, out_axis: int = -1) -> jax.Array:
    """(w − mean)·gain / √(max(variance·fan_in, eps)): every output's weights have mean 0 and squared norm 1.

    Parameters
    ----------
    w
        Weights or a kernel; ``fan_in`` is the number of entries per output.
    eps
        Avoids division by 0 if all weights are equal.
    gain
        A factor per output: of shape (outputs,), or one that broadcasts against ``w``.
    out_axis
        The axis of the outputs.

    Raises
    ------
    ValueError
        For a vector or a scalar, which have no fan_in.

    References
    ----------
    Qiao et al. 2019, arXiv:1903.10520; scaled as in Brock et al. 2021, arXiv:2101.08692.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate_prob import nn
    >>> w = nn.weight_standardization(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> bool(jnp.allclose(w, jnp.array([[-(0.5**0.5), 0.0], [0.5**0.5, 0.0]]), atol=1e-6))
    True
    """
    w = jnp.asarray(w)
    if w.ndim < 2:
        raise ValueError(f'weight_standardization takes weights of two axes or more, got shape {w.shape}.')
    out_axis = range(w.ndim)[out_axis]
    axes = tuple(i for i in range(w.ndim) if i != out_axis)
    fan_in = w.size // max(w.shape[out_axis], 1)
    scale = jax.lax.rsqrt(jnp.maximum(jnp.var(w, axes, keepdims=True) * fan_in, eps))
    if gain is not None:
        gain = jnp.asarray(gain)
        scale = scale * (jnp.expand_dims(gain, axes) if gain.ndim == 1 else gain)
    return (w - jnp.mean(w, axes, keepdims=True)) * scale
