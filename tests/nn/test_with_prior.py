"""Layers that take Params, one by one (ParamSpec) or a whole model by filter (with_prior)."""

import pickle

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import ParamState, graph, infer, nn, random, transform

NORMAL = dist.Normal(0.0, 1.0)


def network():
    random.seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


# Layers with a `weight` State, and an input for each.
LAYERS = {
    'linear': (lambda **kw: nn.Linear(3, 4, **kw), (2, 3)),
    'scaled linear': (lambda **kw: nn.ScaledWSLinear(3, 4, **kw), (2, 3)),
    'signed linear': (lambda **kw: nn.SignedWLinear(3, 4, **kw), (2, 3)),
    'one to one': (lambda **kw: nn.OneToOne(3, **kw), (2, 3)),
    'all to all': (lambda **kw: nn.AllToAll(3, 4, **kw), (2, 3)),
    'conv': (lambda **kw: nn.Conv2d((6, 6, 2), 3, 3, **kw), (1, 6, 6, 2)),
    'transposed conv': (lambda **kw: nn.ConvTranspose1d((6, 2), 3, 3, **kw), (1, 6, 2)),
    'gru': (lambda **kw: nn.GRUCell(3, 4, **kw), (3,)),
    'lstm': (lambda **kw: nn.LSTMCell(3, 4, **kw), (3,)),
}


@pytest.mark.parametrize('name', LAYERS)
def test_every_layer_takes_a_spec_for_its_weight(name):
    make, shape = LAYERS[name]
    spec = nn.ParamSpec(0.5, t=nn.SoftplusT(), reg=dist.Gamma(2.0, 1.0))
    layer = make(w_init=spec)
    params = [p for _, p in layer.named_param_modules() if p.reg is not None]
    assert params and all(isinstance(p.t, nn.SoftplusT) for p in params)
    nn.init_all_states(layer)
    x = jnp.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape)
    first = layer(x)
    # The same layer with its weights as plain numbers computes the same.
    plain = make(w_init=0.5)
    nn.init_all_states(plain)
    np.testing.assert_allclose(first, plain(x), rtol=2e-6, atol=1e-6)
    expected = sum(float(-dist.Gamma(2.0, 1.0).log_prob(0.5)) * np.prod(p.shape) for p in params)
    np.testing.assert_allclose(layer.reg_loss(), expected, rtol=1e-5)
    gradient = transform.grad(lambda: layer(x).sum(), layer.states(ParamState))()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_a_spec_without_initializer_starts_at_a_prior_draw():
    layer = nn.Linear(200, 50, w_init=nn.ParamSpec(reg=dist.Normal(3.0, 0.1)))
    value = layer.weight.value['weight']
    # 10 000 draws: the mean's standard error is 0.001; five of them leave a false alarm in a million.
    assert abs(float(value.mean()) - 3.0) < 5e-3 and value.shape == (200, 50)
    with pytest.raises(ValueError, match='needs an initializer or a prior'):
        nn.Linear(2, 3, w_init=nn.ParamSpec(t=nn.SoftplusT()))


def test_one_param_serves_two_layers():
    shared = nn.Param(jnp.ones((3, 3)), reg=NORMAL)
    model = nn.Sequential(nn.Linear(3, 3, w_init=shared, b_init=None), nn.Linear(3, 3, w_init=shared, b_init=None))
    assert list(model.states(ParamState)) == [('layers', 0, 'weight', 'weight', 'val')]
    np.testing.assert_allclose(model(jnp.ones(3)), 9.0)
    with pytest.raises(ValueError, match=r"Param given for 'weight' has shape \(3, 3\), the layer needs \(3, 4\)"):
        nn.Linear(3, 4, w_init=shared)


def test_units_and_dims_reach_the_posterior():
    layer = nn.Linear(2, 1, w_init=nn.ParamSpec(1.0 * u.mV, reg=NORMAL, dims=('input', 'unit')), b_init=0.0 * u.mV)
    assert layer(jnp.ones(2)).unit == u.mV
    posterior = infer.Posterior(
        layer, jnp.ones((5, 2)), jnp.zeros((5, 1)), likelihood=lambda m, x: dist.Normal(m(x) / u.mV, 1.0)
    )
    entry = {e.name: e for e in posterior.entries}['weight.weight']
    assert entry.unit == u.mV and entry.param.dims == ('input', 'unit')


