"""Posterior and its density: the terms against scipy and autodiff, one number everywhere, bad input refused early."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from brainstate_prob import ParamState, State, infer, nn, random
from tests.support.rich_model import in_millivolt


class Mixed(nn.Module):
    """Transforms and priors of several families, a shared hyper-parameter, units, a simplex, a bare State."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Param(1.5, t=nn.SoftplusT(), reg=nn.GammaReg(alpha=2.0, beta=3.0))
        self.a = nn.Param([0.3, -0.4], reg=nn.GaussianReg(0.1, std=self.scale))
        self.b = nn.Param(0.7, reg=nn.GaussianReg(-1.0, std=self.scale))
        self.rate = nn.Param([5.0, 8.0] * u.Hz, t=nn.SoftplusT(0.0 * u.Hz), reg=nn.GammaReg(alpha=2.0, beta=0.5 / u.Hz))
        self.tau = nn.Param(20.0 * u.ms, t=nn.SoftplusT(0.0 * u.ms), reg=dist.Gamma(3.0, 0.1))
        self.mix = nn.Param([0.2, 0.5, 0.3], t=nn.SimplexT(), reg=nn.DirichletReg(alpha=2.0))
        self.p = nn.Param([0.2, 0.9], t=nn.SigmoidT(), reg=nn.BetaReg(a=2.0, b=3.0, weight=0.5))
        self.flat = nn.Param(0.25, t=nn.SoftplusT())
        self.theta_prior = nn.Param(2.0, t=nn.ExpT(), reg=dist.Normal(0.0, 1.0), prior_on='unconstrained')
        self.fixed = nn.Const(3.0)
        self.bare = ParamState({'w': jnp.array([1.0, 2.0]), 'b': jnp.array(0.5)})

    def __call__(self, x):
        gain = self.rate.value()[0] * self.tau.value()
        mean = (
            gain * x
            + self.a.value().sum()
            + self.b.value()
            + self.mix.value()[0] * self.bare.value['b']
            + self.fixed.value()
        )
        return dist.Normal(
            mean, self.p.value()[0] + self.flat.value() + self.bare.value['w'].sum() + self.theta_prior.value()
        )


X = jnp.linspace(0.0, 1.0, 6)
Y = jnp.array([3.0, 4.0, 4.5, 5.0, 6.0, 5.5])

PRIORS = {  # by scipy, in the Param's own unit
    'scale': st.gamma(2.0, scale=1 / 3).logpdf(1.5),
    'a': st.norm(0.1, 1.5).logpdf([0.3, -0.4]).sum(),
    'b': st.norm(-1.0, 1.5).logpdf(0.7),
    'rate': st.gamma(2.0, scale=2.0).logpdf([5.0, 8.0]).sum(),
    'tau': st.gamma(3.0, scale=10.0).logpdf(20.0),
    'mix': st.dirichlet([2.0, 2.0, 2.0]).logpdf([0.2, 0.5, 0.3]),
    'p': 0.5 * st.beta(2.0, 3.0).logpdf([0.2, 0.9]).sum(),
    'flat': 0.0,
    'theta_prior': st.norm().logpdf(np.log(2.0)),
    'bare.b': 0.0,
    'bare.w': 0.0,
}


def posterior():
    return infer.Posterior(Mixed(), X, Y)


def test_paths_are_those_of_the_parameters():
    assert set(posterior().names) == set(PRIORS)


def test_priors_are_scipys_densities_of_the_constrained_values(x64):
    terms = infer.Posterior(Mixed(), np.asarray(X), np.asarray(Y, np.float64)).terms()
    for name, want in PRIORS.items():
        np.testing.assert_allclose(terms['prior'][name], want, rtol=1e-6, err_msg=name)


