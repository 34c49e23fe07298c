"""Whether a model is a network: layers of weights, whose values alone say little.

Hidden units can change places and signs without any effect on what is predicted. The posterior of the weights then has
many equal modes, a Gaussian around one of them covers weights that predict nothing like it, and chains of draws need
not agree about weights to agree about predictions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.variables import columns_of

__all__ = ['is_network', 'own_columns']


def is_network(entries: Iterable[Entry]) -> bool:
    """Whether two or more parameters have two or more axes: weight matrices or kernels, one after another."""
    return sum(len(entry.shape) >= 2 for entry in entries) >= 2


def own_columns(density: Density) -> np.ndarray:
    """Where numbers lie in theta that have a meaning of their own: all, but for the weights of a network."""
    if not is_network(density.entries):
        return np.arange(density.size)
    weights = {entry.name for entry in density.entries if entry.shape}  # and biases; a noise is one number
    found = [columns for name, columns in columns_of(density).items() if name not in weights]
    return np.sort(np.concatenate(found)) if found else np.arange(0)