def test_values_are_written_and_restored_through_the_holder():
    layer = nn.Linear(2, 2, w_init=nn.ParamSpec(1.0, t=nn.SoftplusT()), b_init=None)
    layer.weight.value = {'weight': jnp.full((2, 2), 3.0)}
    np.testing.assert_allclose(layer.weight.value['weight'], 3.0, rtol=1e-6)
    again = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(again(jnp.ones(2)), layer(jnp.ones(2)))
    assert 'SoftplusT' in repr(layer)


# The parameters of `network`, by what picks them.
ALL = {f'layers.{i}.weight.{k}' for i in (0, 2) for k in ('weight', 'bias')}
FILTERS = {
    'all': (..., ALL),
    'type of layer': (nn.Linear, ALL),
    'type of State': (ParamState, ALL),
    'pattern': ('*.bias', {'layers.0.weight.bias', 'layers.2.weight.bias'}),
    'prefix': (('layers', 2), {'layers.2.weight.weight', 'layers.2.weight.bias'}),
    'predicate': (lambda path, state: path[-1] == 'weight', {'layers.0.weight.weight', 'layers.2.weight.weight'}),
}


@pytest.mark.parametrize('name', FILTERS)
def test_filters_pick_parameters(name):
    key, expected = FILTERS[name]
    model = network()
    bayesian, report = nn.with_prior(model, {key: NORMAL}, return_report=True)
    assert set(report.attached) == expected and set(report.kept) == ALL - expected and not report.unmatched
    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    np.testing.assert_array_equal(bayesian(x), model(x))
    assert sum(x.size for m in (bayesian, model) for x in jax.tree.leaves([s.value for s in m.parameters()])) == 42
    assert model.reg_loss() == 0.0  # the original is as it was
    assert list(model.states(ParamState)) == [('layers', 0, 'weight'), ('layers', 2, 'weight')]
    values = [v for path, v in _values(bayesian).items() if path in expected]
    np.testing.assert_allclose(bayesian.reg_loss(), -sum(NORMAL.log_prob(v).sum() for v in values), rtol=1e-6)


def _values(model):
    return {'.'.join(map(str, path)): p.value() for path, p in model.named_param_modules()}


def test_the_first_filter_that_matches_counts_and_none_leaves_alone():
    model, report = nn.with_prior(
        network(), {'*.bias': None, ('layers', 0): dist.Laplace(0.0, 1.0), ...: NORMAL}, return_report=True
    )
    kinds = {path: type(p.reg.distribution).__name__ for path, p in _params(model).items() if p.reg is not None}
    assert kinds == {'layers.0.weight.weight': 'Laplace', 'layers.2.weight.weight': 'Normal'}
    assert report.kept == ['layers.0.weight.bias', 'layers.2.weight.bias']
    assert 'layers.2.weight.weight' in repr(report) and 'as it was' in repr(report)


def _params(model):
    return {'.'.join(map(str, path)): p for path, p in model.named_param_modules()}


def test_priors_may_depend_on_the_path_and_the_value():
    model = nn.with_prior(network(), {...: lambda path, value: dist.Normal(0.0, value.shape[0] ** -0.5)})
    scales = {path: float(p.reg.distribution.scale) for path, p in _params(model).items()}
    assert scales['layers.0.weight.weight'] == pytest.approx(3**-0.5)
    assert scales['layers.2.weight.weight'] == pytest.approx(4**-0.5)


def test_a_filter_without_match_is_reported():
    with pytest.warns(UserWarning, match=r"no parameter matches 'layers\.7.*layers\.0\.weight\.weight"):
        nn.with_prior(network(), {'layers.7*': NORMAL})
    _, report = nn.with_prior(network(), {'layers.7*': NORMAL}, return_report=True)
    assert report.unmatched == ['layers.7*'] and "no parameter matches 'layers.7*'" in repr(report)
    with pytest.raises(TypeError, match='takes a Module'):
        nn.with_prior(ParamState(1.0), {...: NORMAL})


