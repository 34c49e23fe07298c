"""Checks before and after a fit: each trouble is named with its parameter, and none where there is none."""

import re
from types import SimpleNamespace

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from brainstate_prob import infer, nn
from brainstate_prob.infer.diagnostics.prior_conflict import suspected_conflicts
from brainstate_prob.infer.target.prior_points import prior_points
from brainstate_prob.infer.target.probe import unread_inputs
from brainstate_prob.infer.target.start import non_finite_term
from tests.support.reference_models import EightSchools
from tests.support.rich_model import rich_posterior, scattered

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2)).astype('f4')
Y = (X @ [1.0, -2.0] + 0.5 + RNG.normal(size=30)).astype('f4')


class Line(nn.Module):
    """What all cases below are variations of; ``out`` makes the distribution of the mean and the spread."""

    def __init__(self, w_prior=dist.Normal(0.0, 3.0), start=0.0, out=dist.Normal, **more):  # noqa: B008
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=w_prior)
        self.b = nn.Param(start, reg=dist.Normal(0.0, 3.0))
        self.sd = nn.Param(1.0, t=nn.ExpT(), reg=dist.HalfNormal(3.0))
        for name, value in more.items():
            setattr(self, name, value)
        self.out = out

    def __call__(self, x):
        return self.out(x @ self.w.value() + self.b.value(), self.sd.value())


def posterior(x=X, y=Y, **kwargs):
    return infer.Posterior(Line(**kwargs), x, y)


EIGHT = (np.array([15.0, 10, 16, 11, 9, 11, 10, 18], 'f4'), np.array([28.0, 8, -3, 7, -1, 1, 18, 12], 'f4'))


@pytest.mark.parametrize(
    'make',
    [posterior, pytest.param(lambda: infer.Posterior(EightSchools(), *EIGHT), marks=pytest.mark.slow)],
    ids=['line', 'eight schools'],
)
def test_quiet_when_all_is_well(make):
    report = make().check()
    assert report.ok and report.problems == [] and 'no problems found' in repr(report), report


@pytest.mark.slow
def test_a_model_with_everything_is_quiet_too():
    posterior = rich_posterior()
    report = posterior.check()
    assert report.ok, report
    assert report.table.rows == tuple(posterior.names)
    assert (report.table['unit', 'rate'], report.table['prior', 'w'], report.table['shape', 'w']) == (
        'Hz', 'GaussianReg(mean=0, std=scale)', '(3,)',
    )  # fmt: skip
    assert 'no problems found' in report._repr_html_() and '<table>' in report._repr_html_()
    # After the fit only the top of a hierarchy is compared with its prior.
    report = scattered(posterior, spread=0.02, stats=None, draws=200).check()
    assert not any('disagree' in text for text in report.problems), report


def outside(mean, sd):
    return dist.Uniform(mean - 9 * sd, mean + 9 * sd)


# what is wrong: the posterior, and what the report says of it
TROUBLES = {
    'one prediction for all': (
        lambda: infer.Posterior(Line(), X, Y, likelihood=lambda m, x: dist.Normal(m.b.value() + x.mean(), 1.0)),
        'predicts one Normal for all 30 targets',
    ),
    'an offset': (lambda: posterior(X + [0, 1000.0]), 'Column 1 of input_0 has mean 1e.03.*Subtract the mean'),
    'scales of inputs': (
        lambda: posterior(X * [1, 1e5]),
        r'input_0 have very different scales \(standard deviation 0.9.* of column 0, .*e\+0[45] of column 1\)',
    ),
    'a gradient beyond all others': (
        lambda: posterior(X * [1, 1e6]),
        "gradient of 'w' is .* times the typical one",
    ),
    'a start far out': (
        lambda: posterior(start=60.0),
        "start of 'b' is far out in its prior.*init_from_prior",
    ),
    'a prior in conflict': (lambda: posterior(y=Y + 1e3), '100 % of the targets lie outside all of 32 draws'),
    'rounding': (
        lambda: posterior(X + np.float32(0), Y + np.float32(3e6)),
        r'rounding noise of .* in float32.*jax.enable_x64\(True\)',
    ),
    'a support that moves': (lambda: posterior(out=outside), "targets lie outside the likelihood's support"),
    'a start that is not finite': (
        lambda: posterior(out=lambda mean, sd: dist.Normal(mean, sd - 2.0)),
        'error: The log density is not finite at the start: the likelihood is nan',
    ),
    'a gradient that is not finite': (
        lambda: posterior(out=lambda mean, sd: dist.Normal(mean + jnp.sqrt(sd - 1.0), sd)),
        "error: The gradient is not finite at the start, for 'sd'",
    ),
    'not finite nearby': (
        lambda: posterior(out=lambda mean, sd: dist.Normal(mean, jnp.log(sd + 0.5))),
        'of 15 points near the start .* log density or its gradient.* is not finite',
    ),
}


