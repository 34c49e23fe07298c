"""The table of a model's parameters, as text and HTML."""

from __future__ import annotations

import dataclasses
import html
import math

from brainstate_prob.core import ParamState
from brainstate_prob.core.quantities import short
from brainstate_prob.graph.walk import Node, dotted, find_states, nodes, states
from brainstate_prob.nn.bijections import IdentityT
from brainstate_prob.nn.kinds import ParamNode

__all__ = ['ModelSummary', 'described_prior', 'summarize']

COLUMNS = ('path', 'shape', 'unit', 'transform', 'prior', 'trainable', 'value')


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """The rows of `Module.summary`: dicts with the keys path, shape, unit, transform, prior, trainable, value."""

    title: str
    rows: tuple[dict[str, str], ...]
    num_trained: int

    def __str__(self) -> str:
        widths = {c: max(len(c), *(len(row[c]) for row in self.rows), 0) if self.rows else len(c) for c in COLUMNS}
        lines = ['  '.join(c.ljust(widths[c]) for c in COLUMNS), '  '.join('-' * widths[c] for c in COLUMNS)]
        lines += ['  '.join(row[c].ljust(widths[c]) for c in COLUMNS) for row in self.rows]
        return '\n'.join(line.rstrip() for line in [self._head(), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = ''.join(f'<th style="text-align:left">{c}</th>' for c in COLUMNS)
        body = ''.join(
            '<tr>' + ''.join(f'<td style="text-align:left">{html.escape(row[c])}</td>' for c in COLUMNS) + '</tr>'
            for row in self.rows
        )
        return f'<p>{html.escape(self._head())}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def _head(self) -> str:
        return f'{self.title}: {self.num_trained} trained numbers'


def summarize(model: Node) -> ModelSummary:
    """The parameters below ``model``: every `Param`, `Const` and bare `ParamState`, by path.

    Examples
    --------
    >>> from brainstate_prob import nn
    >>> print(nn.Param([1.0, 2.0], t=nn.SoftplusT(), reg=nn.L2Reg(0.5)).summary())
    Param: 2 trained numbers
    path  shape  unit  transform             prior              trainable  value
    ----  -----  ----  --------------------  -----------------  ---------  -------
    .     (2,)   -     SoftplusT(lower=0.0)  L2Reg(weight=0.5)  yes        [1. 2.]
    """
    rows, owned, trained = {}, set(), 0
    for path, param in nodes(model, ParamNode).items():
        owned.add(param.val)
        trained += math.prod(param.val.value.shape) if param.fit else 0
        prior = '-' if param.reg is None else described_prior(param, model)
        rows[path] = _row(
            path,
            param.shape,
            param.unit,
            '-' if type(param.t) is IdentityT else repr(param.t),
            prior if param.prior_on == 'value' else f'{prior} on theta',
            param.fit,
            short(param.constrained()),
        )
    for path, state in states(model, ParamState).items():
        if state in owned:
            continue
        for keys, leaf in _leaves(state.value):
            trained += math.prod(leaf.shape)
            rows[(*path, *keys)] = _row(
                (*path, *keys), leaf.shape, getattr(leaf, 'unit', None), '-', '-', True, short(leaf)
            )
    ordered = tuple(rows[path] for path in sorted(rows, key=lambda p: tuple(map(str, p))))
    return ModelSummary(type(model).__name__, ordered, trained)


def _row(path, shape, unit, transform, prior, trainable, value) -> dict[str, str]:
    unit = '-' if unit is None or unit.is_unitless else str(unit)
    cells = (dotted(path) or '.', str(tuple(shape)), unit, transform, prior, 'yes' if trainable else 'no', value)
    return dict(zip(COLUMNS, cells, strict=True))


def described_prior(param: ParamNode, model: Node) -> str:
    """The prior on one line, with the paths of hyper-parameters that are Params of the model."""
    text = _one_line(param.reg)
    above = set(find_states(param.reg).values())
    if not above:
        return text
    for path, other in nodes(model, ParamNode).items():
        if other is not param and other.val in above:
            text = text.replace(_one_line(other), dotted(path))
    return text


def _one_line(x: object) -> str:
    return ' '.join(repr(x).split())


def _leaves(value):
    if isinstance(value, dict):
        for key in sorted(value):
            yield from (((key, *below), leaf) for below, leaf in _leaves(value[key]))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from (((i, *below), leaf) for below, leaf in _leaves(item))
    elif value is not None:
        yield (), value
