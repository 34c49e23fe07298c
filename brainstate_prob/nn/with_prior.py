"""with_prior: add priors and transforms to the parameters of a whole model, selected by filters."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from brainstate_prob import graph
from brainstate_prob.core import ParamState, State, to_predicate
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import children, dotted
from brainstate_prob.nn.bijections import IdentityT, Transform
from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Const, Param
from brainstate_prob.nn.priors import Regularization
from brainstate_prob.nn.weights import ParamSpec, Weights

__all__ = ['PriorReport', 'warn_of_unmatched', 'with_prior']


class PriorReport(NamedTuple):
    """The report of `with_prior`: priors by dotted path, unchanged parameters, filters without match."""

    attached: dict[str, ParamSpec]
    kept: list[str]
    unmatched: list[Any]

    def __repr__(self) -> str:
        rows = [(path, repr(spec)) for path, spec in self.attached.items()]
        rows += [(path, 'as it was') for path in self.kept]
        width = max((len(path) for path, _ in rows), default=0)
        lines = [f'{path:<{width}}  {what}' for path, what in rows]
        lines += [f'no parameter matches {what!r}' for what in self.unmatched]
        return '\n'.join(lines)


def with_prior(model: Module, priors: Mapping[Any, Any], *, replace: bool = False, return_report: bool = False) -> Any:
    """Copy a model with priors and transforms on its parameters: turns a network into a Bayesian network.

    Parameters
    ----------
    model
        Any Module; it is not changed. Shared parameters stay shared in the copy.
    priors
        Filters and the priors of the parameters that match; the first matching filter counts. A filter is a layer class
        (``nn.Linear``: all its arrays), a pattern of dotted paths (``'*.bias'``), a path prefix (``('layers', 0)``), a
        State type, a predicate of ``(path, state)``, or ``...`` for all. A prior is a NumPyro distribution, a
        regularization, a `ParamSpec` (with a transform, dims, ...), a function of ``(path, value)`` that returns one of
        these (a scale by fan-in, say), or None for no prior. Only a `ParamSpec` changes the transform of a `Param`.
    replace
        Whether to replace existing priors.
    return_report
        Also return the report.

    Returns
    -------
    Module or (Module, PriorReport)
        In the copy a State with a dict of arrays is a `Weights` node: ``('weight',)`` becomes
        ``('weight', 'bias', 'val')`` and ``('weight', 'weight', 'val')``. Values are unchanged.

    Warns
    -----
    UserWarning
        For a filter that matches nothing.

    Examples
    --------
    >>> import jax, numpyro.distributions as dist
    >>> from brainstate_prob import nn
    >>> network = nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 1))
    >>> bayesian, report = nn.with_prior(
    ...     network,
    ...     {'*.bias': dist.Normal(0.0, 1.0), ...: lambda path, value: dist.Normal(0.0, value.shape[0] ** -0.5)},
    ...     return_report=True,
    ... )
    >>> sorted(report.attached)
    ['layers.0.weight.bias', 'layers.0.weight.weight', 'layers.2.weight.bias', 'layers.2.weight.weight']
    """
    if not isinstance(model, Module):
        raise TypeError(f'with_prior takes a Module, got {type(model).__name__}.')
    rules = [_Rule(key, prior) for key, prior in priors.items()]
    copy = graph.clone(model)
    attacher = _Attacher(rules, replace)
    if isinstance(copy, Param):
        copy = attacher.rebuild(copy, (), ())
    else:
        attacher.visit(copy, (), ())
    unmatched = [rule.key for rule in rules if not rule.used]
    report = PriorReport(attacher.attached, attacher.kept, unmatched)
    if not return_report:
        warn_of_unmatched(report, 'with_prior')
    return (copy, report) if return_report else copy


def warn_of_unmatched(report: PriorReport, caller: str) -> None:
    """Warn the user of the function ``caller`` of filters that matched nothing."""
    if report.unmatched:
        known = ', '.join([*report.attached, *report.kept]) or 'none'
        warnings.warn(
            f'{caller}: no parameter matches {", ".join(map(repr, report.unmatched))}. The parameters are: {known}.',
            UserWarning,
            stacklevel=3,
        )


class _Rule:
    """One filter and its prior."""

    def __init__(self, key: Any, prior: Any):
        self.key = key
        self.prior = prior
        self.used = False
        if isinstance(key, type) and issubclass(key, Module):
            self.matches: Callable = lambda path, state, owners: any(isinstance(o, key) for o in owners)
        elif isinstance(key, str):
            self.matches = lambda path, state, owners: fnmatch.fnmatchcase(dotted(path), key) or state.tag == key
        else:
            predicate = to_predicate(key)
            self.matches = lambda path, state, owners: predicate(path, state)

    def spec(self, path: tuple, value: Any, t: Transform) -> ParamSpec | None:
        prior = self.prior
        if callable(prior) and not isinstance(prior, ParamSpec | Regularization | type) and not _is_distribution(prior):
            prior = prior(path, value)
        if prior is None or isinstance(prior, ParamSpec):
            return prior
        return ParamSpec(t=t, reg=prior)


def _is_distribution(x: Any) -> bool:
    import numpyro.distributions as dist

    return isinstance(x, dist.Distribution)


class _Attacher:
    """Walk the copy and put Params where a rule matches."""

    def __init__(self, rules: list[_Rule], replace: bool):
        self.rules = rules
        self.replace = replace
        self.attached: dict[str, ParamSpec] = {}
        self.kept: list[str] = []
        self.done: dict[int, Any] = {}
        self.alive: list[Any] = []  # keeps the ids in `done` unique

    def visit(self, node: Module, path: tuple, owners: tuple) -> None:
        """Rebuild the attributes of a module in place."""
        if id(node) in self.done:
            return
        self.remember(node, node)
        for name, value in list(children(node)):
            new = self.rebuild(value, (*path, name), (*owners, node))
            if new is not value:
                setattr(node, name, new)

    def rebuild(self, value: Any, path: tuple, owners: tuple) -> Any:
        """``value`` with Params in place of matching entries."""
        if isinstance(value, dict):
            new: Any = {k: self.rebuild(x, (*path, k), owners) for k, x in value.items()}
            return new if any(new[k] is not value[k] for k in new) else value
        if isinstance(value, list | tuple):
            items = [self.rebuild(x, (*path, i), owners) for i, x in enumerate(value)]
            same = all(a is b for a, b in zip(items, value, strict=True))
            return value if same else type(value)(items)
        if isinstance(value, Param | ParamState) and id(value) in self.done:
            return self.done[id(value)]
        if isinstance(value, Param):
            return self.remember(value, self.param(value, path, owners))
        if isinstance(value, ParamState):
            return self.remember(value, self.state(value, path, owners))
        if isinstance(value, Module) and not isinstance(value, Regularization):
            self.visit(value, path, owners)
        return value

    def remember(self, old: Any, new: Any) -> Any:
        self.done[id(old)] = new
        self.alive.append(old)
        return new

    def param(self, param: Param, path: tuple, owners: tuple) -> Param:
        if isinstance(param, Const) or not param.fit:
            return param
        spec = self.match(path, param.val, param.constrained(), owners, param.t)
        if spec is None or (param.reg is not None and not self.replace):
            self.kept.append(dotted(path))
            return param
        self.attached[dotted(path)] = spec
        return spec.of(param.constrained())

    def state(self, state: ParamState, path: tuple, owners: tuple) -> ParamState | Weights:
        value = state.value
        if not isinstance(value, dict):
            if isinstance(value, jax.Array | u.Quantity):
                spec = self.match(path, state, value, owners)
                if spec is not None:
                    self.attached[dotted(path)] = spec
                    return Weights(spec.of(value))
            self.kept.append(dotted(path))
            return state
        specs = {k: self.match((*path, k), state, x, owners) for k, x in value.items()}
        for k, spec in specs.items():
            if spec is None:
                self.kept.append(dotted((*path, k)))
            else:
                self.attached[dotted((*path, k))] = spec
        if not any(specs.values()):
            return state
        return Weights(
            {
                k: Param(x) if spec is None else spec.of(x)
                for (k, spec), x in zip(specs.items(), value.values(), strict=True)
            }
        )

    def match(
        self,
        path: tuple,
        state: State,
        value: Any,
        owners: tuple,
        t: Transform = IdentityT(),  # noqa: B008  (a value object without state)
    ) -> ParamSpec | None:
        for rule in self.rules:
            if rule.matches(path, state, owners):
                rule.used = True
                return rule.spec(path, value, t)
        return None