def test_params_keep_their_own_prior_unless_it_is_replaced():
    model = nn.Module()
    model.own = nn.Param(1.0, t=nn.SoftplusT(), reg=dist.Gamma(2.0, 1.0))
    model.bare = nn.Param(1.0)
    model.fixed = nn.Const(1.0)
    model.raw = ParamState(jnp.ones(2))
    kept, report = nn.with_prior(model, {...: NORMAL}, return_report=True)
    assert report.kept == ['own'] and set(report.attached) == {'bare', 'raw'}
    assert isinstance(kept.fixed, nn.Const) and kept.raw.value.shape == (2,)
    replaced = nn.with_prior(model, {'own': nn.ParamSpec(t=nn.ExpT(), reg=dist.LogNormal(0.0, 1.0))})
    assert isinstance(replaced.own.t, nn.ExpT) is False
    replaced = nn.with_prior(model, {'own': nn.ParamSpec(t=nn.ExpT(), reg=dist.LogNormal(0.0, 1.0))}, replace=True)
    assert isinstance(replaced.own.t, nn.ExpT) and float(replaced.own.value()) == pytest.approx(1.0)


def test_shared_parameters_stay_shared():
    model = nn.Module()
    model.a = nn.Linear(2, 2)
    model.b = model.a
    model.list = [model.a, {'again': model.a}]
    bayesian = nn.with_prior(model, {...: NORMAL})
    assert bayesian.a is bayesian.b is bayesian.list[0] is bayesian.list[1]['again']
    assert len(bayesian.states(ParamState)) == 2
    state = ParamState(jnp.ones(3))
    model = nn.Module()
    model.x, model.y = state, state
    bayesian = nn.with_prior(model, {...: NORMAL})
    assert bayesian.x is bayesian.y


def test_hierarchical_priors_by_filter():
    """One scale for all weights: a Param inside the prior becomes a parameter of the model."""
    scale = nn.Param(1.0, t=nn.SoftplusT(), reg=dist.HalfNormal(1.0))
    model = nn.with_prior(network(), {'*.weight.weight': nn.GaussianReg(0.0, scale), '*.bias': NORMAL})
    names = infer.Posterior(
        model, jnp.ones((2, 3)), jnp.zeros((2, 1)), likelihood=lambda m, x: dist.Normal(m(x), 1.0)
    ).names
    assert sum('std' in n for n in names) == 1 and len(names) == 5


def test_an_ordinary_network_plus_one_line_goes_to_map_laplace_svi_and_nuts():
    """A linear model: MAP, Laplace, SVI and NUTS of the layer agree with the closed form of Bayesian regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0]) + 0.5 + 0.5 * rng.normal(size=40)).astype(np.float32)
    model = nn.with_prior(nn.Linear(2, 1), {...: NORMAL})
    posterior = infer.Posterior(
        model, jnp.asarray(x), jnp.asarray(y), likelihood=lambda m, x: dist.Normal(m(x)[:, 0], 0.5)
    )
    design = np.c_[np.ones(40), x]  # bias, weight
    precision = np.eye(3) + design.T @ design / 0.25
    mean, sd = np.linalg.solve(precision, design.T @ y / 0.25), np.sqrt(np.diag(np.linalg.inv(precision)))

    def flat(values):
        return np.r_[np.ravel(values['weight.bias']), np.ravel(values['weight.weight'])]

    best = infer.map(posterior, progress=False)
    np.testing.assert_allclose(flat(best.estimate), mean, atol=1e-4)
    laplace = infer.laplace(posterior, progress=False)
    columns = np.r_[laplace.columns['weight.bias'], laplace.columns['weight.weight']]
    np.testing.assert_allclose(np.sqrt(np.diag(laplace.covariance))[columns], sd, rtol=1e-3)
    nuts = infer.nuts(posterior, num_warmup=300, num_samples=500, num_chains=2, seed=0, progress=False)
    draws = np.concatenate([nuts.magnitudes[k].reshape(1000, -1) for k in ('weight.bias', 'weight.weight')], 1)
    # About 1000 effective draws: standard errors of 0.03 sd (mean) and 2 % (sd); four of them.
    np.testing.assert_allclose((draws.mean(0) - mean) / sd, 0.0, atol=0.13)
    np.testing.assert_allclose(draws.std(0) / sd, 1.0, atol=0.1)
    svi = infer.svi(posterior, guide='full', num_steps=2000, num_draws=1000, seed=0, progress=False)
    np.testing.assert_allclose((flat(svi.estimate) - mean) / sd, 0.0, atol=0.3)
    best.assign_to(model)
    np.testing.assert_allclose(np.ravel(model.weight.value['bias']), mean[:1], atol=1e-4)


def test_the_copy_travels_through_the_graph():
    model = nn.with_prior(network(), {...: NORMAL})
    definition, states = graph.treefy_split(model)
    again = graph.treefy_merge(definition, states)
    np.testing.assert_array_equal(again(jnp.ones((2, 3))), model(jnp.ones((2, 3))))
