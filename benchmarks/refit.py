"""A second fit of the same structure, with new data and another seed: what it costs, and what it compiles.

    python benchmarks/refit.py

Compilations are counted by JAX's own monitoring events, traces of the model by a counter in its ``__call__``.
Beside it NumPyro's own `MCMC` and `SVI` drivers on the same model, which compile at every run.
"""

from __future__ import annotations

import time
import warnings

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from brainstate_prob import infer, nn

COMPILED: list[str] = []
TRACED: list[int] = []


class Schools(nn.Module):
    """Eight schools, non-centred."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(), reg=dist.HalfCauchy(5.0))
        self.raw = nn.Param(jnp.zeros(8), reg=dist.Normal(0.0, 1.0))

    def __call__(self, sigma):
        TRACED.append(1)
        return dist.Normal(self.mu.value() + self.tau.value() * self.raw.value(), sigma)


def in_numpyro(sigma, y=None):
    """The same model for NumPyro."""
    mu = numpyro.sample('mu', dist.Normal(0.0, 5.0))
    tau = numpyro.sample('tau', dist.HalfCauchy(5.0))
    raw = numpyro.sample('raw', dist.Normal(0.0, 1.0).expand([8]))
    numpyro.sample('y', dist.Normal(mu + tau * raw, sigma), obs=y)


SIGMA = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
Y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])


def posterior(k):
    """A new model and new data of the same shapes."""
    return infer.Posterior(Schools(), SIGMA + k, Y + k)


def numpyro_nuts(k):
    """NumPyro's driver."""
    mcmc = MCMC(
        NUTS(in_numpyro), num_warmup=500, num_samples=500, num_chains=4, chain_method='sequential', progress_bar=False
    )
    mcmc.run(jax.random.key(k), SIGMA + k, Y + k)


def numpyro_svi(k):
    """NumPyro's driver."""
    SVI(in_numpyro, AutoNormal(in_numpyro), optax.adam(1e-2), Trace_ELBO()).run(
        jax.random.key(k), 2000, SIGMA + k, Y + k, progress_bar=False
    )


QUIET = {'progress': False}
FITS = {
    'MAP': lambda k: infer.map(posterior(k), optimizer=optax.adam(1e-2), num_steps=1000, seed=k, **QUIET),
    'SVI': lambda k: infer.svi(posterior(k), num_steps=2000, seed=k, **QUIET),
    'NUTS': lambda k: infer.nuts(posterior(k), num_warmup=500, num_samples=500, num_chains=4, seed=k, **QUIET),
    'SVI, NumPyro': numpyro_svi,
    'NUTS, NumPyro': numpyro_nuts,
}


def main():
    """Run each twice and print seconds, compilations and traces."""
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: COMPILED.append(event) if event.endswith('backend_compile_duration') else None
    )
    print(f'{"":16}{"first fit":>12}{"second fit":>12}{"compiled in it":>16}{"traced in it":>14}')
    for name, fit in FITS.items():
        seconds = []
        for k in (0, 1):
            COMPILED.clear()
            TRACED.clear()
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', infer.ConvergenceWarning)
                fit(k)
            seconds.append(time.perf_counter() - began)
        print(f'{name:16}{seconds[0]:10.2f} s{seconds[1]:10.2f} s{len(COMPILED):16d}{len(TRACED):14d}', flush=True)
        if 'NumPyro' not in name and (COMPILED or len(TRACED) > 1):
            raise SystemExit(f'{name}: the second fit compiled something, or traced more than its Posterior does')


if __name__ == '__main__':
    main()