def test_log_dets_are_those_of_the_autodiff_jacobian(x64):
    post = infer.Posterior(Mixed(), np.asarray(X), np.asarray(Y, np.float64))
    terms, thetas = post.terms(), post.density.thetas(post.theta)
    for entry in post.entries:
        theta = jnp.ravel(thetas[entry.name])
        if entry.name == 'theta_prior':  # its prior is a density of theta already
            want = 0.0
        else:
            last = entry.size  # of a simplex the first n of n + 1 entries are coordinates
            jacobian = jax.jacobian(lambda x, e=entry, n=last: jnp.ravel(e.t.forward(x.reshape(e.shape)))[:n])(theta)
            want = np.linalg.slogdet(np.atleast_2d(jacobian))[1]
        np.testing.assert_allclose(terms['log_det'][entry.name], want, rtol=1e-8, atol=1e-10, err_msg=entry.name)


def test_the_likelihood_is_the_models_and_the_parts_sum_to_the_whole():
    post = posterior()
    want = st.norm(5.0 * 0.02 * np.asarray(X) - 0.1 + 0.7 + 0.2 * 0.5 + 3.0, 0.2 + 0.25 + 3.0 + 2.0).logpdf(
        np.asarray(Y)
    )
    np.testing.assert_allclose(post.log_likelihood(), want, rtol=1e-5)
    terms = post.terms()
    total = float(terms['likelihood'] + sum(terms['prior'].values()) + sum(terms['log_det'].values()))
    assert float(post.log_density()) == pytest.approx(total, rel=1e-6)
    assert float(post.log_density(jacobian=False)) == pytest.approx(
        total - float(sum(terms['log_det'].values())), rel=1e-6
    )


class Scale(nn.Module):
    """One positive parameter, whose terms are known in closed form."""

    def __init__(self):
        super().__init__()
        self.sigma = nn.Param(0.7, t=nn.ExpT(), reg=dist.Gamma(3.0, 2.0))

    def __call__(self):
        return dist.Normal(1.0, self.sigma.value())


def test_prior_log_det_and_likelihood_are_those_of_scipy(x64):
    post, theta = infer.Posterior(Scale(), targets=np.asarray(Y, np.float64)), np.array([0.4])
    prior = st.gamma(3.0, scale=0.5).logpdf(np.exp(0.4))
    likelihood = st.norm(1.0, np.exp(0.4)).logpdf(np.asarray(Y))
    np.testing.assert_allclose(post.log_prior(theta), prior, rtol=1e-12)
    np.testing.assert_allclose(post.log_det(theta), 0.4, rtol=1e-12)
    np.testing.assert_allclose(post.log_likelihood(theta), likelihood, rtol=1e-12)
    target = post.target
    parts = [target.log_likelihood(theta), target.log_prior(theta), target.log_det(theta)]
    np.testing.assert_allclose(parts, [likelihood.sum(), prior, 0.4], rtol=1e-12)
    np.testing.assert_allclose(target.log_density(theta), sum(parts), rtol=1e-12)
    both = target.density.log_likelihood_and_density(jnp.asarray(theta), target.data)
    np.testing.assert_allclose(both, [likelihood.sum(), sum(parts)], rtol=1e-12)
    np.testing.assert_allclose(target.density.log_prior_of_theta(theta, ()), prior + 0.4, rtol=1e-12)


def test_the_models_own_losses_are_the_same_numbers():
    model = Mixed()
    post = infer.Posterior(model, X, Y)
    terms = post.terms()
    assert float(model.log_prior()) == pytest.approx(float(sum(terms['prior'].values())), rel=1e-5)
    for name in ('rate', 'mix', 'p', 'scale'):
        param = getattr(model, name)
        assert float(param.log_abs_det_jacobian()) == pytest.approx(float(terms['log_det'][name]), rel=1e-5)


