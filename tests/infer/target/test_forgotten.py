"""Priors and targets that may be left out are not told of, and those that may not are told once, at the user's line."""

import inspect
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import graph, infer, nn
from brainstate_prob.infer import ModelWarning
from tests.support.rich_model import scattered

X = np.linspace(-1.0, 1.0, 8).astype('f4')
Y = (2.0 * X).astype('f4')
FLAT = dist.ImproperUniform(dist.constraints.real, (), ())
SHORT = {'num_warmup': 1, 'num_samples': 1, 'num_chains': 1, 'progress': False}


class Line(nn.Module):
    """A slope with ``reg`` and ``t``, and an offset with ``offset`` as its prior."""

    def __init__(self, reg=None, t=nn.IdentityT(), offset=None):  # noqa: B008  (a value object without state)
        super().__init__()
        self.slope = nn.Param(0.5, reg=reg, t=t)
        self.offset = None if offset is None else nn.Param(0.0, reg=offset)

    def __call__(self, x):
        mean = self.slope.value() * x
        return dist.Normal(mean if self.offset is None else mean + self.offset.value(), 1.0)


class Numbers(nn.Module):
    """Parameters and priors alone."""

    def __init__(self, reg=None):
        super().__init__()
        self.slope = nn.Param(0.5, reg=reg)


def told(fit_of, posterior, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fit_of(posterior, **options)
    return [w for w in caught if w.category is ModelWarning]


NORMAL = dist.Normal(0.0, 1.0)
QUIET = {
    'a prior': lambda: infer.Posterior(Line(NORMAL), X, Y),
    'of one of two': lambda: infer.Posterior(Line(offset=NORMAL), X, Y),
    'that is said to be flat': lambda: infer.Posterior(Line(FLAT), X, Y),
    'flat on an interval': lambda: infer.Posterior(Line(t=nn.SigmoidT(0.0, 1.0)), X, Y),
    'in a density of its own': lambda: infer.Posterior(Numbers(), log_likelihood=lambda m: -(m.slope.value() ** 2)),
    'alone, in a model that predicts nothing': lambda: infer.Posterior(Numbers(NORMAL)),
}


@pytest.mark.parametrize('name', QUIET)
def test_a_prior_that_is_not_forgotten(name):
    assert not told(infer.nuts, QUIET[name](), **SHORT)


@pytest.mark.parametrize(
    ('fit_of', 'options'),
    [
        (infer.map, {'num_steps': 1}),
        (infer.swag, {'num_steps': 2, 'snapshot_every': 1, 'num_draws': 2}),
        (infer.ensemble, {'num_steps': 1, 'num_members': 1, 'init': 'model'}),
        (infer.laplace, {'num_draws': 2}),  # which finds by the curvature what the data do not determine
    ],
)
def test_maximum_likelihood_needs_no_prior(fit_of, options):
    assert not told(fit_of, infer.Posterior(Line(), X, Y), progress=False, **options)


def test_batches_are_targets():
    batches = [((X,), Y)]
    options = {'num_observations': 8, 'num_steps': 1, 'optimizer': 'adam', 'progress': False}
    assert not told(infer.map, infer.Posterior(Line(NORMAL)), batches=batches, **options)


def test_it_is_told_once_at_the_line_of_the_user():
    (warning,) = told(infer.nuts, infer.Posterior(Line(), X, Y), init='map', **SHORT)
    assert warning.filename == __file__ and 'No parameter of the model has a prior' in str(warning.message)


def test_checks_name_what_has_no_prior():
    some = infer.Posterior(Line(offset=NORMAL), X, Y)
    none, bounded = infer.Posterior(Line(), X, Y), infer.Posterior(Line(t=nn.SigmoidT(0.0, 1.0)), X, Y)
    text = "No prior: 'slope'"
    assert [any(text in note for note in p.check().notes) for p in (some, none, bounded)] == [True, True, False]
    fits = [scattered(p, chains=4, draws=200) for p in (some, none, bounded)]
    assert [any(text in note for note in fit.check().notes) for fit in fits] == [True, False, False]
    problems = [any('No parameter of the model has a prior' in p for p in fit.check().problems) for fit in fits]
    assert problems == [False, True, False]
    assert not any('prior' in text for text in infer.map(none, progress=False).check().problems)


# Names of arguments

WAYS = [f for name in infer.__all__ if inspect.isfunction(f := getattr(infer, name))]
TAKE_POSTERIORS = [f for f in WAYS if next(iter(inspect.signature(f).parameters)) == 'posterior']


@pytest.mark.parametrize('function', TAKE_POSTERIORS)
def test_every_way_to_fit_answers_a_misspelt_name(function):
    assert len(TAKE_POSTERIORS) >= 18
    name = list(inspect.signature(function).parameters)[-1]
    with pytest.raises(TypeError, match=f"{function.__name__} has no argument '{name}s'. Did you mean '{name}'"):
        function(None, **{f'{name}s': 1})


@pytest.mark.parametrize('of', [infer.nuts, infer.Posterior, nn.Param, nn.SigmoidT])
def test_signatures_stay(of):
    kinds = {p.kind for p in inspect.signature(of).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


# Containers


def test_a_container_in_several_places_is_in_itself_nowhere():
    shared = [nn.Param(1.0)]
    model = Line(NORMAL)
    model.a, model.b = [shared, shared], {'c': shared}
    model.d = [model]  # a Module has one path, wherever it is
    assert len(infer.Posterior(model, X, Y).names) == 2
    assert graph.clone(model).d[0] is not model


# Values at their bound


@pytest.mark.parametrize('t', [nn.SigmoidT(0.0, 1.0), nn.TanhT(0.0, 1.0), nn.SoftplusT(0.0), nn.ExpT(0.0)])
@pytest.mark.parametrize('theta', [[-120.0], [-120.0, -130.0], [20.0]])
def test_a_saturated_value_is_assigned(t, theta):
    model = Line(t=t)
    posterior = infer.Posterior(model, X, Y)
    thetas = np.array(theta, 'f4')[None, :, None]
    fit = infer.Fit(posterior.target, thetas, method='by hand')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fit.assign_to(model)
    value = float(model.slope.value())
    assert value == pytest.approx(float(np.mean(t.forward(jnp.asarray(theta)))), abs=1e-30)
    assert np.isfinite(posterior.theta).all() and np.isfinite(posterior.log_density())
    model.slope.set_value(model.slope.value())  # the bound in floating point: the nearest number within stands for it
    assert float(model.slope.value()) == pytest.approx(value, rel=2**-24, abs=1e-30)


def test_labels_as_bools_under_a_mask_are_scored_as_labels():
    labels, counts = np.array([True, False, True, True]), np.array([True, True, True, False])

    class Labels(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Param(0.3, reg=NORMAL)

        def __call__(self):
            logits = jnp.stack([jnp.zeros(4), jnp.full(4, self.logit.value())], axis=-1)
            return dist.Categorical(logits=logits).mask(counts)

    p = 1 / (1 + np.exp(-0.3))
    expected = np.where(counts, np.log(np.where(labels, p, 1 - p)), 0.0)
    found = [infer.Posterior(Labels(), targets=y).log_likelihood() for y in (labels, labels.astype(int))]
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-6)
