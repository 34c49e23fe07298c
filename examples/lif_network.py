"""A network of leaky integrate-and-fire neurons: simulated in physical units, and inferred from its spikes.

Ten neurons see a known current, are connected by exponential synapses with a delay, and fire with escape noise: the
nearer the membrane is to the threshold, the likelier. The model that draws the spikes also gives their exact
likelihood. Given the spikes recorded so far the membrane is a smooth function of the parameters, of the delay too, so
that MAP and NUTS find the time constants, the weights and the delay.

    python examples/lif_network.py
"""

from __future__ import annotations

import argparse
import pathlib
import time

import brainunit as u
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import HiddenState, environ, infer, nn, random, transform

DT = 1.0 * u.ms
EXCITATORY, INHIBITORY = 7, 3
SIZE = EXCITATORY + INHIBITORY
REST, RESET, THRESHOLD = -65.0 * u.mV, -65.0 * u.mV, -50.0 * u.mV
RESISTANCE = 100.0 * u.Mohm
ESCAPE_RATE, SLOPE = 0.1 / u.ms, 2.0 * u.mV
TRUTH = {
    'tau_membrane': 15.0 * u.ms,
    'tau_synapse': 5.0 * u.ms,
    'delay': 2.6 * u.ms,
    'excitation': 150.0 * u.pA,
    'inhibition': 250.0 * u.pA,
}


class Neurons(nn.Dynamics):
    """tau dv/dt = rest - v + R i; a spike comes at the rate r exp((v - threshold) / slope)."""

    def __init__(self, size: int, tau: nn.Param):
        super().__init__(size)
        self.tau = tau

    def init_state(self, trials):
        self.v = HiddenState(jnp.full((trials, *self.varshape), REST / u.mV) * u.mV)

    def reset_state(self, trials):
        self.v.value = jnp.full((trials, *self.varshape), REST / u.mV) * u.mV

    def update(self, current):
        """One time step; returns the log odds of a spike in it."""
        tau = self.tau.value()
        self.v.value = nn.exp_euler_step(lambda v: (REST - v + RESISTANCE * current) / tau, self.v.value)
        hazard = u.get_magnitude(ESCAPE_RATE * DT) * jnp.exp((self.v.value - THRESHOLD) / SLOPE)
        return jnp.log(jnp.expm1(hazard))

    def spike(self, spikes):
        self.v.value = u.math.where(spikes > 0, RESET, self.v.value)


class Synapse(nn.Dynamics):
    """A current that decays with tau, and jumps at a spike."""

    def __init__(self, size: int, tau: nn.Param):
        super().__init__(size)
        self.tau = tau

    def init_state(self, trials):
        self.current = HiddenState(jnp.zeros((trials, *self.varshape)) * u.pA)

    def reset_state(self, trials):
        self.current.value = jnp.zeros((trials, *self.varshape)) * u.pA

    def update(self, jump):
        self.current.value = nn.exp_euler_step(lambda i: -i / self.tau.value(), self.current.value) + jump
        return self.current.value


class Network(nn.Module):
    """Neurons, two populations of synapses, and the history of the spikes; ``trials`` run side by side."""

    def __init__(self, trials: int):
        super().__init__()
        self.trials = trials
        self.tau_membrane = nn.Param(20.0 * u.ms, t=nn.ExpT(0.0 * u.ms), reg=dist.LogNormal(3.0, 0.5))
        self.tau_synapse = nn.Param(8.0 * u.ms, t=nn.ExpT(0.0 * u.ms), reg=dist.LogNormal(2.0, 0.5))
        self.delay = nn.Param(1.5 * u.ms, t=nn.SigmoidT(0.0 * u.ms, 6.0 * u.ms), reg=dist.Uniform(0.0, 6.0))
        self.excitation = nn.Param(80.0 * u.pA, t=nn.ExpT(0.0 * u.pA), reg=dist.LogNormal(4.5, 1.0))
        self.inhibition = nn.Param(80.0 * u.pA, t=nn.ExpT(0.0 * u.pA), reg=dist.LogNormal(4.5, 1.0))
        self.neurons = Neurons(SIZE, self.tau_membrane)
        self.synapse = Synapse(SIZE, self.tau_synapse)
        self.excite = nn.FixedNumConn(EXCITATORY, SIZE, 0.3, self.excitation, allow_multi_conn=False, seed=1)
        self.inhibit = nn.FixedNumConn(INHIBITORY, SIZE, 0.3, self.inhibition, allow_multi_conn=False, seed=2)
        self.history = nn.Delay(jnp.zeros((trials, SIZE)), time=6.0 * u.ms)
        with environ.context(dt=DT):
            nn.init_all_states(self.neurons, trials)
            nn.init_all_states(self.synapse, trials)
            nn.init_all_states(self.history)

    def step(self, current, spikes=None):
        """One time step with given spikes, or with spikes that are drawn: their log odds, and the spikes."""
        past = self.history.retrieve_ago(self.delay.value())
        jump = self.excite(past[:, :EXCITATORY]) - self.inhibit(past[:, EXCITATORY:])
        log_odds = self.neurons(current + self.synapse(jump))
        if spikes is None:
            spikes = (random.rand(*log_odds.shape) < jax.nn.sigmoid(log_odds)).astype(log_odds.dtype)
        self.neurons.spike(spikes)
        self.history.update(spikes)
        return log_odds, spikes

    def run(self, *inputs):
        """All steps, from rest."""
        with environ.context(dt=DT):
            nn.reset_all_states(self.neurons, self.trials)
            nn.reset_all_states(self.synapse, self.trials)
            nn.reset_all_states(self.history)
            return transform.for_loop(self.step, *inputs)

    def __call__(self, current, spikes):
        """The distribution of every spike given those before it, of shape (time, trials, neurons)."""
        return dist.Bernoulli(logits=self.run(current, spikes)[0])


