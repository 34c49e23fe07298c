"""What every test stands on: two devices, no screen, fresh seeds, and where the optional data lies."""

import gc
import os
import pathlib
import sys

# Before jax is imported anywhere: two host devices, so that code over devices is tested on any machine.
if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=2'.strip()
os.environ.setdefault('MPLBACKEND', 'Agg')

# Compiled programs are kept between runs. One folder a worker, since JAX writes its
# entries in place and a half-written one is a warning to its reader. JAX_ENABLE_COMPILATION_CACHE=0 goes without.
REPO = pathlib.Path(__file__).resolve().parents[1]
CACHE = str(REPO / '.jax_cache')
if os.environ.get('JAX_COMPILATION_CACHE_DIR', CACHE).startswith(CACHE):  # a worker inherits what its parent set
    os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{CACHE}/{os.environ.get("PYTEST_XDIST_WORKER", "alone")}'
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.05')

# Most programs of a test run once, and compiling them takes longer than all else: a quarter as long with these flags.
# Results differ by rounding. The slow tests (`-m slow`) compute for long, and run as a user's programs do.
# A flag that XLA_FLAGS names already is left as it is.
QUICK_COMPILE = {
    'xla_backend_optimization_level': '0',
    'xla_cpu_parallel_codegen_split_count': '1',
}

import hypothesis
import jax
import numpy as np
import pytest

# Derandomized: a run on one machine is a run on all of them. HYPOTHESIS_PROFILE=long searches for real.
hypothesis.settings.register_profile('quick', deadline=None, derandomize=True, max_examples=20, database=None)
hypothesis.settings.register_profile('long', deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'quick'))


def pytest_configure(config):
    """Choose how programs are compiled, before the first one is."""
    if config.getoption('markexpr') != 'slow':
        flags = os.environ['XLA_FLAGS']
        # XLA ends the process at a flag that it does not know, and this one is gone in later versions.
        known = {'xla_cpu_use_fusion_emitters': 'false'} if jax.__version_info__ < (0, 11) else {}
        new = [f'--{name}={value}' for name, value in (QUICK_COMPILE | known).items() if name not in flags]
        os.environ['XLA_FLAGS'] = ' '.join([flags, *new])


@pytest.fixture(scope='session')
def shared_dir():
    """The optional data folder: $BRAINSTATE_PROB_SHARED or `shared` beside the checkout; skips where there is none."""
    path = pathlib.Path(os.environ.get('BRAINSTATE_PROB_SHARED') or REPO.parent / 'shared')
    if not path.is_dir():
        pytest.skip('no shared data folder: set BRAINSTATE_PROB_SHARED to run this test')
    return path


@pytest.fixture
def x64():
    """Run the test in double precision, and leave the setting as it was."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _same_seed_for_every_test():
    """No test depends on which tests ran before it."""
    from brainstate_prob import random

    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def _flags_stay_as_they_were():
    """A test that leaves double precision switched on would change the ones after it."""
    before = jax.config.jax_enable_x64
    yield
    assert jax.config.jax_enable_x64 == before, 'the test left jax_enable_x64 changed'


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
    """Compiled programs stay with their model's structure: of all modules together they would fill the memory."""
    yield
    density = sys.modules.get('brainstate_prob.infer.density.log_density')
    if density is not None:
        density._densities.clear()
    jax.clear_caches()
    gc.collect()
