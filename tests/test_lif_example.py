"""The spiking network of examples/lif_network.py: against NumPy, and its parameters found again."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import ParamState, infer, random, transform

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / 'examples'


@pytest.fixture(scope='module')
def lif():
    spec = importlib.util.spec_from_file_location('lif_network', EXAMPLES / 'lif_network.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_hand(lif, network, current, spikes):
    """The log odds of every spike, in ms, mV and pA, with no library but NumPy."""
    value = {name: float(getattr(network, name).value().mantissa) for name in lif.TRUTH}
    excite, inhibit = (np.asarray(layer.dense().mantissa) for layer in (network.excite, network.inhibit))
    dt, rest, threshold, slope, rate, resistance = 1.0, -65.0, -50.0, 2.0, 0.1, 0.1  # GOhm times pA is mV
    steps, trials, size = spikes.shape
    v, synapse = np.full((trials, size), rest), np.zeros((trials, size))
    log_odds = []
    padded = np.concatenate([np.zeros((8, trials, size)), spikes])  # spikes[n] is padded[n + 8]
    whole, part = int(value['delay'] // dt), value['delay'] % dt
    for n in range(steps):
        newest = n + 7
        past = (1 - part) * padded[newest - whole] + part * padded[newest - whole - 1]
        jump = past[:, : lif.EXCITATORY] @ excite - past[:, lif.EXCITATORY :] @ inhibit
        synapse = synapse * np.exp(-dt / value['tau_synapse']) + jump
        target = rest + resistance * (current[n] + synapse)
        v = target + (v - target) * np.exp(-dt / value['tau_membrane'])
        hazard = rate * dt * np.exp((v - threshold) / slope)
        log_odds.append(np.log(np.expm1(hazard)))
        v = np.where(spikes[n] > 0, rest, v)
    return np.array(log_odds)


def test_the_likelihood_is_that_of_the_equations(lif):
    with jax.enable_x64(True):
        trials, steps = 2, 40
        network = lif.Network(trials)
        rng = np.random.default_rng(0)
        current = lif.stimulus(steps, trials)
        spikes = (rng.random((steps, trials, lif.SIZE)) < 0.1).astype(float)
        expected = by_hand(lif, network, np.asarray(current.mantissa, float), spikes)
        got = transform.jit(lambda: network(current, jnp.asarray(spikes)).logits)()
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        assert expected.std() > 1.0
        # The delay has a gradient, as every other parameter.
        states = network.states(ParamState)
        slopes = transform.jit(transform.grad(lambda: network(current, spikes).log_prob(spikes).sum(), states))()
        delay = states[('delay', 'val')]
        before, ends = delay.value, []
        for sign in (1, -1):
            delay.value = before + sign * 1e-5
            odds = by_hand(lif, network, np.asarray(current.mantissa, float), spikes)
            ends.append((spikes * odds - np.logaddexp(0, odds)).sum())
        np.testing.assert_allclose(slopes[('delay', 'val')], (ends[0] - ends[1]) / 2e-5, rtol=1e-5)


def test_drawn_spikes_have_the_rate_that_the_model_gives(lif):
    """About 500 spikes, one probability each: the count within 4.5 sd of its sum (7e-6)."""
    network = lif.Network(10)
    random.seed(0)
    log_odds, spikes = transform.jit(network.run)(lif.stimulus(100, 10))
    p = 1 / (1 + np.exp(-np.asarray(log_odds, np.float64)))
    assert abs(float(spikes.sum()) - p.sum()) < 4.5 * np.sqrt((p * (1 - p)).sum())
    again = network(lif.stimulus(100, 10), spikes).logits
    np.testing.assert_allclose(again, log_odds, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_parameters_are_found_again(lif, tmp_path, capsys):
    """Data and seeds are fixed; over data sets, one of five 99 % intervals would miss in 5 % of them."""
    fits = lif.main(tmp_path, steps=150, trials=16, num_warmup=150, num_samples=150)
    summary = fits['NUTS'].summary(prob=0.99)
    for name, truth in lif.TRUTH.items():
        assert summary['lower', name] < float(truth.mantissa) < summary['upper', name]
        # The posterior leans to one side: its mode lies up to a standard deviation from its mean.
        assert abs(float(fits['MAP'].estimate[name].mantissa) - summary['mean', name]) < 1.2 * summary['sd', name]
        assert summary['r_hat', name] < 1.08 and summary['sd', name] < 0.35 * float(truth.mantissa)
        assert fits['NUTS'].draws[name].unit == truth.unit
    recorded = np.asarray(fits['spikes']).mean((0, 1)) * 1000
    simulated = np.asarray(fits['rates']).mean(0)
    assert np.corrcoef(recorded, simulated)[0, 1] > 0.8
    assert 'tau_membrane [ms]' in capsys.readouterr().out
    assert (tmp_path / 'lif_network.png').stat().st_size > 10_000
    assert isinstance(fits['NUTS'], infer.Fit)
