"""Hierarchical parameters in standardized form: the same density and values, in coordinates that samplers can walk."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.density.blocks import NoncenteredBlock
from brainstate_prob.nn.priors.base import DistributionReg
from brainstate_prob.nn.priors.hyper import Hyper


class LogisticReg(DistributionReg):
    """A prior of a user's own."""

    numpyro_class = dist.Logistic
    hypers = {'loc': Hyper('loc', 'value'), 'scale': Hyper('scale', 'value', 'positive')}

    def __init__(self, loc, scale):
        super().__init__()
        self._set(False, {'loc': loc, 'scale': scale})


def location():
    return nn.Param(0.7, reg=dist.Normal(0.0, 2.0))


def scale(value=1.3):
    return nn.Param(value, t=nn.ExpT(0.0), reg=dist.HalfNormal(2.0))


# name: the Param's arguments from (location, scale)
CASES = {
    'normal': lambda m, s: {'reg': nn.GaussianReg(m, s)},
    'normal, location only': lambda m, s: {'reg': nn.GaussianReg(m, 2.0)},
    'student': lambda m, s: {'reg': nn.StudentTReg(df=4.0, scale=s)},
    'student, fitted df': lambda m, s: {'reg': nn.StudentTReg(df=scale(5.0), scale=s)},
    'cauchy': lambda m, s: {'reg': nn.CauchyReg(scale=s)},
    'logistic': lambda m, s: {'reg': LogisticReg(m, s)},
    'laplace as L1': lambda m, s: {'reg': nn.L1Reg(s, normalized=True)},
    'normal as L2': lambda m, s: {'reg': nn.L2Reg(s, normalized=True)},
    'log-normal': lambda m, s: {'reg': nn.LogNormalReg(mu=m, sigma=s), 't': nn.ExpT(0.0)},
    'on theta': lambda m, s: {'reg': nn.GaussianReg(m, s), 't': nn.SoftplusT(), 'prior_on': 'unconstrained'},
    'own hyper-parameters': lambda m, s: {'reg': nn.GaussianReg(0.5, 1.5, fit_hyper=True)},
}


class Groups(nn.Module):
    def __init__(self, case, size=3):
        super().__init__()
        self.mu, self.tau = location(), scale()
        self.effect = nn.Param(jnp.linspace(0.5, 2.0, size), dims=('group',), **CASES[case](self.mu, self.tau))

    def __call__(self):
        return dist.Normal(self.effect.value() * self.mu.value(), self.tau.value())


def both(case, noncentered=True):
    posterior = infer.Posterior(Groups(case), targets=jnp.array([0.3, -1.0, 2.0]))
    return posterior, posterior.sampling_target(False).density, posterior.sampling_target(noncentered).density


@pytest.mark.parametrize('which', ['effect', 'effect[0, 2]'])
@pytest.mark.parametrize('case', CASES)
def test_the_density_is_the_centred_one_times_the_maps_determinant(case, which, x64):
    """Autodiff is the oracle: theta -> the centred coordinates is a map, and densities differ by its log-det."""
    posterior, centred, noncentred = both(case, which)
    assert noncentred.noncentered == (which,) and centred is posterior.density
    assert noncentred.size == centred.size

    def there(theta):
        return centred.flatten(noncentred.thetas(theta, posterior.data.states), posterior.data.states)

    @jax.jit
    def check(theta):
        log_det = jnp.linalg.slogdet(jax.jacfwd(there)(theta))[1]
        terms = noncentred.terms(theta, posterior.data)
        values = (noncentred.constrain(theta), centred.constrain(there(theta)))
        return (
            noncentred.log_density(theta, posterior.data),
            centred.log_density(there(theta), posterior.data) + log_det,
            sum(jax.tree.leaves(terms)),
            [terms['prior'], centred.terms(there(theta), posterior.data)['prior']],
            values,
        )

    for seed in range(3):
        theta = jax.random.normal(jax.random.key(seed), (centred.size,))
        ours, by_the_map, summed, priors, values = check(theta)
        np.testing.assert_allclose(ours, by_the_map, rtol=1e-10)
        np.testing.assert_allclose(summed, ours, rtol=1e-10)
        for name in priors[0]:
            np.testing.assert_allclose(priors[0][name], priors[1][name], rtol=1e-10)
            np.testing.assert_allclose(values[0][name], values[1][name], rtol=1e-10)


