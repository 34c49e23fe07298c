"""brainstate modules as models."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import environ, infer, interop, nn
from tests.interop.cases import GROUP, X, Y, glm_density, hierarchy_density, network_density, same_density

bst = pytest.importorskip('brainstate')


@pytest.fixture(autouse=True)
def _double(x64):
    with bst.environ.context(precision=64):
        yield


class Linear(bst.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = bst.ParamState(jnp.ones(2))
        self.b = bst.ParamState(jnp.zeros(()))
        self.sigma = bst.nn.Param(1.0, t=bst.nn.SoftplusT(0.0))

    def update(self, x):
        return x @ self.w.value + self.b.value


class Hierarchy(bst.nn.Module):
    def __init__(self):
        super().__init__()
        self.mu, self.slope = bst.ParamState(jnp.zeros(())), bst.ParamState(jnp.zeros(()))
        self.tau, self.effect = bst.nn.Param(1.0, t=bst.nn.SoftplusT(0.0)), bst.ParamState(jnp.zeros(4))


class Network(bst.nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layers = [bst.nn.Linear(2, width), bst.nn.Linear(width, 1)]

    def update(self, x):
        return self.layers[1](jnp.tanh(self.layers[0](x)))[:, 0]


class Noisy(bst.nn.Module):
    def __init__(self, prob=0.5):
        super().__init__()
        self.first, self.norm, self.dropout = bst.nn.Linear(2, 3), bst.nn.BatchNorm0d((3,)), bst.nn.Dropout(prob)

    def update(self, x):
        return self.dropout(self.norm(self.first(x))).sum(-1)


class OneParam(bst.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.p = bst.nn.Param(jnp.array([0.4, 0.7]), **options)

    def update(self, x):
        return x @ self.p.value()


def likelihood(m, x):
    return dist.Normal(m(x), 0.5)


def test_regression_has_the_density_of_the_formula():
    model = interop.wrap(Linear(), {'sigma': None, ...: dist.Normal(0.0, 1.0)})
    posterior = infer.Posterior(model, X, Y, likelihood=lambda m, x: dist.Normal(m(x), m.sigma.value()))
    assert model.sigma.t == nn.SoftplusT(0.0)
    same_density(posterior, ['b', 'sigma', 'w'], glm_density, positive=['sigma'])


def test_network_has_the_density_of_the_formula():
    model = interop.wrap(Network(), {bst.nn.Linear: dist.Normal(0.0, 1.0)})
    names = [f'layers.{i}.weight.{name}' for i in (0, 1) for name in ('weight', 'bias')]
    same_density(infer.Posterior(model, X, Y, likelihood=likelihood), names, network_density)


def test_hierarchy_has_the_density_of_the_formula():
    tau = nn.ParamSpec(t=nn.SoftplusT(0.0), reg=dist.HalfNormal(1.0))
    model = interop.wrap(Hierarchy(), {'tau': tau, 'mu': dist.Normal(), 'slope': dist.Normal()})

    def log_likelihood(m, x, group, y):
        effect = m.effect.value
        prior = dist.Normal(m.mu.value, m.tau.value()).log_prob(effect).sum() / len(y)
        return dist.Normal(effect[group] + m.slope.value * x[:, 0], 0.5).log_prob(y) + prior

    posterior = infer.Posterior(model, (X, GROUP), Y, log_likelihood=log_likelihood)
    same_density(posterior, ['mu', 'tau', 'effect', 'slope'], hierarchy_density, positive=['tau'])


REGS = [
    bst.nn.GaussianReg(0.5, 0.7, weight=2.0),
    bst.nn.L1Reg(0.3),
    bst.nn.L2Reg(0.3),
    bst.nn.StudentTReg(),
    bst.nn.GammaReg(),
    bst.nn.BetaReg(),
    bst.nn.HorseshoeReg(),
    bst.nn.EntropyReg(),
]


@pytest.mark.parametrize('reg', REGS, ids=lambda reg: type(reg).__name__)
def test_a_regularization_comes_over_with_its_loss(reg):
    # Where the support is narrower than the reals, a Param without a transform onto it is a warning.
    t = {'GammaReg': bst.nn.PositiveT(), 'BetaReg': bst.nn.SigmoidT(0.0, 1.0)}.get(
        type(reg).__name__, bst.nn.IdentityT()
    )
    mine = interop.wrap(OneParam(reg=reg, t=t)).p
    a, b = jnp.array([0.2, 0.6]), jnp.array([0.5, 0.45])
    theirs = float(reg.loss(a)) - float(reg.loss(b))
    np.testing.assert_allclose(float(mine.reg.loss(a)) - float(mine.reg.loss(b)), theirs, rtol=1e-4, atol=1e-6)


TRANSFORMS = [
    bst.nn.SoftplusT(0.1),
    bst.nn.SigmoidT(0.0, 2.0),
    bst.nn.NegSoftplusT(1.0),
    bst.nn.TanhT(0.0, 1.0),
    bst.nn.AffineT(2.0, 1.0),
    bst.nn.PositiveT(),
    bst.nn.OrderedT(),
    bst.nn.ChainT(bst.nn.SoftplusT(0.0), bst.nn.AffineT(2.0, 0.0)),
]


@pytest.mark.parametrize('t', TRANSFORMS, ids=lambda t: type(t).__name__)
def test_a_transform_comes_over_with_its_formula(t):
    model = OneParam(t=t)
    mine = interop.wrap(model).p
    theta = jnp.array([0.3, -0.7])
    np.testing.assert_allclose(mine.t.forward(theta), t.forward(theta), rtol=1e-6)
    np.testing.assert_allclose(mine.value(), model.p.value(), rtol=1e-6)


def test_a_prior_that_is_given_leaves_the_transform():
    model = interop.wrap(OneParam(t=bst.nn.SoftplusT(0.0)), {'p': dist.HalfNormal(1.0)})
    assert model.p.t == nn.SoftplusT(0.0)
    np.testing.assert_allclose(model.p.value(), [0.4, 0.7], rtol=1e-6)


def test_a_transform_without_counterpart_is_refused():
    class Cube(bst.nn.Transform):
        def forward(self, x):
            return x**3

        def inverse(self, y):
            return jnp.cbrt(y)

    with pytest.raises(NotImplementedError, match="'p': the transform .* has no counterpart"):
        interop.wrap(OneParam(t=Cube()))
    with pytest.raises(NotImplementedError, match='trained by fit_hyper=True'):
        interop.wrap(OneParam(reg=bst.nn.GaussianReg(0.0, 1.0, fit_hyper=True)))


def test_models_of_one_structure_share_programs_and_are_written_back():
    model = Network()
    first, second, wider = (infer.Posterior(m, X, Y, likelihood=likelihood) for m in (model, Network(), Network(4)))
    assert first.density is second.density
    assert first.density is not wider.density
    fit = infer.map(first, num_steps=20, optimizer='adam', progress=False)
    assert fit.assign_to(model) is model
    np.testing.assert_array_equal(model.layers[0].weight.value['weight'], fit.estimate['layers.0.weight.weight'])
    np.testing.assert_allclose(fit.evaluate(lambda m, x: m(x), X)[0], model(X), rtol=1e-6)


def test_running_statistics_and_dropout_follow_the_setting_fit():
    model, other = Noisy(), Noisy(0.9)
    stream = jax.random.key_data(bst.random.DEFAULT.value)
    with environ.context(fit=True):
        posterior = infer.Posterior(model, X, Y, likelihood=likelihood)
        fit = infer.map(posterior, num_steps=200, optimizer='adam', progress=False)
    assert infer.Posterior(other, X, Y, likelihood=likelihood).density is not posterior.density
    fit.assign_to(model)
    np.testing.assert_array_equal(model.norm.running_mean.value, fit.running_statistics['norm.running_mean'])
    assert np.abs(np.asarray(model.norm.running_mean.value)).max() > 0
    drawn = infer.mc_dropout(posterior, init=fit, num_draws=8, seed=0)
    assert np.std(drawn.evaluate(lambda m, x: m(x), X), axis=0).min() > 0
    np.testing.assert_array_equal(jax.random.key_data(bst.random.DEFAULT.value), stream)
    with bst.environ.context(fit=False):
        np.testing.assert_allclose(fit.evaluate(lambda m, x: m(x), X)[0], model(X), rtol=1e-5)
