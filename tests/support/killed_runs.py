"""Runs that are killed: `python killed_runs.py FOLDER KILLS METHOD...` writes what each gave, whole and killed.

The process imports everything and starts no backend of JAX, so it has one thread and may fork: a life costs a fork.
Each life of a run goes on from the checkpoint of the last one and dies at a random moment: between chunks, half-way
through writing the file, before or after it is put in place, or a few milliseconds later, wherever that is.
"""

import importlib.util
import io
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from brainstate_prob import infer, nn
from brainstate_prob.infer.run import checkpoint as checkpoints

REPO = pathlib.Path(__file__).resolve().parents[2]
X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
Y = X @ np.array([1.0, -2.0], np.float32) + np.random.default_rng(1).normal(size=40).astype(np.float32)


class Line(nn.Module):
    def __init__(self, known_noise=False):
        super().__init__()
        self.w = nn.Param(jnp.zeros(2), reg=dist.Normal(0.0, 1.0))
        self.sigma = nn.Param(1.0, t=nn.SoftplusT(0.0), reg=dist.HalfNormal(1.0), fit=not known_noise)

    def __call__(self, x):
        return dist.Normal(x @ self.w.value(), self.sigma.value())


def posterior(**model):
    return infer.Posterior(Line(**model), X, Y)


# method: a function of checkpoint options; a new way to fit joins with a line
RUNS = {
    'map': lambda **c: infer.map(
        posterior(), optimizer=optax.adam(1e-2), num_steps=2000, batch_size=7, progress=False, **c
    ),
    'map by L-BFGS': lambda **c: infer.map(
        posterior(), optimizer='lbfgs', num_starts=3, init='prior', num_steps=60, tol=0.0, progress=False, **c
    ),
    'svi': lambda **c: infer.svi(
        posterior(), guide='full', num_steps=2000, batch_size=7, num_draws=50, progress=False, **c
    ),
    'svi that stops by itself': lambda **c: infer.svi(
        posterior(), r_hat=1.05, num_steps=3000, num_draws=50, progress=False, **c
    ),
    'sgmcmc': lambda **c: infer.sgmcmc(
        posterior(), num_warmup=500, num_samples=4500, num_chains=2, batch_size=7, thinning=3, progress=False, **c
    ),
    'nuts': lambda **c: infer.nuts(
        posterior(), num_warmup=400, num_samples=400, num_chains=2, thinning=2, progress=False, **c
    ),
    'barker': lambda **c: infer.barker(
        posterior(), num_warmup=400, num_samples=800, num_chains=2, thinning=2, progress=False, **c
    ),
    'hmc_ecs': lambda **c: infer.hmc_ecs(
        posterior(), batch_size=10, num_warmup=300, num_samples=300, num_chains=2, progress=False, **c
    ),
    'elliptical_slice': lambda **c: infer.elliptical_slice(
        posterior(known_noise=True), num_warmup=400, num_samples=800, num_chains=2, thinning=2, progress=False, **c
    ),
    'smc': lambda **c: infer.smc(
        posterior(), num_particles=64, num_moves=1, max_tree_depth=2, target_ess=0.99, progress=False, **c
    ),
}
EVERY = {'nuts': 11, 'map': 50, 'map by L-BFGS': 1, 'svi': 50, 'svi that stops by itself': 40, 'sgmcmc': 60}
EVERY |= {'barker': 11, 'hmc_ecs': 9, 'elliptical_slice': 11, 'smc': 1}
if importlib.util.find_spec('blackjax') is not None:
    RUNS['chees'] = lambda **c: infer.chees(
        posterior(), num_warmup=100, num_samples=1600, num_chains=8, thinning=2, progress=False, **c
    )
    EVERY['chees'] = 11


def result(fit):
    held = {'thetas': fit.thetas, **{f'stats {k}': v for k, v in fit.stats.items()}}
    return held | {f'history {k}': v for k, v in fit.history.items()} | dict(getattr(fit, 'guide_params', None) or {})


