"""Check the arguments of priors: hyper-parameters are passed by name."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from brainstate_prob.core.calls import unknown_argument
from brainstate_prob.core.quantities import short

__all__ = ['check_call']

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_call(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse extra positional arguments and unknown names.

    There is no convention for the order of a prior's arguments: ``LogNormalReg(0.0, 0.5)`` could mean a weight
    and a location as well as a location and a scale.

    Raises
    ------
    TypeError
        With the corrected call.
    """
    positional, names, any_position, any_name = _parameters(cls)
    unknown = [] if any_name else [name for name in kwargs if name not in names]
    if unknown:
        raise unknown_argument(f'nn.{cls.__name__}', unknown[0], names)
    if any_position or len(args) <= len(positional):
        return
    hypers = getattr(cls, 'hypers', {})
    order = [name for name in dict.fromkeys([*positional, *hypers, *names]) if name not in kwargs]
    given = ', '.join(short(value) for value in args)
    written = ', '.join(f'{name}={short(value)}' for name, value in zip(order, args, strict=False))
    named = [name for name in names if name not in positional]
    raise TypeError(
        f'nn.{cls.__name__}({given}): {", ".join(named)} are given by name. Write nn.{cls.__name__}({written}) if that '
        'is what is meant.'
    )


@functools.cache
def _parameters(cls: type) -> tuple[list[str], list[str], bool, bool]:
    """The positional names, all names, and whether either is variadic."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    kinds = {p.kind for p in parameters}
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    names = [p.name for p in parameters if p.kind not in _VARIABLE]
    return positional, names, inspect.Parameter.VAR_POSITIONAL in kinds, inspect.Parameter.VAR_KEYWORD in kinds
