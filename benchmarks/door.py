"""What a Posterior costs: the first one of a structure, and a second one, which traces once and compiles nothing.

    python benchmarks/door.py [--before CHECKOUT]

Claim: the first Posterior of the demo's model costs at most 1.3 of what it did in another checkout (given by
``--before``), and a second one at most a tenth of compiling the gradient of its log density. Each repeat is a process
of its own, and those of the two checkouts alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]

MEASURE = """
import json, sys, time
sys.path.insert(0, sys.argv[1] + '/examples')
import jax
import place_cell
from brainstate_prob import infer
inputs, counts = place_cell.load()
jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
seconds = []
for _ in range(6):
    model = place_cell.PlaceCell()
    began = time.perf_counter()
    posterior = infer.Posterior(model, inputs, counts)
    seconds.append(time.perf_counter() - began)
density = posterior.density
theta = posterior.theta
began = time.perf_counter()
jax.jit(jax.value_and_grad(density.log_density)).lower(theta, posterior.data).compile()
print(json.dumps([seconds[0], sorted(seconds[1:])[2], time.perf_counter() - began]))
"""


def measure(checkout: pathlib.Path) -> list[float]:
    """Seconds of the first and of a later Posterior, and of tracing and compiling the log density's gradient."""
    settings = {
        **os.environ,
        'PYTHONPATH': str(checkout),
        'JAX_ENABLE_COMPILATION_CACHE': '0',
        'PYTHONWARNINGS': 'ignore',
    }
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, str(checkout)], env=settings, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main():
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--before', type=pathlib.Path, help='a checkout to compare with')
    parser.add_argument('--repeats', type=int, default=7)
    options = parser.parse_args()
    checkouts = {'now': ROOT} | ({} if options.before is None else {'before': options.before.resolve()})
    found: dict[str, list[list[float]]] = {name: [] for name in checkouts}
    for _ in range(options.repeats):
        for name, checkout in checkouts.items():
            found[name].append(measure(checkout))
    medians = {name: np.median(rows, axis=0) for name, rows in found.items()}
    print(f'{"":10}{"first Posterior":>18}{"second":>12}{"compile gradient":>20}')
    for name, (first, second, compiled) in medians.items():
        print(f'{name:10}{1e3 * first:15.0f} ms{1e3 * second:9.1f} ms{1e3 * compiled:17.0f} ms')
    first, second, compiled = medians['now']
    print(f'A second Posterior costs {second / compiled:.3f} of compiling the gradient of its log density.')
    if 'before' in medians:
        print(f'The first Posterior costs {first / medians["before"][0]:.2f} of what it did before (at most 1.3).')


if __name__ == '__main__':
    main()
