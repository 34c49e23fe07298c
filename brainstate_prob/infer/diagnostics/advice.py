"""Advice on each finding: options of the way to fit that are not in use yet.

A finding is its kind and the facts that the advice depends on; the wording here serves all ways to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ['KINDS', 'OPTIONS', 'advice', 'elsewhere', 'way_of']

_CHAINS = ('num_warmup', 'num_samples')
# The options that advice may name, by way to fit.
OPTIONS: dict[str, tuple[str, ...]] = {
    'nuts': (*_CHAINS, 'target_accept', 'max_tree_depth', 'mass_matrix', 'noncentered', 'init'),
    'chees': (*_CHAINS, 'target_accept', 'noncentered', 'init'),
    'meads': (*_CHAINS, 'noncentered', 'init'),
    'mclmc': (*_CHAINS, 'energy_variance', 'noncentered', 'init'),
    'barker': (*_CHAINS, 'target_accept', 'noncentered', 'init'),
    'hmc_ecs': (*_CHAINS, 'batch_size', 'target_accept', 'max_tree_depth', 'mass_matrix', 'noncentered'),
    'elliptical_slice': (*_CHAINS, 'init'),
    'sgmcmc': (*_CHAINS, 'step_size', 'precondition', 'init'),
    'smc': ('num_particles', 'num_moves', 'target_ess', 'noncentered'),
    'pathfinder': ('init', 'num_paths', 'noncentered'),
    'svi': ('guide', 'num_steps', 'num_particles', 'optimizer', 'init', 'noncentered'),
    'map': ('num_steps', 'optimizer', 'init'),
    'laplace': ('init', 'noncentered'),
    'marginal_likelihood': ('num_steps',),
    'ensemble': ('num_steps', 'optimizer'),
    'swag': ('optimizer',),
    'mc_dropout': ('num_steps', 'optimizer'),
}
_OF_SGMCMC = ('sgld', 'sghmc', 'cyclical_sgld', 'cyclical_sghmc')
_FEW = 200  # the largest size of theta with a dense mass matrix
_HIGHEST_ACCEPT = 0.99
# From the poorest to the richest guide; richer ones than that in use are suggested.
_GUIDES = ('delta', 'diagonal', 'low_rank', 'laplace', 'full', 'dais', 'iaf', 'bnaf')
_SUGGESTED = ('low_rank', 'full', 'dais', 'iaf')


def way_of(method: str) -> str:
    """The way to fit that ``Fit.method`` belongs to."""
    return 'sgmcmc' if method in _OF_SGMCMC else method


class _Use:
    """The options of a way to fit, and their current values."""

    def __init__(self, method: str, used: Mapping[str, Any], facts: Mapping[str, Any]):
        self.way, self._used, self._facts = way_of(method), used, facts

    def has(self, name: str) -> bool:
        return name in OPTIONS.get(self.way, ())

    def now(self, name: str) -> Any:
        return self._used.get(name)

    def fact(self, name: str, default: Any = None) -> Any:
        return self._facts.get(name, default)

    def change(self, verb: str, *names: str, sense: str = '') -> str | None:
        """``raise num_samples (now 100)``, for those names that are options here."""
        known = [name for name in names if self.has(name)]
        told = [f'{name} (now {self._number(name)})' if self._number(name) else name for name in known]
        return f'{verb} {" and ".join(told)}{sense}' if told else None

    def _number(self, name: str) -> str | None:
        value = self.now(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return f'{value:g}' if known else None


def advice(kind: str, method: str, used: Mapping[str, Any], **facts: Any) -> str:
    """Advice in one sentence.

    Parameters
    ----------
    kind
        One of `KINDS`.
    method
        The way to fit, or `Fit.method`.
    used
        The values of its options, as in `Fit.info`.
    **facts
        Further facts: ``forms``, by path of each hierarchical parameter ``'centred'``,
        ``'non-centred'`` or how many of its numbers are; ``size`` of theta; ``support_moves``: whether bounds of the
        targets depend on parameters.

    Examples
    --------
    >>> advice('energy', 'nuts', {}, forms={'effect': 'centred'})
    "Move 'effect' non-centred (noncentered=True), which was centred; or use stronger priors."
    >>> advice('ess', 'chees', {'num_samples': 100})
    'Raise num_samples (now 100).'
    """
    texts = [text for text in KINDS[kind](_Use(method, used, facts)) if text]
    if not texts:
        return ''
    joined = '; or '.join(texts)
    return f'{joined[:1].upper()}{joined[1:]}.'


def elsewhere(init: Any) -> str:
    """Another start than ``init``, as an option."""
    return "init='prior'" if isinstance(init, str) and init == 'model' else "init='model'"


def _reparametrize(use: _Use) -> str | None:
    """The other parametrization of hierarchical parameters."""
    forms: dict[str, str] = use.fact('forms') or {}
    if not forms and use.fact('size') == 1:
        return None  # there are no others
    if not forms:
        return (
            'where a parameter is the scale of others, write these in the other form (non-centred, value = mean + '
            'scale * raw with raw ~ Normal(0, 1), if they are centred now)'
        )
    if not use.has('noncentered'):
        return None
    names = ', '.join(map(repr, forms))
    if use.now('form_by_data'):
        return _compared(forms)
    if set(forms.values()) == {'non-centred'}:
        return f'move {names} centred (noncentered=False), which {_were(forms)} non-centred'
    if set(forms.values()) == {'centred'}:
        return f'move {names} non-centred (noncentered=True), which {_were(forms)} centred'
    now = ', '.join(f'{name!r} {form}' for name, form in forms.items())
    return f'move hierarchical parameters in one form (noncentered=True or noncentered=False; now {now})'


def _compared(forms: dict[str, str]) -> str:
    """Suggest to compare other forms with those chosen by the data."""
    now = ', '.join(f'{name!r} {form}' for name, form in forms.items())
    others = [x for x, form in (('True', 'non-centred'), ('False', 'centred')) if set(forms.values()) != {form}]
    options = ' and '.join(f'noncentered={x}' for x in others)
    return f'compare {options} with what the data chose ({now})'


def _were(forms: dict[str, str]) -> str:
    return 'was' if len(forms) == 1 else 'were'


def _accept_more(use: _Use) -> str | None:
    now = use.now('target_accept')
    if use.fact('support_moves') or not use.has('target_accept') or (now is not None and now >= _HIGHEST_ACCEPT):
        return None
    return use.change('raise', 'target_accept', sense=f' towards {_HIGHEST_ACCEPT:g}')


def _correlations(use: _Use) -> str | None:
    if use.fact('size') == 1 or use.now('low_rank_harmed'):
        return None
    if not use.has('mass_matrix') or use.now('mass_matrix') not in (None, 'diagonal'):
        return None
    by_gradients = use.now('backend') == 'nutpie' or use.now('warmup') == 'gradient'
    if use.fact('size', 0) <= _FEW and not by_gradients:
        return "use mass_matrix='full' if parameters are correlated"
    return "use mass_matrix='low_rank' if parameters are correlated" if use.way == 'nuts' else None


def _divergences(use: _Use) -> list[str | None]:
    longer = 'sample with infer.nuts, which adapts its step size' if use.way == 'meads' else None
    smaller = [_accept_more(use), use.change('lower', 'energy_variance')]
    # A form that the data chose is rarely the cause.
    first = [*smaller, _reparametrize(use)] if use.now('form_by_data') else [_reparametrize(use), *smaller]
    return [_moving_support(use), *first, longer, 'use stronger priors']


def _moving_support(use: _Use) -> str | None:
    if not use.fact('support_moves'):
        return None
    return (
        'keep the support of the targets, whose bounds move with parameters, around all observations: at the outermost '
        'one the density drops to zero, where steps of any size diverge. A transform does so, t=nn.ExpT(targets.max()) '
        'for an upper bound'
    )


def _r_hat(use: _Use) -> list[str | None]:
    form = _reparametrize(use) if use.fact('forms') else None
    more = use.change('raise', *_CHAINS)
    return [more, form, 'look for several modes, or parameters that the data cannot tell apart']


def _ess(use: _Use) -> list[str | None]:
    form = _reparametrize(use) if use.fact('forms') else None
    return [use.change('raise', 'num_samples') or 'take more draws', _correlations(use), form]


def _tree_depth(use: _Use) -> list[str | None]:
    return [_correlations(use), 'put inputs on one scale', use.change('raise', 'max_tree_depth')]


def _energy(use: _Use) -> list[str | None]:
    return [_reparametrize(use), 'use stronger priors']


def _low_rank(use: _Use) -> list[str | None]:
    return [
        "use mass_matrix='diagonal' from the start (a low-rank one fits no funnel, nor several scales in a direction)"
    ]


def _normal(use: _Use) -> list[str | None]:
    form = _reparametrize(use) if use.fact('forms') else None
    return [form, 'sample with infer.nuts(posterior, init=fit)']


def _variance(use: _Use) -> list[str | None]:
    return [use.change('raise', 'batch_size'), 'where the posterior is wide or has several modes, use infer.nuts']


def _copies(use: _Use) -> list[str | None]:
    return [use.change('raise', name) for name in ('num_moves', 'target_ess', 'num_particles')]


def _temperature(use: _Use) -> list[str | None]:
    return [use.change('lower', 'target_ess'), 'use narrower priors']


def _paths(use: _Use) -> list[str | None]:
    return ['use the draws as starts: infer.nuts(posterior, init=fit)']


def _guide(use: _Use) -> list[str | None]:
    now = use.now('guide')
    rank = _GUIDES.index(now) if now in _GUIDES else len(_GUIDES)
    richer = [repr(g) for g in _SUGGESTED if _GUIDES.index(g) > rank]
    text = f'use a richer guide ({", ".join(richer)})' if richer else None
    return [text, use.change('raise', 'num_steps', 'num_particles'), 'sample with infer.nuts']


def _few_steps(use: _Use) -> list[str | None]:
    if use.now('stopped') == 'interrupted':
        return ['run it again, to the end']
    more = use.change('raise', 'num_steps')
    if use.way == 'svi':
        return [more, use.change('raise', 'num_particles'), 'use a larger learning rate (optimizer)']
    infinity = 'look whether the mode lies at infinity (a scale that goes to zero, say)'
    return [more, 'scale the inputs', None if use.way == 'ensemble' else infinity]


def _far_from_mode(use: _Use) -> list[str | None]:
    if not _is(use.now('init'), 'map'):
        return ['take more steps to the mode (infer.map with jacobian=True)', "leave init='map'"]
    return ['scale the inputs', 'look whether the mode lies at infinity (a scale that goes to zero, say)']


def _not_finite(use: _Use) -> list[str | None]:
    rate = 'use a smaller learning rate (optimizer)' if use.has('optimizer') else None
    if use.way == 'svi':
        rate = 'use a smaller learning rate, e.g. optimizer=optax.adam(1e-3)' if use.now('optimizer') is None else rate
    step = use.change('use a smaller', 'step_size')
    scaled = 'use precondition=True' if use.has('precondition') and not use.now('precondition') else None
    mode = use.now('init')
    at_mode = "start at the mode (init='map')" if use.way == 'svi' and not _is(mode, 'map') else None
    particles = use.change('raise', 'num_particles') if use.way == 'svi' else None
    return [rate, step, scaled, particles, at_mode, 'scale the inputs', 'see posterior.check()']


def _start(use: _Use) -> list[str | None]:
    init = f'start elsewhere, e.g. with {elsewhere(use.now("init"))}' if use.has('init') else None
    return [init, "set the model's parameters", 'use wider priors or a wider likelihood']


def _is(x: Any, text: str) -> bool:
    return isinstance(x, str) and x == text


KINDS: dict[str, Callable[[_Use], list[str | None]]] = {
    'divergences': _divergences,
    'r_hat': _r_hat,
    'ess': _ess,
    'tree_depth': _tree_depth,
    'energy': _energy,
    'low_rank': _low_rank,
    'normal': _normal,
    'variance': _variance,
    'copies': _copies,
    'temperature': _temperature,
    'paths': _paths,
    'guide': _guide,
    'few_steps': _few_steps,
    'far_from_mode': _far_from_mode,
    'not_finite': _not_finite,
    'start': _start,
}
