"""What is in a result: draws by path with units, estimates, tables; and writing it into a model."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.core import ParamState
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.variables import columns_of
from tests.support.rich_model import COORDS, RichModel, in_millivolt, rich_posterior, scattered


@pytest.fixture(scope='module')
def posterior():
    return rich_posterior()


@pytest.fixture(scope='module')
def fit(posterior):
    return scattered(posterior)


def magnitude(x):
    return np.asarray(u.get_magnitude(x))


def test_draws_are_the_constrained_values_with_units_under_both_kinds_of_path(fit, posterior):
    assert list(fit.draws) == posterior.names
    for name, value in fit.draws.items():
        entry = next(e for e in posterior.entries if e.name == name)
        assert magnitude(value).shape == (2, 30, *entry.value_shape)
        assert magnitude(value).dtype == np.float32
        assert u.get_unit(value) == entry.unit
        assert fit.draws[tuple(name.split('.'))] is value
    one = fit.density.constrain(jnp.asarray(fit.thetas[1, 7]))
    for name, value in fit.draws.items():
        np.testing.assert_allclose(magnitude(value)[1, 7], one[name], rtol=1e-6)
    columns = fit.columns
    np.testing.assert_allclose(magnitude(fit.draws['rate']), np.exp(fit.thetas[..., columns['rate'][0]]), rtol=1e-6)
    # Its prior's scale is a Param: sampled non-centred.
    scaled = fit.draws['scale'][..., None] * fit.thetas[..., columns['w']]
    np.testing.assert_allclose(fit.draws['w'], scaled, rtol=1e-5)
    z, log_local = np.split(fit.thetas[..., columns['sparse']], 2, axis=-1)
    np.testing.assert_allclose(fit.draws['sparse'], 0.5 * z * np.exp(log_local), rtol=1e-5)


def test_a_missing_path_lists_those_there_are(fit):
    with pytest.raises(KeyError, match=r"no parameter 'wrong'.*'bare\.a'.*'scale'"):
        fit.draws['wrong']
    assert 'wrong' not in fit.draws and 'rate' in fit.draws and len(fit.draws) == 7


def test_columns_cover_the_flat_vector_once(fit, posterior):
    for density in (posterior.density, posterior.sampling_target().density):
        columns = columns_of(density)
        assert sorted(np.concatenate(list(columns.values()))) == list(range(density.size))


def test_draws_keep_double_precision_also_outside_of_it():
    with jax.enable_x64(True):
        posterior = rich_posterior(np.float64)
        fit = scattered(posterior)
        inside = {k: magnitude(v) for k, v in scattered(posterior).draws.items()}
        predicted = magnitude(fit.predict(num_draws=3))
    for name, value in fit.draws.items():
        assert magnitude(value).dtype == np.float64
        np.testing.assert_array_equal(magnitude(value), inside[name])
    again = magnitude(fit.predict(num_draws=3))
    assert again.dtype == np.float64
    np.testing.assert_array_equal(again, predicted)
    model = RichModel(np.float32)
    with pytest.raises(ValueError, match=r'dtype float32 where the fit has float64'):
        fit.assign_to(model)


@pytest.mark.parametrize('tau', [nn.Const, lambda v: nn.Param(v, t=nn.ExpT())], ids=['constant', 'fitted'])
def test_a_scale_mixture_reads_the_scale_of_its_own_model(tau):
    class Sparse(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.w = nn.Param(jnp.array([0.3, 0.4]), reg=nn.HorseshoeReg(tau=tau(value)))

        def __call__(self):
            return dist.Normal(self.w.value().sum(), 1.0)

    for value in (0.5, 5.0):  # the second has the first one's structure, so its compiled programs
        posterior = infer.Posterior(Sparse(value), targets=jnp.ones(3))
        fit = scattered(posterior, spread=0.0)
        np.testing.assert_allclose(fit.draws['w'][0, 0], [0.3, 0.4], rtol=1e-5)
        np.testing.assert_allclose(fit.log_likelihood()[0, 0], dist.Normal(0.7, 1.0).log_prob(jnp.ones(3)), rtol=1e-5)
        model = Sparse(value)
        fit.assign_to(model, (0, 0))
        np.testing.assert_allclose(model.w.value(), [0.3, 0.4], rtol=1e-5)


def test_estimate_is_the_mean_and_of_one_point_the_point(fit, posterior):
    assert u.get_unit(fit.estimate['rate']) == u.Hz
    for name, value in fit.draws.items():
        want = magnitude(value).astype('f8').mean((0, 1))
        np.testing.assert_allclose(magnitude(fit.estimate[name]), want, rtol=1e-6)
    point = infer.Fit(fit.target, fit.thetas[:1, :1], method='map')
    for name, value in point.draws.items():
        np.testing.assert_array_equal(magnitude(point.estimate[name]), magnitude(value)[0, 0])


def test_weights_count_draws_as_often_as_they_say(posterior):
    plain = scattered(posterior, chains=1, draws=4)
    repeated = infer.Fit(plain.target, plain.thetas[:, [0, 1, 1, 1, 3]], method='smc')
    weighted = infer.Fit(plain.target, plain.thetas, method='smc', weights=[[1.0, 3.0, 0.0, 1.0]])
    for name, value in repeated.estimate.items():
        np.testing.assert_allclose(magnitude(weighted.estimate[name]), magnitude(value), rtol=1e-6)
    table, other = weighted.summary(), repeated.summary()
    np.testing.assert_allclose(table['mean'], other['mean'], rtol=1e-6)
    np.testing.assert_allclose(table['sd'], other['sd'] * np.sqrt(4 / 5), rtol=1e-6)  # without Bessel's factor
    drawn = weighted.to_arviz(log_likelihood=False, posterior_predictive=False)['posterior']['rate'].values[0]
    rate = magnitude(plain.draws['rate'])[0]
    np.testing.assert_allclose(np.sort(drawn), np.sort(rate[[0, 1, 1, 3]]))  # 4 of 5, evenly spread


# The table


def test_summary_has_a_row_a_number_and_the_figures_of_numpy(fit):
    table = fit.summary(prob=0.8)
    assert list(table.columns) == ['mean', 'sd', 'lower', 'upper', 'ess_bulk', 'ess_tail', 'r_hat', 'unit']
    assert table.rows[:4] == ('bare.a[0]', 'bare.a[1]', 'bare.b', 'mix[0]')
    assert table.rows[-3:] == ('w[feature=left]', 'w[feature=right]', 'w[feature=up]')
    rate = magnitude(fit.draws['rate']).astype('f8')
    assert table['mean', 'rate'] == pytest.approx(rate.mean(), rel=1e-9)
    assert table['sd', 'rate'] == pytest.approx(rate.std(ddof=1), rel=1e-9)
    assert table['lower', 'rate'] == pytest.approx(np.quantile(rate, 0.1), rel=1e-9)
    assert table['upper', 'rate'] == pytest.approx(np.quantile(rate, 0.9), rel=1e-9)
    assert (table['unit', 'rate'], table['unit', 'bare.b'], table['unit', 'scale']) == ('Hz', 'mV', '-')
    assert table.to_dict()['rate']['mean'] == table['mean', 'rate']
    text, page = str(table), table._repr_html_()
    assert 'nuts: 2 x 30 draws' in text and '80 % (equal-tailed)' in text
    assert len(text.splitlines()) == 2 + len(table) and page.count('<tr>') == 1 + len(table)


def test_diagnostics_tell_chains_that_agree_from_those_that_do_not(posterior):
    good = scattered(posterior, draws=200)
    apart = good.thetas + np.array([0.0, 3.0], 'f4')[:, None, None]
    bad = infer.Fit(good.target, apart, method='nuts', stats=good.stats)
    # R-hat of 400 independent draws is above 1.05 less than once in 1e4 times.
    assert (good.summary()['r_hat'] < 1.05).all() and (good.summary()['ess_bulk'] > 150).all()
    assert (bad.summary()['r_hat'] > 1.5).all() and (bad.summary()['ess_bulk'] < 20).all()


def test_few_or_constant_draws_have_no_diagnostics_and_no_warnings(posterior):
    assert np.isnan(scattered(posterior, draws=3).summary()['r_hat']).all()
    constant = scattered(posterior, draws=10, spread=0.0).summary()
    assert np.isnan(constant['ess_bulk']).all() and '-' in str(constant)


def test_what_is_no_markov_chain_has_no_diagnostics_and_a_point_only_its_values(posterior, fit):
    independent = scattered(posterior, chains=1, stats={'lp': np.zeros((1, 30))}, method='svi').summary()
    assert list(independent.columns) == ['mean', 'sd', 'lower', 'upper', 'unit']
    point = infer.Fit(fit.target, fit.thetas[:1, :1], method='map').summary()
    assert list(point.columns) == ['estimate', 'unit']
    assert point['estimate', 'rate'] == pytest.approx(float(magnitude(fit.draws['rate'])[0, 0]))


@pytest.mark.parametrize(
    ('call', 'kind', 'match'),
    [
        (lambda f, p: f.summary(prob=90), ValueError, 'between 0 and 1, got 90'),
        (lambda f, p: f.summary()['median'], KeyError, "no column 'median'.*'mean'"),
        (lambda f, p: f.summary()['mean', 'x'], KeyError, "no row 'x'.*'rate'"),
        (lambda f, p: infer.Fit(f.target, f.thetas[0], method='x'), ValueError, r'shape \(chains, draws, 14\)'),
        (lambda f, p: infer.Fit(f.target, f.thetas[:, :0], method='x'), ValueError, 'at least one draw'),
        (lambda f, p: infer.Fit(p.target, f.thetas, method='x'), ValueError, r'shape \(chains, draws, 12\)'),
        (lambda f, p: infer.Fit(f.target, f.thetas, method='x', stats={'lp': np.zeros(3)}), ValueError, 'lp must'),
        (lambda f, p: infer.Fit(f.target, f.thetas, method='x', weights=np.ones(3)), ValueError, 'weights must'),
        (lambda f, p: f.assign_to('model'), TypeError, 'takes a Module or a model of another library, got str'),
        (
            lambda f, p: f.assign_to(RichModel(), 'median'),
            ValueError,
            "'mean', 'mode' or \\(chain, draw\\), got 'median'",
        ),
        (lambda f, p: f.assign_to(RichModel(), 3), ValueError, "'mean', 'mode' or \\(chain, draw\\), got 3"),
        (
            lambda f, p: f.assign_to(RichModel(), (0, 99)),
            ValueError,
            'no draw .0, 99.: the fit has 2 chains of 30 draws',
        ),
        (lambda f, p: f.assign_to(RichModel(size=4)), ValueError, r"'w' has shape \(4,\) where the fit has \(3,\)"),
        (lambda f, p: f.assign_to(nn.Param(1.0)), ValueError, "'scale' is missing|'rate' is missing"),
    ],
)
def test_bad_input_says_what_is_wrong(fit, posterior, call, kind, match):
    with pytest.raises(kind, match=match):
        call(fit, posterior)


@pytest.mark.parametrize(
    ('coords', 'match'),
    [
        (
            {'feature': ['a', 'b']},
            r"coords\['feature'\] must have one label an entry: 3 of them .Param 'w'., got shape \(2,\)",
        ),
        (
            {'group': ['a', 'b']},
            r"labels for 'group', which is no dim .*there are \['feature'\]",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_the_posterior(coords, match):
    with pytest.raises(ValueError, match=match):
        infer.Posterior(RichModel(), jnp.ones((4, 3)), jnp.ones(4), coords=coords)


class TwoDims(nn.Module):
    def __init__(self, sizes=(2, 3), name='group'):
        super().__init__()
        self.a = nn.Param(jnp.zeros(sizes[0]), dims=(name,))
        self.b = nn.Param(jnp.zeros((sizes[1], 2)), dims=(name, 'other'))

    def __call__(self):
        return dist.Normal(self.a.value().sum() + self.b.value().sum(), 1.0)


def test_dims_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="'group' has length 2 in Param 'a' and 3 in Param 'b'"):
        infer.Posterior(TwoDims(), targets=jnp.ones(4))
    with pytest.raises(ValueError, match="'b' has the name of an axis of Param 'b'"):
        infer.Posterior(TwoDims((2, 2), name='b'), targets=jnp.ones(4))
    posterior = infer.Posterior(TwoDims((2, 2)), targets=jnp.ones(4), coords={'group': [10, 20]})
    rows = scattered(posterior).summary().rows
    assert rows[:3] == ('a[group=10]', 'a[group=20]', 'b[group=10,other=0]')


# Into a model


@pytest.mark.parametrize('expanded', [False, True])
def test_a_draw_written_into_a_model_is_there_bit_for_bit(posterior, expanded):
    fit = scattered(posterior, posterior.sampling_target() if expanded else posterior.target)
    model = RichModel()
    fit.assign_to(model, (1, 3))
    own = fit.density.compiled(Density.thetas)(fit.thetas[1, 3])
    for name in ('scale', 'w', 'rate', 'mix', 'sparse'):
        np.testing.assert_array_equal(getattr(model, name).val.value, own[name])
    np.testing.assert_array_equal(model.bare.value['a'], own['bare.a'])
    assert u.get_unit(model.bare.value['b']) == u.mV and model.rate.unit == u.Hz
    if not expanded:
        fitted = infer.Posterior(model, *posterior.data.args, posterior.data.targets * u.mV, likelihood=in_millivolt)
        assert float(fitted.log_density()) == float(posterior.log_density(fit.thetas[1, 3]))


def test_the_mean_is_that_of_the_constrained_values(fit):
    model = RichModel()
    fit.assign_to(model)
    assert float(u.get_magnitude(model.rate.value())) == pytest.approx(float(u.get_magnitude(fit.estimate['rate'])))
    np.testing.assert_allclose(model.mix.value(), fit.estimate['mix'], rtol=1e-5)
    np.testing.assert_allclose(model.w.value(), fit.estimate['w'], rtol=1e-6)


def test_the_mode_is_the_draw_of_highest_density(posterior):
    fit = scattered(posterior, posterior.target, stats=None)
    model = RichModel()
    fit.assign_to(model, 'mode')
    best = max(float(posterior.log_density(row)) for row in fit.rows)
    assert float(infer.Posterior(model, *posterior.data.args, posterior.data.targets).log_density()) == pytest.approx(
        best
    )


class Direction(nn.Module):
    def __init__(self):
        super().__init__()
        self.heading = nn.Param(jnp.array([1.0, 0.0]), t=nn.UnitVectorT())
        self.shift = nn.Param(0.0)

    def __call__(self):
        return dist.Normal(self.heading.value()[0] + self.shift.value(), 1.0)


def test_a_mean_that_is_no_value_is_refused_and_the_model_left_as_it_was():
    fit = scattered(infer.Posterior(Direction(), targets=jnp.ones(3)), spread=1.0)
    model = Direction()
    with pytest.raises(ValueError, match=r"'heading': the mean of the draws is not a possible value.*which='mode'"):
        fit.assign_to(model)
    assert float(model.shift.value()) == 0.0
    fit.assign_to(model, 'mode')
    assert float(jnp.linalg.norm(model.heading.value())) == pytest.approx(1.0)


def test_a_single_bare_state_keeps_its_unit():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.v = ParamState(jnp.array([1.0, 2.0]) * u.mV)

        def __call__(self):
            return dist.Normal(u.get_magnitude(self.v.value).sum(), 1.0)

    fit = scattered(infer.Posterior(Bare(), targets=jnp.ones(3)))
    model = Bare()
    fit.assign_to(model, (0, 0))
    assert u.get_unit(model.v.value) == u.mV == u.get_unit(fit.draws['v'])
    np.testing.assert_array_equal(u.get_magnitude(model.v.value), u.get_magnitude(fit.draws['v'])[0, 0])


def test_repr_is_short(fit):
    assert repr(fit) == "Fit(method='nuts', 2 chains of 30 draws, 7 parameters)"
    assert repr(fit.draws).startswith("Draws({'bare.a': (2, 30, 2)")
    assert list(fit.coords['feature']) == COORDS['feature']
