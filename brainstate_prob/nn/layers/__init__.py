"""Layers, one family per file; `brainstate_prob.nn` exports their names."""
