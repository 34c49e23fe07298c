"""The global random stream and NumPy-style samplers with ``size=``, ``key=`` and units.

`DEFAULT` is the stream that every function of this module draws from; it is a State, so transforms update it
correctly. A draw does ``key, sub = split(key)``, keeps the first and draws with the second.
"""

from typing import TYPE_CHECKING, Any

from brainstate_prob.random.distributions import DISTRIBUTIONS, make_method
from brainstate_prob.random.selection import Selection

_SELECTION = ('ball', 'categorical', 'choice', 'orthogonal', 'permutation', 'rand', 'randint', 'randn', 'shuffle')
_STREAM = ('clone', 'get_key', 'seed', 'seed_context', 'set_key', 'split_key')


class RandomState(Selection):
    """A stream of random numbers: a State that holds a key, with one method for each distribution.

    Parameters
    ----------
    seed_or_key
        An int, a key of ``jax.random.key`` or ``jax.random.PRNGKey``; None draws a seed from the system.

    Notes
    -----
    Parameters broadcast against each other and against ``size``. Concrete parameters outside their domain raise
    ``ValueError``, as in NumPy; traced ones behave as in ``jax.random``. Parameters with units give
    draws with units.

    Examples
    --------
    >>> import brainunit as u
    >>> from brainstate_prob import random
    >>> rng = random.RandomState(0)
    >>> rng.normal(-65.0 * u.mV, 5.0 * u.mV, size=3).unit
    Unit("mV")
    """

    if TYPE_CHECKING:  # the methods for distributions come from a table

        def __getattr__(self, name: str) -> Any: ...


for _name, _distribution in DISTRIBUTIONS.items():
    setattr(RandomState, _name, make_method(_name, _distribution))

DEFAULT = RandomState(name='random.DEFAULT')

for _name in (*DISTRIBUTIONS, *_SELECTION, *_STREAM):
    globals()[_name] = getattr(DEFAULT, _name)


if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


def default_rng(seed_or_key=None) -> RandomState:
    """`DEFAULT` for None, a `RandomState` unchanged, else a new one from a seed or key."""
    if seed_or_key is None:
        return DEFAULT
    return seed_or_key if isinstance(seed_or_key, RandomState) else RandomState(seed_or_key)


__all__ = ['DEFAULT', 'RandomState', 'default_rng', *DISTRIBUTIONS, *_SELECTION, *_STREAM]
