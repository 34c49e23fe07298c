"""The cases of pooling, padding and reshaping in the contract."""

import functools

from brainstate_prob import nn
from tests.nn.layers.cases import Case, normal

SIZES = {1: (8, 3), 2: (8, 6, 3), 3: (8, 6, 4, 3)}
HALF = {1: (4, 3), 2: (4, 3, 3), 3: (4, 3, 2, 3)}
DOUBLE = {1: (16, 3), 2: (16, 12, 3), 3: (16, 12, 8, 3)}
PADDED = {1: (9, 3), 2: (9, 7, 3), 3: (9, 7, 5, 3)}


def maxima(n):
    """Pooled values and where they stood, all of one input."""
    pool = getattr(nn, f'MaxPool{n}d')(2, return_indices=True)

    def inputs(shape, dtype):
        return pool(normal((*shape[: len(shape) - n - 1], *(2 * m for m in shape[-n - 1 : -1]), shape[-1]), dtype)[0])

    return inputs


def case(name, in_shape, out_shape, *args, inputs=normal, note='', **kwargs):
    make = functools.partial(getattr(nn, name), *args, in_size=in_shape, **kwargs)
    return Case(make, in_shape, out_shape, inputs=inputs, name=name + note)


def windowed(n):
    size = SIZES[n]
    target = (3,) * n
    return [
        case(f'AvgPool{n}d', size, HALF[n], 2, 2),
        case(f'MaxPool{n}d', size, HALF[n], 2),
        case(f'MaxPool{n}d', size, HALF[n], 2, return_indices=True, note=' indices'),
        case(f'LPPool{n}d', size, HALF[n], 2, 2),
        case(f'MaxUnpool{n}d', size, DOUBLE[n], 2, inputs=maxima(n)),
        case(f'AdaptiveAvgPool{n}d', size, (*target, 3), 3),
        case(f'AdaptiveMaxPool{n}d', size, (*target, 3), 3),
    ]


def padded(n):
    size, pads = SIZES[n], (1, 0) * n
    made = [case(f'{kind}Pad{n}d', size, PADDED[n], pads) for kind in ('Reflection', 'Replication', 'Zero', 'Circular')]
    return [*made, case(f'ConstantPad{n}d', size, PADDED[n], pads, 0.5)]


CASES = [
    *(case for n in (1, 2, 3) for case in (*windowed(n), *padded(n))),
    Case(
        lambda: nn.MaxPool2d(2, channel_axis=-3, in_size=(3, 8, 6)),
        (3, 8, 6),
        (3, 4, 3),
        name='MaxPool2d channels first',
    ),
    Case(lambda: nn.AvgPool1d(2, 2, channel_axis=None), (8,), (4,), in_size=None, out_size=None, name='AvgPool1d bare'),
    Case(lambda: nn.Flatten(in_size=(4, 3)), (4, 3), (12,)),
    Case(lambda: nn.Flatten(1, -1, in_size=(2, 4, 3)), (2, 4, 3), (2, 12), name='Flatten some axes'),
    Case(lambda: nn.Unflatten(0, (2, -1), in_size=(4, 3)), (4, 3), (2, 2, 3)),
]
