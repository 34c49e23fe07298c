"""Transforms as values: equality and hash by content, a pytree of their numbers, an evaluable repr."""

from typing import Any

import jax

from brainstate_prob.core.calls import named
from brainstate_prob.nn.bijections.arguments import identity_key, show, tidy

__all__ = ['Value', 'derived']


class derived(property):
    """A property that overrides a class attribute, which type checkers refuse for a plain `property`."""


class Value:
    """An object defined by its arguments."""

    _args: tuple[str, ...] = ()  # numeric arguments of the constructor: the leaves of the pytree
    _flags: tuple[str, ...] = ()  # other arguments of the constructor: static
    _unitless: tuple[str, ...] = ()  # numeric arguments that never carry a unit

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if '__init__' in vars(cls):
            type.__setattr__(cls, '__init__', named(cls.__init__))
        jax.tree_util.register_pytree_with_keys(cls, cls._flatten_with_keys, cls._unflatten, cls._flatten)

    def _keep(self, **arguments: Any) -> None:
        """Store the numeric arguments of the constructor, checked one by one."""
        for name, value in arguments.items():
            what = f'{type(self).__name__}: {name}'
            setattr(self, name, tidy(value, what, unitless=name in self._unitless))

    @classmethod
    def _build(cls, **attributes):
        self = object.__new__(cls)
        self.__dict__.update(attributes)
        return self

    def _flatten_with_keys(self):
        children = tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in self._args)
        return children, tuple(getattr(self, name) for name in self._flags)

    def _flatten(self):
        children, flags = self._flatten_with_keys()
        return tuple(child for _, child in children), flags

    @classmethod
    def _unflatten(cls, flags, children):
        return cls._build(**dict(zip(cls._args, children, strict=True)), **dict(zip(cls._flags, flags, strict=True)))

    def _identity(self):
        return (
            type(self),
            *(getattr(self, name) for name in self._flags),
            *(identity_key(getattr(self, name)) for name in self._args),
        )

    def __eq__(self, other):
        if not isinstance(other, Value):
            return NotImplemented
        return type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self):
        return hash(self._identity())

    def __repr__(self):
        flags = [f'{name}={getattr(self, name)!r}' for name in self._flags if getattr(self, name)]
        return f'{type(self).__name__}({", ".join([f"{n}={show(getattr(self, n))}" for n in self._args] + flags)})'
