"""The embedding's cases of the contract."""

import jax.numpy as jnp

from brainstate_prob import nn
from tests.nn.layers.cases import Case, indices

W = (('weight',),)


def case(name, *args, out_shape=(3,), paths=W, **kwargs):
    return Case(
        lambda: nn.Embedding(*args, **kwargs),
        (),
        out_shape,
        paths,
        inputs=indices(args[0]),
        name=name,
        differentiable=not kwargs.get('freeze'),
    )


SPEC = nn.ParamSpec(nn.init.Normal(), reg=nn.L2Reg())

CASES = [
    case('Embedding', 7, 3),
    case('matrix rows', 7, (2, 3), out_shape=(2, 3)),
    case('all options', 7, 3, padding_idx=-1, max_norm=0.5, scale_grad_by_freq=True),
    case('frozen', 7, 3, freeze=True),
    case(
        'ParamSpec',
        7,
        3,
        embedding_init=nn.ParamSpec(nn.init.Normal(), reg=nn.L2Reg()),
        paths=(('weight', 'weight', 'val'),),
    ),
    Case(
        lambda: nn.Embedding.from_pretrained(jnp.ones((5, 2), jnp.zeros(()).dtype), freeze=False),
        (),
        (2,),
        W,
        inputs=indices(5),
        name='from_pretrained',
        float16=False,
    ),
]