@pytest.mark.parametrize('name', TROUBLES)
def test_each_trouble_is_named(name):
    make, match = TROUBLES[name]
    text = repr(make().check()).replace('\n', ' ')
    assert re.search(match, text), text


def test_several_troubles_are_all_named():
    model = Line(
        idle=nn.Param(jnp.zeros(3), reg=dist.Normal(0.0, 1.0)),
        loose=nn.Param(0.0),
        fixed=nn.Const(1.0, reg=dist.Normal(0.0, 1.0)),
        clipped=nn.Param(0.5, t=nn.ClipT(0.0, 1.0)),
    )
    report = infer.Posterior(model, (X, X), Y, likelihood=lambda m, x, z: m(x)).check()
    text = repr(report)
    for match in (
        "error: The likelihood does not depend on 'loose'.*its posterior is improper",
        "warning: The likelihood does not depend on 'idle'.*only its prior does. Use it in the model",
        "warning: 'fixed' has a prior that is never used",
        r'warning: The likelihood never reads inputs\[1\]. Drop it',
        "note: Only MAP can fit this posterior. Param 'clipped': ClipT",
    ):
        assert re.search(match, text), text
    assert not report.ok and report.problems[0].endswith('make it nn.Const.')  # errors first
    assert 'improper' in report.problems[0]


def test_inputs_that_are_read_without_a_gradient_are_read():
    order = np.arange(30, dtype='f4')
    model = infer.Posterior(Line(), (X, order), Y, likelihood=lambda m, x, i: m(x[jnp.floor(i).astype(int)]))
    assert unread_inputs(model.density, model.theta, model.data) == []


def test_a_density_at_the_edge_of_the_precision_is_told_as_such():
    one = jnp.ones(())
    finite = {'prior': {'w': one}, 'log_det': {'w': one}, 'likelihood': one}
    density = SimpleNamespace(compiled=lambda *_, **__: lambda *_: finite, dtype=np.dtype('f4'))
    text = non_finite_term(SimpleNamespace(data=None, density=density), one, True)
    assert 'at the edge of what float32 can do' in text and 'jax.enable_x64(True)' in text


def test_no_prior_and_empty_groups_are_notes():
    model = Line(None)
    report = infer.Posterior(model, X * np.array([1, 0], 'f4'), Y).check()
    assert report.ok
    assert any("No prior: 'w'" in note for note in report.notes)
    assert any("1 of the 2 numbers of 'w'" in note for note in report.notes)


@pytest.mark.slow
def test_double_precision_is_checked_in_it():
    with jax.enable_x64(True):
        double = infer.Posterior(Line(start=np.float64(3e6), w_prior=None), X.astype('f8'), Y.astype('f8') + 3e6)
        assert double.density.dtype == np.float64
        assert not any('rounding' in text for text in double.check().problems)


# After a fit


@pytest.fixture(scope='module')
def line():
    return posterior()


def around(posterior, centre, sd=0.1, **kwargs):
    """Independent draws around constrained values, as one would wish of NUTS."""
    centre = {k: v if isinstance(v, u.Quantity) else jnp.asarray(v, jnp.float32) for k, v in centre.items()}
    centre = posterior.unconstrain(centre)
    noise = np.random.default_rng(1).normal(size=(4, 250, posterior.density.size)) * sd
    fit = scattered(posterior, posterior.target, stats=None, **kwargs)
    return infer.Fit(posterior.target, (np.asarray(centre) + noise).astype('f4'), method='nuts', info=fit.info)


GOOD = {'w': [1.0, -2.0], 'b': 0.5, 'sd': 1.0}


