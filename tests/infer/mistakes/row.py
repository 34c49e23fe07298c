"""The form of a row, and the ways to fit that it is run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from brainstate_prob import infer

QUIET = {'progress': False}
SHORT = {**QUIET, 'num_warmup': 2, 'num_samples': 2, 'num_chains': 1}

# Every way to fit by name, with the smallest work that it takes. A row's options replace these.
WAYS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    'map': (infer.map, {**QUIET, 'optimizer': optax.adam(1e-2), 'num_steps': 2}),
    'laplace': (infer.laplace, QUIET),
    'svi': (infer.svi, {**QUIET, 'num_steps': 2}),
    'nuts': (infer.nuts, SHORT),
    'sgmcmc': (infer.sgmcmc, SHORT),
    'smc': (infer.smc, {**QUIET, 'num_particles': 8}),
    'pathfinder': (infer.pathfinder, {}),
    'ensemble': (infer.ensemble, {**QUIET, 'num_members': 2, 'num_steps': 2}),
    'swag': (infer.swag, {**QUIET, 'num_steps': 4, 'snapshot_every': 1}),
    'mc_dropout': (infer.mc_dropout, {**QUIET, 'num_steps': 2}),
    'chees': (infer.chees, {**SHORT, 'num_chains': 2}),
    'meads': (infer.meads, {**SHORT, 'num_chains': 8, 'thinning': 1}),
    'mclmc': (infer.mclmc, {**SHORT, 'num_warmup': 100, 'num_chains': 2, 'thinning': 1}),
    'barker': (infer.barker, SHORT),
    'hmc_ecs': (infer.hmc_ecs, {**SHORT, 'batch_size': 2}),
    'elliptical_slice': (infer.elliptical_slice, SHORT),
}
ALL = tuple(WAYS)
MARKOV = ('nuts', 'chees', 'meads', 'mclmc', 'barker', 'hmc_ecs', 'elliptical_slice', 'sgmcmc')
IN_BATCHES = ('map', 'svi', 'sgmcmc', 'ensemble', 'swag', 'mc_dropout')


class Mistake(NamedTuple):
    """One mistake, and what is said about it.

    Attributes
    ----------
    name
        What was done, in a few words.
    make
        Builds the posterior; a mistake at the door raises here, before any way to fit.
    words
        Regular expressions that the message must match, all of them: the parameter's path, what came, the fix.
    error
        The exception, or the category of the warning.
    ways
        The ways to fit that the row is run over.
    options
        Options of the way to fit, in place of those in `WAYS`.
    warns
        Whether it is a warning, and the fit goes on.
    then
        What is done with the fit, where that is the mistake.
    """

    name: str
    make: Callable[[], Any]
    words: tuple[str, ...]
    error: type[BaseException] | tuple[type[BaseException], ...] = (ValueError, TypeError)
    ways: tuple[str, ...] = ALL
    options: dict[str, Any] = {}
    warns: bool = False
    then: Callable[[Any], Any] | None = None
