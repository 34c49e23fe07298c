"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pathlib

import pytest

from tests.support.slow_rows import slow_rows

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
    for path in sorted((ROOT / 'brainstate_prob').rglob('*.py'))
    if '>>>' in path.read_text()
]


# Fits in docstrings compile for seconds each.
FITS = [name for name in MODULES if name.startswith('brainstate_prob.infer.')]


@pytest.mark.parametrize('name', slow_rows(MODULES, FITS))
def test_examples_of_module(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0, 'the module has examples that doctest does not see'
    assert result.failed == 0, 'the report is in the captured output'