def test_a_good_fit_is_quiet(line):
    report = around(line, GOOD).check()
    assert report.ok and repr(report).startswith('Fit(') and 'no problems found' in repr(report)


def test_prior_and_data_that_disagree_are_named(line):
    (text,) = around(line, GOOD | {'b': 15.0}).check().problems
    assert text.startswith("Prior and data disagree about 'b': its posterior (around 15") and '100.0 % of draws' in text
    assert 'Normal' in text and 'widen the prior' in text


@pytest.mark.parametrize(
    ('prior', 'value', 'conflict'),
    [
        (dist.Normal(20.0, 5.0), 15.0, False),
        (dist.Normal(20.0, 5.0), 60.0, True),
        (nn.GaussianReg(0.02 * u.second, 0.005 * u.second), 15.0, False),
        (nn.GaussianReg(0.02 * u.second, 0.005 * u.second), 60.0, True),
        (dist.Exponential(0.1), 0.01, False),  # far in the lower tail, where its density is highest
        (dist.Exponential(0.1), 70.0, True),
        (nn.LogNormalReg(mu=3.0, sigma=0.2), 60.0, True),
    ],
    ids=lambda x: str(x) if isinstance(x, float | bool) else type(x).__name__,
)
def test_fits_suspect_a_conflict_by_themselves(prior, value, conflict):
    class Decay(nn.Module):
        def __init__(self):
            super().__init__()
            self.tau = nn.Param(10.0 * u.ms, t=nn.ExpT(0 * u.ms), reg=prior)

        def __call__(self):
            return dist.Normal(self.tau.value() / u.ms, 1.0)

    fit = around(infer.Posterior(Decay(), targets=jnp.zeros(3)), {'tau': jnp.float32(value) * u.ms}, sd=0.02)
    assert [text for text in fit.check().problems if 'disagree' in text] == suspected_conflicts(fit)
    assert len(suspected_conflicts(fit)) == conflict and all("'tau'" in text for text in suspected_conflicts(fit))


def test_priors_without_a_distribution_function_are_left_to_the_check():
    model = Line(w_prior=nn.L2Reg(1.0))
    fit = around(infer.Posterior(model, X, Y), GOOD | {'w': [30.0, 0.0]})
    assert suspected_conflicts(fit) == [] and "disagree about 'w'" in fit.check().problems[0]


def test_a_run_tells_a_conflict_once(line):
    away = posterior(y=Y + 30)
    with pytest.warns(infer.ConvergenceWarning, match="disagree about 'b'"):
        fit = infer.laplace(away)
    assert sum("disagree about 'b'" in text for text in fit.check().problems) == 1


def test_what_the_draws_do_not_resolve_is_named(line):
    fit = around(line, GOOD)
    fit.thetas[..., fit.columns['b']] = np.float32(2**24) + 2 * np.random.default_rng(0).integers(
        0, 4, size=(4, 250, 1)
    )
    assert any("'b' vary in the last digits of float32" in text for text in fit.check().problems)
    fit = around(line, GOOD)
    fit.stats['lp'] = np.full((4, 250), 4e6, 'f4') + np.random.default_rng(0).normal(size=(4, 250)).astype('f4')
    assert any('log density is around 4e+06, where float32 has steps of 0.48' in text for text in fit.check().problems)


def test_chains_draws_and_guides_and_optimizers_are_looked_at(line):
    fit = around(line, GOOD)
    fit.thetas[0, :, fit.columns['b']] += 3
    assert fit.check().problems[0].startswith("R-hat of 'b'")
    fit.thetas[0, 0, fit.columns['sd']] = np.nan
    assert any("not finite, of ['sd']" in text for text in fit.check().problems)
    told = around(line, GOOD, info={'warnings': ['k-hat of the guide is 0.9']})
    assert told.check().problems == ['k-hat of the guide is 0.9']
    point = infer.Fit(line.target, np.zeros((1, 1, 4), 'f4'), method='map',
                      info={'converged': False, 'num_steps': 10, 'gradient': 5.0})  # fmt: skip
    assert any('stopped before it had converged, after 10 steps (gradient 5)' in t for t in point.check().problems)


@pytest.mark.slow
def test_real_fits_are_checked(line):
    fit = infer.nuts(line, num_warmup=300, num_samples=500, num_chains=2, progress=False)
    assert fit.check().ok, fit.check()
    assert infer.map(line, progress=False).check().ok


