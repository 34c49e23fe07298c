"""Advice names options that the way to fit has, and nothing that is in use already."""

import inspect
import itertools
import re
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.data.support import bounds_move
from brainstate_prob.infer.diagnostics.advice import KINDS, OPTIONS, advice, elsewhere, way_of
from brainstate_prob.infer.diagnostics.mcmc import rounding_problems

FUNCTIONS = {
    'svi': infer.svi,
    'map': infer.map,
    'marginal_likelihood': infer.marginal_likelihood,
    **{way: getattr(infer, way) for way in OPTIONS if callable(getattr(infer, way, None))},
}
MARKOV = ('r_hat', 'ess', 'not_finite')
# What each way to fit can find.
FOUND = {
    'nuts': (*MARKOV, 'divergences', 'tree_depth', 'energy', 'low_rank', 'start'),
    'chees': (*MARKOV, 'divergences', 'energy', 'start'),
    'meads': (*MARKOV, 'divergences', 'energy', 'start'),
    'mclmc': (*MARKOV, 'divergences', 'start'),
    'barker': (*MARKOV, 'start'),
    'hmc_ecs': (*MARKOV, 'divergences', 'tree_depth', 'energy', 'variance'),
    'elliptical_slice': (*MARKOV, 'start'),
    'sgld': MARKOV,
    'cyclical_sghmc': MARKOV,
    'smc': ('copies', 'temperature', 'not_finite'),
    'pathfinder': ('paths', 'start', 'not_finite'),
    'svi': ('guide', 'few_steps', 'not_finite'),
    'map': ('few_steps', 'not_finite'),
    'laplace': ('far_from_mode', 'normal', 'not_finite'),
    'marginal_likelihood': ('normal', 'not_finite'),
    'ensemble': ('few_steps', 'not_finite'),
    'swag': ('not_finite',),
    'mc_dropout': ('not_finite',),
}
# Values in use, beside the defaults of the signature.
USED = {
    'mass_matrix': ('diagonal', 'full', 'low_rank'),
    'warmup': ('stan', 'gradient'),
    'backend': ('numpyro', 'nutpie'),
    'target_accept': (0.8, 0.99),
    'init': ('model', 'map', 'prior', 'pathfinder'),
    'guide': ('diagonal', 'full', 'low_rank', 'iaf', 'dais', 'bnaf', 'laplace', 'delta', 'of my own'),
    'precondition': (False, True),
}
FORMS = ({}, {'a': 'centred'}, {'a': 'non-centred'}, {'a': '2 of 8 non-centred'}, {'a': 'centred', 'b': 'non-centred'})
ALL_OPTIONS = {name for f in FUNCTIONS.values() for name in inspect.signature(f).parameters if '_' in name}


def signature(way):
    return inspect.signature(FUNCTIONS[way_of(way)]).parameters


def in_use(way):
    """All combinations of values that this way's options can have."""
    mine = signature(way)
    defaults = {name: p.default for name, p in mine.items() if p.default is not p.empty}
    names = [name for name in USED if name in mine]
    for values in itertools.product(*(USED[name] for name in names)):
        yield defaults | dict(zip(names, values, strict=True))


def test_the_table_has_all_ways_and_kinds():
    assert {way_of(way) for way in FOUND} == set(OPTIONS) == set(FUNCTIONS)
    assert {kind for kinds in FOUND.values() for kind in kinds} == set(KINDS)
    for way, options in OPTIONS.items():
        assert set(options) <= set(signature(way)), way


def mistakes_of(text, way, used, forms):
    """The options that the way lacks, or that have this value already."""
    own, mine = re.sub(r'(infer\.\w+)\(.*?\)|infer.map with \S+|optax\.\w+\(.*?\)', '', text), signature(way)
    for name in ALL_OPTIONS & set(re.findall(r'\w+', own)) - set(mine):
        yield f'{name} is no option'
    for name, value in re.findall(r"(\w+)=('\w*'|\w+)", own):
        if name not in mine:
            yield f'{name} is no option'
        elif name == 'noncentered':
            form = {'True': 'non-centred', 'False': 'centred'}[value]
            if set(forms.values()) == {form}:
                yield f'{name}={value} is in use'
        elif repr(used[name]) == value and name != 'init':
            yield f'{name}={value} is in use'
    for function, arguments in re.findall(r'infer\.(\w+)\((.*?)\)', text):
        for name in re.findall(r'(\w+)=', arguments):
            if name not in inspect.signature(getattr(infer, function)).parameters:
                yield f'{name} is no option of {function}'


