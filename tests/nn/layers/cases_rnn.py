"""Recurrent cells, and wrappers around layers."""

from brainstate_prob import HiddenState, nn
from tests.nn.layers.cases import Case

C, H, W = ('c',), ('h',), ('W', 'weight')

CASES = [
    Case(lambda: nn.ValinaRNNCell(3, 4, activation='tanh'), (3,), (4,), (W, H), stateful=True),
    Case(lambda: nn.GRUCell(3, 4), (3,), (4,), (('Wh', 'weight'), ('Wrz', 'weight'), H), stateful=True),
    Case(lambda: nn.MGUCell(3, 4), (3,), (4,), (('Wf', 'weight'), ('Wh', 'weight'), H), stateful=True),
    Case(lambda: nn.LSTMCell(3, 4), (3,), (4,), (W, C, H), stateful=True),
    Case(lambda: nn.URLSTMCell(3, 4), (3,), (4,), (W, ('bias',), C, H), stateful=True),
    Case(
        lambda: nn.EnvironContext(nn.Linear(3, 4), fit=False),
        (3,),
        (4,),
        (('layer', 'weight'),),
        bad=(),  # the layer inside says it: tests/nn/layers/test_wrappers.py
    ),
    Case(
        lambda: nn.Vmap(nn.Linear(3, 4), vmap_states=HiddenState),
        (2, 3),
        (2, 4),
        (('module', 'weight'),),
        in_size=(3,),
        out_size=(4,),
        batched=False,
        bad=(),
    ),
]