def test_without_the_posterior_what_can_be_checked_is(line, tmp_path):
    fit = around(line, GOOD)
    fit.save(tmp_path / 'fit.nc')
    assert infer.load(tmp_path / 'fit.nc').check().ok


@pytest.mark.parametrize(
    ('shape', 'method', 'sampled', 'note'),
    [
        ((4, 20), 'nuts', True, '4 chains of 20 draws are too few for R-hat'),
        ((1, 400), 'nuts', True, 'whether chains agree: there is only one'),
        ((1, 1), 'map', False, "uncertainty: 'map' gives one point"),
        ((1, 300), 'swag', False, "how far the draws of 'swag' are from the posterior"),
    ],
)
def test_what_cannot_be_judged_is_said(line, shape, method, sampled, note):
    centre = np.asarray(line.unconstrain({k: jnp.asarray(v, jnp.float32) for k, v in GOOD.items()}))
    thetas = centre + 0.1 * np.random.default_rng(1).normal(size=(*shape, line.density.size))
    found = {'diverging': np.zeros(shape, bool)} if sampled else None
    report = infer.Fit(line.target, thetas.astype('f4'), method=method, stats=found).check()
    assert any(note in text and text.startswith('Not checked') for text in report.notes), report


# Correct models, in which nothing is wrong


def squared_exponential(x, scale, length):
    return scale**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2)