def stimulus(steps: int, trials: int, seed: int = 0):
    """A current that wanders, another one for each neuron and trial."""
    noise = np.random.default_rng(seed).normal(size=(steps, trials, SIZE))
    wander = np.zeros_like(noise)
    for n in range(1, steps):
        wander[n] = 0.95 * wander[n - 1] + np.sqrt(1 - 0.95**2) * noise[n]
    return jnp.asarray(100.0 + 80.0 * wander, jnp.float32) * u.pA


def recording(steps: int, trials: int, seed: int = 0):
    """The stimulus, and the spikes of the network with the true parameters."""
    truth = Network(trials)
    for name, value in TRUTH.items():
        getattr(truth, name).set_value(value)
    current = stimulus(steps, trials, seed)
    random.seed(seed)
    return current, transform.jit(truth.run)(current)[1]


def table(fits: dict) -> str:
    """Every fit beside the truth."""
    tables = {name: fit.summary(prob=0.9).to_dict() for name, fit in fits.items()}
    lines = [f'{"":20}{"truth":>8}{"MAP":>9}   {"NUTS: mean (90 % interval)":30}{"R-hat":>7}{"ESS":>7}']
    for name, value in TRUTH.items():
        row = tables['NUTS'][name]
        interval = f'{row["mean"]:.2f} ({row["lower"]:.2f} to {row["upper"]:.2f})'
        lines.append(
            f'{f"{name} [{value.unit}]":20}{value.mantissa:8.2f}{tables["MAP"][name]["estimate"]:9.2f}   {interval:30}'
            f'{row["r_hat"]:7.3f}{row["ess_bulk"]:7.0f}'
        )
    return '\n'.join(lines)


def plot(fit, spikes, rates, path: pathlib.Path) -> None:
    """The spikes of one trial, the rate that the fitted network has by itself, and the posterior of each parameter."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2 + len(TRUTH), figsize=(18, 3), constrained_layout=True)
    step, neuron = np.nonzero(np.asarray(spikes[:, 0]))
    axes[0].scatter(step * float(DT / u.ms), neuron, s=4, color='k')
    axes[0].set(title='one trial', xlabel='time (ms)', ylabel='neuron')
    recorded = np.asarray(spikes).mean((0, 1)) / float(DT / u.second)
    low, middle, high = np.quantile(rates, [0.05, 0.5, 0.95], axis=0)
    axes[1].errorbar(recorded, middle, [middle - low, high - middle], fmt='o', markersize=4)
    axes[1].axline((recorded.mean(), recorded.mean()), slope=1, color='0.7')
    axes[1].set(title='firing rates (Hz)', xlabel='recorded', ylabel='simulated from the posterior')
    for ax, (name, value) in zip(axes[2:], TRUTH.items(), strict=True):
        ax.hist(np.ravel(u.get_magnitude(fit.draws[name])), bins=30, color='C0', alpha=0.6)
        ax.axvline(float(value.mantissa), color='C1')
        ax.set(title=f'{name} ({value.unit})', yticks=[])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(out: pathlib.Path, steps: int = 200, trials: int = 24, num_warmup: int = 200, num_samples: int = 250) -> dict:
    """Simulate, fit by MAP and NUTS, simulate from the posterior; print the table and save the picture."""
    matplotlib.use('Agg')
    out.mkdir(parents=True, exist_ok=True)
    current, spikes = recording(steps, trials)
    print(f'{int(spikes.sum())} spikes of {SIZE} neurons in {trials} trials of {steps * DT}\n')
    posterior = infer.Posterior(Network(trials), (current, spikes), spikes)
    fits, start = {}, time.perf_counter()
    fits['MAP'] = infer.map(posterior, progress=False)
    print(f'MAP in {time.perf_counter() - start:.0f} s')
    start = time.perf_counter()
    fits['NUTS'] = infer.nuts(
        posterior,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=2,
        mass_matrix='full',  # weights, synaptic time constant and delay trade off against each other
        progress=False,
    )
    print(f'NUTS in {time.perf_counter() - start:.0f} s\n')
    print(table(fits))

    def simulated_rates(network, current):
        return jnp.mean(network.run(current)[1], axis=(0, 1)) / (DT / u.second)

    rates = fits['NUTS'].evaluate(simulated_rates, current, num_draws=50)
    plot(fits['NUTS'], spikes, np.asarray(rates), out / 'lif_network.png')
    return fits | {'rates': rates, 'spikes': spikes}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('build/demo'), help='where pictures go')
    main(parser.parse_args().out)
