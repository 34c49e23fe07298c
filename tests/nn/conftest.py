"""What the tests of layers share."""

import jax
import pytest


@pytest.fixture(scope='module')
def quick_compile():
    """Programs that run once: XLA's optimizations would take longer than all else. For modules of such tests."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)
