"""Whether a model is a network: layers of weights, whose values alone say little.

Hidden units can change places and signs without any effect on what is predicted. The posterior of the weights then has
many equal modes, a Gaussian around one of them covers weights that predict nothing like it, and chains of draws need
not agree about weights to agree about predictions.
"""

from __future__ import annotations

from collections.abc import Iterable

from brainstate_prob.infer.blocks import Entry

__all__ = ['is_network', 'is_weight']


def is_network(entries: Iterable[Entry]) -> bool:
    """Whether two or more parameters have two or more axes: weight matrices or kernels, one after another."""
    return sum(len(entry.shape) >= 2 for entry in entries) >= 2


def is_weight(entry: Entry) -> bool:
    """Whether a parameter of a network is one of its weights or biases, not a number of its own such as a noise."""
    return len(entry.shape) >= 1
