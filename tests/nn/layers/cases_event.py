"""Sparse and event-driven connections."""

import jax

from brainstate_prob import nn
from brainstate_prob.nn import init
from tests.nn.layers.cases import Case


def spikes(shape, dtype):
    """Zeros and ones."""
    return ((jax.random.uniform(jax.random.key(1), shape) < 0.4).astype(dtype),)


INDICES, WEIGHT = ('indices',), ('weight',)
BOTH = (INDICES, WEIGHT)

CASES = [
    Case(lambda: nn.FixedNumConn((2, 6), (2, 5), 3, init.Normal(), 'pre', seed=1), (2, 6), (2, 5), BOTH),
    Case(
        lambda: nn.FixedNumConn(6, 5, 2, init.Normal(), afferent_ratio=0.5, allow_multi_conn=False, seed=1),
        (6,),
        (5,),
        (INDICES, ('sources',), WEIGHT),
        name='half of the inputs',
    ),
    Case(lambda: nn.EventFixedNumConn(6, 5, 0.5, 0.5, seed=1), (6,), (5,), BOTH, inputs=spikes),
    Case(lambda: nn.EventLinear(6, 5, init.Normal()), (6,), (5,), (WEIGHT,), inputs=spikes),
]