@pytest.mark.parametrize('way', FOUND)
def test_every_option_is_there_and_not_in_use(way):
    count = 0
    for kind, used, forms in itertools.product(FOUND[way], in_use(way), FORMS):
        if kind == 'low_rank':
            used = used | {'mass_matrix': 'low_rank'}
        if kind == 'divergences' and 'noncentered' not in signature(way) and forms:
            continue
        text = advice(kind, way, used, forms=forms, size=5)
        found = list(mistakes_of(text, way, used, forms))
        assert not found, f'{way}, {kind}, {used}, {forms}: {text!r}: {found}'
        assert re.fullmatch(r'[A-Z].*\.', text), text
        count += 1
    assert count >= len(FOUND[way])


def test_the_test_sees_what_is_wrong():
    used = {'mass_matrix': 'full', 'noncentered': 'auto'}
    wrong = {
        "Use mass_matrix='full'.": "mass_matrix='full' is in use",
        'Raise energy_variance.': 'energy_variance is no option',
        'Use truth=True.': 'truth is no option',
        'Move it (noncentered=True).': 'noncentered=True is in use',
        'Call infer.nuts(p, start=1).': 'start is no option of nuts',
    }
    for text, mistake in wrong.items():
        assert mistake in list(mistakes_of(text, 'nuts', used, {'a': 'non-centred'})), text


def test_the_form_that_is_advised_is_the_other_one():
    for form, other in (('centred', 'noncentered=True'), ('non-centred', 'noncentered=False')):
        for kind in ('divergences', 'r_hat', 'ess', 'energy'):
            assert other in advice(kind, 'nuts', {}, forms={'effect': form})


def test_numbers_are_sensible():
    assert 'target_accept' not in advice('divergences', 'nuts', {'target_accept': 0.99})
    assert 'raise target_accept (now 0.8) towards 0.99' in advice('divergences', 'nuts', {'target_accept': 0.8})
    mclmc = advice('divergences', 'mclmc', {'energy_variance': 5e-4})
    assert 'lower energy_variance (now 0.0005)' in mclmc and 'target_accept' not in mclmc
    assert "('iaf')" in advice('guide', 'svi', {'guide': 'dais'})
    assert "'full', 'dais', 'iaf'" in advice('guide', 'svi', {'guide': 'low_rank'})
    assert 'guide' not in advice('guide', 'svi', {'guide': 'bnaf'})
    large = advice('ess', 'nuts', {'mass_matrix': 'diagonal'}, size=5000)
    assert 'low_rank' in large and 'dense' not in large
    assert elsewhere('model') == "init='prior'" and elsewhere('prior') == elsewhere(jnp.zeros(2)) == "init='model'"


class Funnel(nn.Module):
    def __init__(self):
        super().__init__()
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(3.0))
        self.effect = nn.Param(jnp.zeros(8), reg=nn.GaussianReg(0.0, self.tau))

    def __call__(self):
        return dist.Normal(self.effect.value(), 20.0)


def test_a_centred_funnel_is_told_of_the_other_form():
    posterior = infer.Posterior(Funnel(), targets=jnp.linspace(-10.0, 20.0, 8))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', infer.ConvergenceWarning)
        fit = infer.nuts(posterior, noncentered=False, num_warmup=200, num_samples=200, seed=1, progress=False)
    assert fit.info['noncentered'] == {'effect': 'centred'}
    (text,) = [text for text in fit.info['warnings'] if 'diverged' in text]
    assert "Move 'effect' non-centred (noncentered=True), which was centred; or raise target_accept (now 0.8)" in text
    assert [text for text in fit.check().problems if 'diverged' in text] == [text]  # said once


