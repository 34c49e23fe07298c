"""The normalization layers' cases of the contract."""

from brainstate_prob import nn
from tests.nn.layers.cases import Case

RUNNING = (('running_mean',), ('running_var',), ('weight',))
WEIGHT = (('weight',),)
SIZES = {0: (3,), 1: (5, 3), 2: (5, 4, 3), 3: (5, 4, 2, 3)}


def batch_norm(n, fit):
    size = SIZES[n]
    return Case(
        lambda: getattr(nn, f'BatchNorm{n}d')(size),
        size,
        size,
        RUNNING,
        context={'fit': fit},
        mixes_batch=fit,
        stateful=fit,
        name=f'BatchNorm{n}d in {"training" if fit else "prediction"}',
    )


CASES = [
    *(batch_norm(n, fit) for n in SIZES for fit in (False, True)),
    Case(
        lambda: nn.BatchNorm1d((5, 3), track_running_stats=False, affine=False),
        (5, 3),
        (5, 3),
        mixes_batch=True,
        name='BatchNorm1d without States',
    ),
    Case(lambda: nn.LayerNorm((5, 3)), (5, 3), (5, 3), WEIGHT),
    Case(lambda: nn.LayerNorm((5, 3), (0, 1), (0, 1)), (5, 3), (5, 3), WEIGHT, name='LayerNorm of two axes'),
    Case(lambda: nn.RMSNorm((5, 3)), (5, 3), (5, 3), WEIGHT),
    Case(lambda: nn.GroupNorm((5, 6), num_groups=3), (5, 6), (5, 6), WEIGHT),
    Case(lambda: nn.GroupNorm((6, 5), 0, None, 3), (6, 5), (6, 5), WEIGHT, name='GroupNorm channels first'),
]
