"""The backends of `nuts`, which implement a transition."""

from __future__ import annotations

from brainstate_prob.infer.mcmc.backends import blackjax, numpyro
from brainstate_prob.infer.mcmc.backends.protocol import Info, Point, Transition
from brainstate_prob.infer.run.optional import import_blackjax, import_nutpie

__all__ = ['BACKENDS', 'Info', 'Point', 'check_installed', 'transition_of']

BACKENDS = ('numpyro', 'blackjax', 'nutpie')


def check_installed(backend: str) -> None:
    """Import the backend.

    Raises
    ------
    ImportError
        Saying how to install it.
    """
    if backend == 'blackjax':
        import_blackjax()
    elif backend == 'nutpie':
        import_nutpie()


def transition_of(backend: str) -> Transition:
    """The NUTS transition of a backend that runs inside compiled code."""
    return numpyro.transition if backend == 'numpyro' else blackjax.transition