def test_a_start_that_fails_is_not_advised_again():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))

        def __call__(self):
            return dist.Normal(jnp.where(self.x.value() < 100.0, jnp.nan, self.x.value()), 1.0)

    for init, other in (('model', 'prior'), ('prior', 'model')):
        with pytest.raises(ValueError, match='not finite') as caught:
            infer.nuts(infer.Posterior(Cut(), targets=jnp.zeros(2)), init=init, progress=False)
        assert f"init='{init}'. Start elsewhere" not in str(caught.value) or f"init='{other}'" in str(caught.value)


def test_one_number_has_no_others_to_go_with():
    text = advice('divergences', 'nuts', {'target_accept': 0.8}, forms={}, size=1)
    assert 'other form' not in text and 'raise target_accept (now 0.8)' in text.lower()
    assert 'mass_matrix' not in advice('ess', 'nuts', {'mass_matrix': 'diagonal', 'num_samples': 100}, size=1)
    assert 'other form' in advice('divergences', 'nuts', {}, forms={}, size=2)


def test_a_form_that_the_data_chose_is_compared_after_smaller_steps():
    used = {'target_accept': 0.8, 'form_by_data': True}
    text = advice('divergences', 'nuts', used, forms={'effect': 'non-centred'})
    assert text.startswith('Raise target_accept') and 'compare noncentered=False with what the data chose' in text
    mixed = advice('divergences', 'nuts', used, forms={'effect': '7 of 8 non-centred'})
    assert 'compare noncentered=True and noncentered=False' in mixed


class Bounded(nn.Module):
    """Targets below a number that is fitted."""

    def __init__(self, lower):
        super().__init__()
        self.top = nn.Param(2.0, t=nn.ExpT(lower), reg=dist.LogNormal(0.0, 1.0))

    def __call__(self):
        return dist.Uniform(0.0, self.top.value())


def test_a_support_that_moves_is_told_and_the_advised_transform_mends_it():
    targets = jnp.linspace(0.1, 1.0, 30)

    def run(lower):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            infer.nuts(
                infer.Posterior(Bounded(lower), targets=targets),
                num_warmup=200,
                num_samples=300,
                num_chains=1,
                progress=False,
            )
        return [str(w.message) for w in said if issubclass(w.category, infer.ConvergenceWarning)]

    first = run(0.0)[0]
    assert 'diverged' in first and 't=nn.ExpT(targets.max())' in first
    assert 'target_accept' not in first and 'other form' not in first
    assert not any('diverged' in text for text in run(float(targets.max())))


LAWS = {
    'a fitted bound': (lambda b: dist.Uniform(0.0, jnp.exp(b)), True),
    'fixed bounds': (lambda b: dist.TruncatedNormal(b, 1.0, low=-9.0, high=9.0), False),
    'no bounds': (lambda b: dist.Normal(b, 1.0), False),
    'a shift': (
        lambda b: dist.TransformedDistribution(dist.Exponential(1.0), dist.transforms.AffineTransform(b - 2, 1.0)),
        True,
    ),
}


@pytest.mark.parametrize('name', LAWS)
def test_which_supports_move(name):
    law, moves = LAWS[name]
    line = Mean()
    posterior = infer.Posterior(line, targets=jnp.full(3, 0.5), likelihood=lambda m: law(m.b.value()))
    assert bounds_move(posterior.density, posterior.data) is moves


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))


def test_half_precision_is_told_to_be_single():
    class Half(Mean):
        def __init__(self):
            super().__init__()
            self.b = nn.Param(jnp.zeros((), jnp.float16), reg=dist.Normal(0.0, 1.0))

    posterior = infer.Posterior(Half(), targets=jnp.ones(3), likelihood=lambda m: dist.Normal(m.b.value(), 1.0))
    thetas = (1000 + np.arange(20.0)[None, :, None] / 4).astype(np.float16)
    text = ' '.join(rounding_problems(posterior.density, thetas, {}))
    assert 'Build the model with Params of float32, which are float16 now' in text and 'x64' not in text
