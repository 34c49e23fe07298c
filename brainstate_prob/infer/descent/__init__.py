"""Gradient descent: the mode, ensembles, SWAG, Monte Carlo dropout."""
