"""Variational inference: guides, the ELBO, Pathfinder."""
