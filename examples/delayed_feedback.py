"""A rate network with delayed inhibition: it oscillates beyond a gain that theory gives, and its gain can be inferred.

The population rate follows tau dr/dt = -r - tanh(gain * r(t - delay)). Linear theory says where the resting state loses
its stability: gain_c = sqrt(1 + (w tau)^2) with w delay = pi - arctan(w tau), and that the oscillation begins with the
period 2 pi / w. The simulation must show both. Then the gain and the time constant are inferred from a noisy recording.

    python examples/delayed_feedback.py
"""

from __future__ import annotations

import brainunit as u
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from scipy.optimize import brentq

from brainstate_prob import HiddenState, environ, infer, nn, random, transform

DT = 0.5 * u.ms
TAU, DELAY = 10.0 * u.ms, 15.0 * u.ms


class Feedback(nn.Dynamics):
    """A population that inhibits itself after a delay."""

    def __init__(self, gain: float = 1.0, tau=12.0 * u.ms):
        super().__init__(1)
        self.gain = nn.Param(gain, t=nn.PositiveT(), reg=dist.LogNormal(0.5, 1.0))
        self.tau = nn.Param(tau, t=nn.ExpT(0.0 * u.ms), reg=dist.LogNormal(2.3, 0.5))
        self.noise = nn.Param(0.1, t=nn.PositiveT(), reg=dist.LogNormal(-2.0, 1.0))
        self.history = nn.Delay(jnp.zeros(1), time=DELAY)
        with environ.context(dt=DT):
            nn.init_all_states(self)

    def init_state(self):
        self.rate = HiddenState(jnp.zeros(1))

    def reset_state(self):
        self.rate.value = jnp.zeros(1)

    def update(self, drive):
        past = self.history.retrieve_ago(DELAY)
        slope = (drive - self.rate.value - jnp.tanh(self.gain.value() * past)) / self.tau.value()
        self.rate.value = self.rate.value + slope * DT
        self.history.update(self.rate.value)
        return self.rate.value[0]

    def run(self, drive):
        """The rate at every step, from rest."""
        with environ.context(dt=DT):
            nn.reset_all_states(self)
            return transform.for_loop(self.update, drive)

    def __call__(self, drive):
        return dist.Normal(self.run(drive), self.noise.value())


def onset(tau: float = 10.0, delay: float = 15.0) -> tuple[float, float]:
    """The critical gain and the period (ms) of linear theory."""
    omega = brentq(lambda w: w * delay - np.pi + np.arctan(w * tau), 1e-6, np.pi / delay)
    return float(np.hypot(1.0, omega * tau)), 2 * np.pi / omega


def pulse(steps: int):
    """A drive that is on for the first 10 ms."""
    return jnp.where(jnp.arange(steps) < 20, 0.5, 0.0)


def simulate(gain: float, steps: int = 2000) -> np.ndarray:
    """The response to a pulse."""
    model = Feedback(gain, TAU)
    return np.asarray(transform.jit(lambda: model.run(pulse(steps)))())


def growth_and_period(rate: np.ndarray) -> tuple[float, float]:
    """By how much the oscillation grows from one half of the record to the other, and its period in ms."""
    early, late = rate[len(rate) // 4 : len(rate) // 2], rate[-len(rate) // 4 :]
    up = np.flatnonzero((late[:-1] < 0) & (late[1:] >= 0))
    exact = up + late[up] / (late[up] - late[up + 1])
    return float(np.ptp(late) / np.ptp(early)), float(np.mean(np.diff(exact)) * DT.to_decimal(u.ms))


def recording(gain: float, steps: int = 600, sd: float = 0.05, seed: int = 0):
    """A drive that wanders, and a noisy record of the response."""
    rng = np.random.default_rng(seed)
    drive = jnp.asarray(np.convolve(rng.normal(size=steps + 40), np.ones(40) / 40, 'valid')[:steps], jnp.float32) * 4
    model = Feedback(gain, TAU)
    rate = transform.jit(lambda: model.run(drive))()
    return drive, rate + sd * jnp.asarray(rng.normal(size=steps), jnp.float32)


def main(num_members: int = 4, progress: bool = True) -> dict[str, infer.Fit]:
    """Show the onset, infer gain and time constant, print what was found, and return the fits."""
    critical, period = onset()
    print(f'theory: oscillations beyond a gain of {critical:.3f}, with a period of {period:.1f} ms')
    for gain in (0.95 * critical, 1.05 * critical):
        growth, measured = growth_and_period(simulate(gain))
        print(f'gain {gain:.3f}: the amplitude changes by a factor {growth:.2f}, period {measured:.1f} ms')

    random.seed(0)
    drive, record = recording(1.2)
    posterior = infer.Posterior(Feedback(), drive, record)
    fits = {
        'MAP': infer.map(posterior, progress=progress),
        'Laplace': infer.laplace(posterior, progress=progress),
        'ensemble': infer.ensemble(
            posterior,
            num_members=num_members,
            optimizer=optax.adam(3e-2),
            num_steps=400,
            progress=progress,
        ),
    }
    print(fits['Laplace'].summary())
    new_drive, new_record = recording(1.2, seed=1)
    print(f'{"":9s} rmse    nll      90 % covers')
    for name, fit in fits.items():
        scores = fit.score(new_drive, new_record)
        cells = (f'{scores["value", k]:7.4f}' for k in ('rmse', 'nll', 'coverage of 90 %'))
        print(f'{name:9s} ' + '  '.join(cells))
    return fits


if __name__ == '__main__':
    main()
