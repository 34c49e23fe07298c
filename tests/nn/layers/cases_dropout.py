"""The dropout layers' cases of the contract."""

import functools

from brainstate_prob import nn
from tests.nn.layers.cases import Case

MADE = [
    (nn.Dropout, (8, 3)),
    (nn.Dropout1d, (5, 8)),
    (nn.Dropout2d, (2, 3, 8)),
    (nn.Dropout3d, (2, 3, 2, 8)),
    (nn.AlphaDropout, (8, 3)),
    (nn.FeatureAlphaDropout, (2, 3, 8)),
]

CASES = [
    *(
        Case(
            functools.partial(layer, 0.5),
            shape,
            shape,
            context={'fit': fit},
            random=fit,
            in_size=None,
            out_size=None,
            name=f'{layer.__name__} in {"training" if fit else "prediction"}',
        )
        for layer, shape in MADE
        for fit in (True, False)
    ),
    Case(lambda: nn.DropoutFixed(8), (8,), (8,), (('mask',),), context={'fit': True}, stateful=True),
]
