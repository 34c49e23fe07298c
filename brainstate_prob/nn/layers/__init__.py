"""Layers, one family a file; `brainstate_prob.nn` exports their names."""
