"""Plant faults in a copy of the package, one after another, and say which quick test finds each.

``python tests/support/planted_faults.py [NAME ...]`` from the repository. Not part of the suite: run it after tests
were made cheaper. Where the code has moved, the texts below move along: each must stand exactly once in its file.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

REPO = pathlib.Path(__file__).resolve().parents[2]


class Fault(NamedTuple):
    """A small edit of one file, and the tests that look at it first."""

    file: str
    right: str
    wrong: str
    tests: str


FAULTS = {
    'the sign in a log-determinant': Fault(
        'nn/bijections/interval.py',
        'forward_log_det_jacobian(beta * x) + jnp.log(beta)',
        'forward_log_det_jacobian(beta * x) - jnp.log(beta)',
        'nn/bijections/test_properties.py',
    ),
    'batches not scaled by N/B': Fault(
        'infer/target/minibatch.py',
        'scale=data.scale * (num / index.shape[0])',
        'scale=data.scale',
        'infer/target/test_minibatch.py infer/descent/test_map.py',
    ),
    'a forgotten write-back': Fault(
        'transform/jit.py',
        '            states[number]._value = value\n',
        '            states[number]._value\n',
        'transform/test_jit.py',
    ),
    'the prior counted twice': Fault(
        'infer/density/blocks.py',
        'return log_det if prior is None else jnp.sum(prior) + log_det',
        'return log_det if prior is None else 2 * jnp.sum(prior) + log_det',
        'infer/target/test_posterior.py',
    ),
    'samplers without the Jacobian': Fault(
        'infer/density/potential.py',
        '-density.log_density(theta.astype(density.dtype), data).astype(theta.dtype)',
        '-density.log_density(theta.astype(density.dtype), data, False).astype(theta.dtype)',
        'infer/mcmc/test_nuts.py',
    ),
    'one key for all chains': Fault(
        'infer/run/chains.py',
        'jax.random.split(jax.random.fold_in(key, i))',
        'jax.random.split(jax.random.fold_in(key, 0 * i))',
        'infer/mcmc/test_nuts.py',
    ),
    'thinning by one too few': Fault(
        'infer/run/inference_loop.py',
        'lax.fori_loop(0, thinning, thin,',
        'lax.fori_loop(0, jnp.maximum(thinning - 1, 1), thin,',
        'infer/mcmc/test_thinning.py',
    ),
    'the inverse factor of a unit': Fault(
        'core/quantities.py',
        'return value.mantissa if own == unit else value.to_decimal(unit)',
        'return value.mantissa if own == unit else value.mantissa**2 / value.to_decimal(unit)',
        'infer/data/test_quantities.py nn/bijections/test_units.py nn/test_param.py',
    ),
    'a checkpoint that forgets the optimizer': Fault(
        'infer/run/checkpoint.py',
        '[_placed(x, a) for x, a in zip(saved, leaves, strict=True)]',
        '[_placed(x, a) if i < 1 else a for i, (x, a) in enumerate(zip(saved, leaves, strict=True))]',
        'infer/run/test_checkpoint.py',
    ),
    'intervals that leave out one tail': Fault(
        'infer/results/summary.py',
        'tails = [(1 - prob) / 2, (1 + prob) / 2]',
        'tails = [0.0, prob]',
        'infer/results/test_fit.py',
    ),
    'a stale compiled program': Fault(
        'infer/density/code.py',
        'return code, frozenset(contents.items())',
        'return (), frozenset()',
        'infer/target/test_code_of_models.py infer/target/test_configs.py',
    ),
    'the weight of a prior dropped': Fault(
        'nn/priors/base.py',
        'return jnp.sum(weight * jnp.where(weight == 0, 0.0, -log_prob))',
        'return jnp.sum(jnp.where(weight == 0, 0.0, -log_prob))',
        'nn/priors/test_distributions.py nn/priors/test_penalties.py',
    ),
    'the precision in place of the covariance': Fault(
        'infer/laplace/gaussians.py',
        'return cls(len(precision), 1 / np.sqrt(precision), float(np.sum(np.log(precision))))',
        'return cls(len(precision), np.sqrt(precision), float(np.sum(np.log(precision))))',
        'infer/laplace/test_structures.py infer/laplace/test_laplace.py',
    ),
    'evidence without the number of particles': Fault(
        'infer/mcmc/smc.py',
        'p.log_evidence + total - jnp.log(num)',
        'p.log_evidence + total',
        'infer/mcmc/test_smc.py',
    ),
    'a slice below the likelihood by nothing': Fault(
        'infer/mcmc/elliptical_slice.py',
        'level = state.likelihood - jax.random.exponential(level_key, (), dtype)',
        'level = state.likelihood',
        'infer/mcmc/test_elliptical_slice.py',
    ),
    'noise of half the size': Fault(
        'infer/mcmc/sgmcmc.py',
        'jnp.sqrt(2 * eps * scale) * xi',
        'jnp.sqrt(eps * scale) * xi',
        'infer/mcmc/test_sgmcmc.py',
    ),
    'the low-rank part of SWAG twice as wide': Fault(
        'infer/descent/swag.py',
        'diagonal + z @ moments.deviations / jnp.sqrt(2 * jnp.maximum(kept - 1, 1))',
        'diagonal + z @ moments.deviations / jnp.sqrt(jnp.maximum(kept - 1, 1))',
        'infer/descent/test_swag.py',
    ),
    'a gradient pulled through the wrong metric': Fault(
        'infer/mcmc/metric.py',
        'return grad @ self.root',
        'return self.root @ grad',
        'infer/mcmc/test_nuts.py',
    ),
    'dropout that does not keep the mean': Fault(
        'nn/layers/dropout.py',
        'jnp.where(keep, x / (self.prob or 1), 0)',
        'jnp.where(keep, x, 0)',
        'nn/layers/test_dropout.py',
    ),
    'a guide without the log-determinant of its sites': Fault(
        'infer/variational/elbo_programs.py',
        'return theta, log_q + model.log_det(theta, data)',
        'return theta, log_q',
        'infer/variational/test_guides.py',
    ),
}


def planted(name: str, root: pathlib.Path) -> str | None:
    """The test that finds the fault, planted in the copy at ``root``; None where the quick suite passes."""
    fault = FAULTS[name]
    file = root / 'brainstate_prob' / fault.file
    text = file.read_text()
    if text.count(fault.right) != 1:
        raise SystemExit(f'{name}: {fault.right!r} stands {text.count(fault.right)} times in {fault.file}, not once.')
    file.write_text(text.replace(fault.right, fault.wrong))
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-x',
        '-m',
        'not slow',
        *(f'tests/{t}' for t in fault.tests.split()),
    ]
    try:
        run = subprocess.run(command, cwd=root, env=_environment(root), capture_output=True, text=True, check=False)
    finally:
        file.write_text(text)
    found = re.search(r'^(?:FAILED|ERROR) (\S.*?)(?: - |$)', run.stdout, re.MULTILINE)
    if run.returncode == 0:
        return None
    if run.returncode != 1 or found is None:
        raise SystemExit(f'{name}: the tests did not run.\n{run.stdout[-2000:]}{run.stderr[-2000:]}')
    return found[1]


def _environment(root: pathlib.Path) -> dict[str, str]:
    shared = os.environ.get('BRAINSTATE_PROB_SHARED') or str(REPO.parent / 'shared')
    return {**os.environ, 'BRAINSTATE_PROB_SHARED': shared, 'PYTHONPATH': str(root)}


def main(names: list[str]) -> int:
    """Plant the faults of these names, or all; the number of those that no test finds."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        ignored = shutil.ignore_patterns('__pycache__')
        for part in ('brainstate_prob', 'tests'):
            shutil.copytree(REPO / part, root / part, ignore=ignored)
        shutil.copy(REPO / 'pyproject.toml', root)
        for name in names or FAULTS:
            found = planted(name, root)
            missed += found is None
            print(f'{name}: {found or "NOT FOUND"}', flush=True)
    return missed


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
