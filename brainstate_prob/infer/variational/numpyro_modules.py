"""A repair of NumPyro's submodules where ArviZ 1.x was imported before it.

ArviZ 1.x loads NumPyro lazily. When a submodule is then imported by its full name (``import numpyro.distributions``),
Python's lazy loader leaves submodules out of their packages, and ``numpyro.factor`` fails with an AttributeError.
"""

from __future__ import annotations

import sys

import numpyro

__all__ = ['bind_submodules']


def bind_submodules() -> None:
    """Make each loaded submodule of NumPyro an attribute of its package, as importing it does."""
    _ = numpyro.__version__  # loads it, if it is still lazy
    for name in [name for name in sys.modules if name.startswith('numpyro.')]:
        package, _, child = name.rpartition('.')
        if package in sys.modules and not hasattr(sys.modules[package], child):
            setattr(sys.modules[package], child, sys.modules[name])
