"""The examples of docs/interop.md run."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'interop.md'
SECTIONS = {part.split('\n')[0]: part for part in PAGE.read_text().split('\n## ')[1:]}
NEEDS = {'Flax NNX': 'flax', 'Equinox': 'equinox', 'brainstate': 'brainstate'}


@pytest.mark.filterwarnings('ignore:MAP stopped after')  # the examples are short
@pytest.mark.parametrize('title', SECTIONS)
def test_examples_of_the_section_run(title):
    if title in NEEDS:
        pytest.importorskip(NEEDS[title])
    blocks = re.findall(r'^```python\n(.*?)^```', SECTIONS[title], flags=re.M | re.S)
    assert blocks
    exec(compile('\n'.join(blocks), str(PAGE), 'exec'), {'__name__': 'page'})
