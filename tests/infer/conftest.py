"""What the tests of inference share."""

import gc

import jax
import pytest


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
    """Compiled programs stay with their model's structure: of all modules together they would fill the memory."""
    yield
    from brainstate_prob.infer import density

    density._densities.clear()
    jax.clear_caches()
    gc.collect()
