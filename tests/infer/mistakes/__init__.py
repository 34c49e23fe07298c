"""Tables of mistakes, one row each: `tests/infer/test_mistakes.py` runs them over the ways to fit."""
