"""Samplers of other packages, imported on first use."""

from __future__ import annotations

import warnings

__all__ = ['import_blackjax', 'import_nutpie']


def import_blackjax():
    """BlackJAX, or an error that says how to get it."""
    try:
        import blackjax
    except ImportError as error:
        raise ImportError(
            "This needs BlackJAX, which is not installed: pip install 'brainstate-prob[samplers]'."
        ) from error
    return blackjax


def import_nutpie():
    """Nutpie, or an error that says how to get it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of what it imports in turn
            import nutpie
            from nutpie import compiled_pyfunc
    except ImportError as error:
        raise ImportError(
            "backend='nutpie' needs nutpie, which is not installed: pip install 'brainstate-prob[samplers]'."
        ) from error
    return nutpie, compiled_pyfunc
