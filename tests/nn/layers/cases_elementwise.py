"""The element-wise layers' cases of the contract."""

import numpy as np

from brainstate_prob import nn
from tests.nn.layers.cases import Case

SHAPE = (4, 3)


def case(make, in_shape=SHAPE, out_shape=None, **kwargs):
    kwargs = {'in_size': None, 'out_size': None, **kwargs}
    return Case(make, in_shape, in_shape if out_shape is None else out_shape, **kwargs)


def spikes(shape, dtype):
    x = np.random.default_rng(1).integers(0, 2, (2, *shape))
    return tuple(x.astype(dtype))


PLAIN = [
    nn.ReLU, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.SiLU, nn.Mish, nn.Hardswish, nn.SELU, nn.LogSigmoid, nn.Softplus,
    nn.Softsign, nn.Tanhshrink, nn.ReLU6, nn.Hardtanh, nn.ELU, nn.CELU, nn.GELU, nn.Hardshrink, nn.LeakyReLU,
    nn.Softshrink, nn.Softmin, nn.Softmax, nn.LogSoftmax, nn.Identity,
]  # fmt: skip

SPEC = nn.ParamSpec(0.3, t=nn.SigmoidT())

CASES = [
    *(case(layer) for layer in PLAIN),
    case(lambda: nn.Threshold(0.1, 2.0)),
    case(nn.RReLU, random=True),
    case(lambda: nn.RReLU(0.1, 0.2), context={'fit': False}, name='RReLU not in training'),
    case(nn.PReLU, paths=(('weight',),)),
    case(lambda: nn.PReLU(3), paths=(('weight',),), bad=((4, 2),), name='PReLU of channels'),
    case(
        lambda: nn.PReLU(init=nn.ParamSpec(0.3, t=nn.SigmoidT())),
        paths=(('weight', 'weight', 'val'),),
        name='PReLU ParamSpec',
    ),
    case(lambda: nn.GLU(in_size=(4, 6)), (4, 6), (4, 3), in_size='shape', out_size='shape', bad=((4, 5),)),
    case(lambda: nn.GLU(dim=-2), (4, 6), (2, 6), bad=((3, 6),), name='GLU of rows'),
    case(nn.Softmax2d, (4, 3, 2), bad=((4, 3), (1, 1, 4, 3, 2))),
    case(nn.SpikeBitwise, inputs=spikes),
    case(lambda: nn.SpikeBitwise('xor'), inputs=spikes, name='SpikeBitwise xor'),
]
