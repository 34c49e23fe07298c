"""Laplace's approximation: curvature at a mode, its structures, the marginal likelihood."""
