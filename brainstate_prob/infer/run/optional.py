"""Samplers of other packages, imported on first use."""

from __future__ import annotations

import warnings

__all__ = ['import_blackjax', 'import_nutpie']


def import_blackjax():
    """The module BlackJAX; if it is missing, an error with the install command."""
    try:
        import blackjax
    except ImportError as error:
        raise ImportError(
            "This needs BlackJAX, which is not installed: pip install 'brainstate-prob[samplers]'."
        ) from error
    return blackjax


def import_nutpie():
    """Nutpie; if it is missing, an error with the install command."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # from its own imports
            import nutpie
            from nutpie import compiled_pyfunc
    except ImportError as error:
        raise ImportError(
            "backend='nutpie' needs nutpie, which is not installed: pip install 'brainstate-prob[samplers]'."
        ) from error
    return nutpie, compiled_pyfunc