@pytest.mark.parametrize('which', [True, 'effect[0, 2]'])
@pytest.mark.parametrize('case', CASES)
def test_a_start_is_the_models_values(case, which):
    posterior, _, noncentred = both(case, which)
    values = noncentred.constrain(posterior.start(noncentred), posterior.data.states)
    np.testing.assert_allclose(values['effect'], np.linspace(0.5, 2.0, 3), rtol=1e-5)
    np.testing.assert_allclose([values['mu'], values['tau']], [0.7, 1.3], rtol=1e-6)


# Left as they are: a fixed prior, a weight, another transform, a bounded family, constants that are not fitted.
CENTRED = {
    'a fixed prior': lambda m, s: {'reg': nn.GaussianReg(0.0, 1.0)},
    'no prior': lambda m, s: {},
    'weighted': lambda m, s: {'reg': nn.GaussianReg(m, s, weight=2.0)},
    'another transform': lambda m, s: {'reg': nn.GaussianReg(m, s), 't': nn.SigmoidT(-5.0, 5.0)},
    'log-normal above one': lambda m, s: {'reg': nn.LogNormalReg(mu=m, sigma=s), 't': nn.ExpT(0.1)},
    'gamma': lambda m, s: {'reg': nn.GammaReg(alpha=s), 't': nn.ExpT(0.0)},
    'penalty': lambda m, s: {'reg': nn.L2Reg(s)},
    'not fitted': lambda m, s: {'reg': nn.GaussianReg(nn.Const(0.0), nn.Const(2.0))},
}


@pytest.mark.filterwarnings('ignore:.*narrower than the codomain')
@pytest.mark.parametrize('case', CENTRED)
def test_what_has_no_standard_form_stays(case):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu, self.tau = location(), scale()
            self.effect = nn.Param(jnp.ones(3), **CENTRED[case](self.mu, self.tau))

        def __call__(self):
            return dist.Normal(self.effect.value() + self.mu.value(), self.tau.value())

    posterior = infer.Posterior(Model(), targets=jnp.zeros(3), log_likelihood=None)
    assert posterior.sampling_target().density is posterior.sampling_target(True).density is posterior.density


class Levels(nn.Module):
    """Three levels, whose paths are in the wrong order, twice; a horseshoe whose scale is non-centred as well."""

    def __init__(self):
        super().__init__()
        self.top = location()
        self.spread = scale(0.5)
        self.c = nn.Param(1.0, reg=nn.GaussianReg(self.top, self.spread))
        self.b = nn.Param(jnp.ones(2), reg=nn.GaussianReg(self.c, self.spread))
        self.a = nn.Param(jnp.ones((4, 2)), reg=nn.GaussianReg(self.b, 0.3))
        self.a2 = nn.Param(jnp.ones((2, 2)), reg=nn.GaussianReg(self.b, 0.3))
        self.tau = nn.Param(1.0, t=nn.PositiveT(), reg=nn.LogNormalReg(mu=self.top, sigma=1.0))
        self.aa = nn.Param(jnp.ones(2), reg=nn.HorseshoeReg(tau=self.tau))

    def __call__(self):
        return dist.Normal(self.a.value() + self.aa.value() + self.a2.value().sum(), 1.0)


def test_levels_are_computed_from_the_top(x64):
    posterior = infer.Posterior(Levels(), targets=jnp.ones((4, 2)))
    density = posterior.sampling_target(True).density
    assert density.noncentered == ('a', 'a2', 'b', 'c', 'tau')
    theta = jax.random.normal(jax.random.key(0), (density.size,))
    v = density.constrain(theta)
    piece = {
        e.name: z
        for block in density.blocks
        for e, z in zip(
            block.entries,
            np.split(
                theta[sum(b.size for b in density.blocks[: density.blocks.index(block)]) :][: block.size],
                np.cumsum(block.sizes)[:-1],
            ),
            strict=True,
        )
    }
    np.testing.assert_allclose(v['c'], v['top'] + v['spread'] * piece['c'][0])
    np.testing.assert_allclose(v['b'], v['c'] + v['spread'] * piece['b'])
    np.testing.assert_allclose(v['a'], v['b'] + 0.3 * piece['a'].reshape(4, 2))
    np.testing.assert_allclose(v['a2'], v['b'] + 0.3 * piece['a2'].reshape(2, 2))
    np.testing.assert_allclose(v['tau'], jnp.exp(v['top'] + piece['tau'][0]))
    np.testing.assert_allclose(v['aa'], v['tau'] * piece['aa'][:2] * jnp.exp(piece['aa'][2:]))
    # One expression for both parameters of the lowest level.
    assert [len(b.entries) for b in density.blocks if isinstance(b, NoncenteredBlock)].count(2) == 1
    assert isinstance(density.blocks[-1], NoncenteredBlock)  # the deepest


