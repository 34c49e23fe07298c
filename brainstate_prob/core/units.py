"""brainunit as `u`, imported on first use, since it loads matplotlib where that is installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ['u']

if TYPE_CHECKING:
    import brainunit as u
else:

    class _OnFirstUse:
        """A proxy of a module that imports it at the first attribute access."""

        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            module = importlib.import_module(self._name)
            vars(self).update(vars(module))
            return getattr(module, attribute)

    u = _OnFirstUse('brainunit')
