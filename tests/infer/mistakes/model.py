"""Mistakes in a model: what it returns, reads and writes."""

from brainstate_prob import infer
from tests.infer.mistakes.row import Mistake

ROWS = [
    Mistake('a class in place of a model', lambda: infer.Posterior(dict), ('takes a Module, got type', 'nn.Module')),
]
