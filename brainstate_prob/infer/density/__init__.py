"""The log density of a model's parameters, and what is computed from it."""