def test_the_switch_takes_paths_and_filters():
    posterior = infer.Posterior(Levels(), targets=jnp.ones((4, 2)))

    def names(which):
        return posterior.sampling_target(noncentered=which).density.noncentered

    assert names('b') == ('b',)
    assert names(['b', 'tau']) == ('b', 'tau')
    assert names(lambda path, param: param.shape == ()) == ('c', 'tau')
    assert names(False) == ()
    with pytest.raises(ValueError, match=r"names 'top', which cannot be non-centred.*\['a', 'a2', 'b', 'c', 'tau'\]"):
        names('top')
    assert names(['b[1]', 'a[0, 1, 2, 3, 4, 5, 6, 7]', 'c']) == ('a', 'b[1]', 'c')
    with pytest.raises(ValueError, match=r"number 2 of 'b', which has 2"):
        names('b[0, 2]')
    with pytest.raises(ValueError, match=r'noncentered must be.*got 3'):
        names(3)


def test_units():
    """A rate in mV per group around a mean in volt."""

    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Param(0.05 * u.volt, reg=dist.Normal(0.05, 0.01))
            self.sd = nn.Param(10.0 * u.mV, t=nn.ExpT(0.0 * u.mV), reg=dist.LogNormal(2.0, 0.5))
            self.rest = nn.Param(jnp.array([40.0, 60.0]) * u.mV, reg=nn.GaussianReg(self.mean, self.sd))

        def __call__(self):
            return infer.of_quantities(dist.Normal, self.rest.value(), 1.0 * u.mV)

    posterior = infer.Posterior(Cells(), targets=jnp.array([41.0, 59.0]) * u.mV)
    density = posterior.sampling_target(True).density
    theta = posterior.start(density)
    np.testing.assert_allclose(theta[-2:], [-1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(density.constrain(theta)['rest'], [40.0, 60.0], rtol=1e-5)


def test_single_precision_at_the_neck_of_the_funnel():
    """A scale a millionth of the location: centred, the standardized value has no digits left; here all of them."""
    posterior, centred, density = both('normal')
    theta = np.array([0.7, np.log(1e-6), 0.5, -1.0, 2.0])

    def prior_gradient(of, theta):
        return jax.grad(lambda t: of.terms(t, posterior.data)['prior']['effect'])(jnp.asarray(theta))

    single = prior_gradient(density, theta.astype(np.float32))
    np.testing.assert_allclose(single[-3:], -theta[2:], rtol=1e-5)
    there = centred.flatten(density.thetas(jnp.asarray(theta, jnp.float32)))
    assert np.abs(prior_gradient(centred, there)[-3:] * 1e-6 + theta[2:]).max() > 1e-3


def test_a_cycle_of_priors_is_refused():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Param(jnp.ones(2))
            self.b = nn.Param(jnp.ones(2), reg=nn.GaussianReg(self.a, 1.0))
            self.a.reg = nn.GaussianReg(self.b, 1.0)

        def __call__(self):
            return dist.Normal(self.a.value() + self.b.value(), 1.0)

    with pytest.raises(ValueError, match='itself'):
        _ = infer.Posterior(Loop(), targets=jnp.zeros(2)).sampling_target().density


def test_files_remember_the_coordinates(tmp_path):
    """Centred and non-centred vectors have the same length: only the record tells them apart."""
    model = Groups('normal')
    posterior = infer.Posterior(model, targets=jnp.array([0.3, -1.0, 2.0]))
    for noncentered in (True, False, 'effect[1]'):
        target = posterior.sampling_target(noncentered)
        thetas = np.random.default_rng(0).normal(size=(1, 5, target.size)).astype('f4')
        fit = infer.Fit(target, thetas, method='nuts', stats={'lp': np.arange(5.0)[None]})
        path = tmp_path / f'{noncentered}.nc'
        fit.save(path)
        again = infer.load(path, posterior)
        assert again.density is target.density
        np.testing.assert_array_equal(again.thetas, thetas)
        alone, target = infer.load(path), Groups('normal')
        alone.assign_to(target, (0, 3))
        np.testing.assert_allclose(target.effect.value(), fit.draws['effect'][0, 3], rtol=1e-5)
