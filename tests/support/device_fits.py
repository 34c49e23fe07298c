"""Fits over devices, for test_distributed.py: ``python device_fits.py OUT [RANK PORT]`` writes what each one gave.

One process has eight devices; with RANK and PORT it is one of two processes that have four each.
"""

import os
import sys
import warnings

RANK, PORT = (int(sys.argv[2]), sys.argv[3]) if len(sys.argv) > 2 else (None, None)
os.environ['XLA_FLAGS'] = (
    f'--xla_force_host_platform_device_count={8 if RANK is None else 4} '
    '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'  # compiling is most of the time
)

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.sharding import Mesh, NamedSharding, PartitionSpec

jax.config.update('jax_enable_x64', True)
if RANK is not None:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(f'localhost:{PORT}', 2, RANK)

from brainstate_prob import infer, nn
from tests.support.rich_model import compilations

X = np.random.default_rng(0).normal(size=(61, 2))  # 61: eight devices do not divide it
Y = X @ np.array([1.0, -2.0]) + 0.3 * np.random.default_rng(1).normal(size=61)
warnings.simplefilter('ignore', infer.ConvergenceWarning)  # warm-ups are as short as can be
QUIET = {'progress': False, 'seed': 3}
NUTS = {'num_warmup': 12, 'num_samples': 8, 'num_chains': 6, **QUIET}
ENSEMBLE = {'num_members': 6, 'num_steps': 15, 'batch_size': 16, **QUIET}


class Line(nn.Module):
    traced = 0

    def __init__(self):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))
        self.sigma = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))

    def __call__(self, x):
        Line.traced += 1
        return dist.Normal(x @ self.w.value(), self.sigma.value())


def of_data(posterior: infer.Posterior) -> dict:
    """What is computed from the data: alone, by ways to fit, by predictions."""
    fit = infer.map(posterior, optimizer='adam', num_steps=30, **QUIET)
    rows = infer.map(posterior, optimizer='adam', num_steps=30, batch_size=16, **QUIET)
    nuts = infer.nuts(posterior, chain_method='vectorized', **{**NUTS, 'num_chains': 2})
    found = {
        'log_density': posterior.log_density(),
        'pointwise': posterior.log_likelihood(),
        'map': fit.thetas,
        'map, minibatches': rows.thetas,
        'nuts': nuts.thetas,
        'log_likelihood of a fit': fit.log_likelihood(batch_size=16),
        'predictions': fit.predict(kind='mean'),
        'predictions of new inputs': fit.predict(X[:3], kind='mean'),
    }
    if RANK is None:
        found['laplace'] = infer.laplace(posterior, num_draws=4, **QUIET).thetas
    return found


def main() -> dict:
    posterior, devices = infer.Posterior(Line(), X, Y), jax.devices()
    found = {'devices': len(devices), 'processes': jax.process_count()}
    wide = infer.nuts(posterior, devices=devices, **NUTS)
    found |= {'chains': wide.thetas, 'steps of the chains': wide.stats['n_steps'], 'ran': wide.info['chains_ran']}
    members = infer.ensemble(posterior, devices=Mesh(np.array(devices), ('m',)), **ENSEMBLE)
    found |= {'members': members.thetas, 'losses of the members': members.history['loss']}
    sharded = posterior.shard()
    found |= {f'data: {name}': value for name, value in of_data(sharded).items()}
    found['rows on a device'] = sharded.data.args[0].value.addressable_data(0).shape
    with compilations() as compiled:
        traced, again = Line.traced, infer.Posterior(Line(), X + 1, Y - 1)
        infer.nuts(again, devices=devices, **{**NUTS, 'seed': 4, 'num_samples': 9})
        again = again.shard()
        infer.map(again, optimizer='adam', num_steps=40, progress=False, seed=5)
        infer.nuts(again, chain_method='vectorized', **{**NUTS, 'num_chains': 2, 'num_samples': 9})
        found['traced again'], found['compiled again'] = Line.traced - traced, list(compiled)
    if RANK is None:
        two = infer.nuts(posterior, devices=2, **NUTS)
        found |= {'chains on 2': two.thetas, 'ran on 2': two.info['chains_ran']}
        found['chains on one'] = infer.nuts(posterior, chain_method='sequential', **NUTS).thetas
        found['members on 2'] = infer.ensemble(posterior, devices=2, **ENSEMBLE).thetas
        found['members on one'] = infer.ensemble(posterior, chain_method='sequential', **ENSEMBLE).thetas
        found |= {f'one: {name}': value for name, value in of_data(posterior).items()}
        run = jax.jit(jax.value_and_grad(posterior.density.log_density))
        found['program'] = run.lower(posterior.theta, sharded.data).compile().as_text()
    else:
        mine = slice(0, 32) if RANK == 0 else slice(32, 64)  # each process has read its own rows
        by_rows = NamedSharding(Mesh(np.array(devices), ('rows',)), PartitionSpec('rows'))
        x, y = (jax.make_array_from_process_local_data(by_rows, np.resize(a, (64, *a.shape[1:]))[mine]) for a in (X, Y))
        own = infer.Posterior(Line(), x, y)
        found['own rows'] = [float(own.log_density()), float(own.shard().log_density())]
        found['own rows expected'] = float(
            infer.Posterior(Line(), np.resize(X, (64, 2)), np.resize(Y, 64)).log_density()
        )
        for name, options in {'checkpoint': {'checkpoint': 'x.ckpt'}, 'elsewhere': {'devices': elsewhere()}}.items():
            try:
                infer.ensemble(posterior, **options, **ENSEMBLE)
            except ValueError as e:
                found[name] = str(e)
    return found


def elsewhere() -> list:
    return [d for d in jax.devices() if d.process_index != RANK]


if __name__ == '__main__':
    np.savez(sys.argv[1], **main())
