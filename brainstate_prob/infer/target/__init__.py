"""The Posterior, its target density, and the checks of model and data before a fit."""
