"""Of which model and data a fit is: what a file says of them, so that it is not read as the fit of others."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import jax
import numpy as np
import numpyro

import brainstate_prob
from brainstate_prob import environ
from brainstate_prob.core import BatchState
from brainstate_prob.graph.walk import dotted, find_states
from brainstate_prob.infer.data.sharding import is_sharded, whole
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.target.fingerprint import describe, is_key, one_line
from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['has_other_data', 'other_model', 'provenance_of']

# A prior's repr shows the values of the Params that it depends on; these are fitted, and no part of the model.
_VALUE = re.compile(r'\bParam\((\[[^=(]*\]|[^,()\[]*)[^,()=]*(?=[,)])')


def provenance_of(posterior: Posterior) -> dict[str, Any]:
    """As plain data: priors, constants of the model, data and the program of the log density.

    Programs are alike only where `setting` is: shapes of the data, versions and what else the compiler is told.
    """
    model, data = posterior.model, posterior.data
    if is_sharded(data):
        data = whole(data)
    states = find_states(model)
    constants = {}
    for path, value in zip(posterior.density.other_paths, data.states, strict=True):
        # Running statistics go on with a fit, and random keys with every call.
        if not isinstance(states[path], BatchState) and not any(map(is_key, jax.tree.leaves(value))):
            constants[dotted(path)] = describe(value)
    shapes = [f'{np.shape(x)} {jax.dtypes.result_type(x)}' for x in jax.tree.leaves(data)]
    return {
        'priors': {e.name: _VALUE.sub('Param(...', one_line(e.reg)) for e in posterior.entries},
        'constants': constants,
        'data': describe(jax.tree.leaves((data.args, data.kwargs, data.targets))),
        'program': _program(posterior, data),
        'setting': {
            'shapes': shapes,
            'structure': describe(str(jax.tree.structure(data))),
            'brainstate_prob': brainstate_prob.__version__,
            'jax': jax.__version__,
            'numpyro': numpyro.__version__,
            'platform': jax.default_backend(),
            'matmul precision': str(getattr(jax.config, 'jax_default_matmul_precision', None)),
            'environ': one_line(environ.static_key()),
        },
    }


def other_model(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """In words, why the posterior (``ours``) is of another model than the fit in the file; empty if nothing says so.

    The programs of two log densities are compared where both were made in one setting. Elsewhere only priors and
    constants are, as texts.
    """
    found = [
        f'{name!r} is {ours["constants"].get(name, "absent")} where the fit has {value}'
        for name, value in theirs['constants'].items()
        if ours['constants'].get(name) != value
    ]
    comparable = theirs['setting'] == ours['setting']
    if comparable and theirs['program'] == ours['program']:
        return found
    priors = [
        f'the prior of {name!r} is {ours["priors"][name]} where the fit has {text}'
        for name, text in theirs['priors'].items()
        if ours['priors'].get(name, text) != text
    ]
    if comparable and not priors:
        priors = ['the likelihood, or other code that the log density runs, is another']
    return found + priors


def has_other_data(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether the posterior's inputs and targets are others than those that were fitted."""
    return theirs['data'] != ours['data']


def _program(posterior: Posterior, data: Any) -> str:
    """A hash of the program that computes the log density: constants are part of it, the data's values are not."""
    density = posterior.density
    jacobian = all(e.t.has_density for e in posterior.entries)
    outline = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.result_type(x)), data)
    theta = jax.ShapeDtypeStruct((density.size,), density.dtype)

    def read() -> str:
        with precision_of(density):
            run = jax.jit(lambda theta, data: density.log_density(theta, data, jacobian))
            text = run.lower(theta, outline).as_text()
        # Names of functions may change while what they compute does not.
        names: dict[str, str] = {}
        text = re.sub(r'@[\w$.]+', lambda m: names.setdefault(m.group(), f'@{len(names)}'), text)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    leaves, tree = jax.tree.flatten(outline)
    key = (provenance_of, tuple((x.shape, str(x.dtype)) for x in leaves), tree)
    return density.kept(key, read)