def die_at_random(seed, log):
    """From now on this process kills itself, at a tick or soon after one; ``log`` gets the step each life began at."""
    chance = random.Random(seed)
    left, delay = chance.randint(1, 30), chance.choice([0.0, chance.uniform(0, 0.005)])

    def tick():
        nonlocal left
        left -= 1
        if left == 0:
            if delay:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def ticking(owner, name, before=tick, after=tick):
        function = getattr(owner, name)

        def call(*args, **kwargs):
            before()
            out = function(*args, **kwargs)
            after()
            return out

        setattr(owner, name, call)

    savez = np.savez

    def halves(file, **arrays):
        """As NumPy's, with a moment in which half of the file is written."""
        whole = io.BytesIO()
        savez(whole, **arrays)
        data = whole.getvalue()
        file.write(data[: len(data) // 2])
        file.flush()
        tick()
        file.write(data[len(data) // 2 :])

    np.savez = halves
    ticking(os, 'replace')
    ticking(checkpoints.Checkpoint, 'due', after=lambda: None)
    load = checkpoints.Checkpoint.load

    def logged(self, *args, **kwargs):
        saved = load(self, *args, **kwargs)
        if self.path is not None:  # of a fit within the fit
            with open(log, 'a') as file:
                file.write(f'{0 if saved is None else saved.step}\n')
        return saved

    checkpoints.Checkpoint.load = logged


def life(work):
    """Do ``work`` in a process of its own; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise SystemExit(f'the run failed with status {status}')
    return False


def kill_often(method, folder, kills):
    """A life that ends before its moment ends a run, and the next life begins another."""
    run, log = RUNS[method], folder / f'{method}.log'
    path = folder / f'{method}.ckpt'
    options = {'checkpoint': str(path), 'checkpoint_every': EVERY[method]}
    life(lambda: np.savez(folder / f'{method} whole.npz', **result(run())))

    def doomed(seed, ended):
        save = np.savez  # as it is before it stumbles
        die_at_random(seed, log)
        save(folder / f'{method} ended {ended}.npz', **result(run(**options)))

    killed = ended = 0
    while killed < kills:
        if life(lambda seed=killed + ended, ended=ended: doomed(seed, ended)):
            killed += 1
        else:
            ended += 1
            path.unlink()
            with open(log, 'a') as file:
                file.write('ended\n')
    life(lambda: np.savez(folder / f'{method} ended {ended}.npz', **result(run(**options))))


def check_killed(folder, methods, kills):
    """Every run of ``methods``, killed so often, gives what it gives uninterrupted, bit for bit."""
    env = {**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    env |= {'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'), 'PYTHONPATH': str(REPO), 'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, __file__, str(folder), str(kills), *methods]
    out = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=env, check=False)
    assert out.returncode == 0, out.stderr[-3000:]
    for method in methods:
        runs = [
            [int(step) for step in steps.split()] for steps in (folder / f'{method}.log').read_text().split('ended')
        ]
        assert all(steps == sorted(steps) for steps in runs)  # each life went on, none began anew
        assert sum(map(len, runs)) == kills + len(runs) - 1 and max(map(max, filter(None, runs))) > 0
        with np.load(folder / f'{method} whole.npz') as whole:
            for i in range(len(runs)):
                with np.load(folder / f'{method} ended {i}.npz') as other:
                    assert set(whole.files) == set(other.files) and len(whole.files) > 1
                    for name in whole.files:
                        np.testing.assert_array_equal(whole[name], other[name], err_msg=f'{method} {name}')


if __name__ == '__main__':
    threads = len(os.listdir('/proc/self/task'))
    assert threads == 1, f'{threads} threads: forking is not safe'
    for name in sys.argv[3:]:
        began = time.perf_counter()
        kill_often(name, pathlib.Path(sys.argv[1]), int(sys.argv[2]))
        print(f'{name}: {time.perf_counter() - began:.1f} s')
