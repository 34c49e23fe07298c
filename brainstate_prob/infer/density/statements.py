"""NumPyro's statements in a model: they act in NumPyro's own inference only, and are refused in a posterior."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpyro
from numpyro.primitives import Messenger

__all__ = ['refused_handlers', 'refused_statements', 'scored_statements']

# Handlers that change a density without a statement of the model passing through them.
_HANDLERS = (numpyro.handlers.mask, numpyro.handlers.scale)
_lock = threading.RLock()
_scored = threading.local()


class _Statements(Messenger):
    """Refuse every statement that would be a term of a NumPyro model's density."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg['type'] == 'control_flow':
            # NumPyro's scan and cond hide the statements of their body from handlers around them.
            msg['args'] = tuple(_refusing(x) if callable(x) else x for x in msg['args'])
        if msg['type'] not in ('sample', 'param', 'plate'):
            return
        name = msg['name']
        if msg['type'] == 'sample' and isinstance(msg['fn'], numpyro.distributions.Unit):
            raise ValueError(
                f'The model has the statement numpyro.factor({name!r}, ...), which does not count in a Posterior. Add '
                'the term to log_likelihood=f, where f(model, *inputs, targets) gives the log density of the targets, '
                'or write it as a prior (reg=) of the parameters that it is about.'
            )
        if msg['type'] == 'sample':
            what = 'return the distribution of the targets' if msg['is_observed'] else 'make it an nn.Param with reg='
            raise ValueError(
                f'The model has the statement numpyro.sample({name!r}, ...), which does not count in a Posterior: '
                f'{what}. A model written in NumPyro is fitted by numpyro.infer.'
            )
        if msg['type'] == 'param':
            raise ValueError(
                f'The model has the statement numpyro.param({name!r}, ...), which is not fitted in a Posterior. Make '
                'it an nn.Param.'
            )
        size, subsample = msg['args'][0], msg['args'][1]
        if subsample is not None and subsample != size:
            raise ValueError(
                f'The model has numpyro.plate({name!r}, {size}, subsample_size={subsample}), which does not count in a '
                'Posterior. Give batch_size= to the way to fit.'
            )


@contextlib.contextmanager
def scored_statements() -> Iterator[None]:
    """Within the block, statements are those of a NumPyro model that is scored as one: nothing is refused."""
    before, _scored.now = getattr(_scored, 'now', False), True
    try:
        with numpyro.handlers.block():
            yield
    finally:
        _scored.now = before


def _refusing(body: Callable) -> Callable:
    """``body``, in which statements are refused."""

    @functools.wraps(body)
    def run(*args: Any) -> Any:
        with refused_statements():
            return body(*args)

    return run


def refused_statements() -> contextlib.AbstractContextManager:
    """Within the block, NumPyro's statements raise a ValueError that names the statement and what to write instead."""
    return _Statements()


@contextlib.contextmanager
def refused_handlers() -> Iterator[None]:
    """Within the block, NumPyro's handlers that scale or mask a density raise.

    Raises
    ------
    ValueError
        Naming the handler and what to write in its place.
    """
    thread = threading.get_ident()

    def refuse(self: Any) -> Any:
        if threading.get_ident() != thread or getattr(_scored, 'now', False):
            return Messenger.__enter__(self)
        name = type(self).__name__
        raise ValueError(
            f'The model uses numpyro.handlers.{name}, which has no effect on a distribution that is returned. Write '
            f'{"distribution.mask(mask)" if name == "mask" else "weights into log_likelihood=f"} instead.'
        )

    with _lock:
        for handler in _HANDLERS:
            handler.__enter__ = refuse
        try:
            yield
        finally:
            for handler in _HANDLERS:
                del handler.__enter__
