"""A function of a pytree of parameters as a model; what holds for every library is tested here."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, interop, nn
from tests.interop.cases import X, Y, glm_density, same_density

pytestmark = pytest.mark.usefixtures('x64')

PARAMS = {'w': np.array([0.3, -0.2]), 'b': 0.1, 'log_sigma': -0.5, 'center': np.array([1, 2])}


def predict(params, x):
    return (x - 0 * params['center']) @ params['w'] + params['b']


def likelihood(m, x):
    return dist.Normal(m(x), jnp.exp(m.params['log_sigma']))


def made(params=PARAMS, function=predict, **priors):
    return interop.wrap((function, params), {...: dist.Normal(0.0, 1.0), **priors})


def test_density_is_that_of_the_formula():
    posterior = infer.Posterior(made(), X, Y, likelihood=likelihood)

    def density(b, log_sigma, w):
        return glm_density(b, jnp.exp(log_sigma), w) + dist.Normal().log_prob(log_sigma)

    same_density(posterior, ['b', 'log_sigma', 'w'], density)


def test_is_taken_as_it_is_and_written_back():
    params = {'w': PARAMS['w'], 'b': 0.1, 'log_sigma': -0.5, 'center': PARAMS['center']}
    fit = infer.map(infer.Posterior((predict, params), X, Y, likelihood=likelihood), progress=False)
    function, new = fit.assign_to((predict, params))
    assert function is predict
    np.testing.assert_allclose(new['w'], np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y)[0][:2], atol=1e-4)
    np.testing.assert_array_equal(new['center'], [1, 2])
    assert params['b'] == 0.1


def test_models_of_one_structure_share_programs():
    first = infer.Posterior(made(), X, Y, likelihood=likelihood)
    other = {**PARAMS, 'w': np.array([2.0, 2.0]), 'center': np.array([3, 4])}
    assert infer.Posterior(made(other), X, Y, likelihood=likelihood).density is first.density
    assert (
        infer.Posterior(made({**PARAMS, 'w': np.ones(2), 'flag': 'x'}), X, Y, likelihood=likelihood).density
        is not first.density
    )
    twice = made(function=lambda params, x: 2 * predict(params, x))
    assert infer.Posterior(twice, X, Y, likelihood=likelihood).density is not first.density


def test_transforms_and_report():
    spec = nn.ParamSpec(t=nn.SoftplusT(0.0), reg=dist.HalfNormal(1.0))
    model, report = interop.wrap(
        (lambda p, x: x @ p['w'] * p['scale'], {'w': np.ones(2), 'scale': 2.0}),
        {'scale': spec, 'nothing': dist.Normal()},
        return_report=True,
    )
    assert list(report.attached) == ['scale'] and report.kept == ['w'] and report.unmatched == ['nothing']
    np.testing.assert_allclose(model.scale.value(), 2.0, rtol=1e-6)
    with pytest.warns(UserWarning, match="no parameter matches 'nothing'. The parameters are: w"):
        interop.wrap((predict, {'w': np.ones(2)}), {'nothing': dist.Normal()})


def test_names_of_the_library_get_an_underscore():
    model = interop.wrap((lambda p, x: x @ p['states']['update'], {'states': {'update': np.ones(2)}}))
    posterior = infer.Posterior(model, X, Y, likelihood=lambda m, x: dist.Normal(m(x), 1.0))
    assert posterior.names == ['states_.update']


def test_wrong_use():
    with pytest.raises(TypeError, match='model of another library, got int'):
        interop.wrap(3)
    with pytest.raises(TypeError, match='use nn.with_prior'):
        interop.wrap(nn.Linear(2, 1))
    fit = infer.map(infer.Posterior(made(), X, Y, likelihood=likelihood), progress=False, num_steps=2000)
    with pytest.raises(ValueError, match='they differ in w'):
        fit.assign_to((predict, {**PARAMS, 'w': np.ones(3)}))
    with pytest.raises(TypeError, match='assign_to takes a Module or a model of another library, got int'):
        fit.assign_to(3)
