"""What the package shows: names, types, and what is imported when."""

import importlib.resources
import subprocess
import sys

import pytest

import brainstate_prob
from brainstate_prob import infer, nn, transform


def test_infer_is_there_and_imported_on_first_use():
    code = (
        'import sys, brainstate_prob as bp\n'
        "assert 'brainstate_prob.infer' not in sys.modules\n"
        "assert 'infer' in dir(bp)\n"
        'bp.infer.nuts\n'
        "assert 'brainstate_prob.infer' in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('module', [brainstate_prob, infer], ids=['brainstate_prob', 'infer'])
def test_what_is_shown_is_what_is_public(module):
    assert {name for name in dir(module) if not name.startswith('_')} == set(module.__all__)


@pytest.mark.parametrize('module', [brainstate_prob, infer, nn, transform], ids=lambda m: m.__name__)
def test_every_public_name_is_there(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'inference'"):
        brainstate_prob.inference


def test_the_package_is_typed():
    assert importlib.resources.files('brainstate_prob').joinpath('py.typed').is_file()
