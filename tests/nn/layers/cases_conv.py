"""The convolutions' cases of the contract."""

from brainstate_prob import nn
from tests.nn.layers.cases import Case

WEIGHT = (('weight',),)

CASES = [
    Case(lambda: nn.Conv1d((8, 3), 4, 3, b_init=0.1), (8, 3), (8, 4), WEIGHT),
    Case(lambda: nn.Conv2d((6, 5, 2), 4, 3, stride=2, groups=2), (6, 5, 2), (3, 3, 4), WEIGHT),
    Case(lambda: nn.Conv3d((4, 3, 3, 2), 2, 2, padding='VALID'), (4, 3, 3, 2), (3, 2, 2, 2), WEIGHT),
    Case(
        lambda: nn.Conv2d((2, 6, 5), 4, 3, b_init=0.1, channel_first=True),
        (2, 6, 5),
        (4, 6, 5),
        WEIGHT,
        name='Conv2d channels first',
    ),
    Case(lambda: nn.ScaledWSConv1d((8, 3), 4, 3), (8, 3), (8, 4), WEIGHT),
    Case(lambda: nn.ScaledWSConv2d((6, 5, 2), 4, 3), (6, 5, 2), (6, 5, 4), WEIGHT),
    Case(lambda: nn.ScaledWSConv3d((4, 3, 3, 2), 2, 2), (4, 3, 3, 2), (4, 3, 3, 2), WEIGHT),
    Case(lambda: nn.ConvTranspose1d((4, 3), 2, 3, stride=2, b_init=0.1), (4, 3), (8, 2), WEIGHT),
    Case(lambda: nn.ConvTranspose2d((3, 2, 2), 4, 3, stride=2, groups=2), (3, 2, 2), (6, 4, 4), WEIGHT),
    Case(lambda: nn.ConvTranspose3d((2, 2, 2, 2), 2, 2, padding='VALID'), (2, 2, 2, 2), (3, 3, 3, 2), WEIGHT),
]