def test_gradients_of_grouped_and_single_expressions_agree(x64):
    """One expression a family against the sum over Params of their own losses, at random points."""
    post = infer.Posterior(Mixed(), np.asarray(X), np.asarray(Y, np.float64))
    density = post.density

    def one_by_one(theta):
        model = density.model
        with density.open(theta, post.data) as opened:
            scored = [p for p in model.param_modules() if p.fit]
            log_det = sum(p.log_abs_det_jacobian() for p in scored if p.prior_on == 'value')
            return opened.log_probs(post.data).sum() + model.log_prior() + log_det

    for key in jax.random.split(jax.random.key(1), 3):
        theta = post.theta + 0.5 * jax.random.normal(key, post.theta.shape)
        got = jax.value_and_grad(density.log_density)(theta, post.data)
        want = jax.value_and_grad(one_by_one)(theta)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-10)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-8, atol=1e-10)


def test_constrain_and_unconstrain_are_inverse_and_carry_units():
    post = posterior()
    values = post.constrain()
    assert values['rate'].unit == u.Hz and values['tau'].unit == u.ms
    np.testing.assert_allclose(post.unconstrain(values), post.theta, rtol=1e-5, atol=1e-5)
    with pytest.raises(KeyError, match='exactly the paths'):
        post.unconstrain({})


def test_evaluation_leaves_the_model_as_it_was():
    model = Mixed()
    model.count = State(jnp.array(0))
    before = jax.tree.map(np.asarray, {p: s.value for p, s in model.states().items()})
    post = infer.Posterior(model, X, Y, likelihood=lambda m, x: (setattr(m.count, 'value', m.count.value + 1), m(x))[1])
    post.log_density(post.theta + 1.0)
    jax.tree.map(np.testing.assert_array_equal, before, {p: s.value for p, s in model.states().items()})


def test_states_that_are_not_fitted_are_arguments():
    model = Mixed()
    before = float(infer.Posterior(model, X, Y).log_density())
    model.fixed.set_value(-3.0)
    assert float(infer.Posterior(model, X, Y).log_density()) < before - 1.0


def test_a_second_posterior_of_one_structure_shares_the_program():
    calls = []

    class Counted(Mixed):
        def __call__(self, x):
            calls.append(1)
            return super().__call__(x)

    infer.Posterior(Counted(), X, Y).log_density()
    traced = len(calls)
    other = Counted()
    other.rate.set_value([1.0, 2.0] * u.Hz)
    infer.Posterior(other, X + 1.0, Y + 1.0).log_density()
    assert traced > 0 and len(calls) == traced + 1  # the trace at the door


def test_a_log_density_of_ones_own():
    model = nn.Module()
    model.w = nn.Param([1.0, 2.0], reg=nn.L2Reg(0.5))
    post = infer.Posterior(model, log_likelihood=lambda m: -jnp.sum((m.w.value() - 3.0) ** 2))
    assert float(post.log_density()) == pytest.approx(-5.0 - 2.5)
    with_targets = infer.Posterior(model, X, Y, log_likelihood=lambda m, x, y: -((y - m.w.value()[0] * x) ** 2))
    np.testing.assert_allclose(with_targets.log_likelihood(), -((Y - X) ** 2), rtol=1e-6)


def test_targets_with_a_unit_are_scored_by_magnitude():
    plain, with_unit = infer.Posterior(Mixed(), X, Y), infer.Posterior(Mixed(), X, Y * u.mV, likelihood=in_millivolt)
    assert float(plain.log_density()) == float(with_unit.log_density()) and with_unit.targets_unit == u.mV


# Bad input


class Line(nn.Module):
    def __init__(self, t=None, reg=None):
        super().__init__()
        self.slope = nn.Param(1.0, t=t, reg=reg)
        self.out = lambda slope, x: dist.Normal(slope * x, 1.0)

    def __call__(self, x):
        return self.out(self.slope.value(), x)


def line(out=None, **kwargs):
    model = Line(**kwargs)
    if out is not None:
        model.out = out
    return model


def narrow():
    with pytest.warns(UserWarning, match='narrower'):
        return Line(t=nn.IdentityT(), reg=dist.Gamma(2.0, 1.0))


