"""Markov chains and particles: NUTS, ensembles of chains, stochastic gradients, SMC."""
