"""Fingerprints of model and data, which prevent that a file is read as the fit of another model."""

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

# A prior's repr shows the values of Params that it depends on, which are fitted and not part of the model.
_VALUE = re.compile(r'\bParam\((\[[^=(]*\]|[^,()\[]*)[^,()=]*(?=[,)])')


def provenance_of(posterior: Posterior) -> dict[str, Any]:
    """The fingerprint as plain data: priors, constants of the model, data and the program of the log density.

    Programs are comparable only for equal `setting`: shapes of the data, versions and compiler options.
    """
    model, data = posterior.model, posterior.data
    if is_sharded(data):
        data = whole(data)
    states = find_states(model)
    constants = {}
    for path, value in zip(posterior.density.other_paths, data.states, strict=True):
        # Running statistics change with a fit, and random keys with every call.
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


def other_model(fitted: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The differences between the model of the posterior and that of the fit in the file.

    Programs are compared if both were made in one setting, otherwise only the texts of priors and constants.
    """
    differing = [
        f'{name!r} is {current["constants"].get(name, "absent")} where the fit has {value}'
        for name, value in fitted['constants'].items()
        if current['constants'].get(name) != value
    ]
    comparable = fitted['setting'] == current['setting']
    if comparable and fitted['program'] == current['program']:
        return differing
    priors = [
        f'the prior of {name!r} is {current["priors"][name]} where the fit has {text}'
        for name, text in fitted['priors'].items()
        if current['priors'].get(name, text) != text
    ]
    if comparable and not priors:
        priors = ['the likelihood, or other code that the log density runs, is another']
    return differing + priors


def has_other_data(fitted: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether the posterior's inputs and targets differ from the fitted ones."""
    return fitted['data'] != current['data']


def _program(posterior: Posterior, data: Any) -> str:
    """A hash of the program of the log density, including constants but not the values of the data."""
    density = posterior.density
    jacobian = all(e.t.has_density for e in posterior.entries)
    outline = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.result_type(x)), data)
    theta = jax.ShapeDtypeStruct((density.size,), density.dtype)

    def read() -> str:
        with precision_of(density):
            run = jax.jit(lambda theta, data: density.log_density(theta, data, jacobian))
            text = run.lower(theta, outline).as_text()
        # Names of functions may change without changing the computation.
        names: dict[str, str] = {}
        text = re.sub(r'@[\w$.]+', lambda m: names.setdefault(m.group(), f'@{len(names)}'), text)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    leaves, tree = jax.tree.flatten(outline)
    key = (provenance_of, tuple((x.shape, str(x.dtype)) for x in leaves), tree)
    return density.kept(key, read)
