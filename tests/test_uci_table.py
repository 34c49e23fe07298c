"""The page of UCI results says what its claims need: likelihoods beside PBP's, intervals that cover."""

import json
import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'uci.md').read_text()
WAYS = ['map', 'laplace', 'ensemble', 'svi', 'sgmcmc', 'nuts']


def rows_of(name):
    """By method or published figure: splits, log-likelihood, what intervals cover, plain and conformal."""
    section = re.search(rf'## {name}\n(.*?)(?=\n## |\Z)', PAGE, re.DOTALL)[1]
    found = {}
    for line in section.strip().splitlines()[2:]:
        method, splits, _, likelihood, own, conformal, _ = (cell.strip() for cell in line.strip('|').split('|'))
        number = lambda cell: float(cell.split()[0].rstrip('%')) if cell else np.nan
        found[method] = int(splits), number(likelihood), number(own), number(conformal)
    return found


@pytest.mark.parametrize('name', ['concrete', 'energy', 'yacht', 'wine_red'])
def test_three_ways_are_as_good_as_pbp_and_cover_what_they_promise(name):
    rows = rows_of(name)
    assert [rows[way][0] for way in WAYS] == [20] * 5 + [3]
    (published,) = (likelihood for method, (_, likelihood, _, _) in rows.items() if method.startswith('*PBP'))
    covers = {way: [x for x in rows[way][2:] if 85 <= x <= 95] for way in WAYS}
    assert all(covers.values()), covers  # by its own intervals, or by conformal ones on top
    good = [way for way in WAYS if rows[way][1] >= published]
    assert len(good) >= 3 and 'nuts' in good
    assert 85 <= rows['nuts'][2] <= 95


def test_the_page_is_that_of_the_kept_results():
    results = json.loads((ROOT / 'benchmarks' / 'uci.json').read_text())
    for name in ('concrete', 'energy', 'yacht', 'wine_red'):
        for way in WAYS:
            mine = [row for key, row in results.items() if key.startswith(f'{name}/{way}/')]
            splits, likelihood, own, _ = rows_of(name)[way]
            assert len(mine) == splits
            assert abs(np.mean([row['ll'] for row in mine]) - likelihood) < 0.006
            assert abs(100 * np.mean([row['coverage'] for row in mine]) - own) < 0.06
