"""CO2 at Mauna Loa: learn up to the end of 1990, forecast 1991 to 2001, and look whether the intervals hold.

The textbook structural time series as one Gaussian process: a local linear trend (a random walk whose drift is itself a
random walk), a season whose shape changes slowly, and noise. Its six scales are Params with priors; a Laplace
approximation (or NUTS, `--nuts`, which takes minutes) says how well they are known, and the forecast mixes the exact
Gaussian predictions of every draw.

    python examples/mauna_loa.py
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import cho_solve

from brainstate_prob import infer, nn

HERE = pathlib.Path(__file__).resolve().parent
START = 1958.0  # where the random walks begin


def scale(guess: float, spread: float = 1.0) -> nn.Param:
    """A positive Param with a log-normal prior around a guess."""
    return nn.Param(guess, t=nn.PositiveT(), reg=dist.LogNormal(jnp.log(guess), spread))


class Structural(nn.Module):
    """Trend, season and noise in ppm, over decimal years."""

    def __init__(self):
        super().__init__()
        self.drift = scale(0.1)  # of the drift, ppm / year a square root of a year
        self.walk = scale(0.5)  # of the level, ppm a square root of a year
        self.season = scale(3.0)  # ppm
        self.shape = scale(1.5, 0.5)  # length scale of the season's sine
        self.memory = scale(100.0)  # years over which the season keeps its shape
        self.noise = scale(0.2)  # ppm

    def covariance(self, a, b):
        """Of the curve without noise, between the times ``a`` and ``b``."""
        s, t = a[:, None] - START, b[None, :] - START
        apart, first = jnp.abs(s - t), jnp.minimum(s, t)
        diffuse = 50.0**2 + 2.0**2 * s * t  # where the level and the drift begin: hardly known
        trend = self.walk.value() ** 2 * first + self.drift.value() ** 2 * (first**3 / 3 + apart * first**2 / 2)
        waves = -2 * (jnp.sin(jnp.pi * apart) / self.shape.value()) ** 2 - (apart / self.memory.value()) ** 2 / 2
        return diffuse + trend + self.season.value() ** 2 * jnp.exp(waves)

    def __call__(self, times):
        noise = self.noise.value() ** 2 * jnp.eye(len(times))
        return dist.MultivariateNormal(0.0, self.covariance(times, times) + noise)

    def forecast(self, times, values, new_times):
        """Mean and standard deviation of what will be measured at ``new_times``."""
        factor = jnp.linalg.cholesky(self(times).covariance_matrix), True
        cross = self.covariance(new_times, times)
        curve = jax.vmap(lambda t: self.covariance(t[None], t[None])[0, 0])(new_times)
        variance = curve + self.noise.value() ** 2 - jnp.sum(cross * cho_solve(factor, cross.T).T, 1)
        return cross @ cho_solve(factor, values), jnp.sqrt(variance)


def load():
    """The weekly record: decimal year and ppm."""
    table = np.genfromtxt(HERE / 'data' / 'mauna_loa_weekly.csv', delimiter=',', skip_header=1, usecols=(1, 2))
    return table[:, 0], table[:, 1]


def monthly(years, values):
    """Averages by month."""
    month = np.floor(years * 12).astype(int)
    return tuple(np.array([x[month == m].mean() for m in np.unique(month)]) for x in (years, values))


def main(nuts: bool = False, num_draws: int = 100, progress: bool = True):
    """Fit, forecast, and return (fit, years, measured, lower, upper)."""
    years, values = load()
    past = years < 1991
    times, observed = monthly(years[past], values[past])
    center = observed.mean()
    with jax.enable_x64(True):  # neighbouring months are almost collinear: float32 has too few digits for that
        times, observed = jnp.asarray(times), jnp.asarray(observed - center)
        posterior = infer.Posterior(Structural(), times, observed)
        fit = infer.laplace(posterior, num_draws=num_draws, progress=progress)
        if nuts:
            fit = infer.nuts(posterior, init=fit, num_warmup=200, num_samples=200, num_chains=2, progress=progress)
        mean, sd = fit.evaluate(
            lambda model, *args: model.forecast(*args), times, observed, jnp.asarray(years[~past]), num_draws=num_draws
        )
    rng = np.random.default_rng(0)
    draws = center + np.asarray(mean) + np.asarray(sd) * rng.standard_normal((20, *np.shape(mean)))
    lower, upper = np.quantile(draws.reshape(-1, draws.shape[-1]), [0.05, 0.95], axis=0)
    return fit, years[~past], values[~past], lower, upper


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--nuts', action='store_true', help='draw the scales by NUTS')
    fit, years, measured, lower, upper = main(parser.parse_args().nuts)
    print(fit.summary())
    covered = (lower < measured) & (measured < upper)
    print(f'90 % intervals of {len(years)} weeks, 1991 to 2001, cover {covered.mean():.1%}')
    for year in range(1991, 2002):
        now = np.floor(years) == year
        print(f'{year}: {covered[now].mean():6.1%} of {now.sum()} weeks, width {np.mean((upper - lower)[now]):.1f} ppm')
