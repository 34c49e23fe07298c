"""Looking at a posterior before a fit costs less than three compilations of its log density and gradient.

    python benchmarks/check.py

For the demo's model, a recurrent network and a model of 200 Params: seconds of ``posterior.check()`` in a process that
has compiled nothing for it, against those that `jax.value_and_grad` of the log density takes to trace and compile.
"""

from __future__ import annotations

import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from _timing import build_seconds

from brainstate_prob import infer, nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'examples'))
import place_cell


class Recurrent(nn.Module):
    """A gated recurrent unit over five steps."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.GRUCell(1, 6), nn.Linear(6, 1)
        self.noise = nn.Param(0.5, t=nn.ExpT(), reg=dist.HalfNormal(1.0))

    def __call__(self, x):
        self.cell.init_state(x.shape[0])
        for t in range(x.shape[1]):
            hidden = self.cell(x[:, t])
        return dist.Normal(self.readout(hidden)[:, 0], self.noise.value())


class Many(nn.Module):
    """A polynomial of 200 scalar Params."""

    def __init__(self):
        super().__init__()
        self.weights = [nn.Param(0.0, reg=dist.Normal(0.0, 1.0)) for _ in range(200)]

    def __call__(self, x):
        return dist.Normal(x @ jnp.stack([w.value() for w in self.weights]), 1.0)


def demo():
    """The place cell of `make demo`."""
    inputs, counts = place_cell.load()
    return infer.Posterior(place_cell.PlaceCell(), inputs, counts)


def recurrent():
    """Twenty short sequences."""
    rng = np.random.default_rng(0)
    return infer.Posterior(Recurrent(), rng.normal(size=(20, 5, 1)).astype('f4'), rng.normal(size=20).astype('f4'))


def many():
    """Thirty observations of 200 slopes."""
    rng = np.random.default_rng(0)
    return infer.Posterior(Many(), rng.normal(size=(30, 200)).astype('f4'), rng.normal(size=30).astype('f4'))


if __name__ == '__main__':
    print(__doc__.splitlines()[0])
    ratios = []
    for build in (demo, recurrent, many):
        posterior = build()
        density = posterior.density
        jax.clear_caches()  # what JAX compiles once a process counts for each
        traced, compiled, _ = build_seconds(
            lambda theta, data, density=density: jax.value_and_grad(density.log_density)(theta, data),
            posterior.theta,
            posterior.data,
        )
        began = time.perf_counter()
        posterior.check()
        seconds = time.perf_counter() - began
        ratios.append(seconds / (traced + compiled))
        print(
            f'{build.__name__:>10}: check() {seconds:6.2f} s, one compilation {traced + compiled:6.2f} s, '
            f'ratio {ratios[-1]:.1f}'
        )
    print(
        f'largest ratio {max(ratios):.1f} on {jax.devices()[0].device_kind}: {"holds" if max(ratios) < 3 else "fails"}'
    )
