"""The samplers behind `nuts`: whose transition moves a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

__all__ = ['BACKENDS', 'Info', 'Point', 'check_installed', 'transition_of']

BACKENDS = ('numpyro', 'blackjax', 'nutpie')


class Point(NamedTuple):
    """Where a chain stands, in its own coordinates: w, the potential energy and its gradient."""

    w: jax.Array
    potential: jax.Array
    grad: jax.Array


class Info(NamedTuple):
    """What a transition was like."""

    energy: jax.Array
    acceptance: jax.Array
    num_steps: jax.Array
    tree_depth: jax.Array
    diverging: jax.Array


# (potential, point, key, step size, deepest tree) -> (point, next key, info), for unit mass
Transition = Callable[[Callable, Point, jax.Array, jax.Array, int], tuple[Point, jax.Array, Info]]


def check_installed(backend: str) -> None:
    """Import the backend.

    Raises
    ------
    ImportError
        Saying how to install it.
    """
    if backend == 'blackjax':
        from brainstate_prob.infer.mcmc.backends.blackjax import import_blackjax

        import_blackjax()
    elif backend == 'nutpie':
        from brainstate_prob.infer.mcmc.nutpie import import_nutpie

        import_nutpie()


def transition_of(backend: str) -> Transition:
    """The NUTS transition of a backend that runs inside compiled code."""
    if backend == 'numpyro':
        from brainstate_prob.infer.mcmc.backends.numpyro import transition
    else:
        from brainstate_prob.infer.mcmc.backends.blackjax import transition
    return transition