BAD = {
    'no Module': (lambda: infer.Posterior(lambda x: x, X, Y), TypeError, 'takes a Module, got function'),
    'both likelihoods': (
        lambda: infer.Posterior(line(), X, Y, likelihood=len, log_likelihood=len),
        ValueError,
        'not both',
    ),
    'likelihood no function': (lambda: infer.Posterior(line(), X, Y, likelihood=3), TypeError, 'must be a function of'),
    'no parameters': (lambda: infer.Posterior(nn.Module(), X, Y), ValueError, 'no trainable parameters'),
    'no distribution': (
        lambda: infer.Posterior(line(lambda s, x: s * x), X, Y),
        TypeError,
        'must return a NumPyro distribution',
    ),
    'NaN in targets': (
        lambda: infer.Posterior(line(), X, Y.at[2].set(np.nan)),
        ValueError,
        r'targets has 1 NaN entries, the first at \(2,\)',
    ),
    'NaN in inputs': (
        lambda: infer.Posterior(line(), X.at[3].set(np.nan), Y),
        ValueError,
        r'inputs\[0\] has 1 NaN entries, the first at \(3,\)',
    ),
    'no observations': (
        lambda: infer.Posterior(line(), X[:0], Y[:0]),
        ValueError,
        r'no observations: the targets have shape \(0,\)',
    ),
    'a column against a vector': (
        lambda: infer.Posterior(line(), X[:, None], Y),
        ValueError,
        r'shape \(6, 1\), the targets have shape \(6,\)',
    ),
    'other lengths': (
        lambda: infer.Posterior(line(), X[:4], Y),
        ValueError,
        r'shape \(4,\), the targets have shape \(6,\)',
    ),
    'outside the support': (
        lambda: infer.Posterior(line(lambda s, x: dist.Poisson(jnp.exp(s * x))), X, -jnp.ones(6, int)),
        ValueError,
        '6 of the targets have probability zero',
    ),
    'a narrow prior': (
        lambda: infer.Posterior(narrow(), X, Y),
        ValueError,
        "Param 'slope': its prior .*narrower than the codomain",
    ),
    'targets no array': (
        lambda: infer.Posterior(line(), X, {'a': Y}),
        TypeError,
        'targets must be one array, got dict',
    ),
    'theta of another shape': (
        lambda: infer.Posterior(line(), X, Y).log_density(jnp.ones(3)),
        ValueError,
        'one flat vector of 1 numbers',
    ),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_refused_at_once(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make()


UNFIT = {
    'ClipT': (lambda: nn.Param(0.5, t=nn.ClipT(0.0, 1.0)), "Param 'slope': ClipT.*not a bijection.*SigmoidT"),
    'ReluT': (lambda: nn.Param(0.5, t=nn.ReluT()), "Param 'slope': ReluT.*not a bijection.*SoftplusT"),
}


@pytest.mark.parametrize('name', UNFIT)
def test_what_has_no_density_is_fit_by_map_only(name):
    make, message = UNFIT[name]
    model = line()
    model.slope = make()
    post = infer.Posterior(model, X, Y)
    assert np.isfinite(post.log_density(jacobian=False))
    with pytest.raises(ValueError, match=message):
        post.sampling_target().density


def test_a_random_density_is_refused_by_samplers():
    post = infer.Posterior(line(lambda s, x: dist.Normal(s * x + random.randn(), 1.0)), X, Y)
    with pytest.raises(ValueError, match='its density is random'):
        post.sampling_target().density


def test_a_start_that_is_not_finite_is_named():
    model = line(lambda s, x: dist.Normal(s * x, jnp.where(x > 0.5, -1.0, 1.0)))
    with pytest.raises(ValueError, match='the likelihood is nan'):
        infer.map(infer.Posterior(model, X, Y), progress=False)
    model = line(lambda s, x: dist.Normal(jnp.sqrt(s - 1.0) * x, 1.0))
    with pytest.raises(ValueError, match="gradient.*not finite at the start.*'slope'"):
        infer.map(infer.Posterior(model, X, Y), progress=False)
