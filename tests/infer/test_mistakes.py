"""Mistakes that people make, by every way to fit: each is refused or told in plain words, none gives a wrong number.

A new mistake is one row in a table under `tests/infer/mistakes`.
"""

import importlib
import pkgutil
import re
import warnings

import pytest

from tests.infer import mistakes
from tests.infer.mistakes.row import WAYS

# JAX announces that it will refuse some of these itself.
pytestmark = pytest.mark.filterwarnings('ignore:.*requires ndarray or scalar arguments:DeprecationWarning')

ROWS = [
    row
    for module in sorted(m.name for m in pkgutil.iter_modules(mistakes.__path__) if m.name != 'row')
    for row in importlib.import_module(f'tests.infer.mistakes.{module}').ROWS
]
# Words of JAX's internals, which a user should not have to know.
INTERNAL = re.compile(
    r'Tracer|jaxpr|pjit|ConcretizationTypeError|\baval|ShapedArray|leaked|abstract (tracer )?value|\bjit-wrapped|'
    r'is not a valid JAX type|pytree'
)


def said(row, way):
    """What the library says when the mistake is made in this way to fit; where it is made earlier, in none."""
    fit, options = WAYS[way]
    with warnings.catch_warnings(), pytest.raises(row.error) as caught:
        if row.warns:  # the first of its category ends the fit: what is said before the work costs none
            warnings.simplefilter('ignore')
            warnings.simplefilter('error', row.error)
        elif row.then is not None:  # what is said of so short a fit is not asked here
            warnings.simplefilter('ignore')
        found = fit(row.make(), **{**options, **row.options})
        if row.then is not None:
            row.then(found)
    return str(caught.value)


def is_made_at_the_door(row):
    if row.warns:
        return False
    try:
        row.make()
    except row.error:
        return True
    return False


@pytest.mark.parametrize('row', ROWS, ids=[row.name for row in ROWS])
def test_mistake(row):
    for way in row.ways[:1] if is_made_at_the_door(row) else row.ways:
        message = said(row, way)
        missing = [words for words in row.words if not re.search(words, message)]
        assert not missing, f'{way}: {message!r} does not say {missing}'
        assert not INTERNAL.search(message), f'{way}: {message!r}'


def test_names_are_distinct():
    names = [row.name for row in ROWS]
    assert sorted(set(names)) == sorted(names)
