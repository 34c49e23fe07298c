"""The linear layers' cases of the contract."""

import numpy as np
import numpyro.distributions as dist
from jax.experimental import sparse

from brainstate_prob import nn
from tests.nn.layers.cases import Case

WEIGHT = (('weight',),)
# A diagonal and two more: every row and column has an entry.
MATRIX = np.eye(3, 4) + np.eye(3, 4, 1)

CASES = [
    Case(lambda: nn.Linear(3, 4), (3,), (4,), WEIGHT),
    Case(lambda: nn.Linear((2, 3), (2, 4), b_init=None), (2, 3), (2, 4), WEIGHT, name='Linear of two axes'),
    Case(lambda: nn.Linear(3, 4, w_mask=np.tri(3, 4) > 0), (3,), (4,), WEIGHT, name='Linear masked'),
    Case(
        lambda: nn.Linear(3, 4, w_init=nn.ParamSpec(reg=dist.Normal(0.0, 1.0))),
        (3,),
        (4,),
        (('weight', 'bias', 'val'), ('weight', 'weight', 'val')),
        float16=False,
        name='Linear with a prior',
    ),
    Case(lambda: nn.ScaledWSLinear(3, 4), (3,), (4,), WEIGHT),
    Case(lambda: nn.SignedWLinear(3, 4, w_sign=np.array([[1.0], [-1.0], [1.0]])), (3,), (4,), WEIGHT),
    Case(lambda: nn.SignedWLinear((2, 3), 4), (2, 3), (4,), WEIGHT, name='SignedWLinear of two axes'),
    Case(lambda: nn.SparseLinear(sparse.BCOO.fromdense(MATRIX), b_init=0.1), (3,), (4,), WEIGHT, float16=False),
    Case(lambda: nn.LoRA(3, 2, 4), (3,), (4,), WEIGHT),
    Case(
        lambda: nn.LoRA(3, 2, 4, base_module=nn.Linear(3, 4)),
        (3,),
        (4,),
        (('base_module', 'weight'), ('weight',)),
        name='LoRA of a Linear',
    ),
    Case(lambda: nn.AllToAll(3, 4, include_self=False), (3,), (4,), WEIGHT),
    Case(lambda: nn.AllToAll(3, 4, 0.5, b_init=0.1), (3,), (4,), WEIGHT, name='AllToAll of one weight'),
    Case(lambda: nn.OneToOne((2, 3), b_init=0.1), (2, 3), (2, 3), WEIGHT),
]
