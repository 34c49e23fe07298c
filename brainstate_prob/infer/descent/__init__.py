"""Gradient descent: MAP, deep ensembles, SWAG and MC dropout."""