class GaussianProcess(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Param(1.0, t=nn.ExpT(), reg=dist.LogNormal(0.0, 1.0))
        self.length = nn.Param(1.0, t=nn.ExpT(), reg=dist.LogNormal(0.0, 1.0))
        self.noise = nn.Param(0.3, t=nn.ExpT(), reg=dist.HalfNormal(1.0))

    def __call__(self, x):
        noise = (self.noise.value() ** 2 + 1e-4) * jnp.eye(len(x))
        covariance = squared_exponential(x, self.scale.value(), self.length.value()) + noise
        return dist.MultivariateNormal(jnp.zeros(len(x)), covariance)


class WhitenedProcess(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Param(1.0, t=nn.ExpT(), reg=dist.LogNormal(0.0, 1.0))
        self.length = nn.Param(1.0, t=nn.ExpT(), reg=dist.LogNormal(0.0, 1.0))
        self.white = nn.Param(jnp.zeros(15), reg=dist.Normal(0.0, 1.0))

    def __call__(self, x):
        covariance = squared_exponential(x, self.scale.value(), self.length.value()) + 1e-3 * jnp.eye(len(x))
        return dist.Bernoulli(logits=jnp.linalg.cholesky(covariance) @ self.white.value())


class Markov(nn.Module):
    """A hidden Markov model of two states: one number for the whole series."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Param(jnp.array([-1.0, 1.0]), t=nn.OrderedT(), reg=dist.Normal(0.0, 2.0))
        self.stay = nn.Param(0.8, t=nn.SigmoidT(0.0, 1.0), reg=dist.Beta(8.0, 2.0))

    def log_likelihood(self, y):
        stay = self.stay.value()
        moves = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]) * (2 * stay - 1) + (1 - stay))
        emitted = dist.Normal(self.mean.value(), 1.0).log_prob(y[:, None])

        def step(alpha, e):
            return jax.scipy.special.logsumexp(alpha[:, None] + moves, axis=0) + e, None

        alpha, _ = jax.lax.scan(step, emitted[0] - jnp.log(2.0), emitted[1:])
        return jax.scipy.special.logsumexp(alpha)


class Ordered(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.cuts = nn.Param(jnp.array([-1.0, 0.0, 1.0]), t=nn.OrderedT(), reg=dist.Normal(0.0, 3.0))

    def __call__(self, x):
        return dist.OrderedLogistic(self.slope.value() * x, self.cuts.value())


class ZeroInflated(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.gate = nn.Param(0.3, t=nn.SigmoidT(0.0, 1.0), reg=dist.Beta(2.0, 2.0))

    def __call__(self, x):
        return dist.ZeroInflatedPoisson(self.gate.value(), rate=jnp.exp(self.slope.value() * x))


class Groups(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))
        self.spread = nn.Param(1.0, t=nn.ExpT(), reg=dist.HalfCauchy(2.0))
        self.group = nn.Param(jnp.zeros(5), reg=nn.GaussianReg(self.mean, self.spread))

    def __call__(self, index):
        return dist.Normal(self.group.value()[index], 1.0)


GRID = np.linspace(-2.0, 2.0, 15).astype('f4')
WAVE = np.sin(2 * GRID).astype('f4')
CORRECT = {
    'a Gaussian process': lambda: infer.Posterior(GaussianProcess(), GRID, WAVE),
    'a whitened one of classes': lambda: infer.Posterior(WhitenedProcess(), GRID, (WAVE > 0).astype('i4')),
    'a hidden Markov model': lambda: infer.Posterior(
        Markov(), targets=WAVE, log_likelihood=lambda m, y: m.log_likelihood(y)
    ),
    'ordered classes': lambda: infer.Posterior(Ordered(), GRID, np.arange(15) % 4),
    'zero-inflated counts': lambda: infer.Posterior(ZeroInflated(), GRID, np.array([0, 2, 1] * 5)),
    'a hierarchy': lambda: infer.Posterior(Groups(), np.arange(15) % 5, WAVE),
}


@pytest.mark.parametrize('name', CORRECT)
def test_correct_models_are_called_so(name):
    report = CORRECT[name]().check()
    assert report.ok, report


@pytest.mark.parametrize(
    ('prior', 't'),
    [
        (dist.Normal(2.0, 3.0), None),
        (dist.HalfNormal(2.0), nn.ExpT()),
        (dist.LogNormal(0.5, 0.3), nn.ExpT()),
        (dist.Uniform(-1.0, 3.0), nn.SigmoidT(-1.0, 3.0)),
        (dist.Exponential(2.0), nn.SoftplusT()),
        (dist.Gamma(3.0, 2.0), nn.ExpT()),
        (dist.InverseGamma(3.0, 2.0), nn.ExpT()),
        (dist.Beta(2.0, 5.0), nn.SigmoidT(0.0, 1.0)),
        (dist.Cauchy(1.0, 2.0), None),
        (dist.HalfCauchy(2.0), nn.ExpT()),
        (dist.StudentT(4.0, 1.0, 2.0), None),
        (dist.Laplace(1.0, 2.0), None),
    ],
    ids=lambda x: type(x).__name__,
)
def test_draws_on_the_host_have_the_priors_law(prior, t):
    """Kolmogorov and Smirnov's test of 2000 draws, against scipy's distribution functions: 1 in 10^4 fails."""

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Param(0.5, reg=prior) if t is None else nn.Param(0.5, t=t, reg=prior)

    one = infer.Posterior(One())
    start = np.asarray(one.theta)
    thetas = prior_points(one.density, 2000, np.random.default_rng(0), start, one.data.states)
    values = np.asarray(one.density.model.x.t.forward(jnp.asarray(thetas[:, 0])))
    exact = stats.kstest(values, SCIPY[type(prior)](prior))
    assert exact.pvalue > 1e-4, exact


SCIPY = {
    dist.Normal: lambda d: stats.norm(d.loc, d.scale).cdf,
    dist.HalfNormal: lambda d: stats.halfnorm(0, d.scale).cdf,
    dist.LogNormal: lambda d: stats.lognorm(d.scale, scale=np.exp(d.loc)).cdf,
    dist.Uniform: lambda d: stats.uniform(d.low, d.high - d.low).cdf,
    dist.Exponential: lambda d: stats.expon(scale=1 / d.rate).cdf,
    dist.Gamma: lambda d: stats.gamma(d.concentration, scale=1 / d.rate).cdf,
    dist.InverseGamma: lambda d: stats.invgamma(d.concentration, scale=d.rate).cdf,
    dist.Beta: lambda d: stats.beta(d.concentration1, d.concentration0).cdf,
    dist.Cauchy: lambda d: stats.cauchy(d.loc, d.scale).cdf,
    dist.HalfCauchy: lambda d: stats.halfcauchy(0, d.scale).cdf,
    dist.StudentT: lambda d: stats.t(d.df, d.loc, d.scale).cdf,
    dist.Laplace: lambda d: stats.laplace(d.loc, d.scale).cdf,
}
